"""The journal of a staging folder (staging.py): who may work in the folder, and what has been done in it so far.

The journal is a file in the folder, and the process that works there holds a lock on it. Its lines are JSON:

1. The key of the plan, and the number (inode) of the staging folder. A copy of the folder, as in a clone or an archive,
   has another number, and nobody goes on with it.
2. The number of `files/`. When an output replaces an older one, the two swap their names. Then the older one lies under
   the name `files/`, and its number says so.
3. One line for each block whose data is safely on disk: its index, its flags, and the digests of its pieces.
4. What the whole output consists of, written just before it gets its name.

A kill may cut off the last line. A power cut may lose lines, or leave zeros. A link or a folder that taskvec cannot
have made is refused, and left as it is.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from taskvec.errors import OutputError
from taskvec.places.local import opened, write_exactly
from taskvec.places.moving import CANNOT

try:
    import fcntl
except ImportError:  # Windows has no such locks; the journal still names its plan there
    fcntl = None  # type: ignore[assignment]

JOURNAL, FILES, OLD = "journal.jsonl", "files", "old"  # all that lies in the folder


def claimed(folder: Path, target: Path) -> FileIO:
    """Open and lock the journal of the staging folder of `target`. Folder and journal are made if there are none.

    Another process may finish and remove the folder after we have opened its journal and before we hold the lock. The
    journal has no name (no link) then, and we begin again. Raises OutputError if another process works in the folder,
    or if taskvec cannot have made it.
    """
    busy = f"another taskvec is writing {target} at this moment: wait for it or take another name"
    for _ in range(100):  # each time, another process has just finished
        with suppress(FileExistsError):
            folder.mkdir(0o700)
        try:
            _require_own(folder)
            journal = os.fdopen(opened(folder / JOURNAL, os.O_RDWR | os.O_CREAT), "r+b", buffering=0)
        except FileNotFoundError:
            continue
        try:
            if fcntl is not None:
                fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (*CANNOT, errno.ENOLCK):  # a file system without locks
                journal.close()
                raise OutputError(busy) from None
        if os.fstat(journal.fileno()).st_nlink:
            _require_explained(folder, journal)
            return journal
        journal.close()  # the other process has removed this one
    raise OutputError(busy)


def append(journal: FileIO, *lines: Any) -> None:
    """Append lines to the journal. If a kill has cut off its last line, that line is ended first."""
    end = os.fstat(journal.fileno()).st_size
    torn = end and os.pread(journal.fileno(), 1, end - 1) != b"\n"
    text = "\n" * bool(torn) + "".join(json.dumps(line) + "\n" for line in lines)
    write_exactly(journal.fileno(), memoryview(text.encode()), end)


def lines_of(journal: FileIO) -> Iterator[bytes]:
    """The lines of the journal, one at a time: for a large model there are many."""
    with os.fdopen(os.dup(journal.fileno()), "rb") as again:
        again.seek(0)
        yield from again


def notes(journal: FileIO) -> list[Any]:
    """The lines of the journal that are not blocks, parsed.

    The first one is None if it is no JSON. Later lines that are no JSON were cut off by a kill, and are left out, as
    are zeros that a power cut has left.
    """
    parsed: list[Any] = []
    for line in lines_of(journal):
        text = line.strip(b"\0\n")
        if text and (not parsed or text.startswith(b"{")):
            try:
                parsed.append(json.loads(text))
            except (ValueError, RecursionError):
                parsed += [] if parsed else [None]
    return parsed


def holds_data(folder: Path) -> bool:
    """Whether the staging folder holds files of an output, new or old."""
    files = folder / FILES
    return os.path.lexists(folder / OLD) or (files.is_dir() and any(files.iterdir()))


# ---- whose folder it is ---------------------------------------------------------------------------
def _require_own(folder: Path) -> None:
    """Raise OutputError unless the folder belongs to this user and holds only what taskvec puts there. No entry may be
    a link except `old`, since an older output may have been one."""
    kinds = {JOURNAL: {stat.S_IFREG}, FILES: {stat.S_IFDIR}, OLD: {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}}
    about = folder.lstat()
    problems = [] if stat.S_ISDIR(about.st_mode) else ["it is no folder but a link or a file"]
    if not problems and not _is_ours(about, folder):
        problems.append("it belongs to another user")
    for path in [] if problems else sorted(folder.iterdir()):
        inner = path.lstat()
        if path.name not in kinds:
            problems.append(f"{path.name} is none of taskvec's files")
        elif stat.S_IFMT(inner.st_mode) not in kinds[path.name] or (path.name == JOURNAL and inner.st_nlink > 1):
            problems.append(f"{path.name} is a link, or not what taskvec puts there")
    if problems:
        raise _foreign(folder, problems)


def _is_ours(about: os.stat_result, folder: Path) -> bool:
    """Whether the folder, whose stat is `about`, belongs to this user. Some file systems give what we make to another
    user; so if the owner is another one, a file is made beside the folder, and its owner is compared."""
    if not hasattr(os, "geteuid") or about.st_uid == os.geteuid():
        return True
    probe = folder.with_name(f"{folder.name}-{os.getpid()}")
    fd = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        return os.fstat(fd).st_uid == about.st_uid
    finally:
        os.close(fd)
        probe.unlink()


def _require_explained(folder: Path, journal: FileIO) -> None:
    """Raise OutputError if the folder holds files or a journal that no run of taskvec can have left."""
    lines = notes(journal)
    first = lines[0] if lines else None
    if lines and not (isinstance(first, dict) and isinstance(first.get("plan"), str) and "folder" in first):
        raise _foreign(folder, [f"{JOURNAL} is not as taskvec writes it"])
    if not lines and holds_data(folder):
        raise _foreign(folder, [f"{JOURNAL} is empty, and there are files"])


def _foreign(folder: Path, problems: list[str]) -> OutputError:
    return OutputError(
        f"{folder} has the name under which an output grows, but taskvec has not made it so. Nothing in it was "
        "touched: look at it, remove it and run the same command again, or take another name.",
        problems,
    )
