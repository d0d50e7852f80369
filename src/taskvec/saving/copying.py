"""The files that lie beside the weights of a model and go along with them: which they are, and copies of them.

A folder may come from anywhere. So only what is really part of it is copied: regular files of a bounded size that lie
in the folder itself, or in the blobs of the Hugging Face cache whose snapshot the folder is. A link that leads
elsewhere, to /etc or to /proc, is left out, and so are devices, pipes, and folders that are links.
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
DEPTH, COUNT = 4, 1000  # of folders within one another, of files
PIECE = 1 << 20  # bytes that are copied at once
FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


@dataclass(frozen=True, slots=True)
class Beside:
    """A file to be copied. name: its path within the folder, and within the output. stamp: of the moment of the survey,
    so that a change until it is copied is noticed."""

    path: Path
    name: str
    stamp: tuple[int, ...]


def survey(folder: Path, patterns: Sequence[str], folders: Sequence[str] = ()) -> tuple[list[Beside], list[str]]:
    """The files of a folder whose names fit a pattern, those within `folders` (patterns) too; and what is left out and
    why, a sentence each. Raises FormatError for what cannot be read at all, as a link that leads nowhere.
    """
    found: list[Beside] = []
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
                _walk(folder, Path(name), roots, found, left, 1)
        elif fits_any(name, patterns):
            _add(folder, Path(name), roots, found, left)
    return found, left


def _blobs(folder: Path) -> list[Path]:
    """models--org--name/blobs, for models--org--name/snapshots/REVISION and what lies in it."""
    homes = [p.parent.parent for p in (folder, *folder.parents) if p.parent.name == "snapshots"]
    return [home / "blobs" for home in homes if home.name.startswith("models--")]


def _walk(folder: Path, name: Path, roots: Sequence[Path], found: list[Beside], left: list[str], depth: int) -> None:
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
                _walk(folder, name / inner, roots, found, left, depth + 1)
            else:
                _add(folder, name / inner, roots, found, left)


def _add(folder: Path, name: Path, roots: Sequence[Path], found: list[Beside], left: list[str]) -> None:
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
    elif len(found) >= COUNT:
        left.append(f"{path} is one file too many: there are more than {COUNT}")
    else:
        found.append(Beside(real, name.as_posix(), stamp_of(entry)))


def copy(files: Iterable[Beside], target: Path, durable: bool) -> None:
    """Copies under their names in the folder `target`. Raises SourceChanged if one has changed meanwhile."""
    for one in files:
        place = target / one.name
        place.parent.mkdir(parents=True, exist_ok=True)
        with stated(one.path):
            try:
                fd = os.open(one.path, FLAGS | getattr(os, "O_NOFOLLOW", 0))
            except FileNotFoundError:
                raise SourceChanged(f"{one.path} vanished while it was needed; nothing was written") from None
        try:
            _require(one, fd)
            with place.open("wb") as out:
                while piece := os.read(fd, PIECE):
                    out.write(piece)
                    if out.tell() > one.stamp[0]:
                        break
                out.flush()
                if durable:
                    sync(out.fileno())
            _require(one, fd)
        finally:
            os.close(fd)


def _require(one: Beside, fd: int) -> None:
    if stamp_of(os.fstat(fd)) != one.stamp:
        raise SourceChanged(f"{one.path} changed while the output was made; nothing was written")
