"""A file of the user's own → Reading: what it is and what its columns are is found, and said."""

import re

import duckdb
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.io import mmread

from lib.errors import UserError
from lib.files import empty_folder
from prep import plain, tables
from prep.columns import ROLES, Columns, choose, listed, rank, words_of
from prep.layouts import Layout, shown, sniff
from prep.prepared import is_prepared, read_prepared
from prep.tables import Interactions, Part, Reading, database_in, encode, spelled_alike

OPTIONS = [*(f"{role}_col" for role in ROLES), "encoding", "delimiter", "header", "format", "titles"]
DELIMITERS = {"tab": "\t", "space": " "}
SAMPLE_ROWS = 1000
NEEDED = ("user", "item")
MOST_LISTED = 9  # names of files, in a line
LIKELY_NAMES = r"ratings?\b|interactions?\b|events?\b|reviews?\b|u\.data|\.inter$"  # of a file among others
SHAPES_IN_WORDS = {
    "lists": "lists: a user, then their items, a line each",
    "counted-lists": "counted lists: how many, then the items, a line for each user",
    "matrix": "a matrix: a row for each user, a column for each item",
    "array": "an array: a row a user, a column an item; or, with two or three columns, a row an interaction",
    "netflix": "the Netflix Prize's files: 'film:', then its rows",
}


def read_own(path, scratch, options):
    """The tables.Reading of a user's own file.

    Args:
        scratch: an empty folder.
        options: {key of OPTIONS: value or None}.
    """
    if is_prepared(path):
        return read_prepared(path, options)
    given = {role: options[f"{role}_col"] for role in ROLES}
    delimiter = DELIMITERS.get(options["delimiter"], options["delimiter"])
    header = {None: None, "yes": True, "no": False}[options["header"]]
    reading = read(path, scratch, given, options["encoding"], delimiter, header, options["format"])
    if options["titles"] is not None:
        with empty_folder(scratch / "titles") as folder:
            reading = reading._replace(titles=read_titles(options["titles"], folder, options["encoding"]))
    if reading.titles is not None:
        titled = reading.titles.item.nunique()
        ids = reading.interactions.item_ids.astype(str)
        found = int(reading.titles.drop_duplicates("item").item.isin(ids).sum())
        if options["titles"] is not None and not found:
            raise UserError(
                f"--titles: none of its items, such as {shown(str(reading.titles.item.iloc[0]))}, is among "
                f"those of {path}, such as {shown(ids[0])}"
            )
        unused = f"; {titled - found:,} titles are of items without interactions" if titled > found else ""
        note = f"{found:,} of {len(ids):,} items have a title{unused}"
        reading = reading._replace(notes=[*reading.notes, note])
    return reading


def read(path, scratch, given=None, encoding=None, delimiter=None, header=None, shape=None, needed=NEEDED):
    """The Reading of a user's own file, folder, pattern or archive; see docs/data.md.

    Args:
        scratch: an empty folder for what has to be unpacked, and for DuckDB.
        given: {role: column} as in columns.choose; None: all columns are found.
        encoding, delimiter, header, shape: as in plain.unpack and layouts.sniff; None: found.
        needed: the roles that a table must have columns for; without "user", all rows may be of one user.

    Raises:
        UserError: it cannot be read; one line says what to do.
    """
    files, notes = plain.unpack(path, scratch, encoding)
    with database_in(scratch) as database:
        try:
            parts, said = _parts(
                database, path, files, scratch, given or {}, (delimiter, header, shape), needed
            )
        except UserError as error:
            raise UserError("; ".join([str(error), *notes])) from error  # a wrong encoding may be why
        notes = notes + said
        if parts[0].layout.shape in ("table", "netflix"):
            reading = tables.read_parts(database, parts)
        else:
            reading = _read_other(parts)
    return reading._replace(notes=notes + reading.notes)


def read_titles(path, scratch, encoding=None):
    """A DataFrame with the columns item and title, from a table of the user's own."""
    files, _ = plain.unpack(path, scratch, encoding)
    with database_in(scratch) as database:
        file = files[0]
        layout = _layout(database, file, None, None, "table")
        names = layout.names or ()
        ranks = [rank(words_of(name)) for name in names]
        best = lambda role: min((one[role], place) for place, one in enumerate(ranks) if role in one)[1]
        try:
            item = best("item") if names else 0
            title = best("title") if names else 1
        except ValueError as error:
            raise UserError(
                f"{file.name} must have a column of items and one of titles, such as item and title; "
                f"it has {listed(names)}"
            ) from error
        fields, source = tables.source_of(plain.with_short_rows(file, layout, scratch), layout)
        rows = database.execute(f"SELECT {fields[item]}, {fields[title]} FROM {source}").fetchall()
    table = pd.DataFrame(rows, columns=["item", "title"]).dropna()
    return table.assign(item=spelled_alike(table.item))


def _parts(database, path, files, scratch, given, form, needed):
    """([Part] of the files that are read, notes). A folder's files without such columns are left out."""
    parts, said, errors = [], {}, []
    for file in files:
        try:
            part, said[file.name] = _part(database, file, scratch, given, form, needed)
            parts.append(part)
        except UserError as error:
            errors.append(error)
    if not parts:
        raise errors[0]
    parts = _belonging_together(path, parts)
    first, notes = parts[0], []
    notes.append(said[first.file.name])
    if len(files) > 1:
        left_out = [file.name for file in files if file.name not in {part.file.name for part in parts}]
        more = ", ..." if len(left_out) > MOST_LISTED else ""
        notes.append(
            f"of {len(files):,} files, {len(parts):,} {'are' if len(parts) > 1 else 'is'} read"
            + (f"; left out: {', '.join(left_out[:MOST_LISTED])}{more}" if left_out else "")
        )
    before = first.layout.skip - bool(first.layout.names)
    if before > 0:
        notes.append(f"{first.file.name}: what stands before the table is left out, {before} lines")
    return parts, notes


def _part(database, file, scratch, given, form, needed):
    """(Part, a line that says what it is)."""
    layout = _layout(database, file, *form, fewest=len(needed))
    if layout.shape != "table":
        words = SHAPES_IN_WORDS["array" if file.kind == "array" else layout.shape]
        columns = tables.NETFLIX_COLUMNS if layout.shape == "netflix" else Columns(0, 1)
        return Part(file, layout, columns), f"read as {words}"
    if layout.delimiter == " ":
        file, layout = plain.with_tabs(file, layout.quote, scratch), layout._replace(delimiter="\t")
    file = plain.with_short_rows(file, layout, scratch)
    columns, line = choose(file.name, layout, given, needed)
    for role in needed:
        example = next(iter(layout.column(getattr(columns, role))), "")
        if file.kind == "json" and example[:1] in ("{", "["):
            raise UserError(
                f"{file.name}: the {role}s are lists or objects, such as {shown(example, 40)}, and no ids. "
                "Flatten them, for example with pandas.json_normalize"
            )
    return Part(file, layout, columns), f"columns: {line}"


def _belonging_together(path, parts):
    """The parts with the same columns; UserError if there are several kinds, and none is the likeliest."""
    kind = lambda part: (part.layout.shape, part.layout.names, part.layout.width)
    for is_likely in (
        lambda part: True,
        lambda part: part.layout.names is not None,  # a text without a header may be prose
        lambda part: re.search(LIKELY_NAMES, part.file.name, re.IGNORECASE),
        lambda part: part.columns.value is not None,
    ):
        likely = list(filter(is_likely, parts))
        if len(set(map(kind, likely))) == 1:
            return likely
        parts = likely or parts
    names = lambda one: listed(one.layout.names or list(map(str, range(one.layout.width))))
    other = next(part for part in parts if kind(part) != kind(parts[0]))
    raise UserError(
        f"{path} holds tables with different columns: {parts[0].file.name} ({names(parts[0])}) and "
        f"{other.file.name} ({names(other)}). Name one file, or a pattern of those that belong together"
    )


def _layout(database, file, delimiter, header, shape, fewest=2):
    if file.kind == "array":
        return Layout(shape="matrix")
    if file.kind == "text":
        return sniff(file, delimiter, header, shape, fewest)
    try:
        rows = database.sql(f"SELECT COLUMNS(*)::VARCHAR FROM {tables.reader_of(file)} LIMIT {SAMPLE_ROWS}")
        names, rows = rows.columns, rows.fetchall()
    except duckdb.Error as error:
        raise tables.unreadable(file, error) from error
    rows = tuple([field or "" for field in row] for row in rows)
    return Layout(names=tuple(names), width=len(names), rows=rows)


# ---- Other shapes --------------------------------------------------------------------------------------


def _read_other(parts):
    """The Reading of a matrix or of lists."""
    if len(parts) > 1 and parts[0].layout.shape != "lists":
        raise UserError(f"{parts[0].file.name} and {parts[1].file.name} are matrices. Name one file")
    users, items, values = [], [], []
    for file, layout, _ in parts:
        read = (
            _read_array if file.kind == "array" else _read_matrix if layout.shape == "matrix" else _read_lists
        )
        for column, more in zip((users, items, values), read(file, layout)):
            column.append(np.asarray(more, object if isinstance(more, list) else None))
    (user, user_ids), (item, item_ids) = (encode(np.concatenate(column)) for column in (users, items))
    values = np.concatenate(values).astype(np.float32)
    return Reading(Interactions(user, user_ids, item, item_ids, values, is_count=True), rows=len(values))


def _read_array(file, layout):
    """(users, items, values) of a matrix of scipy, numpy or Matrix Market; ids are places, from 0 or, in
    Matrix Market, from 1.

    A dense matrix of two or three columns has a row for each interaction: user, item, and perhaps a value.
    """
    try:
        with open(file.path, "rb") as content:
            start = content.peek(2)[:2]
            if start == b"PK":
                matrix = sp.load_npz(content)
            else:
                matrix = mmread(content) if start == b"%%" else np.load(content, allow_pickle=False)
        if matrix.ndim != 2:
            raise ValueError(f"it has {matrix.ndim} dimensions, not 2")
        if isinstance(matrix, np.ndarray) and matrix.shape[1] in (2, 3) and len(matrix) > 30:
            return matrix[:, 0], matrix[:, 1], matrix[:, 2] if matrix.shape[1] > 2 else np.ones(len(matrix))
        matrix = sp.coo_array(matrix)
    except Exception as error:  # zipfile, zlib, scipy and numpy raise many kinds
        raise UserError(
            f"{file.name} is no matrix of scipy, numpy or Matrix Market: {shown(str(error), 120)}"
        ) from error
    entries, first = matrix.data != 0, start == b"%%"
    return matrix.row[entries] + first, matrix.col[entries] + first, matrix.data[entries]


def _read_matrix(file, layout):
    """(users, items, values) of a row a user and a column an item; ids without names are places, from 0."""
    users, items, values = [], [], []
    names = np.array(layout.names[1:] if layout.names else range(layout.width), object)
    chunks = pd.read_csv(
        file.path, sep=layout.delimiter, skiprows=layout.skip, header=None, dtype={0: str}, chunksize=10_000,
        keep_default_na=False, na_values=[""],
    )  # fmt: skip
    try:
        for chunk in chunks:
            cells = chunk.iloc[:, 1 if layout.names else 0 :].to_numpy(np.float32, na_value=0)
            row, column = cells.nonzero()
            users += (chunk[0].to_numpy(object) if layout.names else chunk.index.to_numpy())[row].tolist()
            items += names[column].tolist()
            values.append(cells[row, column])
    except ValueError as error:
        raise UserError(
            f"{file.name} is no matrix of numbers: {shown(str(error).splitlines()[0], 120)}"
        ) from error
    return users, items, np.concatenate([np.empty(0, np.float32), *values])


def _read_lists(file, layout):
    """(users, items, ones) of lines "user item …"; counted: "how many item …", users are lines, from 0."""
    users, items = [], []
    with open(file.path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines):
            first, *rest = re.split(r"[\s,;]+", line.strip())
            users += [first if layout.shape == "lists" else str(number)] * len(rest)
            items += rest
    return users, items, np.ones(len(items), np.float32)
