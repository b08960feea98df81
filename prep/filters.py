"""Which interactions count, and the split at random: pure functions of arrays."""

from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import numpy as np

from data import DROPPED, TEST, TRAIN, VALIDATION
from lib.errors import UserError

FEWEST_INTERACTIONS = 3  # of a user; fewer cannot be split
SPLIT_AT_ONCE = 5_000_000  # interactions


class Filters(NamedTuple):
    """What to keep."""

    min_rating: float | None = None  # the lowest rating; None: all, or those above 0 (`filter_interactions`)
    min_count: float | None = None  # the lowest sum of a pair's counts, or number of its rows
    min_user_count: int = FEWEST_INTERACTIONS  # the fewest pairs of a user
    min_item_count: int = 1  # and of an item
    since: float | None = None  # seconds since 1970: the first moment that counts
    until: float | None = None  # the first moment that counts no more


def moments(since, until):
    """{"since", "until"}: seconds since 1970 of a first and a last day, such as "2020-01-31", or None.

    They are days of UTC; until is the day's end. Moments such as 2020-01-31T12:00 will do, too.
    """
    found = {"since": _moment("since", since), "until": _moment("until", until, days=1)}
    if None not in found.values() and found["since"] >= found["until"]:
        raise UserError(f"--since={since} is after --until={until}")
    return found


def _moment(option, text, days=0):
    if text is None:
        return None
    try:
        day = date.fromisoformat(text)
        return (datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=days)).timestamp()
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"--{option} must be a day such as 2020-01-31, not {text}") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def filter_interactions(interactions, filters, only_likes=False, keep_times=False):
    """The interactions that count, each pair once, sorted by user and item, and how many were left out.

    Rows outside of since and until go first. Then a pair's rows become one: counts are summed; of ratings the
    latest by time is kept or, without times, the last in the file. Then pairs with too low a value go, sums
    of 0 and less always. At last users and items with too few pairs go, until all that remain have enough.

    Args:
        interactions: tables.Interactions.
        filters: Filters.
        only_likes: whether, without min_rating, ratings of 0 and less go if there are any above 0.
        keep_times: whether the result has a time for each pair: that of the rating that is kept; of counts
            the first, since from then on the user knows the item. Without, it takes less memory.

    Returns:
        (Interactions with only the ids that remain, without times unless keep_times;
        {"outside_time", "duplicates", "too_low", "too_few": how many rows, rows, pairs, pairs}).

    Raises:
        UserError: nothing is left, or the filters do not fit the interactions.
    """
    rows = len(interactions.user)
    if not rows:
        raise UserError("nothing is left: there are no interactions")
    interactions = _within(interactions, filters.since, filters.until)
    user, item, rating, time = _one_row_a_pair(interactions, keep_times)
    pairs = len(user)
    enough = _high_enough(rating, interactions.is_count, filters, only_likes)
    user, item, rating, time = _only(enough, user, item, rating, time)
    high = len(user)
    while True:
        per_user, per_item = np.bincount(user), np.bincount(item)
        enough = (per_user[user] >= filters.min_user_count) & (per_item[item] >= filters.min_item_count)
        if enough.all():
            break
        if not enough.any():
            raise UserError(_nothing_left(high, per_user.max(), per_item.max(), filters))
        user, item, rating, time = _only(enough, user, item, rating, time)
    lost = {
        "outside_time": rows - len(interactions.user),
        "duplicates": len(interactions.user) - pairs,
        "too_low": pairs - high,
        "too_few": high - len(user),
    }
    user, user_ids = _compact(user, interactions.user_ids)
    item, item_ids = _compact(item, interactions.item_ids)
    left = interactions._replace(
        user=user, user_ids=user_ids, item=item, item_ids=item_ids, rating=rating, time=time
    )
    return left, lost


def _within(interactions, since, until):
    """The interactions from since to before until."""
    if since is None and until is None:
        return interactions
    time = interactions.time
    if time is None:
        raise UserError(
            "--since and --until need times, and there is no column of them. Name it with --time-col"
        )
    kept = (time >= (-np.inf if since is None else since)) & (time < (np.inf if until is None else until))
    if not kept.any():
        known = time[np.isfinite(time)]
        if not len(known):
            raise UserError(
                "nothing is left: no row has a time that can be read. Leave out --since and --until"
            )
        first, last = (datetime.fromtimestamp(one, UTC).date() for one in (known.min(), known.max()))
        raise UserError(f"nothing is left: the times go from {first} to {last}. Change --since or --until")
    columns = {name: getattr(interactions, name)[kept] for name in ("user", "item", "rating", "time")}
    return interactions._replace(**columns)


def _one_row_a_pair(interactions, keep_times):
    """(user, item, rating, time or None) with each pair once, sorted by user and item."""
    items = len(interactions.item_ids)
    key = interactions.user.astype(np.int64) * items + interactions.item
    key, order = _sorted(key)
    rating, time = interactions.rating, interactions.time
    starts = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    if interactions.is_count:
        rating = np.add.reduceat(rating[order], starts, dtype=np.float64)
        time = np.minimum.reduceat(time[order], starts) if keep_times and time is not None else None
    else:
        if len(starts) < len(key):
            if time is not None:  # only the rows with the latest time of their pair
                sorted_time, rows_of_pair = time[order], np.diff(np.append(starts, len(key)))
                latest = np.repeat(np.maximum.reduceat(sorted_time, starts), rows_of_pair)
                order = np.where(sorted_time == latest, order, -1)
            order = np.maximum.reduceat(order, starts)  # of these, the last in the file
        rating, time = _only(order, rating, time if keep_times else None)
    key = key[starts]
    return (key // items).astype(np.int32), (key % items).astype(np.int32), rating.astype(np.float32), time


def _only(rows, *columns):
    """The columns at these rows; a column may be None."""
    return [None if column is None else column[rows] for column in columns]


def _sorted(key):
    """(the sorted key, the place that each had), equal ones by place; key is (n,) int64, from 0."""
    bits = len(key).bit_length()
    if int(key.max()).bit_length() + bits > 63:
        order = np.argsort(key, kind="stable")
        return key[order], order
    packed = np.sort((key << bits) | np.arange(len(key)))  # several times faster than argsort
    return packed >> bits, packed & ((1 << bits) - 1)


def _high_enough(rating, is_count, filters, only_likes):
    """(n,) bool: the pairs whose ratings or counts are high enough."""
    if filters.min_count is not None and not is_count:
        raise UserError(
            "--min-count is for counts, and the values were read as ratings. Name the column of counts with "
            "--count-col, or give --min-rating"
        )
    lowest = [value for value in (filters.min_rating, filters.min_count) if value is not None]
    if lowest:
        enough, option = rating >= max(lowest), f"{max(lowest):g}"
    elif is_count or only_likes and rating.max() > 0:
        enough, option = rating > 0, "above 0"
    else:
        return np.ones(len(rating), bool)
    if not enough.any():
        what, name = ("count", "--min-count") if filters.min_rating is None else ("rating", "--min-rating")
        raise UserError(
            f"nothing is left: the highest {what} of {len(rating):,} is {rating.max():g}, "
            f"and {option} is wanted" + (f". Lower {name}" if lowest else "")
        )
    return enough


def _nothing_left(pairs, most_of_user, most_of_item, filters):
    lowered = [
        option
        for option, value, least in (
            ("--min-user-count", filters.min_user_count, FEWEST_INTERACTIONS),
            ("--min-item-count", filters.min_item_count, 1),
            ("--min-rating", filters.min_rating, -np.inf),
            ("--min-count", filters.min_count, -np.inf),
        )
        if value is not None and value > least
    ]
    return (
        f"nothing is left: of {pairs:,} interactions, leaving out users with fewer than "
        f"{filters.min_user_count} and items with fewer than {filters.min_item_count} leaves none. At last "
        f"no user had more than {most_of_user}, no item more than {most_of_item}. "
        + (f"Lower {' or '.join(lowered)}. " if lowered else "")
        + "Check that the columns are the right ones"
        + (
            "; if a row is a user with all of their items, say --format=lists or --format=matrix"
            if most_of_user == 1
            else ""
        )
    )


def _compact(codes, ids):
    """(The codes renumbered, the ids in use), without the ids that no code refers to."""
    used = np.bincount(codes, minlength=len(ids)) > 0
    return (np.cumsum(used, dtype=np.int32) - 1)[codes], ids[used]


def split_interactions(user, rng, sizes=None):
    """Each user's interactions divided at random among train, validation and test.

    The paper's counts: of a user's n interactions floor(0.8 n) - 1 are train, floor(0.9 n) - floor(0.8 n)
    validation, and the rest, at least one, test: a user with 3 to 5 has none for validation. With `sizes`,
    validation and test have n / 10 each, rounded up or down by a draw, and at least one, and train the rest.
    Users with n < 3 are dropped.

    Args:
        user: (N,) whole numbers, in any order.
        rng: numpy Generator, for the order of a user's interactions.
        sizes: numpy Generator, for the rounding; None: the paper's counts.

    Returns:
        (N,) int8 of TRAIN, VALIDATION, TEST, DROPPED.
    """
    row, count = np.unique(user, return_inverse=True, return_counts=True)[1:]
    order = np.argsort(row + rng.random(len(user)))  # sorts by user, and shuffles within a user
    place = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    if sizes is None:
        train, validation = 8 * count // 10 - 1, 9 * count // 10 - 8 * count // 10
    else:
        tenth = count[:, None] / 10
        validation, test = np.maximum(1, (tenth + sizes.random((len(count), 2))).astype(int)).T
        train = count - validation - test
    until_train, until_validation, n = (np.repeat(one, count) for one in (train, train + validation, count))
    conditions = [n < FEWEST_INTERACTIONS, place < until_train, place < until_validation]
    part = np.empty(len(user), np.int8)
    part[order] = np.select(conditions, [DROPPED, TRAIN, VALIDATION], TEST)
    return part


def split_sorted(user, seed, every_user):
    """`split_interactions` for sorted users: the same split in less memory, a block of users at a time.

    Interactions from `filter_interactions` are sorted by id, so the same ones are split alike with the same
    seed, wherever they came from.

    Args:
        every_user: whether every user gets something to validate on; False: the paper's counts.
    """
    rng = np.random.default_rng(seed)
    sizes = rng.spawn(1)[0] if every_user else None
    blocks = (split_interactions(user[block], rng, sizes) for block in blocks_of_users(user))
    return np.concatenate([np.empty(0, np.int8), *blocks])


def blocks_of_users(user):
    """Generates slices of sorted users, of whole users, which bound the memory of one step."""
    start = 0
    while start < len(user):
        stop = len(user)
        if start + SPLIT_AT_ONCE < stop:
            stop = int(np.searchsorted(user, user[start + SPLIT_AT_ONCE], side="right"))
        yield slice(start, stop)
        start = stop
