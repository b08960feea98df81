"""∞-AE and Distill-CF as pure functions, in the paper's order: kernel, ridge regression, sampling, loss.

Sachdeva, Dhaliwal, Wu, McAuley, "Infinite Recommendation Networks: A Data-Centric Approach",
NeurIPS 2022, https://arxiv.org/abs/2206.02626. Letters in the docstrings:

    U users, I items, S synthetic users, B users of a batch, n Gumbel draws of a synthetic user,
    X the rows the model is trained on (m of them), T the rows to predict for, lamda the ridge strength.

Distill-CF's objective (equation 4) is put together from these in distill.make_loss. All can be jitted and
differentiated. What goes beyond the paper stands under "Extensions".
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve

from lib import sparse
from lib.neural_tangents_import import InfiniteKernel, stax
from lib.threefry import one_pass

# A GPU's default (TF32) rounds products to 10 bits, after which a kernel is no longer positive definite.
PRECISION = "highest"
BIAS = 0.1  # b_std
BLOCK = 8192  # LAPACK numbers entries in 32 bits: in float64, Cholesky crashes from about 15,500 rows on


class Kernel:
    """The neural tangent kernel of `Flatten, (Dense, Relu) x depth, Dense`, infinitely wide (section 3).

    Args:
        depth: hidden layers, each with W_std = sqrt(2) and b_std = 0.1. With 0, the kernel is linear.
        normalize: scale every row to the norm sqrt(I) first (the paper: False). An empty row stays empty.
        item_weights: (I,), multiplied into every row before that, or None (the paper).
    """

    def __init__(self, depth, normalize, item_weights=None):
        self._depth, self._normalize, self._item_weights = depth, normalize, item_weights
        dense = stax.Dense(1, W_std=2**0.5, b_std=BIAS)  # the width does not enter the closed form
        _, _, self._closed_form = stax.serial(*(dense, stax.Relu()) * depth, dense)
        weights = None if item_weights is None else np.asarray(item_weights).tobytes()
        self._value = depth, bool(normalize), weights

    def __eq__(self, other):  # equal kernels share what jit has compiled
        return type(other) is type(self) and self._value == other._value

    def __hash__(self):
        return hash(self._value)

    def __call__(self, rows, columns=None):
        """The kernel of rows (m, I) and columns (k, I) or, where these are None, the rows again: (m, k)."""
        if columns is None:
            return _gram(self._weighted(rows), self._depth, self._normalize)
        rows, columns = self._weighted(rows), self._weighted(columns)
        products = jnp.matmul(rows, columns.T, precision=PRECISION)
        return self._of_products(products, (rows**2).sum(axis=1), (columns**2).sum(axis=1), rows.shape[1])

    def of_part(self, part, items, columns):
        """The kernel of rows that are 0 but at some items: their values there, (B, J), and columns (S, I)."""
        whole = self._weighted(columns)
        part = part * self._weights(columns)[items]
        products = jnp.matmul(part, whole[:, items].T, precision=PRECISION)
        return self._of_products(products, (part**2).sum(axis=1), (whole**2).sum(axis=1), columns.shape[1])

    def of_places(self, places, columns):
        """The kernel of rows (B, I) that are 1 at lib.sparse.Places, else 0, and columns (S, I)."""
        square = self._weights(columns)[:, None] ** 2
        products = sparse.product(places, square * columns.T)
        of_columns = (self._weighted(columns) ** 2).sum(axis=1)
        return self._of_products(products, sparse.product(places, square)[:, 0], of_columns, len(square))

    def _weights(self, rows):
        """The items' weights, (I,), in the precision of rows (m, I)."""
        weights = self._item_weights
        return jnp.ones(rows.shape[1], rows.dtype) if weights is None else jnp.asarray(weights, rows.dtype)

    def _weighted(self, rows):
        return rows if self._item_weights is None else rows * self._weights(rows)

    def _of_products(self, products, of_rows, of_columns, items):
        """The kernel (B, S) of weighted rows by their inner products (B, S) and squared norms (B,), (S,)."""
        if self._normalize:
            factors, factors_of_columns = _factors(of_rows, items), _factors(of_columns, items)
            products = factors[:, None] * products * factors_of_columns
            of_rows, of_columns = factors**2 * of_rows, factors_of_columns**2 * of_columns
        covariances = InfiniteKernel(
            nngp=products / items,
            ntk=jnp.zeros((), products.dtype),
            cov1=of_rows / items,
            cov2=of_columns / items,
            x1_is_x2=False,
            is_gaussian=False,
            is_reversed=False,
            is_input=True,
            diagonal_batch=True,
            diagonal_spatial=False,
            shape1=(len(of_rows), items),
            shape2=(len(of_columns), items),
            batch_axis=0,
            channel_axis=1,
            mask1=None,
            mask2=None,
        )
        return self._closed_form(covariances, get="ntk")


def ridge(gram, labels, lamda):
    """Kernel ridge regression: alpha = (K + lamda tr(K)/m Id)^-1 Y, (m, I), by Cholesky.

    Args:
        gram: K(X, X), (m, m).
        labels: Y, (m, I). ∞-AE uses X itself.
        lamda: strength relative to the mean of K's diagonal.

    Returns:
        alpha; NaN everywhere if the regularised kernel is not positive definite.
    """
    m = gram.shape[0]
    with jax.default_matmul_precision(PRECISION):
        regularised = gram + lamda * jnp.trace(gram) / m * jnp.eye(m, dtype=gram.dtype)
        return _solve(regularised, labels)


def _solve(matrix, right):
    """matrix^-1 right, (m, k), of a positive definite matrix (m, m); NaN everywhere if it is not."""
    half = len(matrix) // 2
    if len(matrix) <= BLOCK or matrix.dtype != jnp.float64:
        # Not cho_factor and cho_solve: the derivative of `solve` is one more solve.
        return solve(matrix, right, assume_a="pos")
    # [[A, B], [B', C]] by the Schur complement S = C - B'A^-1 B, which is positive definite, too.
    mixed = matrix[:half, half:]
    both = _solve(matrix[:half, :half], jnp.concatenate([mixed, right[:half]], axis=1))
    solved, first = jnp.split(both, [mixed.shape[1]], axis=1)
    last = _solve(matrix[half:, half:] - mixed.T @ solved, right[half:] - mixed.T @ first)
    return jnp.concatenate([first - solved @ last, last])


def ridge_factors(gram, cross, labels, lamda):
    """Two factors whose product is the scores of `ridge`, K(T, X) alpha, (B, I): (B, m) and (m, I).

    `ridge` solves for the rows of T instead where they are fewer than the items.

    Args:
        gram, labels, lamda: as for `ridge`.
        cross: K(T, X), (B, m).
    """
    if len(cross) < labels.shape[1]:
        return ridge(gram, cross.T, lamda).T, labels
    return cross, ridge(gram, labels, lamda)


def predict(cross, alpha):
    """Scores K(T, X) alpha, (B, I), from the cross kernel (B, m) and alpha (m, I)."""
    return jnp.matmul(cross, alpha, precision=PRECISION)


def sample(key, logits, tau, draws, noise_groups):
    """Synthetic users clip(sum over n draws softmax((L_s + g) / tau), 0, 1), g standard Gumbel (section 4).

    Args:
        key: a jax.random key.
        logits: L, (S, I).
        tau: temperature, a Python number above 0.
        draws: n.
        noise_groups: groups of neighbouring users that share their n rows of noise, from 1 to S (the paper:
            every user has noise of its own). Each user's draws keep their distribution.

    Returns:
        X_syn, (S, I) in [0, 1]. Memory is that of one group's noise, n x I numbers.
    """
    users, items = logits.shape
    size = -(-users // noise_groups)
    groups = -(-users // size)  # 500 users in 300 groups are 250 pairs: never fewer users to share with

    def sample_group(key, logits):
        noise = jax.random.gumbel(one_pass(key), (draws, items), logits.dtype)
        return _sum_of_draws(noise, logits, tau)

    keys = jax.random.split(key, groups)
    if groups == 1:
        sums = sample_group(keys[0], logits)
    else:
        padded = jnp.pad(logits, ((0, groups * size - users), (0, 0))).reshape(groups, size, items)
        # The backward pass makes the noise again rather than keeping every group's.
        again = jax.checkpoint(sample_group)
        sums = jax.lax.map(lambda group: again(*group), (keys, padded))
    return jnp.clip(sums.reshape(-1, items)[:users], 0, 1)


def cross_entropy(scores, targets, hidden, discount, scale=1.0, counts=1):
    """- sum over targets of log softmax(scale scores), divided by (number of targets)^discount; (B,).

    Args:
        scores: (B, I).
        targets: (B, I) of 0 and 1. A user without targets gets 0.
        hidden: None, or boolean (B, I), never true where targets is: items that are not ranked.
        discount: 0 (the paper): a user weighs as much as their interactions; 1: every user weighs the same.
        scale: 1 (the paper). Ridge regression's scores are below 0.1, where a softmax is nearly linear.
        counts: (I,) how many items a column stands for: 1 where it is a target of a user, or hidden. Or 1.
    """
    targets, scores = targets.astype(scores.dtype), scale * scores
    below, top = _below_the_top(scores, hidden)
    count, total = targets.sum(axis=1), (counts * jnp.exp(below)).sum(axis=1)
    log_total = jnp.log(jnp.where(count > 0, total, 1)) + top[:, 0]
    return (count * log_total - (targets * scores).sum(axis=1)) / jnp.maximum(count, 1) ** discount


@partial(jax.jit, static_argnums=0)
def _jitted_gram(kernel, rows):
    return kernel(rows)


_jitted_ridge = jax.jit(ridge)


def fit(kernel, rows, lamdas):
    """Trains ∞-AE on rows X, (m, I), with every lamda: [alpha (m, I)]. The kernel is built once."""
    gram = _jitted_gram(kernel, rows)
    return [_jitted_ridge(gram, rows, lamda) for lamda in lamdas]


# ---- Extensions: what the paper does not have, or does otherwise ---------------------------------------


BISECTIONS = 24  # until 2^-24, the precision of a number near 1
TIE = 2.0**-12  # among weights that differ by less, the first go first; a byte does not tell them apart


def keep_largest(weights, count):
    """The weights (S, I), not negative, at most 1, and 0 but for the `count` largest, or slightly fewer."""
    weights = jnp.clip(weights, 0, 1)
    place = jnp.arange(weights.size, dtype=weights.dtype).reshape(weights.shape)
    ranked = jnp.where(weights > 0, weights + TIE * (1 - place / weights.size), 0)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        few = (ranked > middle).sum() <= count
        return jnp.where(few, low, middle), jnp.where(few, middle, high)

    bounds = jnp.array([0, 1 + TIE], weights.dtype)
    _, threshold = jax.lax.fori_loop(0, BISECTIONS, halve, (bounds[0], bounds[1]))
    return jnp.where(ranked > threshold, weights, 0)


def to_bytes(weights):
    """Weights from 0 to 1, rounded to multiples of 1 / 255."""
    return jnp.round(255 * weights) / 255


def _factors(square, items):
    """What scales rows with these squared norms, (m,), to the norm sqrt(I); of an empty row, any number."""
    return jnp.sqrt(items / jnp.where(square > 0, square, 1))


def _gram(rows, depth, normalize):
    """The kernel of rows (m, I) with themselves, (m, m), exact also where rows point nearly the same way.

    The closed form takes sqrt(1 - cos^2) of two rows. Where synthetic users start, that is 1e-3 to 1e-2, and
    cos^2 is rounded by 1e-7 and more: the kernel may not be positive definite then. Here the angle comes
    from the distance of the rows' directions, measured from their mean; it is exact near that mean. For rows
    that coincide far from the mean, the angle may be 3e-4 of their distance to it instead of 0.
    """
    square, items = (rows**2).sum(axis=1), rows.shape[1]
    factors = _factors(square, items) if normalize else jnp.ones_like(square)
    length = jnp.sqrt(2 * square * factors**2 / items + BIAS**2)
    # The bias is one more coordinate, the same for all rows.
    bias = BIAS / length
    bias -= bias.mean()
    products = _centred_products(rows, (2 / items) ** 0.5 * factors / length) + bias[:, None] * bias
    square = products.diagonal()
    # Squared distance of the directions.
    distance = jnp.maximum(square[:, None] + square - 2 * products, 0)
    distance = jnp.where(jnp.eye(len(rows), dtype=bool), 0, distance)

    lengths = length[:, None] * length
    covariance = lengths * (1 - distance / 2)
    apart = (length[:, None] - length) ** 2 + lengths * distance  # squared distance, q_a + q_b - 2 k
    determinant = lengths**2 * distance * (1 - distance / 4)  # q_a q_b - k^2
    tangent = covariance
    for _ in range(depth):
        # The arc-cosine recursion (Cho and Saul 2009). A layer adds b_std^2 to q, excess + b_std^2 to k.
        parallel = determinant <= 0  # there the root has no derivative
        sine = jnp.where(parallel, 0, jnp.sqrt(jnp.where(parallel, 1, determinant)))
        angle = jnp.arctan2(sine, covariance)
        excess = (sine - angle * covariance) / jnp.pi
        determinant += BIAS**2 * apart - 2 * excess * (covariance + BIAS**2) - excess**2
        covariance, apart = covariance + excess + BIAS**2, apart - 2 * excess
        tangent = covariance + (1 - angle / jnp.pi) * tangent
    return tangent


@jax.custom_vjp
def _centred_products(rows, factors):
    """C C' (m, m), of C = factor * row less the mean of these: rows (m, I), factors (m,).

    The derivative is one product and no further pass over (m, I), where automatic differentiation has
    several: all else that it needs are numbers of (m, m).
    """
    return _centred_products_and_what_their_derivative_needs(rows, factors)[0]


def _centred_products_and_what_their_derivative_needs(rows, factors):
    mean = jnp.matmul(factors / len(rows), rows, precision=PRECISION)
    centred = factors[:, None] * rows - mean
    products = jnp.matmul(centred, centred.T, precision=PRECISION)
    return products, (products, centred, mean, factors)


def _derivative_of_centred_products(kept, change):
    products, centred, mean, factors = kept
    change = change + change.T
    change -= change.mean(axis=0)
    # A row is (its centred row + the mean) / its factor.
    along = products + jnp.matmul(centred, mean, precision=PRECISION)[:, None]
    of_rows = jnp.matmul(factors[:, None] * change, centred, precision=PRECISION)
    return of_rows, (change * along.T).sum(axis=1) / factors


_centred_products.defvjp(_centred_products_and_what_their_derivative_needs, _derivative_of_centred_products)


# Below this temperature exp(gumbel / tau) leaves float32 (a Gumbel reaches 16; exp(88) is the end).
SMALLEST_TAU_FOR_PRODUCTS = 0.5


def _sum_of_draws(gumbels, logits, tau):
    """Sum over n draws of softmax((L_s + g) / tau), (s, I), of users who share their noise (n, I)."""
    form = _sum_of_draws_by_products if tau >= SMALLEST_TAU_FOR_PRODUCTS else _sum_of_draws_by_softmax
    return form(gumbels, logits, tau)


def _sum_of_draws_by_products(gumbels, logits, tau):
    """The sum as matrix products: W * (Z^-1 E) with W = exp(L / tau), E = exp(g / tau), Z = W E'.

    A draw is W_s * E_k / <W_s, E_k>. Neither the sum nor its derivative ever holds (s, n, I) numbers.
    """
    weights = jnp.exp((logits - jax.lax.stop_gradient(logits.max(axis=1, keepdims=True))) / tau)
    noise = jnp.exp(gumbels / tau)
    totals = jnp.matmul(weights, noise.T, precision=PRECISION)  # Z, (s, n)
    return weights * jnp.matmul(1 / totals, noise, precision=PRECISION)


def _sum_of_draws_by_softmax(gumbels, logits, tau):
    """The sum draw by draw, through a log-sum-exp that no temperature overflows."""
    draw = jax.checkpoint(lambda logits, gumbel: jax.nn.softmax((logits + gumbel) / tau))
    add = lambda total, gumbel: (total + draw(logits, gumbel), None)
    return jax.lax.scan(add, jnp.zeros_like(logits), gumbels)[0]


def _below_the_top(scores, hidden):
    """(scores less the largest ranked one, -inf where hidden, (B, I); the largest, a constant, (B, 1))."""
    ranked = scores if hidden is None else jnp.where(hidden, -jnp.inf, scores)
    # Where all is hidden, the largest is no number to subtract.
    smallest = jnp.finfo(scores.dtype).min
    top = jax.lax.stop_gradient(jnp.maximum(ranked.max(axis=1, keepdims=True), smallest))
    return ranked - top, top


def generalized_cross_entropy(scores, targets, hidden, discount, scale=1.0, power=0.5, counts=1):
    """- sum over targets of p^power / power, p = softmax(scale scores), with `discount` as above; (B,).

    Zhang and Sabuncu, "Generalized cross entropy loss for training deep neural networks with noisy labels",
    NeurIPS 2018, but for a constant. A target pulls p^power times as hard as in `cross_entropy`: targets that
    no interaction of the user speaks for are let go.

    Args:
        scores, targets, hidden, discount, scale, counts: as for `cross_entropy`.
        power: q, in (0, 1]. Towards 0 it becomes the cross entropy.
    """
    targets, scores = targets.astype(scores.dtype), scale * scores
    below, _ = _below_the_top(scores, hidden)
    count, total = targets.sum(axis=1), (counts * jnp.exp(below)).sum(axis=1)
    gain = (targets * jnp.exp(power * below)).sum(axis=1) / jnp.where(count > 0, total, 1) ** power
    return -gain / power / jnp.maximum(count, 1) ** discount


def squared_error(scores, targets, hidden, discount, scale=1.0, square=None):
    """Sum over items of (scale scores - targets)^2, divided by (number of targets)^discount; (B,).

    A softmax also tells apart items that nobody would be shown. This loss is mostly about the largest scores.

    Args:
        scores, targets, hidden, discount: as for `cross_entropy`. Hidden items do not count.
        scale: of the scores. A large scale shrinks all scores: it regularises.
        square: (B,) `sum_of_squares` over all items, where only some have a column; or None.
    """
    targets = targets.astype(scores.dtype)
    if square is None:
        square = ((scores if hidden is None else jnp.where(hidden, 0, scores)) ** 2).sum(axis=1)
    elif hidden is not None:
        square -= (jnp.where(hidden, scores, 0) ** 2).sum(axis=1)
    return _squared_error_of_sums(
        square, (targets * scores).sum(axis=1), targets.sum(axis=1), discount, scale
    )


def _squared_error_of_sums(square, of_targets, count, discount, scale):
    """`squared_error` by sums of each user's scores, (B,) each.

    Args:
        square: of the squares of the ranked items' scores.
        of_targets: of the targets' scores.
        count: how many targets there are.
    """
    error = scale**2 * square - 2 * scale * of_targets + count
    return jnp.where(count > 0, error, 0) / jnp.maximum(count, 1) ** discount


def squared_error_of_places(left, right, some, parts, discount, scale=1.0):
    """`squared_error`, (B,), from the scores of the users' interactions and the Gram matrix of right.

    Args:
        left, right: factors of the scores, (B, S) and (S, I).
        some: (S, J) of right, the items in which `parts` count.
        parts: lib.sparse.Places of the targets, last, and before them of what is hidden.
    """
    *hidden, (targets, scores) = zip(parts, sparse.entries_of_product(left, some, parts))
    square = sum_of_squares(left, right)
    for places, of_hidden in hidden:
        square -= sparse.sums_of_rows(places, of_hidden**2)
    count = jnp.diff(targets.row_starts).astype(left.dtype)
    of_targets = sparse.sums_of_rows(targets, scores)
    return _squared_error_of_sums(square, of_targets, count, discount, scale)


def sum_of_squares(left, right):
    """Sum over the I items of the squared scores `left right`, (B,), of factors (B, S) and (S, I)."""
    gram = jnp.matmul(right, right.T, precision=PRECISION)
    return (jnp.matmul(left, gram, precision=PRECISION) * left).sum(axis=1)


# Add a loss of your own here, and its name to `kinds["loss"]` in hyper_params.py.
LOSSES = {"softmax": cross_entropy, "generalized": generalized_cross_entropy, "squared": squared_error}
