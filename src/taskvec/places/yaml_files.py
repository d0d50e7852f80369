"""Reads YAML files as tables, lists and plain values, and refuses doubled keys and endless aliases.

In YAML a later key silently replaces an equal one, and an alias stands for a part of any size, so that ten lines can
mean a thousand million values. Both are recognised from the parsed text, before any value is made of it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taskvec.errors import FormatError
from taskvec.places.json_files import read_text

LARGEST = 4 << 20  # bytes of a file, which is more than a person writes
MOST = 100_000  # values of a document; what an alias repeats is counted each time


def documents(path: Path) -> list[Any]:
    """The documents of a file. Raises FormatError, which lists every doubled key, or names the line that is no YAML."""
    import yaml

    text = read_text(path, LARGEST)
    try:
        loader = yaml.SafeLoader(text)
        try:
            return list(_documents(path, loader))
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise FormatError(f"{path} is no YAML{where}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise FormatError(f"{path} is no YAML: it is nested too deeply") from None


def document(path: Path) -> Any:
    """The one document of a file; None for an empty one. Raises FormatError as `documents`, and for a second one."""
    filled = [value for value in documents(path) if value is not None]
    if len(filled) > 1:
        raise FormatError(f"{path} has {len(filled)} documents, each begun by a line ---, and one is read: join them")
    return filled[0] if filled else None


def _documents(path: Path, loader: Any) -> Iterator[Any]:
    while loader.check_node():
        node = loader.get_node()
        if _size(node, {}) > MOST:
            raise FormatError(f"{path} means more than {MOST:,} values, since its aliases repeat one another")
        if doubled := list(_doubled(node, set())):
            raise FormatError(f"{path} says the same key twice, and the first one would be lost:", doubled)
        yield loader.construct_document(node)


def _parts(node: Any) -> list[Any]:
    if isinstance(node.value, str):
        return []
    return [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]


def _size(node: Any, known: dict[int, int]) -> int:
    """How many values a node stands for; more than MOST if it holds itself."""
    if id(node) not in known:
        known[id(node)] = MOST + 1  # until it is known: of a node within itself
        known[id(node)] = min(1 + sum(_size(part, known) for part in _parts(node)), MOST + 1)
    return known[id(node)]


def _doubled(node: Any, seen: set[int]) -> Iterator[str]:
    """The keys that a table has twice, each with both its lines."""
    if id(node) in seen:
        return
    seen.add(id(node))
    lines: dict[Any, int] = {}
    for entry in node.value if not isinstance(node.value, str) else ():
        if isinstance(entry, tuple) and isinstance(entry[0].value, str):
            key, line = (entry[0].tag, entry[0].value), entry[0].start_mark.line + 1
            if key in lines:
                yield f"{entry[0].value} in line {lines[key]} and in line {line}"
            lines.setdefault(key, line)
    for part in _parts(node):
        yield from _doubled(part, seen)
