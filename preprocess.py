"""Raw rating files → data/<name>/, in the layout that data.py reads. Called by prep.sh.

    ./prep.sh                              MovieLens-1M, from GroupLens
    ./prep.sh ml-1m ml-100k                the first of these that can be had
    ./prep.sh ml-1m --url=https://mirror.example/ml-1m.zip
    ./prep.sh ml-1m --file=Downloads/ml-1m.zip

A data set that is there already is left as it is. Nothing half made is ever seen: the folder is
filled under another name and renamed when all of it is on the disk.

A source is an entry of SOURCES: where its files come from, and how to read them into two tables,
interactions (user, item, rating) and items (item, title).
"""
import argparse
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Callable, NamedTuple

import h5py
import numpy as np
import pandas as pd
import pooch
import requests

from data import DROPPED, INDEX, INTERACTIONS, MANIFEST, TEST, TRAIN, VALIDATION
from runs import atomic, lock
from settings import UserError, run_script

CONNECT_SECONDS, READ_SECONDS, RETRIES = 10, 60, 2
LARGEST_MEMBER = 4 * 2 ** 30  # bytes; a zip member that claims more is not one of ours
FEWEST_INTERACTIONS = 3       # of a user; those with fewer are dropped


class Unreachable(UserError):
    """The host of a source cannot be reached, or does not give the file."""


class Origin(NamedTuple):
    """One place a data set can be had from."""
    location: str     # an http(s) URL, or "pip:<requirement>" for a wheel in the package registry
    sha256: str
    read: Callable    # zipfile.ZipFile -> (interactions, items)


def read_ml_1m(archive):
    """ratings.dat and movies.dat, fields separated by '::', Latin-1."""
    table = lambda member, names: _read_csv(
        _member(archive, f"ml-1m/{member}").replace(b"\t", b" ").replace(b"::", b"\t"), member, names=names, encoding="latin-1")
    return (table("ratings.dat", ["user", "item", "rating", "timestamp"]),
            table("movies.dat", ["item", "title", "genres"]))


def read_ml_100k(archive):
    """u.data, separated by tabs, and u.item, by '|', Latin-1."""
    interactions = _read_csv(_member(archive, "ml-100k/u.data"), "u.data", names=["user", "item", "rating", "timestamp"])
    items = _read_csv(_member(archive, "ml-100k/u.item"), "u.item", sep="|", header=None, usecols=[0, 1], encoding="latin-1")
    return interactions, items.set_axis(["item", "title"], axis=1)


def read_recbole_ml_100k(archive):
    """The example data of RecBole: tables with a header of name:type, titles apart from years."""
    folder = "recbole/dataset_example/ml-100k/ml-100k"
    interactions = _read_csv(_member(archive, f"{folder}.inter"), "ml-100k.inter", header=0,
                             names=["user", "item", "rating", "timestamp"])
    items = _read_csv(_member(archive, f"{folder}.item"), "ml-100k.item", header=0, names=["item", "title", "year", "genres"])
    return interactions, items.assign(title=items.title.str.cat(items.year.astype(str).radd(" (").add(")")).fillna(items.title))


MOVIELENS = "https://files.grouplens.org/datasets/movielens/"
SOURCES = {
    "ml-1m": [Origin(MOVIELENS + "ml-1m.zip", "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20", read_ml_1m)],
    "ml-100k": [Origin(MOVIELENS + "ml-100k.zip", "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229", read_ml_100k),
                Origin("pip:recbole==1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407", read_recbole_ml_100k)],
}


def split_interactions(user, rng):
    """Each user's interactions at random into train, validation and test.

    Of a user's n, floor(0.8 n) - 1 are train, floor(0.9 n) - floor(0.8 n) validation and the rest,
    so at least one, test; users with n < 3 are dropped. These are the counts in the paper's files.

    Args:
        user: (N,) whole numbers, in any order.
        rng: a numpy Generator.

    Returns:
        (N,) int8 of TRAIN, VALIDATION, TEST, DROPPED.
    """
    number, count = np.unique(user, return_inverse=True, return_counts=True)[1:]
    order = np.lexsort((rng.random(len(user)), number))  # users together, each one's interactions shuffled
    place = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    n = np.repeat(count, count)
    train, validation = 8 * n // 10 - 1, 9 * n // 10 - 8 * n // 10
    shuffled = np.select([n < FEWEST_INTERACTIONS, place < train, place < train + validation],
                         [DROPPED, TRAIN, VALIDATION], TEST)
    part = np.empty(len(user), np.int8)
    part[order] = shuffled
    return part


def write_layout(folder, user, item, rating, part):
    """Writes the two files that data.py reads; four arrays (N,), one entry an interaction."""
    image = io.BytesIO()  # the HDF5 library may crash where a write to the disk fails
    with h5py.File(image, "w") as out:
        for name, column in (("user", user), ("item", item), ("rating", rating)):
            out.create_dataset(name, data=column, compression="gzip", shuffle=True, fletcher32=True)
    with atomic(folder / INTERACTIONS) as file:
        file.write(image.getbuffer())
    with atomic(folder / INDEX) as file:
        np.savez_compressed(file, data=part)


def write_dataset(folder, interactions, items, seed, about):
    """Splits the interactions and writes the folder's files, checksums last.

    Args:
        folder: an empty folder.
        interactions: DataFrame user, item (original ids), rating.
        items: DataFrame item, title, or None.
        seed: of the split.
        about: dict, for the manifest.
    """
    # Sorted by id, so that the same seed splits the same interactions alike wherever they came from.
    unique = interactions.drop_duplicates(["user", "item"], keep="last").sort_values(["user", "item"])
    user, user_ids = pd.factorize(unique.user, sort=True)
    item, item_ids = pd.factorize(unique.item, sort=True)
    part = split_interactions(user, np.random.default_rng(seed))
    write_layout(folder, user.astype(np.int32), item.astype(np.int32), unique.rating.to_numpy(np.float32), part)
    tables = {"users.csv": pd.DataFrame({"id": user_ids}), "items.csv": pd.DataFrame({"id": item_ids})}
    if items is not None:
        tables["items.csv"]["title"] = items.drop_duplicates("item").set_index("item").title.reindex(item_ids).fillna("").to_numpy()
    for name, table in tables.items():
        with atomic(folder / name) as file:
            table.to_csv(file, index_label="index")
    counts = {"users": len(user_ids), "items": len(item_ids), "interactions": len(unique),
              "duplicates_dropped": len(interactions) - len(unique),
              **{name: int((part == code).sum()) for name, code in
                 (("train", TRAIN), ("validation", VALIDATION), ("test", TEST), ("dropped", DROPPED))}}
    with atomic(folder / MANIFEST) as file:
        checksums = {name: pooch.file_hash(folder / name) for name in (INTERACTIONS, INDEX, *tables)}
        file.write(json.dumps({**about, "split_seed": seed, "counts": counts, "sha256": checksums}, indent=2).encode())
    return counts


def prepare(name, data_dir, seed, url=None, file=None, sha256=None, unreachable=()):
    """Makes data_dir/name unless it is there; a UserError leaves nothing behind but finished downloads.

    Args:
        unreachable: URL prefixes that are known not to answer and are not tried again.
    """
    folder = data_dir / name
    if _already_there(folder, seed):
        return
    data_dir.mkdir(parents=True, exist_ok=True)
    with lock(data_dir / f".{name}.lock", f"another process is preparing {folder}"):
        if _already_there(folder, seed):
            return
        archive, origin = _fetch(name, data_dir / ".downloads", url, file, sha256, unreachable)
        try:
            with zipfile.ZipFile(archive) as opened:
                interactions, items = origin.read(opened)
        except zipfile.BadZipFile as error:
            raise UserError(f"{archive} is not a sound zip file: {error}") from error
        partial = data_dir / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # of a call that was killed
        partial.mkdir()
        try:
            counts = write_dataset(partial, interactions, items, seed, {
                "dataset": name, "source": url or (f"file:{file}" if file else origin.location),
                "source_sha256": pooch.file_hash(archive)})
            os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    _say(f"{folder}: {counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions: "
         f"{counts['train']:,} train, {counts['validation']:,} validation, {counts['test']:,} test, {counts['dropped']:,} dropped")


def _already_there(folder, seed):
    if not folder.exists():
        return False
    if not (folder / MANIFEST).exists():
        if not all((folder / name).exists() for name in (INTERACTIONS, INDEX)):
            raise UserError(f"{folder} is there, but holds no data set; move it away, or choose another --data_dir")
        _say(f"{folder} is there already, though not made by prep.sh")
        return True
    try:
        made_with = json.loads((folder / MANIFEST).read_text())["split_seed"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / MANIFEST} is damaged; delete {folder} and run ./prep.sh again") from error
    if made_with != seed:
        raise UserError(f"{folder} was split with seed {made_with}, not {seed}; delete it, or choose another --data_dir")
    _say(f"{folder} is there already")
    return True


def _fetch(name, downloads, url, file, sha256, unreachable):
    """(path of the zip file, its Origin), from the first origin that answers."""
    first = SOURCES[name][0]
    if file is not None:
        if not Path(file).is_file():
            raise UserError(f"--file: there is no file {file}")
        _check_hash(Path(file), sha256 or first.sha256)
        return Path(file), first
    if url is not None:
        return _download(url, downloads, sha256 or first.sha256), first
    for origin in SOURCES[name]:
        if origin.location.startswith("pip:"):
            return _download_wheel(origin, downloads), origin
        if not origin.location.startswith(tuple(unreachable)):
            try:
                return _download(origin.location, downloads, origin.sha256), origin
            except Unreachable as error:
                if origin is SOURCES[name][-1]:
                    raise
                _say(f"{error}; taking the copy in {SOURCES[name][-1].location}")
    raise Unreachable(f"{SOURCES[name][0].location} cannot be reached")


def _download(url, downloads, sha256):
    pooch.get_logger().setLevel(logging.ERROR)
    fetcher = pooch.HTTPDownloader(timeout=(CONNECT_SECONDS, READ_SECONDS), progressbar=sys.stderr.isatty())
    name = url.rsplit("/", 1)[-1] or "archive.zip"
    source = pooch.create(downloads, base_url="", registry={name: sha256}, urls={name: url}, retry_if_failed=RETRIES)
    try:
        return Path(source.fetch(name, downloader=fetcher))
    except requests.RequestException as error:
        raise Unreachable(f"{url} cannot be downloaded ({_reason(error)})") from error
    except ValueError as error:
        if "hash" not in str(error):
            raise UserError(f"{url} cannot be downloaded: {error}") from error
        raise UserError(f"{url} gives a file with the wrong checksum: it is damaged, or another version than sha256 {sha256}") from error


def _reason(error):
    """A few words for what a requests exception wraps five deep."""
    if isinstance(error, requests.HTTPError):
        return f"the server answers {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "the host does not answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    if isinstance(error, requests.ConnectionError):
        return "the host cannot be reached"
    return str(error)[:200]


def _download_wheel(origin, downloads):
    """A wheel of the package registry, as pip is set up on this machine; it is not installed."""
    requirement = origin.location.removeprefix("pip:")
    kept = downloads / f"{requirement.replace('==', '-')}.whl"
    if not kept.exists():
        downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads) as temporary:
            pip = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet",
                                  "--disable-pip-version-check", "--dest", temporary, requirement],
                                 capture_output=True, text=True)
            wheels = list(Path(temporary).glob("*.whl"))
            if pip.returncode or not wheels:
                raise Unreachable(f"pip cannot download {requirement}: {(pip.stderr.strip().splitlines() or ['no wheel'])[-1]}")
            _check_hash(wheels[0], origin.sha256)
            wheels[0].rename(kept)
    _check_hash(kept, origin.sha256)
    return kept


def _check_hash(path, sha256):
    if pooch.file_hash(path) != sha256:
        raise UserError(f"{path} has the wrong checksum: it is damaged, or another version than sha256 {sha256}")


def _member(archive, name):
    """The bytes of one member, read in memory: nothing of an archive is ever unpacked to a path of its choosing."""
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise UserError(f"{archive.filename} has no member {name}: another archive than expected") from error
    if info.file_size > LARGEST_MEMBER:
        raise UserError(f"{archive.filename}: {name} claims {info.file_size:,} bytes, more than is sensible")
    return archive.read(info)


def _read_csv(text, member, sep="\t", **options):
    """A table without quoting; UserError where a row does not fit."""
    try:
        table = pd.read_csv(io.BytesIO(text), sep=sep, quoting=3, **options)
    except ValueError as error:
        raise UserError(f"{member}: {error}") from error
    if "user" in table and not pd.api.types.is_numeric_dtype(table.rating):
        wrong = pd.to_numeric(table.rating, errors="coerce").isna()
        raise UserError(f"{member}: line {int(wrong.idxmax()) + 1} has a rating that is not a number")
    if "user" in table and table[["user", "item", "rating"]].isna().to_numpy().any():
        raise UserError(f"{member}: line {int(table[['user', 'item', 'rating']].isna().any(axis=1).idxmax()) + 1} is incomplete")
    return table


def _say(line):
    print(line, file=sys.stderr)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="./prep.sh")
    parser.add_argument("names", nargs="*", default=["ml-1m"], metavar="name", help="|".join(SOURCES) + ", default ml-1m")
    parser.add_argument("--url", help="a mirror to download from instead")
    parser.add_argument("--file", help="a downloaded archive to take instead")
    parser.add_argument("--sha256", help="what --url or --file gives, if it is not the file the project knows")
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--seed", type=int, default=42, help="of the split; default 42")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in SOURCES]:
        raise UserError(f"there is no data set '{unknown[0]}' to prepare; there are {', '.join(SOURCES)}")
    if not 0 <= given.seed < 2 ** 63:
        raise UserError(f"--seed must be a whole number of at least 0, not {given.seed}")
    if len(given.names) > 1 and (given.url or given.file):
        raise UserError("--url and --file go with one data set")
    for position, name in enumerate(given.names, 1):
        try:
            prepare(name, given.data_dir, given.seed, given.url, given.file, given.sha256 and given.sha256.lower(),
                    unreachable=[MOVIELENS] if position > 1 else [])
            break
        except Unreachable as error:
            if position == len(given.names):
                raise UserError(f"{error}; --url=MIRROR or --file=ARCHIVE takes it from elsewhere") from error
            _say(f"{error}: going on with {given.names[position]} instead of {name}")
    print(name)


if __name__ == "__main__":
    run_script(main)
