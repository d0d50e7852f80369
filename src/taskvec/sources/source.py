"""What every source can do: it knows the names, shapes and dtypes of its tensors, and reads any range of elements."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol, runtime_checkable

from taskvec.numbers.dtypes import BITS, CODES

PROBES, PROBE_BYTES = 4, 4096  # samples of each tensor that a fingerprint reads; bytes of a sample


@dataclass(frozen=True, slots=True)
class Spec:
    """The header of one tensor: its shape, and its dtype under its name in safetensors ("BF16")."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a scalar."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return self.numel * BITS[self.dtype] // 8

    @property
    def arithmetic(self) -> bool:
        """Whether the tensor can be summed. Other tensors must be the same in all models, and are copied."""
        return self.dtype in CODES

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@runtime_checkable
class Source(Protocol):
    """A checkpoint, a task vector, a LoRA, the result of a method. Hashable; equal sources hold equal tensors.

    Every source has these members, and so must one that you write yourself (docs/sources.md). What some sources can do
    beyond that is in abilities.py. A source of statistics, in place of weights, has an attribute `statistic` that says
    of which kind they are.
    An interrupted `save` goes on only if the `stamp` of every source is the one that it began with. An output gets its
    final name only if `require_unchanged` of every source has passed after the last byte was read.
    """

    @property
    def mass(self) -> int:
        """1 for a model, 0 for a task vector."""

    @property
    def partial(self) -> bool:
        """Whether tensors that are not named are zero by nature (a LoRA) rather than missing."""

    @property
    def specs(self) -> Mapping[str, Spec]:
        """Name -> Spec, in the order of the files."""

    @property
    def text(self) -> str:
        """What a recipe calls it: `load("runs/toxic")`, or a plain name for arrays in memory."""

    @property
    def fingerprint(self) -> str:
        """The function `fingerprint` below, of this source."""

    @property
    def base(self) -> str | None:
        """The fingerprint of the model that a task vector was made from, if it is known."""

    def stamp(self) -> str | None:
        """A text that changes when any byte changes, such as a digest, or the times and sizes of files.

        None if there is no such text, as for a function that reads a database. An interrupted output of such a source
        is made again from the start.
        """

    def require_unchanged(self) -> None:
        """Raise SourceChanged unless the bytes are still those that were there when the source was first used."""

    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Fill `out`, a writable buffer, with elements of `name` from flat index `start` on, as little-endian bytes.

        The length of `out` says how many elements are wanted. This may be called from several threads at once.
        """


def fingerprint(specs: Mapping[str, Spec], readinto: Callable[[str, int, memoryview], None]) -> str:
    """BLAKE3 over (name, dtype, shape, up to 4 evenly spaced samples of 4 KiB) of every tensor, in name order.

    It does not depend on the file format, on sharding or on the order of tensors. It takes milliseconds, and does not
    see a change between the samples; digests (saving/lineage.py) cover every byte.
    """
    from blake3 import blake3

    state = blake3()
    for name in sorted(specs):
        spec = specs[name]
        ranges = [(start, count * BITS[spec.dtype] // 8) for start, count in samples(spec)]
        # The same text as json.dumps([name, dtype, shape]), which is slow for a list.
        shape = ",".join(map(str, spec.shape))
        hashed = bytearray(f'[{json.dumps(name)},"{spec.dtype}",[{shape}]]'.encode())
        at = len(hashed)
        hashed += bytes(sum(size for _, size in ranges))
        view = memoryview(hashed)
        for start, size in ranges:
            readinto(name, start, view[at : at + size])
            at += size
        state.update(hashed)  # one call for a tensor, because a merge waits until hundreds of them are done
    return state.hexdigest()


def samples(spec: Spec) -> list[tuple[int, int]]:
    """(start, count) of the ranges that a fingerprint reads: the whole tensor if it is no larger than the samples."""
    most = PROBE_BYTES * 8 // BITS[spec.dtype]
    if spec.numel <= PROBES * most:
        return [(0, spec.numel)] if spec.numel else []
    step = (spec.numel - most) // (PROBES - 1) // 8 * 8  # a range begins at a whole byte for dtypes of 4 bits, too
    return [(k * step, most) for k in range(PROBES)]
