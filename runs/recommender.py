"""The ∞-AE trained on a run's synthetic users alone, for use from Python: histories in, ranked items out.

    recommender = Recommender.load("results/<run>")
    ids, scores = recommender.top_k(histories, 10)       # CSR (B, I) in; (B, 10) each out

A user's scores are K(c, X) alpha: c the history, X the synthetic users. alpha is kept in alpha.npz in the
run's folder. I items, S synthetic users, B users.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from tqdm import tqdm

import model
from eval import scores_of
from lib import devices
from lib.errors import UserError
from lib.files import keep_arrays
from runs.synthetic_users import open_distilled

USERS_AT_ONCE = 1024  # in one call to the devices
SHORTEST_LIST = 128  # the devices rank at least this many items, so that one program serves every shorter k


@partial(jax.jit, static_argnums=2)
def _top(scores, context, k):
    scores, columns = jax.lax.top_k(jnp.where(context > 0, -jnp.inf, scores), k)
    return scores, jnp.where(jnp.isfinite(scores), columns, -1)


@jax.jit
def _total(scores, columns):
    return jnp.where(columns >= 0, jnp.take_along_axis(scores, columns, axis=1), 0).sum(axis=1)


class Recommender:
    """Ranks the I items of a data set by the ∞-AE trained on S synthetic users."""

    def __init__(self, run, kernel=None):
        """Solves for alpha, or reads it from the run's folder.

        Args:
            run: synthetic_users.SyntheticUsers.
            kernel: the kernel that was given to distill.distill, if one was.

        Raises:
            UserError: the kernel is not positive definite.
        """
        settings = run.settings
        devices.find()  # says in one line if there is none
        self._float64 = settings["float64"]
        self.item_ids, self.rows = run.item_ids, run.rows
        self._kernel = kernel or model.make_kernel(settings["depth"], settings["normalize"], run.item_weights)
        with self._precision():
            self._rows = jnp.asarray(self.rows, float if self._float64 else np.float32)
            arrays = keep_arrays(
                run.folder / "alpha.npz",
                f"{run.digest} {kernel.__name__}" if kernel else run.digest,
                lambda: {"alpha": np.asarray(model.fit(self._kernel, self._rows, [run.lamda])[0])},
                lambda arrays: "alpha" in arrays and self._is_solution(arrays["alpha"]),
            )
            self._alpha = jnp.asarray(arrays["alpha"])
        if not self._is_solution(arrays["alpha"]):
            raise UserError(
                f"the kernel of the synthetic users of {run.folder} is not positive definite in "
                f"{self._rows.dtype} at their lamda of {run.lamda:.3g}, and was when they were made. The "
                "folder, or JAX on this machine, has changed: run distill.py again"
            )
        self._scores = scores_of(self._kernel, self._rows, [self._alpha])

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

    def rank(self, histories, k):
        """The k best items of every user that are not in the history.

        Args:
            histories: CSR (B, I), a column for each of item_ids; an entry other than 0 is an interaction.
            k: how many, at least 1.

        Returns:
            (columns (B, k') int32, scores (B, k') float), best first, equal ones by column; k' = min(k, I).
            If fewer than k' items are outside a history, its list ends in columns of -1 and scores of -inf.

        Raises:
            ValueError: k is less than 1, or the histories have another number of items.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        items = len(self.item_ids)
        k = min(k, items)
        length = min(max(1 << (k - 1).bit_length(), SHORTEST_LIST), items)
        parts = [(np.empty((0, k), self._alpha.dtype), np.empty((0, k), np.int32))]
        with self._precision():
            for _, context, scores, users in self._batches(histories):
                parts.append([np.asarray(array)[:users, :k] for array in _top(scores(), context, length)])
        scores, columns = (np.concatenate(arrays) for arrays in zip(*parts))
        return columns, scores

    def top_k(self, histories, k):
        """`rank` by item ids: masked arrays (ids (B, k'), scores (B, k')), masked where a list has ended."""
        columns, scores = self.rank(histories, k)
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
        totals_without = np.empty(len(user), self._alpha.dtype)
        # Every item of every history needs a row of its own, the history without it.
        starts = range(0, len(user), USERS_AT_ONCE)
        for start in tqdm(starts, desc="explaining", leave=False, disable=None, delay=2):
            block = slice(start, start + USERS_AT_ONCE)
            rows = histories[user[block]]
            count = rows.shape[0]
            left_out = sp.csr_matrix((np.ones(count, np.int8), (np.arange(count), item[block])), rows.shape)
            totals_without[block] = self._totals(rows - left_out, columns[user[block]])
        totals = self._totals(histories, columns)[user]
        return sp.csr_matrix((totals - totals_without, (user, item)), histories.shape)

    def _totals(self, histories, columns):
        """The sum of the scores of each list, (B,)."""
        parts = [np.empty(0, self._alpha.dtype)]
        with self._precision():
            for start, context, scores, users in self._batches(histories):
                lists = columns[start : start + users]
                lists = np.pad(lists, ((0, len(context) - users), (0, 0)), constant_values=-1)
                parts.append(np.asarray(_total(scores(), lists))[:users])
        return np.concatenate(parts)

    def _is_solution(self, alpha):
        return (
            alpha.shape == self._rows.shape
            and alpha.dtype == self._rows.dtype
            and bool(np.isfinite(alpha).all())
        )

    def _precision(self):
        """The context in which JAX calculates in the run's precision, whatever that of the process is."""
        return jax.enable_x64(self._float64)

    def _batches(self, histories):
        """Batches of users: (first user, context (B', I) int8, function that gives its scores, users in it).

        B' is a power of two, so that few programs are compiled for any number of users.
        """
        items = len(self.item_ids)
        if histories.shape[1] != items:
            raise ValueError(f"histories have {histories.shape[1]} columns, and the run has {items} items")
        for start in range(0, histories.shape[0], USERS_AT_ONCE):
            rows = histories[start : start + USERS_AT_ONCE]
            users = rows.shape[0]
            context = np.zeros((1 << (users - 1).bit_length(), items), np.int8)
            context[:users] = rows.toarray() != 0
            yield start, context, lambda context=context: next(self._scores(None, context)), users
