"""The data sets that prep.sh knows: where each can be downloaded, and how its files are read.

To add one, write its reader, (path, scratch folder) -> tables.Reading, and an entry in SOURCES.
"""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lib.errors import UserError
from prep import plain, tables
from prep.columns import Columns
from prep.layouts import NETFLIX, Layout, shown


class Origin(NamedTuple):
    """One place where a data set can be downloaded."""

    # An http(s) URL; "pip:<requirement>" for a wheel of the package registry; without a download, the
    # words that say what --file must be.
    location: str
    sha256: str | None  # None: unknown; the manifest keeps that of the file that was read
    read: Callable  # (path, scratch folder) -> Reading


RATED = Columns(user=0, item=1, rating=2, time=3)
DOUBLE_COLONS, TABS = Layout("::", width=4), Layout("\t", width=4)
COMMAS = Layout(",", '"', skip=1, names=("userId", "movieId", "rating", "timestamp"), width=4)


def read_movielens(folder, ratings, layout, titles, encoding="utf-8", **options):
    """The reader of a zip with a file of ratings and a file of titles in a folder.

    Args:
        ratings, titles: names of the files.
        layout: of the ratings; its names are those that the file must begin with.
        options: of the titles, for pandas.read_csv.
    """

    def read(path, scratch):
        if not zipfile.is_zipfile(path):  # u.data alone, for example: as good as the archive, without titles
            return read_table(layout)(path, scratch)
        with plain.damage_of(path), zipfile.ZipFile(path) as archive:
            table = _extract(archive, f"{folder}/{ratings}", scratch)
            items = _extract(archive, f"{folder}/{titles}", scratch)
        file, _ = plain.look(table, f"{folder}/{ratings}", scratch)
        reading = _read_rated([file], layout, scratch)
        return reading._replace(titles=_read_titles(items, titles, encoding, **options))

    return read


def _extract(archive, name, scratch):
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise UserError(f"{archive.filename} has no member {name}: it is another archive") from error
    return plain.extract(archive, info, scratch / Path(name).name)


def _read_rated(files, layout, scratch, columns=RATED):
    """The Reading of texts whose layout is known."""
    parts = [tables.Part(file, layout, columns) for file in files]
    for file in files:
        if layout.names:
            _check_header(file, layout)
    with tables.database_in(scratch) as database:
        return tables.read_parts(database, parts)


def _check_header(file, layout):
    with open(file.path, encoding="utf-8-sig", errors="replace") as lines:
        names = lines.readline().rstrip("\r\n").split(layout.delimiter)
    if tuple(names[: layout.width]) != layout.names:
        raise UserError(
            f"{file.name} begins with {shown(', '.join(names))}, not with {', '.join(layout.names)}: "
            "it is another file"
        )


def _read_titles(path, name, encoding, **options):
    """A DataFrame with the columns item and title."""
    try:
        options = {"header": None, "engine": "python", "quoting": 3, **options}
        table = pd.read_csv(path, encoding=encoding, dtype=str, keep_default_na=False, **options)
        if "year" in table:
            table["title"] = table.title.where(table.year == "", table.title + " (" + table.year + ")")
        return table[["item", "title"]]
    except (ValueError, KeyError) as error:
        raise UserError(f"{name}: {str(error).splitlines()[0]}") from error


def read_table(layout, columns=RATED):
    """The reader of one text, packed or not."""
    return lambda path, scratch: _read_rated(plain.unpack(path, scratch)[0], layout, scratch, columns)


def read_recbole_ml_100k(path, scratch):
    """RecBole's example data: tables with a header of name:type; years have a column of their own."""
    names = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    layout = TABS._replace(skip=1, names=names)
    options = {"sep": "\t", "skiprows": 1, "names": ["item", "title", "year", "genres"]}
    folder = "recbole/dataset_example/ml-100k"
    return read_movielens(folder, "ml-100k.inter", layout, "ml-100k.item", **options)(path, scratch)


def read_netflix(path, scratch):
    """The Netflix Prize's combined_data_*.txt: one of them, their folder, or a zip of them.

    A line 'movie:' stands before the movie's lines user,rating,date. Titles come from movie_titles.csv or
    .txt beside them (id,year,title; titles may hold commas; Latin-1).
    """
    files, _ = plain.unpack(path, scratch)
    if len(files) > 1 or zipfile.is_zipfile(path):
        ratings = [file for file in files if re.search(r"(^|/)combined_data_[^/]*\.txt$", file.name)]
    else:
        ratings = files
    if not ratings:
        raise UserError(f"{path} holds no combined_data_*.txt")
    reading = _read_rated(ratings, NETFLIX, scratch, tables.NETFLIX_COLUMNS)
    for file in files:
        if re.search(r"(^|/)movie_titles\.(csv|txt)$", file.name):
            with open(file.path, encoding="utf-8") as lines:
                rows = [line.rstrip("\n").split(",", 2) for line in lines]
            rows = [(row[0], row[2]) for row in rows if len(row) == 3 and row[0].isdigit()]
            reading = reading._replace(titles=pd.DataFrame(rows, columns=["item", "title"]))
    return reading


MOVIELENS = "https://files.grouplens.org/datasets/movielens/"
OF_MOVIES = {"names": ["item", "title", "genres"]}
ML_100K = read_movielens(
    "ml-100k", "u.data", TABS, "u.item", "latin-1", sep="|", usecols=[0, 1], names=["item", "title"]
)
QUOTED = OF_MOVIES | {"sep": ",", "skiprows": 1, "quoting": 0}
SOURCES = {
    "ml-1m": [
        Origin(
            MOVIELENS + "ml-1m.zip",
            "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
            read_movielens(
                "ml-1m", "ratings.dat", DOUBLE_COLONS, "movies.dat", "latin-1", sep="::", **OF_MOVIES
            ),
        )
    ],
    "ml-100k": [
        Origin(
            MOVIELENS + "ml-100k.zip",
            "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
            ML_100K,
        ),
        Origin(
            "pip:recbole==1.2.1",
            "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
            read_recbole_ml_100k,
        ),
    ],
    "ml-10m": [
        Origin(
            MOVIELENS + "ml-10m.zip",
            None,
            read_movielens("ml-10M100K", "ratings.dat", DOUBLE_COLONS, "movies.dat", sep="::", **OF_MOVIES),
        )
    ],
    "ml-20m": [
        Origin(
            MOVIELENS + "ml-20m.zip",
            None,
            read_movielens("ml-20m", "ratings.csv", COMMAS, "movies.csv", **QUOTED),
        )
    ],
    "ml-25m": [
        Origin(
            MOVIELENS + "ml-25m.zip",
            None,
            read_movielens("ml-25m", "ratings.csv", COMMAS, "movies.csv", **QUOTED),
        )
    ],
    "magazine": [
        Origin(
            "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/categoryFilesSmall/Magazine_Subscriptions.csv",
            None,
            read_table(Layout(",", width=4), Columns(user=1, item=0, rating=2, time=3)),
        )
    ],
    "douban": [
        Origin("a text file of user, item, rating and timestamp, separated by tabs", None, read_table(TABS))
    ],
    "netflix": [
        Origin("the Prize's combined_data_*.txt: their folder, a zip, or one of them", None, read_netflix)
    ],
}
