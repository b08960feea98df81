"""Tables whose layout and columns are known → Interactions, by DuckDB, which works on disk where memory ends.

Rows that cannot be used are left out, counted, and the first of them named by their lines. A stray quote
makes one row of many lines: it counts as all of them.
"""

import csv
import re
import threading
from contextlib import contextmanager
from decimal import Decimal
from typing import NamedTuple

import duckdb
import numpy as np
import pandas as pd
from tqdm import tqdm

from data import WHOLE_NUMBER
from lib.errors import UserError
from prep import plain
from prep.columns import Columns
from prep.layouts import MARK, Layout, shown, units_a_second
from prep.plain import LONGEST_ROW

LARGEST_SECONDS = 1e11  # since 1970: larger numbers are milliseconds, or less
MOST_ODD_TIMES = 0.2  # the share of times that may be unreadable
MOST_COLUMNS_READ = 200
EXAMPLES = 5  # bad rows that are named
# An id that is a whole number, however a table spells it, such as 7, 7.0 or 7e3; not 007.
WHOLE = re.compile(r"(0|-?[1-9]\d*)(\.0*)?([eE]\+?\d{1,2})?")
PLAIN = re.compile(WHOLE_NUMBER)
LARGEST_ID, LONGEST_NUMBER = 10**18, 1000  # Python reads no number of more than 4,300 digits
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
OTHER_TIMES = ["%a %b %d %H:%M:%S %z %Y", "%B %d, %Y", "%b %d, %Y", "%d %B %Y", "%d %b %Y", "%d-%b-%Y"]
CLOCKS = ["", " %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p"]
# The line of a mark, such as "5:", has no other fields; the last mark before a row is that of its item.
IS_MARK = f"(coalesce(c1, c2) IS NULL AND regexp_full_match(trim(c0), '{MARK}'))"
LAST_MARK = "last_value(i IGNORE NULLS) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"


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
    bad: int = 0  # of these, how many cannot be used
    missing: int = 0  # of the bad, how many only lack a user or an item
    examples: list = []  # (file, line or row, what is wrong) of the first bad rows
    notes: list = []  # what was chosen, a line each


class Part(NamedTuple):
    """A file and what its columns are."""

    file: plain.Plain
    layout: Layout
    columns: Columns


NETFLIX_COLUMNS = Columns(user=0, item=None, rating=1)


@contextmanager
def database_in(scratch):
    """A DuckDB connection that keeps its tables in the scratch folder; UserError if its disk is full."""
    try:
        with duckdb.connect(str(scratch / "rows.duckdb")) as database:
            database.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
            database.execute(f"SET memory_limit = '2GB'; SET temp_directory = {quoted(scratch / 'spill')}")
            database.execute("SET TimeZone = 'UTC'")
            yield database
    except RuntimeError as error:
        if "interrupted" in str(error):  # so DuckDB says that Ctrl-C was pressed
            raise KeyboardInterrupt from error
        raise
    except duckdb.Error as error:
        raise _full_disk(error) or error


def _full_disk(error):
    """A UserError if DuckDB's error is of a full disk, else None."""
    if "space left" in str(error) or "Could not write" in str(error):
        return UserError("the disk is full: --data_dir needs room for a copy of the rows")


def unreadable(file, error):
    """A UserError for what DuckDB says about a file, or about the disk."""
    if full := _full_disk(error):
        return full
    kind = {"parquet": " as Parquet", "json": " as JSON"}.get(file.kind, "")
    return UserError(f"{file.name} cannot be read{kind}: {shown(str(error).splitlines()[0], 200)}")


def reader_of(file):
    """The DuckDB function that reads a Parquet or JSON file."""
    if file.kind == "parquet":
        return f"read_parquet({_of_one(file)})"
    return f"read_json_auto({_of_one(file)}, maximum_object_size={LONGEST_ROW}, sample_size=-1)"


def source_of(file, layout):
    """([SQL of each field as text], SQL of the table) of a file."""
    if file.kind != "text":
        return [_text(f"{_identifier(name)}::VARCHAR") for name in layout.names], reader_of(file)
    fields = [f"c{place}" for place in range(layout.width)]
    types = ", ".join(f"{field}: 'VARCHAR'" for field in fields)
    fields = list(map(_text, fields)) if file.has_spaces else fields
    delimiter, quote = quoted(layout.delimiter), quoted(layout.quote)
    nothing = "['']" if layout.escape == "\\" else "['', '\\N']"  # \N as MySQL and PostgreSQL write it
    source = (
        f"read_csv({_of_one(file)}, auto_detect=false, compression='none', delim={delimiter}, "
        f"quote={quote}, escape={quoted(layout.escape)}, header=false, skip={layout.skip}, "
        f"columns={{{types}}}, max_line_size={LONGEST_ROW}, buffer_size={2 * LONGEST_ROW}, "
        f"store_rejects=true, rejects_limit=0, null_padding={_is_marked(layout)}, nullstr={nothing})"
    )
    return fields, source


def _is_marked(layout):
    """Whether lines of fewer fields, such as "5:", name the item of the rows up to the next such line."""
    return layout.shape == "netflix"


def read_parts(database, parts):
    """The Reading of a list of Parts: tables with the same columns."""
    columns, types = parts[0].columns, _types(parts[0])
    faults, starts = _load(database, parts, types)
    if database.execute("SELECT count(*) FROM raw WHERE unlike").fetchone()[0]:  # some ids are no numbers
        faults, starts = _load(database, parts, {**types, "u": "VARCHAR", "i": "VARCHAR"})
    users, items = (_distinct(database, column) for column in "ui")
    is_bad = "(u IS NULL OR i IS NULL OR v IS NULL OR NOT isfinite(v))"
    breaks = "coalesce(sum(len(torn) - len(replace(torn, chr(10), ''))), 0)"
    lacks_id = "torn IS NULL AND (u IS NULL OR i IS NULL)"
    rows, bad, missing, swallowed = database.execute(
        f"SELECT count(*), count(*) FILTER ({is_bad}), count(*) FILTER ({lacks_id}), {breaks} FROM raw"
    ).fetchone()
    examples = []
    for number, (part, rejected) in enumerate(zip(parts, faults)):
        swallowed += sum(lines for _, _, lines in rejected)
        if len(examples) < EXAMPLES:
            found = _bad_rows(database, part, is_bad, *starts[number : number + 2])
            shown_rejected = [(line, text) for line, text, _ in rejected]
            examples += [(part.file.name, *fault) for fault in sorted(shown_rejected + found)]
    rejected = sum(map(len, faults))
    notes, time = _times(database, is_bad, types["t"])
    user, item, rating, times = _fetch(database, is_bad, time, users, items)
    titles = None
    if columns.title is not None:
        titles = database.execute(
            "SELECT i AS item, arg_min(title, rowid) AS title FROM raw "
            f"WHERE NOT {is_bad} AND title IS NOT NULL GROUP BY i"
        ).df()
        titles = titles.assign(item=spelled_alike(titles.item.astype(str)))
    return Reading(
        Interactions(user, users[0], item, items[0], rating, times, is_count=columns.rating is None),
        titles,
        rows=int(rows + rejected + swallowed),
        bad=int(bad + rejected + swallowed),
        missing=missing,
        examples=examples[:EXAMPLES],
        notes=notes,
    )


def _types(part):
    """The SQL types of users, items and times: numbers, which are faster, if the first rows have such."""
    layout, columns = part.layout, part.columns
    is_plain = lambda place: place is None or all(map(PLAIN.fullmatch, layout.column(place)))
    is_number = columns.time is not None and layout.is_number(columns.time)
    return {
        "u": "VARCHAR" if columns.user is None or not is_plain(columns.user) else "BIGINT",
        "i": "BIGINT" if is_plain(columns.item) else "VARCHAR",
        "t": "DOUBLE" if is_number or not layout.rows else "VARCHAR",
    }


def _load(database, parts, types):
    """Makes the table raw of all rows; ([the rows that could not be read] of each file, [where each begins]).

    Its columns: u, i, v, t and title; torn, the value that swallowed other rows; odd, a time that is no
    number; unlike, whether an id is no number, or would be spelled otherwise if it were one, as 007.
    """
    database.execute("DROP TABLE IF EXISTS raw")
    faults, starts = [], [0]
    for part in parts:
        _append(database, part, part is parts[0], types)
        faults.append(_rejected(database, part.file) if part.file.kind == "text" else [])
        starts.append(database.execute("SELECT count(*) FROM raw").fetchone()[0])
    return faults, starts


def _append(database, part, is_first, types):
    """Appends a file's rows to the table raw, or begins it."""
    file, layout, columns = part
    fields, source = source_of(file, layout)
    torn = "NULL"
    if file.kind == "text" and file.has_quotes:
        torn, source = "torn", f"(SELECT *, {_torn_sql(layout, columns)} AS torn FROM {source})"
    if _is_marked(layout):
        user = f"CASE WHEN NOT {IS_MARK} THEN c0 END"
        item = f"CASE WHEN {IS_MARK} THEN rtrim(trim(c0), ':') END"
    else:
        user, item = "''" if columns.user is None else fields[columns.user], fields[columns.item]
    sound = lambda field: f"CASE WHEN {torn} IS NULL THEN {field} END"
    optional = lambda place: "NULL" if place is None else fields[place]
    number = "1" if columns.value is None else _number(fields[columns.value], layout.delimiter)
    time = f"try_cast({optional(columns.time)} AS {types['t']})"
    unlike = [
        f"{field} IS NOT NULL AND try_cast({field} AS BIGINT)::VARCHAR IS DISTINCT FROM {field}"
        for field, role in ((user, "u"), (item, "i"))
        if types[role] == "BIGINT"
    ]
    select = (
        f"SELECT try_cast({sound(user)} AS {types['u']}) AS u, try_cast({sound(item)} AS {types['i']}) AS i, "
        f"{number}::FLOAT AS v, {time} AS t, {' OR '.join(unlike) or 'false'} AS unlike, "
        f"{optional(columns.title)}::VARCHAR AS title, {torn}::VARCHAR AS torn, "
        f"CASE WHEN {time} IS NULL THEN {optional(columns.time)}::VARCHAR END AS odd "
        f"FROM {source}"
    )
    if file.kind == "text":  # an empty line is no row; of very wide tables, reading all columns would cost GB
        wide = layout.width > MOST_COLUMNS_READ
        read = [place for place in columns if place is not None] if wide else range(layout.width)
        select += f" WHERE coalesce({', '.join(f'c{place}' for place in read)}) IS NOT NULL"
    try:
        with _bar(database, file.name):
            if _is_marked(layout):
                # At first only the marks have an item; a second pass, over numbers, gives it to their rows.
                database.execute(f"CREATE OR REPLACE TABLE marked AS {select}")
                with_items = f"SELECT * REPLACE ({LAST_MARK} AS i), i AS mark FROM marked"
                select = f"SELECT * EXCLUDE (mark) FROM ({with_items}) WHERE mark IS NULL"
            database.execute(f"{'CREATE TABLE raw AS' if is_first else 'INSERT INTO raw'} {select}")
    except duckdb.Error as error:
        raise unreadable(file, error) from error


@contextmanager
def _bar(database, name):
    """On a terminal, a bar of the progress of what the database does in the block, if it takes long."""
    done = threading.Event()

    def watch():
        form = "{desc} |{bar}| {percentage:.0f} %, {remaining} left"
        with tqdm(
            total=100, desc=f"reading {name}", bar_format=form, disable=None, delay=2, leave=False
        ) as bar:
            while not done.wait(0.5):
                bar.update(max(0, database.query_progress() - bar.n))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _torn_sql(layout, columns):
    """SQL for the value of a row that swallowed other rows, or NULL.

    A line break in an id or a rating is a fault. In another column, such as a review's text, it is one if
    most of the value's lines, the first and the last with the fields around them, read like rows: they have
    as many delimiters, and a number, or nothing, as rating.
    """
    cases = []
    for place in range(layout.width):
        field = f"c{place}"
        breaks = f"contains({field}, chr(10))"
        if place not in (columns.user, columns.item, columns.value):
            delimiter, beyond = quoted(layout.delimiter), layout.width - 1
            delimiters = f"(len(x) - len(replace(x, {delimiter}, ''))) = {beyond * len(layout.delimiter)}"
            if columns.value is None:
                is_row = f"{delimiters} AND NOT contains(x, {quoted(layout.delimiter + ' ')})"
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
    replaced = f"try_cast(replace({text}, ',', '{point}') AS FLOAT)"
    return (
        f"coalesce(try_cast({text} AS FLOAT), "
        f"CASE WHEN regexp_full_match({text}, '{pattern}') THEN {replaced} END, "
        f"CASE lower({text}) WHEN 'true' THEN 1 WHEN 'false' THEN 0 END)"
    )


def _rejected(database, file):
    """[(line, text, line breaks in it)] of the rows that DuckDB could not read; its list is emptied."""
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


def _bad_rows(database, part, is_bad, start, stop):
    """[(line, what is wrong)] of the first bad rows that DuckDB could read."""
    rows = database.execute(
        "SELECT rowid, u, i, torn FROM raw "
        f"WHERE rowid >= {start} AND rowid < {stop} AND {is_bad} LIMIT {EXAMPLES}"
    ).fetchall()
    if not rows:
        return []
    faults = [_fault(user, item, torn) for _, user, item, torn in rows]
    if part.file.kind != "text":
        return [(row[0] - start + 1, fault) for row, fault in zip(rows, faults)]
    wanted, numbers = [row[0] - start for row in rows], []
    for place, line in enumerate(_lines_of_rows(part)):
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


def _lines_of_rows(part):
    """Generates the line on which each row of the table raw begins, as DuckDB reads the file."""
    layout = part.layout
    marked = _is_marked(layout)
    with open(part.file.path, encoding="utf-8-sig", newline="\n") as file:
        for _ in range(layout.skip):
            next(file)
        if layout.quote:
            csv.field_size_limit(LONGEST_ROW)
            doubled = layout.escape == layout.quote
            escape = None if doubled else layout.escape
            rows = csv.reader(
                file, delimiter=layout.delimiter, doublequote=doubled, escapechar=escape, strict=True
            )
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
            if marked and re.fullmatch(MARK, row[0].strip()):
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
        unit = units_a_second(largest, LARGEST_SECONDS)
        formats = [(f"CASE WHEN isfinite(t) THEN t / {unit:g} END", None)]
    else:
        formats = [("epoch(try_cast(t AS TIMESTAMPTZ))", None)]
        formats += [(f"epoch(try_strptime(t, '{one}'))", one) for one in OTHER_TIMES]
        formats += [
            (f"epoch(try_strptime(t, {quoted(date + clock)}))", date + clock)
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
        return [f"times are left out: they are not all of one known kind, such as {such}"], "NULL"
    return [
        f"{total - read:,} times cannot be read, such as '{shown(other, 40)}': taken for the earliest"
    ], sql


def _distinct(database, column):
    """(ids, places, whether all are plain numbers) of the texts in a column of raw; see `canonical`.

    In a column of whole numbers, words such as NaN stand for a missing id: there the column becomes NULL.
    """
    found = database.execute(_distinct_sql(column)).fetchnumpy()[column]
    if found.dtype == np.int64:
        return np.ma.getdata(found), np.arange(len(found), dtype=np.int32), True
    texts = found.tolist()
    missing = [text for text in texts if text.lower() in MISSING]
    if missing and all(map(WHOLE.fullmatch, set(texts) - set(missing))) and len(missing) < len(texts):
        words = ", ".join(map(quoted, missing))
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
    if len(texts) and all(len(text) < LONGEST_NUMBER and WHOLE.fullmatch(text) for text in texts):
        numbers = [int(text) if text.lstrip("-").isdigit() else int(Decimal(text)) for text in texts]
        if max(map(abs, numbers)) < LARGEST_ID:
            texts = np.array(numbers, np.int64)
    ids, places = np.unique(texts, return_inverse=True)
    return ids, places.astype(np.int32)


def spelled_alike(texts):
    """Ids in the spelling of `canonical`, as text."""
    ids, places = canonical(texts)
    return ids.astype(str).astype(object)[places]


def titles_of(titles, item_ids):
    """(I,) the title of each item, "" without one; titles is a DataFrame as in Reading."""
    titles = titles.drop_duplicates("item").set_index("item").title
    return titles.reindex(item_ids.astype(str)).fillna("").to_numpy(object)


def quoted(text):
    """A text in SQL."""
    return "'" + str(text).replace("'", "''") + "'"


def _of_one(file):
    """The path of a Plain in SQL; DuckDB would take a name such as a*.csv for a pattern of many files."""
    return quoted(re.sub(r"[*?[]", r"[\g<0>]", str(file.path)))


def _identifier(name):
    return '"' + name.replace('"', '""') + '"'


def encode(column):
    """((n,) int32 codes, ids) of a column of n numbers or texts; see `canonical`."""
    codes, distinct = pd.factorize(column)
    if (codes < 0).any():
        raise UserError(f"{int((codes < 0).sum()):,} interactions have no user or no item")
    ids, places = canonical(list(map(str, distinct)))
    return places[codes], ids
