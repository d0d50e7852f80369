"""The formats that can be read, one a module: a LoRA of PEFT's, else a checkpoint. What a file is, its tensors say.

header.py          the header of a safetensors file, read and written with every check
sink.py            what tensors are written to, in any order: safetensors files, whose header comes last
checkpoint.py      a checkpoint: one file, a folder, or shards with an index
factors.py         adapters, known by the names of their tensors
lora_keys.py       which tensors of an adapter belong together, and which weight each pair changes
adapter_config.py  adapter_config.json, every key checked
patterns.py        rank_pattern and alpha_pattern, matched as PEFT does but in bounded time
orientation.py     whether a weight is stored (out, in) or (in, out)
beside.py          what speaks against adding an adapter to a model, and what is to be known of the sum
peft.py            an adapter as a task vector: scale * B @ A by rows, never expanded whole
"""

import os
from pathlib import Path

from taskvec.errors import FormatError
from taskvec.formats import checkpoint
from taskvec.formats.factors import CONFIG, Found, found_in
from taskvec.notes import note
from taskvec.places.local import resolve, stated
from taskvec.sources.source import Source

MOST_FOLDERS = 50  # that an error lists


def open_source(uri: str | os.PathLike[str], revision: str | None = None) -> Source:
    """The source at a path or hub id: headers are read and checked, data is not. Raises FormatError."""
    path = resolve(uri, revision)
    with stated(path):
        if path.is_dir():
            next(path.iterdir(), None)  # a folder that cannot be listed is no empty one
        if ((path if path.is_dir() else path.parent) / CONFIG).is_file():
            from taskvec.formats import peft  # only when there is an adapter: most recipes name none

            if factors := peft.weights_at(path):
                return peft.open_source(path, factors, os.fspath(uri), revision)
        if checkpoint.sniff(path):
            found = checkpoint.open_source(path, os.fspath(uri), revision)
            if adapter := found_in(found.specs):
                _refuse_factors(os.fspath(uri), adapter)
            return found
        raise FormatError(*_what_it_is(os.fspath(uri), path))


def _refuse_factors(uri: str, found: Found) -> None:
    """Factors are not summed one by one: the product of two averages is not the average of two products.

    A model may have such factors as parameters of its own, beside the layers that they change. Raises FormatError.
    """
    if not found.unmerged:
        raise FormatError(
            f"{uri} holds {found.dialect.what}, such as {found.example}, and factors cannot be summed as if they were "
            f"weights: {found.dialect.way}"
        )
    if found.from_peft:
        raise FormatError(
            f"{uri} is a model with an adapter that was not merged: it holds {found.dialect.what}, such as "
            f"{found.example}, beside the layers. In Python, merge_and_unload() of PEFT's model gives a plain one"
        )
    note(
        f"{uri} is a model with factors among its parameters, such as {found.example}: they are summed one by one, "
        "which is not the sum of their products where more than one source changes them"
    )


def _what_it_is(uri: str, path: Path) -> tuple[str, list[str]]:
    """The message about a path that no format reads, and the folders within it that one does."""
    give = "give a safetensors file, a folder with one, or a LoRA's folder"
    if path.is_file():
        return f"{uri} is not a safetensors file: {give}", []
    inside = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))[:MOST_FOLDERS]
    kinds = {p: "a LoRA" if (p / CONFIG).is_file() else "a model" for p in inside if _readable(p)}
    if kinds:
        return f"{uri} holds no safetensors file, but folders that do: name the one you mean", [
            f"{p}: {kind}" for p, kind in kinds.items()
        ]
    pickles = [p.name for p in path.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".gguf")]
    what = f"holds only {', '.join(sorted(pickles)[:3])}" if pickles else "holds no safetensors file"
    return f"{uri} {what}: {give}", []


def _readable(folder: Path) -> bool:
    """Whether a folder looks like one that can be opened; one that may not be listed does not."""
    try:
        return (folder / CONFIG).is_file() or checkpoint.sniff(folder)
    except OSError:
        return False
