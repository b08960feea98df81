"""Foreign formats → Interactions: the only code that knows what other people's files look like.

SOURCES has the named data sets, each with the places it can be had from and how to read what is there;
`read_own` reads anybody's table. Rows become columns in prep/tables.py.
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

LARGEST_MEMBER = 8 * 2**30  # bytes; a zip member that claims more is not one of ours
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
    """One place a data set can be had from."""

    location: str  # an http(s) URL, "pip:<requirement>" for a wheel in the package registry, or, where
    # there is no download, words for what --file should be
    sha256: str | None  # None: not known; what was downloaded has its own in the manifest
    read: Callable  # path -> (Interactions, DataFrame of item and title, or None)


# ---- Named data sets -----------------------------------------------------------------------------------


@contextmanager
def _open_zip(path):
    """The archive; damage that only shows while it is read ends in a UserError, too."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
                    raise UserError(
                        f"{path} is not to be trusted: its member {shown(name)} would leave its folder"
                    )
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(f"{path} is not a sound zip file: {error}") from error


def _member(archive, name):
    """(stream, name, size) of a member, which is read as it is: nothing is ever unpacked to a path of an archive's choosing."""
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise UserError(f"{archive.filename} has no member {name}: another archive than expected") from error
    if info.file_size > LARGEST_MEMBER:
        raise UserError(f"{archive.filename}: {name} claims {info.file_size:,} bytes, more than is sensible")
    if info.flag_bits & 1:
        raise UserError(f"{archive.filename}: {name} is encrypted; unpack it first")
    return archive.open(info), name, info.file_size


def _opened(path):
    """(stream, name, size) of a file."""
    return open(path, "rb"), path.name, path.stat().st_size


def _read_titles(stream, name, **options):
    """A table with the columns item and title; UserError if it is something else."""
    try:
        return pd.read_csv(stream, **options).drop(columns="genres", errors="ignore")
    except (ValueError, KeyError) as error:
        raise UserError(f"{name}: {str(error).splitlines()[0]}") from error


def _read_archive(path, ratings, titles, titles_options, header=None, **options):
    """A zip of one file of ratings, whose header, if it has one, begins as is given, and one of titles."""
    with _open_zip(path) as archive:
        stream, name, size = _member(archive, ratings)
        if header is not None:
            found = read_header(stream, name, options["separator"], quoted=False)
            if found[: len(header)] != header:
                raise UserError(
                    f"{path}: {name} begins with {shown(', '.join(found))}, not with {', '.join(header)}: another file than expected"
                )
            options |= {"width": len(found), "header": True, "time": _time_place(found, options["places"])}
        file = read_text(stream, name, size, **options)
        return join([file]), _read_titles(_member(archive, titles)[0], titles, **titles_options)


RATED = {"places": (0, 1, 2), "width": 4, "time": 3}
UNQUOTED = {"quoting": 3, "header": None}


def read_movielens_dat(folder, encoding):
    """ratings.dat and movies.dat, fields separated by '::'."""

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
    """ratings.csv and movies.csv, with headers; titles are quoted."""
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
    """The example data of RecBole: tables with a header of name:type, titles apart from years."""
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
    stream, name, size = _opened(Path(path))
    with stream:
        return join([read_text(stream, name, size, separator, **options)]), None


def read_netflix(path):
    """The Prize's combined_data_*.txt, a line 'movie:' before its lines user,rating,date; one file, a folder or a zip.

    Titles come from movie_titles.csv or .txt beside them (id,year,title, with commas in titles; Latin-1).
    """
    path = Path(path)
    if path.is_dir():
        return _read_prize(
            path, {each.name: partial(_opened, each) for each in path.iterdir() if each.is_file()}
        )
    if zipfile.is_zipfile(path):
        with _open_zip(path) as archive:
            return _read_prize(
                path, {Path(name).name: partial(_member, archive, name) for name in archive.namelist()}
            )
    return _read_prize(path, {path.name: partial(_opened, path)}, [path.name])


def _read_prize(path, found, ratings=None):
    """As `read_netflix`; found: name -> what opens it, as `_opened` does; ratings: names of those with ratings, if they are not the usual ones."""
    files = []
    for name in ratings or sorted(name for name in found if re.fullmatch(r"combined_data_.*\.txt", name)):
        stream, _, size = found[name]()
        with stream:
            files.append(read_text(stream, name, size, ",", (0, None, 1), 3, marks=re.compile(r"\d+:")))
    if not files:
        raise UserError(f"{path} holds no combined_data_*.txt")
    titles = None
    for name in sorted({"movie_titles.csv", "movie_titles.txt"} & found.keys()):
        with io.TextIOWrapper(found[name]()[0], "latin-1") as lines:
            parts = [line.rstrip("\r\n").split(",", 2) for line in lines]
        titles = pd.DataFrame(
            [(int(part[0]), part[2]) for part in parts if len(part) == 3 and part[0].isdigit()],
            columns=["item", "title"],
        )
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
        Origin(
            "its ratings as a text file: user, item, rating and timestamp, separated by tabs",
            None,
            read_douban,
        )
    ],
    "netflix": [
        Origin(
            "the Prize's combined_data_*.txt: their folder, a zip of them, or one of them", None, read_netflix
        )
    ],
}


# ---- Anybody's -----------------------------------------------------------------------------------------


def read_own(path, user=None, item=None, rating=None):
    """A table of interactions: .csv, .tsv, RecBole's .inter, or .parquet.

    Args:
        user, item, rating: all names of columns; or all whole numbers, their places counted from 0: then no line of text is a header.
            None: guessed from USUAL_NAMES if there is a header, and without a rating every row counts as 1.

    Raises:
        UserError: the file is not what its ending says, or has no such columns.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in (".csv", ".tsv", ".inter", ".parquet"):
        raise UserError(f"{path}: its ending must be .csv, .tsv, .inter or .parquet, to say what it is")
    given = [column for column in (user, item, rating) if column is not None]
    by_place = [column for column in given if re.fullmatch("[0-9]+", column)]
    if by_place and len(by_place) < len(given):
        name = next(column for column in given if column not in by_place)
        raise UserError(
            f"'{name}' is the name of a column and {by_place[0]} is a place: give names, or for a file without a header places"
        )
    with open(path, "rb") as stream:
        start = stream.read(4096)
        if start.startswith(b"PAR1") != (ending == ".parquet"):
            raise UserError(
                f"{path} is not what its ending says: it is {'no' if ending == '.parquet' else 'a'} Parquet file"
            )
        if ending == ".parquet":
            return join(
                [
                    read_parquet(
                        path, partial(_choose_columns, path, by_place=by_place, asked=(user, item, rating))
                    )
                ]
            )
        check_is_text(start, f"{path} is not what its ending says: it")
        separator, word = (",", "comma") if ending == ".csv" else ("\t", "tab")
        stream.seek(0)
        first = read_header(stream, path, separator, quoted=ending != ".inter")
        if len(first) < 2:
            raise UserError(
                f"{path} is not what its ending says: its first line has no {word}: {shown(first[0])}"
            )
        *places, time = _choose_columns(path, first, by_place=by_place, asked=(user, item, rating))
        if by_place:
            _check_no_header(path, first, places)
            stream.seek(0)
        return join(
            [
                read_text(
                    stream,
                    path.name,
                    path.stat().st_size,
                    separator,
                    places,
                    len(first),
                    time,
                    header=not by_place,
                    quote=None if ending == ".inter" else '"',
                )
            ]
        )


def _choose_columns(path, names, by_place, asked):
    """The places of the columns among the names, (user, item, rating or None, time or None).

    Names do not count where columns are chosen by place.
    """
    names = list(map(str, range(len(names)))) if by_place else names
    chosen = []
    for what, column in zip(("user", "item", "rating"), asked):
        if column is None:
            found = [
                place
                for usual in USUAL_NAMES[what]
                for place, name in enumerate(names)
                if _plain(name) == usual
            ]
        else:
            found = [place for place, name in enumerate(names) if column in (name, name.partition(":")[0])]
        if not found and (what != "rating" or column is not None):
            raise UserError(
                f"{path} has no column '{column or what}'; it has {shown(', '.join(names), 500)}; --{what}-col=NAME says which it is, "
                "or its number from 0 if the file has no header"
            )
        if [names[place] for place in found].count(names[found[0]] if found else "") > 1:
            raise UserError(f"{path} has two columns of the same name: {shown(', '.join(names), 500)}")
        chosen.append(found[0] if found else None)
    if len(set(chosen)) < 3:
        raise UserError(
            f"{path}: one column cannot be two of user, item and rating "
            f"({', '.join('none' if place is None else names[place] for place in chosen)})"
        )
    return *chosen, _time_place(names, chosen)


def _time_place(names, chosen):
    """The place of the column of times among the names; None without one, or if it is chosen for something else."""
    found = [place for place, name in enumerate(names) if _plain(name) in USUAL_NAMES["time"]]
    return found[0] if len(found) == 1 and found[0] not in chosen else None


def _plain(name):
    """A column's name as in USUAL_NAMES; RecBole's have a type, as user_id:token."""
    return name.partition(":")[0].strip().lower().replace(" ", "_")


def _check_no_header(path, first, places):
    """UserError if the first row is a header nevertheless: taken for an interaction, it would be lost without a word."""
    user, item = (first[place] for place in places[:2])
    if _plain(user) in USUAL_NAMES["user"] and _plain(item) in USUAL_NAMES["item"]:
        raise UserError(
            f"{path} begins with a header, and columns chosen by place are for files without one: --user-col={user} --item-col={item}"
        )
