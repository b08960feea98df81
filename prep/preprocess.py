"""Raw interaction files → data/<name>/, in the layout that data.py reads. Called by prep.sh.

    ./prep.sh                              MovieLens-1M, from GroupLens
    ./prep.sh ml-1m ml-100k                the first of these that can be downloaded
    ./prep.sh ml-1m --url=https://mirror.example/ml-1m.zip
    ./prep.sh netflix --file=Downloads/netflix-prize
    ./prep.sh --file=ratings.csv --name=mine                    your own: nearly any table, list or matrix
    ./prep.sh --file='parts/*.parquet' --name=shop --min-count=2 --titles=products.csv
    ./prep.sh ml-1m --split=time                                or users, or last: makes data/ml-1m-time/
    ./prep.sh --file=data/ml-1m --name=ml-1m-new --split=users  a prepared data set, split anew
    ./prep.sh --split=train.csv,validation.csv,test.csv --name=ours             a split of your own

What was chosen is said in lines, with the option that decides otherwise. A data set that exists already is
left as it is. A folder appears when all of its files are written, or not at all. docs/data.md has more.
"""

if __name__ == "__main__":
    import lib.start  # noqa: F401

import math
import sys
from pathlib import Path

import numpy as np
import pooch
from typing_extensions import TypedDict

from data import INDEX, INTERACTIONS, MANIFEST
from lib.checks import read_json
from lib.errors import UserError, printable, run_script
from lib.files import empty_folder, lock, new_folder
from prep import plain
from prep.download import Unreachable, check_hash, fetch
from prep.filters import Filters, filter_interactions, moments
from prep.options import DEFAULTS, folder_name, option_of, parse
from prep.own_file import OPTIONS, read_own
from prep.sources import MOVIELENS
from prep.splits import ASKED, EVERY_USER, FILES, PAPERS, RANDOM, TIMED, divide, split_as_given
from prep.write import write_dataset


class Made(TypedDict):
    """What a manifest says of how a data set was made, beside the options."""

    split_seed: int
    source: str
    source_sha256: str | dict[str, str] | None


MOST_BAD = 0.5  # the share of rows that cannot be used from which on the columns must be wrong


def prepare(name, options, unreachable=()):
    """Makes the folder of a data set unless it exists; its name in data_dir.

    A UserError leaves nothing behind but finished downloads.

    Args:
        name: a key of SOURCES, or that of one's own data.
        options: as from `parse`.
        unreachable: URL prefixes that are known not to answer, and are not tried.
    """
    folder = options.data_dir / (name if options.name is not None else folder_name(name, options.split))
    if _exists(folder, options):
        return folder.name
    options.data_dir.mkdir(parents=True, exist_ok=True)
    with lock(folder.with_name(f".{folder.name}.lock"), f"another process is preparing {folder}"):
        if _exists(folder, options):
            return folder.name
        is_own = options.name is not None
        with empty_folder(folder.with_name(f".{folder.name}.reading")) as scratch:
            readings, path, source = _read(name, options, scratch, unreachable)
        for reading in readings:
            for note in reading.notes:
                _print(note)
            check_bad_rows(reading, options.max_bad_share, is_own)
        described = {}
        if options.split == FILES:
            reading, interactions, part, lost = split_as_given(readings)
        else:
            [reading] = readings
            chosen = {key: getattr(options, key) for key in Filters._fields}
            filters = Filters(**{**chosen, **moments(options.since, options.until)})
            interactions, lost = filter_interactions(
                reading.interactions, filters, only_likes=is_own, keep_times=options.split in TIMED
            )
            part, unknown, described = divide(interactions, options.split, options.seed, every_user=is_own)
            lost |= unknown
        manifest = {
            "dataset": folder.name,
            "source": source,
            "source_sha256": _file_hash(path),
            **_shaping_options(options),
            **described,
            "notes": reading.notes,
            "counts": {"rows": reading.rows, "bad_rows": reading.bad, **lost},
        }
        with new_folder(folder) as partial:
            counts = write_dataset(partial, interactions, reading.titles, part, manifest)
    for line in _summary(folder, reading, lost, counts, described):
        _print(line)
    return folder.name


def _read(name, options, scratch, unreachable):
    """([Reading], path, where it is from); of three files three Readings, and {part: path}."""
    if options.name is None:
        given = options.url, options.file, options.sha256
        path, source, read = fetch(name, options.data_dir / ".downloads", *given, unreachable)
        return [read(path, scratch)], path, source
    if options.split == FILES:
        return _read_files(options, scratch), options.parts, f"file:{options.file}"
    if options.sha256 is not None:
        check_hash(Path(options.file).expanduser(), options.sha256)
    reading = read_own(options.file, scratch, {key: getattr(options, key) for key in OPTIONS})
    return [reading], options.file, f"file:{options.file}"


def _read_files(options, scratch):
    """[Reading] of the user's own train, validation and test file."""
    readings, chosen = [], {key: getattr(options, key) for key in OPTIONS}
    for name, path in options.parts.items():
        with empty_folder(scratch / name) as folder:
            reading = read_own(path, folder, chosen)
        readings.append(reading._replace(notes=[f"{name}: {note}" for note in reading.notes]))
        chosen["titles"] = None  # items that train does not have are left out
    return readings


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


def _summary(folder, reading, lost, counts, described):
    """Lines that say what was kept and what was left out; `described` is what `divide` says of the split."""
    is_count, has_times = reading.interactions.is_count, reading.interactions.time is not None
    kept = (
        "are summed" if is_count else f"count by the {'latest by time' if has_times else 'last in the file'}"
    )
    for key, words in (
        ("duplicates", f"more rows of the same user and item: pairs {kept}"),
        ("outside_time", "rows outside of --since and --until"),
        ("too_low", f"pairs with too low a {'count' if is_count else 'rating'}"),
        ("too_few", "pairs of users or items with too few"),
        ("in_two_files", "pairs of validation or test that an earlier file has"),
        ("too_short", "interactions of new users who have but one with a known item"),
    ):
        if lost.get(key):
            yield f"left out: {lost[key]:,} {words}"
    if lost.get("unknown"):
        of_users = f"{lost['unknown_users']:,} of their users and " if lost["unknown_users"] else ""
        yield (
            f"left out: {lost['unknown']:,} interactions of validation or test, since train does not have "
            f"{of_users}{lost['unknown_items']:,} of their items"
        )
    if "new_users" in described:
        asked, sizes = 100 // ASKED, described["new_users"]
        yield (
            f"of the users, {sizes['validation']:,} validate and {sizes['test']:,} are tested: no model is "
            f"trained on them; {100 - asked} % of their interactions are fed, {asked} % are asked for"
        )
    if "split_times" in described:
        first, second = (np.datetime64(math.floor(point), "s") for point in described["split_times"])
        yield f"train is before {first}, validation before {second}, test from then on (UTC)"
    yield (
        f"{folder}: {counts['users']:,} users, {counts['items']:,} items, "
        f"{counts['interactions']:,} interactions: "
        f"{counts['train']:,} train, {counts['validation']:,} validation, {counts['test']:,} test"
        + (f", {counts['context']:,} context of new users" if counts["context"] else "")
        + (f", {counts['dropped']:,} left out" if counts["dropped"] else "")
    )


def _file_hash(path):
    """The sha256 of a file, or {name: sha256} of the files of a folder or pattern, or of {part: path}."""
    if isinstance(path, dict):
        return {part: _file_hash(one) for part, one in path.items()}
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
    manifest = read_json(folder / MANIFEST, Made, f"delete {folder} and run ./prep.sh again")
    before = {**DEFAULTS, **manifest}
    before["split"] = RANDOM if before["split"] in (PAPERS, EVERY_USER) else before["split"]
    source, source_sha256 = manifest["source"], manifest["source_sha256"]
    differences = [
        f"{option_of(key)} was {_or_none(before[key])}, is {_or_none(value)}"
        for key, value in _shaping_options(options).items()
        if before[key] != value
    ]
    if options.file is not None and _file_hash(options.parts or options.file) != source_sha256:
        differences.append(f"{source} had another sha256 than {options.file} has")
    if differences:
        raise UserError(f"{folder} was made from something else: {'; '.join(differences)}. {repair}")
    _print(f"{folder} exists already")
    return True


def _or_none(value):
    return "none" if value is None else value


def _print(line):
    """Prints a line on stderr: stdout is for the name of the data set."""
    print(printable(line), file=sys.stderr)


def main(arguments):
    options = parse(arguments, __doc__)
    names = options.names if options.name is None else [options.name]
    for position, name in enumerate(names, 1):
        try:
            print(prepare(name, options, unreachable=[MOVIELENS] if position > 1 else []))
            return
        except Unreachable as error:
            if position == len(names):
                raise UserError(
                    f"{error}. Take it from elsewhere with --url=MIRROR or --file=FILE."
                ) from error
            _print(f"{error}: going on with {names[position]} instead of {name}")


if __name__ == "__main__":
    run_script(main, "prep.sh", "Leave columns or rows out of the file.")
