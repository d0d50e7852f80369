"""`save`: from an expression to files.

Everything that can be checked is checked first; the data streams into a hidden folder (stream.py); headers are
written last, and the folder gets its name after that.
"""

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from taskvec.algebra.integers import require_same
from taskvec.algebra.weights import Weights
from taskvec.errors import NotEnoughSpace, OutputError
from taskvec.formats.sink import Safetensors, Sink
from taskvec.notes import note
from taskvec.places.local import Folder, existing_parent, free_bytes, stated, write_text
from taskvec.saving import lineage, sidecars
from taskvec.saving.batchnorm import require_positive
from taskvec.saving.disagreements import disagreements
from taskvec.saving.outputs import RECORD, Destination
from taskvec.saving.plan import Plan, plan, readable, shard
from taskvec.saving.proofs import Proof, holds, proofs_of_others, proofs_of_weights
from taskvec.saving.staging import Staging, finished_before, hidden
from taskvec.saving.stream import Progress, stream
from taskvec.sources.abilities import FromFiles, leaves_of
from taskvec.sources.source import Source


@dataclass(frozen=True, slots=True)
class Saved:
    """What `save` wrote, and how. str(saved) says it to a person, `as_dict()` to a machine."""

    path: Path
    kind: int
    recipe: str
    fingerprint: str
    bytes_in: int
    bytes_out: int
    reused: int  # bytes that an interrupted run had left, checked and kept
    seconds: float
    nonfinite: tuple[str, ...] = ()  # tensors with NaN or Inf, if that was allowed

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        kind = {"path": str(self.path), "kind": "model" if self.kind else "task vector", "mass": self.kind}
        return {name: getattr(self, name) for name in self.__slots__} | kind

    def __str__(self) -> str:
        kept = f", {readable(self.reused)} of it kept from an interrupted run" if self.reused else ""
        return (
            f"{self.path}: {'a model' if self.kind else 'a task vector'} = {self.recipe}\n"
            f"{readable(self.bytes_out)} in {self.seconds:.2f} s{kept}; fingerprint {self.fingerprint[:16]}"
        )


def save(
    weights: Weights,
    uri: str | os.PathLike[str],
    *,
    like: Weights | None = None,
    dtype: str | None = None,
    shard_size: str | int = "5GB",
    ram: str | int = "1GB",
    threads: int | None = None,
    overwrite: bool = False,
    resume: bool = True,
    force: bool = False,
    allow_nonfinite: bool = False,
    durable: bool = True,
    chat_template: str | None = None,
    progress: Progress | None = None,
) -> Saved:
    """Compute an expression and write it as a folder, or as one file if `uri` ends in .safetensors.

    Everything that the headers can tell is checked first (see `plan`). The output is complete or absent at every
    moment. A call that was killed goes on where it stopped (`resume`) if every source can prove that its bytes are the
    same; docs/resuming.md says how. The output has the same bytes for any `threads`, `ram` and `shard_size`, and for
    any order of the summands.

    like: the model whose dtypes, config and tokenizer the output gets. dtype: as in `plan`.
    shard_size, ram: a text such as "5GB", or a number of bytes. `ram` is the memory that is never exceeded.
    force: accept a task vector that was made from another base. allow_nonfinite: go on with NaN and Inf. Both are
        recorded.
    durable: flush the output to the disk before it gets its name. Without it an output is safe against kills, but not
        against a power cut.
    chat_template: Jinja that replaces the chat template of the model. Raises TaskvecError and its kinds (errors.py).
    """
    began = time.perf_counter()
    place = Destination.of(uri, overwrite)
    target, alone = place.target, place.target.name if place.alone else None
    todo = plan(
        weights, like=like, dtype=dtype, shard_size=shard_size, ram=ram, threads=threads, filename=alone,
        durable=durable,
    )  # fmt: skip
    if not force:
        weights.check_bases()
    lost = todo.kind == 1 and like is None and not alone
    _tell(disagreements(todo.weights, todo.like or todo.weights.donor, lost=lost, template=not chat_template))
    todo = replace(todo, beside=() if alone else sidecars.survey(todo))
    proof = Proof(_read_by(todo), [*todo.weights.terms], todo.like)
    notes = ({"forced": True} if force else {}) | ({"chat_template": chat_template} if chat_template else {})
    entry = lineage.begun(todo.weights, todo.kind, notes)
    longest = lineage.metadata(lineage.longest(entry, todo.specs, allow_nonfinite) if alone else entry, place.alone)
    todo = replace(todo, shards=tuple(shard(s.filename, s.specs, longest) for s in todo.shards))
    key = _key(todo, entry, proof)
    if not finished_before(place, key, partial(holds, target, threads=todo.threads)):
        place = replace(place, sources=tuple(p for s in proof.sources if (p := _path(s))))
        with stated(target, OutputError):
            place.require_writable()
            _require_space(todo, target)
        if todo.kind and like is None:  # a task vector does without them, and `like` says whose they are
            require_same(todo.weights, way="name the model to take them from (--like, like=)")
        stage = Staging(place, key, resume and proof.resumable, durable)
        try:
            reused, record = _written(todo, stage, entry, proof, allow_nonfinite, progress)
        except (OutputError, KeyboardInterrupt):  # what is done stays for the next run
            stage.close()
            raise
        except BaseException:
            stage.discard()
            raise
    else:  # an earlier run wrote it, and only its record says what that run found in the data
        reused, record = todo.bytes_out, lineage.read(target) or {}
    return Saved(
        target, todo.kind, entry["recipe"], record.get("fingerprint", ""), todo.bytes_in, todo.bytes_out, reused,
        time.perf_counter() - began, tuple(record.get("nonfinite", ())),
    )  # fmt: skip


def _tell(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        note(sentence)


def _path(source: Source) -> Path | None:
    return source.path if isinstance(source, FromFiles) else None


def _key(todo: Plan, entry: Mapping[str, Any], proof: Proof) -> str:
    """What must be the same for a finished block to be worth keeping: recipe, sources' bytes, layout, block size."""
    from blake3 import blake3

    prints = [source.fingerprint for source in todo.weights.terms]  # of a view: what it reads beside the weights, too
    layout = [
        (s.filename, s.header_size, [(n, str(spec), s.offsets[n]) for n, spec in s.specs.items()]) for s in todo.shards
    ]
    return blake3(repr((entry["recipe"], str(entry), proof.stamps, prints, layout, todo.block)).encode()).hexdigest()


def _read_by(todo: Plan) -> list[Source]:
    """Every source, and the model that the output is like."""
    return list(dict.fromkeys([*todo.weights.mentioned, *(leaves_of(todo.like) if todo.like else ())]))


def _require_space(todo: Plan, target: Path) -> None:
    parent = existing_parent(target.parent)
    staged = hidden(target) / "files"
    already = sum(f.stat().st_blocks * 512 for f in staged.glob("*")) if staged.is_dir() else 0
    free = free_bytes(parent) + already
    if free < todo.bytes_out:
        raise NotEnoughSpace(
            f"{target} needs {readable(todo.bytes_out)}, the disk of {parent} has {readable(free)} left"
        )


# ---- the work ------------------------------------------------------------------------------------
def _written(
    todo: Plan, stage: Staging, entry: Mapping[str, Any], proof: Proof, allow_nonfinite: bool, progress: Progress | None
) -> tuple[int, dict[str, Any]]:
    """The output under its name: (bytes that an earlier run had left, the record). The sources, which must be what they
    were, are looked at again before that last step."""
    with stated(stage.target, OutputError):
        stage.keep_only({s.filename: s.size for s in todo.shards})
        sink = Safetensors(Folder(stage.files), todo.shards, stage.durable)
    with closing(sink):
        reused, nonfinite = stream(todo, stage, sink, allow_nonfinite, progress)
        require_positive(todo, sink, allow_nonfinite)
        with stated(stage.target, OutputError):
            record, proofs = _finished(todo, stage, sink, entry, nonfinite)
    proof.require_unchanged()
    stage.commit(proofs)
    return reused, record


def _finished(
    todo: Plan, stage: Staging, sink: Sink, entry: Mapping[str, Any], nonfinite: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Headers, side files, index and record, all durable: (the record, what proves every file)."""
    pieces: dict[str, list[bytes]] = {name: [] for name in todo.specs}
    for block in todo.blocks():
        pieces[block.name] += stage.done[block.index].pieces
    digests = {name: lineage.digest(its) for name, its in pieces.items()}
    record = lineage.completed(entry, todo.specs, sink.fingerprint(), digests)
    record |= {"nonfinite": list(nonfinite)} if nonfinite else {}
    alone = stage.place.alone
    proofs = proofs_of_weights(todo, sink.finish(lineage.metadata(record, alone)))
    if not alone:
        sidecars.write(stage.files, todo, record, stage.durable)
        record["files"] = proofs_of_others(stage.files, proofs)
        proofs |= record["files"]
        sidecars.write_index(stage.files, todo, stage.durable)
        write_text(stage.files / RECORD, lineage.as_text(record), stage.durable)
        proofs |= proofs_of_others(stage.files, proofs)
    return record, proofs
