"""The files beside the weights of a model that are copied to an output: which ones these are, and the copying.

A folder may come from anywhere, so only what is really part of it is copied: regular files of a bounded size. They
must lie in the folder itself or, if the folder is a snapshot in the Hugging Face cache, in the blobs of that cache. A
link that leads elsewhere, such as to /etc or to /proc, is left out, and so are devices, pipes, and links to folders.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from taskvec.errors import FormatError, SourceChanged
from taskvec.places.local import stamp_of, stated
from taskvec.places.moving import sync
from taskvec.sources.text import fits_any

LARGEST = 256 << 20  # bytes of one file
DEPTH = 4  # folders within one another
COUNT = 1000  # files
PIECE = 1 << 20  # bytes that are copied at once
FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


@dataclass(frozen=True, slots=True)
class Beside:
    """A file to be copied.

    name: its path within the folder, and within the output. stamp: its stamp when the folder was surveyed, by which a
    later change is noticed.
    """

    path: Path
    name: str
    stamp: tuple[int, ...]


def survey(folder: Path, patterns: Sequence[str], folders: Sequence[str] = ()) -> tuple[list[Beside], list[str]]:
    """The files of a folder that are to be copied: those whose names fit one of the `patterns`, and all those in inner
    folders whose names fit one of `folders`. Second, a sentence for each that is left out, which says why.

    Raises FormatError for what cannot be read at all, such as a link that leads nowhere.
    """
    files: list[Beside] = []
    left: list[str] = []
    with stated(folder):
        whole = folder.resolve()
    roots = [whole, *_blobs(whole)]
    with stated(folder):
        names = sorted(entry.name for entry in os.scandir(folder))
    for name in names:
        path = folder / name
        if path.is_dir():
            if fits_any(name, folders) or (path.is_symlink() and fits_any(name, patterns)):
                _walk(folder, Path(name), roots, files, left, 1)
        elif fits_any(name, patterns):
            _add(folder, Path(name), roots, files, left)
    return files, left


def _blobs(folder: Path) -> list[Path]:
    """The folder models--org--name/blobs of the Hugging Face cache, if a folder is models--org--name/snapshots/REVISION
    or lies in it."""
    homes = [p.parent.parent for p in (folder, *folder.parents) if p.parent.name == "snapshots"]
    return [home / "blobs" for home in homes if home.name.startswith("models--")]


def _walk(folder: Path, name: Path, roots: Sequence[Path], files: list[Beside], left: list[str], depth: int) -> None:
    """Add all files of an inner folder, at any depth up to DEPTH."""
    path = folder / name
    if path.is_symlink():
        left.append(f"{path} is a link to a folder")
    elif depth > DEPTH:
        left.append(f"{path} lies too deep")
    else:
        with stated(path):
            names = sorted(entry.name for entry in os.scandir(path))
        for inner in names:
            if (path / inner).is_dir():
                _walk(folder, name / inner, roots, files, left, depth + 1)
            else:
                _add(folder, name / inner, roots, files, left)


def _add(folder: Path, name: Path, roots: Sequence[Path], files: list[Beside], left: list[str]) -> None:
    """Add a file to `files`; or to `left` the sentence that says why it is not copied."""
    path = folder / name
    with stated(path):
        try:
            real = path.resolve(strict=True)
        except (RuntimeError, FileNotFoundError) as error:
            why = "does not exist" if isinstance(error, FileNotFoundError) else "is a link that leads in a circle"
            raise FormatError(f"{path}: {why}") from None
        entry = real.lstat()
    if not any(real.is_relative_to(root) for root in roots):
        left.append(f"{path} is a link that leads out of the folder, to {real}")
    elif not stat.S_ISREG(entry.st_mode):
        left.append(f"{path} is no regular file")
    elif entry.st_size > LARGEST:
        left.append(f"{path} has {entry.st_size:,} bytes, more than {LARGEST:,}")
    elif len(files) >= COUNT:
        left.append(f"{path} is one file too many: there are more than {COUNT}")
    else:
        files.append(Beside(real, name.as_posix(), stamp_of(entry)))


def copy(files: Iterable[Beside], target: Path, durable: bool) -> None:
    """Copy files to their names in the folder `target`. Raises SourceChanged if one has changed since the survey."""
    for file in files:
        place = target / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        with stated(file.path):
            try:
                fd = os.open(file.path, FLAGS | getattr(os, "O_NOFOLLOW", 0))
            except FileNotFoundError:
                raise SourceChanged(f"{file.path} vanished while it was needed; nothing was written") from None
        try:
            _require_unchanged(file, fd)
            with place.open("wb") as out:
                while piece := os.read(fd, PIECE):
                    out.write(piece)
                    if out.tell() > file.stamp[0]:  # it has grown, perhaps without end
                        break
                out.flush()
                if durable:
                    sync(out.fileno())
            _require_unchanged(file, fd)
        finally:
            os.close(fd)


def _require_unchanged(file: Beside, fd: int) -> None:
    if stamp_of(os.fstat(fd)) != file.stamp:
        raise SourceChanged(f"{file.path} changed while the output was made; nothing was written")
