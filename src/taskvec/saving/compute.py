"""How the blocks of a plan are computed. A worker is given data and returns data, so it may run anywhere.

1. A worker needs nothing but the plan, from which it makes once what all blocks share: the sum of every tensor.
2. What it computes for a block depends on the plan and on the block alone, never on other blocks.
3. Where the bytes go is not a worker's business: stream.py writes them.
4. Methods may have to measure the sources before they compute. A worker can be told to `measure` for many blocks at
   once, in several threads. Otherwise each method measures when it is first asked for a block.
"""

from collections.abc import Callable, Iterable

from taskvec.algebra.derived import prepare
from taskvec.places.local import PAGE
from taskvec.saving.blocks import arena, fill, sums
from taskvec.saving.lineage import pieces
from taskvec.saving.plan import Block, Plan
from taskvec.saving.staging import Done


class Worker:
    """Computes blocks of a plan, in as many threads as there are memories."""

    def __init__(self, plan: Plan):
        self.plan, self.sums = plan, sums(plan.weights, plan.specs)

    def measure(self, blocks: Iterable[Block], progress: Callable[[int], None] = lambda elements: None) -> None:
        """Let methods measure what they must know of the tensors of these blocks, in the plan's threads."""
        names = dict.fromkeys(block.name for block in blocks)
        prepare([self.plan.weights], self.plan.threads, progress, names)

    def memory(self) -> memoryview:
        """The memory that one thread needs, enough for any block of the plan."""
        return arena(self.plan.cost.block - PAGE)

    def compute(self, block: Block, memory: memoryview) -> tuple[Done, memoryview]:
        """The digests and flags of a block, and its bytes, which stay in `memory` until the next block."""
        spec = self.plan.shards[block.shard].specs[block.name]
        memory = memory[
            block.offset % PAGE :
        ]  # aligned as the block is in its file, so that it can be written directly
        data, flags = fill(memory, block.name, spec, block.start, block.count, self.sums, self.plan.like)
        return Done(block.index, tuple(pieces(data)), flags), data
