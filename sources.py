"""Foreign formats → Interactions: the only code that knows what other people's files look like.

SOURCES has the named data sets, each with the places it can be had from and how to read what is there;
`read_own` reads anybody's table. Text is parsed in columns, a block at a time, by pyarrow: what is held of
a hundred million rows is three numbers each.
"""
import io
import re
import zipfile
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet
from tqdm import tqdm

from data import WHOLE_NUMBER
from settings import UserError

BLOCK = 16 * 2 ** 20          # bytes parsed at once
LARGEST_MEMBER = 8 * 2 ** 30  # bytes; a zip member that claims more is not one of ours
NO_IDS = {"", "nan", "null", "none"}
USUAL_NAMES = {"user": ("user", "user_id", "userid", "uid", "reviewerid", "reviewer_id"),
               "item": ("item", "item_id", "itemid", "iid", "movie", "movie_id", "movieid", "product_id", "productid", "asin", "parent_asin"),
               "rating": ("rating", "ratings", "score", "stars", "overall")}


class Interactions(NamedTuple):
    """What was read: N interactions in the order of the file, their bad rows left out."""
    user: np.ndarray      # (N,) int32, places in user_ids
    user_ids: np.ndarray  # distinct and sorted: int64 if all are whole numbers, else text
    item: np.ndarray      # (N,) int32, places in item_ids
    item_ids: np.ndarray
    rating: np.ndarray    # (N,) float32, finite
    rows: int             # that were read, bad ones included
    bad: list             # (file, line, text) of each bad row


class Origin(NamedTuple):
    """One place a data set can be had from."""
    location: str         # an http(s) URL, "pip:<requirement>" for a wheel in the package registry, or, where
                          # there is no download, words for what --file should be
    sha256: str | None    # None: not known; what was downloaded has its own in the manifest
    read: Callable        # path -> (Interactions, DataFrame of item and title, or None)


class _Stream:
    """A binary file for pyarrow that shows how much of it was read, and reads '::' as a tab if it is to."""

    closed = False  # pyarrow asks

    def __init__(self, file, size, name, colons):
        self._file, self._colons = file, colons
        self._bar = tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=None, delay=2)

    def read(self, count):
        content = self._file.read(count - 1 if self._colons else count)
        self._bar.update(len(content))
        if self._colons and content.endswith(b":"):
            content += self._file.read(1)
        return content.replace(b"::", b"\t") if self._colons else content

    def close(self):
        self._bar.close()


class _File(NamedTuple):
    """The rows of one file, and how to say where one of them stands."""
    name: str
    blocks: list      # of (user, item, rating): two arrow dictionaries and float32
    bad: list         # (line, text) of rows that did not have as many fields as the others
    line: Callable    # number of a row of the blocks, from 0 -> its line, from 1


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


def _join_ids(chunks):
    """(codes (N,) int32, ids sorted, whether each of the ids is none at all) of dictionary arrays."""
    if not chunks:
        return np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, bool)
    joined = pa.chunked_array(chunks).unify_dictionaries()
    text = [value.strip() for value in joined.chunk(0).dictionary.to_pylist()]
    none = np.array([value.lower() in NO_IDS for value in text], bool)
    whole = all(re.fullmatch(WHOLE_NUMBER, value) for value, absent in zip(text, none) if not absent)
    ids = np.array([0 if absent else int(value) for value, absent in zip(text, none)], np.int64) if whole else np.array(text)
    # What is no id sorts behind all ids, and apart from an id that looks the same.
    order = np.lexsort((ids, none))
    first = np.append(True, (ids[order][1:] != ids[order][:-1]) | (none[order][1:] != none[order][:-1]))
    place = np.empty(len(ids), np.int32)
    place[order] = np.cumsum(first) - 1
    codes = np.concatenate([place[chunk.indices.to_numpy()] for chunk in joined.chunks])
    return codes, ids[order][first], none[order][first]


def _join(files):
    """Interactions of all rows of some _Files."""
    blocks = [block for file in files for block in file.blocks]
    user, user_ids, no_user = _join_ids([block[0] for block in blocks])
    item, item_ids, no_item = _join_ids([block[1] for block in blocks])
    rating = np.concatenate([np.empty(0, np.float32), *(block[2] for block in blocks)])
    bad = [(file.name, *each) for file in files for each in file.bad]
    blank = no_user[user] & no_item[item]  # an empty line
    rows = len(rating) + len(bad) - int(blank.sum())
    wrong = no_user[user] | no_item[item] | ~np.isfinite(rating)
    if wrong.any():
        starts = np.cumsum([0, *(sum(len(block[2]) for block in file.blocks) for file in files)])
        for place in np.flatnonzero(wrong & ~blank):
            file = np.searchsorted(starts, place, side="right") - 1
            what = "no user id" if no_user[user[place]] else "no item id" if no_item[item[place]] else "no number as rating"
            bad.append((files[file].name, files[file].line(place - starts[file]), what))
        user, item, rating = (column[~wrong] for column in (user, item, rating))
    return Interactions(user, user_ids[~no_user], item, item_ids[~no_item], rating, rows, sorted(bad))


def _read_text(stream, name, size, separator, columns, names=None, quote=None, colons=False, marks=None):
    """The rows of a delimited file.

    Args:
        stream: binary; size: its bytes, as far as they are known.
        columns: names or, without a header, places among `names` of the user, item and rating column;
            None for a rating that every row is to have as 1.
        names: of all columns, for a file without a header.
        quote: of fields that hold separators.
        colons: fields are separated by '::'.
        marks: pattern of rows that are no interactions, but name the item of the rows behind them.
    """
    skipped = []

    def skip(row):
        skipped.append((row.number, row.text.strip()))
        return "skip"

    wanted = [column for column in columns if column is not None]
    file = _Stream(stream, size, name, colons)
    try:
        reader = csv.open_csv(
            pa.PythonFile(file, mode="r"), csv.ReadOptions(use_threads=False, block_size=BLOCK, column_names=names),
            csv.ParseOptions(delimiter=separator, quote_char=quote or False, newlines_in_values=quote is not None,
                             ignore_empty_lines=False, invalid_row_handler=skip),
            csv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted, strings_can_be_null=False))
        blocks = [_block(batch, columns) for batch in reader]
    except pa.ArrowInvalid as error:
        if "UTF" in str(error):
            raise UserError(f"{name} is not UTF-8 text: convert it first, as with iconv -t UTF-8") from error
        raise UserError(f"{name} cannot be read: {str(error).splitlines()[0][:200]}") from error
    finally:
        file.close()
    # Rows that were skipped count as lines, and so does a header: where each of them stood among the others.
    header = 0 if names else 1
    skipped_before = np.array([number for number, _ in skipped], np.int64) - header - 1 - np.arange(len(skipped))
    line = lambda row: int(row + header + 1 + np.searchsorted(skipped_before, row, side="right"))
    bad = [(number, text[:80]) for number, text in skipped if text and not (marks and marks.fullmatch(text))]
    if marks:
        blocks = _with_marked_items(blocks, [(place, text[:-1]) for place, (_, text) in zip(skipped_before, skipped) if marks.fullmatch(text)])
    return _File(name, blocks, bad, line)


def _block(batch, columns):
    user, item, rating = (None if column is None else batch.column(column) for column in columns)
    return (_encode(user), None if item is None else _encode(item),
            np.ones(len(user), np.float32) if rating is None else _to_float(rating))


def _with_marked_items(blocks, marks):
    """Gives every row the item of the last mark before it; marks are (rows before it, item)."""
    count = sum(len(block[2]) for block in blocks)
    places = [0, *(place for place, _ in marks), count]
    codes = np.repeat(np.arange(len(marks) + 1, dtype=np.int32), np.diff(places))
    items, start, whole = pa.array(["", *(item for _, item in marks)], pa.string()), 0, []
    for user, _, rating in blocks:
        whole.append((user, pa.DictionaryArray.from_arrays(codes[start:start + len(rating)], items), rating))
        start += len(rating)
    return whole


# ---- Named data sets -----------------------------------------------------------------------------------

def _open_zip(path):
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is not a sound zip file: {error}") from error
    for name in archive.namelist():
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
            raise UserError(f"{path} is not to be trusted: its member {name} would leave its folder")
    return archive


def _member(archive, name):
    """(stream, size) of a member, which is read as it is: nothing is ever unpacked to a path of an archive's choosing."""
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise UserError(f"{archive.filename} has no member {name}: another archive than expected") from error
    if info.file_size > LARGEST_MEMBER:
        raise UserError(f"{archive.filename}: {name} claims {info.file_size:,} bytes, more than is sensible")
    return archive.open(info), info.file_size


def _read_titles(stream, name, **options):
    """A table whose columns are item and title, and others that are left out."""
    try:
        return pd.read_csv(stream, **options)[["item", "title"]]
    except (ValueError, KeyError) as error:
        raise UserError(f"{name}: {str(error).splitlines()[0]}") from error


def _read_archive(path, ratings, columns, titles, titles_options, **options):
    """A zip of one file of ratings and one of titles; damage that only shows while it is read ends in a UserError."""
    with _open_zip(path) as archive:
        try:
            file = _read_text(*_named(archive, ratings), columns=columns, **options)
            stream, _ = _member(archive, titles)
            return _join([file]), _read_titles(stream, titles, **titles_options)
        except zipfile.BadZipFile as error:
            raise UserError(f"{path} is not a sound zip file: {error}") from error


def _named(archive, name):
    stream, size = _member(archive, name)
    return stream, name, size


RATED = {"columns": ("user", "item", "rating"), "names": ["user", "item", "rating", "timestamp"]}
UNQUOTED = {"quoting": 3, "header": None}


def read_movielens_dat(folder, encoding):
    """ratings.dat and movies.dat, fields separated by '::'."""
    def read(path):
        with _open_zip(path) as archive:
            ratings = _read_text(*_named(archive, f"{folder}/ratings.dat"), separator="\t", colons=True, **RATED)
            stream, size = _member(archive, f"{folder}/movies.dat")
            text = stream.read().replace(b"\t", b" ").replace(b"::", b"\t")
            titles = _read_titles(io.BytesIO(text), "movies.dat", sep="\t", encoding=encoding, names=["item", "title", "genres"], **UNQUOTED)
            return _join([ratings]), titles
    return read


def read_movielens_csv(folder):
    """ratings.csv and movies.csv, with headers; titles are quoted."""
    return lambda path: _read_archive(path, f"{folder}/ratings.csv", ("userId", "movieId", "rating"), f"{folder}/movies.csv",
                                      {"names": ["item", "title", "genres"], "header": 0}, separator=",")


def read_ml_100k(path):
    """u.data, separated by tabs, and u.item, by '|', Latin-1."""
    return _read_archive(path, "ml-100k/u.data", titles="ml-100k/u.item", separator="\t", **RATED, titles_options={
        "sep": "|", "usecols": [0, 1], "names": ["item", "title"], "encoding": "latin-1", **UNQUOTED})


def read_recbole_ml_100k(path):
    """The example data of RecBole: tables with a header of name:type, titles apart from years."""
    folder = "recbole/dataset_example/ml-100k/ml-100k"
    with _open_zip(path) as archive:
        ratings = _read_text(*_named(archive, f"{folder}.inter"), separator="\t", columns=("user_id:token", "item_id:token", "rating:float"))
        items = pd.read_csv(_member(archive, f"{folder}.item")[0], sep="\t", quoting=3, header=0, names=["item", "title", "year", "genres"])
    return _join([ratings]), items.assign(title=items.title.str.cat(items.year.astype(str).radd(" (").add(")")).fillna(items.title))


def read_magazine(path):
    """Amazon's ratings: item,user,rating,timestamp, without a header."""
    with open(path, "rb") as stream:
        return _join([_read_text(stream, Path(path).name, Path(path).stat().st_size, ",", RATED["columns"],
                                 ["item", "user", "rating", "timestamp"])]), None


def read_douban(path):
    """user, item, rating, timestamp, separated by tabs, without a header."""
    with open(path, "rb") as stream:
        return _join([_read_text(stream, Path(path).name, Path(path).stat().st_size, "\t", **RATED)]), None


def read_netflix(path):
    """The Prize's combined_data_*.txt, a line 'movie:' before its lines user,rating,date; one file, a folder or a zip.

    Titles come from movie_titles.csv or .txt beside them (id,year,title, with commas in titles; Latin-1).
    """
    path = Path(path)
    marks = re.compile(r"\d+:")
    columns, names = ("user", None, "rating"), ["user", "rating", "date"]
    if path.is_dir():
        found = {each.name: (lambda each=each: (open(each, "rb"), each.stat().st_size)) for each in path.iterdir()}
    elif zipfile.is_zipfile(path):
        archive = _open_zip(path)
        found = {Path(name).name: (lambda name=name: _member(archive, name)) for name in archive.namelist()}
    else:
        found = {"combined_data_1.txt": lambda: (open(path, "rb"), path.stat().st_size)}
    files = []
    for name in sorted(name for name in found if re.fullmatch(r"combined_data_.*\.txt", name)):
        stream, size = found[name]()
        with stream:
            files.append(_read_text(stream, name, size, ",", columns, names, marks=marks))
    if not files:
        raise UserError(f"{path} holds no combined_data_*.txt")
    titles = None
    for name in sorted({"movie_titles.csv", "movie_titles.txt"} & found.keys()):
        with io.TextIOWrapper(found[name]()[0], "latin-1") as lines:
            parts = [line.rstrip("\r\n").split(",", 2) for line in lines]
        titles = pd.DataFrame([(int(part[0]), part[2]) for part in parts if len(part) == 3 and part[0].isdigit()], columns=["item", "title"])
    return _join(files), titles


MOVIELENS = "https://files.grouplens.org/datasets/movielens/"
SOURCES = {
    "ml-1m": [Origin(MOVIELENS + "ml-1m.zip", "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
                     read_movielens_dat("ml-1m", "latin-1"))],
    "ml-100k": [Origin(MOVIELENS + "ml-100k.zip", "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229", read_ml_100k),
                Origin("pip:recbole==1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407", read_recbole_ml_100k)],
    "ml-10m": [Origin(MOVIELENS + "ml-10m.zip", None, read_movielens_dat("ml-10M100K", "utf-8"))],
    "ml-20m": [Origin(MOVIELENS + "ml-20m.zip", None, read_movielens_csv("ml-20m"))],
    "ml-25m": [Origin(MOVIELENS + "ml-25m.zip", None, read_movielens_csv("ml-25m"))],
    "magazine": [Origin("https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/categoryFilesSmall/Magazine_Subscriptions.csv", None,
                        read_magazine)],
    "douban": [Origin("its ratings as a text file: user, item, rating and timestamp, separated by tabs", None, read_douban)],
    "netflix": [Origin("the Prize's combined_data_*.txt: their folder, a zip of them, or one of them", None, read_netflix)],
}


# ---- Anybody's -----------------------------------------------------------------------------------------

def read_own(path, user=None, item=None, rating=None):
    """A table of interactions: .csv, .tsv, RecBole's .inter, or .parquet.

    Args:
        user, item, rating: names of columns or, for text without a header, their places counted from 0;
            None: guessed from USUAL_NAMES, and without a rating every row counts as 1.

    Raises:
        UserError: the file is not what its ending says, or has no such columns.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in (".csv", ".tsv", ".inter", ".parquet"):
        raise UserError(f"{path}: its ending must be .csv, .tsv, .inter or .parquet, to say what it is")
    with open(path, "rb") as file:
        start = file.read(4096)
    is_parquet = start.startswith(b"PAR1")
    if is_parquet != (ending == ".parquet") or not is_parquet and (b"\0" in start or start.startswith((b"PK\3\4", b"\x1f\x8b"))):
        raise UserError(f"{path} is not what its ending says: it is {'a Parquet file' if is_parquet else 'no Parquet file' if ending == '.parquet' else 'not text'}")
    if is_parquet:
        return _read_parquet(path, user, item, rating)
    separator = "," if ending == ".csv" else "\t"
    first = start.decode("utf-8", "replace").lstrip("\ufeff").splitlines()
    if not first or not first[0].strip():
        raise UserError(f"{path} is empty, or begins with an empty line")
    names = pd.read_csv(io.StringIO(first[0]), sep=separator, header=None, dtype=str).iloc[0].fillna("").tolist()
    if len(names) < 2:
        raise UserError(f"{path} is not what its ending says: its first line has no {'comma' if separator == ',' else 'tab'}")
    given = [column for column in (user, item, rating) if column is not None]
    numbered = bool(given) and all(column.isdigit() and column not in names for column in given)
    if numbered:
        names = list(map(str, range(len(names))))
    columns = _choose_columns(path, names, user, item, rating)
    if len(set(names)) < len(names):
        raise UserError(f"{path} has two columns of the same name: {', '.join(names)}")
    with open(path, "rb") as stream:
        return _join([_read_text(stream, path.name, path.stat().st_size, separator, columns, names if numbered else None,
                                 quote=None if ending == ".inter" else '"')])


def _read_parquet(path, user, item, rating):
    try:
        file = parquet.ParquetFile(path)
        columns = _choose_columns(path, file.schema_arrow.names, user, item, rating)
        blocks = [_block(batch, columns) for batch in file.iter_batches(batch_size=2 ** 20, columns=[each for each in columns if each])]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0][:200]}") from error
    return _join([_File(path.name, blocks, [], lambda row: int(row) + 1)])


def _choose_columns(path, names, user, item, rating):
    """The columns' names as they stand in the file, (user, item, rating or None)."""
    plain = {name.partition(":")[0].strip().lower().replace(" ", "_"): name for name in reversed(names)}  # RecBole: user_id:token
    chosen = []
    for what, asked in (("user", user), ("item", item), ("rating", rating)):
        found = [plain[name] for name in USUAL_NAMES[what] if name in plain] if asked is None else \
            [name for name in names if asked in (name, name.partition(":")[0])]
        if not found and (what != "rating" or asked is not None):
            raise UserError(f"{path} has no column '{asked or what}'; it has {', '.join(names)}; --{what}-col=NAME says which it is")
        chosen.append(found[0] if found else None)
    if len(set(chosen)) < 3:
        raise UserError(f"{path}: one column cannot be two of user, item and rating ({', '.join(map(str, chosen))})")
    return tuple(chosen)
