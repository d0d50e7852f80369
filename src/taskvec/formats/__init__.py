"""Formats: files of tensors as sources, and sinks that write them. What a file is, the names of its tensors say.

header.py          the header of a safetensors file, read and written with every check
sink.py            what tensors are written to, in any order: safetensors files, whose header comes last
checkpoint.py      a checkpoint: one file, a folder, or shards with an index
factors.py         recognises adapters by the names of their tensors
lora_keys.py       which tensors of an adapter belong together, and which weight each pair changes
adapter_config.py  adapter_config.json, every key checked
patterns.py        rank_pattern and alpha_pattern, matched as PEFT does but in bounded time
orientation.py     whether a weight is stored (out, in) or (in, out)
beside.py          objections to adding an adapter to a model, and remarks on the sum
peft.py            a LoRA in PEFT's layout as a task vector: scale * B @ A, computed row by row
"""

import os

from taskvec.errors import FormatError
from taskvec.formats import checkpoint
from taskvec.formats.factors import CONFIG, Factored, factors_in
from taskvec.notes import note
from taskvec.places.local import Folder, located
from taskvec.places.place import Place, WithFolder
from taskvec.sources.source import Source

MOST_FOLDERS = 50  # that an error lists


def open_source(uri: str | os.PathLike[str], revision: str | None = None) -> Source:
    """The source at a path or hub id: headers are read and checked, data is not. Raises FormatError."""
    return open_in(*located(uri, revision), os.fspath(uri), revision)


def open_in(place: Place, name: str, uri: str, revision: str | None = None) -> Source:
    """The source that a place holds under a name, or for "" as a whole. `uri` is what a recipe writes for it. Raises
    FormatError."""
    if not name:
        place.names()  # a folder that cannot be listed is not an empty one
    if place.holds(CONFIG):
        from taskvec.formats import peft  # only when there is an adapter: most recipes name none

        if factors := peft.weights_at(place, name):
            return peft.Lora(place, name, uri, revision, factors)
    if checkpoint.sniff(place, name):
        source = checkpoint.open_source(place, name, uri, revision)
        if adapter := factors_in(source.specs):
            _refuse_factors(uri, adapter)
        return source
    raise FormatError(*_what_it_is(uri, place, name))


def _refuse_factors(uri: str, adapter: Factored) -> None:
    """Factors are not summed one by one: the product of two averages is not the average of two products.

    A model may have such factors as parameters of its own, beside the layers that they change. Raises FormatError.
    """
    dialect, example = adapter.dialect, adapter.example
    if not adapter.unmerged:
        raise FormatError(
            f"{uri} holds {dialect.what}, such as {example}, and factors cannot be summed as if they were weights: "
            f"{dialect.way}"
        )
    if adapter.from_peft:
        raise FormatError(
            f"{uri} is a model with an adapter that was not merged: it holds {dialect.what}, such as {example}, beside "
            "the layers. In Python, merge_and_unload() of PEFT's model gives a plain one"
        )
    note(
        f"{uri} is a model with factors among its parameters, such as {example}: they are summed one by one, which is "
        "not the sum of their products where more than one source changes them"
    )


def _what_it_is(uri: str, place: Place, name: str) -> tuple[str, list[str]]:
    """The message about what no format reads, and the folders within it that one does."""
    give = "give a safetensors file, a folder with one, or a LoRA's folder"
    if name:
        return f"{uri} is not a safetensors file: {give}", []
    folder = place.folder if isinstance(place, WithFolder) else None
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")) if folder else []
    kinds = [(p, _kind(Folder(p))) for p in inside[:MOST_FOLDERS]]
    if any(kind for _, kind in kinds):
        return f"{uri} holds no safetensors file, but folders that do: name the one you mean", [
            f"{p}: {kind}" for p, kind in kinds if kind
        ]
    pickles = sorted(n for n in place.names() if n.endswith((".bin", ".pt", ".pth", ".ckpt", ".gguf")))
    what = f"holds only {', '.join(pickles[:3])}" if pickles else "holds no safetensors file"
    return f"{uri} {what}: {give}", []


def _kind(place: Place) -> str:
    """What a folder looks like from its names; "" for one that may not be listed, too."""
    try:
        return "a LoRA" if place.holds(CONFIG) else "a model" if checkpoint.sniff(place, "") else ""
    except FormatError:
        return ""
