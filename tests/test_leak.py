"""page/leak.py: against loops over sets and vectors, and with a history that is copied."""

import numpy as np
import pytest
import scipy.sparse as sp

from page import leak
from runs.synthetic_users import load_dataset, open_distilled


def similarities_of_pair(row, order, history):
    """The three measures by their definitions.

    Args:
        order: the row's items by weight, but those of weight 0.
        history: set of items.
    """
    real = np.zeros(len(row))
    real[list(history)] = 1
    top = set(order[: len(history)])
    centred = [vector - vector.mean() for vector in (row.astype(np.float64), real)]
    product = lambda a, b: a @ b / np.sqrt(a @ a) / np.sqrt(b @ b) if a @ a > 1e-12 and b @ b > 1e-12 else 0
    return {
        "cosine": product(row.astype(np.float64), real),
        "correlation": product(*centred),
        "jaccard": len(top & history) / len(top | history),
    }


@pytest.mark.parametrize("numbers_at_once", [1, 700, 10**9])
@pytest.mark.parametrize("excluded", [False, True])
def test_nearest_against_a_loop(monkeypatch, numbers_at_once, excluded):
    """References that are empty and one that has all items; rows with zeros and ties; blocks of any size."""
    monkeypatch.setattr(leak, "NUMBERS_AT_ONCE", numbers_at_once)
    rng = np.random.default_rng(0)
    references = rng.random((30, 25)) < rng.uniform(0.05, 0.6, 30)[:, None]
    references[[0, 7, 29]] = False
    references[3] = True
    rows = np.concatenate([rng.random((4, 25)), references[10:14]]).astype(np.float32)
    rows[1, :20] = 0
    own = np.array([[1, 5], [2, 2], [0, 7], [4, 0], [10, 1], [11, 2], [3, 12], [13, 4]])
    nearest = leak.nearest(
        rows, sp.csr_matrix(references.astype(np.int8)), np.random.default_rng(1), own, excluded
    )
    places = leak.ranks(rows, np.random.default_rng(1))
    for number, row in enumerate(rows):
        order = [item for item in np.argsort(places[number], kind="stable") if row[item] > 0]
        assert (np.diff(row[order]) <= 0).all() and sorted(order) == list(np.flatnonzero(row))
        pairs = {
            user: similarities_of_pair(row, order, set(np.flatnonzero(references[user])))
            for user in range(30)
            if references[user].any() and not (excluded and user in own[number])
        }
        for measure, (users, values, of_own) in nearest.items():
            best = max(pairs, key=lambda user: pairs[user][measure])
            assert values[number] == pytest.approx(pairs[best][measure], abs=1e-5), measure
            assert pairs[users[number]][measure] == pytest.approx(pairs[best][measure], abs=1e-5)
            if not excluded:
                of_its_own = [pairs[user][measure] for user in own[number] if user in pairs]
                assert of_own[number] == (max(of_its_own, default=-1) > pairs[best][measure] - 1e-5), measure
    if not excluded:  # the last four are copies
        for measure, (users, values, of_own) in nearest.items():
            assert (
                of_own[4:].all() and list(users[4:]) == [10, 11, 12, 13] and values[4:] == pytest.approx(1)
            ), measure


def test_seen_and_held_out_have_the_same_lengths(tiny):
    references = leak.references_of(tiny, np.random.default_rng(0))
    known = tiny.validation + tiny.test
    seen, held_out = references["seen"], references["held_out"]
    assert (np.diff(seen.indptr) == np.diff(held_out.indptr)).all() and held_out.nnz > 150
    assert (
        (seen.toarray() <= tiny.train.toarray()).all()
        and (held_out.toarray() <= known.toarray()).all()
        and seen.max() == held_out.max() == 1
    )


def test_copies_are_found_and_strangers_are_not(distilled_run):
    """Of rows that are the training rows they started from, all are copies in train, and not in held_out."""
    distilled = open_distilled(distilled_run)
    dataset = load_dataset(distilled)
    start = dataset.sample_users(distilled.settings["user_support"], distilled.settings["seed"])
    copied = leak.check(
        distilled._replace(rows=dataset.train[start].toarray().astype(np.float32) * 0.5 + np.float32(0.1)),
        dataset,
    )
    for measure in leak.MEASURES[1:]:
        assert (
            copied["references"]["train"][measure]["start"]
            == copied["references"]["train"][measure]["near"]
            == len(start)
        )
        assert copied["references"]["held_out"][measure]["start"] < len(start)
        for line, user in zip(copied["synthetic_users"], start):
            assert line["start"] == [line[measure]["user"]] == [dataset.user_ids[user]] and line[measure][
                "value"
            ] == pytest.approx(1, abs=1e-5)
    random = np.random.default_rng(0).random(distilled.rows.shape).astype(np.float32)
    strangers = leak.check(distilled._replace(rows=random), dataset)["references"]["train"]
    assert strangers["correlation"]["start"] <= 1 and strangers["correlation"]["near"] <= 1
