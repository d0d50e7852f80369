"""What config.json says of single layers, rewritten after layers were taken, repeated or put in another order.

A config.json can say something of single layers in six ways, and each way is rewritten differently:

1. A list with one value for each layer (`layer_types`): the values move along with their layers.
2. A list of the numbers of layers (`mlp_only_layers`): it gets the numbers of the layers' new places.
3. A number of layers at the beginning (`first_k_dense_replace`): they are counted again.
4. A period (`sliding_window_pattern: 6`), or nothing at all if the architecture has a period of its own (Gemma 2): it
   is written out as a list (1), if loaders know one.
5. A number that depends on the whole depth (`scale_depth`, which is divided by the root of the depth): it is scaled.
6. Anything else that depends on where a layer stands: it stays if the layers stand where it makes no difference.

What cannot be said in any of these ways is a problem, since a loader would compute another model. architectures.py
lists the keys, and what an architecture means if config.json says nothing.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from taskvec.sources.text import fits_any
from taskvec.views.architectures import (
    BOUND,
    BY_NUMBER,
    DENSE,
    ENDING_FULL,
    FIRST_OF_PERIOD,
    FROM_THE_START,
    FULL,
    LEADING,
    LETTERS,
    NOT_BY_LAYER,
    NUMBERS,
    OF_LAYERS,
    OF_PERIODS,
    OWN,
    PERIODS,
    SAID_BY,
    SLIDING,
    STEP,
    UNSAID,
    WITHOUT_ROPE,
)

Table = Mapping[str, Any]


class Whole(dict[str, Any]):
    """A table that replaces another one and is not merged with it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a layer of the output comes from: the config.json of a model with `count` layers, and its number there."""

    table: Table
    count: int
    layer: int


def moved(origins: Sequence[Origin], present: Table) -> tuple[dict[str, Any], list[str]]:
    """The entries that say of every layer what its origin's table says of it, and the problems: what cannot be said.

    origins: one for each layer of the output, in the order of the layers. present: the table into which the entries
    will be merged. It may have been rewritten before; its lists, too, get the new number of layers.
    """
    origins = _with_shared_tables([Origin({**_unsaid(o.table), **o.table}, o.count, o.layer) for o in origins])
    tables = list({id(o.table): o for o in origins}.values())
    first = all(o.layer == k and o.table is origins[0].table for k, o in enumerate(origins))  # first layers of a model
    entries, problems = _lists(origins, tables, present if first else None)
    problems += [*_leading(origins, entries), *_depth(origins, entries)]
    if not first:
        problems += _periods(origins, entries)
    if not first or len(origins) != origins[0].count:
        problems += _bound(tables, entries, FROM_THE_START if first else ())
    return entries, problems


def _unsaid(table: Table) -> Table:
    """The keys that a table lacks and its architecture needs, with the values that it means."""
    given = {*table} | ({"block_types"} if "_block_types" in table else set())
    return {k: v for k, v in UNSAID.get(str(table.get("model_type", "")), {}).items() if k not in given}


def _with_shared_tables(origins: Sequence[Origin]) -> list[Origin]:
    """The origins, those with equal tables with one table object, so that tables can be told apart by `id`."""
    known: list[Origin] = []
    shared = []
    for o in origins:
        same = next((k for k in known if k.count == o.count and (k.table is o.table or k.table == o.table)), None)
        known += [] if same else [o]
        shared.append(Origin(same.table, o.count, o.layer) if same else o)
    return shared


def _apart(key: str) -> str:
    return f"{key} names single layers in one of the configurations, and does not or in another way in another one"


# ---- lists ---------------------------------------------------------------------------------------------------------
def _lists(
    origins: Sequence[Origin], tables: Sequence[Origin], present: Table | None
) -> tuple[dict[str, Any], list[str]]:
    """The entries with one value for each layer, and the problems. With `present`: only the keys that are written there
    or in a table."""
    written = {id(o.table): {**o.table, **explicit(o.table, o.count)} for o in tables}
    keys = dict.fromkeys(
        k
        for o in tables
        for k in written[id(o.table)]
        if present is None or k in o.table or k in present or o.table.get("model_type") in ENDING_FULL
    )
    entries: dict[str, Any] = {}
    problems: list[str] = []
    for key in keys:
        values = {id(o.table): written[id(o.table)].get(key) for o in tables}
        kinds = {_kind(key, values[id(o.table)], o.count) for o in tables}
        if len(kinds) > 1:
            values = {id(o.table): _by_default(key, values[id(o.table)], o) for o in tables}
            kinds = {_kind(key, values[id(o.table)], o.count) for o in tables}
        if len(kinds) > 1:
            problems.append(_apart(key))
        elif kind := kinds.pop():
            entries[key] = KINDS[kind]([(values[id(o.table)], o.layer) for o in origins])
            ends = {o.table.get("model_type") for o in tables} & {*ENDING_FULL}
            if key == "layer_types" and ends and entries[key][-1] != FULL:
                problems.append(
                    f"the last layer of a {ends.pop()} must be one of {FULL}, and here it is {entries[key][-1]}"
                )
    if any(written[id(o.table)].get(STEP) != o.table.get(STEP) for o in tables) and "mlp_only_layers" in entries:
        entries[STEP] = 1
    return entries, problems


def _kind(key: str, value: Any, count: int) -> str | None:
    """How a value names layers: "list", "text" (a letter for each layer), "numbers", "table" (number -> settings) or
    "nested" (GPT-Neo's `attention_types`). None if it names no layers."""
    if fits_any(key, NOT_BY_LAYER):
        return None
    if fits_any(key, NUMBERS) and isinstance(value, list):
        return "numbers" if all(type(v) is int for v in value) else None
    if key == "attention_types" and isinstance(value, list):
        return "nested"
    if isinstance(value, dict) and "layer" in key and value and all(str(k).isdecimal() for k in value):
        return "table"
    if isinstance(value, list) and len(value) == count:
        return "list"
    return "text" if isinstance(value, str) and "pattern" in key and len(value) == count else None


def _by_default(key: str, value: Any, origin: Origin) -> Any:
    """What a table without a list means by that, if another table has the list: no layers, or full attention in all."""
    if value is None and fits_any(key, NUMBERS):
        return []
    windows = origin.table.get("sliding_window") and origin.table.get("use_sliding_window") is not False
    return [FULL] * origin.count if value is None and key == "layer_types" and origin.table and not windows else value


Picks = Sequence[tuple[Any, int]]  # for each layer of the output: its origin's value, and its number there


def _list(picks: Picks) -> list[Any]:
    return [value[layer] for value, layer in picks]


def _text(picks: Picks) -> str:
    return "".join(value[layer] for value, layer in picks)


def _numbers(picks: Picks) -> list[int]:
    return [k for k, (value, layer) in enumerate(picks) if layer in value]


def _table(picks: Picks) -> dict[str, Any]:
    named = [{int(k): settings for k, settings in value.items()} for value, _ in picks]
    return Whole({str(k): named[k][layer] for k, (_, layer) in enumerate(picks) if layer in named[k]})


def _nested(picks: Picks) -> list[Any]:
    """GPT-Neo's [[[kind, kind], times], ...]: here the kinds of all layers are one period, which occurs once."""
    return [[[[kind for kinds, times in v for _ in range(times) for kind in kinds][layer] for v, layer in picks], 1]]


KINDS: Mapping[str, Callable[[Picks], Any]] = MappingProxyType(
    {"list": _list, "text": _text, "numbers": _numbers, "table": _table, "nested": _nested}
)


# ---- counts and the depth ------------------------------------------------------------------------------------------
def _leading(origins: Sequence[Origin], entries: dict[str, Any]) -> Iterator[str]:
    """Puts the counts of the first layers into `entries`, and yields the problem if such layers stand behind others."""
    for key in LEADING:
        if not all(type(o.table.get(key)) is int for o in origins):
            continue
        if key == "max_window_layers" and _without_max_window(origins):
            continue
        flags = [o.layer < o.table[key] for o in origins]
        count = sum(flags)
        if flags != [True] * count + [False] * (len(flags) - count):
            if not (entries.get("mlp_layer_types") or key == "max_window_layers"):
                after = next(k for k in range(1, len(flags)) if flags[k] and not flags[k - 1])
                yield f"{key} counts the first layers, and layer {after} of the output is one of these behind others"
            continue
        most = max(o.table[key] for o in origins)
        entries[key] = count if count < len(flags) else max(count, most)


def _without_max_window(origins: Sequence[Origin]) -> bool:
    """Whether `max_window_layers` has no effect: sliding windows are off, or `layer_types` says where they are."""
    return any(o.table.get("layer_types") or not o.table.get("use_sliding_window") for o in origins)


def _depth(origins: Sequence[Origin], entries: dict[str, Any]) -> Iterator[str]:
    """MiniCPM divides `scale_depth` by the root of the depth. It is scaled, so that each layer computes what it did."""
    key = "scale_depth"
    scales = {o.table.get(key) for o in origins}
    if not scales - {None} or all(o.count == len(origins) for o in origins):
        return
    if len({(o.table.get(key), o.count) for o in origins}) > 1:
        yield f"{key}, divided by the root of the depth, is not the same in all the models"
    else:
        entries[key] = origins[0].table[key] * math.sqrt(len(origins) / origins[0].count)


# ---- periods -------------------------------------------------------------------------------------------------------
def explicit(table: Table, count: int) -> dict[str, Any]:
    """The lists with one value for each layer that a loader derives from a table of `count` layers without them."""
    lists: dict[str, Any] = {}
    model_type = str(table.get("model_type", ""))
    if not table.get("layer_types") and (period := _period(table, model_type)):
        lists["layer_types"] = [period[k % len(period)] for k in range(count)]
        if model_type in ENDING_FULL:
            lists["layer_types"][-1] = FULL
    elif not table.get("layer_types") and table.get("use_sliding_window") and table.get("sliding_window"):
        first = table.get("max_window_layers")
        if type(first) is int:
            lists["layer_types"] = [FULL if k < first else SLIDING for k in range(count)]
    step = table.get("no_rope_layer_interval", WITHOUT_ROPE.get(model_type))
    if not table.get("no_rope_layers") and type(step) is int and step > 0:
        lists["no_rope_layers"] = [int((k + 1) % step != 0) for k in range(count)]
    if model_type == "llama4_text" and table.get("moe_layers") is None:
        every = table.get("interleave_moe_layer_step") or 1
        lists["moe_layers"] = [*range(every - 1, count, every)]
    if model_type in DENSE and not table.get("mlp_layer_types"):
        first = table.get("first_k_dense_replace", DENSE[model_type])
        lists["mlp_layer_types"] = ["dense" if k < (first or 0) else "sparse" for k in range(count)]
    return lists | _repeated(table, count) | _sparse(table, count)


def _period(table: Table, model_type: str) -> Sequence[str]:
    """The kinds of layers of one period, () if the table names none and its architecture has none."""
    if model_type in BY_NUMBER and BY_NUMBER[model_type] == "layer_types":
        return ()
    for key, (last, others) in PERIODS.items():
        value = table.get(key)
        if type(value) is int and value > 0:
            kinds = [others] * (value - 1)
            return [last, *kinds] if model_type in FIRST_OF_PERIOD else [*kinds, last]
        if isinstance(value, str) and value and {*value} <= LETTERS.keys():
            return [LETTERS[letter] for letter in value]
    return OWN.get(model_type, ())


def _repeated(table: Table, count: int) -> dict[str, Any]:
    """RecurrentGemma's `block_types` are the kinds of the first layers, which the other layers repeat."""
    blocks = table.get("block_types") or table.get("_block_types")
    if not (isinstance(blocks, list) and blocks and all(isinstance(b, str) for b in blocks)):
        return {}
    return {"block_types": [blocks[k % len(blocks)] for k in range(count)]}


def _sparse(table: Table, count: int) -> dict[str, Any]:
    """Qwen's mixtures of experts: `decoder_sparse_step` becomes 1, and `mlp_only_layers` names every dense layer."""
    step, dense = table.get(STEP), table.get("mlp_only_layers")
    if type(step) is not int or step < 2 or not isinstance(dense, list):
        return {}
    return {"mlp_only_layers": [k for k in range(count) if k in dense or (k + 1) % step], STEP: 1}


def _periods(origins: Sequence[Origin], entries: Table) -> Iterator[str]:
    """The problems with periods for which there is no list: every layer must stand at its old place in the period."""
    out_of_use = {key for key, says in SAID_BY.items() if says in entries}
    for key in dict.fromkeys(k for o in origins for k in o.table if k not in out_of_use | entries.keys()):
        if not (fits_any(key, OF_PERIODS) and fits_any(key, OF_LAYERS)):
            continue
        lengths = {_length(o.table.get(key)) for o in origins}
        if lengths == {1}:
            continue
        if len(lengths) > 1:
            yield _apart(key)
            continue
        (length,) = lengths
        if wrong := [k for k, o in enumerate(origins) if (k - o.layer) % length]:
            yield (
                f"{key} is a period of {length}, and layer {wrong[0]} of the output stood elsewhere in it, as layer "
                f"{origins[wrong[0]].layer}: move layers by multiples of {length}"
            )


def _length(value: Any) -> int:
    """The length of a period; 1 for a value that is no period."""
    if type(value) is int:
        return max(value, 1)
    return max(len(value), 1) if isinstance(value, str | list) else 1


def _bound(tables: Sequence[Origin], entries: Table, allowed: Sequence[str]) -> Iterator[str]:
    """The problems with keys and architectures by which a layer depends on its number, except for those `allowed`."""
    for key in BOUND:
        if key not in allowed and any(o.table.get(key) for o in tables):
            yield f"{key} binds each layer to its number or to the depth"
    for model_type in dict.fromkeys(str(o.table.get("model_type", "")) for o in tables):
        if model_type in BY_NUMBER and model_type not in allowed:
            says = BY_NUMBER[model_type]
            if says is None:
                yield f"in {model_type} what a layer computes depends on its number"
            elif says not in entries:
                yield f"{model_type} has kinds of layers by their numbers: write {says}, one a layer, into config.json"
