"""Rows of text or Parquet → Interactions, in columns and a block at a time, by pyarrow: of a hundred million rows three numbers each are held.

prep/sources.py says which file holds what. Rows that cannot be used are left out and told apart by the line they begin on. In text with quotes a
value may hold line breaks; a stray quote makes a value of many rows, and such a row counts as all the lines it has swallowed.
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
    """What was read: N interactions in the order of the file, their bad rows left out."""

    user: np.ndarray  # (N,) int32, places in user_ids
    user_ids: np.ndarray  # distinct and sorted: int64 if all are whole numbers, else text
    item: np.ndarray  # (N,) int32, places in item_ids
    item_ids: np.ndarray
    rating: np.ndarray  # (N,) float32, finite
    rows: int  # that were read, bad ones and what they swallowed included
    bad: list  # (file, line, text) of each bad row
    swallowed: int = 0  # lines of bad rows beyond their first
    time: np.ndarray | None = None  # (N,) float64, -inf where a row has none; None if no row has one


class _File(NamedTuple):
    """The rows of one file, and how to say where one of them stands."""

    name: str
    blocks: list  # of (user, item, rating, time): two arrow dictionaries, float32 and float64 or None
    line: Callable  # number of a row of the blocks, from 0 -> its line, from 1
    empty: np.ndarray = np.empty(0, int)  # numbers of rows with nothing in them, such as empty lines
    bad: list = []  # (line, text) of rows that are not in the blocks, since they did not have as many fields as the others
    torn: dict = {}  # number of a row that swallowed others, and has no ids -> its text
    swallowed: int = 0  # lines beyond their first of rows in bad or torn


class _Stream:
    """A binary file for pyarrow that shows how much of it was read, and reads '::' as a tab if it is to."""

    closed = False  # pyarrow asks

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
    except pa.ArrowInvalid:  # some are not numbers: they become NaN
        return pd.to_numeric(column.to_pandas(), errors="coerce").to_numpy(np.float32)


def _to_time(column):
    """Whatever rises with time, such as seconds, (n,) float64; -inf where there is no number."""
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
    """(codes (N,) int32, ids sorted, whether each of the ids is none at all) of dictionary arrays."""
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
    # What is no id sorts behind all ids, and apart from an id that looks the same.
    order = np.lexsort((ids, none))
    first = np.append(True, (ids[order][1:] != ids[order][:-1]) | (none[order][1:] != none[order][:-1]))
    place = np.empty(len(ids), np.int32)
    place[order] = np.cumsum(first) - 1
    codes = np.concatenate([place[chunk.indices.to_numpy()] for chunk in joined.chunks])
    return codes, ids[order][first], none[order][first]


def join(files):
    """Interactions of all rows of some files, as from `read_text` or `read_parquet`."""
    blocks = [block for file in files for block in file.blocks]
    user, user_ids, no_user = _join_ids([block[0] for block in blocks])
    item, item_ids, no_item = _join_ids([block[1] for block in blocks])
    rating = np.concatenate([np.empty(0, np.float32), *(block[2] for block in blocks)])
    time = None
    if any(block[3] is not None and np.isfinite(block[3]).any() for block in blocks):
        time = np.concatenate(
            [np.full(len(block[2]), -np.inf) if block[3] is None else block[3] for block in blocks]
        )
    bad = [(file.name, *each) for file in files for each in file.bad]
    starts = np.cumsum([0, *(sum(len(block[2]) for block in file.blocks) for file in files)])
    left_out = no_user[user] | no_item[item] | ~np.isfinite(rating)
    swallowed, empty = sum(file.swallowed for file in files), np.zeros(len(rating), bool)
    for file, start in zip(files, starts):
        empty[start + file.empty] = True
    rows = len(rating) - int(empty.sum()) + len(bad) + swallowed
    for place in np.flatnonzero(left_out & ~empty):
        file = np.searchsorted(starts, place, side="right") - 1
        row = int(place - starts[file])
        what = files[file].torn.get(row) or (
            "no user id"
            if no_user[user[place]]
            else "no item id"
            if no_item[item[place]]
            else "no number as rating"
        )
        bad.append((files[file].name, files[file].line(row), what))
    if left_out.any():
        user, item, rating = (column[~left_out] for column in (user, item, rating))
        time = None if time is None else time[~left_out]
    return Interactions(
        user, user_ids[~no_user], item, item_ids[~no_item], rating, rows, sorted(bad), swallowed, time
    )


# ---- Text ----------------------------------------------------------------------------------------------


def read_header(stream, name, separator, quoted=True):
    """The fields of the first line of a binary stream, which then stands behind it."""
    first = stream.readline(LONGEST_HEADER).decode("utf-8-sig", "replace").rstrip("\r\n")
    if "\r" in first:
        raise UserError(
            f"{name} ends its lines with carriage returns: convert it first, as with tr '\\r' '\\n'"
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
            f"{name}, line 1: a quote opens there that does not end in this line, as the names of columns must"
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
    """The rows of a delimited file, which behind its header is all rows.

    Args:
        stream: binary; size: its bytes, as far as they are known.
        places: of the user, item and rating column, from 0; None for an item that marks name, and a rating that every row is to have as 1.
        width: how many columns there are.
        time: the place of the column of times, if there is one.
        header: whether the first line has been read already.
        quote: of fields that hold separators or line breaks.
        colons: fields are separated by '::'.
        marks: pattern of rows that are no interactions, but name the item of the rows behind them.

    Returns:
        _File, for `join`.

    Raises:
        UserError: it is no text, not UTF-8, or has a quote that swallows more than BLOCK.
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
                    found = _torn(batch, rows, breaks, places, separator)
                    torn.update({int(start + row): text for row, (_, text) in found.items()})
                    swallowed += sum(lines for lines, _ in found.values())
                    batch = _without_ids(batch, found, places)
                blocks.append(_block(batch, places, time))
                start += batch.num_rows
    except pa.ArrowInvalid as error:
        if "Empty CSV file" in str(error):
            if not header:
                raise UserError(f"{name} is empty") from error
        elif no_utf8 or "UTF" in str(error):
            raise UserError(f"{name} is not UTF-8 text: convert it first, as with iconv -t UTF-8") from error
        elif quote and "straddling" in str(error):
            raise UserError(
                f"{name}, line {_longest_row(stream, separator)}: a quote opens there and does not end within {BLOCK:,} bytes; "
                "remove it, or double it if it is part of the text"
            ) from error
        else:
            raise UserError(f"{name} cannot be read: {shown(str(error).splitlines()[0], 200)}") from error
    finally:
        file.close()
        stream.close()
    # Rows that were skipped count as lines, and so does a header: where each of them stood among the others.
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
        (line(before[each], each), _told(text, beyond[each]))
        for each, (_, text) in enumerate(skipped)
        if text.strip() and not marked[each]
    ]
    if marks:
        blocks = _with_marked_items(
            blocks,
            [(before[each], text.strip()[:-1]) for each, (_, text) in enumerate(skipped) if marked[each]],
        )
    return _File(
        name, blocks, line, np.concatenate([np.empty(0, int), *empty]), bad, torn, swallowed + sum(beyond)
    )


def check_is_text(start, name):
    """Raises UserError if a file that begins so is no text, or is in an encoding that has other bytes for a comma."""
    if start.startswith(UTF_16):
        raise UserError(
            f"{name} is not UTF-8 text but UTF-16: convert it first, as with iconv -f UTF-16 -t UTF-8"
        )
    if b"\0" in start or start.startswith(NO_TEXT):
        raise UserError(f"{name} is not text")


def shown(text, length=SHOWN):
    """The start of a text, in one line."""
    escaped = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:length])
    return escaped + ("..." if len(text) > length else "")


@contextmanager
def _undecodable():
    """A list that fills with what cannot be decoded of rows for the handler of invalid ones, which pyarrow would print."""
    found, usual = [], sys.unraisablehook
    sys.unraisablehook = lambda raised: (
        found.append(raised.exc_value) if isinstance(raised.exc_value, UnicodeDecodeError) else usual(raised)
    )
    try:
        yield found
    finally:
        sys.unraisablehook = usual


def _rows_with_nothing(batch, places):
    """Numbers of the rows of which all fields are empty: an empty line, too, is one."""
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
    """(rows with line breaks in their values, how many each has)."""
    breaks = reduce(
        np.add, [pc.count_substring(column, "\n").to_numpy(zero_copy_only=False) for column in batch.columns]
    )
    rows = np.flatnonzero(breaks)
    return rows, breaks[rows]


def _torn(batch, rows, breaks, places, separator):
    """Of the rows with line breaks those that swallowed others: row -> (line breaks, what to show).

    A line break in an id or a rating is not meant. One in another column, as in a review's text, is, unless most of
    its lines have as many fields as a row.
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
        for each in np.flatnonzero(suspect.to_numpy(zero_copy_only=False)):
            value = values[each].as_py()
            value = value if isinstance(value, str) else value.decode("utf-8", "replace")
            if place in places or _reads_like_rows(value, place, places[2], width, separator):
                torn.setdefault(int(rows[each]), (int(breaks[each]), _told(value, int(breaks[each]))))
    return torn


def _reads_like_rows(value, place, rating, width, separator):
    """Whether most lines of what stands in column `place` read like rows, the first and the last with what is around them.

    They have a row's number of fields, and a number as rating; in a file without ratings, no space behind a separator, as prose has it.
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


def _told(text, line_breaks):
    return shown(text) + (f" ({line_breaks + 1:,} lines within quotes)" if line_breaks else "")


def _without_ids(batch, torn, places):
    """The batch with empty ids in the torn rows, lest what they swallowed counts as an id."""
    if not torn:
        return batch
    mask = np.isin(np.arange(batch.num_rows), list(torn))
    for place in places[:2]:
        batch = batch.set_column(place, str(place), pc.if_else(pa.array(mask), "", batch.column(place)))
    return batch


def _longest_row(stream, separator):
    """The line on which the row begins that has the most lines, or is the first that is longer than a csv reader takes."""
    stream.seek(0)
    reader, begins, longest, found = (
        python_csv.reader((line.decode("utf-8", "replace") for line in stream), delimiter=separator),
        1,
        0,
        1,
    )
    try:
        for _ in reader:
            if reader.line_num + 1 - begins > longest:
                longest, found = reader.line_num + 1 - begins, begins
            begins = reader.line_num + 1
    except python_csv.Error:
        return begins
    return found


def _with_marked_items(blocks, marks):
    """Gives every row the item of the last mark before it; marks are (rows before it, item)."""
    count = sum(len(block[2]) for block in blocks)
    places = [0, *(place for place, _ in marks), count]
    codes = np.repeat(np.arange(len(marks) + 1, dtype=np.int32), np.diff(places))
    items, start, whole = pa.array(["", *(item for _, item in marks)], pa.string()), 0, []
    for user, _, rating, time in blocks:
        whole.append(
            (user, pa.DictionaryArray.from_arrays(codes[start : start + len(rating)], items), rating, time)
        )
        start += len(rating)
    return whole


# ---- Parquet -------------------------------------------------------------------------------------------


def read_parquet(path, choose):
    """The rows of a Parquet file; choose: names of its columns -> places of users, items, ratings and times."""
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        chosen = choose(names)
        wanted = [names[place] for place in chosen if place is not None]
        blocks = []
        for batch in file.iter_batches(batch_size=2**20, columns=wanted):
            found = batch.schema.names
            *places, time = (None if place is None else found.index(names[place]) for place in chosen)
            blocks.append(_block(batch, places, time))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise UserError(f"{path} cannot be read: {shown(str(error).splitlines()[0], 200)}") from error
    return _File(path.name, blocks, lambda row: row + 1)
