"""The real users of a step, and which of their interactions are fed; drawn on the host."""

import jax
import numpy as np

import data
from lib import devices
from lib.random_streams import Stream, generator

FED, HELD_OUT = 1, 2  # of a batch's entries


def batch_users(batch_size, users):
    """B: how many real users a batch has; a batch_size of -1 is all users."""
    return users if batch_size == -1 else min(batch_size, users)


def make_batches(dataset, mesh, seed, batch_size, keep_prob, batches_per_step):
    """Draws the batches of every step.

    A batch is drawn without replacement. It depends on the seed and the step alone, not on the devices or the
    number of processes that share the users.

    Args:
        batch_size: B, or -1 for all users.
        keep_prob: the share of a user's interactions that is fed; 1 feeds all and holds out none.

    Returns:
        batches(step) -> a list of arrays (B', I) int8 on the devices. An entry is FED, HELD_OUT or 0. B' is B
        and the empty rows that make the devices' shards even.
    """
    size = batch_users(batch_size, dataset.users)

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
        return devices.spread(mesh, batch.toarray(), capacity(chosen))

    def capacity(chosen):
        """The most users of the batch that one process holds, rounded up."""
        processes = jax.process_count()
        most = np.diff(np.searchsorted(chosen, data.shard_offsets(dataset.users, processes))).max()
        # Rounded up, the shards of all batches have few shapes, each of which is compiled once.
        return most if processes == 1 else most + -most % (size // (16 * processes) + 1)

    if size == dataset.users and keep_prob == 1:
        everyone = [batch(0, 0)] * batches_per_step
        return lambda step: everyone
    return lambda step: [batch(step, part) for part in range(batches_per_step)]
