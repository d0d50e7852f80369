"""What anything readable looks like: named tensors, headers known, elements readable in any range."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from taskvec.errors import MassError, SourceChanged
from taskvec.numbers.dtypes import BITS, CODES
from taskvec.sources.cost import Cost

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

    @property
    def cost(self) -> Cost:
        """The memory that it takes beside that of a block, itself alone: what is below it says so for itself."""

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


def leaves_of(source: Source) -> tuple[Source, ...]:
    """The files and arrays that a source reads: itself, or what a method was given."""
    return getattr(source, "leaves", (source,))


def statistic_of(source: Source) -> str:
    """The kind of statistics that a source holds instead of weights, or ""."""
    return getattr(source, "statistic", "")


def refuse_statistics(sources: Iterable[Source]) -> None:
    """Raise MassError that names the sources which hold statistics: what is summed are weights."""
    if found := [
        f"{s.text} holds {statistic_of(s)} statistics: only a method takes them" for s in sources if statistic_of(s)
    ]:
        raise MassError("statistics are no weights:", found)


def written(source: Source, names: Mapping[Source, str]) -> str:
    """A source as a recipe writes it."""
    call = getattr(source, "written", None)
    return str(call(names)) if call else names.get(source, source.text)


class ArraySource:
    """Tensors in memory, under a name. `arrays`: name -> C-contiguous numpy array.

    The memory stays the caller's, who may write to it at any time. Nothing tells when that happens, so the stamp is a
    digest of every byte, and an array that changes after it was first stamped is an error.
    """

    partial, cost = False, Cost()

    def __init__(
        self, name: str, arrays: "Mapping[str, NDArray[Any]]", specs: Mapping[str, Spec], mass: int, statistic: str = ""
    ):
        self.text, self.mass, self.specs, self.base = name, mass, dict(specs), None
        self.statistic = statistic
        self._stamp: str | None = None  # the first one, which later ones are compared with
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

    def stamp(self) -> str:
        """BLAKE3 of name, dtype, shape and all bytes of every tensor, as they are now; on all cores, several GB/s."""
        from blake3 import blake3

        state = blake3(max_threads=blake3.AUTO)
        for name, data in self._bytes.items():
            spec = self.specs[name]
            state.update(json.dumps([name, spec.dtype, spec.shape]).encode())
            state.update(data)
        found = state.hexdigest()
        self._stamp = self._stamp or found
        return found

    def require_unchanged(self) -> None:
        """Raise SourceChanged if an array holds other bytes than when it was first stamped or fingerprinted.

        The fingerprint and what methods have measured are remembered, and would be those of other numbers.
        """
        known = self.__dict__.get("fingerprint")
        changed = known is not None and known != fingerprint(self.specs, self.readinto)
        if changed or (self._stamp is not None and self._stamp != self.stamp()):
            raise SourceChanged(
                f"{self.text}: an array in memory changed after it was read; nothing was written. Leave it as it is "
                "while it is used, or call from_arrays again to use the new numbers"
            )

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint`."""
        return fingerprint(self.specs, self.readinto)
