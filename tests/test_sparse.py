"""lib/sparse.py: products with sparse matrices and their derivatives, against dense ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from lib import devices, sparse


@pytest.fixture(params=[(6, 9, 0.3), (9, 6, 0.1), (5, 7, 0.0)])
def matrix(request):
    """A random matrix of ones; some rows and columns are empty."""
    rows, columns, share = request.param
    return (np.random.default_rng(rows).random((rows, columns)) < share).astype(np.float32)


def test_places_are_those_of_the_entries_by_row_and_by_column(matrix):
    places, count = sparse.places(sp.csr_matrix(matrix)), int(matrix.sum())
    row, column = np.nonzero(matrix)
    assert places.row[:count].tolist() == row.tolist() and (places.row[count:] == len(matrix)).all()
    assert places.column[:count].tolist() == column.tolist()
    order = places.by_column[:count]
    column, row = np.nonzero(matrix.T)
    assert places.column[order].tolist() == column.tolist() and places.row[order].tolist() == row.tolist()
    assert places.column_starts.tolist() == [0, *np.cumsum(matrix.sum(axis=0)).astype(int)]


def test_a_product_and_its_derivative(matrix):
    rng, places = np.random.default_rng(0), sparse.places(sp.csr_matrix(matrix))
    dense, change = (jnp.asarray(rng.random((size, 4)), jnp.float32) for size in matrix.shape[::-1])
    forms = lambda dense: sparse.product(places, dense), lambda dense: matrix @ dense
    for form in (lambda form: form(dense), lambda form: jax.grad(lambda d: (form(d) * change).sum())(dense)):
        np.testing.assert_allclose(*map(form, forms), rtol=1e-5, atol=1e-7)


def test_entries_of_a_product_their_sums_and_derivatives(matrix):
    rng = np.random.default_rng(1)
    other = rng.random(matrix.shape) < 0.5
    some = [sparse.places(sp.csr_matrix(part.astype(np.float32))) for part in (matrix, other)]
    left, right = rng.random((len(matrix), 3)), rng.random((3, matrix.shape[1]))
    left, right = jnp.asarray(left, jnp.float32), jnp.asarray(right, jnp.float32)

    def by_entries(left, right):
        entries = sparse.entries_of_product(left, right, some)
        first, second = (sparse.sums_of_rows(*each) for each in zip(some, entries))
        return first**2 + 2 * second**2

    def by_all(left, right):
        first, second = ((left @ right * part).sum(axis=1) for part in (matrix, other))
        return first**2 + 2 * second**2

    def values_and_slopes(form):
        total = lambda left, right: (form(left, right).sum(), form(left, right))
        slopes, values = jax.jit(jax.grad(total, (0, 1), has_aux=True))(left, right)
        return values, *slopes

    (values, *given_slopes), (all_values, *slopes) = map(values_and_slopes, (by_entries, by_all))
    np.testing.assert_allclose(values, all_values, rtol=1e-5)
    for given, expected in zip(given_slopes, slopes):
        np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)


def test_they_are_for_few_entries_on_one_cpu_device():
    mesh = devices.start(False)
    assert sparse.suits(mesh, 7, (10, 10)) and not sparse.suits(mesh, 9, (10, 10))
