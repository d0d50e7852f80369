"""`save`: from an expression to files, in four steps.

1. The headers of the sources say what the output will look like (plan.py). Everything that they can tell is checked,
   before any data is read. The result is a `Job`.
2. The data is computed in blocks and written into a hidden folder beside the output (stream.py, staging.py).
3. Headers, configuration, tokenizer and the record of what was done are written, when all digests are known.
4. The sources are looked at once more. If nothing changed, the hidden folder gets the name of the output.
"""

import os
import time
from collections.abc import Mapping
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
    destination = Destination.of(uri, overwrite)
    layout = plan(
        weights, like=like, dtype=dtype, shard_size=shard_size, ram=ram, threads=threads, durable=durable,
        filename=destination.target.name if destination.alone else None,
    )  # fmt: skip
    if not force:
        weights.check_bases()
    job = _prepared(layout, destination, like, force, chat_template, allow_nonfinite)
    if finished_before(destination, job.key, partial(holds, destination.target, threads=job.plan.threads)):
        # An earlier run wrote it. Only its record says what that run met in the data.
        reused, record = job.plan.bytes_out, lineage.read(destination.target) or {}
    else:
        reused, record = _write(job, like, resume, durable, allow_nonfinite, progress)
    return Saved(
        destination.target, job.plan.kind, job.entry["recipe"], record.get("fingerprint", ""),
        job.plan.bytes_in, job.plan.bytes_out, reused,
        time.perf_counter() - began, tuple(record.get("nonfinite", ())),
    )  # fmt: skip


# ---- what is known before any data is read ---------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Job:
    """An output that can be written: all that is known of it before any data is read."""

    plan: Plan
    destination: Destination
    entry: dict[str, Any]  # the part of the record that is known by now (lineage.py)
    proof: Proof  # that the sources are what they were when the work began
    key: str  # a digest of all that decides the bytes of the output: a run with the same key can be gone on with


def _prepared(
    layout: Plan,
    destination: Destination,
    like: Weights | None,
    force: bool,
    chat_template: str | None,
    allow_nonfinite: bool,
) -> Job:
    """The job of writing this plan. Notes what the models' configurations say differently, and looks for the files that
    are copied beside the weights. The plan's files get headers that are long enough for the finished record."""
    alone = destination.alone
    loses_settings = layout.kind == 1 and like is None and not alone
    donor = layout.like or layout.weights.donor
    for sentence in disagreements(layout.weights, donor, lost=loses_settings, template=not chat_template):
        note(sentence)
    layout = replace(layout, beside=() if alone else sidecars.survey(layout))
    read = dict.fromkeys([*layout.weights.mentioned, *(leaves_of(layout.like) if layout.like else ())])
    proof = Proof([*read], [*layout.weights.terms], layout.like)
    choices = ({"forced": True} if force else {}) | ({"chat_template": chat_template} if chat_template else {})
    entry = lineage.begun(layout.weights, layout.kind, choices)
    longest = lineage.longest(entry, layout.specs, allow_nonfinite) if alone else entry
    metadata = lineage.metadata(longest, alone)
    layout = replace(layout, shards=tuple(shard(s.filename, s.specs, metadata) for s in layout.shards))
    sources = tuple(s.path for s in proof.sources if isinstance(s, FromFiles) and s.path is not None)
    return Job(layout, replace(destination, sources=sources), entry, proof, _key(layout, entry, proof))


def _key(layout: Plan, entry: Mapping[str, Any], proof: Proof) -> str:
    """What must be the same for a finished block to be worth keeping: recipe, sources' bytes, layout, block size."""
    from blake3 import blake3

    # The fingerprint of a view also covers what it reads beside the weights.
    fingerprints = [source.fingerprint for source in layout.weights.terms]
    files = [
        (s.filename, s.header_size, [(n, str(spec), s.offsets[n]) for n, spec in s.specs.items()])
        for s in layout.shards
    ]
    all_that_decides = (entry["recipe"], str(entry), proof.stamps, fingerprints, files, layout.block)
    return blake3(repr(all_that_decides).encode()).hexdigest()


# ---- writing it ------------------------------------------------------------------------------------
def _write(
    job: Job,
    like: Weights | None,
    resume: bool,
    durable: bool,
    allow_nonfinite: bool,
    progress: Progress | None,
) -> tuple[int, dict[str, Any]]:
    """Write the output and give it its name: (bytes that an earlier run had left, the record).

    What is done stays for the next run after Ctrl-C, and after an error that a person can mend, such as a full disk.
    After any other error nothing is left.
    """
    with stated(job.destination.target, OutputError):
        job.destination.require_writable()
        _require_space(job.plan, job.destination.target)
    if job.plan.kind and like is None:  # a task vector has no integer tensors, and `like` says whose a model takes
        require_same(job.plan.weights, way="name the model to take them from (--like, like=)")
    stage = Staging(job.destination, job.key, resume and job.proof.resumable, durable)
    try:
        with stated(stage.target, OutputError):
            stage.keep_only({s.filename: s.size for s in job.plan.shards})
            sink = Safetensors(Folder(stage.files), job.plan.shards, durable)
        with closing(sink):
            reused, nonfinite = stream(job.plan, stage, sink, allow_nonfinite, progress)
            require_positive(job.plan, sink, allow_nonfinite)
            with stated(stage.target, OutputError):
                record, proofs = _finish(job, stage, sink, nonfinite)
        job.proof.require_unchanged()
        stage.commit(proofs)
    except (OutputError, KeyboardInterrupt):
        stage.close()
        raise
    except BaseException:
        stage.discard()
        raise
    return reused, record


def _require_space(layout: Plan, target: Path) -> None:
    """Raise NotEnoughSpace if the disk cannot hold the output, counting what an earlier run has already staged."""
    parent = existing_parent(target.parent)
    staged = hidden(target) / "files"
    already = sum(f.stat().st_blocks * 512 for f in staged.glob("*")) if staged.is_dir() else 0
    free = free_bytes(parent) + already
    if free < layout.bytes_out:
        raise NotEnoughSpace(
            f"{target} needs {readable(layout.bytes_out)}, the disk of {parent} has {readable(free)} left"
        )


def _finish(job: Job, stage: Staging, sink: Sink, nonfinite: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """Write headers, side files, index and record: (the record, for each file what proves it whole)."""
    pieces: dict[str, list[bytes]] = {name: [] for name in job.plan.specs}
    for block in job.plan.blocks():
        pieces[block.name] += stage.done[block.index].pieces
    digests = {name: lineage.digest(of_pieces) for name, of_pieces in pieces.items()}
    record = lineage.completed(job.entry, job.plan.specs, sink.fingerprint(), digests)
    record |= {"nonfinite": list(nonfinite)} if nonfinite else {}
    alone = job.destination.alone
    proofs = proofs_of_weights(job.plan, sink.finish(lineage.metadata(record, alone)))
    if not alone:
        sidecars.write(stage.files, job.plan, record, stage.durable)
        record["files"] = proofs_of_others(stage.files, proofs)
        proofs |= record["files"]
        sidecars.write_index(stage.files, job.plan, stage.durable)
        write_text(stage.files / RECORD, lineage.as_text(record), stage.durable)
        proofs |= proofs_of_others(stage.files, proofs)
    return record, proofs
