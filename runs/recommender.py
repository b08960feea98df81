"""The ∞-AE trained on a run's synthetic users alone, for use from Python: histories in, ranked items out.

    recommender = Recommender.load("results/<run>")
    ids, scores = recommender.top_k(histories, 10)       # CSR (B, I) in; (B, 10) each out

A user's scores are K(c, X) alpha: c the history, X the synthetic users, alpha = (K(X, X) + ridge)^-1 X. They
are calculated as [K(c, X) (K(X, X) + ridge)^-1] X, so that alpha, as large as X, is never held. The inverse
is kept in inverse.npz in the run's folder. I items, S synthetic users, B users.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from tqdm import tqdm

import model
from lib import devices
from lib.errors import UserError
from lib.files import keep_arrays
from runs.synthetic_users import open_distilled

MOST_USERS = 64  # in one call to the devices: more are hardly faster
BATCH_BYTES = 2**28  # of the scores of one call
REASONS_NAMED = 3  # items of the history, in an explanation
LARGE_ROWS = 2**30  # bytes of synthetic users
HISTORIES_AT_ONCE = 1024  # sparse ones, of an explanation
SHORTEST_LIST = 128  # the devices rank at least this many items, so that one program serves every shorter k


@partial(jax.jit, static_argnums=0)
def _scores(kernel, context, rows, inverse):
    """K(c, X) (K(X, X) + ridge)^-1 X, (B, I)."""
    cross = kernel(context.astype(rows.dtype), rows)
    return model.predict(model.predict(cross, inverse), rows)


def _gram(kernel, rows, dtype):
    """K(X, X), (S, S), of numpy rows (S, I).

    The kernel makes five copies of its rows. So it meets large ones by halves: every two of four quarters.
    """
    parts = np.array_split(np.arange(len(rows)), 4 if rows.nbytes > LARGE_ROWS else 2)
    gram = np.empty((len(rows), len(rows)), dtype)
    for pair in map(np.concatenate, itertools.combinations(parts, 2)):
        gram[np.ix_(pair, pair)] = kernel(rows[pair].astype(dtype))
    return gram


@jax.jit
def _unit_columns(rows):
    """Each item's weights over the S rows, less their mean, at length 1 or all 0: (S, I)."""
    centred = rows - rows.mean(axis=0)
    length = jnp.sqrt((centred**2).sum(axis=0))
    return centred / jnp.where(length > 0, length, 1)


@jax.jit
def _correlations(context, unit):
    """Pearson's correlation over the S rows of each context's one item with every item, (B, I)."""
    return model.predict(model.predict(context.astype(unit.dtype), unit.T), unit)


@partial(jax.jit, static_argnums=4)
def _top(scores, context, candidates, include_seen, k):
    ranked = candidates & (include_seen | (context == 0))
    scores, columns = jax.lax.top_k(jnp.where(ranked, scores, -jnp.inf), k)
    return scores, jnp.where(jnp.isfinite(scores), columns, -1)


@jax.jit
def _total(scores, columns):
    return jnp.where(columns >= 0, jnp.take_along_axis(scores, columns, axis=1), 0).sum(axis=1)


class Recommender:
    """Ranks the I items of a data set by the ∞-AE trained on S synthetic users."""

    def __init__(self, run, kernel=None):
        """Solves the ridge regression, or reads its solution from the run's folder.

        Args:
            run: synthetic_users.SyntheticUsers.
            kernel: the kernel that was given to distill.distill, if one was.

        Raises:
            UserError: the kernel is not positive definite.
        """
        settings = run.settings
        devices.find()  # says in one line if there is none
        self._float64 = settings["float64"]
        self.item_ids = run.item_ids
        name = f" {kernel.__name__}" if kernel else ""
        kernel = kernel or model.Kernel(settings["depth"], settings["normalize"], run.item_weights)
        with self._precision():
            dtype, size = jnp.zeros(0).dtype, len(run.rows)

            def solve():
                gram = _gram(jax.jit(kernel), run.rows, dtype)
                return {"inverse": np.asarray(jax.jit(model.ridge)(gram, jnp.eye(size), run.lamda))}

            def is_sound(arrays):
                inverse = arrays.get("inverse", np.empty(0))
                fits = inverse.shape == (size, size) and inverse.dtype == dtype
                return fits and bool(np.isfinite(inverse).all())

            arrays = keep_arrays(run.folder / "inverse.npz", run.digest + name, solve, is_sound)
            # Else JAX copies them later, and needs both copies in the first batch.
            self._rows = jnp.asarray(run.rows, dtype).block_until_ready()
        if not is_sound(arrays):
            raise UserError(
                f"the kernel of the synthetic users of {run.folder} is not positive definite in {dtype} at "
                f"their lamda of {run.lamda:.3g}, and was when they were made. The folder, or JAX on this "
                "machine, has changed: run distill.py again"
            )
        self._scores = lambda context: _scores(kernel, context, self._rows, arrays["inverse"])

    @classmethod
    def load(cls, folder):
        """The Recommender of a finished run of distill.py, with the program for one user compiled.

        It calculates in the run's own precision (`float64`) and leaves that of the process as it is.

        Raises:
            UserError: the folder is no such run, or is damaged.
        """
        recommender = cls(open_distilled(folder))
        recommender.rank(sp.csr_matrix((1, len(recommender.item_ids))), 1)
        return recommender

    def rank(self, histories, k, candidates=None, include_seen=False):
        """The k best items of every user, by default of those that are not in the history.

        A user's list does not depend, to the last bit, on who else is ranked in the same call.

        Args:
            histories: CSR (B, I), a column for each of item_ids; an entry other than 0 is an interaction.
            k: how many, at least 1.
            candidates: boolean (I,), the items that may be recommended; None: all.
            include_seen: whether items of the history may be recommended, too.

        Returns:
            (columns (B, k') int32, scores (B, k') float), best first, equal ones by column; k' = min(k, I).
            If fewer than k' items can be recommended, the list ends in columns of -1 and scores of -inf.

        Raises:
            ValueError: k is less than 1, or the histories or candidates have another number of items.
        """
        return self._rank(self._scores, histories, k, candidates, include_seen)

    def similar(self, columns, k, candidates=None):
        """The k items most similar to every given item, without that item; returns what `rank` returns.

        The score of items i and j is the correlation of their weights over the synthetic users,

            sum_s (X_si - mean X_i) (X_sj - mean X_j) / (norm of X_i - mean X_i) (norm of X_j - mean X_j)

        in [-1, 1], whatever the popularity of i and j. It is 0 for an item whose weights are all equal.

        Args:
            columns: (B,) the given items, as columns.
            k, candidates: as for `rank`.
        """
        entries = np.ones(len(columns), np.int8), (np.arange(len(columns)), columns)
        items = sp.csr_matrix(entries, (len(columns), len(self.item_ids)))
        with self._precision():
            unit = _unit_columns(self._rows)
        return self._rank(lambda context: _correlations(context, unit), items, k, candidates, False)

    def _rank(self, scores_of, histories, k, candidates, include_seen):
        items = len(self.item_ids)
        candidates = np.ones(items, bool) if candidates is None else np.asarray(candidates, bool)
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        if candidates.shape != (items,):
            raise ValueError(f"candidates have the shape {candidates.shape}, and the run has {items} items")
        k = min(k, items)
        length = min(max(1 << (k - 1).bit_length(), SHORTEST_LIST), items)
        parts = [(np.empty((0, k), self._rows.dtype), np.empty((0, k), np.int32))]
        with self._precision():
            for _, context, users in self._batches(histories):
                best = _top(scores_of(context), context, candidates, include_seen, length)
                parts.append([np.asarray(array)[:users, :k] for array in best])
        scores, columns = (np.concatenate(arrays) for arrays in zip(*parts))
        return columns, scores

    def top_k(self, histories, k, candidates=None, include_seen=False):
        """`rank` by item ids: masked arrays (ids (B, k'), scores (B, k')), masked where a list has ended."""
        columns, scores = self.rank(histories, k, candidates, include_seen)
        ended = columns < 0
        return np.ma.masked_array(self.item_ids[columns], ended), np.ma.masked_array(scores, ended)

    def contributions(self, histories, columns):
        """What each item of a history adds to the scores of a list, CSR (B, I) with the histories' entries.

        An item's contribution is what the list's summed score loses when that item alone leaves the history,
        while the list stays. It may be negative. Contributions do not add up to the sum: items work together.

        Args:
            histories: CSR (B, I).
            columns: the lists, (B, k) from `rank`.
        """
        histories = sp.csr_matrix(histories != 0, dtype=np.int8)
        user, item = histories.nonzero()
        totals_without = np.empty(len(user), self._rows.dtype)
        # Every item of every history needs a row of its own, the history without it.
        starts = range(0, len(user), HISTORIES_AT_ONCE)
        for start in tqdm(starts, desc="explaining", leave=False, disable=None, delay=2):
            block = slice(start, start + HISTORIES_AT_ONCE)
            rows = histories[user[block]]
            count = rows.shape[0]
            left_out = sp.csr_matrix((np.ones(count, np.int8), (np.arange(count), item[block])), rows.shape)
            totals_without[block] = self._totals(rows - left_out, columns[user[block]])
        totals = self._totals(histories, columns)[user]
        return sp.csr_matrix((totals - totals_without, (user, item)), histories.shape)

    def reasons(self, histories, columns):
        """The REASONS_NAMED items of each user's history that add most to the list.

        Args:
            histories, columns: as for `contributions`.

        Returns:
            For each user a list of (column, contribution), the largest first; empty for an empty list.
        """
        reasons = []
        for row, listed in zip(self.contributions(histories, columns), columns):
            best = np.argsort(-row.data, kind="stable")[:REASONS_NAMED] if listed[0] >= 0 else []
            reasons.append([(int(row.indices[place]), float(row.data[place])) for place in best])
        return reasons

    def _totals(self, histories, columns):
        """The sum of the scores of each list, (B,)."""
        parts = [np.empty(0, self._rows.dtype)]
        with self._precision():
            for start, context, users in self._batches(histories):
                lists = columns[start : start + users]
                lists = np.pad(lists, ((0, len(context) - users), (0, 0)), constant_values=-1)
                parts.append(np.asarray(_total(self._scores(context), lists))[:users])
        return np.concatenate(parts)

    def _precision(self):
        """The context in which JAX calculates in the run's precision, whatever that of the process is."""
        return jax.enable_x64(self._float64)

    def _batches(self, histories):
        """Batches of users: (first user, context (B', I) int8, users in it).

        B' is the same for one user and for many, as a matrix product of another shape adds up in another
        order. It depends on I alone.
        """
        items = len(self.item_ids)
        if histories.shape[1] != items:
            raise ValueError(f"histories have {histories.shape[1]} columns, and the run has {items} items")
        most = max(BATCH_BYTES // (self._rows.itemsize * items), 1)
        size = min(1 << (most.bit_length() - 1), MOST_USERS)
        for start in range(0, histories.shape[0], size):
            rows = histories[start : start + size]
            context = np.zeros((size, items), np.int8)
            context[rows.nonzero()] = 1
            yield start, context, rows.shape[0]
