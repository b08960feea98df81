"""Generated interactions of any size, with few long histories and few popular items.

Benchmarks measure speed and memory on them, which do not depend on who liked what.
"""

import numpy as np

from data import TRAIN
from prep.filters import split_interactions
from prep.write import write_layout

MOVIELENS_1M = 6040, 3706, 1_000_000  # users, items, interactions
USERS_AT_ONCE = 20_000


def interactions(rng, users, items, count):
    """Distinct (user, item) pairs, sorted: int32 (2, N), with N near `count`, and every user in it.

    The length of a history is lognormal. The k-th most popular item is drawn in proportion to
    (k + 10)^-0.8; the order of the item numbers is random.

    Args:
        rng: numpy Generator.
        users, items: U and I.
        count: about how many pairs.
    """
    share = rng.lognormal(0, 1, users)
    length = np.clip(share / share.sum() * count, min(20, count / users / 2), items / 3)
    drawn = -items * np.log1p(-length / items) * 1.1  # more, because repeated pairs are dropped below
    popularity = np.cumsum((np.arange(items) + 10) ** -0.8)
    # A table in which items stand in proportion to their popularity: faster than a search for every draw.
    quantiles = (np.arange(2**20) + 0.5) / 2**20 * popularity[-1]
    table = rng.permutation(items)[np.searchsorted(popularity, quantiles)]
    parts = []
    for start in range(0, users, USERS_AT_ONCE):
        counts = drawn[start : start + USERS_AT_ONCE].astype(np.int64)
        user = np.repeat(np.arange(start, start + len(counts)), counts)
        key = np.sort(user * items + table[rng.integers(2**20, size=len(user))])
        key = key[np.append(True, key[1:] != key[:-1])]
        parts.append(np.stack([key // items, key % items]).astype(np.int32))
    return np.concatenate(parts, axis=1)


def write_data_set(folder, users, items, count, seed, tested=None):
    """Writes a data set of `interactions`, all rated 1, split at random, in a new folder.

    Args:
        tested: only so many users have validation and test interactions; None: all.
    """
    rng = np.random.default_rng(seed)
    user, item = interactions(rng, users, items, count)
    part = np.where(user < (tested or users), split_interactions(user, rng), TRAIN)
    folder.mkdir()
    write_layout(folder, user, item, np.ones(len(user), np.float32), part)


def write_netflix(path, user, item, rng):
    """Writes (user, item) pairs as the Netflix Prize does: 'movie:', then its lines 'user,rating,date'."""
    order = np.argsort(item, kind="stable")
    user, rating = user[order], rng.integers(1, 6, len(user), np.int8)
    bounds = np.searchsorted(item[order], np.arange(item.max() + 2))
    with open(path, "wb") as file:
        for movie in np.flatnonzero(np.diff(bounds)):
            span = slice(bounds[movie], bounds[movie + 1])
            lines = "".join(
                f"{u},{r},2005-09-06\n" for u, r in zip(user[span].tolist(), rating[span].tolist())
            )
            file.write(f"{movie + 1}:\n{lines}".encode())
