"""From what an output was made, as far back as taskvec wrote it. Every ancestor is kept once.

The record of an output (lineage.py) has the table `inputs`: the name in the recipe -> what that source is. An input
that taskvec wrote itself says `made_from: KEY`, and the table `ancestors` says how that was made:

    "ancestors": {KEY: {"fingerprint": ..., "recipe": ..., "inputs": {...}}, ...}

The inputs of an ancestor may say `made_from` in turn, of the same table. KEY is the beginning of the BLAKE3 digest of
the entry: two files with equal tensors and other histories are two ancestors, an entry cannot be changed unnoticed, and
no entry can be its own ancestor. The table grows by one entry for each merge, not by all that its inputs hold.

Older files hold the recipe and the inputs themselves in `made_from`, nested; `flat` makes the flat table of them.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

LONGEST = 4_000_000  # bytes of JSON of all ancestors together; a header of safetensors may have 100 MB
DIGITS = 32  # of a key

Table = dict[str, dict[str, Any]]  # key -> {"fingerprint", "recipe", "inputs"}


def key_of(entry: Mapping[str, Any]) -> str:
    """The key of an ancestor: what its content alone decides."""
    from blake3 import blake3

    text = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return blake3(text.encode()).hexdigest()[:DIGITS]


def add(table: Table, record: Mapping[str, Any]) -> str:
    """Put an output and all its ancestors into a table; returns the key of the output."""
    table |= record.get("ancestors", {})
    entry = {part: record[part] for part in ("fingerprint", "recipe", "inputs")}
    key = key_of(entry)
    table[key] = entry
    return key


def nearest(inputs: Mapping[str, Any], table: Table) -> Table:
    """The ancestors of these inputs, the nearest first, as many as LONGEST bytes hold."""
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
    """The record with a flat table of ancestors, also where it holds them nested. Raises ValueError for what taskvec
    does not write. A stack instead of recursion: a chain of merges may be long."""
    given = record.get("ancestors", {})
    if not isinstance(given, dict) or type(record.get("ancestors_left_out", 0)) is not int:
        raise ValueError("its ancestors are not as taskvec writes them")
    table: Table = dict(given)
    for key, entry in table.items():
        _require_entry(entry)
        if not isinstance(entry.get("fingerprint"), str) or _nested(entry) or key != key_of(entry):
            raise ValueError(f"the ancestor {key} is not what its key says")
    done: dict[int, str] = {}  # id of an entry that was nested -> its key
    stack = [record]
    while stack:
        entry = stack[-1]
        _require_entry(entry)
        if waiting := [i for i in _nested(entry) if id(i["made_from"]) not in done]:
            for i in waiting:
                stack.append(i["made_from"])
                stack[-1]["fingerprint"] = i["fingerprint"]
            continue
        for i in _nested(entry):
            i["made_from"] = done[id(i["made_from"])]
        if stack.pop() is not record:
            done[id(entry)] = add(table, {"ancestors": {}} | entry)
    return record | ({"ancestors": table} if table else {})


def _nested(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [source for source in entry["inputs"].values() if isinstance(source.get("made_from"), dict)]


def _require_entry(entry: Any) -> None:
    """Raise ValueError if this has not what `verify` and `log` read."""
    if not has(entry, recipe=str, inputs=dict) or not all(
        has(source, mass=int, fingerprint=str) and isinstance(source.get("made_from", ""), str | dict)
        for source in entry["inputs"].values()
    ):
        raise ValueError("it is not as taskvec writes it")


def has(found: Any, **kinds: type) -> bool:
    """Whether something is a table with these keys, whose values are of these kinds."""
    return isinstance(found, dict) and all(isinstance(found.get(key), kind) for key, kind in kinds.items())


# ---- walking -------------------------------------------------------------------------------------
class Step(NamedTuple):
    """One input of an output or of an ancestor, on the way back."""

    depth: int  # 0 for the inputs of the output itself
    name: str  # in the recipe
    source: Mapping[str, Any]
    made: Mapping[str, Any] | None  # how it was made, where that is known
    again: bool  # whether `made` was told before


def walk(record: Mapping[str, Any]) -> Iterator[Step]:
    """Every input, each followed by what it was made from, the first time that it is met."""
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
