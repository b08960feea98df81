"""Matrices with more entries than LAPACK's 32 bits can address; `make test-large` runs them."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.large
SIZE = 16_000
SETUP = f"""
import jax, numpy as np, scipy.sparse as sp
import model
from rivals import closed_forms

size, rng = {SIZE}, np.random.default_rng(0)
jax.config.update("jax_enable_x64", True)
"""
# ∞-AE's ridge regression, whose right-hand side is the identity in runs/recommender.py.
RIDGE = """
rows = rng.random((size, 64)).astype("DTYPE")
gram = rows @ rows.T
alpha = np.asarray(jax.jit(model.ridge)(gram, rows, 0.1))
gram[np.diag_indices(size)] += 0.1 * np.trace(gram) / size
np.testing.assert_allclose(gram[::100] @ alpha, rows[::100], atol=TOLERANCE)
"""
EASE = """
rows = sp.random_array((size + 1, size), density=1e-3, format="csr", rng=rng)
found = np.eye(size, dtype=np.float32)[:50] - closed_forms.ease(rows, 5.0)[:, :50].T  # P diag(P)^-1
gram = (rows.T @ rows).tocsr()
residual = (gram @ found.T + 5 * found.T)[50:]
np.testing.assert_allclose(residual, 0, atol=1e-4)
"""
# A user of iALS with more entries than it has dimensions.
SOLVE = """
from threadpoolctl import threadpool_limits

rows, target = rng.random((size, 64)).astype(np.float32), rng.random(size).astype(np.float32)
gram = rows @ rows.T
gram[np.diag_indices(size)] += 64
with threadpool_limits(1):
    found = closed_forms._solve(gram.copy(), target)
np.testing.assert_allclose(gram @ found, target, atol=1e-3)
"""


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(RIDGE.replace("DTYPE", "float32").replace("TOLERANCE", "1e-3"), id="ridge-float32"),
        pytest.param(RIDGE.replace("DTYPE", "float64").replace("TOLERANCE", "1e-10"), id="ridge-float64"),
        pytest.param(EASE, id="ease"),
        pytest.param(SOLVE, id="ials"),
    ],
)
def test_many_rows(work):
    """In a process of its own, which the fault would end without a Python error."""
    environment = {**os.environ, "XLA_FLAGS": ""}
    command = [sys.executable, "-c", SETUP + work]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
