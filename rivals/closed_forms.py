"""Popularity and EASE: rivals whose solution is written down, not trained."""

import jax
import numpy as np
from scipy.linalg import lapack

from model import predict
from runs.reference_models import rank_by_popularity

DENSE = 0.05  # share of entries from which a product of dense matrices is faster; synthetic users are dense


def popularity(rows):
    """Every item's total weight in the rows, CSR (m, I): (1, I) float32."""
    return np.asarray(rows.sum(axis=0), np.float32)


def ease(rows, l2):
    """EASE (Steck, WWW 2019): B = Id - P diag(P)^-1 with P = (X'X + l2 Id)^-1, whose diagonal is 0.

    Args:
        rows: X, CSR (m, I).
        l2: above 0.

    Returns:
        B, (I, I) float32; NaN everywhere if X'X + l2 Id is not positive definite in double precision.
    """
    users, items = rows.shape
    rows = rows.astype(np.float64)
    if rows.nnz > DENSE * users * items:
        rows = rows.toarray()
        gram = rows.T @ rows
    else:
        gram = (rows.T @ rows).toarray()
    gram[np.diag_indices(items)] += l2
    # By Cholesky, in place, upper triangle: the fastest inverse of a symmetric matrix.
    factor, failed = lapack.dpotrf(gram, overwrite_a=True)
    inverse, singular = lapack.dpotri(factor, overwrite_c=True)
    if failed or singular:
        return np.full(gram.shape, np.nan, np.float32)
    inverse = np.triu(inverse) + np.triu(inverse, 1).T
    weights = inverse / -np.diag(inverse)
    weights[np.diag_indices(items)] = 0
    return weights.astype(np.float32)


@jax.jit
def rank_by_items(weights, context):
    """Scores (B, I) of the context (B, I) by item-item weights (I, I)."""
    return predict(context.astype(weights.dtype), weights)


# Add a rival of your own here: fit(rows, **setting) -> weights, rank(weights, context) -> scores (B, I). Its
# name goes to `kinds["model"]` and its settings to `grids`, both in hyper_params.py.
CLOSED_FORMS = {"pop": (popularity, rank_by_popularity), "ease": (ease, rank_by_items)}
