"""A place in memory: all that an implementation needs beside a folder of this machine, in one file."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from taskvec.errors import FormatError, SourceChanged
from taskvec.places.place import Readable, Writable, WritablePlace


@dataclass
class Store:
    """Files under whole names, such as "model/config.json". A name stands for another object when its file is replaced;
    `versions` counts the writes to each object."""

    files: dict[str, bytearray] = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)
    turn: threading.Lock = field(default_factory=threading.Lock)

    def put(self, name: str, content: bytes) -> None:
        """A file as another program writes it."""
        self.files[name] = bytearray(content)
        self.touch(name)

    def touch(self, name: str) -> None:
        """Note a write."""
        key = id(self.files[name])
        self.versions[key] = self.versions.get(key, 0) + 1

    def stamp(self, name: str) -> tuple[int, ...]:
        """What changes when the bytes do."""
        content = self.files[name]
        return len(content), id(content), self.versions[id(content)]


class MemoryFile(Readable):
    """See `Readable`."""

    def __init__(self, store: Store, name: str):
        if name not in store.files:
            raise FormatError(f"memory:{name}: does not exist")
        self.uri = self.address = f"memory:{name}"
        self._store, self._name, self._content = store, name, store.files[name]
        self.stamp, self.size = store.stamp(name), len(self._content)

    def readinto(self, offset: int, out: memoryview) -> None:
        """See `Readable`."""
        if self._store.stamp(self._name) != self.stamp or offset + len(out) > self.size:
            raise SourceChanged(f"{self.uri} changed while it was read; nothing was written")
        out[:] = memoryview(self._content)[offset : offset + len(out)]

    def require_unchanged(self) -> None:
        """See `Readable`."""
        if self._name not in self._store.files or self._store.stamp(self._name) != self.stamp:
            raise SourceChanged(f"{self.uri} changed while it was read; nothing was written")


class MemoryDraft(Writable):
    """See `Writable`."""

    def __init__(self, store: Store, name: str, size: int):
        self._store, self._name = store, name
        content = store.files.setdefault(name, bytearray(size))
        content += bytes(size - len(content))
        self._content = content
        store.touch(name)

    def write(self, offset: int, data: memoryview) -> None:
        """See `Writable`."""
        with self._store.turn:
            self._content[offset : offset + len(data)] = data
            self._store.touch(self._name)

    def read(self, offset: int, out: memoryview) -> bool:
        """See `Writable`."""
        piece = memoryview(self._content)[offset : offset + len(out)]
        out[: len(piece)] = piece
        return len(piece) == len(out)

    def sync(self) -> None:
        """See `Writable`."""

    def close(self) -> None:
        """See `Writable`."""


class MemoryPlace(WritablePlace):
    """The files of a store whose names begin with `prefix`. See `Place`."""

    def __init__(self, store: Store, prefix: str = ""):
        self.store, self._prefix = store, prefix

    def uri(self, name: str = "") -> str:
        """See `Place`."""
        return f"memory:{self._prefix}{name}"

    def names(self) -> list[str]:
        """See `Place`."""
        return [name for name in self._below(self._prefix) if "/" not in name]

    def _below(self, prefix: str) -> Iterator[str]:
        yield from (name.removeprefix(prefix) for name in [*self.store.files] if name.startswith(prefix))

    def holds(self, name: str) -> bool:
        """See `Place`."""
        return self._prefix + name in self.store.files

    def open(self, name: str) -> MemoryFile:
        """See `Place`."""
        return MemoryFile(self.store, self._prefix + name)

    def create(self, name: str, size: int, durable: bool) -> MemoryDraft:
        """See `WritablePlace`."""
        return MemoryDraft(self.store, self._prefix + name, size)

    def publish(self, draft: str, name: str) -> None:
        """See `WritablePlace`."""
        old, new = self._prefix + draft, self._prefix + name
        with self.store.turn:
            if new in self.store.files or any(self._below(f"{new}/")):
                raise FileExistsError(new)
            kept = {k: v for k, v in self.store.files.items() if k != old and not k.startswith(f"{old}/")}
            moved = {new + k.removeprefix(old): v for k, v in self.store.files.items() if k not in kept}
            self.store.files = kept | moved
