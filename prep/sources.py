"""Foreign formats → Interactions: the only code that knows what other people's files look like.

SOURCES has the known data sets: where each can be downloaded, and how its files are read. `read_table`
reads a table of the user's own. prep/tables.py parses the rows.

To add a data set, write its reader (path -> Interactions, titles) and an entry in SOURCES.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lib.errors import UserError
from prep.tables import check_is_text, join, read_header, read_parquet, read_text, shown

LARGEST_MEMBER = 8 * 2**30  # bytes of a zip member; no known data set has a larger one
USUAL_NAMES = {
    "user": ("user", "user_id", "userid", "uid", "reviewerid", "reviewer_id"),
    "item": (
        "item",
        "item_id",
        "itemid",
        "iid",
        "movie",
        "movie_id",
        "movieid",
        "product_id",
        "productid",
        "asin",
        "parent_asin",
    ),
    "rating": ("rating", "ratings", "score", "stars", "overall"),
    "time": ("timestamp",),
}


class Origin(NamedTuple):
    """One place where a data set can be downloaded."""

    # An http(s) URL; "pip:<requirement>" for a wheel of the package registry; without a download, the
    # words that say what --file must be.
    location: str
    sha256: str | None  # None: unknown; the manifest keeps that of the file that was read
    read: Callable  # path -> (Interactions, DataFrame with the columns item and title, or None)


# ---- Known data sets -----------------------------------------------------------------------------------


@contextmanager
def _open_zip(path):
    """Opens a zip file; damage that shows up while it is read is a UserError, too."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
                    raise UserError(f"{path} is not safe: its member {shown(name)} would leave its folder")
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(f"{path} is not a sound zip file: {error}") from error


def _member(archive, name):
    """(stream, name, size) of a member, read in place: no archive chooses a path to be unpacked to."""
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise UserError(f"{archive.filename} has no member {name}: it is another archive") from error
    if info.file_size > LARGEST_MEMBER:
        raise UserError(
            f"{archive.filename}: {name} claims {info.file_size:,} bytes, more than {LARGEST_MEMBER:,}"
        )
    if info.flag_bits & 1:
        raise UserError(f"{archive.filename}: {name} is encrypted. Make a zip file without a password.")
    return archive.open(info), name, info.file_size


def _open_file(path):
    """(stream, name, size) of a file, as `_member` gives."""
    return open(path, "rb"), path.name, path.stat().st_size


def _read_titles(stream, name, **options):
    """A DataFrame with the columns item and title."""
    try:
        return pd.read_csv(stream, **options).drop(columns="genres", errors="ignore")
    except (ValueError, KeyError) as error:
        raise UserError(f"{name}: {str(error).splitlines()[0]}") from error


def _read_archive(path, ratings, titles, titles_options, header=None, **options):
    """(Interactions, titles) from a zip with a file of ratings and a file of titles.

    Args:
        ratings, titles: names of the members.
        titles_options: for pandas.read_csv.
        header: what the header of the ratings must begin with; None: they have no header.
        options: for tables.read_text.
    """
    with _open_zip(path) as archive:
        stream, name, size = _member(archive, ratings)
        if header is not None:
            names = read_header(stream, name, options["separator"], quoted=False)
            if names[: len(header)] != header:
                raise UserError(
                    f"{path}: {name} begins with {shown(', '.join(names))}, not with {', '.join(header)}: "
                    "it is another file"
                )
            options |= {"width": len(names), "header": True, "time": _time_place(names, options["places"])}
        file = read_text(stream, name, size, **options)
        return join([file]), _read_titles(_member(archive, titles)[0], titles, **titles_options)


RATED = {"places": (0, 1, 2), "width": 4, "time": 3}
UNQUOTED = {"quoting": 3, "header": None}


def read_movielens_dat(folder, encoding):
    """The reader of ratings.dat and movies.dat, fields separated by '::'."""

    def read(path):
        with _open_zip(path) as archive:
            ratings = read_text(
                *_member(archive, f"{folder}/ratings.dat"), separator="\t", colons=True, **RATED
            )
            text = (
                _member(archive, f"{folder}/movies.dat")[0].read().replace(b"\t", b" ").replace(b"::", b"\t")
            )
            titles = _read_titles(
                io.BytesIO(text),
                "movies.dat",
                sep="\t",
                encoding=encoding,
                names=["item", "title", "genres"],
                **UNQUOTED,
            )
            return join([ratings]), titles

    return read


def read_movielens_csv(folder):
    """The reader of ratings.csv and movies.csv, with headers; titles are quoted."""
    return lambda path: _read_archive(
        path,
        f"{folder}/ratings.csv",
        f"{folder}/movies.csv",
        {"names": ["item", "title", "genres"], "header": 0},
        ["userId", "movieId", "rating"],
        separator=",",
        places=(0, 1, 2),
    )


def read_ml_100k(path):
    """u.data, separated by tabs, and u.item, by '|', Latin-1."""
    return _read_archive(
        path,
        "ml-100k/u.data",
        "ml-100k/u.item",
        separator="\t",
        **RATED,
        titles_options={
            "sep": "|",
            "usecols": [0, 1],
            "names": ["item", "title"],
            "encoding": "latin-1",
            **UNQUOTED,
        },
    )


def read_recbole_ml_100k(path):
    """RecBole's example data: tables with a header of name:type; years have a column of their own."""
    folder = "recbole/dataset_example/ml-100k/ml-100k"
    interactions, items = _read_archive(
        path,
        f"{folder}.inter",
        f"{folder}.item",
        {"sep": "\t", "quoting": 3, "header": 0, "names": ["item", "title", "year", "genres"]},
        ["user_id:token", "item_id:token", "rating:float"],
        separator="\t",
        places=(0, 1, 2),
    )
    return interactions, items.assign(
        title=items.title.str.cat(items.year.astype(str).radd(" (").add(")")).fillna(items.title)
    )


def read_magazine(path):
    """Amazon's ratings: item,user,rating,timestamp, without a header."""
    return _read_plain(path, ",", places=(1, 0, 2), width=4, time=3)


def read_douban(path):
    """user, item, rating, timestamp, separated by tabs, without a header."""
    return _read_plain(path, "\t", **RATED)


def _read_plain(path, separator, **options):
    stream, name, size = _open_file(Path(path))
    with stream:
        return join([read_text(stream, name, size, separator, **options)]), None


def read_netflix(path):
    """The Netflix Prize's combined_data_*.txt: one of them, their folder, or a zip of them.

    A line 'movie:' stands before the movie's lines user,rating,date. Titles come from movie_titles.csv or
    .txt beside them (id,year,title; titles may hold commas; Latin-1).
    """
    path = Path(path)
    if path.is_dir():
        return _read_prize(
            path, {file.name: partial(_open_file, file) for file in path.iterdir() if file.is_file()}
        )
    if zipfile.is_zipfile(path):
        with _open_zip(path) as archive:
            return _read_prize(
                path, {Path(name).name: partial(_member, archive, name) for name in archive.namelist()}
            )
    return _read_prize(path, {path.name: partial(_open_file, path)}, [path.name])


def _read_prize(path, openers, ratings=None):
    """As `read_netflix`.

    Args:
        openers: {name of a file: function that opens it, as `_open_file` does}.
        ratings: the names of the files with ratings; None: all combined_data_*.txt.
    """
    files = []
    for name in ratings or sorted(name for name in openers if re.fullmatch(r"combined_data_.*\.txt", name)):
        stream, _, size = openers[name]()
        with stream:
            files.append(read_text(stream, name, size, ",", (0, None, 1), 3, marks=re.compile(r"\d+:")))
    if not files:
        raise UserError(f"{path} holds no combined_data_*.txt")
    titles = None
    for name in sorted({"movie_titles.csv", "movie_titles.txt"} & openers.keys()):
        with io.TextIOWrapper(openers[name]()[0], "latin-1") as lines:
            rows = [line.rstrip("\r\n").split(",", 2) for line in lines]
        rows = [(int(row[0]), row[2]) for row in rows if len(row) == 3 and row[0].isdigit()]
        titles = pd.DataFrame(rows, columns=["item", "title"])
    return join(files), titles


MOVIELENS = "https://files.grouplens.org/datasets/movielens/"
SOURCES = {
    "ml-1m": [
        Origin(
            MOVIELENS + "ml-1m.zip",
            "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
            read_movielens_dat("ml-1m", "latin-1"),
        )
    ],
    "ml-100k": [
        Origin(
            MOVIELENS + "ml-100k.zip",
            "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
            read_ml_100k,
        ),
        Origin(
            "pip:recbole==1.2.1",
            "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
            read_recbole_ml_100k,
        ),
    ],
    "ml-10m": [Origin(MOVIELENS + "ml-10m.zip", None, read_movielens_dat("ml-10M100K", "utf-8"))],
    "ml-20m": [Origin(MOVIELENS + "ml-20m.zip", None, read_movielens_csv("ml-20m"))],
    "ml-25m": [Origin(MOVIELENS + "ml-25m.zip", None, read_movielens_csv("ml-25m"))],
    "magazine": [
        Origin(
            "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/categoryFilesSmall/Magazine_Subscriptions.csv",
            None,
            read_magazine,
        )
    ],
    "douban": [
        Origin("a text file of user, item, rating and timestamp, separated by tabs", None, read_douban)
    ],
    "netflix": [
        Origin("the Prize's combined_data_*.txt: their folder, a zip, or one of them", None, read_netflix)
    ],
}


# ---- A table of the user's own -------------------------------------------------------------------------


def read_table(path, user=None, item=None, rating=None):
    """The Interactions in a .csv, .tsv, .parquet, or RecBole's .inter.

    Args:
        user, item, rating: columns, either all by name or all by place, such as "0"; by place, no line of
            text is a header. None: one of USUAL_NAMES; without a rating column, every rating is 1.

    Raises:
        UserError: the file is not what its ending says, or has no such columns.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in (".csv", ".tsv", ".inter", ".parquet"):
        raise UserError(f"{path}: its ending must be .csv, .tsv, .inter or .parquet, to say its format")
    columns = user, item, rating
    given = [column for column in columns if column is not None]
    by_place = [column for column in given if re.fullmatch("[0-9]+", column)]
    if by_place and len(by_place) < len(given):
        name = next(column for column in given if column not in by_place)
        raise UserError(
            f"'{name}' is a column's name and {by_place[0]} a column's number. "
            "Give names only or, for a file without a header, numbers only."
        )
    with open(path, "rb") as stream:
        start = stream.read(4096)
        if start.startswith(b"PAR1") != (ending == ".parquet"):
            article = "no" if ending == ".parquet" else "a"
            raise UserError(f"{path} is not what its ending says: it is {article} Parquet file")
        if ending == ".parquet":
            choose = partial(_choose_columns, path, by_place=by_place, columns=columns)
            return join([read_parquet(path, choose)])
        check_is_text(start, f"{path} is not what its ending says: it")
        separator, word = (",", "comma") if ending == ".csv" else ("\t", "tab")
        stream.seek(0)
        first = read_header(stream, path, separator, quoted=ending != ".inter")
        if len(first) < 2:
            raise UserError(
                f"{path} is not what its ending says: its first line has no {word}: {shown(first[0])}"
            )
        *places, time = _choose_columns(path, first, by_place=by_place, columns=columns)
        if by_place:
            _check_no_header(path, first, places)
            stream.seek(0)
        quote = None if ending == ".inter" else '"'
        size, width = path.stat().st_size, len(first)
        return join(
            [
                read_text(
                    stream, path.name, size, separator, places, width, time, header=not by_place, quote=quote
                )
            ]
        )


def _choose_columns(path, names, by_place, columns):
    """The places of the columns among the names: (user, item, rating or None, time or None).

    Args:
        by_place: true if columns are chosen by place; then the names do not count.
        columns: of users, items and ratings, as `read_table` takes them.
    """
    names = list(map(str, range(len(names)))) if by_place else names
    chosen = []
    for role, column in zip(("user", "item", "rating"), columns):
        if column is None:
            matches = [
                place
                for usual_name in USUAL_NAMES[role]
                for place, name in enumerate(names)
                if _plain(name) == usual_name
            ]
        else:
            matches = [place for place, name in enumerate(names) if column in (name, name.partition(":")[0])]
        if not matches and (role != "rating" or column is not None):
            raise UserError(
                f"{path} has no column '{column or role}', only {shown(', '.join(names), 500)}. Name it with "
                f"--{role}-col=NAME or, if the file has no header, --{role}-col=NUMBER, counted from 0."
            )
        if [names[place] for place in matches].count(names[matches[0]] if matches else "") > 1:
            raise UserError(f"{path} has two columns of the same name: {shown(', '.join(names), 500)}")
        chosen.append(matches[0] if matches else None)
    if len(set(chosen)) < 3:
        chosen_names = ", ".join("none" if place is None else names[place] for place in chosen)
        raise UserError(f"{path}: one column cannot be two of user, item and rating ({chosen_names})")
    return *chosen, _time_place(names, chosen)


def _time_place(names, chosen):
    """The place of the column of times among the names; None without one, or if it is chosen already."""
    matches = [place for place, name in enumerate(names) if _plain(name) in USUAL_NAMES["time"]]
    return matches[0] if len(matches) == 1 and matches[0] not in chosen else None


def _plain(name):
    """A column's name, spelled as in USUAL_NAMES and without RecBole's type, as in user_id:token."""
    return name.partition(":")[0].strip().lower().replace(" ", "_")


def _check_no_header(path, first, places):
    """UserError if the first row is a header, which would be read as an interaction."""
    user, item = (first[place] for place in places[:2])
    if _plain(user) in USUAL_NAMES["user"] and _plain(item) in USUAL_NAMES["item"]:
        raise UserError(
            f"{path} begins with a header, and columns by number are for files without one. "
            f"Name them: --user-col={user} --item-col={item}."
        )
