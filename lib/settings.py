"""One checked dict of settings from hyper_params.py, a config file and the command line.

hyper_params.py says which of them wins. A key that is still "auto" gets its value in runs/recipes.py, once
the data are known.
"""

import difflib
import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

import hyper_params
from lib.checks import checked, make_adapter, read_json
from lib.errors import UserError

OF_ANOTHER_VERSION = Annotated[
    hyper_params.line | bool | int | float | list | dict | None,
    Field(description="one line of text, or another value of JSON"),
]
KIND_OF_TYPE = {bool: bool, int: hyper_params.count, float: hyper_params.positive, str: hyper_params.text}


class Settings(dict):
    """The settings of one run. Reading a key that hyper_params.py lacks is a UserError."""

    def __missing__(self, key):
        raise UserError(f"hyper_params.py has lost the key {key}: put it back")


def resolve(arguments, description="", script="distill"):
    """The settings that a script runs with. With --help, prints all keys and ends the process.

    Args:
        arguments: the words after the script's name.
        description: the text above the keys in --help.
        script: a key of hyper_params.takes.

    Returns:
        (Settings with all keys that the script takes, "auto" where runs/recipes.py decides;
        {key: value} of those that differ from hyper_params.py).

    Raises:
        UserError: an unknown key, a wrong type or an impossible value.
    """
    base = defaults(script)
    if {"-h", "--help"} & set(arguments):
        print(_help(description, base, script))
        sys.exit(0)
    config, given = {}, {}
    for key, text in split(arguments):
        if key == "config":
            config.update(_read_config(text))
        else:
            given[key] = parse(key, text)
    if unused := given.keys() - base.keys():
        key = min(unused)
        takers = [f"{name}.py" for name, keys in hyper_params.takes.items() if key in keys]
        raise UserError(
            f"{script}.py has no use for {key}, a setting of {' and '.join(takers)}; "
            f"`python {script}.py --help` lists its own"
        )
    if unused := config.keys() - base.keys():
        note = f"note: {script}.py ignores these keys of the config file: {', '.join(sorted(unused))}"
        print(note, file=sys.stderr)
    config = {key: value for key, value in config.items() if key in base}
    if config.get("paper") and given.get("paper") is False:
        raise UserError(
            "--paper=false does not undo the paper's choices in the config file; change them in that file"
        )
    paper = hyper_params.paper if {**base, **config, **given}.get("paper") else {}
    paper = {key: value for key, value in paper.items() if key in base}
    layers = [config, paper, given] if given.get("paper") else [paper, config, given]
    settings = Settings(check(base | layers[0] | layers[1] | layers[2]))
    return settings, {key: value for key, value in settings.items() if value != base[key]}


def defaults(script):
    """{key: value} of all that a script takes, from hyper_params.py, once the whole file is checked."""
    shared = hyper_params.hyper_params
    own = {**hyper_params.infinite_ae, **hyper_params.stream, **hyper_params.baselines}
    for key in hyper_params.kinds:
        if key not in (own if key in hyper_params.of_one_script else shared):
            misspelt = {*shared, *own} - hyper_params.kinds.keys()
            close = difflib.get_close_matches(key, misspelt, 1)
            repair = f"rename '{close[0]}' to it" if close else "put it back"
            raise UserError(f"hyper_params.py has lost the key {key}: {repair}")
    for name in ("hyper_params", "infinite_ae", "stream", "baselines", "paper"):
        check(getattr(hyper_params, name))
    if script == "distill":
        return check(shared)
    base = {**shared, **getattr(hyper_params, script, {})}
    return check({key: base[key] for key in hyper_params.takes[script]})


def without_effect(settings, changed):
    """[a line for each key of `changed` that another setting makes useless]."""
    notes = {}
    for key, other, value in hyper_params.no_effect:
        if key in changed and other in settings and settings[other] == value:
            shown = json.dumps(value) if isinstance(value, bool) else value
            notes[key] = f"note: {key} has no effect with {other}={shown}"
    return list(notes.values())


def _known():
    """{key: its value in hyper_params.py} of all settings of all scripts."""
    blocks = hyper_params.baselines, hyper_params.stream, hyper_params.infinite_ae, hyper_params.hyper_params
    return {key: value for block in blocks for key, value in block.items()}


@cache
def adapter(key):
    """The pydantic TypeAdapter that checks a key's value."""
    known = _known()
    if key not in known:
        close = difflib.get_close_matches(key, known, 1)
        hint = f"is it {close[0]}?" if close else "--help lists them"
        raise UserError(f"there is no setting '{key}'; {hint}")
    return make_adapter(hyper_params.kinds.get(key) or KIND_OF_TYPE[type(known[key])])


@cache
def _kind_names(key, word):
    """Whether what a key's value may be has the word, as JSON Schema says it."""
    return json.dumps(word) in json.dumps(adapter(key).json_schema())


def holds_list(key):
    """Whether a key's value may be a list."""
    return _kind_names(key, "array")


def is_open(key, value):
    """Whether a value is the "auto" of a key that has one, and no name of a folder, say."""
    return value == "auto" and (key not in _known() or _kind_names(key, "auto"))


def check(block):
    """A dict of settings with every value `checked`."""
    return {key: checked(key, value, adapter(key)) for key, value in block.items()}


def check_kept(block):
    """The settings of a run, as its files keep them; those that only another version has may be anything.

    Raises:
        UserError: a value that the command line refuses; or "auto", in whose place a run keeps a value.
    """
    known = _known()
    for key, value in block.items():
        checked("the name of a setting", key, hyper_params.text)
        checked(key, value, adapter(key) if key in known else OF_ANOTHER_VERSION)
        if is_open(key, value):
            raise UserError(f"{key} is auto, and no value")
    return block


def to_argument(key, value):
    """--key=value, as `split` and `parse` read it."""
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


def to_arguments(settings):
    """The words of a command line that give these settings, a dict."""
    return [to_argument(key, value) for key, value in settings.items()]


def split(arguments):
    """[(key, text)] of words such as --key=value and --key value."""
    words, pairs = list(arguments), []
    while words:
        word = words.pop(0)
        key, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            raise UserError(f"'{word}' is not understood: write a setting as --key=value; --help lists them")
        if not equals and (not words or words[0].startswith("--")):
            raise UserError(f"{word} needs a value: {word}=VALUE")
        pairs.append((key, text if equals else words.pop(0)))
    return pairs


def parse(key, text):
    """The value of a text from the command line: the first reading of it that the key may have.

    The readings are JSON, a float, and the text itself. If the key may have none of them, the first is
    returned, and `check` refuses it.
    """
    literal = text.lower() if text.lower() in ("true", "false") else text
    readings = []
    for read, source in ((json.loads, literal), (float, text), (str, text)):
        try:
            readings.append(read(source))
        except (ValueError, RecursionError):
            continue
    for value in readings:
        try:
            return adapter(key).validate_python(value)
        except ValidationError:
            continue
    return readings[0]


def _read_config(path):
    """The checked settings in a JSON file, or in the config.json of a run's folder."""
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    config = read_json(file, dict, f"--config={path} must be a JSON object of settings")
    if isinstance(config.get("settings"), dict):  # a run's own config.json
        config = config["settings"]
    try:
        return check(config)
    except UserError as error:
        raise UserError(f"--config={path}: {error}") from error


def _help(description, base, script):
    """The text of --help: every key with its value and its comment in hyper_params.py."""
    source = Path(hyper_params.__file__).read_text(encoding="utf-8")
    block = lambda name: re.search(rf"^{name} = {{\n.*?^}}", source, re.M | re.S)[0]
    if script == "distill":
        listing = f"{block('hyper_params')}\n\n{block('paper')}"
    else:
        comments = {}
        for name in ("hyper_params", script):
            text = block(name) if hasattr(hyper_params, name) else ""
            comments |= re.findall(r'^    "(\w+)":[^#\n]*(#.*(?:\n {5,}#.*)*)', text, re.M)
        pairs = ((key, json.dumps(value) if isinstance(value, str) else value) for key, value in base.items())
        lines = (f"""    {f'"{key}": {value},':<26} {comments.get(key, "")}""" for key, value in pairs)
        listing = "\n".join(line.rstrip() for line in lines)
    return (
        f"{description.strip()}\n\nSet a key with --key=value, or many with --config=FILE.json. "
        f"The keys and their values in hyper_params.py:\n\n{listing}"
    )
