"""A run's random streams, by name: every number that NumPy draws for a run comes from one of them.

A stream depends on the seed, its name, and a position in it, such as a step. SeedSequence keeps names and
positions apart from the seed. Without it streams could coincide: `default_rng([seed, 4])` and
`default_rng([seed, 4, 0, 0])` draw the same numbers.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What is drawn; the position is in parentheses. Renumbering a stream changes every result."""

    START = 0  # users that synthetic ones begin as, or that are a random sample (of several: place)
    BATCH_USERS = 1  # the users of a batch (step, part of the step)
    BATCH_FED = 2  # which of their interactions are fed (step, part of the step)
    VALIDATION = 3  # validation's users, and their negatives for the AUC
    TEST = 4  # the test's negatives for the AUC
    NOISE_PLACES = 5  # which interactions data.add_noise replaces
    NOISE_ITEMS = 6  # the items it replaces them with
    SAMPLED_INTERACTIONS = 7  # the sampler `interactions`
    LEAK = 8  # page/leak.py: users to compare the synthetic users with
    ARRIVALS = 9  # the order in which users reach stream.py
    PART_SEED = 10  # stream.py: the seed of a part's batches (part)
    MEMORY = 11  # which real users stream.py remembers
    REDRAW = 12  # data.redraw: which interactions validate a rehearsal (draw)
    SAMPLED_ITEMS = 13  # the items that a batch ranks beside its users' own (step, part of the step)
    TIES = 14  # the order in which eval.py ranks items with the same score; of seed 0 in every run
    FACTORS = 15  # baselines.py --model=ials: the item factors that it starts from
    SHARES = 16  # which interactions of several real users a synthetic one begins with (place)


def generator(seed, stream, *position):
    """The numpy Generator at a stream's position.

    Args:
        seed: a whole number of at least 0.
        stream: a Stream.
        position: whole numbers from 0 to 2^32 - 1.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, *position)))
