"""Is a user's history copied? Similarities of synthetic users to real ones, beside those among real users.

Each measure compares a row x, synthetic or real, with a real user's row r of n interactions. A copy has 1.

    cosine        x . r / (|x| |r|). At a high temperature every weight has a floor, which makes the longest
                  history the nearest to nearly everybody; hence also
    correlation   the cosine after each row's mean over the items is subtracted
    jaccard       of the n heaviest items of x and those of r; where more than n items of x weigh the same, as
                  in a real row, n of them at random

Training interactions of every real user shape the synthetic users, so no user is held out whole. Validation
and test interactions of every user are held out, and are the yardstick. There are three sets of references:

    train      all training interactions of each user
    seen       a random sample of them, of the size of held_out
    held_out   validation and test interactions, at most as many as training interactions

seen and held_out have the same users and the same lengths, and differ only in that training saw one of them.
Synthetic users that are nearer to seen than to held_out have learnt single histories. `near` counts the
synthetic users whose nearest reference is nearer than that of 95 % of real users among the others'
references. `start` counts the synthetic users to whom no reference is nearer than that of the real user, or
one of those, they started from. Where other users are asked than those of train (data.Dataset.new_users),
nothing is held out of the latter, and train stands alone.
"""

import numpy as np
import scipy.sparse as sp
from tqdm import tqdm

from lib.random_streams import Stream, generator

MEASURES = ("cosine", "correlation", "jaccard")
REAL_USERS = 1000  # drawn at random, and compared with all others
NUMBERS_AT_ONCE = 16_000_000  # entries of the largest array that a block of references needs
QUANTILES = (0.05, 0.5, 0.95, 1.0)


def ranks(rows, rng):
    """The place of each item in its row's order by weight, from 0, (Q, I) int32; an item of weight 0 has I.

    Args:
        rows: (Q, I), not negative.
        rng: orders equal weights.
    """
    places = np.empty(rows.shape, np.int32)
    for place, row in zip(places, rows):
        place[np.lexsort((rng.random(len(row)), -row))] = np.arange(len(row))
        place[row == 0] = len(row)
    return places


def similarities(rows, places, block):
    """Similarity of every row to every reference: {measure: (Q, b) float64}; 0 where it is not defined.

    Args:
        rows: (Q, I) float.
        places: (Q, I), their `ranks`.
        block: the references, CSR (b, I) of 0 and 1, no row empty.
    """
    items, n = rows.shape[1], np.diff(block.indptr)
    dot = (block.astype(np.float32) @ rows.T).T.astype(np.float64)
    total = rows.sum(axis=1, dtype=np.float64)[:, None]
    square = (rows**2).sum(axis=1, dtype=np.float64)[:, None]
    spread = np.sqrt(np.maximum(square - total**2 / items, 0) * (n - n**2 / items))
    ratio = lambda above, below: np.divide(above, below, out=np.zeros(above.shape), where=below > 1e-9)
    hit = places.T[block.indices] < np.repeat(n, n)[:, None]
    hits = np.add.reduceat(hit, block.indptr[:-1], axis=0, dtype=np.int32).T
    taken = np.minimum((rows > 0).sum(axis=1)[:, None], n)
    return {
        "cosine": ratio(dot, np.sqrt(square * n)),
        "correlation": ratio(dot - total * n / items, spread),
        "jaccard": hits / (taken + n - hits),
    }


def nearest(rows, references, rng, own, excluded, label=None):
    """The most similar reference of every row, computed a block of references at a time.

    Args:
        rows: (Q, I) float32.
        references: CSR (U, I) of 0 and 1; an empty one is never the nearest.
        rng: orders equal weights of a row.
        own: (Q, M), users for every row: itself, or those it started from.
        excluded: whether a row is not compared with its own user.
        label: of the progress bar.

    Returns:
        {measure: (users (Q,), similarities (Q,), whether one of its own is as near as any (Q,))}. Of equally
        near users the first; -1 if there is none.
    """
    places = ranks(rows, rng)
    best = {measure: (np.full(len(rows), -1), *np.full((2, len(rows)), -np.inf)) for measure in MEASURES}
    lengths = np.diff(references.indptr)
    users = np.flatnonzero(lengths)
    budget = max(NUMBERS_AT_ONCE // len(rows), 1)
    cuts = np.searchsorted(np.cumsum(lengths[users]), np.arange(budget, references.nnz, budget))
    for block in tqdm(np.split(users, np.unique(cuts)), desc=label, leave=False, disable=None):
        if not len(block):
            continue
        is_own = (own[:, :, None] == block).any(axis=1)
        for measure, values in similarities(rows, places, references[block]).items():
            best_users, best_values, own_values = best[measure]
            np.maximum(own_values, np.where(is_own, values, -np.inf).max(axis=1), out=own_values)
            if excluded:
                values[is_own] = -np.inf
            place = values.argmax(axis=1)
            highest = values[np.arange(len(rows)), place]
            better = highest > best_values
            best_users[better], best_values[better] = block[place[better]], highest[better]
    return {
        measure: (users, values, own_values >= values)
        for measure, (users, values, own_values) in best.items()
    }


def sample_of_each(matrix, count, rng):
    """A random sample of each row's entries, CSR (U, I).

    Args:
        matrix: CSR (U, I).
        count: (U,), the entries to take, at most the row's.
    """
    user = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((rng.random(matrix.nnz), user))
    kept = order[np.arange(matrix.nnz) - matrix.indptr[user] < count[user]]
    return sp.csr_matrix((matrix.data[kept], (user[kept], matrix.indices[kept])), matrix.shape)


def references_of(dataset, rng):
    """{"train", "seen", "held_out"}: CSR (U, I); rows of the last two have equal lengths. Or train alone."""
    held_out = dataset.validation + dataset.test
    # In some data sets an interaction is repeated in another part.
    held_out = sp.csr_matrix(held_out - held_out.multiply(dataset.train))
    held_out.eliminate_zeros()
    held_out.data[:] = 1
    if not held_out.nnz:
        return {"train": dataset.train}
    count = np.minimum(np.diff(dataset.train.indptr), np.diff(held_out.indptr))
    return {
        "train": dataset.train,
        "seen": sample_of_each(dataset.train, count, rng),
        "held_out": sample_of_each(held_out, count, rng),
    }


def check(distilled, dataset):
    """The content of leak.json: similarities of a run's synthetic users to their nearest real users.

    Args:
        distilled: runs.synthetic_users.SyntheticUsers.
        dataset: data.Dataset of the run.

    Returns:
        {"real_users": how many are compared,
         "references": {kind of references: {measure: {
            "real", "synthetic": {quantile: similarity to the nearest}, "near", "start": synthetic users}}},
         "synthetic_users": [{"user": its number, "start": [real users], measure: {"user", "value"}}]}.
        The last are the nearest in train. Real users have the data set's ids.
    """
    rng = generator(distilled.settings["seed"], Stream.LEAK)
    count, seed = distilled.settings["user_support"], distilled.settings["seed"]
    places = range(distilled.settings.get("start_users", 1))  # earlier runs had one
    start = np.stack([dataset.sample_users(count, seed, place) for place in places], axis=1)
    sample = np.sort(rng.choice(dataset.users, min(REAL_USERS, dataset.users), replace=False))
    real = dataset.train[sample].toarray().astype(np.float32)
    id_of = lambda user: dataset.user_ids[[user]].tolist()[0] if user >= 0 else None
    synthetic_users = [
        {"user": number, "start": [id_of(user) for user in users]} for number, users in enumerate(start)
    ]
    summary = {}
    for kind, references in references_of(dataset, rng).items():
        of_real = nearest(real, references, rng, sample[:, None], True, f"real users, {kind}")
        of_synthetic = nearest(distilled.rows, references, rng, start, False, f"synthetic users, {kind}")
        summary[kind] = {}
        for measure, (users, values, start_is_nearest) in of_synthetic.items():
            _, real_values, _ = of_real[measure]
            summary[kind][measure] = {
                "real": _quantiles(real_values),
                "synthetic": _quantiles(values),
                "near": int((values > np.quantile(real_values, 0.95)).sum()),
                "start": int((start_is_nearest & (users >= 0)).sum()),
            }
            if kind == "train":
                for line, user, value in zip(synthetic_users, users, values):
                    line[measure] = {"user": id_of(user), "value": round(float(value), 6)}
    return {"real_users": len(sample), "references": summary, "synthetic_users": synthetic_users}


def _quantiles(values):
    return {f"{share:.0%}": round(float(np.quantile(values, share)), 6) for share in QUANTILES}
