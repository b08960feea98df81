"""Rows of text or Parquet → Interactions, by pyarrow, a block at a time: in memory are a few numbers a row.

prep/sources.py says which column is what. Rows that cannot be used are left out and named by their first
line. In quoted text a value may hold line breaks. A stray quote makes one value of many lines; its row is
called torn, and counts as all the lines it has swallowed.
"""

import csv as python_csv
import math
import re
import sys
from collections.abc import Callable
from contextlib import contextmanager
from functools import reduce
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet
from tqdm import tqdm

from data import WHOLE_NUMBER
from lib.errors import UserError

BLOCK = 16 * 2**20  # bytes parsed at once; no row is longer
LONGEST_HEADER = 2**20  # bytes of a line of it
SHOWN = 80  # characters of a row in a message
NO_IDS = {"", "nan", "null", "none"}
NO_TEXT = (b"PK\3\4", b"\x1f\x8b", b"PAR1")  # a zip, gzip, Parquet
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Interactions(NamedTuple):
    """N interactions in the order of the file, without its bad rows."""

    user: np.ndarray  # (N,) int32, places in user_ids
    user_ids: np.ndarray  # distinct and sorted: int64 if all are whole numbers, else text
    item: np.ndarray  # (N,) int32, places in item_ids
    item_ids: np.ndarray
    rating: np.ndarray  # (N,) float32, finite
    rows: int  # how many were read, with the bad ones and all lines that these swallowed
    bad: list  # (file, line, text) of each bad row
    swallowed: int = 0  # lines of bad rows beyond their first
    time: np.ndarray | None = None  # (N,) float64, -inf where a row has none; None if no row has one


class _File(NamedTuple):
    """The rows of one file, and the line that each begins on."""

    name: str
    blocks: list  # of (user, item, rating, time): two arrow dictionaries, float32 and float64 or None
    line: Callable  # row of the blocks, from 0 -> its line in the file, from 1
    empty: np.ndarray = np.empty(0, int)  # rows of the blocks without any value, such as empty lines
    bad: list = []  # (line, text) of rows that are not in the blocks: they have too few or too many fields
    torn: dict = {}  # row of the blocks that swallowed others; its ids are empty -> its text
    swallowed: int = 0  # lines of the rows in bad or torn beyond their first


class _Stream:
    """A binary file for pyarrow with a progress bar; with colons, '::' is read as a tab."""

    closed = False  # read by pyarrow

    def __init__(self, file, size, name, colons):
        self._file, self._colons, self.quotes = file, colons, False
        self._bar = tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=None, delay=2)

    def read(self, count):
        content = self._file.read(count - 1 if self._colons else count)
        self._bar.update(len(content))
        self.quotes = self.quotes or b'"' in content
        if self._colons and content.endswith(b":"):
            content += self._file.read(1)
        return content.replace(b"::", b"\t") if self._colons else content

    def close(self):
        self._bar.close()


# ---- Columns -------------------------------------------------------------------------------------------


def _encode(column):
    """Any column as an arrow dictionary of text."""
    if column.null_count:
        column = pc.fill_null(column.cast(pa.string()), "")
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    values = encoded.dictionary
    if pa.types.is_floating(values.type) and all(value.is_integer() for value in values.to_pylist()):
        values = values.cast(pa.int64())
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(pa.int32()), values.cast(pa.string()))


def _to_float(column):
    try:
        return column.cast(pa.float32()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:  # not all are numbers: the others become NaN
        return pd.to_numeric(column.to_pandas(), errors="coerce").to_numpy(np.float32)


def _to_time(column):
    """(n,) float64 that rises with time, such as seconds; -inf for what is not a number."""
    try:
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # not numbers, or dates
        values = pd.to_numeric(column.to_pandas(), errors="coerce").to_numpy(np.float64)
    return np.where(np.isfinite(values), values, -np.inf)


def _block(batch, places, time):
    user, item, rating = (None if place is None else batch.column(place) for place in places)
    return (
        _encode(user),
        None if item is None else _encode(item),
        np.ones(len(user), np.float32) if rating is None else _to_float(rating),
        None if time is None else _to_time(batch.column(time)),
    )


def _join_ids(chunks):
    """(codes (N,) int32, distinct ids sorted, whether an id is missing) of dictionary arrays."""
    if not chunks:
        return np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, bool)
    joined = pa.chunked_array(chunks).unify_dictionaries()
    text = [value.strip() for value in joined.chunk(0).dictionary.to_pylist()]
    none = np.array([value.lower() in NO_IDS for value in text], bool)
    whole = all(re.fullmatch(WHOLE_NUMBER, value) for value, absent in zip(text, none) if not absent)
    ids = (
        np.array([0 if absent else int(value) for value, absent in zip(text, none)], np.int64)
        if whole
        else np.array(text)
    )
    # Missing ids sort behind all others, even behind an id that looks the same.
    order = np.lexsort((ids, none))
    first = np.append(True, (ids[order][1:] != ids[order][:-1]) | (none[order][1:] != none[order][:-1]))
    place = np.empty(len(ids), np.int32)
    place[order] = np.cumsum(first) - 1
    codes = np.concatenate([place[chunk.indices.to_numpy()] for chunk in joined.chunks])
    return codes, ids[order][first], none[order][first]


def join(files):
    """The Interactions of all rows of files, as from `read_text` or `read_parquet`."""
    blocks = [block for file in files for block in file.blocks]
    user, user_ids, no_user = _join_ids([block[0] for block in blocks])
    item, item_ids, no_item = _join_ids([block[1] for block in blocks])
    rating = np.concatenate([np.empty(0, np.float32), *(block[2] for block in blocks)])
    time = None
    if any(block[3] is not None and np.isfinite(block[3]).any() for block in blocks):
        time = np.concatenate(
            [np.full(len(block[2]), -np.inf) if block[3] is None else block[3] for block in blocks]
        )
    bad = [(file.name, line, fault) for file in files for line, fault in file.bad]
    starts = np.cumsum([0, *(sum(len(block[2]) for block in file.blocks) for file in files)])
    left_out = no_user[user] | no_item[item] | ~np.isfinite(rating)
    swallowed, empty = sum(file.swallowed for file in files), np.zeros(len(rating), bool)
    for file, start in zip(files, starts):
        empty[start + file.empty] = True
    rows = len(rating) - int(empty.sum()) + len(bad) + swallowed
    for place in np.flatnonzero(left_out & ~empty):
        file = np.searchsorted(starts, place, side="right") - 1
        row = int(place - starts[file])
        missing_id = "no user id" if no_user[user[place]] else "no item id" if no_item[item[place]] else None
        fault = files[file].torn.get(row) or missing_id or "the rating is not a number"
        bad.append((files[file].name, files[file].line(row), fault))
    if left_out.any():
        user, item, rating = (column[~left_out] for column in (user, item, rating))
        time = None if time is None else time[~left_out]
    return Interactions(
        user, user_ids[~no_user], item, item_ids[~no_item], rating, rows, sorted(bad), swallowed, time
    )


# ---- Text ----------------------------------------------------------------------------------------------


def read_header(stream, name, separator, quoted=True):
    """The fields of the first line of a binary stream; the next read begins at the second line."""
    first = stream.readline(LONGEST_HEADER).decode("utf-8-sig", "replace").rstrip("\r\n")
    if "\r" in first:
        raise UserError(
            f"{name} ends its lines with carriage returns alone. Convert it with tr '\\r' '\\n' <FILE >NEW."
        )
    try:
        fields = next(
            python_csv.reader(
                [first + "\n"],
                delimiter=separator,
                quoting=python_csv.QUOTE_MINIMAL if quoted else python_csv.QUOTE_NONE,
            )
        )
    except python_csv.Error as error:
        raise UserError(f"{name}: its first line cannot be read: {error}") from error
    if not any(field.strip() for field in fields):
        raise UserError(f"{name} is empty, or begins with an empty line")
    if fields[-1].endswith("\n"):
        raise UserError(
            f"{name}, line 1: a quote opens, and does not close in the same line, as a column's name must"
        )
    return [field.strip() for field in fields]


def read_text(
    stream,
    name,
    size,
    separator,
    places,
    width,
    time=None,
    header=False,
    quote=None,
    colons=False,
    marks=None,
):
    """The rows of a delimited file, for `join`.

    Args:
        stream: binary, behind the header if there is one.
        size: its bytes, for the progress bar.
        places: the user, item and rating columns, from 0. No item column: `marks` name the items. No rating
            column: every rating is 1.
        width: the number of columns.
        time: the column of times, or None.
        header: whether there was a header.
        quote: the character around fields with separators or line breaks.
        colons: whether fields are separated by '::'.
        marks: the pattern of lines that name the item of all rows up to the next such line.

    Returns:
        _File.

    Raises:
        UserError: it is not text, not UTF-8, or has a quote that swallows more than BLOCK bytes.
    """
    check_is_text(stream.peek(4096)[:4096], name)
    skipped, blocks, empty, torn = [], [], [], {}
    swallowed, start, broken = 0, 0, [np.empty((2, 0), int)]  # broken: (rows with line breaks, how many)

    def skip(row):
        skipped.append((row.number, row.text.strip("\r\n")))
        return "skip"

    names = [str(place) for place in range(width)]
    types = {
        column: pa.string() if place in (*places, time) else pa.binary() for place, column in enumerate(names)
    }
    file = _Stream(stream, size, name, colons)
    try:
        with _undecodable() as no_utf8:
            reader = csv.open_csv(
                pa.PythonFile(file, mode="r"),
                csv.ReadOptions(use_threads=False, block_size=BLOCK, column_names=names),
                csv.ParseOptions(
                    delimiter=separator,
                    quote_char=quote or False,
                    newlines_in_values=quote is not None,
                    ignore_empty_lines=False,
                    invalid_row_handler=skip,
                ),
                csv.ConvertOptions(column_types=types, strings_can_be_null=False),
            )
            for batch in reader:
                empty.append(start + _rows_with_nothing(batch, places))
                if file.quotes and quote:
                    rows, breaks = _line_breaks(batch)
                    broken.append((start + rows, breaks))
                    torn_rows = _torn(batch, rows, breaks, places, separator)
                    torn.update({int(start + row): text for row, (_, text) in torn_rows.items()})
                    swallowed += sum(lines for lines, _ in torn_rows.values())
                    batch = _without_ids(batch, torn_rows, places)
                blocks.append(_block(batch, places, time))
                start += batch.num_rows
    except pa.ArrowInvalid as error:
        if "Empty CSV file" in str(error):
            if not header:
                raise UserError(f"{name} is empty") from error
        elif no_utf8 or "UTF" in str(error):
            raise UserError(
                f"{name} is not UTF-8 text. Convert it, for example with iconv -f LATIN1 -t UTF-8 FILE >NEW."
            ) from error
        elif quote and "straddling" in str(error):
            line = _longest_row(stream, separator)
            raise UserError(
                f"{name}, line {line}: a quote opens, and does not close within {BLOCK:,} bytes. "
                "Remove it, or double it if it is part of the text."
            ) from error
        else:
            raise UserError(f"{name} cannot be read: {shown(str(error).splitlines()[0], 200)}") from error
    finally:
        file.close()
        stream.close()
    # A row's line counts the header, skipped rows and line breaks in values before it.
    before = np.array([number for number, _ in skipped], np.int64) - 1 - np.arange(len(skipped))
    beyond = [text.count("\n") for _, text in skipped]
    heights = np.cumsum([0, *(1 + count for count in beyond)])
    broken, breaks = np.concatenate(broken, axis=1)
    breaks = np.cumsum(np.append(0, breaks))

    def line(row, passed=None):
        passed = np.searchsorted(before, row, side="right") if passed is None else passed
        return int(header + 1 + row + heights[passed] + breaks[np.searchsorted(broken, row)])

    marked = [marks is not None and marks.fullmatch(text.strip()) is not None for _, text in skipped]
    bad = [
        (line(before[i], i), _excerpt(text, beyond[i]))
        for i, (_, text) in enumerate(skipped)
        if text.strip() and not marked[i]
    ]
    if marks:
        items = [(before[i], text.strip()[:-1]) for i, (_, text) in enumerate(skipped) if marked[i]]
        blocks = _with_marked_items(blocks, items)
    return _File(
        name, blocks, line, np.concatenate([np.empty(0, int), *empty]), bad, torn, swallowed + sum(beyond)
    )


def check_is_text(start, name):
    """Raises UserError if the first bytes of a file show that it is not text, or UTF-16."""
    if start.startswith(UTF_16):
        raise UserError(
            f"{name} is not UTF-8 text but UTF-16. Convert it with iconv -f UTF-16 -t UTF-8 FILE >NEW."
        )
    if b"\0" in start or start.startswith(NO_TEXT):
        raise UserError(f"{name} is not text")


def shown(text, length=SHOWN):
    """The start of a text as one printable line."""
    escaped = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:length])
    return escaped + ("..." if len(text) > length else "")


@contextmanager
def _undecodable():
    """A list that collects the decoding errors which pyarrow, in its handler of invalid rows, would print."""
    errors, usual_hook = [], sys.unraisablehook

    def collect(raised):
        if isinstance(raised.exc_value, UnicodeDecodeError):
            errors.append(raised.exc_value)
        else:
            usual_hook(raised)

    sys.unraisablehook = collect
    try:
        yield errors
    finally:
        sys.unraisablehook = usual_hook


def _rows_with_nothing(batch, places):
    """The rows whose fields are all empty, as those of an empty line are."""
    first = [batch.column(place) for place in places if place is not None]
    rows = np.flatnonzero(
        reduce(pc.and_, [pc.equal(column, "") for column in first]).to_numpy(zero_copy_only=False)
    )
    rest = (
        [pc.equal(pc.binary_length(column.take(pa.array(rows))), 0) for column in batch.columns]
        if len(rows)
        else []
    )
    return rows[reduce(pc.and_, rest).to_numpy(zero_copy_only=False)] if rest else rows


def _line_breaks(batch):
    """(Rows with line breaks in their values, how many each of them has)."""
    breaks = reduce(
        np.add, [pc.count_substring(column, "\n").to_numpy(zero_copy_only=False) for column in batch.columns]
    )
    rows = np.flatnonzero(breaks)
    return rows, breaks[rows]


def _torn(batch, rows, breaks, places, separator):
    """The rows with line breaks that swallowed other rows: row -> (line breaks, excerpt).

    A line break in an id or a rating is a fault. In another column, such as a review's text, it is one if
    most of the value's lines read like rows.
    """
    torn, width = {}, batch.num_columns
    for place, column in enumerate(batch.columns):
        values = column.take(pa.array(rows))
        suspect = pc.greater(pc.count_substring(values, "\n"), 0)
        if place not in places:
            many = pc.greater_equal(
                pc.multiply(pc.count_substring(values, separator), 2),
                pc.multiply(pc.count_substring(values, "\n"), width - 1),
            )
            suspect = pc.and_(suspect, many)
        for i in np.flatnonzero(suspect.to_numpy(zero_copy_only=False)):
            value = values[i].as_py()
            value = value if isinstance(value, str) else value.decode("utf-8", "replace")
            if place in places or _reads_like_rows(value, place, places[2], width, separator):
                torn.setdefault(int(rows[i]), (int(breaks[i]), _excerpt(value, int(breaks[i]))))
    return torn


def _reads_like_rows(value, place, rating, width, separator):
    """Whether most lines of a value in column `place` read like rows.

    The first and the last line count with the fields before and behind the value. A row has `width` fields
    and a number, or nothing, as rating; in a file without ratings, it has no space behind a separator.
    """

    def is_row(line):
        fields = line.split(separator)
        if len(fields) != width:
            return False
        return (
            f"{separator} " not in line
            if rating is None
            else not fields[rating].strip() or _is_number(fields[rating])
        )

    lines = f"{separator * place}{value}{separator * (width - 1 - place)}".split("\n")
    return 2 * sum(map(is_row, lines)) > len(lines)


def _is_number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _excerpt(text, line_breaks):
    return shown(text) + (f" ({line_breaks + 1:,} lines within quotes)" if line_breaks else "")


def _without_ids(batch, torn, places):
    """The batch with empty ids in its torn rows, lest the swallowed text counts as an id."""
    if not torn:
        return batch
    mask = np.isin(np.arange(batch.num_rows), list(torn))
    for place in places[:2]:
        batch = batch.set_column(place, str(place), pc.if_else(pa.array(mask), "", batch.column(place)))
    return batch


def _longest_row(stream, separator):
    """The first line of the row with the most lines, or of the first row too long for Python's csv reader."""
    stream.seek(0)
    lines = (line.decode("utf-8", "replace") for line in stream)
    reader = python_csv.reader(lines, delimiter=separator)
    first, most_lines, first_of_longest = 1, 0, 1
    try:
        for _ in reader:
            if reader.line_num + 1 - first > most_lines:
                most_lines, first_of_longest = reader.line_num + 1 - first, first
            first = reader.line_num + 1
    except python_csv.Error:
        return first
    return first_of_longest


def _with_marked_items(blocks, marks):
    """The blocks with the item of the last mark before each row; marks are (rows before it, item)."""
    count = sum(len(block[2]) for block in blocks)
    places = [0, *(place for place, _ in marks), count]
    codes = np.repeat(np.arange(len(marks) + 1, dtype=np.int32), np.diff(places))
    items, start, with_items = pa.array(["", *(item for _, item in marks)], pa.string()), 0, []
    for user, _, rating, time in blocks:
        item = pa.DictionaryArray.from_arrays(codes[start : start + len(rating)], items)
        with_items.append((user, item, rating, time))
        start += len(rating)
    return with_items


# ---- Parquet -------------------------------------------------------------------------------------------


def read_parquet(path, choose):
    """The rows of a Parquet file, for `join`.

    Args:
        choose: names of the columns -> the places of users, items, ratings or None, and times or None.
    """
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        chosen = choose(names)
        columns = [names[place] for place in chosen if place is not None]
        blocks = []
        for batch in file.iter_batches(batch_size=2**20, columns=columns):
            read = batch.schema.names
            *places, time = (None if place is None else read.index(names[place]) for place in chosen)
            blocks.append(_block(batch, places, time))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise UserError(f"{path} cannot be read: {shown(str(error).splitlines()[0], 200)}") from error
    return _File(path.name, blocks, lambda row: row + 1)
