"""The ancestors of an output: from what its inputs were made, as far back as taskvec made them.

The record of an output (lineage.py) has a table `inputs`, which says for each name in the recipe what that source is.
An input that taskvec wrote itself has an entry `made_from: KEY`. The table `ancestors` says how it was made:

    "ancestors": {KEY: {"fingerprint": ..., "recipe": ..., "inputs": {...}}, ...}

The inputs of an ancestor may have `made_from` in turn, with keys of the same table. KEY is the beginning of the BLAKE3
digest of the entry. So two files with equal tensors and different histories are two ancestors, a changed entry is
noticed, and no entry can be its own ancestor. Each ancestor is in the table once: a merge adds one entry for each of
its inputs, however many ancestors these share.

In older files `made_from` holds the recipe and the inputs themselves, nested. `flat` turns them into this table.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

LONGEST = 4_000_000  # bytes of JSON for all ancestors together; a header of safetensors may have 100 MB
DIGITS = 32  # hexadecimal digits of a key

Table = dict[str, dict[str, Any]]  # key -> {"fingerprint", "recipe", "inputs"}


def key_of(entry: Mapping[str, Any]) -> str:
    """The key of an ancestor, which depends on the content of its entry alone."""
    from blake3 import blake3

    text = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return blake3(text.encode()).hexdigest()[:DIGITS]


def add(table: Table, record: Mapping[str, Any]) -> str:
    """Put the output that has this record, and all its ancestors, into the table. Returns the key of the output."""
    table |= record.get("ancestors", {})
    entry = {part: record[part] for part in ("fingerprint", "recipe", "inputs")}
    key = key_of(entry)
    table[key] = entry
    return key


def nearest(inputs: Mapping[str, Any], table: Table) -> Table:
    """The ancestors of these inputs that are in the table, the nearest first, as many as fit into LONGEST bytes."""
    kept: Table = {}
    size, waiting = 0, deque(_parents(inputs))
    while waiting:
        key = waiting.popleft()
        if key in kept or key not in table:
            continue
        size += len(key) + len(json.dumps(table[key], separators=(",", ":"))) + 4
        if size > LONGEST:
            break
        kept[key] = table[key]
        waiting += _parents(table[key]["inputs"])
    return kept


def _parents(inputs: Mapping[str, Any]) -> list[str]:
    return [source["made_from"] for source in inputs.values() if "made_from" in source]


# ---- reading -------------------------------------------------------------------------------------
def flat(record: dict[str, Any]) -> dict[str, Any]:
    """The record with a flat table of ancestors, also if the file holds them nested.

    Nested ancestors are taken from the innermost to the outermost, since the key of an entry depends on the keys in it.
    A stack takes the place of recursion, because a chain of merges may be long. Raises ValueError for what taskvec does
    not write.
    """
    given = record.get("ancestors", {})
    if not isinstance(given, dict) or type(record.get("ancestors_left_out", 0)) is not int:
        raise ValueError("its ancestors are not as taskvec writes them")
    table: Table = dict(given)
    for key, entry in table.items():
        _require_entry(entry)
        if not isinstance(entry.get("fingerprint"), str) or _nested(entry) or key != key_of(entry):
            raise ValueError(f"the ancestor {key} is not what its key says")
    done: dict[int, str] = {}  # id() of an entry that was nested -> its key
    stack = [record]
    while stack:
        entry = stack[-1]
        _require_entry(entry)
        if waiting := [source for source in _nested(entry) if id(source["made_from"]) not in done]:
            for source in waiting:
                stack.append(source["made_from"])
                stack[-1]["fingerprint"] = source["fingerprint"]
            continue
        for source in _nested(entry):
            source["made_from"] = done[id(source["made_from"])]
        if stack.pop() is not record:
            done[id(entry)] = add(table, {"ancestors": {}} | entry)
    return record | ({"ancestors": table} if table else {})


def _nested(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The inputs of an entry that hold their ancestors themselves, as older files do."""
    return [source for source in entry["inputs"].values() if isinstance(source.get("made_from"), dict)]


def _require_entry(entry: Any) -> None:
    """Raise ValueError if an entry lacks something that `verify` or `log` reads."""
    if not has(entry, recipe=str, inputs=dict) or not all(
        has(source, mass=int, fingerprint=str) and isinstance(source.get("made_from", ""), str | dict)
        for source in entry["inputs"].values()
    ):
        raise ValueError("it is not as taskvec writes it")


def has(value: Any, **kinds: type) -> bool:
    """Whether a value that was read from JSON is a table that has all these keys, with values of these types."""
    return isinstance(value, dict) and all(isinstance(value.get(key), kind) for key, kind in kinds.items())


# ---- walking -------------------------------------------------------------------------------------
class Step(NamedTuple):
    """One input of an output or of one of its ancestors, as `walk` meets it."""

    depth: int  # 0 for the inputs of the output itself
    name: str  # in the recipe
    source: Mapping[str, Any]  # what the record says of this input
    made: Mapping[str, Any] | None  # the ancestor that says how it was made, if that is known
    again: bool  # whether `made` has been met before


def walk(record: Mapping[str, Any]) -> Iterator[Step]:
    """Every input, depth first: after each one come the inputs that it was made from, unless they came before."""
    table, told = record.get("ancestors", {}), set[str]()
    stack = [(0, name, source) for name, source in reversed(record["inputs"].items())]
    while stack:
        depth, name, source = stack.pop()
        key = source.get("made_from")
        made, again = table.get(key), key in told
        yield Step(depth, name, source, made, again)
        if made and not again:
            told.add(key)
            stack += [(depth + 1, *item) for item in reversed(made["inputs"].items())]
