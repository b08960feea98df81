"""The rivals that are solved, not trained by gradient descent.

    pop      popularity
    ease     items from all other items, ridge regression (Steck, WWW 2019)
    edlae    the same, with the ridge of an autoencoder with dropout (Steck, NeurIPS 2020)
    rp3beta  random walks between items, less likely to popular ones (Paudel et al., TiiS 2017)
    svd_ae   least squares after a truncated singular value decomposition (Hong et al., IJCAI 2024)
    ials     matrix factorisation by alternating least squares (Rendle et al., RecSys 2022)

Each scores any context, of a user it was trained on or not. m rows, I items, B users in a batch.
"""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.tree_util import Partial
from scipy.linalg import lapack
from scipy.sparse.linalg import svds
from threadpoolctl import threadpool_limits

from lib.random_streams import Stream, generator
from model import BLOCK, predict
from runs.reference_models import rank_by_popularity

DENSE = 0.05  # share of entries from which a product of dense matrices is faster; synthetic users are dense
ITEMS_AT_ONCE, ROWS_AT_ONCE = 2048, 64  # bound the memory of one product
THREADS = 4  # each has a product of its own
SMALLEST = 1e-6  # singular value; the largest of a normalised matrix is 1, and a smaller one is rounding


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
            users = slice(start, start + ROWS_AT_ONCE)
            of_items, part = scaled @ of_rows[:, users], context[users].tocoo()  # (I, b), (b, I)
            of_items[part.col, part.row] -= part.data * (diagonal / rest)[part.col]
            found[users] = of_items.T

        _in_threads(fill, range(0, len(found), ROWS_AT_ONCE))
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


def rp3beta(rows, alpha, beta=0.5, neighbours=200):
    """RP3beta (Paudel et al., TiiS 2017): walks from item to user to item, less likely to popular items.

    With X's rows and columns divided by their sums, P_ui and P_iu, the weight of item j for one who has item
    i is sum_u P_iu^alpha P_uj^alpha / (popularity of j)^beta; 0 for itself, and for all but the largest.

    Args:
        rows: X, CSR (m, I).
        alpha: above 0, a power of every entry.
        beta: from 0; an item's popularity is its column's sum.
        neighbours: how many weights of every item i are kept.

    Returns:
        What rank_by_items takes: a function of the context.
    """
    rows = rows.astype(np.float64)
    frequency = _sums(rows, 0)
    to_item = sp.diags_array(1 / _sums(rows, 1)) @ rows
    to_user = (sp.diags_array(1 / frequency) @ rows.T).tocsr()  # (I, m)
    for steps in (to_item, to_user):
        steps.data **= alpha
    to_item, discount = _dense_if_faster(to_item), frequency**-beta

    def largest(start):
        walks = _dense(to_user[start : start + ROWS_AT_ONCE] @ to_item) * discount  # (b, I)
        own = np.arange(len(walks))
        walks[own, start + own] = 0
        others = np.argpartition(-walks, min(neighbours, walks.shape[1] - 1), axis=1)[:, neighbours:]
        np.put_along_axis(walks, others, 0, axis=1)
        return sp.csr_matrix(walks, dtype=np.float32)

    weights = sp.vstack(_in_threads(largest, range(0, rows.shape[1], ROWS_AT_ONCE)), "csr")
    scores = lambda context: (sp.csr_matrix(np.asarray(context), dtype=np.float32) @ weights).toarray()
    return Partial(scores)  # on the host, where the weights are sparse


def _sums(rows, axis):
    """The sums of a sparse matrix over an axis, 1 where there is nothing, so that one can divide by them."""
    sums = np.asarray(rows.sum(axis=axis)).ravel()
    return np.where(sums > 0, sums, 1)


def svd_ae(rows, dimensions=150):
    """SVD-AE (Hong et al., IJCAI 2024): least squares from normalised rows to rows, cut off at a rank.

    With N = D_u^-1/2 X D_i^-1/2, D the sums of X's rows and columns, and N = U S V' with only the largest
    singular values, a context c has the scores |c|^-1/2 c D_i^-1/2 V S^-1 U' X.

    Args:
        rows: X, CSR (m, I).
        dimensions: the rank, d; of a matrix of a lower rank, that one.

    Returns:
        What rank_by_factors takes: (I, d) and (d, I), float32.
    """
    rows = rows.astype(np.float64)
    of_items = sp.diags_array(_sums(rows, 0) ** -0.5)
    normalised = sp.diags_array(_sums(rows, 1) ** -0.5) @ rows @ of_items
    if dimensions < min(rows.shape):
        left, values, right = svds(normalised, dimensions, rng=0)
    else:
        left, values, right = np.linalg.svd(normalised.toarray(), full_matrices=False)
    kept = values > SMALLEST
    left, values, right = left[:, kept], values[kept], right[kept]
    return (of_items @ (right.T / values)).astype(np.float32), (rows.T @ left).T.astype(np.float32)


@jax.jit
def rank_by_factors(weights, context):
    """Scores (B, I) of the context (B, I) by what `svd_ae` returns."""
    first, second = weights
    context = context.astype(first.dtype)
    length = context.sum(axis=1, keepdims=True)
    return predict(predict(context / jnp.sqrt(jnp.where(length > 0, length, 1)), first), second)


def ials(rows, seed, l2, unobserved=0.1, exponent=1.0, dimensions=128, epochs=16):
    """iALS, implicit alternating least squares, as tuned by Rendle et al. (RecSys 2022).

    The scores are W H' of user factors W (m, d) and item factors H (I, d), which minimise

        sum_ui x_ui (1 - w_u h_i)^2 + unobserved sum_ui (w_u h_i)^2
        + l2 sum_u (n_u + unobserved I)^exponent |w_u|^2 + l2 sum_i (n_i + unobserved m)^exponent |h_i|^2

    with n the sums of X's rows and columns. An epoch solves for W, then for H. A context is scored with the
    factors that the first of these steps gives it, so whether the user was trained on makes no difference.

    Args:
        rows: X, CSR (m, I).
        seed: of the item factors that it starts from.
        l2: above 0.
        unobserved, exponent: from 0.
        dimensions: d.
        epochs: how many.

    Returns:
        What rank_by_items takes: a function of the context.
    """
    rows = rows.astype(np.float32)
    columns = rows.T.tocsr()
    strengths = l2, unobserved, exponent
    start = generator(seed, Stream.FACTORS).normal(size=(rows.shape[1], dimensions))
    items = (0.1 / np.sqrt(dimensions) * start).astype(np.float32)  # the paper's standard deviation
    for _ in range(epochs):
        items = als_step(columns, als_step(rows, items, *strengths), *strengths)

    def scores(context):
        context = sp.csr_matrix(np.asarray(context), dtype=np.float32)
        return als_step(context, items, *strengths) @ items.T

    return Partial(scores)


def als_step(rows, others, l2, unobserved, exponent):
    """Half an epoch of iALS: W (m, d) that is best for rows X, CSR (m, k), and the other factors H (k, d).

        w = (H' diag(x) H + unobserved H'H + l2 (n + unobserved k)^exponent Id)^-1 H'x

    Without the term of x, the matrix is diagonal in the eigenvectors of H'H for all rows at once. There, rows
    of fewer than d entries need only a matrix of that size, by Woodbury's identity. All float32.
    """
    if not np.isfinite(others).all():
        return np.full((rows.shape[0], others.shape[1]), np.nan, np.float32)
    values, basis = np.linalg.eigh(unobserved * (others.T @ others))
    values, others = np.maximum(values, 0), others @ basis
    frequency = np.asarray(rows.sum(axis=1)).ravel()
    ridge = l2 * (frequency + unobserved * rows.shape[1]) ** exponent
    found = np.zeros((rows.shape[0], others.shape[1]), np.float32)

    def solve(row):
        entries = slice(rows.indptr[row], rows.indptr[row + 1])
        root = np.sqrt(rows.data[entries])  # diag(x)^1/2
        scaled = root[:, None] * others[rows.indices[entries]]
        diagonal = values + ridge[row]
        if len(root) < len(diagonal):
            divided = scaled / diagonal
            matrix = divided @ scaled.T
            matrix[np.diag_indices(len(matrix))] += 1
            found[row] = _solve(matrix, root) @ divided
        else:
            matrix = scaled.T @ scaled
            matrix[np.diag_indices(len(matrix))] += diagonal
            found[row] = _solve(matrix, scaled.T @ root)

    with threadpool_limits(1):  # BLAS's own threads make so small matrices up to 50 times slower
        _in_threads(solve, np.flatnonzero(np.diff(rows.indptr)))
    return found @ basis.T


def _solve(matrix, target):
    """matrix^-1 target, (n,) float32; NaN if the matrix is not positive definite."""
    _, solution, failed = lapack.sposv(matrix, target, overwrite_a=True)
    return np.full_like(target, np.nan) if failed else solution


def rank_by_items(weights, context):
    """Scores (B, I) of the context (B, I) by what `ease`, `edlae`, `rp3beta` and `ials` return."""
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
    "rp3beta": (rp3beta, rank_by_items),
    "svd_ae": (svd_ae, rank_by_factors),
    "ials": (ials, rank_by_items),
}
