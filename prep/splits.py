"""Train, validation and test by users, by time, by each user's last interactions, or by three files.

The split at random is filters.split_sorted. Whatever the split, a model is asked twice (data.Dataset's
validation_view and test_view): for the validation targets its context is the user's train rows, for the test
targets their train and validation rows. So the context is

    random   a random part of the user's history
    users    a random four fifths of the history of a user whom no model is trained on
    time     what the user did before the first point in time; for the test, before the second
    last     all of the user's interactions but the last two; for the test, all but the last
    files    the user's rows in the train file; for the test, in the train and the validation file

By users, those who validate and those who are tested are new users (data.Dataset.new_users), whom train does
not have. By time and by files, a user may have no targets for validation, for the test, or for either: they
are context and train rows only, and no mean has them. Interactions of validation and test whose user or item
train does not have are left out (part -1), since no model can know them; by users, those with such items. At
random and by the last ones such items stay, as misses: every user keeps what the split gave them.
"""

import numpy as np
import pandas as pd

from data import CONTEXT, DROPPED, TEST, TRAIN, VALIDATION
from lib.errors import UserError
from prep.filters import FEWEST_INTERACTIONS, Filters, blocks_of_users, filter_interactions, split_sorted
from prep.tables import Interactions, Reading, encode

RANDOM, USERS, TIME, LAST, FILES = "random", "users", "time", "last", "files"
TIMED = (TIME, LAST)  # what needs times
PAPERS, EVERY_USER = "the paper's", "every user validates"  # the two kinds of random, in a manifest
PARTS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}  # in the order of the files
FEWEST_TIMES = 3  # one for each part
TEST_USERS, VALIDATION_USERS, MOST_USERS = 6, 12, 10_000  # one of so many is new, and at most so many are
ASKED = 5  # one of so many interactions of a new user; the others are fed


def divide(interactions, split, seed, every_user):
    """The part of each interaction.

    Args:
        interactions: as from `filter_interactions`; by time, and by the last ones, with times.
        split: RANDOM, USERS, TIME or LAST.
        every_user: of a split at random, as in filters.split_sorted.

    Returns:
        ((N,) int8 of TRAIN, VALIDATION, TEST, DROPPED; {what was left out: how many}; {key: value} for the
        manifest).

    Raises:
        UserError: the times do not suffice, or a part is empty.
    """
    if split == RANDOM:
        kind = EVERY_USER if every_user else PAPERS
        return split_sorted(interactions.user, seed, every_user), {}, {"split": kind}
    if split == USERS:
        return split_users(interactions.user, interactions.item, seed)
    if interactions.time is None:
        raise UserError(
            f"--split={split} needs times, and there is no column of them. Name it with --time-col; of a "
            f"prepared data set, split the raw file. Or try --split={RANDOM}"
        )
    if split == LAST:
        return split_last(interactions.user, interactions.time, seed), {}, {}
    part, points = split_by_time(interactions.time)
    part, lost = leave_out_unknown(interactions.user, interactions.item, part)
    return part, lost, {"split_times": points}


def split_users(user, item, seed):
    """Random users are tested, others validate, and train is all interactions of the rest.

    Of a new user's interactions a random fifth is asked for, at least one, and the others are CONTEXT.
    Before, those with items that train does not have go, and new users who then have fewer than two.

    Args:
        user: (N,) whole numbers, sorted.
        item: (N,) whole numbers from 0.

    Returns:
        As `divide`.

    Raises:
        UserError: there are fewer than twelve users.
    """
    ids, number = np.unique(user, return_inverse=True)
    rng, part_of = np.random.default_rng(seed), np.full(len(ids), TRAIN, np.int8)
    tested, validating = (min(len(ids) // share, MOST_USERS) for share in (TEST_USERS, VALIDATION_USERS))
    if not validating:
        raise UserError(
            f"--split={USERS} needs at least {VALIDATION_USERS} users, and there are {len(ids)}. "
            f"Try --split={RANDOM}"
        )
    new = rng.permutation(len(ids))[: tested + validating]
    part_of[new[:tested]], part_of[new[tested:]] = TEST, VALIDATION
    part = part_of[number]
    known = np.zeros(item.max() + 1, bool)
    known[item[part == TRAIN]] = True
    unknown = ~known[item]
    part[unknown] = DROPPED
    of_new = np.flatnonzero((part == TEST) | (part == VALIDATION))
    order = of_new[np.lexsort((rng.random(len(of_new)), user[of_new]))]
    _, first, count = np.unique(user[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(first, count)
    count = np.repeat(count, count)
    is_context = place >= np.maximum(count // ASKED, 1)
    part[order] = np.select([count < 2, is_context], [DROPPED, CONTEXT], part[order])
    lost = {"unknown": int(unknown.sum()), "unknown_users": 0, "unknown_items": len(np.unique(item[unknown]))}
    lost["too_short"] = int((count < 2).sum())
    return part, lost, {"new_users": {"validation": validating, "test": tested}}


def split_by_time(time):
    """Train before a point in time, validation from it to before a second point, and test from there on.

    The points are times of interactions: those that bring the share of the test, and then of validation and
    test together, closest to one and two tenths. All interactions of one moment are in one part.

    Args:
        time: (N,) seconds since 1970; -inf, for an unknown time, is the earliest.

    Returns:
        ((N,) int8 of TRAIN, VALIDATION, TEST; the two points in seconds since 1970).

    Raises:
        UserError: there are fewer than three different times.
    """
    moments, count = np.unique(time, return_counts=True)
    if len(moments) < FEWEST_TIMES:
        raise UserError(
            f"--split={TIME} needs at least {FEWEST_TIMES} different times, and there are {len(moments)}. "
            f"Try --split={RANDOM}"
        )
    before = np.cumsum(count) - count  # how many interactions are before each moment
    closest = lambda share, first, stop: first + np.abs(before[first:stop] - share * len(time)).argmin()
    second = closest(0.9, 2, len(moments))
    first = closest(0.8, 1, second)
    points = moments[[first, second]]
    return np.searchsorted(points, time, side="right").astype(np.int8), points.tolist()


def split_last(user, time, seed):
    """Each user's last interaction is test, the one before it validation, and the rest train.

    A seeded draw orders interactions of the same time: the order of a file often means nothing, and the same
    interactions are then split alike wherever they came from. Users with n < 3 are dropped, as at random:
    the splits of the same data are then of the same users.

    Args:
        user: (N,) whole numbers, sorted.
        time: (N,) seconds since 1970; -inf, for an unknown time, is the earliest.

    Returns:
        (N,) int8 of TRAIN, VALIDATION, TEST, DROPPED.
    """
    rng, part = np.random.default_rng(seed), np.empty(len(user), np.int8)
    for block in blocks_of_users(user):
        count = np.unique(user[block], return_counts=True)[1]
        order = np.lexsort((rng.random(count.sum()), time[block], user[block]))
        later = np.repeat(np.cumsum(count), count) - 1 - np.arange(len(order))  # interactions after each
        conditions = [np.repeat(count < FEWEST_INTERACTIONS, count), later == 0, later == 1]
        part[block][order] = np.select(conditions, [DROPPED, TEST, VALIDATION], TRAIN)
    return part


def leave_out_unknown(user, item, part):
    """The parts without the validation and test interactions whose user or item train does not have.

    Args:
        user, item: (N,) whole numbers from 0.
        part: (N,) int8 of TRAIN, VALIDATION, TEST, DROPPED.

    Returns:
        ((N,) int8, the same with more DROPPED; {"unknown": interactions that are left out,
        "unknown_users", "unknown_items": the users and items because of whom}).

    Raises:
        UserError: nothing is left of train, validation or test.
    """
    held_out, missing, lost = (part == VALIDATION) | (part == TEST), np.zeros(len(part), bool), {}
    for kind, ids in (("users", user), ("items", item)):
        known = np.zeros(ids.max() + 1, bool)
        known[ids[part == TRAIN]] = True
        of_kind = held_out & ~known[ids]
        missing |= of_kind
        lost[f"unknown_{kind}"] = len(np.unique(ids[of_kind]))
    left = np.where(missing, np.int8(DROPPED), part)
    for name, code in PARTS.items():
        if not (left == code).any():
            why = "it has no interactions, or an earlier file has all of them"
            if (part == code).any():
                why = "train does not have the users or items of its interactions. Try another --split"
            raise UserError(f"nothing is left of {name}: {why}")
    return left, {"unknown": int(missing.sum()), **lost}


def split_as_given(readings):
    """The Readings of a train, a validation and a test file as one data set with this split.

    Within a file a pair's rows become one, and ratings and counts of 0 and less go, as filter_interactions
    does in any file of one's own. No other filter is applied: it would change a split that is given. A pair
    in two files stays in the first of them. Then `leave_out_unknown` goes over the parts.

    Returns:
        (Reading of all rows; Interactions sorted by user and item, without times; (N,) int8 of TRAIN,
        VALIDATION, TEST, DROPPED; {what was left out: how many}).

    Raises:
        UserError: a part is empty.
    """
    reading, part = _joined(readings)
    interactions, part, lost = _each_pair_once(reading.interactions, part)
    part, unknown = leave_out_unknown(interactions.user, interactions.item, part)
    return reading, interactions, part, {**lost, **unknown}


def _joined(readings):
    """(One Reading, (N,) int8 part of each of its interactions) of the three files' Readings."""
    files = [reading.interactions for reading in readings]
    user, user_ids = _same_ids([(file.user, file.user_ids) for file in files])
    item, item_ids = _same_ids([(file.item, file.item_ids) for file in files])
    timed = all(file.time is not None for file in files)
    joined = Interactions(
        user,
        user_ids,
        item,
        item_ids,
        rating=np.concatenate([file.rating for file in files]),
        time=np.concatenate([file.time for file in files]) if timed else None,
        is_count=all(file.is_count for file in files),
    )
    titles = [reading.titles for reading in readings if reading.titles is not None]
    sums = {key: sum(getattr(reading, key) for reading in readings) for key in ("rows", "bad", "missing")}
    notes = [note for reading in readings for note in reading.notes]
    part = np.repeat(np.array(list(PARTS.values()), np.int8), [len(file.user) for file in files])
    return Reading(joined, pd.concat(titles) if titles else None, notes=notes, **sums), part


def _same_ids(columns):
    """((N,) int32 codes, ids) of the (codes, ids) of several files, one after another."""
    places, ids = encode(np.concatenate([ids.astype(str).astype(object) for _, ids in columns]))
    starts = np.cumsum([0, *(len(ids) for _, ids in columns)])
    return np.concatenate([places[start:][codes] for start, (codes, _) in zip(starts, columns)]), ids


def _each_pair_once(interactions, part):
    """(Interactions sorted by user and item; part, DROPPED where an earlier one has the pair; losses)."""
    users = len(interactions.user_ids)
    # To the filter, a user is another one in each file.
    of_part = part.astype(np.int32) * users + interactions.user
    apart = interactions._replace(user=of_part, user_ids=np.arange(len(PARTS) * users))
    left, lost = filter_interactions(apart, Filters(min_user_count=1), only_likes=True)
    part, user = np.divmod(left.user_ids[left.user], users)
    order = np.lexsort((part, left.item, user))
    user, item, part = user[order], left.item[order], part[order].astype(np.int8)
    again = np.append(False, (user[1:] == user[:-1]) & (item[1:] == item[:-1]))
    part[again] = DROPPED
    used, user = np.unique(user, return_inverse=True)
    left = left._replace(
        user=user.astype(np.int32), user_ids=interactions.user_ids[used], item=item, rating=left.rating[order]
    )
    return left, part, {**lost, "in_two_files": int(again.sum())}
