"""How a finished file or folder gets its name: in one step, and never over another program's file."""

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE, NOREPLACE, EXCHANGE = -100, 1, 2  # AT_FDCWD and the flags of renameat2
CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # the file system knows no such operation
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)


def sync(fd: int) -> None:
    """Flush a file or a folder to the disk, if its file system can do that; some network file systems cannot."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in CANNOT:
            raise


def sync_folder(path: Path, durable: bool = True) -> None:
    """Make the names in a folder durable."""
    if not durable:
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def move_new(new: Path, target: Path) -> None:
    """Give `new` the name `target`. Raises FileExistsError if the name is taken. Only a folder that is empty makes way
    for a folder.

    The system looks and renames in one step. If it knows neither renameat2 nor hard links, there is a moment between
    the two in which another program may take the name.
    """
    try:
        if new.is_dir():
            new.rename(target)  # which takes the place of an empty folder and of nothing else
        elif not _renamed(new, target, NOREPLACE):
            _linked(new, target)
    except OSError as error:
        if error.errno in TAKEN:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        raise


def _linked(new: Path, target: Path) -> None:
    """`move_new` for a file. It gets a second name, which the system refuses if it is taken, and loses the first."""
    try:
        os.link(new, target, follow_symlinks=False)
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", None) in TAKEN or os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        new.rename(target)
    else:
        new.unlink()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to be filled. Behind the `with` it has the name `folder`, in one step; after an error it is gone.

    If another process has made a folder of that name meanwhile, that one stays: it is for folders whose name says what
    is in them, such as those of a cache.
    """
    import tempfile  # which imports shutil and random: not at the start of every command

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as held:
        whole = Path(held) / "whole"
        whole.mkdir()
        yield whole
        try:
            move_new(whole, folder)
        except FileExistsError:
            if not folder.is_dir():
                raise


def swap(a: Path, b: Path) -> bool:
    """Exchange two names in one step. Returns False if the system cannot."""
    try:
        return _renamed(a, b, EXCHANGE)
    except OSError:
        return False


def _renamed(a: Path, b: Path, flags: int) -> bool:
    """Call renameat2. Returns False if the system or the file system does not know it."""
    try:
        renameat2: Callable[..., int] = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if renameat2(HERE, os.fsencode(a), HERE, os.fsencode(b), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(a), None, str(b))


def remove(path: Path) -> None:
    """Remove a file or a folder. Of a link the link is removed, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        import shutil  # which imports every kind of archive, too

        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
