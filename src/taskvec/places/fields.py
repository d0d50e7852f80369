"""Checks the keys of a table that a person wrote in a file against the fields of the dataclass that they describe.

Every problem becomes one sentence in a list that the caller keeps, so that a file with several mistakes is told about
all of them at once. An unknown key names the nearest key that there is.
"""

import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, get_args, get_origin, get_type_hints

from taskvec.errors import did_you_mean

NAMES = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


def keys_of(kind: type) -> dict[str, Any]:
    """The keys that describe a dataclass, with the types of their values."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def required_keys(kind: type) -> list[str]:
    """The keys without which there is no such thing."""
    return [f.name for f in fields(kind) if f.init and f.default is MISSING and f.default_factory is MISSING]


def problems_of(table: Mapping[Any, Any], kind: type, where: str) -> list[str]:
    """What is wrong with a table that is to describe a `kind`: unknown keys, missing ones, values of another type."""
    known = keys_of(kind)
    problems = [unknown(key, known, where) for key in table if key not in known]
    problems += [f"{where}: {key} is missing" for key in required_keys(kind) if key not in table]
    problems += [
        f"{where}: {key} is {wanted(known[key])}, not {reprlib.repr(value)}"
        for key, value in table.items()
        if key in known and not fits_throughout(value, known[key])
    ]
    return problems


def unknown(key: Any, known: Iterable[str], where: str) -> str:
    """The sentence for a key that there is not."""
    return f"{where}: no key {key}" + (did_you_mean(key, known) or f"; there is {', '.join(sorted(known))}")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of the file is of a field's type. Whole numbers are numbers; true, .nan and .inf are not."""
    if kind in (str, bool):
        return isinstance(value, kind)
    if kind in (int, float, int | None, float | None):
        whole = kind in (int, int | None)
        missing = value is None and kind in (int | None, float | None)
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        return missing or (number and abs(value) < math.inf)
    if kind is Any:
        return True
    return isinstance(value, list if get_origin(kind) is Sequence else dict)


def fits_throughout(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type, and also the elements of a list and the values of a table."""
    if not fits(value, kind) or get_origin(kind) not in (Sequence, Mapping):
        return fits(value, kind)
    elements = value if isinstance(value, list) else value.values()
    return all(fits_throughout(element, get_args(kind)[-1]) for element in elements)


def wanted(kind: Any) -> str:
    """A field's type in words: a text, a number, a list of texts, a table of lists of numbers."""
    if kind in NAMES or (inner := get_args(kind)) == ():
        return NAMES.get(kind, "anything")
    if type(None) in inner:
        return wanted(inner[0])
    plural = wanted(inner[-1]).removeprefix("a ").replace("list", "lists").replace("table", "tables")
    plural = plural if " of " in plural or plural.startswith("true") else f"{plural}s"
    what = "a list" if get_origin(kind) is Sequence else "a table"
    return what if inner[-1] is Any else f"{what} of {plural}"
