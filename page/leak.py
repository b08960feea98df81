"""Is anybody's history copied? How near synthetic users come to real ones, beside what real users are to each other.

Three measures of a row x, synthetic or real, against a real user's row r of n interactions; all are 1 for a copy:

    cosine        x . r / (|x| |r|). At a high temperature every weight stands on a floor, which makes the
                  longest history the nearest for nearly everybody; so also
    correlation   the same after each row's mean over the items has been taken off
    jaccard       of the n items that weigh most in x (of a real x: n of theirs at random, or all) and those of r

Every real user's training interactions shape the synthetic users, so no user is held out whole. What is held out of every
user is their validation and test interactions, and those are the yardstick:

    train      all training interactions of each user
    seen       as many of them, at random, as of held_out
    held_out   as many of the user's validation and test interactions

Synthetic users that come nearer to seen than to held_out have learnt single histories; rows of the same users and
lengths, the two differ in nothing but that training saw one of them. `near` counts the synthetic users that are nearer to some
row than 95 of 100 real users are to the nearest row of another user, and `start` those to whom no row is nearer than that of the
very user whose history their logits began with.
"""

import numpy as np
import scipy.sparse as sp
from tqdm import tqdm

from lib.random_streams import Stream, generator

MEASURES = ("cosine", "correlation", "jaccard")
REAL_USERS = 1000  # asked for their nearest others, drawn at random
NUMBERS_AT_ONCE = 16_000_000  # what a block of references holds in memory
QUANTILES = (0.05, 0.5, 0.95, 1.0)


def ranks(rows, rng):
    """The place of each item in its row's order by weight, from 0, (Q, I) int32; equal weights in random order, weights of 0 at I.

    Args:
        rows: (Q, I), not negative.
    """
    places = np.empty(rows.shape, np.int32)
    for place, row in zip(places, rows):
        place[np.lexsort((rng.random(len(row)), -row))] = np.arange(len(row))
        place[row == 0] = len(row)
    return places


def similarities(rows, places, block):
    """Of every row to every reference: {measure: (Q, b) float64}; 0 where a row has nothing to compare.

    Args:
        rows: (Q, I) float.
        places: their `ranks`.
        block: CSR (b, I) of 0 and 1, no row empty.
    """
    items, n = rows.shape[1], np.diff(block.indptr)
    dot = (block.astype(np.float32) @ rows.T).T.astype(np.float64)
    total, square = (
        rows.sum(axis=1, dtype=np.float64)[:, None],
        (rows**2).sum(axis=1, dtype=np.float64)[:, None],
    )
    spread = np.sqrt(np.maximum(square - total**2 / items, 0) * (n - n**2 / items))
    ratio = lambda above, below: np.divide(above, below, out=np.zeros(above.shape), where=below > 1e-9)
    hits = np.add.reduceat(
        places.T[block.indices] < np.repeat(n, n)[:, None], block.indptr[:-1], axis=0, dtype=np.int32
    ).T
    taken = np.minimum((rows > 0).sum(axis=1)[:, None], n)
    return {
        "cosine": ratio(dot, np.sqrt(square * n)),
        "correlation": ratio(dot - total * n / items, spread),
        "jaccard": hits / (taken + n - hits),
    }


def nearest(rows, references, rng, own, excluded, label=None):
    """The most similar reference of every row, a block of references at a time.

    Args:
        rows: (Q, I) float32.
        references: CSR (U, I) of 0 and 1; empty rows are nobody's nearest.
        rng: breaks ties in the rows' weights.
        own: (Q,), for every row a reference that is its own in some way.
        excluded: whether that one is left out.
        label: of the progress bar.

    Returns:
        {measure: (users (Q,), values (Q,), whether the own one is as near as any (Q,))}, users being the first of equal ones,
        -1 where there is nobody.
    """
    places = ranks(rows, rng)
    best = {measure: (np.full(len(rows), -1), *np.full((2, len(rows)), -np.inf)) for measure in MEASURES}
    users = np.flatnonzero(np.diff(references.indptr))
    budget = max(NUMBERS_AT_ONCE // len(rows), 1)
    cuts = np.searchsorted(
        np.cumsum(np.diff(references.indptr)[users]), np.arange(budget, references.nnz, budget)
    )
    for part in tqdm(np.split(users, np.unique(cuts)), desc=label, leave=False, disable=None):
        if not len(part):
            continue
        mine = own[:, None] == part
        for measure, values in similarities(rows, places, references[part]).items():
            best[measure][2][mine.any(axis=1)] = values[mine]
            if excluded:
                values[mine] = -np.inf
            place = values.argmax(axis=1)
            found = values[np.arange(len(rows)), place]
            better = found > best[measure][1]
            best[measure][0][better], best[measure][1][better] = part[place[better]], found[better]
    return {measure: (users, values, of_own >= values) for measure, (users, values, of_own) in best.items()}


def some_of_each(matrix, count, rng):
    """`count` (U,) of each row's entries at random, CSR."""
    user = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((rng.random(matrix.nnz), user))
    kept = order[np.arange(matrix.nnz) - matrix.indptr[user] < count[user]]
    return sp.csr_matrix((matrix.data[kept], (user[kept], matrix.indices[kept])), matrix.shape)


def references_of(dataset, rng):
    """{"train", "seen", "held_out"}: CSR (U, I); the last two have as many entries in each row."""
    held_out = dataset.validation + dataset.test
    held_out = sp.csr_matrix(
        held_out - held_out.multiply(dataset.train)
    )  # some data have a pair in two parts
    held_out.eliminate_zeros()
    held_out.data[:] = 1
    count = np.minimum(np.diff(dataset.train.indptr), np.diff(held_out.indptr))
    return {
        "train": dataset.train,
        "seen": some_of_each(dataset.train, count, rng),
        "held_out": some_of_each(held_out, count, rng),
    }


def check(distilled, dataset):
    """All of the above for one run.

    Returns:
        What leak.json holds: {"real_users", "references": {name: {measure: {"real", "synthetic": quantiles of the similarity to
        the nearest, "near", "start": counts}}}, "synthetic_users": [{"user", "start", measure: {"user", "value"}}]}. The
        synthetic users' nearest are those in train; users are named by the data set's ids.
    """
    rng = generator(distilled.settings["seed"], Stream.LEAK)
    start = dataset.sample_users(distilled.settings["user_support"], distilled.settings["seed"])
    asked = np.sort(rng.choice(dataset.users, min(REAL_USERS, dataset.users), replace=False))
    real = dataset.train[asked].toarray().astype(np.float32)
    name = lambda user: dataset.user_ids[user].item() if user >= 0 else None
    summary, synthetic_users = (
        {},
        [{"user": number, "start": name(user)} for number, user in enumerate(start)],
    )
    for kind, references in references_of(dataset, rng).items():
        others = nearest(real, references, rng, asked, True, f"real users, {kind}")
        found = nearest(distilled.rows, references, rng, start, False, f"synthetic users, {kind}")
        summary[kind] = {}
        for measure, (users, values, of_start) in found.items():
            usual = others[measure][1]
            limit = np.quantile(usual, 0.95)
            summary[kind][measure] = {
                "real": _quantiles(usual),
                "synthetic": _quantiles(values),
                "near": int((values > limit).sum()),
                "start": int((of_start & (users >= 0)).sum()),
            }
            if kind == "train":
                for line, user, value in zip(synthetic_users, users, values):
                    line[measure] = {"user": name(user), "value": round(float(value), 6)}
    return {"real_users": len(asked), "references": summary, "synthetic_users": synthetic_users}


def _quantiles(values):
    return {f"{share:.0%}": round(float(np.quantile(values, share)), 6) for share in QUANTILES}
