"""Products with a matrix that is mostly 0, such as users' interactions, by JAX's kernels for one CPU device.

The time of a product is that of the entries, a few percent of the dense one's. XLA does not divide such
matrices among devices; on a GPU it would gather a row for every entry. Both take dense matrices instead.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCSR

from lib.devices import few_sizes


class Places(NamedTuple):
    """Where a matrix (B, I) has its N entries, in the order of its rows; N' with those of the padding."""

    row: jax.Array  # (N',) int32; of the padding, B
    column: jax.Array  # (N',) int32; of the padding, 0
    row_starts: jax.Array  # (B + 1,) int32, as in CSR
    by_column: jax.Array  # (N',) int32: the entries in the order of the columns
    column_starts: jax.Array  # (I + 1,) int32


SPARSE = 0.08  # share of entries below which sparse products are faster


def suits(mesh, entries, shape):
    """Whether products with matrices of this shape and so many entries are faster as sparse ones."""
    on_one_cpu = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
    return on_one_cpu and entries < SPARSE * shape[0] * shape[1]


def places(matrix, expected=0):
    """The Places of a SciPy CSR matrix (B, I), as NumPy arrays.

    Args:
        expected: entries, for which there is room at least: each size N' is compiled anew.
    """
    count, rows = matrix.nnz, matrix.shape[0]
    pad = partial(np.pad, pad_width=(0, few_sizes(max(count, int(expected), 1)) - count))
    row = np.repeat(np.arange(rows, dtype=np.int32), np.diff(matrix.indptr))
    number = type(matrix)((np.arange(count, dtype=np.int32), matrix.indices, matrix.indptr), matrix.shape)
    by_column = number.tocsc()
    return Places(
        pad(row, constant_values=rows),
        pad(matrix.indices.astype(np.int32)),
        matrix.indptr.astype(np.int32),
        pad(by_column.data),
        by_column.indptr.astype(np.int32),
    )


def _by_rows(places, values, dense):
    shape = len(places.row_starts) - 1, len(places.column_starts) - 1
    return BCSR((values, places.column, places.row_starts), shape=shape) @ dense


def _by_columns(places, values, dense):
    shape = len(places.column_starts) - 1, len(places.row_starts) - 1
    order = places.by_column
    return BCSR((values[order], places.row[order], places.column_starts), shape=shape) @ dense


@jax.custom_vjp
def product(places, dense):
    """The matrix of ones at the places, (B, I), times a dense one, (I, S): (B, S)."""
    return _by_rows(places, jnp.ones(places.row.shape, dense.dtype), dense)


def _derivative_of_product(places, change):
    return None, _by_columns(places, jnp.ones(places.row.shape, change.dtype), change)


product.defvjp(lambda places, dense: (product(places, dense), places), _derivative_of_product)


@jax.custom_vjp
def entries_of_product(left, right, some):
    """left (B, S) times right (S, I), at each of several Places: a list of (N',), 0 for the padding.

    The derivative is sparse products; those of the whole product would be two more dense ones.
    """
    whole = jnp.matmul(left, right, precision="highest")
    return [whole.at[places.row, places.column].get(mode="fill", fill_value=0) for places in some]


def _derivative_of_entries(kept, changes):
    left, right, some = kept
    of_left = sum(_by_rows(places, change, right.T) for places, change in zip(some, changes))
    of_right = sum(_by_columns(places, change, left) for places, change in zip(some, changes))
    return of_left, of_right.T, None


entries_of_product.defvjp(
    lambda left, right, some: (entries_of_product(left, right, some), (left, right, some)),
    _derivative_of_entries,
)


def sums_of_rows(places, values):
    """The sum of each row's entries, (B,), of values (N',)."""
    rows = len(places.row_starts) - 1
    return jax.ops.segment_sum(values, places.row, rows, indices_are_sorted=True)
