"""The header of a safetensors file, read and written with every check.

A file begins with 8 bytes, the length of the header (little-endian). Then come the header, which is JSON, and the data
of the tensors. The header maps the name of each tensor to its dtype, its shape and the range of its bytes in the data;
the entry `__metadata__` maps texts to texts.
"""

import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskvec.errors import FormatError
from taskvec.numbers.dtypes import BITS
from taskvec.places.json_files import noting_doubles
from taskvec.places.json_files import parsed as parse_json
from taskvec.places.place import Readable
from taskvec.sources.source import Spec

ENDING = ".safetensors"
LONGEST = 100_000_000  # bytes of JSON, the limit of the safetensors library
LONGEST_METADATA = 16 << 20  # bytes of metadata that any file may have, since they stay in memory
A_TENSOR = 1024  # bytes more that it may have for each tensor
METADATA = "__metadata__"
MOST_SIZES = 64  # sizes of a shape, the limit of torch


def names_one_file(path: str | os.PathLike[str]) -> bool:
    """Whether this names one safetensors file, to read or to write, rather than a folder of files."""
    return Path(path).name.endswith(ENDING)


@dataclass(frozen=True, slots=True)
class Header:
    """specs: tensors in the order of their data. offsets: the byte of the file at which each begins."""

    specs: Mapping[str, Spec]
    offsets: Mapping[str, int]
    metadata: Mapping[str, str]


def read_header(file: Readable) -> Header:
    """Parse and check a file's header. Raises FormatError that lists every defect."""
    if file.size < 8:
        raise FormatError(f"{file.uri} is no safetensors file: it has {file.size} bytes, a header length needs 8")
    if file.read(0, 8) == b"version ":
        raise FormatError(
            f"{file.uri} is no safetensors file but a pointer of Git LFS: fetch the file with git lfs pull"
        )
    (length,) = struct.unpack("<Q", file.read(0, 8))
    if length > file.size - 8:
        raise FormatError(
            f"{file.uri} is no whole safetensors file: its header claims {length} bytes, {file.size - 8} follow"
        )
    if length > LONGEST:
        raise FormatError(f"{file.uri}: a header of {length} bytes is over the format's limit of {LONGEST}")
    parsed = _parse(file, length)
    metadata = parsed.pop(METADATA, {})
    problems = [] if _is_text_table(metadata) else [f"{METADATA} must map texts to texts"]
    entries, defects = _entries(parsed, file.size - 8 - length)
    problems += defects or _coverage(entries, file.size - 8 - length)
    if problems:
        raise FormatError(f"{file.uri} has a bad safetensors header:", problems[:50])
    ordered = sorted(entries, key=lambda e: (e[2], e[3], e[0]))
    start = 8 + length
    return Header(
        {name: spec for name, spec, _, _ in ordered}, {name: start + begin for name, _, begin, _ in ordered}, metadata
    )


def _parse(file: Readable, length: int) -> dict[str, Any]:
    """The header's table. Its cost in memory is bounded by `json_files.parsed` and by LONGEST_METADATA."""
    repeated: list[str] = []
    text = bytearray(length)
    file.readinto(8, memoryview(text))
    if length - 2 * A_TENSOR * text.count(b"{") > LONGEST_METADATA:  # once for its entry, once for its metadata
        raise FormatError(_too_long(f"{file.uri} has a header of {length} bytes"))
    parsed = parse_json(text, f"{file.uri} is no safetensors file: its header", noting_doubles(repeated))
    if not isinstance(parsed, dict):
        raise FormatError(f"{file.uri} is no safetensors file: its header is not a JSON object")
    if repeated:
        problems = [f"key {key!r} stands twice" for key in repeated[:50]]
        raise FormatError(f"{file.uri} has a bad safetensors header:", problems)
    size = metadata_size(parsed.get(METADATA))
    if size > LONGEST_METADATA + A_TENSOR * len(parsed):
        raise FormatError(_too_long(f"{file.uri} has metadata of {size} characters"))
    return parsed


def metadata_size(metadata: Any) -> int:
    """Characters of a table of texts."""
    return sum(len(k) + len(v) for k, v in metadata.items()) if _is_text_table(metadata) else 0


def _too_long(what: str) -> str:
    return (
        f"{what}, more than the {LONGEST_METADATA} that are kept in memory: write the file again "
        "without it (safetensors.torch.save_file(safetensors.torch.load_file(old), new))"
    )


Entry = tuple[str, Spec, int, int]


def _entries(parsed: Mapping[str, Any], size: int) -> tuple[list[Entry], list[str]]:
    entries: list[Entry] = []
    problems: list[str] = []
    for name, entry in parsed.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            problems.append(f"{name}: an entry needs dtype, shape and data_offsets, and nothing else")
            continue
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in BITS:
            problems.append(f"{name}: dtype {dtype!r} is unknown")
        elif not _naturals(shape) or len(shape) > MOST_SIZES:
            problems.append(f"{name}: shape {str(shape)[:100]} is not a list of at most {MOST_SIZES} sizes")
        elif not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            problems.append(f"{name}: data_offsets {offsets} are not a range")
        elif offsets[1] > size:
            problems.append(f"{name}: its data ends at byte {offsets[1]}, the file's at {size} (truncated?)")
        else:
            spec = Spec(tuple(shape), dtype)
            bits = spec.numel * BITS[dtype]
            if bits != 8 * (offsets[1] - offsets[0]):
                problems.append(f"{name}: {spec} takes {bits / 8:g} bytes, data_offsets give {offsets[1] - offsets[0]}")
            else:
                entries.append((name, spec, offsets[0], offsets[1]))
    return entries, problems


def _coverage(entries: Iterable[Entry], size: int) -> list[str]:
    """What is wrong with the order of the data: tensors may not overlap, and every byte belongs to one."""
    problems, reached, last = [], 0, "the header"
    for name, _, begin, end in sorted(entries, key=lambda e: (e[2], e[3])):
        if begin < reached:
            problems.append(f"{name} overlaps {last}")
        elif begin > reached:
            problems.append(f"{begin - reached} bytes before {name} belong to no tensor")
        reached, last = max(reached, end), name
    if reached < size:
        problems.append(f"{size - reached} bytes after {last} belong to no tensor")
    return problems


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in value)


def _is_text_table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def write_header(
    specs: Mapping[str, Spec], metadata: Mapping[str, str], least: int = 0, multiple: int = 8
) -> tuple[bytes, dict[str, int]]:
    """The bytes before the data, and where in the file each tensor begins.

    Wider dtypes come first, so that every tensor is aligned to its element; within a width the order is that of
    `specs`. The length is a multiple of `multiple` and at least `least`, padded with spaces. Raises FormatError for
    metadata that `read_header` would refuse.
    """
    offsets: dict[str, int] = {}
    table: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    at = 0
    for name, spec in sorted(specs.items(), key=lambda item: -BITS[item[1].dtype]):
        end = at + spec.nbytes
        table[name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": (at, end)}
        offsets[name] = at
        at = end
    if metadata_size(metadata) > LONGEST_METADATA + A_TENSOR * len(specs):
        raise FormatError(_too_long(f"the output would have metadata of {metadata_size(metadata)} characters"))
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * max(-(8 + len(text)) % multiple, least - 8 - len(text))
    return struct.pack("<Q", len(text)) + text, {name: 8 + len(text) + begin for name, begin in offsets.items()}
