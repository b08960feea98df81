"""Generated interactions of any size, for benchmarks: power laws in users and items, nobody's history twice.

What is measured on them is speed and memory, which do not depend on who liked what.
"""

import io

import numpy as np
import pyarrow as pa
from pyarrow import csv

from prep.preprocess import split_interactions, write_layout

USERS_AT_ONCE = 20_000


def interactions(rng, users, items, count):
    """Distinct (user, item) pairs, sorted, int32 each; about `count` of them, at least one a user.

    A user's length is lognormal; the k-th most popular item is drawn in proportion to (k + 10)^-0.8, and
    the popular ones are anywhere among the items' numbers.
    """
    share = rng.lognormal(0, 1, users)
    length = np.clip(share / share.sum() * count, 20, items / 3)
    drawn = -items * np.log1p(-length / items) * 1.1  # so that, without repeats, about as many are left
    popularity = np.cumsum((np.arange(items) + 10) ** -0.8)
    # A table of the inverse distribution, each item as many times as it is popular: quicker than a search.
    table = rng.permutation(items)[
        np.searchsorted(popularity, (np.arange(2**20) + 0.5) / 2**20 * popularity[-1])
    ]
    parts = []
    for start in range(0, users, USERS_AT_ONCE):
        many = drawn[start : start + USERS_AT_ONCE].astype(np.int64)
        user = np.repeat(np.arange(start, start + len(many)), many)
        key = np.sort(user * items + table[rng.integers(2**20, size=len(user))])
        key = key[np.append(True, key[1:] != key[:-1])]
        parts.append(np.stack([key // items, key % items]).astype(np.int32))
    return np.concatenate(parts, axis=1)


def write_data_set(folder, users, items, count, seed):
    """A data set of `interactions`, all rated 1, split at random, in a new folder; how many it has."""
    rng = np.random.default_rng(seed)
    user, item = interactions(rng, users, items, count)
    folder.mkdir()
    write_layout(folder, user, item, np.ones(len(user), np.float32), split_interactions(user, rng))
    return len(user)


def write_netflix(path, user, item, rng):
    """The pairs in the format of the Netflix Prize: a line 'movie:', then a line 'user,rating,date' for each rating of it."""
    order = np.argsort(item, kind="stable")
    user, rating = user[order], rng.integers(1, 6, len(user), np.int8)
    bounds = np.searchsorted(item[order], np.arange(item.max() + 2))
    options = csv.WriteOptions(include_header=False)
    with open(path, "wb") as file:
        for movie in np.flatnonzero(np.diff(bounds)):
            here = slice(bounds[movie], bounds[movie + 1])
            table = pa.table(
                {
                    "user": user[here],
                    "rating": rating[here],
                    "date": pa.array(["2005-09-06"] * (here.stop - here.start)),
                }
            )
            lines = io.BytesIO()
            csv.write_csv(table, lines, options)
            file.write(f"{movie + 1}:\n".encode() + lines.getvalue().replace(b'"', b""))
