"""Files: from a uri to a path, from a path to exact reads, and from bytes to a durable file under its final name."""

import ctypes
import errno
import os
import re
import shutil
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from taskvec.errors import FormatError, MissingExtra, OutputError, SourceChanged, TaskvecError

HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.md")
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def resolve(uri: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The local file or folder that `uri` names: a path, or `org/name` on the Hugging Face hub (the `hub` extra)."""
    with stated(uri):
        path = expanded(uri)
        if path.exists():
            return path
    if _HUB_ID.match(str(uri)) and not path.parent.is_dir():
        return _from_hub(str(uri), revision)
    raise FormatError(f"{uri} does not exist")


def expanded(uri: str | os.PathLike[str]) -> Path:
    """The path, with ~ replaced. Raises OSError where there is no such home."""
    try:
        return Path(uri).expanduser()
    except RuntimeError:
        raise FileNotFoundError(errno.ENOENT, "no such home", os.fspath(uri)) from None


def place_to_write(uri: str | os.PathLike[str]) -> Path:
    """The absolute path, through links, of what is to be written. Raises OutputError."""
    try:
        with stated(uri, OutputError):
            found = expanded(uri).resolve()
    except RuntimeError as error:  # links in a circle
        raise OutputError(f"{os.fspath(uri)} cannot be written to: {error}") from None
    if not found.name:
        raise OutputError(f"{found} is the root of all files: name a folder or a file in it for the output")
    return found


def _from_hub(name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtra(f"{name} is no local path; to look for it on the hub taskvec", "hub") from None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(HUB_FILES)))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FormatError(f"{name} is no local path, and the hub did not give it: {reason}") from None


class File:
    """A file opened once, read at exact positions by any thread, and known to be the one that was opened."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._fd: int | None = None
        with stated(path):
            self._stamp = _stamp(path.stat())
        self.size = self._stamp[0]

    def fd(self) -> int:
        """The descriptor, opened on first use."""
        if self._fd is None:
            with self._lock, stated(self.path):
                if self._fd is None:
                    fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
                    weakref.finalize(self, os.close, fd)
                    self._require(_stamp(os.fstat(fd)))
                    self._fd = fd
        return self._fd

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes at `offset`."""
        piece = bytearray(length)
        self.readinto(offset, memoryview(piece))
        return bytes(piece)

    def readinto(self, offset: int, out: memoryview) -> None:
        """Fill `out` from `offset` on. Raises SourceChanged at an early end of the file."""
        fd, done, view = self.fd(), 0, out.cast("B")
        while done < len(view):
            try:
                count = os.preadv(fd, [view[done:]], offset + done)
            except OSError as error:
                raise TaskvecError(f"{self.path} cannot be read: {error.strerror}") from None
            if count == 0:
                raise SourceChanged(f"{self.path} became shorter while it was read; nothing was written")
            done += count

    def require_unchanged(self) -> None:
        """Raise SourceChanged unless the path still names the file as it was opened (size, time of change, inode)."""
        try:
            self._require(_stamp(self.path.stat()))
        except FileNotFoundError:
            raise SourceChanged(f"{self.path} vanished while it was read; nothing was written") from None

    def _require(self, now: tuple[int, ...]) -> None:
        if now != self._stamp:
            raise SourceChanged(f"{self.path} changed while it was read; nothing was written")


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev


REFUSALS = {
    errno.EACCES: "permission denied",
    errno.ENOENT: "does not exist",
    errno.EISDIR: "is a folder",
    errno.EMFILE: "too many open files; write larger shards, or raise the limit (ulimit -n)",
}


class stated:  # noqa: N801 - reads as a word: with stated(path): ...
    """Turns the operating system's refusals into stated errors about `path`."""

    def __init__(self, path: os.PathLike[str] | str, kind: type[TaskvecError] = FormatError):
        self.path, self.kind = path, kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            if error.errno == errno.ENOSPC:
                raise OutputError(
                    f"no space left on the disk of {self.path}; make room and run the same command again"
                ) from None
            where = error.filename if isinstance(error.filename, str) else self.path
            raise self.kind(f"{where}: {REFUSALS.get(error.errno or 0, error.strerror or str(error))}") from None


# ---- writing -------------------------------------------------------------------------------------
PAGE = 4096  # what direct writes are aligned to, in the file and in memory
CACHED = 256 << 10  # bytes a write through the cache; longer ones send Linux looking for huge pages


class Output:
    """A file of a known size, written by any thread at any position.

    Its room on the disk is reserved at once where the system can: a full disk shows before the work, and writers need
    not wait for one another to find blocks. `direct`: whole pages go from the caller's memory to the disk itself, past
    the system's cache, where the file system can do that: no copy, nothing evicted, little left for fsync. For that
    the memory must lie as the file does, address = offset modulo PAGE. The rest goes through the cache.
    """

    def __init__(self, path: Path, size: int, direct: bool):
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        self._direct: int | None = None
        self._turn = threading.Lock()  # the system lets one write to the cache of a file at a time; it spins, we sleep
        try:
            _reserve(self.fd, size)
        except OSError:
            self.close()
            raise
        if direct and hasattr(os, "O_DIRECT"):
            with suppress(OSError):  # a file system that cannot
                self._direct = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)

    def write(self, data: memoryview, offset: int) -> None:
        """All of `data` at `offset`."""
        first = min(-offset % PAGE, len(data))
        last = first + (len(data) - first) // PAGE * PAGE
        if self._direct is not None and last > first and address(data) % PAGE == offset % PAGE:
            try:
                write_exactly(self._direct, data[first:last], offset + first)
            except OSError as error:
                if error.errno != errno.EINVAL:  # EINVAL: coarser than PAGE, or not after all
                    raise
                self._cached(data[first:last], offset + first)
            self._cached(data[:first], offset)
            self._cached(data[last:], offset + last)
        else:
            self._cached(data, offset)

    def _cached(self, data: memoryview, offset: int) -> None:
        with self._turn:
            for at in range(0, len(data), CACHED):
                write_exactly(self.fd, data[at : at + CACHED], offset + at)

    def close(self) -> None:
        """Close it; durable only what was synced."""
        os.close(self.fd)
        if self._direct is not None:
            os.close(self._direct)


def _reserve(fd: int, size: int) -> None:
    """Raises OSError only if the disk is full: what a file system cannot reserve grows as it is written."""
    try:
        fallocate: Callable[..., int] = ctypes.CDLL(None, use_errno=True).fallocate
    except (AttributeError, OSError):
        return
    as_long = ctypes.c_longlong if ctypes.sizeof(ctypes.c_void_p) == 8 else ctypes.c_long
    if fallocate(fd, 0, as_long(0), as_long(size)) and ctypes.get_errno() == errno.ENOSPC:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def address(data: memoryview) -> int:
    """Where writable memory begins."""
    return ctypes.addressof(ctypes.c_char.from_buffer(data))


def write_exactly(fd: int, data: memoryview, offset: int) -> None:
    """All of `data` at `offset`, in short writes if the system makes them short."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """A small file, on the disk itself on return if it is to be `durable`."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def sync_folder(path: Path, durable: bool = True) -> None:
    """Make the names in a folder durable."""
    if not durable:
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def move_into_place(new: Path, target: Path, durable: bool = True) -> None:
    """`new` under the name `target` in one step; what stood there before is removed only after.

    Where the system can swap two names at once (Linux), `target` exists at every moment. Elsewhere the old one is set
    aside first, under a hidden name, and put back if the step fails.
    """
    if not os.path.lexists(target):
        new.rename(target)
        sync_folder(target.parent, durable)
        return
    if new.is_file() and not target.is_dir():
        new.replace(target)
    elif _swap(new, target):
        remove(new)
    else:
        aside = target.with_name(f".{target.name}.taskvec-old")
        target.rename(aside)
        try:
            new.rename(target)
        except OSError:
            aside.rename(target)
            raise
        remove(aside)
    sync_folder(target.parent, durable)


def remove(path: Path) -> None:
    """A file or a folder, gone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _swap(a: Path, b: Path) -> bool:
    """Exchange two names atomically; False where the system cannot."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        renameat2: Callable[..., int] = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return renameat2(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


def free_bytes(path: Path) -> int:
    """Bytes that can still be written on the disk of an existing folder."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next(p for p in [path.absolute(), *path.absolute().parents] if p.is_dir())
