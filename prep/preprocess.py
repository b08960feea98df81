"""Raw rating files → data/<name>/, in the layout that data.py reads. Called by prep.sh.

    ./prep.sh                              MovieLens-1M, from GroupLens
    ./prep.sh ml-1m ml-100k                the first of these that can be downloaded
    ./prep.sh ml-1m --url=https://mirror.example/ml-1m.zip
    ./prep.sh netflix --file=Downloads/netflix-prize
    ./prep.sh --file=ratings.csv --name=mine --min-rating=4 --min-item-count=5

A data set that exists already is left as it is. A folder appears when all of its files are written, or
not at all. docs/data.md has more: formats, filters, the split, the files.
"""

import io
import json
import math
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pooch

from data import DROPPED, INDEX, INTERACTIONS, MANIFEST, TEST, TRAIN, VALIDATION
from lib.errors import Parser, UserError, run_script
from lib.files import atomic, lock, new_folder
from lib.settings import adapter, checked
from prep.download import Unreachable, fetch
from prep.sources import MOVIELENS, SOURCES, read_table

FEWEST_INTERACTIONS = 3  # of a user; fewer cannot be split
SPLIT_AT_ONCE = 5_000_000  # interactions
BAD_ROWS_SHOWN = 5
COLUMNS = ("user_col", "item_col", "rating_col")
# The options that shape a data set, by their keys in the manifest. Older manifests have only the seed.
DEFAULTS = {
    "split_seed": 42,
    "min_rating": None,
    "min_user_count": FEWEST_INTERACTIONS,
    "min_item_count": 1,
    **dict.fromkeys(COLUMNS),
}


def split_interactions(user, rng):
    """Each user's interactions divided at random among train, validation and test.

    Of a user's n interactions floor(0.8 n) - 1 are train, floor(0.9 n) - floor(0.8 n) validation, and the
    rest, at least one, test. Users with n < 3 are dropped. The paper's files have these counts.

    Args:
        user: (N,) whole numbers, in any order.
        rng: numpy Generator.

    Returns:
        (N,) int8 of TRAIN, VALIDATION, TEST, DROPPED.
    """
    row, count = np.unique(user, return_inverse=True, return_counts=True)[1:]
    order = np.lexsort((rng.random(len(user)), row))  # sorts by user, and shuffles within a user
    place = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    n = np.repeat(count, count)
    train, validation = 8 * n // 10 - 1, 9 * n // 10 - 8 * n // 10
    conditions = [n < FEWEST_INTERACTIONS, place < train, place < train + validation]
    part = np.empty(len(user), np.int8)
    part[order] = np.select(conditions, [DROPPED, TRAIN, VALIDATION], TEST)
    return part


def split_sorted(user, rng):
    """`split_interactions` for sorted users: the same split in less memory, a block of users at a time."""
    part, start = np.empty(len(user), np.int8), 0
    while start < len(user):
        stop = len(user)
        if start + SPLIT_AT_ONCE < stop:
            stop = int(np.searchsorted(user, user[start + SPLIT_AT_ONCE], side="right"))
        part[start:stop] = split_interactions(user[start:stop], rng)
        start = stop
    return part


def filter_interactions(interactions, min_rating, min_user_count, min_item_count):
    """The interactions that are rated high enough, of users and items with enough of them, each pair once.

    Of a repeated pair the latest by time is kept; without times, the last in the file.

    Args:
        interactions: prep.tables.Interactions.
        min_rating: the lowest rating to keep; None keeps all.
        min_user_count, min_item_count: the fewest pairs of a user and of an item. Both filters are
            repeated until every user and item that remains has enough.

    Returns:
        (Interactions sorted by user and item, with only the ids that remain; how many rows were dropped
        as duplicates; how many by the filters).

    Raises:
        UserError: nothing is left.
    """
    user, item, rating = interactions.user, interactions.item, interactions.rating
    items = max(len(interactions.item_ids), 1)
    key = user.astype(np.int64) * items + item
    timed = interactions.time is not None
    order = np.lexsort((interactions.time, key)) if timed else np.argsort(key, kind="stable")
    key = key[order]
    last = np.append(key[1:] != key[:-1], True)[: len(key)]
    order, key = order[last], key[last]
    duplicates = len(user) - len(order)
    user, item, rating = (key // items).astype(np.int32), (key % items).astype(np.int32), rating[order]
    del key, order, last
    unique = len(user)
    if min_rating is not None:
        user, item, rating = (column[rating >= min_rating] for column in (user, item, rating))
    if unique and not len(user):
        raise UserError(
            f"nothing is left: the highest of {unique:,} ratings is {interactions.rating.max():g}, below "
            f"--min-rating={min_rating:g} (without a column of ratings, each is 1). "
            "Lower --min-rating, or name the column with --rating-col."
        )
    rated = len(user)
    while True:
        enough = (np.bincount(user)[user] >= min_user_count) & (np.bincount(item)[item] >= min_item_count)
        if enough.all():
            break
        user, item, rating = (column[enough] for column in (user, item, rating))
    if not len(user):
        raise UserError(
            f"nothing is left: of {unique:,} interactions, {rated:,} are rated high enough; leaving out "
            f"users with fewer than {min_user_count} and items with fewer than {min_item_count} leaves none. "
            "Lower --min-rating, --min-user-count or --min-item-count."
        )
    user, user_ids = _compact(user, interactions.user_ids)
    item, item_ids = _compact(item, interactions.item_ids)
    left = interactions._replace(
        user=user, user_ids=user_ids, item=item, item_ids=item_ids, rating=rating, time=None
    )
    return left, duplicates, unique - len(user)


def _compact(codes, ids):
    """(The codes renumbered, the ids in use), without the ids that no code refers to."""
    used = np.bincount(codes, minlength=len(ids)) > 0
    return (np.cumsum(used, dtype=np.int32) - 1)[codes], ids[used]


def write_layout(folder, user, item, rating, part):
    """Writes the two files that data.py reads.

    Args:
        folder: an existing folder.
        user, item, rating, part: (N,) arrays, one entry an interaction.
    """
    image = io.BytesIO()  # in memory, since the HDF5 library may crash if a write to the disk fails
    with h5py.File(image, "w") as out:
        for name, column in (("user", user), ("item", item), ("rating", rating)):
            out.create_dataset(name, data=column, compression="gzip", shuffle=True, fletcher32=True)
    with atomic(folder / INTERACTIONS) as file:
        file.write(image.getbuffer())
    with atomic(folder / INDEX) as file:
        np.savez_compressed(file, data=part)


def write_dataset(folder, interactions, titles, seed, manifest):
    """Splits the interactions and writes the folder's files, the manifest with their checksums last.

    Args:
        folder: an empty folder.
        interactions: as from `filter_interactions`. They are sorted by id, so the same interactions are
            split alike with the same seed, wherever they came from.
        titles: DataFrame with the columns item and title, or None.
        seed: of the split.
        manifest: dict, what the manifest says beside the checksums; counts are added to manifest["counts"].

    Returns:
        {"users", "items", "interactions", "train", "validation", "test", "dropped": count}.
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
    parts = {"train": TRAIN, "validation": VALIDATION, "test": TEST, "dropped": DROPPED}
    counts = {
        "users": len(interactions.user_ids),
        "items": len(interactions.item_ids),
        "interactions": len(part),
        **{name: int((part == code).sum()) for name, code in parts.items()},
    }
    checksums = {name: pooch.file_hash(folder / name) for name in (INTERACTIONS, INDEX, *tables)}
    manifest = {**manifest, "counts": {**manifest["counts"], **counts}, "sha256": checksums}
    with atomic(folder / MANIFEST) as file:
        file.write(json.dumps(manifest, indent=2).encode())
    return counts


def check_bad_rows(interactions, max_bad_share):
    """Prints how many rows were left out, with the first of them; UserError if they are too many.

    Returns:
        How many. A row that swallowed others, since a quote in it is not closed, counts as all of them.
    """
    count = len(interactions.bad) + interactions.swallowed
    if not count:
        return 0
    examples = [f"{file}, line {line}: {fault}" for file, line, fault in interactions.bad[:BAD_ROWS_SHOWN]]
    more = ["..."] if len(interactions.bad) > BAD_ROWS_SHOWN else []
    summary = f"{count:,} of {interactions.rows:,} rows cannot be used ({'; '.join(examples + more)})"
    if count > max_bad_share * interactions.rows:
        enough = math.ceil(1000 * count / interactions.rows) / 1000
        raise UserError(
            f"{summary}, more than --max-bad-share={max_bad_share:g} allows. "
            f"Repair them, or leave them out with --max-bad-share={enough:g}."
        )
    _print(f"{summary}: left out")
    return count


def prepare(name, options, unreachable=()):
    """Makes data_dir/name unless it exists; a UserError leaves nothing behind but finished downloads.

    Args:
        options: as from `parse`.
        unreachable: URL prefixes that are known not to answer, and are not tried.
    """
    folder = options.data_dir / name
    if _exists(folder, options):
        return
    options.data_dir.mkdir(parents=True, exist_ok=True)
    with lock(options.data_dir / f".{name}.lock", f"another process is preparing {folder}"):
        if _exists(folder, options):
            return
        if options.name is not None:
            path, source, titles = Path(options.file), f"file:{options.file}", None
            interactions = read_table(path, options.user_col, options.item_col, options.rating_col)
        else:
            downloads = options.data_dir / ".downloads"
            path, source, read = fetch(
                name, downloads, options.url, options.file, options.sha256, unreachable
            )
            interactions, titles = read(path)
        bad = check_bad_rows(interactions, options.max_bad_share)
        kept = "last in the file" if interactions.time is None else "latest by time"
        interactions, duplicates, filtered = filter_interactions(
            interactions, options.min_rating, options.min_user_count, options.min_item_count
        )
        manifest = {
            "dataset": name,
            "source": source,
            "source_sha256": _file_hash(path),
            **_shaping_options(options),
            "counts": {"bad_rows": bad, "duplicates_dropped": duplicates, "filtered": filtered},
        }
        with new_folder(folder) as partial:
            counts = write_dataset(partial, interactions, titles, options.seed, manifest)
    _print(
        f"{folder}: {counts['users']:,} users, {counts['items']:,} items, "
        f"{counts['interactions']:,} interactions: {counts['train']:,} train, "
        f"{counts['validation']:,} validation, {counts['test']:,} test; left out: {duplicates:,} duplicates "
        f"(of each pair the {kept} is kept), {filtered:,} by the filters, {bad:,} bad rows"
    )


def _file_hash(path):
    """The sha256 of a file, or {name: sha256} of a folder's files."""
    if path.is_dir():
        return {file.name: pooch.file_hash(file) for file in sorted(path.iterdir()) if file.is_file()}
    return pooch.file_hash(path)


def _shaping_options(options):
    """The options that shape the data set, by their keys in the manifest."""
    keys = [key for key in DEFAULTS if key not in COLUMNS or options.name is not None]
    return {key: options.seed if key == "split_seed" else getattr(options, key) for key in keys}


def _exists(folder, options):
    """Whether the folder is what these options make; UserError, with what differs, if it is not."""
    if not folder.exists():
        return False
    repair = f"Delete it, or choose another {'--data_dir' if options.name is None else '--name'}."
    if not (folder / MANIFEST).exists():
        if not all((folder / name).exists() for name in (INTERACTIONS, INDEX)):
            raise UserError(
                f"{folder} exists, but holds no data set. Move it away, or choose another --data_dir."
            )
        if options.file is not None:
            raise UserError(
                f"{folder} was not made by prep.sh, so it cannot be compared with {options.file}. {repair}"
            )
        _print(f"{folder} exists already, not made by prep.sh")
        return True
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        before = {**DEFAULTS, **manifest, "split_seed": manifest["split_seed"]}
        source, source_sha256 = manifest["source"], manifest["source_sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / MANIFEST} is damaged. Delete {folder} and run ./prep.sh again."
        ) from error
    differences = [
        f"{_option(key)} was {_or_none(before[key])}, is {_or_none(value)}"
        for key, value in _shaping_options(options).items()
        if before[key] != value
    ]
    if options.file is not None and _file_hash(Path(options.file)) != source_sha256:
        differences.append(f"{source} had another sha256 than {options.file} has")
    if differences:
        raise UserError(f"{folder} was made from something else: {'; '.join(differences)}. {repair}")
    _print(f"{folder} exists already")
    return True


def _option(key):
    """How the command line spells a key of the manifest."""
    return "--seed" if key == "split_seed" else f"--{key.replace('_', '-')}"


def _or_none(value):
    return "none" if value is None else value


def _print(line):
    """Prints a line on stderr: stdout is for the name of the data set."""
    print(line, file=sys.stderr)


def parse(arguments):
    """The options of the command line, checked; an option of several words may have - or _ between them."""
    parser = Parser(__doc__, prog="./prep.sh")

    def add(option, help, **more):
        spellings = dict.fromkeys([f"--{option}", f"--{option.replace('-', '_')}"])
        parser.add_argument(*spellings, help=help, **more)

    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"a data set that prep.sh knows, or several: the first that can be downloaded is made. "
        f"One of {', '.join(SOURCES)}; default ml-1m",
    )
    add("url", "a mirror to download from")
    add("file", "a downloaded file; or, with --name, your own table: .csv, .tsv, .inter or .parquet")
    add("name", "the name to give to your own table")
    add(
        "user-col",
        "the table's column of users: its name or, if the file has no header, its number from 0. Digits are "
        "always a number, even if a column has them as its name. Default: the usual names are tried",
    )
    add("item-col", "the column of items, likewise")
    add("rating-col", "the column of ratings, likewise; without one, every row counts")
    add("min-rating", "the lowest rating to keep; default: all are kept", type=float)
    add(
        "min-user-count",
        "the fewest interactions of a user; default %(default)s, which can be split",
        type=int,
        default=DEFAULTS["min_user_count"],
    )
    add(
        "min-item-count",
        "the fewest interactions of an item; default %(default)s",
        type=int,
        default=DEFAULTS["min_item_count"],
    )
    add(
        "max-bad-share",
        "the share of rows that may be unusable; default %(default)s",
        type=float,
        default=0.01,
    )
    add("sha256", "the checksum that --url or --file must have, if not the known one", type=str.lower)
    add("data_dir", "the folder of all data sets; default %(default)s", type=Path, default=Path("data"))
    add("seed", "the split's random seed; default %(default)s", type=int, default=DEFAULTS["split_seed"])
    options = parser.parse_args(arguments)
    _check_names(options)
    _check_values(options)
    return options


def _check_names(options):
    """Fills in the default name; UserError if the names, --name, --file and --url do not go together."""
    if options.name is not None:
        if options.names or options.file is None or options.url is not None:
            raise UserError("--name is for a table of your own. Type ./prep.sh --file=TABLE --name=NAME.")
        checked("--name", options.name, adapter("dataset"))
        if options.name in SOURCES:
            raise UserError(f"--name: {options.name} is a data set that prep.sh knows. Choose another name.")
    elif chosen := [key for key in COLUMNS if getattr(options, key) is not None]:
        raise UserError(f"{_option(chosen[0])} is for a table of your own. Add --file=TABLE --name=NAME.")
    elif options.file is not None and not options.names:
        raise UserError(
            "--file needs a name. Add --name=NAME for a table of your own, or the name of a known data set."
        )
    options.names = options.names or ["ml-1m"]
    if unknown := [name for name in options.names if name not in SOURCES]:
        raise UserError(
            f"there is no known data set '{unknown[0]}', only {', '.join(SOURCES)}. "
            f"For a table of your own type ./prep.sh --file=TABLE --name={unknown[0]}."
        )
    if len(options.names) > 1 and (options.url or options.file):
        raise UserError("--url and --file go with one data set. Name only one.")


def _check_values(options):
    if options.file is not None and (not options.file or not Path(options.file).exists()):
        raise UserError(f"--file: there is no file '{options.file}'")
    if options.file is not None and Path(options.file).is_dir() and options.names != ["netflix"]:
        raise UserError(f"--file: {options.file} is a folder. Name a file in it.")
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed must be a whole number of at least 0, not {options.seed}")
    if options.min_user_count < FEWEST_INTERACTIONS:
        raise UserError(
            f"--min-user-count must be at least {FEWEST_INTERACTIONS}, since fewer interactions cannot be "
            f"split, not {options.min_user_count}"
        )
    if options.min_item_count < 1:
        raise UserError(f"--min-item-count must be at least 1, not {options.min_item_count}")
    if not 0 <= options.max_bad_share <= 1:
        raise UserError(f"--max-bad-share must be between 0 and 1, not {options.max_bad_share}")
    if options.min_rating is not None and not math.isfinite(options.min_rating):
        raise UserError(f"--min-rating must be a number, not {options.min_rating}")


def main(arguments):
    options = parse(arguments)
    names = options.names if options.name is None else [options.name]
    for position, name in enumerate(names, 1):
        try:
            prepare(name, options, unreachable=[MOVIELENS] if position > 1 else [])
            break
        except Unreachable as error:
            if position == len(names):
                raise UserError(
                    f"{error}. Take it from elsewhere with --url=MIRROR or --file=FILE."
                ) from error
            _print(f"{error}: going on with {names[position]} instead of {name}")
    print(name)


if __name__ == "__main__":
    run_script(main, "prep.sh")
