"""Places, where files lie: what is promised by a folder of this machine, by a bucket of an object store, by the hub.

1. A place holds files under names. `names` lists them, `holds` asks for one of them, `open` gives one for reading.
2. Any thread reads any range of an open file. If the file ends before, SourceChanged is raised: no byte is made up.
3. The stamp of a file changes when its bytes do, as far as the place can tell. `require_unchanged` asks the place
   whether the address still stands for a file with that stamp. If it passes after the last read, all that was read were
   bytes of the file that was opened. Files with equal addresses and equal stamps are equal.
4. What is written is a draft. Its size is known from the beginning, so that a place which is full can say so before the
   work. Any thread writes any range of it, in any order. If a draft is created again, after a kill, what was written to
   it is still there.
5. `publish` gives a draft its name in one step: at every moment a reader finds all of it under that name, or nothing.
   What has the name already is never replaced.
6. What cannot be read is a FormatError that names the file. What cannot be written is an OSError, and callers state it.

A place that can only be read, such as a web server, has the members of `Place` and no more. What only some places can
do beyond is an ability: a class at the end of this file, which an implementation inherits from and which `isinstance`
asks for. tests/places/test_contract.py asks all this of every place.
"""

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Protocol


class Readable(Protocol):
    """A file that is open for reading.

    uri: how messages name it. address: where it lies, whatever folder the process is in: two openings of one file have
    the same one. size: bytes. stamp: see 3 above; its `repr` is as good a proof as itself.
    """

    uri: str
    address: str
    size: int
    stamp: Hashable

    def readinto(self, offset: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `offset` on. Raises SourceChanged if the file ends before."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset` on. Raises SourceChanged if the file ends before."""
        piece = bytearray(length)
        self.readinto(offset, memoryview(piece))
        return bytes(piece)

    def require_unchanged(self) -> None:
        """Raise SourceChanged unless the address still stands for the file that was opened."""


class Place(Protocol):
    """A folder of files, or what is like one. It can be read."""

    def uri(self, name: str = "") -> str:
        """How messages name the place, or the file of this name in it."""

    def names(self) -> Sequence[str]:
        """The names of its files, in any order; folders within it are left out."""

    def holds(self, name: str) -> bool:
        """Whether there is a file of this name. It asks for this one only, where `names` may list thousands."""

    def open(self, name: str) -> Readable:
        """A file for reading. Raises FormatError if there is none."""


class Writable(Protocol):
    """A draft that is being written."""

    def write(self, offset: int, data: memoryview) -> None:
        """Put all of `data` at `offset`."""

    def read(self, offset: int, out: memoryview) -> bool:
        """Fill `out` with what was written from `offset` on, in this run or an earlier one. False if the draft ends
        before."""

    def sync(self) -> None:
        """Return when all that was written is safe from a power cut, as far as the place can tell."""

    def close(self) -> None:
        """Let go of the draft, which stays where it is."""


class WritablePlace(Place, Protocol):
    """A place that can be written to."""

    def create(self, name: str, size: int, durable: bool) -> Writable:
        """A draft of `size` bytes, or the one that is there under this name. durable: it will be synced, so that a
        place may choose a way past its caches."""

    def publish(self, draft: str, name: str) -> None:
        """Give a draft its name in one step: a file, or a folder with all that is in it. Raises FileExistsError if the
        name is taken."""


# ---- abilities -------------------------------------------------------------------------------------
class WithDescriptor:
    """A readable file that a kernel in C can read by itself."""

    @abstractmethod
    def fd(self) -> int:
        """The descriptor. It stays open as long as this object lives."""


class WithFolder:
    """A place whose small files (configuration, tokenizer, model card) lie in a folder of this machine, be it the place
    itself or copies of them."""

    folder: Path
