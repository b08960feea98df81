"""A file of the user's own → Reading: what it is and what its columns are is found, and said."""

import re

import duckdb
import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.errors import UserError
from lib.files import empty_folder
from prep import plain, tables
from prep.columns import ROLES, Columns, choose, listed, rank, words_of
from prep.layouts import Layout, shown, sniff
from prep.tables import Interactions, Part, Reading, database_in, encode, spelled_alike

OPTIONS = [*(f"{role}_col" for role in ROLES), "encoding", "delimiter", "header", "format", "titles"]
DELIMITERS = {"tab": "\t", "space": " "}
SAMPLE_ROWS = 1000


def read_own(path, scratch, options):
    """The tables.Reading of a user's own file.

    Args:
        scratch: an empty folder.
        options: {key of READING: value or None}.
    """
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
        reading.notes.append(f"{found:,} of {len(ids):,} items have a title" + _unused(titled - found))
    return reading


def _unused(count):
    return f"; {count:,} titles are of items without interactions" if count else ""


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
            reading = tables.read_parts(database, parts)
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
        fields, source = tables.source_of(file, layout)
        rows = database.execute(f"SELECT {fields[item]}, {fields[title]} FROM {source}").fetchall()
    table = pd.DataFrame(rows, columns=["item", "title"]).dropna()
    return table.assign(item=spelled_alike(table.item))


def _parts(database, path, files, scratch, given, delimiter, header, shape):
    """([Part] of the files that are read, notes). A folder's files without such columns are left out."""
    parts, said, errors = [], [], []
    for file in files:
        try:
            layout = _layout(database, file, delimiter, header, shape)
            if layout.delimiter == " " and layout.shape == "table":
                file, layout = plain.with_tabs(file, scratch), layout._replace(delimiter="\t")
            is_table = file.kind != "npz" and layout.shape == "table"
            columns, line = choose(file.name, layout, given) if is_table else (Columns(0, 1), None)
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
            names = lambda one: listed(one.layout.names or list(map(str, range(one.layout.width))))
            raise UserError(
                f"{path} holds tables with different columns: {parts[0].file.name} ({names(parts[0])}) and "
                f"{part.file.name} ({names(part)}). Name one file, or a pattern of those that belong together"
            )
    notes = [f"read as {_shape_in_words(parts[0])}" if said[0] is None else f"columns: {said[0]}"]
    if len(files) > 1:
        notes.append(
            f"{len(parts):,} files are read"
            + (f"; left out: {', '.join(name for name, _ in errors[:9])}" if errors else "")
        )
    before = parts[0].layout.skip - bool(parts[0].layout.names)
    if before > 0:
        notes.append(f"{parts[0].file.name}: {before} lines before the table are left out")
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
    source = tables.reader_of(file)
    try:
        rows = database.sql(f"SELECT COLUMNS(*)::VARCHAR FROM {source} LIMIT {SAMPLE_ROWS}")
        names, rows = rows.columns, rows.fetchall()
    except duckdb.Error as error:
        raise tables.unreadable(file, error) from error
    return Layout(
        names=tuple(names), width=len(names), rows=tuple([field or "" for field in row] for row in rows)
    )


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


def _read_npz(file, layout):
    """(users, items, values) of a matrix that scipy or numpy has saved; ids are places, from 0."""
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
    """(users, items, ones) of lines "user item …"; counted: "how many item …", users are lines, from 0."""
    users, items = [], []
    with open(file.path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines):
            first, *rest = re.split(r"[\s,;]+", line.strip())
            users += [first if layout.shape == "lists" else str(number)] * len(rest)
            items += rest
    return users, items, np.ones(len(items), np.float32)
