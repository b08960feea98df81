"""How well a ranking finds the targets: HR, nDCG and PSP at 10 and 100 of every user, and the AUC.

The protocol is the paper's: every item is ranked but those of the context; users without targets are
left out of every mean. With p targets of a user and w_i the inverse propensity of item i,

    HR@k    hits in the top k / min(p, k)
    nDCG@k  binary gains, ideal over min(p, k)
    PSP@k   [sum of w over hits / min(p, k)] / [sum of the min(p, k) largest w of the targets]
    PSP_textbook@k   the same without the inner division: 100 for a perfect ranking
    AUC     all targets of all users against all their sampled negatives, in one pool

All in percent, except the AUC.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lib import sparse
from lib.devices import gather, spread
from model import Kernel, predict

CUTOFFS = (10, 100)
PER_USER_METRICS = tuple(f"{name}@{k}" for name in ("HR", "NDCG", "PSP", "PSP_textbook") for k in CUTOFFS)
METRICS = (*(name for name in PER_USER_METRICS if "textbook" not in name), "AUC")


def inverse_propensity(frequency):
    """w_i = 1 + C (f_i + B)^-A of every item, (I,) float32.

    A = 0.55, B = 1.5, C = (ln N - 1)(B + 1)^A (Jain, Prabhu, Varma, KDD 2016).

    Args:
        frequency: f, (I,), each item's train interactions; N is their sum.
    """
    a, b = 0.55, 1.5
    c = (math.log(frequency.sum()) - 1) * (b + 1) ** a
    return (1 + c * (frequency + b) ** -a).astype(np.float32)


def largest_weights(targets, weights, k):
    """Sum of the min(p, k) largest weights among each user's targets, (U,)."""
    user = np.repeat(np.arange(targets.shape[0]), np.diff(targets.indptr))
    weight = weights[targets.indices].astype(np.float64)
    order = np.lexsort((-weight, user))  # users stay together, in the order of the rows
    place = np.arange(len(user)) - targets.indptr[user]
    return np.bincount(user[order], weight[order] * (place < k), targets.shape[0])


def pooled_auc(positive, negative):
    """Probability that a positive scores above a negative, ties counted half; NaN if either is empty."""
    if not len(positive) or not len(negative):
        return math.nan
    negative = np.sort(negative)
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.sum() / 2 / len(positive) / len(negative))


@partial(jax.jit, static_argnums=0)
def _cross_kernel(kernel, context, rows):
    return kernel(context.astype(rows.dtype), rows)


@partial(jax.jit, static_argnums=0)
def _cross_kernel_of_places(kernel, places, rows):
    return kernel.of_places(places, rows)


@jax.jit
def _predict(cross, alpha):
    return predict(cross, alpha)


@jax.jit
def _predict_trained(context, alpha, users, strength):
    return context.astype(alpha.dtype) - strength * alpha[users]


class scores_of:
    """K(context, X) alpha, for `evaluate`: a batch of users meets the kernel once for all solutions.

    Args:
        kernel: model.Kernel, or a function like it.
        rows: X, (m, I), what the model was trained on.
        alphas: solutions, each (m, I).
    """

    def __init__(self, kernel, rows, alphas):
        self._kernel, self._rows, self._alphas = kernel, rows, alphas
        self.takes_places = isinstance(kernel, Kernel)

    def __call__(self, users, context):
        """The scores (B, I) of every solution, one after another, for users (B,) and their context (B, I)."""
        return self._of_cross(_cross_kernel(self._kernel, context, self._rows))

    def of_places(self, places):
        """The same, of a context that is 1 at lib.sparse.Places."""
        return self._of_cross(_cross_kernel_of_places(self._kernel, places, self._rows))

    def _of_cross(self, cross):
        return (_predict(cross, alpha) for alpha in self._alphas)


def scores_of_trained(alpha, strength, first_user):
    """K(X, X) alpha = X - strength * alpha, for `evaluate` where the context is X itself: no product.

    Args:
        alpha: the one solution, (U, I), a row a user.
        strength: lamda tr(K)/m, which made it.
        first_user: the row of the view's user 0.
    """
    return lambda users, context: (_predict_trained(context, alpha, users + first_user, strength),)


@jax.jit
def _rank(scores, context, targets, weights, positives, negatives):
    """Counts of (B,) for each cutoff, and the scores the AUC needs."""
    k = min(max(CUTOFFS), scores.shape[1])
    hidden = context > 0
    top = jax.lax.top_k(jnp.where(hidden, -jnp.inf, scores), k)[1]
    # Hidden items fill the list where there are fewer than k others; they are no hits.
    hits = jnp.take_along_axis(jnp.where(hidden, 0, targets), top, axis=1).astype(scores.dtype)
    discount = 1 / jnp.log2(jnp.arange(k, dtype=scores.dtype) + 2)
    sums = {
        f"{name}@{cutoff}": jnp.sum((hits * gain)[:, :cutoff], axis=1)
        for cutoff in CUTOFFS
        for name, gain in (("HR", 1), ("NDCG", discount), ("PSP", weights[top]))
    }
    return (
        sums,
        jnp.take_along_axis(scores, positives, axis=1),
        jnp.take_along_axis(scores, negatives, axis=1),
        jnp.isfinite(jnp.abs(scores).max()),  # not .all(), which XLA does on one core of a CPU
    )


def evaluate(scores, models, view, weights, batch_size, mesh):
    """Metrics of several models at once, such as the solutions for a grid of lamdas.

    Args:
        scores: function of a batch, users (B,) as in the view and their context (B, I) int8, both on the
            devices. It gives the scores (B, I) of every model, one after another. Or `scores_of`.
        models: how many models.
        view: data.View, V users of this process.
        weights: `inverse_propensity`, (I,).
        batch_size: users at once, at most. It changes memory, not the result.
        mesh: devices.local of the mesh from devices.start.

    Returns:
        A dict for every model: each name of PER_USER_METRICS -> (V of all processes,) float64 in percent, NaN
        for users without targets; "AUC" -> float. All NaN for a model with scores that are not finite.
    """
    users = np.flatnonzero(np.diff(view.targets.indptr))
    batches = max(1, -(-len(users) // batch_size))
    batch_size = max(1, -(-len(users) // batches))  # alike, since every batch is padded to the largest
    width = max(np.diff(view.targets.indptr).max(initial=0), 1)
    by_places = getattr(scores, "takes_places", False)
    by_places = by_places and sparse.suits(mesh, view.context.nnz, view.context.shape)
    starts = np.arange(0, len(users), batch_size)
    most = max(np.add.reduceat(np.diff(view.context.indptr)[users], starts), default=0)  # entries of a batch
    sums, finite = [{} for _ in range(models)], [True] * models
    positive_scores, negative_scores = ([[] for _ in range(models)] for _ in range(2))
    for start in starts:
        batch = users[start : start + batch_size]
        # The last batch gets empty users, so that its shape needs no new program.
        put = partial(_put, mesh, batch_size - len(batch))
        rows, wanted = view.context[batch], view.targets[batch]
        context, targets = (put(matrix.toarray(), 0) for matrix in (rows, wanted))
        if by_places:
            rows.resize(batch_size, rows.shape[1])
            batch_scores = scores.of_places(sparse.places(rows, most))
        else:
            batch_scores = scores(put(view.users[batch], 0), context)
        positives, negatives = _padded(wanted, width), view.negatives[batch]
        asked = weights, put(positives, -1), put(negatives, -1)
        for model, of_model in enumerate(batch_scores):
            counts, high, low, all_finite = _rank(of_model, context, targets, *asked)
            finite[model] &= bool(all_finite)
            for name, values in counts.items():
                sums[model].setdefault(name, []).append(np.asarray(values)[: len(batch)])
            positive_scores[model].append(np.asarray(high)[: len(batch)][positives >= 0])
            negative_scores[model].append(np.asarray(low)[: len(batch)][negatives >= 0])
    finite = gather(np.array([finite])).all(axis=0)
    metrics = []
    for model in range(models):
        totals = {name: np.concatenate(parts).astype(np.float64) for name, parts in sums[model].items()}
        pools = [np.empty(0)] * 2
        if finite[model]:
            lists = positive_scores[model], negative_scores[model]
            pools = [gather(np.concatenate([np.empty(0), *batches])) for batches in lists]
        metrics.append(_finish(totals, users if finite[model] else users[:0], view.targets, weights, *pools))
    return metrics


def _put(mesh, fill, array, value):
    """The array (B, ...) on the devices, with `fill` more rows of this value."""
    padding = ((0, fill), *((0, 0),) * (array.ndim - 1))
    return spread(mesh, np.pad(array, padding, constant_values=value) if fill else array)


def _finish(sums, users, targets, weights, positive, negative):
    """Divides the sums by what a perfect ranking of each user would have; joins all processes' users."""
    count = np.diff(targets.indptr)[users]
    ideal_gain = np.cumsum(1 / np.log2(np.arange(max(CUTOFFS)) + 2))
    metrics = {name: np.full(targets.shape[0], np.nan) for name in PER_USER_METRICS}
    if len(users):
        for k in CUTOFFS:
            found = np.minimum(count, k)
            ideal_psp = largest_weights(targets, weights, k)[users]
            metrics[f"HR@{k}"][users] = 100 * sums[f"HR@{k}"] / found
            metrics[f"NDCG@{k}"][users] = 100 * sums[f"NDCG@{k}"] / ideal_gain[found - 1]
            metrics[f"PSP@{k}"][users] = 100 * sums[f"PSP@{k}"] / found / ideal_psp
            metrics[f"PSP_textbook@{k}"][users] = 100 * sums[f"PSP@{k}"] / ideal_psp
    return {
        **{name: gather(values) for name, values in metrics.items()},
        "AUC": pooled_auc(positive, negative),
    }


def summarise(metrics):
    """Means over the users who have targets: name -> float; NaN if there are none."""
    return {
        name: float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
        for name, values in metrics.items()
    }


def _padded(matrix, width):
    """Column numbers of every row of a CSR matrix, left-aligned, -1 behind them; (B, width) int32."""
    padded = np.full((matrix.shape[0], width), -1, np.int32)
    padded[np.arange(width) < np.diff(matrix.indptr)[:, None]] = matrix.indices
    return padded
