"""prep/filters.py: which interactions count, and the split, each against a loop."""

import numpy as np
import pytest
from conftest import pairs_of
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings

import data
from lib.errors import UserError
from prep import filters, tables


@hypothesis_settings(deadline=None)
@given(strategies.lists(strategies.integers(0, 8), max_size=200), strategies.integers(0, 2**32))
def test_split_keeps_the_counts_of_every_user(user, seed):
    """Against a loop: floor(0.8 n) - 1 train, floor(0.9 n) - floor(0.8 n) validation, the rest test."""
    user = np.array(user, int)
    part = filters.split_interactions(user, np.random.default_rng(seed))
    for one_user in set(user.tolist()):
        parts = part[user == one_user]
        n = len(parts)
        train, validation = n * 8 // 10 - 1, n * 9 // 10 - n * 8 // 10
        expected = [n, 0, 0, 0] if n < 3 else [0, train, validation, n - train - validation]
        assert [int((parts == code).sum()) for code in (-1, 0, 1, 2)] == expected
        assert n < 3 or ((parts == data.TRAIN).any() and (parts == data.TEST).any())


def test_split_depends_on_the_seed_and_takes_from_every_place_of_a_history():
    """Of 30 interactions 23 are train, 3 validation, 4 test: at each place within 4 standard deviations."""
    user = np.repeat(np.arange(400), 30)
    first, again, other = (
        filters.split_interactions(user, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert (first == again).all() and (first != other).any()
    for part, count in ((data.TRAIN, 23), (data.VALIDATION, 3), (data.TEST, 4)):
        share = (first.reshape(400, 30) == part).mean(axis=0)
        p = count / 30
        assert (np.abs(share - p) < 4 * np.sqrt(p * (1 - p) / 400)).all()


@hypothesis_settings(deadline=None)
@given(strategies.lists(strategies.integers(0, 8), max_size=200), strategies.integers(0, 2**32))
def test_a_split_in_which_every_user_validates(user, seed):
    """Validation and test have a tenth each, rounded up or down and at least one; train has the rest."""
    user = np.array(user, int)
    part = filters.split_interactions(user, *np.random.default_rng(seed).spawn(2))
    for one_user in set(user.tolist()):
        counts = [int((part[user == one_user] == code).sum()) for code in (-1, 0, 1, 2)]
        n = sum(counts)
        if n < 3:
            assert counts == [n, 0, 0, 0]
            continue
        allowed = {max(1, n // 10), max(1, -(-n // 10))}
        assert counts[0] == 0 and counts[1] >= 1 and {counts[2], counts[3]} <= allowed


def test_the_rounding_of_a_split_is_fair():
    """Of 15 interactions, validation and test have 1.5 each on average: within 4 standard deviations."""
    part = filters.split_interactions(np.repeat(np.arange(4000), 15), *np.random.default_rng(0).spawn(2))
    for code in (data.VALIDATION, data.TEST):
        assert abs((part.reshape(4000, 15) == code).sum(axis=1).mean() - 1.5) < 4 * 0.5 / 4000**0.5


@pytest.mark.parametrize("every_user", [False, True])
def test_users_split_some_at_a_time_are_split_alike(monkeypatch, every_user):
    user = np.sort(np.random.default_rng(0).integers(0, 60, 1000))
    whole = filters.split_sorted(user, 1, every_user)
    monkeypatch.setattr(filters, "SPLIT_AT_ONCE", 70)
    assert (filters.split_sorted(user, 1, every_user) == whole).all()


@pytest.mark.parametrize("largest", [50, 2**61])
def test_sorting_of_pairs_against_argsort(largest):
    key = np.random.default_rng(0).integers(0, 50, 1000) * (largest // 50)
    order = np.argsort(key, kind="stable")
    found, places = filters._sorted(key)
    assert (found == key[order]).all() and (places == order).all()


rows_of_interactions = strategies.lists(
    strategies.tuples(
        *(strategies.integers(0, 6),) * 2,
        strategies.integers(-2, 5),
        strategies.sampled_from([-np.inf, 1, 2, 3]),
    ),
    min_size=1,
    max_size=60,
)


@hypothesis_settings(deadline=None, max_examples=150)
@given(
    rows_of_interactions,
    strategies.builds(
        filters.Filters,
        min_rating=strategies.sampled_from([None, None, 2.0, 4.0]),
        min_count=strategies.sampled_from([None, None, 3.0]),
        min_user_count=strategies.integers(1, 4),
        min_item_count=strategies.integers(1, 4),
        since=strategies.sampled_from([None, None, 2.0]),
        until=strategies.sampled_from([None, None, 3.0]),
    ),
    strategies.booleans(),
    strategies.booleans(),
    strategies.booleans(),
)
def test_filters_against_a_loop(rows, chosen, timed, is_count, only_likes):
    user, item, rating, time = (np.array(column) for column in zip(*rows))
    interactions = tables.Interactions(
        user.astype(np.int32),
        np.arange(100, 107),
        item.astype(np.int32),
        np.array(list("abcdefg"), object),
        rating.astype(np.float32),
        time if timed else None,
        is_count,
    )
    arguments = interactions, chosen, only_likes
    between = chosen.since is not None or chosen.until is not None
    if between and not timed or chosen.min_count is not None and not is_count:
        with pytest.raises(
            UserError, match=r"--since and --until need times|--min-count is for counts|nothing is left"
        ):
            filters.filter_interactions(*arguments)
        return
    kept = (
        [row for row in rows if (chosen.since or -np.inf) <= row[3] < (chosen.until or np.inf)]
        if between
        else rows
    )
    kept = sorted(kept, key=lambda row: row[3]) if timed else kept
    pairs = {}
    for u, i, value, _ in kept:  # of ratings the latest stays, without times or at the same time the last
        pairs[u, i] = pairs.get((u, i), 0) + value if is_count else value
    lowest = max((one for one in (chosen.min_rating, chosen.min_count) if one is not None), default=-np.inf)
    if lowest == -np.inf and (is_count or only_likes and any(value > 0 for value in pairs.values())):
        lowest = 1e-9
    high = left = {pair: value for pair, value in pairs.items() if value >= lowest}
    while True:
        enough = {
            (u, i): value
            for (u, i), value in left.items()
            if sum(other == u for other, _ in left) >= chosen.min_user_count
            and sum(other == i for _, other in left) >= chosen.min_item_count
        }
        if len(enough) == len(left):
            break
        left = enough
    if not left:
        with pytest.raises(UserError, match="nothing is left"):
            filters.filter_interactions(*arguments)
        return
    found, lost = filters.filter_interactions(*arguments)
    assert pairs_of(found) == sorted((100 + u, "abcdefg"[i], float(r)) for (u, i), r in left.items())
    assert lost == {
        "outside_time": len(rows) - len(kept),
        "duplicates": len(kept) - len(pairs),
        "too_low": len(pairs) - len(high),
        "too_few": len(high) - len(left),
    }
    assert (np.diff(found.user.astype(int) * 100 + found.item) > 0).all()
    assert len(set(found.user)) == len(found.user_ids) and len(set(found.item)) == len(found.item_ids)


@pytest.mark.parametrize(
    "chosen, words",
    [
        (filters.Filters(min_rating=6), "the highest rating of 4 is 5, and 6 is wanted. Lower --min-rating"),
        (
            filters.Filters(min_user_count=4, min_item_count=2),
            "Lower --min-user-count or --min-item-count. Check",
        ),
        (
            filters.Filters(),
            "Check that the columns are the right ones; if a row is a user with all of their items",
        ),
        (filters.Filters(since=0.0), "--since and --until need times"),
    ],
)
def test_what_leaves_nothing_is_said_with_what_to_change(chosen, words):
    places = np.arange(4, dtype=np.int32)
    ratings = np.array([5, 4, 3, 2], np.float32)
    with pytest.raises(UserError, match=words):
        filters.filter_interactions(
            tables.Interactions(places, np.arange(4), places, np.arange(4), ratings), chosen
        )
