"""Raw rating files → data/<name>/, in the layout that data.py reads. Called by prep.sh.

    ./prep.sh                              MovieLens-1M, from GroupLens
    ./prep.sh ml-1m ml-100k                the first of these that can be had
    ./prep.sh ml-1m --url=https://mirror.example/ml-1m.zip
    ./prep.sh netflix --file=Downloads/netflix-prize
    ./prep.sh --file=ratings.csv --name=mine --min-rating=4 --min-item-count=5

A data set that is there already is left as it is. Nothing half made is ever seen: the folder is
filled under another name and renamed when all of it is on the disk. What files look like, and where
they come from, stands in prep/sources.py.
"""

import io
import json
import math
import os
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pooch

from data import DROPPED, INDEX, INTERACTIONS, MANIFEST, TEST, TRAIN, VALIDATION
from lib.errors import Parser, UserError, run_script
from lib.files import atomic, lock
from lib.settings import adapter, checked
from prep.download import Unreachable, fetch
from prep.sources import MOVIELENS, SOURCES, read_own

FEWEST_INTERACTIONS = 3  # of a user; those with fewer cannot be split
SPLIT_AT_ONCE = 5_000_000  # interactions
BAD_ROWS_SHOWN = 5


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
    shuffled = np.select(
        [n < FEWEST_INTERACTIONS, place < train, place < train + validation],
        [DROPPED, TRAIN, VALIDATION],
        TEST,
    )
    part = np.empty(len(user), np.int8)
    part[order] = shuffled
    return part


def filter_interactions(interactions, min_rating, min_user_count, min_item_count):
    """Each pair once, the latest by time, or without times the last in the file, and of those what counts.

    Args:
        interactions: sources.Interactions.
        min_rating: the least that counts; None: all do.
        min_user_count, min_item_count: of pairs, asked for again until all users and items that remain have as many.

    Returns:
        (interactions, sorted by user and item, with the ids that remain; how many were dropped as duplicates;
        how many by the filters).

    Raises:
        UserError: nothing is left.
    """
    user, item, rating, items = (
        interactions.user,
        interactions.item,
        interactions.rating,
        len(interactions.item_ids),
    )
    key = user.astype(np.int64) * items + item
    timed = interactions.time is not None
    order = np.lexsort((interactions.time, key)) if timed else np.argsort(key, kind="stable")
    key = key[order]
    last = np.append(key[1:] != key[:-1], True)[: len(key)]
    order, key = order[last], key[last]
    duplicates = len(user) - len(order)
    user, item, rating = (
        (key // max(items, 1)).astype(np.int32),
        (key % max(items, 1)).astype(np.int32),
        rating[order],
    )
    del key, order, last
    unique = len(user)
    if min_rating is not None:
        user, item, rating = (column[rating >= min_rating] for column in (user, item, rating))
    if unique and not len(user):
        raise UserError(
            f"nothing is left: none of {unique:,} interactions is rated {min_rating:g} or higher, the highest is {interactions.rating.max():g} "
            "(without a column of ratings every row counts as 1); lower --min-rating, or name the column with --rating-col"
        )
    rated = len(user)
    while True:
        enough = (np.bincount(user)[user] >= min_user_count) & (np.bincount(item)[item] >= min_item_count)
        if enough.all():
            break
        user, item, rating = (column[enough] for column in (user, item, rating))
    if not len(user):
        raise UserError(
            f"nothing is left: of {unique:,} interactions, {rated:,} are rated high enough, and none of those is of a user with "
            f"{min_user_count} and an item with {min_item_count} that remain; lower --min-rating, --min-user-count or --min-item-count"
        )
    (user, user_ids), (item, item_ids) = (
        _compact(user, interactions.user_ids),
        _compact(item, interactions.item_ids),
    )
    return (
        interactions._replace(
            user=user, user_ids=user_ids, item=item, item_ids=item_ids, rating=rating, time=None
        ),
        duplicates,
        unique - len(user),
    )


def _compact(codes, ids):
    """The same for the ids that are left."""
    left = np.bincount(codes, minlength=len(ids)) > 0
    return (np.cumsum(left, dtype=np.int32) - 1)[codes], ids[left]


def split_sorted(user, rng):
    """`split_interactions` of sorted users, some whole users at a time: the same, in less memory."""
    part, start = np.empty(len(user), np.int8), 0
    while start < len(user):
        stop = len(user)
        if start + SPLIT_AT_ONCE < stop:
            stop = int(np.searchsorted(user, user[start + SPLIT_AT_ONCE], side="right"))
        part[start:stop] = split_interactions(user[start:stop], rng)
        start = stop
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


def write_dataset(folder, interactions, titles, seed, about):
    """Splits the interactions and writes the folder's files, checksums last.

    Args:
        folder: an empty folder.
        interactions: as from `filter_interactions`. Being sorted by id, they are split alike with the same
            seed wherever they came from.
        titles: DataFrame item, title, or None.
        seed: of the split.
        about: dict, for the manifest.

    Returns:
        What the manifest holds as counts.
    """
    part = split_sorted(interactions.user, np.random.default_rng(seed))
    write_layout(folder, interactions.user, interactions.item, interactions.rating, part)
    tables = {
        "users.csv": pd.DataFrame({"id": interactions.user_ids}),
        "items.csv": pd.DataFrame({"id": interactions.item_ids}),
    }
    if titles is not None:
        titles = titles.drop_duplicates("item").set_index("item").title
        tables["items.csv"]["title"] = titles.reindex(interactions.item_ids).fillna("").to_numpy()
    for name, table in tables.items():
        with atomic(folder / name) as file:
            table.to_csv(file, index_label="index")
    counts = {
        "users": len(interactions.user_ids),
        "items": len(interactions.item_ids),
        "interactions": len(part),
        **{
            name: int((part == code).sum())
            for name, code in (
                ("train", TRAIN),
                ("validation", VALIDATION),
                ("test", TEST),
                ("dropped", DROPPED),
            )
        },
    }
    with atomic(folder / MANIFEST) as file:
        checksums = {name: pooch.file_hash(folder / name) for name in (INTERACTIONS, INDEX, *tables)}
        file.write(
            json.dumps(
                {**about, "split_seed": seed, "counts": {**about["counts"], **counts}, "sha256": checksums},
                indent=2,
            ).encode()
        )
    return counts


def check_bad_rows(interactions, max_bad_share):
    """Says how many rows were left out and which came first; UserError if they are too large a share.

    Returns:
        How many. A row that swallowed others, by a quote that is not closed where it should be, counts as many.
    """
    count = len(interactions.bad) + interactions.swallowed
    if not count:
        return 0
    shown = "; ".join(
        f"{file}, line {line}: {what}" for file, line, what in interactions.bad[:BAD_ROWS_SHOWN]
    )
    words = f"{count:,} of {interactions.rows:,} rows cannot be used ({shown}{'; ...' if len(interactions.bad) > BAD_ROWS_SHOWN else ''})"
    if count > max_bad_share * interactions.rows:
        raise UserError(f"{words}: more than the share of {max_bad_share:g} that --max-bad-share allows")
    _say(f"{words}: left out")
    return count


def prepare(name, given, unreachable=()):
    """Makes data_dir/name unless it is there; a UserError leaves nothing behind but finished downloads.

    Args:
        given: the options of the command line.
        unreachable: URL prefixes that are known not to answer and are not tried again.
    """
    folder = given.data_dir / name
    if _already_there(folder, given):
        return
    given.data_dir.mkdir(parents=True, exist_ok=True)
    with lock(given.data_dir / f".{name}.lock", f"another process is preparing {folder}"):
        if _already_there(folder, given):
            return
        if given.name is not None:
            path, source = Path(given.file), f"file:{given.file}"
            interactions, titles = read_own(path, given.user_col, given.item_col, given.rating_col), None
        else:
            path, source, read = fetch(
                name, given.data_dir / ".downloads", given.url, given.file, given.sha256, unreachable
            )
            interactions, titles = read(path)
        bad = check_bad_rows(interactions, given.max_bad_share)
        counted = "the last in the file" if interactions.time is None else "the latest by time"
        interactions, duplicates, filtered = filter_interactions(
            interactions, given.min_rating, given.min_user_count, given.min_item_count
        )
        partial = given.data_dir / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # of a call that was killed
        partial.mkdir()
        try:
            counts = write_dataset(
                partial,
                interactions,
                titles,
                given.seed,
                {
                    "dataset": name,
                    "source": source,
                    "source_sha256": _file_hash(path),
                    **_shaping(given),
                    "counts": {"bad_rows": bad, "duplicates_dropped": duplicates, "filtered": filtered},
                },
            )
            os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    _say(
        f"{folder}: {counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions: "
        f"{counts['train']:,} train, {counts['validation']:,} validation, {counts['test']:,} test; "
        f"left out: {duplicates:,} duplicates (of each pair {counted} counts), {filtered:,} by the filters, {bad:,} bad rows"
    )


def _file_hash(path):
    """The sha256 of a file, or {name: sha256} of a folder's."""
    if path.is_dir():
        return {each.name: pooch.file_hash(each) for each in sorted(path.iterdir()) if each.is_file()}
    return pooch.file_hash(path)


def _shaping(given):
    """What of the options makes another data set, as the manifest has it."""
    shaping = {
        "split_seed": given.seed,
        "min_rating": given.min_rating,
        "min_user_count": given.min_user_count,
        "min_item_count": given.min_item_count,
    }
    return shaping if given.name is None else {**shaping, **{key: getattr(given, key) for key in COLUMNS}}


def _already_there(folder, given):
    """Whether the folder is what these options make; UserError if it is something else, with what differs."""
    if not folder.exists():
        return False
    other = f"delete it, or choose another {'--data_dir' if given.name is None else '--name'}"
    if not (folder / MANIFEST).exists():
        if not all((folder / name).exists() for name in (INTERACTIONS, INDEX)):
            raise UserError(
                f"{folder} is there, but holds no data set; move it away, or choose another --data_dir"
            )
        if given.file is not None:
            raise UserError(
                f"{folder} was not made by prep.sh, and whether it is from {given.file} cannot be told; {other}"
            )
        _say(f"{folder} is there already, though not made by prep.sh")
        return True
    shaping = _shaping(given)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        # Manifests of before there were filters hold none.
        made_with = {
            key: manifest[key] if key == "split_seed" else manifest.get(key, DEFAULTS[key]) for key in shaping
        }
        source, source_hash = manifest["source"], manifest["source_sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / MANIFEST} is damaged; delete {folder} and run ./prep.sh again") from error
    differs = [
        f"with {key.replace('_', ' ')} {made_with[key]}, not {value}"
        for key, value in shaping.items()
        if made_with[key] != value
    ]
    if given.file is not None and _file_hash(Path(given.file)) != source_hash:
        differs.append(f"from another file than {given.file} is now ({source}, with another sha256)")
    if differs:
        raise UserError(f"{folder} was made {' and '.join(differs)}; {other}")
    _say(f"{folder} is there already")
    return True


def _say(line):
    print(line, file=sys.stderr)


COLUMNS = ("user_col", "item_col", "rating_col")
DEFAULTS = {
    "split_seed": 42,
    "min_rating": None,
    "min_user_count": FEWEST_INTERACTIONS,
    "min_item_count": 1,
    **dict.fromkeys(COLUMNS),
}


def parse(arguments):
    """The options, checked; a name of several words is taken with - or _ between them."""
    parser = Parser(__doc__, prog="./prep.sh")
    add = lambda option, **more: parser.add_argument(
        f"--{option}", *{f"--{option.replace('-', '_')}"} - {f"--{option}"}, **more
    )
    parser.add_argument("names", nargs="*", metavar="name", help="|".join(SOURCES) + ", default ml-1m")
    add("url", help="a mirror to download from instead")
    add(
        "file",
        help="what you have downloaded; or, with --name, a table of your own: .csv, .tsv, .inter or .parquet",
    )
    add("name", help="what to call your own data")
    add(
        "user-col",
        help="its column of users: a name, or, in a file without a header, its number from 0. A whole number is always a place, even if "
        "a column is called so, and no header line is taken. Guessed if not given",
    )
    add("item-col", help="likewise")
    add("rating-col", help="likewise; without one, every row counts")
    add("min-rating", type=float, help="the least rating that counts; default: all do")
    add(
        "min-user-count",
        type=int,
        default=DEFAULTS["min_user_count"],
        help="the fewest interactions of a user; default %(default)s, which can be split",
    )
    add(
        "min-item-count",
        type=int,
        default=DEFAULTS["min_item_count"],
        help="the fewest of an item; default %(default)s",
    )
    add(
        "max-bad-share",
        type=float,
        default=0.01,
        help="the share of rows that may be unusable; default %(default)s",
    )
    add("sha256", type=str.lower, help="what --url or --file gives, if it is not the file the project knows")
    add("data_dir", type=Path, default=Path("data"))
    add("seed", type=int, default=DEFAULTS["split_seed"], help="of the split; default %(default)s")
    given = parser.parse_args(arguments)
    if given.name is not None:
        if given.names or given.file is None or given.url is not None:
            raise UserError("--name goes with --file, and with no name of a known data set")
        checked("--name", given.name, adapter("dataset"))
        if given.name in SOURCES:
            raise UserError(f"{given.name} is the name of a known data set; give yours another")
    elif chosen := [key for key in COLUMNS if getattr(given, key) is not None]:
        raise UserError(f"--{chosen[0].replace('_', '-')} goes with --name, for a table of your own")
    elif given.file is not None and not given.names:
        raise UserError(
            "--file needs --name=NAME for a table of your own, or the name of a known data set before it"
        )
    given.names = given.names or ["ml-1m"]
    if unknown := [name for name in given.names if name not in SOURCES]:
        raise UserError(
            f"there is no data set '{unknown[0]}' to prepare; there are {', '.join(SOURCES)}, and --file with --name for your own"
        )
    if given.file is not None and (not given.file or not Path(given.file).exists()):
        raise UserError(f"--file: there is no file {given.file}")
    if given.file is not None and Path(given.file).is_dir() and given.names != ["netflix"]:
        raise UserError(f"--file: {given.file} is a folder")
    if not 0 <= given.seed < 2**63:
        raise UserError(f"--seed must be a whole number of at least 0, not {given.seed}")
    if given.min_user_count < FEWEST_INTERACTIONS or given.min_item_count < 1:
        raise UserError(
            f"--min-user-count must be at least {FEWEST_INTERACTIONS}, which can be split, and --min-item-count at least 1"
        )
    if not 0 <= given.max_bad_share <= 1:
        raise UserError(f"--max-bad-share must be between 0 and 1, not {given.max_bad_share}")
    if given.min_rating is not None and not math.isfinite(given.min_rating):
        raise UserError(f"--min-rating must be a number, not {given.min_rating}")
    if len(given.names) > 1 and (given.url or given.file):
        raise UserError("--url and --file go with one data set")
    return given


def main(arguments):
    given = parse(arguments)
    names = given.names if given.name is None else [given.name]
    for position, name in enumerate(names, 1):
        try:
            prepare(name, given, unreachable=[MOVIELENS] if position > 1 else [])
            break
        except Unreachable as error:
            if position == len(names):
                raise UserError(f"{error}; --url=MIRROR or --file=FILE takes it from elsewhere") from error
            _say(f"{error}: going on with {names[position]} instead of {name}")
    print(name)


if __name__ == "__main__":
    run_script(main, "prep.sh")
