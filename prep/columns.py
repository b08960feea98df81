"""Which column is what: users, items, ratings or counts, times, titles, by names that people give them."""

import re
from typing import NamedTuple

from lib.errors import UserError

# Words that stand for a role, alone or before one of SUFFIXES; the earlier of two is preferred.
WORDS = {
    "user": """
        user uid uuid customer client visitor reviewer member account player listener viewer reader
        person household profile buyer subscriber author guest patient student email benutzer nutzer
        kunde utilisateur usuario cliente session visit basket cart order""",
    "item": """
        item iid sid product movie film anime bookmark book song track game artist album article
        asin isbn sku stock business recipe restaurant venue poi place location video show series
        episode course news joke beer wine app hotel listing offer ad content paper repo repository
        url page artikel produkt produit producto campaign title name description""",
    "rating": """
        rating ratings stars star score overall value weight preference like likes liked label
        bewertung""",
    "count": """
        count counts plays playcount listens quantity qty times clicks views frequency purchases
        menge""",
    "time": """
        timestamp time date datetime when unixreviewtime unixtime reviewtime ts tdat created
        createdat datum""",
    "title": """
        title name description""",
}
WORDS = {role: words.split() for role, words in WORDS.items()}
SUFFIXES = ["id", *"ids key code no nr number num index idx hash".split(), "", "name", "title"]
EXTRA = len(SUFFIXES)  # how much worse than any suffix a name with other words is
OF_ONE_VISIT = {"session", "visit", "basket", "cart", "order"}  # users only if there is nothing better
RATING_WORDS, SUMMARIES = {"rating", "ratings", "score", "stars"}, {"average", "avg", "mean", "total", "imdb"}
UNSURE_RATINGS = {"value", "weight"}  # these may as well be counts
BEHAVIOURS = {"click", "clicks", "share", "shares", "follow", "like", "likes", "liked", "favorite", "forward"}
TIME_WORDS = {"time", "date", "timestamp", "datetime", "at", "dt", "ts"}
TITLE_WORDS = ("title", "name", "description")
REVIEW_WORDS = {"text", "review", "body", "comment", "helpful"}  # beside these, a title is that of a review
LONGEST_NAME = 60  # characters: longer fields are no names
LARGEST_RATING, LARGEST_COUNT = 100, 10**7  # larger numbers are counts; still larger ones something else
MOST_RATINGS = 21  # different values in a column that is taken for ratings without a name
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
    words = []
    for word in re.findall(r"[^\W_]+", name.lower()):
        match = re.fullmatch(r"(.{3,}?)(id|name|code|key)", word)  # userid
        known = match and any(match[1] in WORDS[role] for role in ("user", "item"))
        words += match.groups() if known else [word]
    return words


def rank(words):
    """{role: how well these words fit it, the smaller the better}; empty for unknown words."""
    found, joined = {}, "".join(words)
    for role, known in WORDS.items():
        if joined in known:
            found[role] = known.index(joined) + len(known) * SUFFIXES.index("")
        elif role in ("user", "item"):
            heads = [word for word in words if word in known]
            rest = [word for word in words if word not in (*heads[:1], "parent")]
            suffix = SUFFIXES.index(rest[-1]) if rest and rest[-1] in SUFFIXES else SUFFIXES.index("")
            extra = [word for word in rest if word not in SUFFIXES and word not in heads]
            if heads and (not extra or rest[-1] in SUFFIXES[: SUFFIXES.index("")] + ["name"]):
                penalty = suffix + EXTRA * (len(extra) + (heads[0] in OF_ONE_VISIT)) - ("parent" in words)
                found[role] = known.index(heads[0]) + len(known) * penalty
        elif role == "rating" and len(words) == 2 and words[1] in RATING_WORDS and words[0] not in SUMMARIES:
            found[role] = 50  # such as Book-Rating
        elif role == "time" and words and words[-1] in TIME_WORDS:
            found[role] = 50
        elif role == "title" and len(words) == 2 and words[1] in TITLE_WORDS and words[0] in WORDS["item"]:
            found[role] = TITLE_WORDS.index(words[1])
    return found


def is_header(fields, all_of=()):
    """Whether a row looks like names of columns: users or items are among them, or all of these roles."""
    ranks = [rank(words_of(field)) for field in fields if len(field) < LONGEST_NAME]
    if all_of:
        return all(any(role in one for one in ranks) for role in all_of)
    return any("user" in one or "item" in one for one in ranks)


def choose(path, layout, given, needed):
    """The Columns of a table, and one line that says what was chosen.

    Args:
        path: as messages show it.
        layout: layouts.Layout.
        given: {role: a column's name; its number from 0; "-" for none; or None to find it}.
        needed: the roles without which there is an error.

    Raises:
        UserError: a column cannot be found, or is named twice.
    """
    places = {role: _place(path, layout, role, given.get(role)) for role in ROLES}
    left_open = [role for role in ROLES if given.get(role) is None]
    taken = {place for place in places.values() if place is not None}
    if len(taken) < sum(place is not None for place in places.values()):
        raise UserError(f"{path}: one column cannot be two of {', '.join(ROLES)}. Give each its own")
    others = {}
    numbered = layout.names and all(name.isdigit() or not name for name in layout.names)  # by pandas
    if layout.names is None or numbered:
        taken |= {place for place, name in enumerate(layout.names or ()) if not name}
        found = _by_habit_of_places(layout, taken, needed)
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
    _check(path, layout, places, needed)
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


def _by_habit_of_places(layout, taken, needed):
    """{role: place} in a table without a header: user, item, then perhaps a value, and a time anywhere."""
    free = [place for place in range(layout.width) if place not in taken]
    times = [place for place in free if layout.looks_like_time(place)]
    times = [place for place in times if not layout.is_number(place)] or [
        place for place in times if place > 1
    ]
    ids = [place for place in free if place not in times and not layout.has_fractions(place)] or free
    found = dict(zip(needed if len(ids) == 1 else ("user", "item"), ids))
    rest = [place for place in free if place not in (*times, *found.values())]
    if times:
        found["time"] = times[-1]
    is_alone = len(rest) == 1 or rest[:1] == [found.get("item", -1) + 1] and layout.has_fractions(rest[0])
    if is_alone and layout.is_number(rest[0]):
        kinds, largest = len(set(layout.column(rest[0]))), layout.largest(rest[0])
        if LARGEST_RATING < largest < LARGEST_COUNT:
            found["count"] = rest[0]
        elif 0 < largest <= LARGEST_RATING and (kinds <= MOST_RATINGS or layout.has_fractions(rest[0])):
            found["rating"] = rest[0]
    return found


def _by_name(path, layout, roles, taken):
    """({role: place}, {role: the names of other candidates}) by the names in the header."""
    found, others = {}, {}
    words = list(map(words_of, layout.names))
    ranks = list(map(rank, words))
    for role in roles:
        fitting = sorted(
            (4 * len(layout.column(place)) < 3 * len(layout.rows), one[role], place)  # filled ones first
            for place, one in enumerate(ranks)
            if role in one and place not in {*taken, *found.values()}
            if _fits(layout, words, role, place)
        )
        if not fitting:
            continue
        names = [layout.names[place] for *_, place in fitting]
        if names.count(names[0]) > 1 and role in ("user", "item"):
            raise UserError(
                f"{path} has two columns named {names[0]}. Give --{role}-col as a number, counted from 0"
            )
        found[role] = fitting[0][2]
        if role in ("user", "item") and _is_rival(role, names, [one for _, one, _ in fitting]):
            others[role] = names[1]
    if "rating" in found and words[found["rating"]][0] in UNSURE_RATINGS:
        if layout.largest(found["rating"]) > LARGEST_RATING:
            found["count"] = found.pop("rating")
    return found, others


def _fits(layout, words, role, place):
    """Whether the values of a column, and the other columns, speak for the role that its name has."""
    if not layout.column(place):
        return role in ("user", "item")
    if role == "rating" and words[place][-1] in RATING_WORDS:
        return True  # whatever it holds: rows in which it is no number are bad
    if role in ("rating", "count"):
        behaviours = sum(len(one) == 1 and one[0] in BEHAVIOURS for one in words)
        return layout.is_number(place) and not (behaviours > 1 and words[place][-1] in BEHAVIOURS)
    if role == "time":
        return layout.is_filled(place) and (layout.is_number(place) or layout.looks_like_time(place))
    if role == "title" and words[place] == ["title"]:
        return not any(REVIEW_WORDS & set(one) for one in words)
    return True


def _is_rival(role, names, ranks):
    """Whether the second best column could be meant: it is not a mere name beside an id."""
    return (
        len(names) > 1
        and ranks[1] - ranks[0] < 4 * len(WORDS[role])
        and words_of(names[1])[-1] not in TITLE_WORDS
    )


def _check(path, layout, places, needed):
    for role in needed:
        if places[role] is None:
            if layout.names is None:
                raise UserError(
                    f"{path} has {layout.width} column{'s'[: layout.width > 1]}, and none for the {role}s"
                )
            example = next((str(place) for place in range(layout.width) if place not in places.values()), "0")
            raise UserError(
                f"{path} has no column '{role}', only {listed(layout.names)}. Name it with "
                f"--{role}-col=NAME, or by its number from 0, such as --{role}-col={example}"
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
    unused = [column for place, column in enumerate(layout.names or ()) if place not in places.values()]
    if unused and (places[value] is None or places["time"] is None):
        line += f"; not used: {listed(unused)}"
    return line


def listed(names, most=30):
    """Names of columns in one line."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(name or "(no name)" for name in names[:most]) + more
