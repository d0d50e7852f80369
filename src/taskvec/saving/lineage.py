"""The record of what an output was made from, and the digests that prove that it is unchanged.

Every output carries this record: a folder in its file `taskvec.json`, a single file in its own metadata. The record
holds no time, and no paths but those that the user gave, so that the same command makes the same bytes. If the inputs
were made by taskvec too, the record also says from what (ancestry.py).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskvec.algebra.derived import base_of
from taskvec.algebra.weights import Weights
from taskvec.errors import DigestError, FormatError
from taskvec.executors.threads import default_threads, each
from taskvec.formats import open_source
from taskvec.notes import note
from taskvec.numbers.dtypes import BITS
from taskvec.places.local import resolve, stated
from taskvec.recipes.recipe import FUNCTIONS
from taskvec.saving import ancestry
from taskvec.saving.blocks import THREE_PIECES, ranges
from taskvec.saving.outputs import RECORD
from taskvec.saving.plan import PIECE
from taskvec.sources.abilities import Composite, FromFiles, metadata_of, statistic_of
from taskvec.sources.source import Source, Spec
from taskvec.version import __version__

IN_FILE = "taskvec.lineage"  # the key of a single file's metadata
METHOD = "blake3 of the blake3 digests of its 256 KiB pieces"
DIGITS = 64  # hexadecimal digits of a digest


def pieces(data: memoryview) -> list[bytes]:
    """The BLAKE3 digest of every 256 KiB piece."""
    from blake3 import blake3

    return [blake3(data[at : at + PIECE]).digest() for at in range(0, len(data), PIECE)]


def digest(of_pieces: Iterable[bytes]) -> str:
    """A tensor's digest from those of its pieces, in order: independent of blocks, shards and threads."""
    from blake3 import blake3

    return blake3(b"".join(of_pieces)).hexdigest()


def begun(weights: Weights, kind: int, notes: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a record that is known before any data is read. `completed` adds the rest.

    kind: the mass of the output. notes: entries for what the user forced or set, empty if that is nothing.
    """
    names = weights.names(FUNCTIONS)
    own = {k: v for s in weights.terms if isinstance(s, Composite) for k, v in s.methods.items()}
    if own:
        notes = {**notes, "methods": {name: f"blake3 of its code: {digest}" for name, digest in own.items()}}
    return {
        "taskvec": __version__,
        "mass": kind,
        "recipe": weights.text(names),
        "base": None if kind else base_of(weights),
        **({"partial": True} if weights.reference and weights.reference.partial else {}),
        **origins({name: source for source, name in names.items()}),
        **notes,
    }


def completed(
    entry: Mapping[str, Any], specs: Mapping[str, Spec], fingerprint: str, digests: Mapping[str, str]
) -> dict[str, Any]:
    """The whole record, once the tensors are written: with the digest of each, and the fingerprint of all."""
    return {
        **entry,
        "fingerprint": fingerprint,
        "digest": METHOD,
        "tensors": {n: {"dtype": s.dtype, "shape": list(s.shape), "digest": digests[n]} for n, s in specs.items()},
    }


def longest(entry: Mapping[str, Any], specs: Mapping[str, Spec], nonfinite: bool) -> dict[str, Any]:
    """A record as long as the completed one can become. The header of a single file holds the record, and the length of
    the header must be known before there is any data. All digests are equally long.

    nonfinite: whether the record may list tensors that are not finite.
    """
    any_digest = "0" * DIGITS
    record = completed(entry, specs, any_digest, dict.fromkeys(specs, any_digest))
    return record | ({"nonfinite": list(specs)} if nonfinite else {})


def origins(sources: Mapping[str, Source]) -> dict[str, Any]:
    """The entries `inputs` and `ancestors` of a record.

    If the ancestors of all inputs together are longer than ancestry.LONGEST, the farthest ones are left out. The entry
    `ancestors_left_out` counts them, and a note tells the user.
    """
    table: ancestry.Table = {}
    inputs, lost_before = {}, 0
    for name, source in sources.items():
        inputs[name] = _input_of(source)
        if parent := _record_of(source):  # one at a time: a record has an entry for each tensor
            inputs[name]["made_from"] = ancestry.add(table, parent)
            lost_before = max(lost_before, parent.get("ancestors_left_out", 0))
    kept = ancestry.nearest(inputs, table)
    lost = len(table) - len(kept)
    if lost:
        note(
            f"the lineage leaves out {lost} of {len(table)} ancestors, the farthest ones: it would be longer than "
            f"{ancestry.LONGEST / 1e6:g} MB"
        )
    lost += lost_before
    return {
        "inputs": inputs,
        **({"ancestors": kept} if kept else {}),
        **({"ancestors_left_out": lost} if lost else {}),
    }


def _input_of(source: Source) -> dict[str, Any]:
    """What a record says of one source: where it is from and what it is."""
    about = {
        "uri": source.uri if isinstance(source, FromFiles) else None,
        "revision": source.revision if isinstance(source, FromFiles) else None,
        "mass": source.mass,
        "statistic": statistic_of(source) or None,
        "fingerprint": source.fingerprint,
        "base": source.base,
        "digest": metadata_of(source).get("taskvec.digest"),
    }
    return {key: value for key, value in about.items() if value is not None}


def _record_of(source: Source) -> dict[str, Any] | None:
    """The record of a source if taskvec wrote it, else None. A single file is not opened again, since the source has
    its metadata."""
    if not isinstance(source, FromFiles):
        return None
    if source.path and source.path.is_dir():
        return read(source.path)
    text = source.metadata.get(IN_FILE, "")
    return _parsed(text, source.path or source.uri) if text else None


def metadata(entry: Mapping[str, Any], alone: bool) -> dict[str, str]:
    """The `__metadata__` of an output file. A file that is the whole output (`alone`) carries its whole record."""
    table = {
        "format": "pt",
        "taskvec.version": entry["taskvec"],
        "taskvec.mass": str(entry["mass"]),
        "taskvec.recipe": entry["recipe"],
    }
    if entry.get("partial"):
        table["taskvec.partial"] = "1"
    if entry["base"]:
        table["taskvec.base"] = entry["base"]
    if alone:
        table[IN_FILE] = json.dumps(entry, separators=(",", ":"))
    return table


def as_text(entry: Mapping[str, Any]) -> str:
    """The text of `taskvec.json`, in which each tensor has one line."""
    head = json.dumps({key: value for key, value in entry.items() if key != "tensors"}, indent=1)
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(tensor)}" for name, tensor in entry["tensors"].items())
    return head.removesuffix("\n}") + f',\n "tensors": {{\n{lines}\n }}\n}}\n'


def read(path: Path) -> dict[str, Any] | None:
    """The record of an output, with its ancestors in a flat table (ancestry.py), or None if there is no record. Raises
    FormatError if the record cannot be read."""
    where = path / RECORD if path.is_dir() else path
    if not where.is_file():
        return None
    if where.name != RECORD:
        text = metadata_of(open_source(where)).get(IN_FILE, "")
    else:
        try:
            with stated(where):
                text = where.read_text(encoding="utf-8")
        except ValueError as error:
            raise FormatError(f"{where} holds no record that can be read: {error}") from None
    return _parsed(text, where) if text else None


def _parsed(text: str, where: Path | str) -> dict[str, Any]:
    try:
        record = json.loads(text)
        if not ancestry.has(record, tensors=dict, fingerprint=str) or not all(
            ancestry.has(tensor, dtype=str, shape=list, digest=str) for tensor in record["tensors"].values()
        ):
            raise ValueError("it is not as taskvec writes it")
        return ancestry.flat(record)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where} holds no record that can be read: {error}") from None


# ---- proof ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Verified:
    """What `verify` has compared: all tensors of an output, which hold what was written."""

    path: Path
    tensors: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.path}: all {self.tensors} tensors hold what was written"


def verify(uri: str, *, threads: int | None = None, progress: Callable[[int, int], None] | None = None) -> Verified:
    """Recompute the digest of every tensor of an output, and compare it with the digest in its record.

    Raises DigestError, which lists every difference.
    """
    path = resolve(uri)
    expected = read(path)
    if not expected:
        raise DigestError(f"{uri} has no digests: taskvec did not write it")
    source = open_source(path)
    wanted: dict[str, Any] = expected["tensors"]
    problems = [f"{name} is missing" for name in wanted if name not in source.specs]
    problems += [f"{name} was not written by taskvec" for name in source.specs if name not in wanted]
    shared = {name: spec for name, spec in source.specs.items() if name in wanted}
    total, done = sum(spec.nbytes for spec in shared.values()), 0
    for name, recomputed in digests(source, shared, threads or default_threads()):
        entry, spec = wanted[name], shared[name]
        if (entry["dtype"], entry["shape"], entry["digest"]) != (spec.dtype, list(spec.shape), recomputed):
            problems.append(
                f"{name} holds other {'data' if entry['dtype'] == spec.dtype else 'dtypes'} than were written"
            )
        done += spec.nbytes
        if progress:
            progress(done, total)
    if not problems and source.fingerprint != expected["fingerprint"]:
        problems.append("the fingerprint is another than the one that was written")
    if problems:
        raise DigestError(f"{uri} is not what was written:", sorted(problems))
    return Verified(path, len(shared), total)


def digests(source: Source, specs: Mapping[str, Spec], threads: int) -> Iterator[tuple[str, str]]:
    """(name, digest) of each tensor, which is read piece by piece."""

    def work(name: str, buffer: bytearray) -> tuple[str, str]:
        of_pieces = []
        for _, start, count in ranges(specs, [name], PIECE):
            view = memoryview(buffer)[: count * BITS[specs[name].dtype] // 8]
            source.readinto(name, start, view)
            of_pieces += pieces(view)
        return name, digest(of_pieces)

    return each(specs, work, lambda: bytearray(THREE_PIECES), threads)
