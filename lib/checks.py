"""Values that come from outside, checked by kinds of pydantic: none is turned into another type.

JSON from a file passes here, too, so that whoever reads it meets only what a script writes, or a UserError.
"""

import json
from contextlib import suppress
from functools import cache

from pydantic import ConfigDict, TypeAdapter, ValidationError

from lib.errors import UserError
from lib.files import read_text

MOST_SHOWN = 80  # characters of a wrong value


def make_adapter(kind):
    """A TypeAdapter for a type that refuses NaN, infinity, and text in the place of a number."""
    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))


def shown(value):
    """The start of a value as JSON."""
    try:
        return json.dumps(value, default=repr)[:MOST_SHOWN]
    except (RecursionError, ValueError):  # nested too deeply, or in itself
        return "nested too deeply"


def checked(name, value, kind):
    """The value; as a float if the kind is float and the value a whole number.

    Args:
        name: what the message calls it.
        kind: a type for pydantic, or its TypeAdapter.

    Raises:
        UserError: the kind does not allow the value.
    """
    kind = kind if isinstance(kind, TypeAdapter) else make_adapter(kind)
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        raise UserError(f"{name} must be {describe(kind.json_schema())}, not {shown(value)}") from error


def describe(schema):
    """The values that a JSON schema allows, in words."""
    if "description" in schema:
        return schema["description"]
    if "anyOf" in schema:
        return " or ".join(map(describe, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ("one of " if len(values) > 1 else "") + ", ".join(map(str, values))
    if schema["type"] == "array":
        count = "one or more " if schema.get("minItems") else ""
        return f"a list of {count}{describe(schema['items']).replace('a number', 'numbers')}"
    name = {
        "boolean": "true or false",
        "integer": "a whole number",
        "number": "a number",
        "string": "text",
        "object": "objects",
    }[schema["type"]]
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return " ".join([name, *(f"{word} {schema[key]:.10g}" for key, word in bounds.items() if key in schema)])


# ---- JSON ----------------------------------------------------------------------------------------------

# In a list, the parts of a TypedDict follow the adapter's configuration.
_adapter_of = cache(lambda kind: make_adapter(list[kind]))


def parse_json(text, kind):
    """The value of JSON text, str or bytes.

    Raises:
        ValueError: it is no JSON, or not of the kind, a type for pydantic.
        UserError: from a validator of the kind.
    """
    try:
        value = json.loads(text)
        check_kind(value, kind)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def check_kind(value, kind):
    """Raises ValueError unless a value of JSON is of the kind; as `parse_json`."""
    try:
        _adapter_of(kind).validate_python([value])
    except ValidationError as error:
        raise ValueError(_fault(error.errors(include_url=False)[0], [value])) from None


def _fault(error, value):
    """What is wrong with a value, by one of pydantic's errors."""
    if error["type"] == "missing":
        return f"it has no {error['loc'][-1]}"
    name = "it"
    for step in error["loc"]:
        with suppress(LookupError, TypeError):  # the name of a union's type
            value, name = value[step], f"its {step}" if isinstance(step, str) else name
    reason = f": {error['msg'].removeprefix('Value error, ')}" if error["type"] == "value_error" else ""
    return f"{name} is {shown(value)}{reason}"


def read_json(path, kind, remedy, lines=False):
    """The value in a JSON file.

    Args:
        kind: a type for pydantic.
        remedy: what the user can do about a damaged file, the end of the message.
        lines: whether every line is a value of the kind; a list of them is returned.

    Raises:
        UserError: the file cannot be read, or is damaged: no JSON, or not of the kind.
    """
    text = read_text(path, remedy)
    try:
        if not lines:
            return parse_json(text, kind)
        if not text:
            raise ValueError("it is empty")
        return [parse_json(part, kind) for part in text.splitlines()]
    except (ValueError, UserError) as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from error
