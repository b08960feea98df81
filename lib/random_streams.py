"""The random streams of a run, by name: whatever NumPy draws for one begins here.

A stream is a function of the seed, of its name and of a position within it, such as a step. Names and positions
are kept apart from the seed, so that no two of them begin alike: `default_rng([seed, 4])` and
`default_rng([seed, 4, 0, 0])` would be one stream.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What is drawn, and by which position. A number stays as it is: with another one every result changes."""

    START = 0  # the users that synthetic users begin as, and those of a random sample
    BATCH_USERS = 1  # step, part of it
    BATCH_FED = 2  # step, part of it
    VALIDATION = 3  # its users, and the negatives of the AUC
    TEST = 4  # the negatives of the AUC
    NOISE_PLACES = 5
    NOISE_ITEMS = 6
    SAMPLED_INTERACTIONS = 7
    LEAK = 8
    ARRIVALS = 9  # the order in which users of stream.py come
    PART_SEED = 10  # the part: the seed of its batches
    MEMORY = 11  # which real users stream.py remembers


def generator(seed, stream, *position):
    """The numpy Generator of a stream at a position.

    Args:
        seed, position: whole numbers from 0, below 2^32.
        stream: one of Stream.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, *position)))
