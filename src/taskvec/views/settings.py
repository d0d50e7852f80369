"""config.json as a view leaves it: which entry counts the layers, which lists have one value a layer.

A table is what config.json holds; models of several parts keep the text model's entries in a table within it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from taskvec.derived import Derived
from taskvec.weights import Weights

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")  # keys that count layers, in the order of search
OF_TEXT = ("text_config", "language_config", "llm_config")  # tables within config.json
OF_OTHERS = {"vision": "vision_config", "visual": "vision_config", "audio": "audio_config"}  # what a stack's name says
NOT_BY_LAYER = ("architectures", "*_token_id", "*_token_ids", "*_token_index", "*_words_ids", "auto_map")
Changes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """table: the config.json that there is, {} where there is none. changes: what becomes of it, to be `merged`."""

    table: Mapping[str, Any]
    changes: Changes = field(default_factory=dict)

    @property
    def now(self) -> dict[str, Any]:
        """The table with the changes made."""
        return merged(self.table, self.changes)

    def changed(self, changes: Changes) -> "Settings":
        """With further changes."""
        return Settings(self.table, merged(self.changes, changes))


def settings_of(weights: Weights) -> Settings:
    """The config.json that goes with an expression: its first model's, with what views change in it."""
    donor = weights.donor
    folder = getattr(donor, "folder", None)
    return Settings(
        read_table(folder / "config.json") if folder else {}, donor.config if isinstance(donor, Derived) else {}
    )


def read_table(path: Path) -> dict[str, Any]:
    """What a JSON file holds, {} if it holds no table or cannot be read: then it is copied as it is."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The table with the changes made, tables within it merged likewise."""
    found = dict(table)
    for key, value in changes.items():
        inner = found.get(key)
        found[key] = merged(inner if isinstance(inner, dict) else {}, value) if isinstance(value, dict) else value
    return found


def with_entry(settings: Settings, key: str, value: Any) -> Settings:
    """An entry set wherever it stands, in config.json itself where it stands nowhere."""
    now = settings.now
    within = [inner for inner in OF_TEXT if isinstance(now.get(inner), dict) and key in now[inner]]
    changes: Changes = {inner: {key: value} for inner in within}
    return settings.changed(changes | ({key: value} if key in now or not within else {}))


def with_layers(
    settings: Settings, stack: str, joined: Callable[[str | None, str], Sequence[Any] | None], total: int
) -> Settings:
    """The count of the layers, and the lists with one value a layer.

    `joined(inner, key)`: the new list for a key of the table `inner` within config.json (None: of config.json itself),
    or None if it is no list by layer.
    """
    now = settings.now
    sides = [side for side in ("encoder", "decoder") if side in stack]
    other = next(
        (table for word, table in OF_OTHERS.items() if word in stack and isinstance(now.get(table), dict)), None
    )
    keys = [*(f"{side}_layers" for side in sides), *(f"num_{side}_layers" for side in sides), *LAYERS]
    changes: Changes = {}
    for inner in [other] if other else [None, *OF_TEXT]:
        table = now.get(inner) if inner else now
        count = next((key for key in [*keys, "depth"] if key in table), None) if isinstance(table, dict) else None
        if count:
            assert isinstance(table, dict)
            lists = {key: new for key in table if (new := joined(inner, key)) is not None}
            changes = merged(changes, {inner: {count: total, **lists}} if inner else {count: total, **lists})
    return settings.changed(changes or {LAYERS[0]: total})


def by_layer(settings: Settings, inner: str | None, key: str, layers: int) -> list[Any] | None:
    """The list of one value a layer that an entry is, if it is one."""
    table = settings.now
    found = (table.get(inner) or {}).get(key) if inner else table.get(key)
    if any(fnmatchcase(key, pattern) for pattern in NOT_BY_LAYER):
        return None
    return found if isinstance(found, list) and len(found) == layers else None
