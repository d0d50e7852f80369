"""The memory that work takes, counted before the work begins.

1. Some memory is held once, from the beginning to the end, by however many threads: the factors of an adapter, the
   order of the rows of a view, the whole tensors of a method that cannot do with less (`once`).
2. A method that must measure first reads a part of each of its arguments at a time, in every thread (`measuring`).
   Methods measure one after the other, so of several only the one that needs most counts.
3. While a thread computes, each call of a method or a view that takes part in a tensor has tables and tiles of its own
   (`computing`). These calls work within one another, so what they hold adds up.
4. A thread has memory for one block of the output: for the bytes of the block, and for what the kernel reads to make
   them (`block`). This is the only number that grows with the size of a block.
5. Costs are added for what is there at the same time. A thread computes one tensor after the other: of several tensors
   the largest number of each kind counts, which is `one | other`.
6. So a run in k threads holds at most  once + k (measuring + computing + block)  bytes.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of memory: of one source, of all that is summed for one tensor, or of a whole run."""

    once: int = 0
    measuring: int = 0
    computing: int = 0
    block: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Both at the same time, though what they measure they measure one after the other."""
        return Cost(
            self.once + other.once,
            max(self.measuring, other.measuring),
            self.computing + other.computing,
            self.block + other.block,
        )

    def __or__(self, other: "Cost") -> "Cost":
        """One after the other."""
        return Cost(
            max(self.once, other.once),
            max(self.measuring, other.measuring),
            max(self.computing, other.computing),
            max(self.block, other.block),
        )

    def of(self, threads: int) -> int:
        """The most that so many threads hold."""
        return self.once + threads * (self.measuring + self.computing + self.block)
