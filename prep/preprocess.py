"""Raw interaction files → data/<name>/, in the layout that data.py reads. Called by prep.sh.

    ./prep.sh                              MovieLens-1M, from GroupLens
    ./prep.sh ml-1m ml-100k                the first of these that can be downloaded
    ./prep.sh ml-1m --url=https://mirror.example/ml-1m.zip
    ./prep.sh netflix --file=Downloads/netflix-prize
    ./prep.sh --file=ratings.csv --name=mine                    your own: nearly any table, list or matrix
    ./prep.sh --file='parts/*.parquet' --name=shop --min-count=2 --titles=products.csv

What was chosen is said in lines, with the option that decides otherwise. A data set that exists already is
left as it is. A folder appears when all of its files are written, or not at all. docs/data.md has more.
"""

import json
import math
import sys
from pathlib import Path

import pooch

from data import INDEX, INTERACTIONS, MANIFEST
from lib.errors import Parser, UserError, run_script
from lib.files import empty_folder, lock, new_folder
from lib.settings import adapter, checked
from prep import plain
from prep.columns import ROLES
from prep.download import Unreachable, check_hash, fetch
from prep.filters import FEWEST_INTERACTIONS, Filters, filter_interactions, moments
from prep.layouts import SHAPES
from prep.own_file import OPTIONS, read_own
from prep.sources import MOVIELENS, SOURCES
from prep.write import write_dataset

# The options that shape a data set, by their keys in the manifest. Older manifests lack some.
DEFAULTS = {"split_seed": 42, **Filters()._asdict(), **dict.fromkeys(OPTIONS)}
MOST_BAD = 0.5  # the share of rows that cannot be used from which on the columns must be wrong


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
        with empty_folder(options.data_dir / f".{name}.reading") as scratch:
            is_own = options.name is not None
            if is_own:
                path, source = options.file, f"file:{options.file}"
                if options.sha256 is not None:
                    check_hash(Path(path).expanduser(), options.sha256)
                reading = read_own(path, scratch, {key: getattr(options, key) for key in OPTIONS})
            else:
                downloads = options.data_dir / ".downloads"
                given = options.url, options.file, options.sha256
                path, source, read = fetch(name, downloads, *given, unreachable)
                reading = read(path, scratch)
        for note in reading.notes:
            _print(note)
        check_bad_rows(reading, options.max_bad_share, is_own)
        chosen = {key: getattr(options, key) for key in Filters._fields}
        filters = Filters(**{**chosen, **moments(options.since, options.until)})
        interactions, lost = filter_interactions(reading.interactions, filters, only_likes=is_own)
        manifest = {
            "dataset": name,
            "source": source,
            "source_sha256": _file_hash(path),
            **_shaping_options(options),
            "split": "every user validates" if is_own else "the paper's",
            "notes": reading.notes,
            "counts": {"rows": reading.rows, "bad_rows": reading.bad, **lost},
        }
        with new_folder(folder) as partial:
            counts = write_dataset(partial, interactions, reading.titles, options.seed, is_own, manifest)
    for line in _summary(folder, reading, lost, counts):
        _print(line)


def check_bad_rows(reading, max_bad_share, is_own):
    """Prints how many rows were left out, with the first of them; UserError if they are too many.

    Args:
        max_bad_share: of rows that cannot be used; in one's own data without those that only lack a user or
            an item, which many sources have.
    """
    if not reading.bad:
        return
    examples = [f"{file}, line {line}: {fault}" for file, line, fault in reading.examples]
    more = ["..."] if reading.bad > len(examples) else []
    summary = f"{reading.bad:,} of {reading.rows:,} rows cannot be used ({'; '.join(examples + more)})"
    bad = reading.bad - (reading.missing if is_own else 0)
    if reading.bad > MOST_BAD * reading.rows:
        raise UserError(f"{summary}. Look at the columns that were chosen: {'; '.join(reading.notes)}")
    if bad > max_bad_share * reading.rows:
        enough = math.ceil(1000 * bad / reading.rows) / 1000
        raise UserError(
            f"{summary}, more than --max-bad-share={max_bad_share:g} allows. "
            f"Repair them, or leave them out with --max-bad-share={enough:g}."
        )
    _print(f"{summary}: left out")


def _summary(folder, reading, lost, counts):
    """Lines that say what was kept and what was left out."""
    is_count, has_times = reading.interactions.is_count, reading.interactions.time is not None
    kept = (
        "are summed" if is_count else f"count by the {'latest by time' if has_times else 'last in the file'}"
    )
    for key, words in (
        ("duplicates", f"more rows of the same user and item: pairs {kept}"),
        ("outside_time", "rows outside of --since and --until"),
        ("too_low", f"pairs with too low a {'count' if is_count else 'rating'}"),
        ("too_few", "pairs of users or items with too few"),
    ):
        if lost[key]:
            yield f"left out: {lost[key]:,} {words}"
    yield (
        f"{folder}: {counts['users']:,} users, {counts['items']:,} items, "
        f"{counts['interactions']:,} interactions: "
        f"{counts['train']:,} train, {counts['validation']:,} validation, {counts['test']:,} test"
    )


def _file_hash(path):
    """The sha256 of a file, or {name: sha256} of the files of a folder or pattern."""
    hashes = {name: pooch.file_hash(plain.archive_of(file)) for file, name in plain.find(path)}
    return hashes if len(hashes) > 1 else next(iter(hashes.values()))


def _shaping_options(options):
    """The options that shape the data set, by their keys in the manifest."""
    keys = [key for key in DEFAULTS if key not in OPTIONS or options.name is not None]
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
    if options.file is not None and _file_hash(options.file) != source_sha256:
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
    add(
        "file",
        "a downloaded file; or, with --name, your own: a file, a folder, a pattern, a zip or a file in it",
    )
    add("name", "the name to give to your own data")
    for role in ROLES:
        what = {"title": "items' titles"}.get(role, f"{role}s")
        add(
            f"{role}-col", f"the column of {what}: its name, its number from 0, or - for none; default: found"
        )
    add("titles", "a table of items and their titles")
    add("format", f"what your file is: {', '.join(SHAPES)}; default: found", choices=SHAPES)
    add("delimiter", "what stands between the fields of a row: a character, tab or space; default: found")
    add("header", "whether the first row has the names of the columns; default: found", choices=("yes", "no"))
    add("encoding", "of the text, such as utf-8, latin-1, cp1251, gb18030; default: found")
    add(
        "min-rating",
        "the lowest rating to keep; default: all of known data sets, those above 0 of your own",
        type=float,
    )
    add("min-count", "the lowest sum of the counts, or rows, of a user and item", type=float)
    add("since", "the first day to keep, such as 2020-01-31 (UTC)")
    add("until", "the last day to keep")
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
    moments(options.since, options.until)
    return options


def _check_names(options):
    """Fills in the default name; UserError if the names, --name, --file and --url do not go together."""
    if options.name is not None:
        if options.names or options.file is None or options.url is not None:
            raise UserError("--name is for a table of your own. Type ./prep.sh --file=TABLE --name=NAME.")
        checked("--name", options.name, adapter("dataset"))
        if options.name in SOURCES:
            raise UserError(f"--name: {options.name} is a data set that prep.sh knows. Choose another name.")
    elif chosen := [key for key in OPTIONS if getattr(options, key) is not None]:
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
    for option in ("file", "titles"):
        path = getattr(options, option)
        if path is not None:
            if not path:
                raise UserError(f"--{option}: there is no file ''")
            plain.find(path)
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
    for option in ("min_rating", "min_count"):
        value = getattr(options, option)
        if value is not None and not math.isfinite(value):
            raise UserError(f"{_option(option)} must be a number, not {value}")


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
