"""The real users that a step of distill.py asks, and what of them it feeds: drawn on the host, spread over the devices."""

import jax
import numpy as np

import data
from lib import devices
from lib.random_streams import Stream, generator

FED, HELD_OUT = 1, 2  # of a batch's entries


def batch_users(settings, dataset):
    """B: how many real users a batch has."""
    return dataset.users if settings["batch_size"] == -1 else min(settings["batch_size"], dataset.users)


def make_batches(settings, dataset, mesh):
    """batches(step) -> a list of accumulate_steps arrays (B', I) int8 of real users, on the devices.

    An entry is FED, an interaction to feed, HELD_OUT, one to predict from what is fed, or 0. A batch is
    drawn without replacement, and depends on the seed and the step alone: neither on the devices nor on
    how many processes the users are divided among. B' is B and the empty rows that make the shares even.
    """
    size = batch_users(settings, dataset)
    keep_prob = settings["keep_prob"] if settings["objective"] == "held_out" else 1

    def batch(step, part):
        chosen = np.arange(dataset.users)
        if size < dataset.users:
            rng = generator(settings["seed"], Stream.BATCH_USERS, step, part)
            chosen = np.sort(rng.choice(dataset.users, size, replace=False))
        position, rows = dataset.own(chosen)
        batch = dataset.train[rows]
        rng = generator(settings["seed"], Stream.BATCH_FED, step, part)
        # The numbers for the interactions of other processes' users, which come first, are passed over.
        rng.bit_generator.advance(int(dataset.lengths[data.TRAIN, chosen[: position.start]].sum()))
        batch.data[:] = np.where(rng.random(batch.nnz) < keep_prob, FED, HELD_OUT)
        return devices.spread(mesh, batch.toarray(), capacity(chosen))

    def capacity(chosen):
        processes = jax.process_count()
        most = np.diff(np.searchsorted(chosen, data.shares(dataset.users, processes))).max()
        # The shares of a batch vary. Rounded up, they have few shapes, each of which is compiled once.
        return most if processes == 1 else most + -most % (size // (16 * processes) + 1)

    if size == dataset.users and keep_prob == 1:
        everyone = [batch(0, 0)] * settings["accumulate_steps"]
        return lambda step: everyone
    return lambda step: [batch(step, part) for part in range(settings["accumulate_steps"])]
