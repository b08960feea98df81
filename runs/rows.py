"""The kinds of synthetic users: how logits become rows, and what is kept of these.

    soft      a weight at every item: the sum of Gumbel draws (the paper)
    sparse    weights in steps of 1/255 at as few items as real users have

`make_rows` gives the kind that the settings name. S synthetic users, I items, L logits.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import model
from data import TRAIN

PROGRAMS = 16  # of each kind that stay compiled, since rehearsals repeat a few recipes
GROWTH = 4  # sparse weights may grow to this many times their start
EARLY_LENGTH, EARLY_SHARE = 4, 0.4  # sparse rows are so many times as long at first; for this share of steps


class Rows(NamedTuple):
    """A kind of synthetic users, as pure functions."""

    sample: Callable  # (key, L (S, I)) -> X_syn (S, I), jitted: what a step trains the ∞-AE on
    finish: Callable  # (key, step, L) -> X_syn that the step is validated by, and that is kept
    project: optax.GradientTransformation  # of {"logits": L}: what follows a step of the optimizer
    arrays: Callable  # (X_syn, L) -> {name: array} for distilled.npz
    compressed: bool  # whether that file is
    describe: Callable = lambda rows: ""  # X_syn -> a line on its size


def make_rows(settings, dataset):
    """The Rows of the settings; equal settings and data share what is compiled."""
    users = settings["user_support"]
    if settings["rows"] == "sparse":
        overlap = settings["max_overlap"]
        most = int(users * settings["row_length"] * dataset.lengths[TRAIN].mean())
        kind = sparse(most, settings["train_steps"])
        finish = lambda *step: jnp.asarray(keep_apart(kind.finish(*step), dataset.train, overlap))
        return kind._replace(finish=finish) if overlap < 1 else kind
    groups = settings["noise_groups"] if settings["noise_groups"] > 0 else users
    return soft(settings["gumbel_tau"], settings["num_per_user"], groups, settings["start"] == "users")


@lru_cache(PROGRAMS)
def soft(tau, draws, groups, from_users):
    """The paper's rows; the first three arguments as for model.sample.

    Args:
        from_users: the logits before the first step are real users' rows, and are validated as such.
    """
    sample = jax.jit(lambda key, logits: model.sample(key, logits, tau, draws, groups))

    def finish(key, step, logits):
        return logits if step == 0 and from_users else sample(jax.random.fold_in(key, step), logits)

    def arrays(rows, logits):
        return {"data": np.asarray(rows, np.float32), "logits": np.asarray(logits, np.float32)}

    return Rows(sample, finish, optax.identity(), arrays, compressed=False)


@lru_cache(PROGRAMS)
def sparse(most, steps):
    """Rows that are weights themselves, at once: GROWTH times as large, they are the logits.

    Args:
        most: entries of all synthetic users together at the end.
        steps: of the whole run.
    """
    sample = jax.jit(lambda key, logits: logits / GROWTH)
    finish = lambda key, step, logits: model.to_bytes(model.keep_largest(logits / GROWTH, most))
    arrays = lambda rows, logits: {"data": np.asarray(255 * rows).round().astype(np.uint8)}
    return Rows(sample, finish, keep_few(most, steps), arrays, compressed=True, describe=_lengths)


def _lengths(rows):
    lengths = np.count_nonzero(rows, axis=1)
    empty = f"; {(lengths == 0).sum():,} have none" if not lengths.all() else ""
    return f"{len(lengths):,} synthetic users have {lengths.sum():,} interactions{empty}"


def keep_few(most, steps):
    """Brings all logits to 0 to GROWTH, and all but the largest to 0: iterative hard thresholding.

    Args:
        most: entries of all synthetic users together at the end; before, up to EARLY_LENGTH times as many.
        steps: of the whole run.
    """

    def update(updates, step, params):
        left = jnp.maximum(1 - (step + 1) / (EARLY_SHARE * steps), 0)
        few = most * (1 + (EARLY_LENGTH - 1) * left)
        kept = GROWTH * model.keep_largest((params.logits + updates.logits) / GROWTH, few)
        return updates._replace(logits=kept - params.logits), step + 1

    return optax.GradientTransformation(lambda params: jnp.zeros([], jnp.int32), update)


def keep_apart(rows, histories, most):
    """The rows, (S, I) as NumPy, without their lightest items that bring one too near to a history.

    Overlap is that of Jaccard: how many items both have, over how many either has. While the nearest
    history's is above `most`, a row loses the lightest item that it shares with that history.

    Args:
        rows: (S, I), not negative.
        histories: CSR (U, I).
        most: from 0 to 1.
    """
    rows, by_item = np.array(rows), histories.tocsc()
    part = lambda matrix, index: matrix.indices[matrix.indptr[index] : matrix.indptr[index + 1]]
    lengths = np.diff(histories.indptr)
    for row in rows:
        size, shared = np.count_nonzero(row), np.zeros(len(lengths), np.int64)
        for item in np.flatnonzero(row):
            shared[part(by_item, item)] += 1
        while size:
            overlap = shared / (size + lengths - shared)
            nearest = overlap.argmax()
            if overlap[nearest] <= most:
                break
            items = part(histories, nearest)
            items = items[row[items] > 0]
            lightest = items[row[items].argmin()]
            row[lightest] = 0
            shared[part(by_item, lightest)] -= 1
            size -= 1
    return rows
