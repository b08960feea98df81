"""Popularity and EASE: rivals whose solution is written down, not trained."""

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import scipy.sparse as sp
from jax.tree_util import Partial
from scipy.linalg import lapack

from model import predict
from runs.reference_models import rank_by_popularity

DENSE = 0.05  # share of entries from which a product of dense matrices is faster; synthetic users are dense
BLOCK = 8192  # LAPACK numbers entries in 32 bits, which fails from about 15,500 rows on
ITEMS_AT_ONCE, USERS_AT_ONCE = 2048, 64  # bound the memory of one product
THREADS = 4  # each has a product of its own


def popularity(rows):
    """Every item's total weight in the rows, CSR (m, I): (1, I) float32."""
    return np.asarray(rows.sum(axis=0), np.float32)


def ease(rows, l2):
    """EASE (Steck, WWW 2019): B = Id - P diag(P)^-1 with P = (X'X + l2 Id)^-1, whose diagonal is 0.

    Args:
        rows: X, CSR (m, I).
        l2: above 0.

    Returns:
        What rank_by_items takes: B, (I, I) float32, or, where `has_few_users`, a function of the context that
        gives the same scores without B. Both give NaN if the matrix to invert is not positive definite in
        double precision.
    """
    return _without_diagonal(rows, l2, np.ones(rows.shape[1]))


def edlae(rows, l2, dropout=0.5):
    """EDLAE, full rank (Steck, NeurIPS 2020): EASE's B, with a ridge that grows with an item's frequency.

    It is the limit of a linear autoencoder whose input loses a random share of its items, and whose loss
    counts these alone: P = (X'X + dropout / (1 - dropout) diag(X'X) + l2 Id)^-1.

    Args:
        rows: X, CSR (m, I).
        l2: above 0.
        dropout: the share, from 0, which is EASE, to below 1.

    Returns:
        As `ease`.
    """
    squares = np.asarray(rows.astype(np.float64).power(2).sum(axis=0)).ravel()
    return _without_diagonal(rows, l2, 1 + dropout / (1 - dropout) * squares / l2)


def _without_diagonal(rows, l2, scale):
    """What `ease` returns, for X (m, I), CSR, and a ridge of l2 * scale, whose scale is (I,)."""
    few = has_few_users(*rows.shape)
    rows = _dense_if_faster(rows.astype(np.float64))
    if few:
        return _by_users(rows, l2, scale)
    weights = _ridge_inverse(rows.T, l2 * scale)
    weights /= -np.diag(weights)
    np.fill_diagonal(weights, 0)
    return weights.astype(np.float32)


def _dense_if_faster(rows):
    return rows.toarray() if rows.nnz > DENSE * rows.shape[0] * rows.shape[1] else rows


def has_few_users(users, items):
    """Whether EASE is cheaper by a matrix of users x users than by one of items x items."""
    return 3 * users <= 2 * items  # not from users = items on: without B, the scores cost more


def _by_users(rows, l2, scale):
    """EASE's function of the context (B, I) -> scores (B, I) float32, for few rows X (m, I), CSR or dense.

    With S = diag(scale), Woodbury's identity gives l2 S P = Id - X'MXS^-1 with M = (XS^-1X' + l2 Id)^-1. With
    d the diagonal of X'MXS^-1, the scores of a context c are (c S^-1X'MX - c diag(d)) diag(1 - d)^-1.
    """
    divided = rows @ sp.diags_array(1 / scale)  # X S^-1
    inverse = _ridge_inverse(rows @ sp.diags_array(scale**-0.5), l2)
    columns = rows.T.tocsr() if sp.issparse(rows) else rows.T  # (I, m)

    def itself(start):
        block = columns[start : start + ITEMS_AT_ONCE]
        return np.einsum("im,im->i", _dense(block), block @ inverse)

    diagonal = np.concatenate(_in_threads(itself, range(0, rows.shape[1], ITEMS_AT_ONCE))) / scale
    rest = 1 - diagonal
    rest[rest < len(inverse) * np.finfo(float).eps] = np.nan  # nothing but rounding errors
    scaled = sp.diags_array(1 / rest) @ columns

    def scores(context):
        context = sp.csr_matrix(np.asarray(context), dtype=np.float64)
        found = np.empty(context.shape, np.float32)
        of_rows = inverse @ _dense(divided @ context.T)  # (m, B)

        def fill(start):
            users = slice(start, start + USERS_AT_ONCE)
            of_items, part = scaled @ of_rows[:, users], context[users].tocoo()  # (I, b), (b, I)
            of_items[part.col, part.row] -= part.data * (diagonal / rest)[part.col]
            found[users] = of_items.T

        _in_threads(fill, range(0, len(found), USERS_AT_ONCE))
        return found

    return Partial(scores)  # a tree without arrays: it stays on the host, where X can be sparse


def _dense(matrix):
    return matrix.toarray() if sp.issparse(matrix) else matrix


def _in_threads(function, values):
    """[function(value)]; scipy's products of sparse matrices take one core each."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, values))


def _ridge_inverse(rows, ridge):
    """(XX' + diag(ridge))^-1, (m, m), of X (m, I), sparse or dense; NaN if it is not positive definite.

    `ridge` is (m,), or one number.
    """
    if sp.issparse(rows):
        rows, columns = rows.tocsr(), rows.T.tocsr()
        gram = np.empty((rows.shape[0],) * 2)
        for start in range(0, len(gram), ITEMS_AT_ONCE):
            gram[start : start + ITEMS_AT_ONCE] = (rows[start : start + ITEMS_AT_ONCE] @ columns).toarray()
    else:
        gram = rows @ rows.T
    gram[np.diag_indices(len(gram))] += ridge
    if not _invert(gram):
        gram[:] = np.nan
    return gram


def _invert(matrix):
    """Inverts a symmetric matrix (n, n) in place; whether it is positive definite."""
    half = len(matrix) // 2
    if len(matrix) <= BLOCK:
        # By Cholesky, upper triangle: the fastest inverse of a symmetric matrix.
        factor, failed = lapack.dpotrf(matrix)
        upper, singular = lapack.dpotri(factor, overwrite_c=True)
        matrix[:] = np.triu(upper) + np.triu(upper, 1).T
        return not (failed or singular)
    # [[A, B], [B', C]] by the Schur complement S = C - B'A^-1 B, which is positive definite, too.
    first, mixed, last = matrix[:half, :half], matrix[:half, half:], matrix[half:, half:]
    if not _invert(first):
        return False
    solved = first @ mixed
    last -= mixed.T @ solved
    if not _invert(last):
        return False
    mixed[:] = -solved @ last
    first -= mixed @ solved.T
    matrix[half:, :half] = mixed.T
    return True


def rank_by_items(weights, context):
    """Scores (B, I) of the context (B, I) by what `ease` returns."""
    return weights(context) if callable(weights) else _product(weights, context)


@jax.jit
def _product(weights, context):
    return predict(context.astype(weights.dtype), weights)


# Add a rival of your own here: fit(rows, **setting) -> weights, rank(weights, context) -> scores (B, I). Its
# name goes to `kinds["model"]` and its settings to `grids`, both in hyper_params.py.
CLOSED_FORMS = {
    "pop": (popularity, rank_by_popularity),
    "ease": (ease, rank_by_items),
    "edlae": (edlae, rank_by_items),
}
