"""∞-AE and Distill-CF as pure functions: kernel, ridge regression, Gumbel sampling, loss.

Sachdeva, Dhaliwal, Wu, McAuley, "Infinite Recommendation Networks: A Data-Centric Approach",
NeurIPS 2022, https://arxiv.org/abs/2206.02626. Letters in the docstrings:

    U users, I items, S synthetic users, B users of a batch, n Gumbel draws of a synthetic user,
    X the rows the model is trained on, T the rows it is asked about, lamda the ridge strength.

Everything here can be jitted and differentiated, and reads no setting that it is not given.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve

from lib.neural_tangents_import import stax

# A GPU's default (TF32) rounds products to 10 bits, after which a kernel is no longer positive definite.
PRECISION = "highest"
BIAS = 0.1  # b_std
# Below this temperature exp(gumbel / tau) leaves float32 (a gumbel reaches 16; exp(88) is the end).
SMALLEST_TAU_FOR_PRODUCTS = 0.5


class Params(NamedTuple):
    """What Distill-CF learns: logits (S, I), and the logarithm of lamda (used when lamda is learned)."""

    logits: jax.Array
    log_lamda: jax.Array


def _row_sums(rows):
    """(B, I) -> (B,). As a product with ones: on a CPU several times faster than XLA's reduction."""
    return jnp.matmul(rows, jnp.ones(rows.shape[1], rows.dtype), precision=PRECISION)


def make_kernel(depth, normalize, item_weights=None):
    """The neural tangent kernel of the ∞-AE.

    The network is `Flatten, (Dense, Relu) x depth, Dense` of infinite width with W_std = sqrt(2),
    b_std = 0.1 (section 3 of the paper).

    Args:
        depth: hidden layers; with 0 the network, and its kernel, is linear.
        normalize: scale every row to the norm sqrt(I) first, so that long histories weigh no more
            than short ones; an empty row stays empty. False is the paper's choice.
        item_weights: (I,), by which every row is multiplied before that; None, the paper's choice, for ones.

    Returns:
        kernel(rows (m, I), columns (k, I) or None for the rows again) -> (m, k).
    """
    dense = stax.Dense(1, W_std=2**0.5, b_std=BIAS)  # the width does not enter the closed form
    _, _, kernel_fn = stax.serial(stax.Flatten(), *(dense, stax.Relu()) * depth, dense)

    def scale(rows):
        rows = rows if item_weights is None else rows * jnp.asarray(item_weights, rows.dtype)
        square = _row_sums(rows**2)[:, None]
        return rows * jnp.sqrt(rows.shape[1] / jnp.where(square > 0, square, 1)) if normalize else rows

    def kernel(rows, columns=None):
        with jax.default_matmul_precision(PRECISION):
            return (
                _gram(scale(rows), depth)
                if columns is None
                else kernel_fn(scale(rows), scale(columns), get="ntk")
            )

    return kernel


def _gram(rows, depth):
    """The same kernel of rows (m, I) with themselves, (m, m), for rows that all point nearly the same way.

    The closed form takes sqrt(1 - cos^2) of two rows: where synthetic users start, that is 1e-3 to 1e-2, and rounding of cos^2, 1e-7 and more,
    may leave no positive definite kernel. Here the angle comes from the distance of the rows' directions, measured from their mean: it is as
    exact as they are near that. Of rows that coincide far from it, the angle may be 3e-4 of their distance to it instead of 0.
    """
    variance = 2 * _row_sums(rows**2) / rows.shape[1] + BIAS**2
    length, own = jnp.sqrt(variance), jnp.eye(len(rows), dtype=bool)
    # The bias is one more coordinate, the same for all rows.
    directions, bias = rows * ((2 / rows.shape[1]) ** 0.5 / length)[:, None], BIAS / length
    directions, bias = directions - directions.mean(axis=0), bias - bias.mean()
    square = _row_sums(directions**2) + bias**2
    products = directions @ directions.T + bias[:, None] * bias
    distance = jnp.where(
        own, 0, jnp.maximum(square[:, None] + square - 2 * products, 0)
    )  # squared, of the directions

    lengths = length[:, None] * length
    covariance = lengths * (1 - distance / 2)
    apart = (
        length[:, None] - length
    ) ** 2 + lengths * distance  # squared distance of the rows, q_a + q_b - 2 k
    determinant = lengths**2 * distance * (1 - distance / 4)  # q_a q_b - k^2
    tangent = covariance
    for _ in range(depth):
        # The arc-cosine recursion (Cho and Saul 2009). A layer's q is q + b_std^2, its k what is below; the rest follows from these.
        parallel = determinant <= 0  # there the root has no derivative, and what it stands in none by it
        sine = jnp.where(parallel, 0, jnp.sqrt(jnp.where(parallel, 1, determinant)))
        angle = jnp.arctan2(sine, covariance)
        excess = (sine - angle * covariance) / jnp.pi
        determinant += BIAS**2 * apart - 2 * excess * (covariance + BIAS**2) - excess**2
        covariance, apart = covariance + excess + BIAS**2, apart - 2 * excess
        tangent = covariance + (1 - angle / jnp.pi) * tangent
    return tangent


def ridge(gram, labels, lamda):
    """Kernel ridge regression, alpha = (K + lamda tr(K)/m Id)^-1 Y, by Cholesky.

    Args:
        gram: K(X, X), (m, m).
        labels: Y, (m, I); the ∞-AE uses X itself.
        lamda: strength relative to the mean of K's diagonal.

    Returns:
        alpha, (m, I); NaN everywhere if the regularised kernel is not positive definite.
    """
    m = gram.shape[0]
    with jax.default_matmul_precision(PRECISION):
        # Not cho_factor and cho_solve: this one's derivative is one more solve, not that of the factorisation.
        return solve(
            gram + lamda * jnp.trace(gram) / m * jnp.eye(m, dtype=gram.dtype), labels, assume_a="pos"
        )


def predict(cross, alpha):
    """Scores (B, I) from the cross kernel K(T, X) (B, m) and alpha (m, I)."""
    return jnp.matmul(cross, alpha, precision=PRECISION)


def _sum_of_draws_by_products(gumbels, logits, tau):
    """Sum of the softmax draws as matrix products: W * (Z^-1 E) with Z = W E'; (s, I).

    One draw is W_s * E_k / <W_s, E_k> with W = exp(logits / tau), E = exp(gumbels / tau), so the users
    of a group share E, and neither this nor its derivative ever holds (s, n, I).
    """
    weights = jnp.exp((logits - jax.lax.stop_gradient(logits.max(axis=1, keepdims=True))) / tau)
    noise = jnp.exp(gumbels / tau)
    totals = jnp.matmul(weights, noise.T, precision=PRECISION)  # Z, (s, n)
    return weights * jnp.matmul(1 / totals, noise, precision=PRECISION)


def _sum_of_draws_by_softmax(gumbels, logits, tau):
    """The same sum draw by draw, through a log-sum-exp that no temperature overflows; (s, I)."""
    draw = jax.checkpoint(lambda logits, gumbel: jax.nn.softmax((logits + gumbel) / tau))
    add = lambda total, gumbel: (total + draw(logits, gumbel), None)
    return jax.lax.scan(add, jnp.zeros_like(logits), gumbels)[0]


def sample(key, logits, tau, draws, noise_groups):
    """Synthetic users: clip(sum over n draws of softmax((L_s + g) / tau), 0, 1), g standard Gumbel.

    Users are cut into groups of neighbours, and a group shares its n rows of noise. Each user's draws
    keep their distribution exactly; only draws of users in one group are correlated.

    Args:
        key: a jax.random key.
        logits: L, (S, I).
        tau: temperature, > 0 (a Python number: it chooses the algorithm).
        draws: n.
        noise_groups: from 1 (all users share) to S (the paper's independent noise). Memory stays
            that of one group's noise, n x I numbers, whichever is chosen.

    Returns:
        X_syn, (S, I) in [0, 1].
    """
    users, items = logits.shape
    size = -(-users // noise_groups)
    groups = -(-users // size)  # 500 users in 300 groups are 250 pairs: never fewer users to share with
    padded = jnp.pad(logits, ((0, groups * size - users), (0, 0))).reshape(groups, size, items)
    sum_of_draws = _sum_of_draws_by_products if tau >= SMALLEST_TAU_FOR_PRODUCTS else _sum_of_draws_by_softmax

    @jax.checkpoint  # the backward pass makes the noise again rather than keeping every group's
    def group(key, logits):
        return sum_of_draws(jax.random.gumbel(key, (draws, items), logits.dtype), logits, tau)

    sums = jax.lax.map(lambda pair: group(*pair), (jax.random.split(key, groups), padded))
    return jnp.clip(sums.reshape(-1, items)[:users], 0, 1)


def _below_the_top(scores, hidden):
    """(scores less the largest that is ranked, -inf where hidden, (B, I); that largest one, a constant, (B, 1))."""
    ranked = scores if hidden is None else jnp.where(hidden, -jnp.inf, scores)
    # Where all is hidden, the largest is no number to subtract.
    top = jax.lax.stop_gradient(jnp.maximum(ranked.max(axis=1, keepdims=True), jnp.finfo(scores.dtype).min))
    return ranked - top, top


def cross_entropy(scores, targets, hidden, discount, scale=1.0):
    """- sum over targets of log softmax(scale scores), divided by (number of targets)^discount; (B,).

    Args:
        scores: (B, I).
        targets: (B, I) of 0 and 1; a user without any gets 0.
        hidden: None, or boolean (B, I), never true where targets is: items that are not ranked.
        discount: 0 as in the paper, where a user weighs as much as his interactions; 1 for the mean over them.
        scale: 1 as in the paper. Ridge regression's scores are small, mostly below 0.1, where a softmax is nearly linear in them.
    """
    targets, scores = targets.astype(scores.dtype), scale * scores
    below, top = _below_the_top(scores, hidden)
    count, total = _row_sums(targets), _row_sums(jnp.exp(below))
    log_total = jnp.log(jnp.where(count > 0, total, 1)) + top[:, 0]
    return (count * log_total - _row_sums(targets * scores)) / jnp.maximum(count, 1) ** discount


def generalized_cross_entropy(scores, targets, hidden, discount, scale=1.0, power=0.5):
    """- sum over targets of p^power / power, p = softmax(scale scores), divided by (number of targets)^discount; (B,).

    Zhang and Sabuncu, "Generalized cross entropy loss for training deep neural networks with noisy labels", NeurIPS 2018, but for a
    constant. A target pulls by p^power of what it pulls in `cross_entropy`, so those that nothing speaks for are let go.

    Args:
        scores, targets, hidden, discount, scale: as for `cross_entropy`.
        power: q, in (0, 1]; towards 0, the cross entropy.
    """
    targets, scores = targets.astype(scores.dtype), scale * scores
    below, _ = _below_the_top(scores, hidden)
    count, total = _row_sums(targets), _row_sums(jnp.exp(below))
    gain = _row_sums(targets * jnp.exp(power * below)) / jnp.where(count > 0, total, 1) ** power
    return -gain / power / jnp.maximum(count, 1) ** discount


def squared_error(scores, targets, hidden, discount, scale=1.0):
    """Sum over items of (scale scores - targets)^2, divided by (number of targets)^discount; (B,).

    Where a softmax goes on to tell apart items that nobody would be shown, this asks most of the largest scores.

    Args:
        scores, targets, hidden, discount: as for `cross_entropy`; hidden items do not count.
        scale: of the scores. A large one shrinks them all: it holds back what would be learnt by heart.
    """
    targets, scores = targets.astype(scores.dtype), scale * scores
    count = _row_sums(targets)
    # Not (scores - targets)^2: this form needs no (B, I) of its own but the hidden scores' zeros.
    error = (
        _row_sums((scores if hidden is None else jnp.where(hidden, 0, scores)) ** 2)
        - 2 * _row_sums(targets * scores)
        + count
    )
    return jnp.where(count > 0, error, 0) / jnp.maximum(count, 1) ** discount
