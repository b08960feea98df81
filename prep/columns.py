"""Which column is what: users, items, ratings or counts, times, titles, by names that people give them."""

import re
from typing import NamedTuple

from lib.errors import UserError

# Words that stand for a role, alone or before one of SUFFIXES; the earlier of two is preferred.
WORDS = {
    "user": "user uid customer client visitor reviewer member account player listener viewer reader person "
    "profile buyer subscriber author guest patient student session visit basket cart",
    "item": "item iid product movie film anime book song track game artist album article asin isbn sku stock "
    "business recipe restaurant venue poi place location video show series episode course news joke beer "
    "wine app hotel listing offer content paper repo repository url page title name description",
    "rating": "rating ratings stars star score overall value weight preference like likes liked label",
    "count": "count counts plays playcount listens quantity qty times clicks views frequency purchases",
    "time": "timestamp time date datetime when unixreviewtime unixtime reviewtime ts created createdat",
    "title": "title name description",
}
SUFFIXES = [
    "id",
    "ids",
    "key",
    "code",
    "no",
    "nr",
    "number",
    "num",
    "index",
    "idx",
    "hash",
    "",
    "name",
    "title",
]
RATING_WORDS, SUMMARIES = {"rating", "ratings", "score", "stars"}, {"average", "avg", "mean", "total", "imdb"}
TIME_WORDS = {"time", "date", "timestamp", "datetime", "at"}
TITLE_WORDS = ("title", "name", "description")
ROLES = ("user", "item", "rating", "count", "time", "title")


class Columns(NamedTuple):
    """The places of the columns, from 0; None: there is no such column."""

    user: int | None
    item: int | None
    rating: int | None = None
    count: int | None = None
    time: int | None = None
    title: int | None = None  # of the items

    @property
    def value(self):
        """The place of ratings or counts."""
        return self.rating if self.count is None else self.count


def words_of(name):
    """The lower-case words of a column's name: userId, USER_ID, "user id" and user_id:token are alike."""
    name = name.partition(":")[0].strip()
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words = re.findall(r"[a-z0-9]+", name.lower())
    if len(words) == 1:  # userid
        match = re.fullmatch(r"(.{3,}?)(id|name|code|key)", words[0])
        words = list(match.groups()) if match and rank(match.groups()) else words
    return words


def rank(words):
    """{role: how well these words fit it, the smaller the better}; empty for unknown words."""
    found, joined = {}, "".join(words)
    for role, known in WORDS.items():
        known = known.split()
        if joined in known:
            found[role] = known.index(joined) + len(known) * SUFFIXES.index("")
            continue
        head = next((word for word in words if word in known), None)
        rest = [word for word in words if word != head]
        if role in ("user", "item") and head and all(word in (*SUFFIXES, "parent") for word in rest):
            suffix = min(
                (SUFFIXES.index(word) for word in rest if word in SUFFIXES), default=SUFFIXES.index("")
            )
            found[role] = known.index(head) + len(known) * (suffix + ("parent" in rest))
        elif role == "rating" and len(words) == 2 and words[1] in RATING_WORDS and words[0] not in SUMMARIES:
            found[role] = 50  # such as Book-Rating
        elif role == "time" and words and words[-1] in TIME_WORDS:
            found[role] = 50
        elif (
            role == "title"
            and len(words) == 2
            and words[1] in TITLE_WORDS
            and words[0] in WORDS["item"].split()
        ):
            found[role] = TITLE_WORDS.index(words[1])
    return found


def is_header(fields):
    """Whether a row looks like the names of columns: one of them is that of users or items."""
    ranks = [rank(words_of(field)) for field in fields]
    return any("user" in one or "item" in one for one in ranks)


def choose(path, layout, given):
    """The Columns of a table, and one line that says what was chosen.

    Args:
        path: as messages show it.
        layout: layouts.Layout.
        given: {role: a column's name; its number from 0; "-" for none; or None to find it}.

    Raises:
        UserError: a column cannot be found, or is named twice.
    """
    places = {role: _place(path, layout, role, given.get(role)) for role in ROLES}
    left_open = [role for role in ROLES if given.get(role) is None]
    taken = {place for place in places.values() if place is not None}
    if len(taken) < sum(place is not None for place in places.values()):
        raise UserError(f"{path}: one column cannot be two of {', '.join(ROLES)}. Give each its own")
    others = {}
    if layout.names is None:
        found = _by_habit_of_places(layout, taken)
    else:
        found, others = _by_name(path, layout, left_open, taken)
    if given.get("rating") is not None and places["rating"] is not None:
        left_open = [role for role in left_open if role != "count"]
    if given.get("count") is not None and places["count"] is not None:
        left_open = [role for role in left_open if role != "rating"]
    for role in left_open:
        if found.get(role) not in taken:
            places[role] = found.get(role)
    if places["rating"] is not None and places["count"] is not None:
        places["count" if given.get("count") is None else "rating"] = None
    _check(path, layout, places)
    return Columns(**places), _said(layout, places, others)


def _place(path, layout, role, column):
    """The place of a column that the user has named."""
    if column is None or column == "-":
        return None
    names = layout.names or []
    exact = [place for place, name in enumerate(names) if column in (name, name.partition(":")[0])]
    alike = [place for place, name in enumerate(names) if words_of(name) == words_of(column)]
    if len(exact or alike) > 1:
        numbers = " or ".join(map(str, exact or alike))
        raise UserError(
            f"{path} has {len(exact or alike)} columns named {column}. "
            f"Give --{role}-col as a number: {numbers}"
        )
    if exact or alike:
        return (exact or alike)[0]
    if re.fullmatch(r"\d+", column) and int(column) < layout.width:
        return int(column)
    if layout.names is None:
        have = f"no header, and columns 0 to {layout.width - 1}"
    else:
        have = f"only {listed(layout.names)}"
    raise UserError(f"{path} has no column '{column}' for --{role}-col: it has {have}")


def _by_habit_of_places(layout, taken):
    """{role: place} in a table without a header: user, item, then a value, then a time."""
    free = [place for place in range(layout.width) if place not in taken]
    found = dict(zip(("user", "item"), free))
    times = [place for place in free[2:] if layout.looks_like_time(place)]
    numbers = [place for place in free[2:3] if layout.is_number(place) and place not in times]
    if times:
        found["time"] = times[0]
    if numbers:
        found["count" if layout.largest(numbers[0]) > 100 else "rating"] = numbers[0]
    return found


def _by_name(path, layout, roles, taken):
    """({role: place}, {role: the names of other candidates}) by the names in the header."""
    found, others = {}, {}
    ranks = [rank(words_of(name)) for name in layout.names]
    for role in roles:
        fitting = sorted(
            (one[role], place)
            for place, one in enumerate(ranks)
            if role in one and place not in {*taken, *found.values()}
        )
        if not fitting:
            continue
        best = fitting[0][1]
        names = [layout.names[place] for _, place in fitting]
        if names.count(names[0]) > 1 and role in ("user", "item"):
            raise UserError(
                f"{path} has two columns named {names[0]}. Give --{role}-col as a number, counted from 0"
            )
        if role in ("rating", "count") and not layout.is_number(best):
            numeric = [place for _, place in fitting if layout.is_number(place)]
            best = numeric[0] if numeric else best
        found[role] = best
        if (
            role in ("user", "item")
            and len(fitting) > 1
            and _is_rival(role, names, [one for one, _ in fitting])
        ):
            others[role] = names[1]
    return found, others


def _is_rival(role, names, ranks):
    """Whether the second best column could be meant: it is not a mere name beside an id."""
    return ranks[1] - ranks[0] < 4 * len(WORDS[role].split()) and words_of(names[1])[-1] not in TITLE_WORDS


def _check(path, layout, places):
    for role in ("user", "item"):
        if places[role] is None:
            if layout.names is None:
                raise UserError(
                    f"{path} has {layout.width} column{'s'[: layout.width > 1]}, and none for the {role}s"
                )
            example = next((str(place) for place in range(layout.width) if place not in places.values()), "0")
            raise UserError(
                f"{path} has no column '{role}', only {listed(layout.names)}. Name it with "
                f"--{role}-col=NAME, "
                f"or by its number from 0, such as --{role}-col={example}"
            )


def _said(layout, places, others):
    """ "user=CustomerID item=StockCode rating=- time=InvoiceDate", and other candidates."""
    value = "rating" if places["count"] is None else "count"
    name = lambda place: (
        "-" if place is None else str(place) if layout.names is None else layout.names[place] or place
    )
    line = " ".join(f"{role}={name(places[role])}" for role in ("user", "item", value, "time"))
    line += f" title={name(places['title'])}" if places["title"] is not None else ""
    if layout.names is None:
        line += " (no header: columns by number, from 0)"
    for role, other in others.items():
        line += f"; --{role}-col={other} takes the other column that could be the {role}"
    return line


def listed(names, most=30):
    """Names of columns in one line."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(name or "(no name)" for name in names[:most]) + more
