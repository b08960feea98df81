"""How the rows of a text stand: the delimiter, quotes, the header, and whether it is a table at all."""

import csv
import re
from typing import NamedTuple

from lib.errors import UserError
from prep.columns import is_header, listed, words_of

DELIMITERS = ("\t", "::", ";", "|", ",")  # spaces only where none of these fits: names have spaces
COMMENTS = ("#", "%")  # how lines before a table may begin
NAMES_OF = {"\t": "tabs", " ": "spaces"}
SAMPLE = 2**16  # characters at the start, by which a file is judged
MOST_BEFORE = 20  # lines before the table, such as a licence
MOST_GUESSED = 10  # columns without names among which users and items are looked for
FEWEST_ALIKE = 0.6  # the share of rows with the usual number of fields, or it is no table
FEWEST_MATRIX_COLUMNS = 5
SHAPES = ("table", "lists", "counted-lists", "matrix", "netflix")
MARK = r"\d+:"  # the line before the rows of a film, in the Netflix Prize's files
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?|true|false", re.IGNORECASE)
DATE = re.compile(r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?!\d)|[A-Za-z]{3,9}.*\b(19|20)\d\d$")
LONGEST_DATE = 100  # characters; the search takes the square of them
SECONDS = 8e8, 2.3e9  # since 1970, from 1995 to 2042: other numbers without a name are not taken for times


class Layout(NamedTuple):
    """How a text is read; `rows` are the first ones, as texts."""

    delimiter: str = ","
    quote: str = ""
    escape: str = ""  # what stands before a quote within quotes: another one, or a backslash
    skip: int = 0  # lines before the first row, the header included
    names: tuple | None = None  # the header
    width: int = 0
    shape: str = "table"
    rows: tuple = ()

    def column(self, place):
        """The values of a column in the first rows, without the empty ones."""
        return [row[place].strip() for row in self.rows if len(row) > place and row[place].strip()]

    def is_number(self, place):
        values = self.column(place)
        return bool(values) and sum(bool(NUMBER.fullmatch(value)) for value in values) > 0.9 * len(values)

    def has_fractions(self, place):
        """Whether the values are numbers, and not all whole."""
        values = self.column(place)
        return self.is_number(place) and any(re.search(r"[.,]\d*[1-9]", value) for value in values)

    def largest(self, place):
        return max(
            (float(value) for value in self.column(place) if re.fullmatch(r"\d+(\.\d+)?", value)), default=0
        )

    def looks_like_time(self, place):
        """Whether the values are dates, or numbers such as seconds since 1970."""
        values = self.column(place)[:50]
        if self.is_number(place):
            unit = units_a_second(self.largest(place), SECONDS[1])
            return all(
                re.fullmatch(r"\d+(\.\d*)?", value) and float(value) >= SECONDS[0] * unit for value in values
            )
        is_date = lambda value: len(value) < LONGEST_DATE and bool(DATE.search(value))
        return bool(values) and sum(map(is_date, values)) > 0.9 * len(values)

    def is_filled(self, place):
        return 2 * len(self.column(place)) > len(self.rows)


NETFLIX = Layout(width=3, shape="netflix")  # user, rating, date; the item stands in a line before


def units_a_second(largest, most_seconds):
    """How many units of a column of times make a second: 1, or 1,000 of milliseconds, and so on.

    Args:
        largest: of the column.
        most_seconds: since 1970; a larger number is not one of seconds.
    """
    return next((unit for unit in (1, 1e3, 1e6, 1e9) if largest < most_seconds * unit), 1)


def sniff(plain, delimiter=None, header=None, shape=None, fewest=2):
    """The Layout of a text.

    Args:
        plain: plain.Plain.
        delimiter, header, shape: what the user has said; None: found.
        fewest: how many columns a table must have.

    Raises:
        UserError: it has only one column, or the header and the rows do not fit together.
    """
    with open(plain.path, encoding="utf-8-sig", errors="replace") as file:
        text = file.read(SAMPLE)
        lines = (text.rpartition("\n")[0] if file.read(1) and "\n" in text else text).split("\n")
    filled = [line for line in lines if line.strip()]
    if not filled:
        raise UserError(f"{plain.name} is empty")
    if shape in (None, "table") and delimiter is None:
        is_one_column = not any(one in line for line in filled for one in (*DELIMITERS, " "))
        if is_one_column and fewest > 1:
            raise UserError(
                f"{plain.name} has one column, such as '{shown(filled[0])}': a row needs a user and an item"
            )
        delimiter = "," if is_one_column else _delimiter(filled)
    if shape == "netflix" or shape is None and re.fullmatch(MARK, filled[0].strip()):
        return NETFLIX
    if shape is None and (lists := _lists(filled, delimiter)):
        shape = lists
    if shape in ("lists", "counted-lists"):
        return Layout(shape=shape, delimiter=delimiter or "")
    delimiter = delimiter or _delimiter(filled)
    quote = _quote(filled, delimiter)
    rows = [(number, row) for number, row in _rows(lines, delimiter, quote) if any(map(str.strip, row))]
    if not rows:
        why = "a quote opens in its first lines, and does not close" if '"' in text else "its rows are empty"
        raise UserError(f"{plain.name} cannot be read: {why}")
    return _with_header(plain.name, rows, Layout(delimiter, quote, _escape(text, quote)), header, shape)


def shown(text, length=80):
    """The start of a text as one printable line."""
    escaped = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:length])
    return escaped + ("..." if len(text) > length else "")


def separated_by(delimiter):
    """The delimiter in words."""
    return NAMES_OF.get(delimiter, f"'{delimiter}'")


def _delimiter(lines):
    """What most likely stands between the fields of these lines."""
    best = max(DELIMITERS, key=lambda one: _consistency(lines, one))
    share, spaces = _consistency(lines, best)[0], _consistency(lines, " ")[0]
    return " " if share < FEWEST_ALIKE and spaces > share else best


def _escape(text, quote):
    r"""A backslash where quotes within quotes are written as \", else the quote itself."""
    by_backslash = re.search(r'\\"[^;,|\t\n]', text) and not re.search(r'[^;,|\t\n]""[^;,|\t\n]', text)
    return "\\" if quote and by_backslash else quote


def _consistency(lines, delimiter):
    """(the share of lines with the usual number of fields, that number), to compare delimiters."""
    widths = [len(row) for _, row in _rows(lines, delimiter, '"')]
    usual = _usual(widths)
    share = sum(width == usual for width in widths) / len(widths) if usual > 1 else 0
    return round(share, 1), usual


def _usual(widths):
    """The most frequent number of fields; behind a few first lines, which may be something else."""
    behind = widths[1:] or widths
    return max(set(behind), key=lambda width: (behind.count(width), width), default=1)


def _rows(lines, delimiter, quote):
    """[(line number from 1, fields)]; a quoted field may go on over lines."""
    spaces = delimiter == " "
    lines = [line.strip(" ") if spaces else line for line in lines]
    if not quote:
        split = (lambda line: re.split(" +", line)) if spaces else lambda line: line.split(delimiter)
        return [(number, split(line)) for number, line in enumerate(lines, 1)]
    lines, delimiter = _with_one_character(lines, delimiter)
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, skipinitialspace=spaces)
    rows, first = [], 1
    try:
        for row in reader:
            rows.append((first, [field.removesuffix("\n") for field in row]))
            first = reader.line_num + 1
    except csv.Error:  # a field of many lines: a quote that does not close
        pass
    return rows


def _quote(lines, delimiter):
    """The quote character, or none.

    In tables with tabs and the like, names may have stray quotes: there it is one only if some fields begin
    with it, and all of these end with it.
    """
    if delimiter in ",;":
        return '"'
    if not any(line.startswith('"') or delimiter + '"' in line for line in lines):
        return ""
    try:
        lines, delimiter = _with_one_character(lines, delimiter)
        for _ in csv.reader((line + "\n" for line in lines), delimiter=delimiter, strict=True):
            pass
    except csv.Error as error:
        return '"' if "unexpected end" in str(error) else ""  # where the sample ends
    return '"'


def _with_one_character(lines, delimiter):
    """(lines, delimiter) for the csv module, which knows no longer delimiters."""
    if len(delimiter) == 1:
        return lines, delimiter
    return [line.replace(delimiter, "\x1f") for line in lines], "\x1f"


def _lists(lines, delimiter):
    """ "lists" or "counted-lists" if every line is a list of whole numbers of its own length; else None."""
    if _consistency(lines, delimiter)[0] >= 0.8 and len(lines) > 1:
        return None
    rows = [re.split(r"[\s,;]+", line.strip()) for line in lines]
    if len(rows) < 3 or not all(field.isdigit() for row in rows for field in row):
        return None
    if all(row[0].lstrip("0") == str(len(row) - 1).lstrip("0") for row in rows):
        return "counted-lists"
    return "lists" if len({row[0] for row in rows}) == len(rows) else None


def _with_header(name, rows, layout, header, shape):
    """The Layout with the header, the lines before it, and the first rows."""
    usual = _usual([len(row) for _, row in rows])
    share = sum(len(row) == usual for _, row in rows) / len(rows)
    if share < FEWEST_ALIKE and not is_header(rows[0][1]):
        raise UserError(
            f"{name} has rows with different numbers of fields between {separated_by(layout.delimiter)}, "
            f"such as '{shown(layout.delimiter.join(rows[-1][1]))}': it is no table. "
            "--format and --delimiter say otherwise"
        )
    start = _start(rows, usual, header)
    first_line, first = rows[start][0], [field.strip() for field in rows[start][1]]
    first[0] = first[0].lstrip("#% ") if is_header([first[0].lstrip("#% ")]) else first[0]
    body = [row for _, row in rows[start + 1 :]]
    if header is None:
        header = _is_header(first, body)
    if not header:
        if usual > MOST_GUESSED and shape is None:
            raise UserError(
                f"{name} has {usual} columns and no header. Say what it is: --format=matrix, or "
                "--format=table with --user-col and --item-col, numbers from 0"
            )
        before = first_line - 1
        return layout._replace(
            skip=before, width=usual, rows=tuple(row for _, row in rows[start:]), shape=shape or "table"
        )
    names = first
    while len(names) > usual and not names[-1]:  # empty names at the end, which no row has fields for
        names = names[:-1]
    if len(names) < usual:
        names = _names_for_all(name, names, [row for row in body if len(row) == usual], usual, shape)
    second = rows[start + 1][0] if start + 1 < len(rows) else first_line + 1
    layout = layout._replace(
        skip=second - 1, names=tuple(names), width=max(len(names), usual), rows=tuple(body)
    )
    return layout._replace(shape=shape or ("matrix" if _is_matrix(layout) else "table"))


def _start(rows, usual, header):
    """The place of the header or, without one, of the first row; before it may be a title or comments."""
    first = None
    for place, (_, row) in enumerate(rows[: MOST_BEFORE + 1]):
        if header is not False and len(row) > 1 and is_header(row, all_of=("user", "item")):
            return place
        is_comment = row[0].lstrip().startswith(COMMENTS) and not is_header([row[0].lstrip("#% "), *row[1:]])
        fits = len(row) == usual and not is_comment
        if first is None and (fits or header is not False and len(row) > 1 and is_header(row)):
            first = place
    return first or 0


def _names_for_all(name, names, rows, width, shape):
    """The names, filled up to the width of the rows."""
    lacking = width - len(names)
    if not any(field.strip() for row in rows for field in row[len(names) :]):
        return names + [""] * lacking
    numbers = [row[0].strip() for row in rows]
    if lacking == 1 and numbers in ([str(n) for n in range(k, k + len(numbers))] for k in (0, 1)):
        return ["", *names]  # the numbers of rows, as R writes them
    if shape == "table":
        return names + [""] * lacking
    raise UserError(
        f"{name}: the rows have {width} fields, the header has {len(names)}: {listed(names)}. Give it a name "
        "for every column or, if the names are those of the first ones, add --format=table"
    )


def _is_header(first, body):
    """Whether the first row has names: known ones, or texts above numbers."""
    if is_header(first) or first == ["", *map(str, range(len(first) - 1))]:  # the latter by pandas
        return True
    if not body or any(NUMBER.fullmatch(field) for field in first):
        return False
    below = Layout(rows=tuple(body))
    return any(below.is_number(place) for place in range(len(first)))


def _is_matrix(layout):
    """Whether rows are users and columns items: under names of items, behind the first column, numbers."""
    columns = range(1, layout.width)
    return (
        layout.width >= FEWEST_MATRIX_COLUMNS
        and all(layout.names[place] for place in columns)
        and not any(
            is_header([layout.names[place]]) or words_of(layout.names[place])[-1:] == ["time"]
            for place in columns
        )
        and all(re.fullmatch(r"(\d+(\.\d*)?)?", field.strip()) for row in layout.rows for field in row[1:])
        and bool(layout.rows)
    )
