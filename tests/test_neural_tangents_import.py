"""lib/neural_tangents_import.py: no TensorFlow, and JAX and neural-tangents are left as they were."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from lib import neural_tangents_import

VERSIONS = " on ".join(f"{name} {importlib.metadata.version(name)}" for name in ("neural-tangents", "jax"))


def test_the_import_works_and_leaves_nothing_behind():
    code = """
import sys
import jax.core
before = set(dir(jax.core))
from lib.neural_tangents_import import EMPIRICAL, stax
assert set(dir(jax.core)) == before, "names were left on jax.core"
unwanted = {"tensorflow", "tf2jax", *EMPIRICAL} & set(sys.modules)
assert not unwanted, f"left in sys.modules: {unwanted}"
stax.serial(stax.Dense(1), stax.Relu())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"lib/neural_tangents_import.py does not fit {VERSIONS}\n{done.stderr}"


def test_the_import_is_undone_when_it_fails():
    code = """
import sys
import jax.core
before = set(dir(jax.core))
sys.modules["neural_tangents.stax"] = None
try:
    from lib import neural_tangents_import
except ImportError:
    assert set(dir(jax.core)) == before and "neural_tangents._src.empirical" not in sys.modules
else:
    raise AssertionError("it did not fail")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", neural_tangents_import.EMPIRICAL)
def test_every_module_that_is_replaced_exists(name):
    package = Path(importlib.util.find_spec("neural_tangents").origin).parent
    path = package.joinpath(*name.split(".")[1:])
    assert path.is_dir() or path.with_suffix(".py").exists(), (
        f"{VERSIONS}: there is no {name}; lib/neural_tangents_import.py need not replace it"
    )
