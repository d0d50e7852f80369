"""The pass over the data.

Threads compute, hash and write blocks. The main thread makes them durable and notes them in the journal of the staging
folder, so that a later run can go on from there.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby

from taskvec.algebra.derived import STRETCH
from taskvec.algebra.program import alone, evaluate, scratch_bytes
from taskvec.errors import NonFiniteError, OutputError
from taskvec.executors.threads import each
from taskvec.formats.sink import Sink
from taskvec.numbers.dtypes import BITS
from taskvec.places.local import stated
from taskvec.saving import lineage
from taskvec.saving.blocks import THREE_PIECES, Sums
from taskvec.saving.compute import Worker
from taskvec.saving.plan import Block, Plan
from taskvec.saving.staging import Done, Staging
from taskvec.sources.abilities import Measured
from taskvec.sources.source import Source

SYNC = 64 << 20  # bytes of finished blocks that are made durable together
Progress = Callable[[int, int], None]  # bytes done, bytes in all


def stream(
    todo: Plan, stage: Staging, sink: Sink, allow_nonfinite: bool, progress: Progress | None
) -> tuple[int, tuple[str, ...]]:
    """Compute and write the blocks that no earlier run finished: (bytes that it had, tensors that are not finite).

    Afterwards `stage.done` has every block. After the first NaN, Inf or overflow the remaining blocks are computed but
    not written, so that the NonFiniteError can name every tensor. If the run is interrupted, what is done is noted
    before the exception goes on.
    """
    blocks, worker = list(todo.blocks()), Worker(todo)
    with stated(stage.target, OutputError):
        kept = _kept(todo, stage, blocks, sink, allow_nonfinite)
        writer = _Writer(sink, {index for index in kept if stage.done[index].flags}, allow_nonfinite)
        work = partial(_computed_and_written, worker, writer)
        reused = sum(size_of(todo, blocks[index]) for index in kept)
        total = sum(size_of(todo, block) for block in blocks)
        bar, waiting = _Bar(4 * _unmeasured(todo), total, reused, progress), _Waiting(stage, sink)
        try:
            for stretch in _stretches(todo, [block for block in blocks if block.index not in kept]):
                worker.measure(stretch, bar.measured)
                bar.settle(_unmeasured(todo))
                for done in each(stretch, work, worker.memory, min(todo.threads, len(stretch))):
                    size = size_of(todo, blocks[done.index])
                    waiting.add(done, size, hold=writer.fails)
                    bar.written(size)
            bar.settle(0)
        except KeyboardInterrupt:
            waiting.record()
            raise
    flagged = [blocks[k] for k in sorted(writer.flagged)]
    if writer.fails:
        raise _nonfinite(todo, flagged, worker.sums)
    return reused, tuple(dict.fromkeys(block.name for block in flagged))


class _Writer:
    """Writes blocks to the sink, and remembers in `flagged` those that are not finite. After the first of these nothing
    more is written, unless `allow`."""

    def __init__(self, sink: Sink, flagged: set[int], allow: bool):
        self.sink, self.flagged, self.allow = sink, flagged, allow

    @property
    def fails(self) -> bool:
        """Whether the run is going to fail. It then computes on only to name every tensor that is not finite."""
        return bool(self.flagged) and not self.allow

    def write(self, block: Block, done: Done, data: memoryview) -> None:
        """One block that was computed."""
        if done.flags:
            self.flagged.add(block.index)
        if not self.fails:
            self.sink.write(block.name, block.start, data)


def _computed_and_written(worker: Worker, writer: _Writer, block: Block, memory: memoryview) -> Done:
    done, data = worker.compute(block, memory)
    writer.write(block, done, data)
    return done


def _stretches(todo: Plan, blocks: list[Block]) -> Iterator[list[Block]]:
    """The blocks in groups of whole tensors. As long as methods have something to measure, a group has about STRETCH
    elements, or one tensor: what was read to measure is then still in the page cache when it is read again to compute.
    Once nothing is left to measure, the rest is one group."""
    first, last, size, limit = 0, 0, 0, math.inf
    for name, of_tensor in groupby(blocks, key=lambda block: block.name):
        if first == last:  # a new stretch begins
            size, limit = 0, STRETCH if _unmeasured(todo) else math.inf
        numel = todo.specs[name].numel
        if last > first and size + numel > limit:
            yield blocks[first:last]
            first, size, limit = last, 0, STRETCH if _unmeasured(todo) else math.inf
        size += numel
        last += len([*of_tensor])
    if last > first:
        yield blocks[first:last]


def _unmeasured(todo: Plan) -> int:
    """Elements that methods have still to read before they can compute."""
    return sum(source.unmeasured for source in todo.weights.terms if isinstance(source, Measured))


class _Bar:
    """Reports progress in bytes: those that methods measure, `ahead` in all (4 for each element), and those that are
    written, `total` in all."""

    def __init__(self, ahead: int, total: int, done: int, report: Progress | None):
        self.ahead, self.total, self.done, self.report = ahead, total, done, report
        self.known = 0

    def measured(self, elements: int) -> None:
        """So many more elements were measured. There may be more passes than were foreseen, so the sum is capped."""
        self._tell(min(self.known + 4 * elements, self.ahead))

    def settle(self, unmeasured: int) -> None:
        """From here on this many elements are left to measure."""
        self._tell(max(self.known, self.ahead - 4 * unmeasured))

    def written(self, size: int) -> None:
        """A block of this many bytes was written."""
        self.done += size
        self._tell(self.known)

    def _tell(self, known: int) -> None:
        self.known = known
        if self.report:
            self.report(self.done + known, self.ahead + self.total)


class _Waiting:
    """Blocks that are written but not yet durable. They are made durable and recorded SYNC bytes at a time."""

    def __init__(self, stage: Staging, sink: Sink):
        self.stage, self.sink = stage, sink
        self.blocks: list[Done] = []
        self.bytes = 0

    def add(self, done: Done, size: int, hold: bool) -> None:
        """One more block. With `hold` it is not recorded: the run is going to fail."""
        self.stage.done[done.index] = done
        if hold:
            return
        self.blocks.append(done)
        self.bytes += size
        if self.bytes >= SYNC:
            self.record()

    def record(self) -> None:
        """Make the waiting blocks durable, then note them in the journal."""
        self.stage.record(self.blocks, self.sink.sync)
        self.blocks, self.bytes = [], 0


def size_of(todo: Plan, block: Block) -> int:
    """Bytes of a block."""
    return block.count * BITS[todo.shards[block.shard].specs[block.name].dtype] // 8


def _kept(todo: Plan, stage: Staging, blocks: list[Block], sink: Sink, allow_nonfinite: bool) -> set[int]:
    """The blocks of an earlier run that can stay: the data on disk has the digests that the journal says, and is finite
    (or need not be)."""

    def work(index: int, buffer: bytearray) -> tuple[int, bool]:
        block = blocks[index]
        view = memoryview(buffer)[: size_of(todo, block)]
        good = sink.read(block.name, block.start, view) and tuple(lineage.pieces(view)) == stage.done[index].pieces
        if good:
            sink.keep(block.name, block.start, view)
        return index, good

    known = [k for k, done in stage.done.items() if 0 <= k < len(blocks) and (allow_nonfinite or not done.flags)]
    return {
        index
        for index, good in each(known, work, lambda: bytearray(max(todo.block, THREE_PIECES)), todo.threads)
        if good
    }


def _nonfinite(todo: Plan, blocks: list[Block], linear: Sums) -> NonFiniteError:
    """The error that names each tensor, and for each either the sources that have NaN or Inf, or the output dtype that
    overflowed."""
    problems: dict[str, None] = {}
    for block in blocks:
        guilty = [part for part in linear[block.name].parts if _is_nonfinite(*part, block)]
        dtype = todo.shards[block.shard].specs[block.name].dtype
        reasons = [f"{name} has NaN or Inf in {s.text}" for s, name in guilty] or [f"{block.name} overflows {dtype}"]
        problems |= dict.fromkeys(reasons)
    return NonFiniteError("the output would not be finite (allow it with --allow-nonfinite):", problems)


def _is_nonfinite(source: Source, name: str, block: Block) -> bool:
    out, scratch = bytearray(block.count * 8), memoryview(bytearray(scratch_bytes([(source, name)], block.count)))
    return bool(evaluate(alone(source, name), block.start, block.count, "F64", out, scratch))
