"""Objections to adding a LoRA to a model, and remarks on the sum. There are five reasons for them.

1. An adapter for a model whose layers are repeated (`layer_replication`) counts the layers of that model.
2. An adapter of torch.nn.MultiheadAttention has other names than the model.
3. PEFT puts a copy of the base's embedding beside the factors of an embedding. It shows whether the model is that base.
4. A tied model has one tensor for its embedding and its head, and an adapter of one of them changes both.
5. For a square weight it may be unknown which way round it is stored (orientation.py).
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from taskvec.errors import FormatError
from taskvec.formats.adapter_config import ATTENTION, LONGEST, MERGE, listed
from taskvec.formats.factors import CONFIG
from taskvec.formats.header import Header
from taskvec.numbers import floats as floats_numpy
from taskvec.numbers.dtypes import BITS
from taskvec.places.json_files import read_json
from taskvec.places.place import Readable
from taskvec.sources.abilities import Composite, LooksThrough, folder_of, metadata_of
from taskvec.sources.positions import TIED, layer_of
from taskvec.sources.source import Source, Spec, samples


@dataclass(frozen=True, slots=True)
class Adapter:
    """What the questions below need of a LoRA. undecided: tensors of which it is not known which way round they are
    stored. copies: tensor of the base -> the name of its copy in the file."""

    text: str
    config: Mapping[str, Any]
    specs: Mapping[str, Spec]
    undecided: tuple[str, ...]
    copies: Mapping[str, str]
    header: Header
    file: Readable


def problems_of(adapter: Adapter, model: Source | None, as_term: bool) -> list[str]:
    """Objections to the sum with `model`; None means that the expression has no model. See `Lora.objections`."""
    problems = [*_undecided(adapter), *_replicated(adapter, model)]
    if model is not None:
        problems += [*_attention(adapter, model, as_term), *_copied(adapter, model), *_unused_head(adapter, model)]
    return problems


def remarks_on(adapter: Adapter, model: Source | None) -> list[str]:
    """What a user should know about the sum with `model`, though it can be made."""
    remarks = [*_replicated_alone(adapter, model), *_attention_once(adapter)]
    return [*remarks, *_from_another_base(adapter, model), *_tied(adapter, model)] if model is not None else remarks


def _undecided(adapter: Adapter) -> Iterator[str]:
    if adapter.undecided:
        square = all(len({*adapter.specs[name].shape}) == 1 for name in adapter.undecided)
        why = "they are square" if square else "there is no model beside it whose shapes show that"
        yield (
            f"{adapter.text}: whether {listed(adapter.undecided)} must be transposed cannot be told: {why}, "
            f"and the one fan_in_fan_out in {CONFIG} is that of the last module only. Add the adapter to its base "
            f"itself (base + lora, and of that what you like), or {MERGE}, with PEFT"
        )


# ---- repeated layers -----------------------------------------------------------------------------
def _replicated(adapter: Adapter, model: Source | None) -> Iterator[str]:
    layers = _layers(adapter)
    if model is not None and layers and not _is_stacked(adapter, model, layers):
        what, way = _repeated(adapter)
        yield f"{what}: write {way}; if the model has these layers already, take layer_replication out of {CONFIG}"


def _replicated_alone(adapter: Adapter, model: Source | None) -> Iterator[str]:
    if model is None and _layers(adapter):
        what, way = _repeated(adapter)
        yield f"{what}, and its layers are those of that model: {way}"


def _layers(adapter: Adapter) -> list[int]:
    """The layer of the base for each layer that the adapter counts; [] if they are the same."""
    ranges = adapter.config.get("layer_replication") or []
    layers = [layer for start, stop in ranges for layer in range(start, stop)]
    return layers if layers != list(range(len(layers))) else []


def _repeated(adapter: Adapter) -> tuple[str, str]:
    ranges = adapter.config["layer_replication"]
    parts = ", ".join(f"take_layers(base, {start}, {stop})" for start, stop in ranges)
    what = f"{adapter.text} was trained on a model whose layers are repeated (layer_replication={ranges})"
    return what, f"stack({parts}) + {adapter.text}"


def _is_stacked(adapter: Adapter, model: Source, layers: list[int]) -> bool:
    """Whether layer k of the model is layer layers[k] of another one, as far as can be told."""
    if not isinstance(model, LooksThrough):
        return isinstance(model, Composite) or "stack(" in metadata_of(model).get("taskvec.recipe", "")
    for name in adapter.specs:
        at = layer_of(name)
        if at and at[1] < len(layers) and name in model.specs:
            inner = [layer_of(key[1]) for key in model.origin(name)]
            if any(place and place[1] != layers[at[1]] for place in inner):
                return False
    return True


# ---- torch.nn.MultiheadAttention -----------------------------------------------------------------
def _attention(adapter: Adapter, model: Source, as_term: bool) -> Iterator[str]:
    table: dict[str, str] = {}
    for name in adapter.specs if as_term else ():
        owner = name.removesuffix(".weight")
        if name not in model.specs and f"{owner}.in_proj_weight" in model.specs:
            end = owner.rpartition(".")[2]
            table[f"*{end}.weight"] = f"*{end}.in_proj_weight"
            if f"{owner}{ATTENTION}.weight" in adapter.specs:
                table[f"*{end}{ATTENTION}.weight"] = f"*{end}.out_proj.weight"
    if table:
        pairs = ", ".join(f'"{old}": "{new}"' for old, new in table.items())
        yield (
            f"torch.nn.MultiheadAttention has other names in {adapter.text} than in the model: "
            f"rename(lora, {{{pairs}}}) mends that"
        )


def _attention_once(adapter: Adapter) -> Iterator[str]:
    if any(name.removesuffix(".weight").endswith(ATTENTION) for name in adapter.specs):
        yield (
            f"{adapter.text} changes the out_proj of torch.nn.MultiheadAttention: PEFT (0.21 and before) adds that "
            "change twice when it runs and merges, here it is added once"
        )


# ---- copies of the base --------------------------------------------------------------------------
def _copied(adapter: Adapter, model: Source) -> Iterator[str]:
    for name, key in adapter.copies.items():
        there, here = model.specs.get(name), adapter.header.specs[key]
        if there is not None and there.shape != here.shape:
            yield (
                f"{name} is {list(there.shape)} in {model.text}, and the base that {adapter.text} was trained on had "
                f"{list(here.shape)} ({key}): give it that base, or {MERGE}"
            )


def _from_another_base(adapter: Adapter, model: Source) -> Iterator[str]:
    for name, key in adapter.copies.items() if _can_be_read(model) else ():
        there, here = model.specs.get(name), adapter.header.specs[key]
        known = there is not None and there.shape == here.shape and there.arithmetic and here.arithmetic
        if known and not _same(adapter, key, model, name):
            yield (
                f"{adapter.text} was made from another base than {model.text}: {name} is not what PEFT stored beside "
                f"the factors ({key})"
            )


def _can_be_read(model: Source) -> bool:
    """Whether a model is a file, or a view of one: what a method computes may have to be measured first."""
    return not isinstance(model, Composite) or model.verbatim


def _same(adapter: Adapter, key: str, model: Source, name: str) -> bool:
    """Whether samples of the copy are those of the model, up to one rounding to the narrower of their dtypes."""
    import numpy as np

    here, there = adapter.header.specs[key], model.specs[name]
    narrower = min((here.dtype, there.dtype), key=lambda dtype: BITS[dtype])
    for start, count in samples(here):
        offset = adapter.header.offsets[key] + start * BITS[here.dtype] // 8
        copied = floats_numpy.decode(adapter.file.read(offset, count * BITS[here.dtype] // 8), here.dtype, count)
        raw = bytearray(count * BITS[there.dtype] // 8)
        model.readinto(name, start, memoryview(raw))
        current = floats_numpy.decode(raw, there.dtype, count)
        a, b = (floats_numpy.decode(floats_numpy.encode(x, narrower), narrower, count) for x in (copied, current))
        if not np.array_equal(a, b, equal_nan=True):
            return False
    return True


# ---- tied models ---------------------------------------------------------------------------------
def _pairs(adapter: Adapter, model: Source) -> Iterator[tuple[str, str]]:
    """(head, embedding) of a model, one of which the adapter changes."""
    for head, embeddings in TIED.items():
        for embedding in embeddings:
            if embedding in model.specs and adapter.specs.keys() & {head, embedding}:
                yield head, embedding


def _unused_head(adapter: Adapter, model: Source) -> Iterator[str]:
    for head, embedding in _pairs(adapter, model):
        if head in model.specs and head in adapter.specs and _says_tied(model):
            yield (
                f"{adapter.text} changes {head}, which {model.text} has and does not use: its config.json ties "
                f"the head to {embedding} (tie_word_embeddings). untie(tie(base)) + lora gives it a head of its own"
            )


def _tied(adapter: Adapter, model: Source) -> Iterator[str]:
    for head, embedding in _pairs(adapter, model):
        stated = _says_tied(model)
        tied = stated if head in model.specs else _has_tied_head(model, stated)
        if tied and embedding in adapter.specs and not adapter.config.get("ensure_weight_tying"):
            yield (
                f"{adapter.text} changes {embedding}, which is also the head of {model.text} (tied embeddings): the "
                "sum changes both, as PEFT's merge does; the adapter as it was trained changes only the embedding. For "
                f"that write untie(base) + lora, which gives the model a {head} of its own"
            )


def _has_tied_head(model: Source, stated: bool | None) -> bool:
    """Whether a model without a head among its tensors has one: its embedding."""
    if stated is not None:
        return stated
    classes = _settings(model).get("architectures") or []
    ends = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM")
    return any(isinstance(name, str) and name.endswith(ends) for name in classes)


def _says_tied(model: Source) -> bool | None:
    """What config.json says about tied embeddings; None if it says nothing, which in transformers means yes."""
    table = _settings(model)
    tied = table.get("tie_word_embeddings")
    if tied is None and isinstance(inner := table.get("text_config"), dict):
        tied = inner.get("tie_word_embeddings")
    return tied if isinstance(tied, bool) else None


def _settings(model: Source) -> dict[str, Any]:
    """config.json of the model's folder, with what views changed in it."""
    folder = folder_of(model)
    table = {}
    with suppress(FormatError):
        if folder:
            table = read_json(folder / "config.json", LONGEST)
    changed = model.config if isinstance(model, Composite) else {}
    return {**(table if isinstance(table, dict) else {}), **changed}
