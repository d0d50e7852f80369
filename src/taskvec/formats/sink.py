"""Sinks: what tensors are written to. Safetensors files are the first kind.

A file of tensors is written in this order:

1. `laid_out` says how long the header will be and where each tensor will lie, from names, shapes and metadata that are
   as long as the final ones. There is no data yet.
2. Blocks of tensors are written at their places, in any order and by any thread.
3. The header is written last, into the bytes that were left free for it: only then are the digests known that it holds.

The file is open all that time and is not opened again.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from taskvec.formats.header import write_header
from taskvec.numbers.dtypes import BITS
from taskvec.places.place import Writable, WritablePlace
from taskvec.sources.cost import Cost
from taskvec.sources.source import Spec, fingerprint, samples

HELD = 4 << 20  # bytes of samples that are kept in memory for the fingerprint, enough for a model of 8B parameters
A_SAMPLE = 250  # bytes that a sample takes beside its own
A_TENSOR, A_CHARACTER = 1200, 5  # bytes of tables and of the header for a tensor, and for each character of its name


@dataclass(frozen=True, slots=True)
class Layout:
    """One file: its tensors, the byte of the file at which each begins, and the bytes of the header and of the file."""

    filename: str
    specs: Mapping[str, Spec]
    offsets: Mapping[str, int]
    header_size: int
    size: int


def laid_out(filename: str, specs: Mapping[str, Spec], metadata: Mapping[str, str], multiple: int = 8) -> Layout:
    """The layout of a file whose metadata will be at most as long as this. The data begins at a `multiple` of bytes."""
    header, offsets = write_header(specs, metadata, multiple=multiple)
    return Layout(filename, specs, offsets, len(header), len(header) + sum(spec.nbytes for spec in specs.values()))


class Sink(Protocol):
    """What the tensors of an output are written to.

    `name` says which tensor, `start` is the flat index of the first element, and `data` holds the bytes of elements.
    Each element is written, or kept, exactly once: anything else is a ValueError.
    """

    def write(self, name: str, start: int, data: memoryview) -> None:
        """Put elements where they belong. Any thread may do it, in any order."""

    def keep(self, name: str, start: int, data: memoryview) -> None:
        """The same for elements that an earlier run has written: they are there, and `data` is what they are."""

    def read(self, name: str, start: int, out: memoryview) -> bool:
        """Fill `out` with what lies there, written in this run or an earlier one; False where nothing does."""

    def sync(self) -> None:
        """Return when all that was written is safe from a power cut, as far as the place can tell."""

    def fingerprint(self) -> str:
        """The fingerprint that a source will have which is opened on this output."""

    def finish(self, metadata: Mapping[str, str]) -> Mapping[str, str]:
        """Write what describes the tensors, all of which are there. Returns a proof for each file, by its name."""

    def close(self) -> None:
        """Let go of the files, finished or not."""


class Safetensors:
    """A `Sink` that is one safetensors file in a place, or several with different tensors in each."""

    def __init__(self, place: WritablePlace, layouts: Sequence[Layout], durable: bool):
        """durable: what was written is safe from a power cut after `finish`, and after each `sync`."""
        self._durable, self._turn = durable, threading.Lock()
        self._files: list[tuple[Layout, Writable]] = []
        self._of: dict[str, tuple[Layout, Writable]] = {}  # the file of each tensor
        self._specs: dict[str, Spec] = {}
        try:
            for layout in layouts:
                if doubled := layout.specs.keys() & self._specs.keys():
                    raise ValueError(f"{', '.join(sorted(doubled))}: a tensor belongs to one file, not to two")
                self._files.append((layout, place.create(layout.filename, layout.size, durable)))
                self._of |= dict.fromkeys(layout.specs, self._files[-1])
                self._specs |= layout.specs
        except BaseException:
            self.close()
            raise
        whole = (name for name, spec in self._specs.items() if spec.nbytes)
        self._missing: dict[str, list[tuple[int, int]] | None] = dict.fromkeys(whole)  # ranges of bytes, None for all
        self._samples = _Samples(self._specs)

    def write(self, name: str, start: int, data: memoryview) -> None:
        """See `Sink`."""
        self.keep(name, start, data)
        layout, file = self._of[name]
        file.write(layout.offsets[name] + self._first(name, start), data)

    def keep(self, name: str, start: int, data: memoryview) -> None:
        """See `Sink`."""
        first = self._first(name, start)
        self._take(name, first, first + len(data))
        self._samples.see(name, first, data)

    def _first(self, name: str, start: int) -> int:
        """The byte of a tensor at which an element begins."""
        return start * BITS[self._specs[name].dtype] // 8

    def _take(self, name: str, first: int, last: int) -> None:
        """Note that these bytes of a tensor are no longer missing. Raises ValueError if they were not missing."""
        if first == last:
            return
        with self._turn:
            gaps = self._missing.get(name, [])
            gaps = [(0, self._specs[name].nbytes)] if gaps is None else gaps
            for k, (begin, end) in enumerate(gaps):
                if begin <= first and last <= end:
                    gaps[k : k + 1] = [(a, b) for a, b in ((begin, first), (last, end)) if a < b]
                    if gaps:
                        self._missing[name] = gaps
                    else:
                        del self._missing[name]
                    return
        raise ValueError(f"{name}: its bytes {first} to {last} do not exist, or some of them are written already")

    def read(self, name: str, start: int, out: memoryview) -> bool:
        """See `Sink`."""
        layout, file = self._of[name]
        return file.read(layout.offsets[name] + self._first(name, start), out)

    def sync(self) -> None:
        """See `Sink`."""
        for _, file in self._files if self._durable else ():
            file.sync()

    def fingerprint(self) -> str:
        """See `Sink`. What the memory for samples did not suffice for is read again, through the open files."""

        def readinto(name: str, start: int, out: memoryview) -> None:
            if not self._samples.readinto(name, self._first(name, start), out) and not self.read(name, start, out):
                raise ValueError(f"{name} is not written")

        return fingerprint(self._specs, readinto)

    def finish(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """See `Sink`. Every file has the same metadata; the proofs are the BLAKE3 digests of the headers."""
        from blake3 import blake3

        if self._missing:
            raise ValueError(f"{len(self._missing)} tensors are not all written: {', '.join([*self._missing][:5])}")
        proofs = {}
        for layout, file in self._files:
            header, _ = write_header(layout.specs, metadata, layout.header_size)
            if len(header) != layout.header_size:
                raise ValueError(f"{layout.filename} has {layout.header_size} bytes for a header of {len(header)}")
            file.write(0, memoryview(header))
            if self._durable:
                file.sync()
            proofs[layout.filename] = blake3(header).hexdigest()
        return proofs

    def close(self) -> None:
        """See `Sink`."""
        for _, file in self._files:
            file.close()
        self._files = []


class _Samples:
    """The bytes that the fingerprint is made of, kept as the blocks pass by, up to HELD bytes.

    They cannot be hashed as they come: the fingerprint takes tensors in the order of their names, and blocks come in
    any order.
    """

    def __init__(self, specs: Mapping[str, Spec]):
        # tensor -> the first byte of each sample, and its bytes
        self._of = {name: [(first, bytearray(size)) for first, size in ranges] for name, ranges in _held(specs)}

    def see(self, name: str, first: int, data: memoryview) -> None:
        """Copy what belongs to a sample from the bytes of a tensor from `first` on."""
        for begin, sample in self._of.get(name, ()):
            low, high = max(begin, first), min(begin + len(sample), first + len(data))
            if low < high:
                sample[low - begin : high - begin] = data[low - first : high - first]

    def readinto(self, name: str, first: int, out: memoryview) -> bool:
        """Give a sample back; False if it is not held."""
        for begin, sample in self._of.get(name, ()):
            if begin == first:
                out[:] = sample
                return True
        return False


def _held(specs: Mapping[str, Spec]) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """The tensors whose samples are kept in memory, each with (first byte, bytes) of its samples."""
    left = HELD
    for name, spec in specs.items():
        bits = BITS[spec.dtype]
        ranges = [(start * bits // 8, count * bits // 8) for start, count in samples(spec)]
        left -= sum(size for _, size in ranges)
        if left < 0:
            return
        yield name, ranges


def cost_of_sink(specs: Mapping[str, Spec]) -> Cost:
    """The memory that a `Safetensors` of these tensors takes, be they in one file or in several: its samples and its
    tables, and the header while that is written."""
    sizes = [size for _, ranges in _held(specs) for _, size in ranges]
    tables = sum(A_TENSOR + A_CHARACTER * len(name) for name in specs)
    return Cost(once=sum(sizes) + A_SAMPLE * len(sizes) + tables)
