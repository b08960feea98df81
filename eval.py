"""How well a ranking finds the targets, and which items its lists recommend.

The protocol is the paper's: every item is ranked but those of the context; users without targets are
left out of every mean and every list. With p targets of a user, w_i the inverse propensity of item i and
hits at the ranks r <= k of the list, counted from 1, a user has

    HR@k         hits / min(p, k), as the paper has it: the recall, of the targets that k places can hold
    NDCG@k       sum over hits of 1 / log2(r + 1), divided by the same sum of a perfect ranking
    PSP@k        [sum over hits of w / min(p, k)] / [sum of the min(p, k) largest w of the targets]
    PSP_textbook@k   the same without the inner division: 100 for a perfect ranking
    Recall@k     hits / p, which cannot reach 100 where p > k
    Precision@k  hits / k, where fewer than k items can be ranked, too
    HitRate@k    whether there is a hit, which some call HR
    MRR@k        1 / r of the first hit, 0 without one
    MAP@k        sum over hits of the precision at r, divided by min(p, k); other definitions divide by p

All users together have

    AUC          all targets of all users against all their sampled negatives, in one pool
    Coverage@k   the share of all items that stand in a list
    Gini@k       of the numbers of lists that the items stand in: 0 if all are alike, almost 1 for one item
    Popularity@k train interactions of an item, the mean over all places of all lists
    Novelty@k    -log2 of (an item's train interactions + 1) / (all items' train interactions + I), the same
                 mean, in bits; the 1 keeps an item without interactions finite

All in percent but for AUC, Gini, Popularity and Novelty. A list is shorter than k where fewer items can be
ranked. Hidden items are never in it.

Items with the same score are ranked in an order drawn once for so many items, the same for every user, model
and run. An order by item number would favour whatever the numbers follow, which often is popularity or time.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lib import sparse
from lib.devices import gather, spread
from lib.metric_names import ALL_METRICS, CUTOFFS, OF_LISTS, PER_USER_METRICS
from lib.random_streams import Stream, generator
from model import Kernel, predict

_SUMMED = ("HR", "NDCG", "PSP", "HitRate", "MRR", "MAP")  # sums of a gain over the list


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


def list_metrics(counts, frequency):
    """Coverage in percent, Gini, Popularity, and Novelty in bits, of all lists; NaN without a list.

    Gini is sum_j (2j - I - 1) c_j / (I sum_j c_j), with the counts c_1 <= ... <= c_I.

    Args:
        counts: (I,), the lists that each item stands in.
        frequency: (I,), each item's train interactions.
    """
    total, items = counts.sum(), len(counts)
    if not total:
        return dict.fromkeys(OF_LISTS, math.nan)
    share = (frequency + 1) / (frequency + 1).sum()
    values = (
        100 * (counts > 0).mean(),
        (2 * np.arange(1, items + 1) - items - 1) @ np.sort(counts) / items / total,
        counts @ frequency / total,
        -(counts @ np.log2(share)) / total,
    )
    return dict(zip(OF_LISTS, map(float, values)))


def tie_order(items):
    """The items, of which the first wins a tie, (I,) int32; random, but always the same for so many items."""
    return generator(0, Stream.TIES).permutation(items).astype(np.int32)


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
def _rankable(scores, context, order):
    """The scores (B, I) in the order of `tie_order`, -inf for hidden items.

    top_k prefers the first of two columns that tie. This is a program of its own because XLA, for a CPU,
    makes a top_k that follows a gather into a sort of all columns, which takes three times as long.
    """
    return jnp.where(context > 0, -jnp.inf, scores)[:, order]


@jax.jit
def _rank(rankable, scores, targets, real, weights, order, positives, negatives):
    """Sums over each user's list, counts over all lists, and the scores that the AUC needs.

    Args:
        rankable: `_rankable` of the scores, (B, I).
        real: (B,), False for rows that only fill the batch.
        order: `tie_order`, (I,).

    Returns:
        (sums (_SUMMED, B, CUTOFFS); lists in which each item stands from one cutoff to the next
        (CUTOFFS, I) int32; scores of positives, of negatives; whether all scores are finite).
    """
    k = min(max(CUTOFFS), scores.shape[1])
    values, columns = jax.lax.top_k(rankable, k)
    top = order[columns]
    # Hidden items fill the list where there are fewer than k others; they are no hits.
    listed = (values > -jnp.inf) & real[:, None]
    hits = (jnp.take_along_axis(targets, top, axis=1) * listed).astype(scores.dtype)
    rank = jnp.arange(k, dtype=scores.dtype) + 1
    found = jnp.cumsum(hits, axis=1)
    first = hits * (found == 1)
    gains = jnp.stack(  # in the order of _SUMMED
        [hits, hits * (1 / jnp.log2(rank + 1)), hits * weights[top], first, first / rank, hits * found / rank]
    )
    band = np.searchsorted(CUTOFFS, np.arange(k), "right")
    return (
        jnp.stack([gains[:, :, :cutoff].sum(axis=2) for cutoff in CUTOFFS], axis=2),
        jnp.zeros((len(CUTOFFS), scores.shape[1]), np.int32).at[band, top].add(listed),
        jnp.take_along_axis(scores, positives, axis=1),
        jnp.take_along_axis(scores, negatives, axis=1),
        jnp.isfinite(jnp.abs(scores).max()),  # not .all(), which XLA does on one core of a CPU
    )


def evaluate(scores, models, view, frequency, batch_size, mesh):
    """Metrics of several models at once, such as the solutions for a grid of lamdas.

    Args:
        scores: function of a batch, users (B,) as in the view and their context (B, I) int8, both on the
            devices. It gives the scores (B, I) of every model, one after another. Or `scores_of`.
        models: how many models.
        view: data.View, V users of this process.
        frequency: (I,), each item's train interactions, as for `inverse_propensity`.
        batch_size: users at once, at most. It changes memory, not the result.
        mesh: devices.local of the mesh from devices.start.

    Returns:
        A dict for every model, in the order of ALL_METRICS: each name of PER_USER_METRICS -> (V of all
        processes,) float64 in percent, NaN for users without targets; "AUC" and each name of LIST_METRICS ->
        float. All NaN for a model with scores that are not finite.
    """
    weights, items = inverse_propensity(frequency), view.context.shape[1]
    order = tie_order(items)
    users = np.flatnonzero(np.diff(view.targets.indptr))
    batches = max(1, -(-len(users) // batch_size))
    batch_size = max(1, -(-len(users) // batches))  # alike, since every batch is padded to the largest
    width = max(np.diff(view.targets.indptr).max(initial=0), 1)
    by_places = getattr(scores, "takes_places", False)
    by_places = by_places and sparse.suits(mesh, view.context.nnz, view.context.shape)
    starts = np.arange(0, len(users), batch_size)
    most = max(np.add.reduceat(np.diff(view.context.indptr)[users], starts), default=0)  # entries of a batch
    counts, finite = np.zeros((models, len(CUTOFFS), items), np.int64), [True] * models
    sums, positive_scores, negative_scores = ([[] for _ in range(models)] for _ in range(3))
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
        real = put(np.ones(len(batch), bool), False)
        asked = real, weights, order, put(positives, -1), put(negatives, -1)
        for model, of_model in enumerate(batch_scores):
            rankable = _rankable(of_model, context, order)
            of_users, of_items, high, low, all_finite = _rank(rankable, of_model, targets, *asked)
            finite[model] &= bool(all_finite)
            sums[model].append(np.asarray(of_users)[:, : len(batch)])
            counts[model] += np.asarray(of_items)
            positive_scores[model].append(np.asarray(high)[: len(batch)][positives >= 0])
            negative_scores[model].append(np.asarray(low)[: len(batch)][negatives >= 0])
    finite = gather(np.array([finite])).all(axis=0)
    counts = gather(np.cumsum(counts, axis=1)[None]).sum(axis=0)
    ideal_psp = np.stack([largest_weights(view.targets, weights, k)[users] for k in CUTOFFS], axis=1)
    metrics = []
    for model in range(models):
        values, pools = np.full((view.targets.shape[0], len(PER_USER_METRICS)), np.nan), [np.empty(0)] * 2
        if finite[model]:
            if len(users):
                totals = np.concatenate(sums[model], axis=1).astype(np.float64)
                values[users] = _user_metrics(totals, np.diff(view.targets.indptr)[users], ideal_psp)
            lists = positive_scores[model], negative_scores[model]
            pools = [gather(np.concatenate([np.empty(0), *batches])) for batches in lists]
        found = {**dict(zip(PER_USER_METRICS, gather(values).T)), "AUC": pooled_auc(*pools)}
        for k, of_items in zip(CUTOFFS, counts[model] * finite[model]):
            found |= {f"{name}@{k}": value for name, value in list_metrics(of_items, frequency).items()}
        metrics.append({name: found[name] for name in ALL_METRICS})
    return metrics


def _put(mesh, fill, array, value):
    """The array (B, ...) on the devices, with `fill` more rows of this value."""
    padding = ((0, fill), *((0, 0),) * (array.ndim - 1))
    return spread(mesh, np.pad(array, padding, constant_values=value) if fill else array)


def _user_metrics(sums, count, ideal_psp):
    """PER_USER_METRICS of n users in percent: the sums, divided as the metrics are defined.

    Args:
        sums: (_SUMMED, n, CUTOFFS), from `_rank`.
        count: p, (n,), each user's targets.
        ideal_psp: `largest_weights`, (n, CUTOFFS).

    Returns:
        (n, PER_USER_METRICS).
    """
    of, cutoffs, count = dict(zip(_SUMMED, sums)), np.array(CUTOFFS), count[:, None]
    reachable = np.minimum(count, cutoffs)
    ideal_gain = np.cumsum(1 / np.log2(np.arange(max(CUTOFFS)) + 2))[reachable - 1]
    values = (  # in the order of OF_USERS
        of["HR"] / reachable,
        of["NDCG"] / ideal_gain,
        of["PSP"] / reachable / ideal_psp,
        of["PSP"] / ideal_psp,
        of["HR"] / count,
        of["HR"] / cutoffs,
        of["HitRate"],
        of["MRR"],
        of["MAP"] / reachable,
    )
    return 100 * np.concatenate(values, axis=1)


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
