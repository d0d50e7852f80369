"""Files: from a uri to a path, from a path to exact reads, and from bytes to a durable file under its final name."""

import ctypes
import errno
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from taskvec.errors import FormatError, MissingExtra, OutputError, SourceChanged, TaskvecError
from taskvec.places.moving import CANNOT, sync

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
    raise FormatError(f"{uri} does not exist: give a file, a folder, or org/name on the Hugging Face hub")


def expanded(uri: str | os.PathLike[str]) -> Path:
    """The path with ~ replaced. Raises OSError if there is no such home."""
    try:
        return Path(uri).expanduser()
    except RuntimeError:
        raise FileNotFoundError(errno.ENOENT, "no such home", os.fspath(uri)) from None


def place_to_write(uri: str | os.PathLike[str]) -> Path:
    """The absolute path of an output, with links resolved. Raises OutputError."""
    if not os.fspath(uri):
        raise OutputError("the output has no name: say where to write (-o NAME)")
    try:
        with stated(uri, OutputError):
            found = expanded(uri).resolve()
    except (RuntimeError, ValueError) as error:  # links in a circle; a null character
        raise OutputError(f"{os.fspath(uri)!r} cannot be written to: {error}") from None
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
    """A file opened once, read at exact positions by any thread, and known to be the one that was opened.

    `stamp`: size, time of change, inode and device, and the time at which the system itself last changed the inode
    (ctime). Programs can put the time of change back, as rsync, cp -p and touch -r do; ctime they cannot set. What
    stays unseen: a write in the same tick of the file system's clock as the opening, one through a mapping whose page
    the system has already marked as changed, and one on another machine whose clock or cache lags behind.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._fd: int | None = None
        with stated(path):
            self.stamp = stamp_of(path.stat())
        self.size = self.stamp[0]

    def fd(self) -> int:
        """The descriptor, opened on first use."""
        if self._fd is None:
            with self._lock, stated(self.path):
                if self._fd is None:
                    fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
                    weakref.finalize(self, os.close, fd)
                    self._require(stamp_of(os.fstat(fd)))
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
        """Raise SourceChanged unless the path still names the file as it was opened: its stamp is the same."""
        try:
            self._require(stamp_of(self.path.stat()))
        except FileNotFoundError:
            raise SourceChanged(f"{self.path} vanished while it was read; nothing was written") from None

    def _require(self, now: tuple[int, ...]) -> None:
        if now == self.stamp:
            return
        if now[:4] == self.stamp[:4]:
            raise SourceChanged(
                f"{self.path} changed while it was read, though its time of change was put back (or only its "
                "permissions, its owner or its links are other ones: nobody can tell); nothing was written, run the "
                "same command again"
            )
        raise SourceChanged(f"{self.path} changed while it was read; nothing was written")


def stamp_of(found: os.stat_result) -> tuple[int, ...]:
    """Numbers of the file system that change when the file is written to; see `File`."""
    return found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev, found.st_ctime_ns


def stamps_of(paths: Iterable[Path]) -> dict[Path, tuple[object, ...]]:
    """The stamps of files. A folder has those of what lies in it, and a missing file has ().

    The file behind a link to nothing is missing, too. `changed` compares two of these tables.
    """
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> tuple[object, ...]:
    try:
        if not path.is_dir():
            return stamp_of(path.stat())
        with os.scandir(path) as inside:
            return tuple(sorted((entry.name, stamp_of(entry.stat())) for entry in inside))
    except OSError:
        return ()


def changed(before: Mapping[Path, object], now: Mapping[Path, object]) -> list[str]:
    """The files that differ between two tables of stamps: written to, new, or gone."""
    return [str(path) for path in {**before, **now} if before.get(path) != now.get(path)]


REFUSALS = {
    errno.EACCES: "permission denied",
    errno.ENOENT: "does not exist",
    errno.EISDIR: "is a folder",
    errno.ELOOP: "is a link, which is not followed when writing, or leads in a circle: remove it",
    errno.EMFILE: "too many open files; write larger shards, or raise the limit (ulimit -n)",
}


class stated:  # noqa: N801 - reads as a word: with stated(path): ...
    """Turns errors of the operating system into stated errors about `path`."""

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
DIRECT = 256 << 10  # bytes from which a write goes past the cache; a shorter one mostly waits for the disk's answer


class Output:
    """A file of a known size, written by any thread at any position.

    Its room on the disk is reserved at once where the system can: a full disk shows before the work, and writers need
    not wait for one another to find blocks. `direct`: whole pages of long writes go from the caller's memory to the
    disk itself, past the system's cache, where the file system can do that: no copy, nothing evicted, little left for
    fsync. For that the memory must lie as the file does, address = offset modulo PAGE. The rest goes through the cache.
    """

    def __init__(self, path: Path, size: int, direct: bool):
        self.fd = opened(path, os.O_RDWR | os.O_CREAT)
        self._direct: int | None = None
        self._turn = threading.Lock()  # the system lets one write to the cache of a file at a time; it spins, we sleep
        try:
            _reserve(self.fd, size)
        except OSError:
            self.close()
            raise
        if direct and hasattr(os, "O_DIRECT"):
            with suppress(OSError):  # a file system that cannot
                self._direct = opened(path, os.O_WRONLY | os.O_DIRECT)

    def write(self, data: memoryview, offset: int) -> None:
        """All of `data` at `offset`."""
        first = min(-offset % PAGE, len(data))
        last = first + (len(data) - first) // PAGE * PAGE
        if (
            self._direct is not None
            and last - first >= DIRECT
            and not data.readonly
            and address(data) % PAGE == offset % PAGE
        ):
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

    def read(self, out: memoryview, offset: int) -> bool:
        """Fill `out` from `offset` on; False where the file ends before."""
        done = 0
        while done < len(out) and (count := os.preadv(self.fd, [out[done:]], offset + done)):
            done += count
        return done == len(out)

    def sync(self) -> None:
        """Bring what was written to the disk itself, as far as the file system can."""
        try:
            os.fdatasync(self.fd)
        except OSError as error:
            if error.errno not in CANNOT:
                raise

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
    r"""Write a small file, never through a link. With `durable` it is on the disk itself on return.

    What is no Unicode, such as bytes of a path that is not UTF-8, is written as an escape (\udcff).
    """
    fd = opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        if durable:
            sync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Write a small file beside its place and rename it, so that a kill leaves the old file or the new one."""
    beside = path.with_name(f".{path.name}.new")
    write_text(beside, text, durable=False)
    beside.replace(path)


def opened(path: Path, flags: int) -> int:
    """A descriptor of the file of this name. A link is not followed, and raises OSError (ELOOP)."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o644)


def free_bytes(path: Path) -> int:
    """Bytes that can still be written on the disk of an existing folder."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next(p for p in [path.absolute(), *path.absolute().parents] if p.is_dir())
