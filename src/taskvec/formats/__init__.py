"""The formats that can be read, one a module, in the order in which they are tried: first `sniff` wins."""

import os
from pathlib import Path
from typing import Any

from taskvec.errors import FormatError
from taskvec.formats import checkpoint, peft
from taskvec.source import Source
from taskvec.storage import resolve, stated

FORMATS: tuple[Any, ...] = (peft, checkpoint)


def open_source(uri: str | os.PathLike[str], revision: str | None = None) -> Source:
    """The source at a path or hub id: headers are read and checked, data is not. Raises FormatError."""
    path = resolve(uri, revision)
    with stated(path):
        if path.is_dir():
            next(path.iterdir(), None)  # a folder that cannot be listed is no empty one
        for form in FORMATS:
            if form.sniff(path):
                found: Source = form.open_source(path, os.fspath(uri), revision)
                return found
    raise FormatError(f"{uri} {_what_it_is(path)}: give a safetensors file, a folder with one, or a LoRA's folder")


def _what_it_is(path: Path) -> str:
    if path.is_file():
        return "is not a safetensors file"
    pickles = [p.name for p in path.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".gguf")]
    return f"holds only {', '.join(sorted(pickles)[:3])}" if pickles else "holds no safetensors file"
