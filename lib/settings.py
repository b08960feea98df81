"""From hyper_params.py, a config file and the command line to one checked dict of settings.

The order of precedence stands at the top of hyper_params.py. Keys that are still "auto" are made concrete in runs/recipes.py, once the
data are known.
"""

import difflib
import json
import re
import sys
from functools import cache
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

import hyper_params as file
from lib.errors import UserError

BY_DEFAULT = {bool: bool, int: file.count, float: file.number, str: file.text}


class Settings(dict):
    """The settings of one run; a key that the file has lost is a UserError where it is first read."""

    def __missing__(self, key):
        raise UserError(f"hyper_params.py has lost the key {key}: put it back")


def resolve(arguments, description="", script="distill"):
    """The settings that a script is to run with; with --help, prints the description and every key, and ends the process.

    Args:
        arguments: the words after the script's name.
        script: whose settings of hyper_params.py hold.

    Returns:
        (settings, changed): all that the script takes, "auto" where a key is left to runs/recipes.py; and what of it differs from
        hyper_params.py as it stands.

    Raises:
        UserError: an unknown key, a wrong type or an impossible value, said in one line.
    """
    base = defaults(script)
    if {"-h", "--help"} & set(arguments):
        print(
            f"{description.strip()}\n\nEvery key is set with --key=value, or many with --config=FILE.json. They are, from "
            f"hyper_params.py:\n\n{_listing(Path(file.__file__).read_text(encoding='utf-8'), base, script)}"
        )
        sys.exit(0)
    config, given = {}, {}
    for key, text in split(arguments):
        if key == "config":
            config.update(_read_config(text))
        else:
            given[key] = parse(key, text)
    for source, where in ((given, ""), (config, ", which the config file has")):
        if useless := source.keys() - base.keys():
            raise UserError(f"{script}.py has no use for {min(useless)}{where}; it takes {', '.join(base)}")
    if config.get("paper") and given.get("paper") is False:
        raise UserError(
            "--paper=false does not undo the paper's choices that the config file holds: change them there"
        )
    paper = file.paper if {**base, **config, **given}.get("paper") else {}
    layers = [config, paper] if given.get("paper") else [paper, config]
    settings = Settings(
        check(
            {
                **base,
                **{key: value for layer in (*layers, given) for key, value in layer.items() if key in base},
            }
        )
    )
    return settings, {key: value for key, value in settings.items() if value != base[key]}


def defaults(script):
    """{key: value} of all that a script takes, as hyper_params.py stands; all of that file is checked."""
    own = {**file.infinite_ae, **file.stream, **file.baselines}
    for key in file.kinds:
        if key not in (own if key in file.of_scripts else file.hyper_params):
            close = difflib.get_close_matches(key, {*file.hyper_params, *own} - file.kinds.keys(), 1)
            raise UserError(
                f"hyper_params.py has lost the key {key}"
                + (f": is it '{close[0]}' there?" if close else ": put it back")
            )
    for block in (file.hyper_params, file.infinite_ae, file.stream, file.baselines, file.paper):
        check(block)
    base = (
        {**file.hyper_params, **getattr(file, script, {})} if script != "distill" else dict(file.hyper_params)
    )
    return check({key: base[key] for key in (file.takes[script] if script != "distill" else base)})


def without_effect(settings, changed):
    """A line for each changed setting that does nothing beside the others."""
    found = {}
    for key, other, value in file.no_effect:
        if key in changed and other in settings and settings[other] == value:
            found[key] = (
                f"note: {key} has no effect with {other}={json.dumps(value) if isinstance(value, bool) else value}"
            )
    return list(found.values())


@cache
def adapter(key):
    """What checks a key's value: a pydantic TypeAdapter."""
    known = {**file.baselines, **file.stream, **file.infinite_ae, **file.hyper_params}
    if key not in known:
        close = difflib.get_close_matches(key, known, 1)
        raise UserError(
            f"there is no setting '{key}'" + (f"; is it {close[0]}?" if close else "; --help lists them")
        )
    return make_adapter(file.kinds.get(key) or BY_DEFAULT[type(known[key])])


def holds_list(key):
    """Whether a setting's value may be a list."""
    return '"array"' in json.dumps(adapter(key).json_schema())


def make_adapter(kind):
    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))


def checked(name, value, kind):
    """The value, a whole number made a float where the kind, a type for pydantic or its adapter, is one; UserError if it cannot be."""
    kind = kind if isinstance(kind, TypeAdapter) else make_adapter(kind)
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        raise UserError(
            f"{name} must be {describe(kind.json_schema())}, not {json.dumps(value, default=repr)[:80]}"
        ) from error


def check(block):
    """The dict of settings with its values `checked`."""
    return {key: checked(key, value, adapter(key)) for key, value in block.items()}


def describe(schema):
    """What a JSON schema allows, in words."""
    if "description" in schema:
        return schema["description"]
    if "anyOf" in schema:
        return " or ".join(map(describe, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ("one of " if len(values) > 1 else "") + ", ".join(map(str, values))
    if schema["type"] == "array":
        return (
            "a list of "
            + ("one or more " if schema.get("minItems") else "")
            + describe(schema["items"]).replace("a number", "numbers")
        )
    ends = (
        (("minimum", "from"), ("exclusiveMinimum", "above")),
        (("maximum", "to"), ("exclusiveMaximum", "below")),
    )
    bounds = [f"{word} {schema[key]:.10g}" for end in ends for key, word in end if key in schema]
    name = {
        "boolean": "true or false",
        "integer": "a whole number",
        "number": "a number",
        "string": "text",
        "object": "objects",
    }[schema["type"]]
    return " ".join([name, *bounds])


def to_argument(key, value):
    """--key=value, as `split` and `parse` read it."""
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


def split(arguments):
    """[(key, text)] of --key=value and --key value."""
    words, pairs = list(arguments), []
    while words:
        word = words.pop(0)
        key, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            raise UserError(
                f"'{word}' is not understood: settings are given as --key=value (--help lists them)"
            )
        if not equals and (not words or words[0].startswith("--")):
            raise UserError(f"{word} needs a value: {word}=VALUE")
        pairs.append((key, text if equals else words.pop(0)))
    return pairs


def parse(key, text):
    """What a text from the command line stands for: as JSON, or as it is, whichever the key may be; else `check` will say what is wrong."""
    readings = []
    for read in (
        lambda text: json.loads(text.lower() if text.lower() in ("true", "false") else text),
        float,
        str,
    ):
        try:
            readings.append(read(text))
        except (ValueError, RecursionError):
            continue
    for value in readings:
        try:
            return adapter(key).validate_python(value)
        except ValidationError:
            continue
    return readings[0]


def _read_config(path):
    try:
        config = json.loads(
            (Path(path) / "config.json" if Path(path).is_dir() else Path(path)).read_text(encoding="utf-8")
        )
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--config={path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"--config={path} must hold a JSON object of settings")
    config = (
        config["settings"] if isinstance(config.get("settings"), dict) else config
    )  # a run's own config.json
    return check(config)


def _listing(source, base, script):
    """Every key that a script takes, with its value and its comment in hyper_params.py, whose text is the source."""
    if script == "distill":
        return source[source.index("hyper_params = {") : source.index("# What infinite_ae.py has")].strip()
    comments = {}
    for name in ("hyper_params", script):
        block = source.partition(f"\n{name} = {{\n")[2].partition("\n}")[0]
        comments |= re.findall(r'^    "(\w+)":[^#\n]*(#.*(?:\n {5,}#.*)*)', block, re.M)
    quote = lambda value: json.dumps(value) if isinstance(value, str) else repr(value)
    return "\n".join(
        f"    {f'{json.dumps(key)}: {quote(value)},':<26} {comments.get(key, '')}".rstrip()
        for key, value in base.items()
    )
