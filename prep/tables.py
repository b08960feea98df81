"""Rows of a file → Interactions, by DuckDB, which works on disk where the memory is too small.

prep/plain.py opens the files, prep/layouts.py and prep/columns.py say how their rows stand. Rows that cannot
be used are left out, counted, and the first of them named by their lines. A stray quote makes one row of many
lines: it counts as all of them.
"""

import csv
import re
from decimal import Decimal
from typing import NamedTuple

import duckdb
import numpy as np
import pandas as pd
import scipy.sparse as sp

from data import WHOLE_NUMBER
from lib.errors import UserError
from prep import columns as columns_of
from prep import plain
from prep.columns import Columns
from prep.layouts import Layout, shown, sniff

LONGEST_ROW = 2**26  # bytes
LARGEST_SECONDS = 1e11  # since 1970: larger numbers are milliseconds, or less
MOST_ODD_TIMES = 0.01  # the share of times that may be unreadable
EXAMPLES = 5  # bad rows that are named
SAMPLE_ROWS = 1000
# An id that is a whole number, however a table spells it, such as 7, 7.0 or 7e3; not 007.
WHOLE = re.compile(r"(0|-?[1-9]\d*)(\.0*)?([eE]\+?\d{1,2})?")
PLAIN = re.compile(WHOLE_NUMBER)
LARGEST_ID = 10**18
MISSING = {"nan", "null", "none", "na", "n/a"}  # in a column of numbers; among texts they are names
DATES = [
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%m-%d-%Y",
    "%d-%m-%Y",
    "%d.%m.%Y",
    "%m/%d/%y",
    "%d/%m/%y",
    "%m %d, %Y",
    "%Y%m%d",
]
CLOCKS = ["", " %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p"]


class Interactions(NamedTuple):
    """N interactions in the order of the file, without its bad rows."""

    user: np.ndarray  # (N,) int32, places in user_ids
    user_ids: np.ndarray  # distinct and sorted: int64 if all are whole numbers, else objects of text
    item: np.ndarray  # (N,) int32, places in item_ids
    item_ids: np.ndarray
    rating: np.ndarray  # (N,) float32, finite: ratings, or counts; 1 without either
    time: np.ndarray | None = None  # (N,) float64, seconds since 1970, -inf where a row has none
    is_count: bool = False  # whether `rating` is to be summed over the rows of a pair


class Reading(NamedTuple):
    """What a file gave."""

    interactions: Interactions
    titles: pd.DataFrame | None = None  # item (as text) and title
    rows: int = 0  # how many were read, with the bad ones and all lines that these swallowed
    bad: int = 0
    examples: list = []  # (file, line or row, what is wrong) of the first bad rows
    notes: list = []  # what was chosen, a line each


class Part(NamedTuple):
    """A file and what its columns are."""

    file: plain.Plain
    layout: Layout
    columns: Columns


def read(path, scratch, given=None, encoding=None, delimiter=None, header=None, shape=None):
    """The Reading of a user's own file, folder, pattern or archive; see docs/data.md.

    Args:
        scratch: an empty folder for what has to be unpacked, and for DuckDB.
        given: {role: column} as in columns.choose; None: all columns are found.
        encoding, delimiter, header, shape: as in plain.unpack and layouts.sniff; None: found.

    Raises:
        UserError: it cannot be read; one line says what to do.
    """
    files, notes = plain.unpack(path, scratch, encoding)
    with database_in(scratch) as database:
        parts, more = _parts(database, path, files, scratch, given or {}, delimiter, header, shape)
        notes = notes + more
        first = parts[0]
        if first.file.kind == "npz" or first.layout.shape != "table":
            reading = _read_other(parts)
        else:
            reading = read_parts(database, parts)
    return reading._replace(notes=notes + reading.notes)


def read_titles(path, scratch, encoding=None):
    """A DataFrame with the columns item and title, from a table of the user's own."""
    files, _ = plain.unpack(path, scratch, encoding)
    with database_in(scratch) as database:
        file = files[0]
        layout = _layout(database, file, None, None, "table")
        names = layout.names or []
        ranks = [columns_of.rank(columns_of.words_of(name)) for name in names]
        best = lambda role: min((one[role], place) for place, one in enumerate(ranks) if role in one)[1]
        try:
            item = best("item") if names else 0
            title = best("title") if names else 1
        except ValueError as error:
            raise UserError(
                f"{file.name} must have a column of items and one of titles, such as item and title; "
                f"it has {columns_of.listed(names)}"
            ) from error
        fields, source = _source(file, layout)
        rows = database.execute(f"SELECT {fields[item]}, {fields[title]} FROM {source}").fetchall()
    table = pd.DataFrame(rows, columns=["item", "title"]).dropna()
    return table.assign(item=_spelled_alike(table.item))


def database_in(scratch):
    """A DuckDB connection that keeps its tables in the scratch folder."""
    database = duckdb.connect(str(scratch / "rows.duckdb"))
    database.execute(
        f"SET memory_limit = '2GB'; SET TimeZone = 'UTC'; SET temp_directory = {_quoted(scratch / 'spill')}"
    )
    return database


def _parts(database, path, files, scratch, given, delimiter, header, shape):
    """([Part] of the files that are read, notes). Of a folder's files, those without such columns are left out."""
    parts, said, errors = [], [], []
    for file in files:
        try:
            layout = _layout(database, file, delimiter, header, shape)
            if layout.delimiter == " " and layout.shape == "table":
                file, layout = plain.with_tabs(file, scratch), layout._replace(delimiter="\t")
            is_table = file.kind != "npz" and layout.shape == "table"
            columns, line = columns_of.choose(file.name, layout, given) if is_table else (Columns(0, 1), None)
            parts.append(Part(file, layout, columns))
            said.append(line)
        except UserError as error:
            errors.append((file.name, error))
    if not parts:
        raise errors[0][1]
    if any(part.layout.names for part in parts):  # then a text without a header is no table, but prose
        errors += [(part.file.name, None) for part in parts if not part.layout.names]
        said = [line for part, line in zip(parts, said) if part.layout.names]
        parts = [part for part in parts if part.layout.names]
    for part in parts:
        if (part.layout.names, part.layout.width) != (parts[0].layout.names, parts[0].layout.width):
            listed = lambda one: columns_of.listed(
                one.layout.names or list(map(str, range(one.layout.width)))
            )
            raise UserError(
                f"{path} holds tables with different columns: {parts[0].file.name} ({listed(parts[0])}) and "
                f"{part.file.name} ({listed(part)}). Name one file, or a pattern of those that belong together"
            )
    notes = [f"read as {_shape_in_words(parts[0])}" if said[0] is None else f"columns: {said[0]}"]
    if len(files) > 1:
        notes.append(
            f"{len(parts):,} files are read"
            + (f"; left out: {', '.join(name for name, _ in errors[:9])}" if errors else "")
        )
    if parts[0].layout.skip > bool(parts[0].layout.names):
        notes.append(
            f"{parts[0].file.name}: {parts[0].layout.skip - bool(parts[0].layout.names)} lines before the table are left out"
        )
    return parts, notes


def _shape_in_words(part):
    if part.file.kind == "npz":
        return "a matrix, users x items, with their numbers as ids"
    return {
        "lists": "lists: a user, then their items, a line each",
        "counted-lists": "counted lists: how many, then the items, a line for each user",
        "matrix": "a matrix: a row for each user, a column for each item",
    }[part.layout.shape]


def _layout(database, file, delimiter, header, shape):
    if file.kind == "npz":
        return Layout(shape="matrix")
    if file.kind == "text":
        return sniff(file, delimiter, header, shape)
    source = _reader(file)
    try:
        rows = database.sql(f"SELECT COLUMNS(*)::VARCHAR FROM {source} LIMIT {SAMPLE_ROWS}")
        names, rows = rows.columns, rows.fetchall()
    except duckdb.Error as error:
        raise _unreadable(file, error) from error
    return Layout(
        names=tuple(names), width=len(names), rows=tuple([field or "" for field in row] for row in rows)
    )


def _unreadable(file, error):
    kind = {"parquet": " as Parquet", "json": " as JSON"}.get(file.kind, "")
    return UserError(f"{file.name} cannot be read{kind}: {shown(str(error).splitlines()[0], 200)}")


def _reader(file):
    """The DuckDB function that reads a Parquet or JSON file."""
    if file.kind == "parquet":
        return f"read_parquet({_quoted(file.path)})"
    return f"read_json_auto({_quoted(file.path)}, maximum_object_size={LONGEST_ROW}, sample_size=-1)"


def _source(file, layout, marked=False):
    """([SQL of each field as text], SQL of the table) of a file; marked: without the marks, in a column mark."""
    if file.kind != "text":
        return [_text(f"{_identifier(name)}::VARCHAR") for name in layout.names], _reader(file)
    fields = [f"c{place}" for place in range(layout.width)]
    types = ", ".join(f"{field}: 'VARCHAR'" for field in fields)
    fields = list(map(_text, fields)) if file.has_spaces else fields
    source = (
        f"read_csv({_quoted(file.path)}, auto_detect=false, compression='none', delim={_quoted(layout.delimiter)}, "
        f"quote={_quoted(layout.quote)}, escape={_quoted(layout.quote)}, header=false, skip={layout.skip}, "
        f"columns={{{types}}}, max_line_size={LONGEST_ROW}, store_rejects=true, rejects_limit=0, "
        f"null_padding={marked})"
    )
    if marked:
        is_mark = "coalesce(c1, c2) IS NULL AND regexp_full_match(trim(c0), '\\d+:')"
        marks = f"last_value(CASE WHEN {is_mark} THEN rtrim(trim(c0), ':') END IGNORE NULLS)"
        marks = f"{marks} OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
        source = f"(SELECT *, {marks} AS mark FROM {source}) WHERE NOT ({is_mark})"
    return fields, source


def read_parts(database, parts, marked=False):
    """The Reading of tables with the same columns.

    Args:
        parts: [Part].
        marked: whether lines "item:" name the item of the rows up to the next such line.
    """
    columns, faults, starts = parts[0].columns, [], [0]
    is_number = columns.time is not None and parts[0].layout.is_number(columns.time)
    time_type = "DOUBLE" if is_number or not parts[0].layout.rows else "VARCHAR"
    for part in parts:
        _load(database, part, part is parts[0], marked, time_type)
        faults.append(_rejected(database, part.file) if part.file.kind == "text" else [])
        starts.append(database.execute("SELECT count(*) FROM raw").fetchone()[0])
    users, items = (_distinct(database, column) for column in "ui")
    is_bad = "(u IS NULL OR i IS NULL OR v IS NULL OR NOT isfinite(v))"
    rows, bad, swallowed = database.execute(
        f"SELECT count(*), count(*) FILTER ({is_bad}), coalesce(sum(len(torn) - len(replace(torn, chr(10), ''))), 0) "
        "FROM raw"
    ).fetchone()
    examples = []
    for number, (part, rejected) in enumerate(zip(parts, faults)):
        swallowed += sum(lines for _, _, lines in rejected)
        if len(examples) < EXAMPLES:
            found = _bad_rows(database, part, is_bad, *starts[number : number + 2], marked)
            shown_rejected = [(line, text) for line, text, _ in rejected]
            examples += [(part.file.name, *fault) for fault in sorted(shown_rejected + found)]
    rejected = sum(map(len, faults))
    notes, time = _times(database, is_bad, time_type)
    user, item, rating, times = _fetch(database, is_bad, time, users, items)
    titles = None
    if columns.title is not None:
        titles = database.execute(
            f"SELECT i AS item, arg_min(title, rowid) AS title FROM raw WHERE NOT {is_bad} AND title IS NOT NULL "
            "GROUP BY i"
        ).df()
        titles = titles.assign(item=_spelled_alike(titles.item))
    return Reading(
        Interactions(user, users[0], item, items[0], rating, times, is_count=columns.rating is None),
        titles,
        rows=int(rows + rejected + swallowed),
        bad=int(bad + rejected + swallowed),
        examples=examples[:EXAMPLES],
        notes=notes,
    )


def _load(database, part, is_first, marked, time_type):
    """Appends a file's rows to the table raw.

    Its columns: u, i, v, t and title, as texts but for v and, with time_type DOUBLE, t; torn, the value that
    swallowed other rows; odd, a time that is no number.
    """
    file, layout, columns = part
    fields, source = _source(file, layout, marked)
    item, torn = "mark" if marked else fields[columns.item], "NULL"
    if file.kind == "text" and file.has_quotes:
        torn = _torn_sql([f"c{place}" for place in range(layout.width)], layout, columns)
    sound = lambda field: f"CASE WHEN torn IS NULL THEN {field} END"
    optional = lambda place: "NULL" if place is None else fields[place]
    number = "1" if columns.value is None else _number(fields[columns.value], layout.delimiter)
    time = f"try_cast({optional(columns.time)} AS {time_type})"
    select = (
        f"SELECT {sound(fields[columns.user])} AS u, {sound(item)} AS i, {number}::FLOAT AS v, {time} AS t, "
        f"{optional(columns.title)}::VARCHAR AS title, torn, "
        f"CASE WHEN {time} IS NULL THEN {optional(columns.time)}::VARCHAR END AS odd "
        f"FROM (SELECT *, ({torn})::VARCHAR AS torn FROM {source})"
    )
    if file.kind == "text":
        select += f" WHERE coalesce({', '.join(f'c{place}' for place in range(layout.width))}) IS NOT NULL"
    try:
        database.execute(f"{'CREATE TABLE raw AS' if is_first else 'INSERT INTO raw'} {select}")
    except duckdb.Error as error:
        raise _unreadable(file, error) from error


def _torn_sql(fields, layout, columns):
    """SQL for the value of a row that swallowed other rows, or NULL.

    A line break in an id or a rating is a fault. In another column, such as a review's text, it is one if most
    of the value's lines, the first and the last with the fields around them, read like rows: they have as
    many delimiters, and a number, or nothing, as rating.
    """
    cases = []
    for place, field in enumerate(fields):
        breaks = f"contains({field}, chr(10))"
        if place not in (columns.user, columns.item, columns.value):
            delimiter, beyond = _quoted(layout.delimiter), layout.width - 1
            delimiters = f"(len(x) - len(replace(x, {delimiter}, ''))) = {beyond * len(layout.delimiter)}"
            if columns.value is None:
                is_row = f"{delimiters} AND NOT contains(x, {_quoted(layout.delimiter + ' ')})"
            else:
                rating = f"trim(split_part(x, {delimiter}, {columns.value + 1}))"
                is_row = f"{delimiters} AND ({rating} = '' OR try_cast({rating} AS DOUBLE) IS NOT NULL)"
            whole = f"repeat({delimiter}, {place}) || {field} || repeat({delimiter}, {beyond - place})"
            lines = f"string_split({whole}, chr(10))"
            breaks += f" AND 2 * len(list_filter({lines}, lambda x: {is_row})) > len({lines})"
        cases.append(f"CASE WHEN {breaks} THEN {field} END")
    return f"coalesce({', '.join(cases)})"


def _text(field):
    """SQL of a text without spaces around it; NULL if nothing is left."""
    return f"nullif(trim({field}), '')"


def _number(text, delimiter):
    """SQL of a number: 2.5, 1e3, true, 2,5 and, between commas, "1,234"."""
    pattern, point = (r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", "") if delimiter == "," else (r"[+-]?\d+,\d+", ".")
    return (
        f"coalesce(try_cast({text} AS FLOAT), "
        f"CASE WHEN regexp_full_match({text}, '{pattern}') THEN try_cast(replace({text}, ',', '{point}') AS FLOAT) END, "
        f"CASE lower({text}) WHEN 'true' THEN 1 WHEN 'false' THEN 0 END)"
    )


def _rejected(database, file):
    """[(line, text, line breaks in it)] of the rows that DuckDB could not read; its list of them is emptied."""
    rows = database.execute(
        "SELECT line_byte_position, any_value(csv_line) FROM reject_errors GROUP BY 1 ORDER BY 1"
    ).fetchall()
    database.execute("DELETE FROM reject_errors; DELETE FROM reject_scans")
    rejected, at, line = [], 0, 1
    with open(file.path, "rb") as content:
        for position, text in rows:
            line += _line_feeds(content, position - 1 - at)
            at, text = position - 1, (text or "").rstrip("\r\n")
            row = text.lstrip("\r\n")  # empty lines before it are no rows
            breaks = row.count("\n")
            rejected.append((line + text.count("\n") - breaks, _excerpt(row, breaks), breaks))
    return rejected


def _line_feeds(file, count):
    """How many line feeds the next `count` bytes have."""
    found = 0
    while count > 0 and (block := file.read(min(count, plain.BLOCK))):
        found, count = found + block.count(b"\n"), count - len(block)
    return found


def _excerpt(text, breaks):
    return shown(text) + (f" ({breaks + 1:,} lines within quotes)" if breaks else "")


def _bad_rows(database, part, is_bad, start, stop, marked):
    """[(line, what is wrong)] of the first bad rows that DuckDB could read."""
    rows = database.execute(
        f"SELECT rowid, u, i, torn FROM raw WHERE rowid >= {start} AND rowid < {stop} AND {is_bad} LIMIT {EXAMPLES}"
    ).fetchall()
    if not rows:
        return []
    faults = [_fault(user, item, torn) for _, user, item, torn in rows]
    if part.file.kind != "text":
        return [(row[0] - start + 1, fault) for row, fault in zip(rows, faults)]
    wanted, numbers = [row[0] - start for row in rows], []
    for place, line in enumerate(_lines_of_rows(part, marked)):
        if len(numbers) == len(wanted):
            break
        if place == wanted[len(numbers)]:
            numbers.append(line)
    return list(zip(numbers, faults))


def _fault(user, item, torn):
    if torn is not None:
        return _excerpt(torn, torn.count("\n"))
    if user is None:
        return "no user id"
    return "no item id" if item is None else "the rating is not a number"


def _lines_of_rows(part, marked):
    """Generates the line on which each row of the table raw begins, as DuckDB reads the file."""
    layout = part.layout
    with open(part.file.path, encoding="utf-8-sig", newline="\n") as file:
        for _ in range(layout.skip):
            next(file)
        if layout.quote:
            csv.field_size_limit(LONGEST_ROW)
            rows = csv.reader(file, delimiter=layout.delimiter, strict=True)
        else:
            rows = (line.rstrip("\r\n").split(layout.delimiter) for line in file)
        before, count = layout.skip, 0
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error:  # a row that DuckDB rejects, too
                row = []
            count = rows.line_num if layout.quote else count + 1
            line, before = before + 1, layout.skip + count
            if marked and re.fullmatch(r"\d+:", row[0].strip()):
                continue
            if (len(row) == layout.width or marked and len(row) < layout.width) and any(row):
                yield line


def _times(database, is_bad, time_type):
    """(notes, SQL of the seconds since 1970 of the column t of raw), by one format for the whole column."""
    good = f"FROM raw WHERE NOT {is_bad} AND (t IS NOT NULL OR odd IS NOT NULL)"
    total = database.execute(f"SELECT count(*) {good}").fetchone()[0]
    if not total:
        return [], "NULL"
    if time_type == "DOUBLE":
        largest = database.execute(f"SELECT max(t) {good} AND isfinite(t)").fetchone()[0] or 0
        unit = next((unit for unit in (1, 1e3, 1e6, 1e9) if largest < LARGEST_SECONDS * unit), 1)
        formats = [(f"CASE WHEN isfinite(t) THEN t / {unit:g} END", None)]
    else:
        formats = [("epoch(try_cast(t AS TIMESTAMPTZ))", None)]
        formats += [
            (f"epoch(try_strptime(t, {_quoted(date + clock)}))", date + clock)
            for date in DATES
            for clock in CLOCKS
        ]
    read, sql, name = 0, "NULL", None
    for one, format_name in formats:
        count = database.execute(f"SELECT count({one}) {good}").fetchone()[0]
        if count > read:
            read, sql, name = count, one, format_name
        if read == total:
            return ([f"times are read as {name}"] if name else []), sql
    other = database.execute(
        f"SELECT coalesce(odd, t::VARCHAR) {good} AND ({sql}) IS NULL LIMIT 1"
    ).fetchone()[0]
    like = database.execute(f"SELECT t::VARCHAR {good} AND ({sql}) IS NOT NULL LIMIT 1").fetchone()
    if read < (1 - MOST_ODD_TIMES) * total:
        such = " and ".join(f"'{shown(text, 40)}'" for text in [*(like or []), other])
        raise UserError(
            f"the times are not all of one kind, such as {such}. Write them alike, or leave them out with --time-col=-"
        )
    return [
        f"{total - read:,} times cannot be read, such as '{shown(other, 40)}': taken for the earliest"
    ], sql


def _distinct(database, column):
    """(ids, places, whether all are plain numbers) of the texts in a column of raw; see `canonical`.

    In a column of whole numbers, words such as NaN stand for a missing id: there the column becomes NULL.
    """
    texts = [text for (text,) in database.execute(_distinct_sql(column)).fetchall()]
    missing = [text for text in texts if text.lower() in MISSING]
    if missing and all(map(WHOLE.fullmatch, set(texts) - set(missing))) and len(missing) < len(texts):
        words = ", ".join(map(_quoted, missing))
        database.execute(f"UPDATE raw SET {column} = NULL WHERE {column} IN ({words})")
        return _distinct(database, column)
    return *canonical(texts), bool(texts) and all(map(PLAIN.fullmatch, texts))


def _distinct_sql(column):
    return f"SELECT DISTINCT {column} FROM raw WHERE {column} IS NOT NULL AND isfinite(v) ORDER BY 1"


def _fetch(database, is_bad, time, users, items):
    """(user codes, item codes, ratings, times or None) of the good rows of raw, a column at a time.

    Args:
        users, items: from `_distinct`.
    """
    fetch = lambda sql: database.execute(f"SELECT {sql} AS x FROM raw WHERE NOT {is_bad}").fetchnumpy()["x"]
    codes = []
    for column, (ids, places, are_plain) in (("u", users), ("i", items)):
        if are_plain:  # a hash of numbers is ten times faster than an enum's of texts
            code = pd.Index(ids).get_indexer(np.ma.filled(fetch(f"{column}::BIGINT"), 0)).astype(np.int32)
        else:
            database.execute(f"CREATE TYPE ids_{column} AS ENUM ({_distinct_sql(column)})")
            code = places[np.ma.filled(fetch(f"enum_code({column}::ids_{column})::INTEGER"), 0)]
        codes.append(code)
    rating = np.ma.filled(fetch("v"), 1).astype(np.float32, copy=False)
    return *codes, rating, None if time == "NULL" else np.ma.filled(fetch(f"({time})::DOUBLE"), -np.inf)


def canonical(texts):
    """(ids sorted and distinct, (n,) int32 place of each text among them).

    The ids are int64 if every text spells a whole number, whatever its spelling; else the texts themselves.
    """
    texts = np.array(texts, object)
    if len(texts) and all(map(WHOLE.fullmatch, texts)):
        numbers = [int(text) if text.lstrip("-").isdigit() else int(Decimal(text)) for text in texts]
        if max(map(abs, numbers)) < LARGEST_ID:
            texts = np.array(numbers, np.int64)
    ids, places = np.unique(texts, return_inverse=True)
    return ids, places.astype(np.int32)


def _spelled_alike(texts):
    """Ids in the spelling of `canonical`, as text."""
    ids, places = canonical(texts)
    return ids.astype(str).astype(object)[places]


def _quoted(text):
    """A text in SQL."""
    return "'" + str(text).replace("'", "''") + "'"


def _identifier(name):
    return '"' + name.replace('"', '""') + '"'


# ---- Other shapes --------------------------------------------------------------------------------------


def _read_other(parts):
    """The Reading of a matrix or of lists."""
    if len(parts) > 1:
        raise UserError(
            f"{parts[0].file.name} and {parts[1].file.name} are {_shape_in_words(parts[0])}. Name one file"
        )
    file, layout, _ = parts[0]
    read = _read_npz if file.kind == "npz" else _read_matrix if layout.shape == "matrix" else _read_lists
    users, items, values = read(file, layout)
    (user, user_ids), (item, item_ids) = map(encode, (users, items))
    values = np.asarray(values, np.float32)
    return Reading(Interactions(user, user_ids, item, item_ids, values, is_count=True), rows=len(values))


def encode(column):
    """((n,) int32 codes, ids) of a column of n numbers or texts; see `canonical`."""
    codes, distinct = pd.factorize(np.asarray(column, object if isinstance(column, list) else None))
    if (codes < 0).any():
        raise UserError(f"{int((codes < 0).sum()):,} interactions have no user or no item")
    ids, places = canonical(list(map(str, distinct)))
    return places[codes], ids


def _read_npz(file, layout):
    """(users, items, values) of a matrix that scipy or numpy has saved; ids are the numbers of rows and columns."""
    try:
        with open(file.path, "rb") as content:
            matrix = (
                sp.load_npz(content) if content.peek(2)[:2] == b"PK" else np.load(content, allow_pickle=False)
            )
        matrix = sp.coo_array(matrix)
        if matrix.ndim != 2:
            raise ValueError(f"it has {matrix.ndim} dimensions, not 2")
    except Exception as error:  # zipfile, zlib and numpy raise many kinds
        raise UserError(
            f"{file.name} is no matrix of scipy.sparse.save_npz or numpy.save: {shown(str(error), 120)}"
        ) from error
    entries = matrix.data != 0
    return matrix.row[entries], matrix.col[entries], matrix.data[entries]


def _read_matrix(file, layout):
    """(users, items, values) of a table with a row for each user and a column for each item."""
    users, items, values = [], [], []
    chunks = pd.read_csv(
        file.path, sep=layout.delimiter, skiprows=layout.skip, header=None, dtype={0: str}, chunksize=10_000,
        keep_default_na=False, na_values=[""],
    )  # fmt: skip
    try:
        for chunk in chunks:
            cells = chunk.iloc[:, 1:].to_numpy(np.float32, na_value=0)
            row, column = cells.nonzero()
            users += chunk[0].to_numpy(object)[row].tolist()
            items += np.array(layout.names[1:], object)[column].tolist()
            values.append(cells[row, column])
    except ValueError as error:
        raise UserError(
            f"{file.name} is no matrix of numbers: {shown(str(error).splitlines()[0], 120)}"
        ) from error
    return users, items, np.concatenate([np.empty(0, np.float32), *values])


def _read_lists(file, layout):
    """(users, items, ones) of lines "user item item …"; counted: "how many item item …", users by line, from 0."""
    users, items = [], []
    with open(file.path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines):
            first, *rest = re.split(r"[\s,;]+", line.strip())
            users += [first if layout.shape == "lists" else str(number)] * len(rest)
            items += rest
    return users, items, np.ones(len(items), np.float32)
