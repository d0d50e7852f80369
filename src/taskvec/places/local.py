"""Files of this machine: a folder as a `Place`, and how a uri leads to one."""

import ctypes
import errno
import os
import re
import stat
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from taskvec.errors import FormatError, MissingExtra, OutputError, SourceChanged, TaskvecError
from taskvec.places.moving import CANNOT, move_new, sync
from taskvec.places.place import Place, Readable, WithDescriptor, WithFolder, Writable, WritablePlace

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


def located(uri: str | os.PathLike[str], revision: str | None = None) -> tuple[Place, str]:
    """The place that `uri` names, and the name in it: "" for the place as a whole. Raises FormatError.

    Every kind of place that a user can name is chosen here.
    """
    path = resolve(uri, revision)
    with stated(path):
        return (Folder(path), "") if path.is_dir() else (Folder(path.parent), path.name)


def expanded(uri: str | os.PathLike[str]) -> Path:
    """The path with ~ replaced by the home folder. Raises OSError if there is no such home."""
    try:
        return Path(uri).expanduser()
    except RuntimeError:
        raise FileNotFoundError(errno.ENOENT, "no such home", os.fspath(uri)) from None


def place_to_write(uri: str | os.PathLike[str]) -> Path:
    """The absolute path of an output, with links resolved. Raises OutputError for what can be no output's name."""
    if not os.fspath(uri):
        raise OutputError("the output has no name: say where to write (-o NAME)")
    try:
        with stated(uri, OutputError):
            target = expanded(uri).resolve()
    except (RuntimeError, ValueError) as error:  # links in a circle; a null character
        raise OutputError(f"{os.fspath(uri)!r} cannot be written to: {error}") from None
    if not target.name:
        raise OutputError(f"{target} is the root of all files: name a folder or a file in it for the output")
    return target


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


class File(Readable, WithDescriptor):
    """A regular file, opened once and known to be the one that was opened. See `Readable`.

    `stamp`: size, time of change, inode and device, and the time at which the system itself last changed the inode
    (ctime). Programs can put the time of change back, as rsync, cp -p and touch -r do; ctime they cannot set. What
    stays unseen: a write in the same tick of the file system's clock as the opening, one through a mapping whose page
    the system has already marked as changed, and one on another machine whose clock or cache lags behind.
    """

    stamp: tuple[int, ...]

    def __init__(self, path: Path):
        """Raises FormatError for what does not exist, and for a pipe or a device, which has no fixed bytes."""
        self.path, self.uri = path, str(path)
        self._lock = threading.Lock()
        self._fd: int | None = None
        with stated(path):
            self.address, about = os.path.realpath(path), path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise FormatError(f"{path} is no regular file")
        self.stamp, self.size = stamp_of(about), about.st_size

    def fd(self) -> int:
        """The descriptor, opened on first use."""
        if self._fd is None:
            with self._lock, stated(self.path):
                if self._fd is None:
                    fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
                    weakref.finalize(self, os.close, fd)
                    self._require(stamp_of(os.fstat(fd)))
                    self._fd = fd
        return self._fd

    def readinto(self, offset: int, out: memoryview) -> None:
        """See `Readable`."""
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
        """See `Readable`."""
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


class Folder(WritablePlace, WithFolder):
    """A folder of this machine as a place. See `Place`."""

    def __init__(self, folder: Path):
        self.folder = folder

    def uri(self, name: str = "") -> str:
        """See `Place`."""
        return str(self.folder / name)

    def names(self) -> list[str]:
        """See `Place`. Links that lead nowhere are listed."""
        with stated(self.folder), os.scandir(self.folder) as entries:
            return [entry.name for entry in entries if not entry.is_dir()]

    def holds(self, name: str) -> bool:
        """See `Place`."""
        with stated(self.folder / name):
            return (self.folder / name).is_file()

    def open(self, name: str) -> File:
        """See `Place`."""
        return File(self.folder / name)

    def create(self, name: str, size: int, durable: bool) -> "Output":
        """See `WritablePlace`."""
        return Output(self.folder / name, size, direct=durable)

    def publish(self, draft: str, name: str) -> None:
        """See `WritablePlace` and moving.py."""
        move_new(self.folder / draft, self.folder / name)


def stamp_of(about: os.stat_result) -> tuple[int, ...]:
    """Numbers of the file system that change when the file is written to; see `File`."""
    return about.st_size, about.st_mtime_ns, about.st_ino, about.st_dev, about.st_ctime_ns


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
    """Within `with stated(path)` an OSError becomes an error of taskvec of this kind, which names the path and the
    reason."""

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
PAGE = 4096  # direct writes begin and end at its multiples, in the file and in memory
CACHED = 256 << 10  # bytes of one write through the cache; for longer ones Linux looks for huge pages, which takes time
DIRECT = 256 << 10  # the shortest write that goes past the cache; shorter ones would mostly wait for the disk


class Output(Writable):
    """A file of a known size that is being written. See `Writable`.

    Its blocks on the disk are reserved at once where the system can, so that threads need not wait for one another to
    find free ones.

    `direct`: long writes go from the caller's memory to the disk itself, past the system's cache, if the file system
    can do that. Nothing is copied, nothing is evicted from the cache, and little is left for fsync to do. Only whole
    pages can be written so, and only from memory whose address is equal to the offset in the file modulo PAGE. All
    other bytes go through the cache.
    """

    def __init__(self, path: Path, size: int, direct: bool):
        self.fd = opened(path, os.O_RDWR | os.O_CREAT)
        self._direct: int | None = None
        self._turn = threading.Lock()  # the system admits one write to a file's cache at a time; others would spin
        try:
            _reserve(self.fd, size)
        except OSError:
            self.close()
            raise
        if direct and hasattr(os, "O_DIRECT"):
            with suppress(OSError):  # a file system without direct writes
                self._direct = opened(path, os.O_WRONLY | os.O_DIRECT)

    def write(self, offset: int, data: memoryview) -> None:
        """See `Writable`."""
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
                self._cached(offset + first, data[first:last])
            self._cached(offset, data[:first])
            self._cached(offset + last, data[last:])
        else:
            self._cached(offset, data)

    def _cached(self, offset: int, data: memoryview) -> None:
        with self._turn:
            for at in range(0, len(data), CACHED):
                write_exactly(self.fd, data[at : at + CACHED], offset + at)

    def read(self, offset: int, out: memoryview) -> bool:
        """See `Writable`."""
        done = 0
        while done < len(out) and (count := os.preadv(self.fd, [out[done:]], offset + done)):
            done += count
        return done == len(out)

    def sync(self) -> None:
        """See `Writable`."""
        try:
            os.fdatasync(self.fd)
        except OSError as error:
            if error.errno not in CANNOT:
                raise

    def close(self) -> None:
        """See `Writable`."""
        os.close(self.fd)
        if self._direct is not None:
            os.close(self._direct)


def _reserve(fd: int, size: int) -> None:
    """Reserve blocks of the disk. Raises OSError only if it is full; if a file system cannot reserve, the file grows as
    it is written."""
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
    """Write all of `data` at `offset`, however little the system takes at once."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)


def write_text(path: Path, text: str, durable: bool = True) -> None:
    r"""Write a small file, never through a link. durable: it is on the disk itself when this returns.

    What is no Unicode, such as bytes of a path that is not UTF-8, is written as an escape (\udcff).
    """
    fd = opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        if durable:
            sync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Write a small file beside its place and rename it, so that a kill leaves the old file or the new one.

    Several processes may write the same file at the same time.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    write_text(beside, text, durable=False)
    beside.replace(path)


def opened(path: Path, flags: int) -> int:
    """A descriptor of the file of this name. A link is not followed, and raises OSError (ELOOP)."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o644)


def free_bytes(path: Path) -> int:
    """Bytes that can still be written on the disk of an existing folder."""
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next(p for p in [path.absolute(), *path.absolute().parents] if p.is_dir())
