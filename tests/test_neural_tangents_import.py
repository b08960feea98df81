"""neural-tangents is imported without TensorFlow, on a JAX it was not written for, and both libraries are left as they were."""

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
assert not {"tensorflow", "tf2jax", *EMPIRICAL} & set(sys.modules), "stand-ins, or TensorFlow, were left in sys.modules"
stax.serial(stax.Dense(1), stax.Relu())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, (
        f"{VERSIONS}: lib/neural_tangents_import.py has to follow a change of either\n{done.stderr}"
    )


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
def test_what_the_stand_ins_stand_for_exists(name):
    package = Path(importlib.util.find_spec("neural_tangents").origin).parent
    path = package.joinpath(*name.split(".")[1:])
    assert path.is_dir() or path.with_suffix(".py").exists(), (
        f"{VERSIONS}: there is no {name} any more; lib/neural_tangents_import.py needs no stand-in for it"
    )
