"""The command line of prep.sh: its options, and whether they go together."""

import math
from pathlib import Path

from lib.checks import checked
from lib.errors import Parser, UserError
from lib.settings import adapter
from prep import plain
from prep.columns import ROLES
from prep.filters import FEWEST_INTERACTIONS, Filters, moments
from prep.layouts import SHAPES
from prep.own_file import OPTIONS
from prep.sources import SOURCES
from prep.splits import FILES, LAST, PARTS, RANDOM, TIME, USERS

# The options that shape a data set, by their keys in the manifest. Older manifests lack some.
DEFAULTS = {"split_seed": 42, **Filters()._asdict(), **dict.fromkeys(OPTIONS), "split": RANDOM}
SPLITS = (RANDOM, USERS, TIME, LAST)


def parse(arguments, description):
    """The options of the command line, checked; an option of several words may have - or _ between them."""
    parser = Parser(description, prog="./prep.sh")

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
        f"the fewest interactions of a user; default {DEFAULTS['min_user_count']}, which can be split",
        type=int,
    )
    add(
        "min-item-count",
        f"the fewest interactions of an item; default {DEFAULTS['min_item_count']}",
        type=int,
    )
    add(
        "max-bad-share",
        "the share of rows that may be unusable; default %(default)s",
        type=float,
        default=0.01,
    )
    add("sha256", "the checksum that --url or --file must have, if not the known one", type=str.lower)
    add("data-dir", "the folder of all data sets; default %(default)s", type=Path, default=Path("data"))
    add(
        "split",
        "random, each user's interactions at random; users, no model is trained on those who validate or are "
        "tested; time, train before a point in time, validation after it "
        "and test after another; last, each user's last interaction is the test; or your own three files, "
        "TRAIN,VALIDATION,TEST; default %(default)s",
        default=DEFAULTS["split"],
    )
    add("seed", "the split's random seed; default %(default)s", type=int, default=DEFAULTS["split_seed"])
    options = parser.parse_args(arguments)
    _check_split(options)
    _check_names(options)
    _check_values(options)
    moments(options.since, options.until)
    return options


def _check_split(options):
    """Fills in the fewest interactions, and as `parts` {part: path} of three files, or None; UserError."""
    options.parts = None
    if "," in options.split:
        paths = options.split.split(",")
        if len(paths) != len(PARTS) or "" in paths:
            raise UserError(f"--split: three files are TRAIN,VALIDATION,TEST, not {options.split}")
        if options.name is None:
            raise UserError("--split with files of your own needs a name for them. Add --name=NAME.")
        for key in ("file", "url", "sha256"):
            if getattr(options, key) is not None:
                raise UserError(f"--split names the three files itself. Leave out {option_of(key)}.")
        for key in Filters._fields:
            if getattr(options, key) is not None:
                raise UserError(f"{option_of(key)} would change the split of your own files. Leave it out.")
        options.file, options.parts, options.split = options.split, dict(zip(PARTS, paths)), FILES
        options.min_user_count = 1
    elif options.split not in SPLITS:
        raise UserError(
            f"--split must be one of {', '.join(SPLITS)}, or three files TRAIN,VALIDATION,TEST, "
            f"not '{options.split}'"
        )
    for key in ("min_user_count", "min_item_count"):
        if getattr(options, key) is None:
            setattr(options, key, DEFAULTS[key])


def _check_names(options):
    """Fills in the default name; UserError if the names, --name, --file and --url do not go together."""
    if options.name is not None:
        if options.names or options.file is None or options.url is not None:
            raise UserError("--name is for a table of your own. Type ./prep.sh --file=TABLE --name=NAME.")
        checked("--name", options.name, adapter("dataset"))
        if options.name in {folder_name(name, split) for name in SOURCES for split in SPLITS}:
            raise UserError(f"--name: {options.name} is a data set that prep.sh knows. Choose another name.")
    elif chosen := [key for key in OPTIONS if getattr(options, key) is not None]:
        raise UserError(f"{option_of(chosen[0])} is for a table of your own. Add --file=TABLE --name=NAME.")
    elif options.file is not None and not options.names:
        raise UserError(
            "--file needs a name. Add --name=NAME for a table of your own, or the name of a known data set."
        )
    options.names = options.names or ["ml-1m"]
    splits = {folder_name(name, split): (name, split) for name in SOURCES for split in SPLITS[1:]}
    if made := [name for name in options.names if name in splits]:
        name, split = splits[made[0]]
        raise UserError(f"{made[0]} is a split of {name}. Type ./prep.sh {name} --split={split}.")
    if unknown := [name for name in options.names if name not in SOURCES]:
        raise UserError(
            f"there is no known data set '{unknown[0]}', only {', '.join(SOURCES)}. "
            f"For a table of your own type ./prep.sh --file=TABLE --name={unknown[0]}."
        )
    if len(options.names) > 1 and (options.url or options.file):
        raise UserError("--url and --file go with one data set. Name only one.")


def _check_values(options):
    given = {"file": options.file} if options.parts is None else options.parts
    for option, path in {**given, "titles": options.titles}.items():
        if path is not None:
            if not path:
                raise UserError(f"--{option}: there is no file ''")
            plain.find(path)
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed must be a whole number of at least 0, not {options.seed}")
    if options.min_user_count < FEWEST_INTERACTIONS and options.split != FILES:
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
            raise UserError(f"{option_of(option)} must be a number, not {value}")


def folder_name(name, split):
    """The folder of a known data set: splits of the same data stand side by side."""
    return name if split == RANDOM else f"{name}-{split}"


def option_of(key):
    """How the command line spells a key of the manifest."""
    return "--seed" if key == "split_seed" else f"--{key.replace('_', '-')}"
