"""How something finished gets its name: in one step, and never in the place of what another program has put there."""

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

HERE, NOREPLACE, EXCHANGE = -100, 1, 2  # AT_FDCWD and the flags of renameat2
CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # the file system knows no such operation
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)


def sync(fd: int) -> None:
    """Bring a file or a folder to the disk, as far as its file system can: some network file systems cannot sync."""
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
    """`new` under the name `target`. Raises FileExistsError if anything has that name but, for a folder, an empty one.

    The system decides that in the same step. Only where it knows neither renameat2 nor hard links is there a moment
    between the look and the step.
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
    """The same by a second name for the file, which is refused where the name is taken, and then without the first."""
    try:
        os.link(new, target, follow_symlinks=False)
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", None) in TAKEN or os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        new.rename(target)
    else:
        new.unlink()


def swap(a: Path, b: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    try:
        return _renamed(a, b, EXCHANGE)
    except OSError:
        return False


def _renamed(a: Path, b: Path, flags: int) -> bool:
    """renameat2; False where the system or the file system does not know it."""
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
    """A file or a folder, gone. Of a link the link goes, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        import shutil  # which imports every kind of archive, too

        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
