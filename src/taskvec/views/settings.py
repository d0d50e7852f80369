"""config.json as a view leaves it: which entry counts the layers, which lists have one value a layer.

A table is what config.json holds; models of several parts keep the text model's entries in a table within it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from taskvec.algebra.derived import Derived
from taskvec.algebra.weights import Weights
from taskvec.errors import TaskvecError
from taskvec.places.json_files import read_json
from taskvec.sources.abilities import folder_of
from taskvec.views.bylayer import Origin, Whole, moved

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")  # keys that count layers, in the order of search
OF_TEXT = ("text_config", "language_config", "llm_config")  # tables within config.json
OF_OTHERS = {"vision": "vision_config", "visual": "vision_config", "audio": "audio_config"}  # what a stack's name says
PREDICTING = "num_nextn_predict_layers"  # layers behind the counted ones, which predict further tokens (DeepSeek)
Changes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """table: the config.json that there is, {} where there is none. changes: what becomes of it, to be `merged`.

    problems: stack of layers -> what the result cannot say of its layers.
    """

    table: Mapping[str, Any]
    changes: Changes = field(default_factory=dict)
    problems: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def now(self) -> dict[str, Any]:
        """The table with the changes made."""
        return merged(self.table, self.changes)

    def changed(self, changes: Changes) -> "Settings":
        """With further changes."""
        return Settings(self.table, merged(self.changes, changes), self.problems)


def settings_of(weights: Weights) -> Settings:
    """The config.json that goes with an expression: its first model's, with what views change in it."""
    donor = weights.donor
    folder = folder_of(donor)
    table = read_table(folder / "config.json") if folder else {}
    return Settings(table, *donor.settled()) if isinstance(donor, Derived) else Settings(table)


def read_table(path: Path) -> dict[str, Any]:
    """What a JSON file holds, {} if it holds no table or cannot be read: then it is copied as it is."""
    try:
        found = read_json(path)
    except TaskvecError:
        return {}
    return found if isinstance(found, dict) else {}


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The table with the changes made, tables within it merged likewise, except for a Whole one."""
    found = dict(table)
    for key, value in changes.items():
        inner = found.get(key)
        part = isinstance(value, dict) and not isinstance(value, Whole)
        found[key] = merged(inner if isinstance(inner, dict) else {}, value) if part else value
    return found


def with_entry(settings: Settings, key: str, value: Any) -> Settings:
    """An entry set wherever it stands, in config.json itself where it stands nowhere."""
    now = settings.now
    within = [inner for inner in OF_TEXT if isinstance(now.get(inner), dict) and key in now[inner]]
    changes: Changes = {inner: {key: value} for inner in within}
    return settings.changed(changes | ({key: value} if key in now or not within else {}))


def with_layers(settings: Settings, stack: str, origins: Sequence[Origin]) -> Settings:
    """The count of the layers, and all that is said of single ones. `origins`: those of the result, with whole tables.

    An origin counts the layers that its model has by their names, which may be more than its table counts.
    """
    now = settings.now
    changes: Changes = {}
    problems: list[str] = []
    for inner in _tables(now, stack):
        table = now.get(inner) if inner else now
        key = _count(table, stack)
        if not key or not isinstance(table, dict):
            continue
        within = [_counted(Origin(_within(o.table, inner), o.count, o.layer), stack) for o in origins]
        behind = [o.layer >= o.count for o in within]
        layers = [o for o in within if o.layer < o.count]
        if any(a and not b for a, b in pairwise(behind)):
            problems.append(f"a layer of {PREDICTING} stands before others: take the layers before it")
        entries, wrong = moved(layers, table) if layers else ({}, [])
        entries |= {key: len(layers)} | ({PREDICTING: sum(behind)} if PREDICTING in table else {})
        changes = merged(changes, {inner: entries} if inner else entries)
        problems += wrong
    found = settings.changed(changes or {LAYERS[0]: len(origins)})
    return Settings(found.table, found.changes, {**settings.problems, stack: tuple(dict.fromkeys(problems))})


def _tables(now: Mapping[str, Any], stack: str) -> list[str | None]:
    """The tables within config.json that may speak of a stack; None for config.json itself."""
    of_others = (table for word, table in OF_OTHERS.items() if word in stack and isinstance(now.get(table), dict))
    other = next(of_others, None)
    return [other] if other else [None, *OF_TEXT]


def _within(table: Mapping[str, Any], inner: str | None) -> Mapping[str, Any]:
    """A table within config.json, of the architecture of the whole if it names none."""
    found = table.get(inner) if inner else table
    kind = {"model_type": table["model_type"]} if "model_type" in table else {}
    return {**kind, **found} if isinstance(found, dict) else {}


def _count(table: Any, stack: str) -> str | None:
    """The key that counts the layers of a stack."""
    sides = [side for side in ("encoder", "decoder") if side in stack]
    keys = [*(f"{side}_layers" for side in sides), *(f"num_{side}_layers" for side in sides), *LAYERS, "depth"]
    return next((key for key in keys if key in table), None) if isinstance(table, dict) else None


def _counted(origin: Origin, stack: str) -> Origin:
    """With the count of the table where the layers behind it only predict further tokens."""
    key = _count(origin.table, stack)
    count, behind = origin.table.get(key or ""), origin.table.get(PREDICTING)
    if type(count) is int and type(behind) is int and 0 < count < origin.count <= count + behind:
        return Origin(origin.table, count, origin.layer)
    return origin
