"""What anything readable looks like: named tensors, headers known, elements readable in any range."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol, runtime_checkable

from taskvec.numbers.dtypes import BITS, CODES

PROBES, PROBE_BYTES = 4, 4096  # samples a tensor that a fingerprint reads, and their size


@dataclass(frozen=True, slots=True)
class Spec:
    """The header of one tensor: its shape, and its dtype by the name that safetensors has for it ("BF16")."""

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
        """Whether the tensor takes part in sums; others must agree and pass through."""
        return self.dtype in CODES

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@runtime_checkable
class Source(Protocol):
    """A checkpoint, a task vector, a LoRA, the result of a method. Hashable; equal sources hold equal tensors.

    These members are what every source has, also one of your own. What some sources can do beyond is in abilities.py.
    A source that holds no weights but statistics of a model says of which kind in an attribute `statistic`.
    `readinto(name, start, out)` fills `out`, a writable buffer, with the raw little-endian elements of `name` from
    flat index `start` on; the length of `out` says how many. It may be called from several threads.
    An interrupted `save` goes on only if the `stamp` of every source is the one that it began with, and nothing gets
    its final name unless `require_unchanged` of every source has passed after the last byte was read.
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
        """How a recipe writes it: `load("runs/toxic")`, or a plain name for arrays in memory."""

    @property
    def fingerprint(self) -> str:
        """The function `fingerprint` below, of this source."""

    @property
    def base(self) -> str | None:
        """The fingerprint of the model that a task vector was made from, if it is known."""

    def stamp(self) -> str | None:
        """A text that is another one as soon as any byte is another: a digest, or what the file system says of files.

        None where there is no such proof, as for a function that reads a database. An output of such a source is not
        resumed but made again from the start.
        """

    def require_unchanged(self) -> None:
        """Raise SourceChanged unless the bytes are still those that were there when the source was first used."""

    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Fill `out` with elements of `name` from flat index `start` on."""


def fingerprint(specs: Mapping[str, Spec], readinto: Callable[[str, int, memoryview], None]) -> str:
    """BLAKE3 over (name, dtype, shape, up to 4 evenly spaced samples of 4 KiB) of every tensor, in name order.

    Independent of the container, of sharding and of tensor order. Milliseconds a model, so it cannot see a change that
    falls between the samples; digests (lineage.py) cover every byte.
    """
    from blake3 import blake3

    state = blake3()
    for name in sorted(specs):
        spec = specs[name]
        ranges = [(start, count * BITS[spec.dtype] // 8) for start, count in samples(spec)]
        # As json writes [name, dtype, shape]: json.dumps has a short way for one text, not for a list.
        shape = ",".join(map(str, spec.shape))
        found = bytearray(f'[{json.dumps(name)},"{spec.dtype}",[{shape}]]'.encode())
        at = len(found)
        found += bytes(sum(size for _, size in ranges))
        view = memoryview(found)
        for start, size in ranges:
            readinto(name, start, view[at : at + size])
            at += size
        state.update(found)  # all of a tensor at once: a merge begins when hundreds of them are read
    return state.hexdigest()


def samples(spec: Spec) -> list[tuple[int, int]]:
    """(start, count) of the ranges that a fingerprint reads: everything where that is less."""
    most = PROBE_BYTES * 8 // BITS[spec.dtype]
    if spec.numel <= PROBES * most:
        return [(0, spec.numel)] if spec.numel else []
    step = (spec.numel - most) // (PROBES - 1) // 8 * 8  # whole bytes for sub-byte dtypes too
    return [(k * step, most) for k in range(PROBES)]
