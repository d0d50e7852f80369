"""What a view changes in config.json: the number of layers, what is said of single layers, and single entries.

A table is what config.json holds. Models of several parts, such as text and vision, keep the entries of each part in a
table within it.
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
OF_TEXT = ("text_config", "language_config", "llm_config")  # names of the text model's table within config.json
# A word in the name of a stack -> the table of that part of the model.
OF_OTHERS = {"vision": "vision_config", "visual": "vision_config", "audio": "audio_config"}
PREDICTING = "num_nextn_predict_layers"  # layers behind the counted ones, which predict further tokens (DeepSeek)
Changes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """table: the content of config.json, {} if there is none. changes: the entries that views change, to be `merged`.

    problems: stack of layers -> sentences on what config.json would have to say of its layers and cannot.
    """

    table: Mapping[str, Any]
    changes: Changes = field(default_factory=dict)
    problems: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def now(self) -> dict[str, Any]:
        """The table with the changes made."""
        return merged(self.table, self.changes)

    def changed(self, changes: Changes) -> "Settings":
        """These settings with further changes."""
        return Settings(self.table, merged(self.changes, changes), self.problems)


def settings_of(weights: Weights) -> Settings:
    """The config.json of an expression's first model, with what the views in the expression change in it."""
    donor = weights.donor
    folder = folder_of(donor)
    table = read_table(folder / "config.json") if folder else {}
    return Settings(table, *donor.settled()) if isinstance(donor, Derived) else Settings(table)


def read_table(path: Path) -> dict[str, Any]:
    """The table that a JSON file holds, {} if it holds none or cannot be read. Such a file is copied as it is."""
    try:
        table = read_json(path)
    except TaskvecError:
        return {}
    return table if isinstance(table, dict) else {}


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The table with the changes made. Tables within it are merged in the same way, unless the change is a Whole."""
    result = dict(table)
    for key, value in changes.items():
        inner = result.get(key)
        part = isinstance(value, dict) and not isinstance(value, Whole)
        result[key] = merged(inner if isinstance(inner, dict) else {}, value) if part else value
    return result


def with_entry(settings: Settings, key: str, value: Any) -> Settings:
    """The settings with an entry set in every table that has it, or in config.json itself if none has it."""
    now = settings.now
    within = [inner for inner in OF_TEXT if isinstance(now.get(inner), dict) and key in now[inner]]
    changes: Changes = {inner: {key: value} for inner in within}
    return settings.changed(changes | ({key: value} if key in now or not within else {}))


def with_layers(settings: Settings, stack: str, origins: Sequence[Origin]) -> Settings:
    """The settings with the number of layers of a stack, and with all that is said of its single layers.

    origins: one for each layer of the result, each with a whole config.json. An origin counts the layers that its model
    has by the names of its tensors, which may be more than its table counts.
    """
    now = settings.now
    changes: Changes = {}
    problems: list[str] = []
    places = _tables(now, stack)
    for inner in places:
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
    if not changes and places[0]:
        problems.append(f"{places[0]} does not say how many layers there are: write the number into config.json")
    elif not changes:
        changes = {LAYERS[0]: len(origins)}
    changed = settings.changed(changes)
    return Settings(changed.table, changed.changes, {**settings.problems, stack: tuple(dict.fromkeys(problems))})


def _tables(now: Mapping[str, Any], stack: str) -> list[str | None]:
    """The names of the tables within config.json that may describe a stack; None for config.json itself."""
    of_others = (table for word, table in OF_OTHERS.items() if word in stack and isinstance(now.get(table), dict))
    other = next(of_others, None)
    return [other] if other else [None, *OF_TEXT]


def _within(table: Mapping[str, Any], inner: str | None) -> Mapping[str, Any]:
    """A table within config.json. If it names no architecture, it is of the architecture of the whole."""
    part = table.get(inner) if inner else table
    kind = {"model_type": table["model_type"]} if "model_type" in table else {}
    return {**kind, **part} if isinstance(part, dict) else {}


def _count(table: Any, stack: str) -> str | None:
    """The key of a table that counts the layers of a stack, None if there is none."""
    sides = [side for side in ("encoder", "decoder") if side in stack]
    keys = [*(f"{side}_layers" for side in sides), *(f"num_{side}_layers" for side in sides), *LAYERS, "depth"]
    return next((key for key in keys if key in table), None) if isinstance(table, dict) else None


def _counted(origin: Origin, stack: str) -> Origin:
    """The origin with the count of its table, if the layers behind the counted ones only predict further tokens."""
    key = _count(origin.table, stack)
    count, behind = origin.table.get(key or ""), origin.table.get(PREDICTING)
    if type(count) is int and type(behind) is int and 0 < count < origin.count <= count + behind:
        return Origin(origin.table, count, origin.layer)
    return origin
