"""The real users of a step, which of their interactions are fed, and which items the loss ranks.

All is drawn on the host. Where items are many and interactions few, a batch has few of the items: those of
its own users, and a sample of the others, which stands for all of them.
"""

from typing import NamedTuple

import jax
import numpy as np

import data
from lib import devices
from lib.random_streams import Stream, generator
from lib.sparse import Places, places

FED, HELD_OUT = 1, 2  # of a batch's entries
ROOM = 1.1  # for interactions, over their number in the mean


class Batch(NamedTuple):
    """Real users at J items, on the devices. B' is B and empty rows, which make the devices' shards even."""

    entries: jax.Array | None  # (B', J) int8: FED, HELD_OUT or 0
    items: jax.Array | None = None  # (J,) ascending, all that the users have among them; None: all I items
    counts: jax.Array | None = None  # (J,) how many items each stands for: 1 where a user has it
    fed: Places | None = None  # of (B, I)
    parts: tuple[Places, ...] | None = None  # of (B, J): what is fed and, last, the targets


def batch_users(batch_size, users):
    """B: how many real users a batch has; a batch_size of -1 is all users."""
    return users if batch_size == -1 else min(batch_size, users)


def make_batches(dataset, mesh, seed, batch_size, keep_prob, sampled_items, batches_per_step, dense="all"):
    """Draws the batches of every step.

    A batch is drawn without replacement. It depends on the seed and the step alone, not on the devices or the
    number of processes that share the users.

    Args:
        batch_size: B, or -1 for all users.
        keep_prob: the share of a user's interactions that is fed; 1 feeds all and holds out none.
        sampled_items: how many items to sample, at least, of those that no user of the batch has; -1: all.
        dense: "all": `entries` alone are given; "targets": what is fed is also given as Places; "nothing":
            `entries` are not given, and no items are sampled. The latter two are for one device.

    Returns:
        batches(step) -> a list of Batch.
    """
    size = batch_users(batch_size, dataset.users)
    room = ROOM * size * dataset.lengths[data.TRAIN].mean()

    def batch(step, part):
        chosen = np.arange(dataset.users)
        if size < dataset.users:
            rng = generator(seed, Stream.BATCH_USERS, step, part)
            chosen = np.sort(rng.choice(dataset.users, size, replace=False))
        position, rows = dataset.local_rows(chosen)
        batch = dataset.train[rows]
        rng = generator(seed, Stream.BATCH_FED, step, part)
        # The numbers for the interactions of other processes' users, which come first, are passed over.
        rng.bit_generator.advance(int(dataset.lengths[data.TRAIN, chosen[: position.start]].sum()))
        batch.data[:] = np.where(rng.random(batch.nnz) < keep_prob, FED, HELD_OUT)
        items = counts = None
        if sampled_items != -1:
            present = np.zeros(dataset.items, bool)
            present[dataset.gather(np.unique(batch.indices))] = True
            rng = generator(seed, Stream.SAMPLED_ITEMS, step, part)
            items, counts = choose_items(rng, present, 0 if dense == "nothing" else sampled_items)
        some = batch if items is None else batch[:, items]
        entries = None if dense == "nothing" else devices.spread(mesh, some.toarray(), capacity(chosen))
        fed = parts = None
        if dense != "all":
            fed = places(_only(batch, FED), room * keep_prob)
        if dense == "nothing":
            parts = (fed if items is None else places(_only(some, FED), room * keep_prob),)
            if keep_prob < 1:
                parts += (places(_only(some, HELD_OUT), room * (1 - keep_prob)),)
        return Batch(entries, *devices.replicate(mesh, (items, counts, fed, parts)))

    def capacity(chosen):
        """The most users of the batch that one process holds, rounded up."""
        processes = jax.process_count()
        most = np.diff(np.searchsorted(chosen, data.shard_offsets(dataset.users, processes))).max()
        # Rounded up, the shards of all batches have few shapes, each of which is compiled once.
        return most if processes == 1 else most + -most % (size // (16 * processes) + 1)

    if size == dataset.users and keep_prob == 1 and sampled_items == -1:
        everyone = [batch(0, 0)] * batches_per_step
        return lambda step: everyone
    return lambda step: [batch(step, part) for part in range(batches_per_step)]


def _only(matrix, value):
    """The entries of a CSR matrix that have this value, as a CSR matrix."""
    kept = matrix.copy()
    kept.data = (kept.data == value).astype(np.int8)
    kept.eliminate_zeros()
    return kept


def choose_items(rng, present, sampled):
    """The present items, and a sample of the others.

    Args:
        rng: numpy Generator.
        present: (I,) bool.
        sampled: the size of the sample, at least; it makes J one of devices.few_sizes, or I.

    Returns:
        ((J,) items, ascending; (J,) float32, how many items each stands for: the sample for all others).
    """
    absent = np.flatnonzero(~present)
    own = len(present) - len(absent)
    sampled = min(len(absent), devices.few_sizes(own + sampled) - own)
    chosen = rng.choice(absent, sampled, replace=False, shuffle=False)
    counts = present.astype(np.float32)
    counts[chosen] = len(absent) / max(sampled, 1)
    items = np.flatnonzero(counts)
    return items.astype(np.int32), counts[items]
