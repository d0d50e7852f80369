"""What anything readable looks like: named tensors, headers known, elements readable in any range."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from taskvec.dtypes import BITS, CODES

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROBES, PROBE_BYTES = 4, 4096  # samples a tensor that a fingerprint reads, and their size


@dataclass(frozen=True, slots=True)
class Spec:
    """The header of one tensor: its shape and its dtype by the safetensors name ("BF16")."""

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

    A source that holds no weights but statistics of a model says of which kind in an attribute `statistic`.
    `readinto(name, start, out)` fills `out`, a writable buffer, with the raw little-endian elements of `name` from
    flat index `start` on; the length of `out` says how many. It may be called from several threads.
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

    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Fill `out` with elements of `name` from flat index `start` on."""


def fingerprint(specs: Mapping[str, Spec], readinto: Callable[[str, int, memoryview], None]) -> str:
    """BLAKE3 over (name, dtype, shape, up to 4 evenly spaced samples of 4 KiB) of every tensor, in name order.

    Independent of the container, of sharding and of tensor order. Milliseconds a model, so it cannot see a change that
    falls between the samples; digests (lineage.py) cover every byte.
    """
    from blake3 import blake3

    state, written = blake3(), json.JSONEncoder(separators=(",", ":")).encode
    for name in sorted(specs):
        spec = specs[name]
        ranges = [(start, count * BITS[spec.dtype] // 8) for start, count in samples(spec)]
        found = bytearray(written([name, spec.dtype, spec.shape]).encode())
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


class ArraySource:
    """Tensors in memory, under a name. `arrays`: name -> C-contiguous numpy array."""

    partial = False

    def __init__(
        self, name: str, arrays: "Mapping[str, NDArray[Any]]", specs: Mapping[str, Spec], mass: int, statistic: str = ""
    ):
        self.text, self.mass, self.specs, self.base = name, mass, dict(specs), None
        self.statistic = statistic
        self._bytes = {
            n: memoryview(a.reshape(-1).view("u1").data) if a.size else memoryview(b"") for n, a in arrays.items()
        }

    def addresses(self) -> Iterator[tuple[str, int, int]]:
        """Where each tensor lies: its name, the address of its first byte, and that behind its last one."""
        import numpy as np

        for name, data in self._bytes.items():
            if data:
                first = np.frombuffer(data, np.uint8).ctypes.data
                yield name, first, first + len(data)

    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Copy the elements."""
        first = start * BITS[self.specs[name].dtype] // 8
        out[:] = self._bytes[name][first : first + len(out)]

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint`."""
        return fingerprint(self.specs, self.readinto)
