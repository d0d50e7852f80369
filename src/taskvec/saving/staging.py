"""The hidden folder in which an output grows until it is whole, and its journal.

An output NAME grows in `.NAME.taskvec`, beside the place where it will be. `files/` in this folder holds the files of
the output. `journal.jsonl` says what has been done so far; the process that writes holds a lock on it. Its lines are:

1. The key of the plan, and the number (inode) of the hidden folder. A copy of the folder, in a clone or an archive, has
   another number, and nobody goes on with it.
2. The number of `files/`. When an output replaces an older one, the two swap their names. Then the older one lies under
   the name `files/`, and its number says so.
3. One line for each block whose data is safely on disk.
4. What the whole output consists of, written just before it gets its name.

A killed process leaves all of this behind. The same command compares the files with the journal and goes on. Any other
command for the same output clears the folder away first: the data, then the journal, then the folder. So at every
moment either the journal explains what is there, or nothing is there. A link or a folder of this name that taskvec
cannot have made is refused and left as it is.
"""

import errno
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskvec.errors import OutputError
from taskvec.places.local import opened, stated, write_exactly
from taskvec.places.moving import CANNOT, move_new, remove, swap, sync, sync_folder
from taskvec.saving.outputs import SHOWN, Destination, strangers

try:
    import fcntl
except ImportError:  # Windows has no such locks; the journal still names its plan there
    fcntl = None  # type: ignore[assignment]

JOURNAL, FILES, OLD = "journal.jsonl", "files", "old"
PROOFS = Mapping[str, str]  # file -> what proves that it is as it was when the output became whole (proofs.py)


@dataclass(frozen=True, slots=True)
class Done:
    """A block that was computed: the digests of its pieces and the flags of its arithmetic."""

    index: int
    pieces: tuple[bytes, ...]
    flags: int


class Staging:
    """The folder for one output and one plan. `done` holds the blocks that an earlier run recorded."""

    def __init__(self, place: Destination, key: str, resume: bool, durable: bool):
        """Lock the folder, and go on with what is there or begin anew. Raises OutputError if another process writes
        this output, or if it cannot be written, as when another process finished it a moment ago."""
        self.place, self.target, self.durable = place, place.target, durable
        self.folder = hidden(self.target)
        self.files = self.folder / FILES
        with stated(self.target, OutputError):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._journal = _claimed(self.folder, self.target)
            try:
                _put_back(self.folder, self.target)
                place.require_writable()
                self.done = {done.index: done for done in self._begun(key, resume)}
            except BaseException:
                if _notes(self._journal):
                    self.close()  # the work of an earlier run stays, so that a later run can go on with it
                else:
                    self.discard()
                raise

    def _begun(self, key: str, resume: bool) -> Iterable[Done]:
        """The blocks that an earlier run of the same plan recorded; or none, once folder and journal are emptied."""
        lines, first = _notes(self._journal), {"plan": key, "folder": self.folder.stat().st_ino}
        if resume and lines[:1] == [first] and _own_files(self.folder, lines):
            if not os.path.lexists(self.files):
                self.files.mkdir()
                self._note({FILES: self.files.stat().st_ino})
            return _blocks(self._journal)
        _remove_files(self.folder, lines)
        os.ftruncate(self._journal.fileno(), 0)
        self._note(first)
        self.files.mkdir()
        self._note({FILES: self.files.stat().st_ino})
        if self.durable:
            sync(self._journal.fileno())
        return []

    def _note(self, *lines: Any) -> None:
        """Append lines to the journal. If a kill has cut off its last line, that line is ended first."""
        end = os.fstat(self._journal.fileno()).st_size
        torn = end and os.pread(self._journal.fileno(), 1, end - 1) != b"\n"
        text = "\n" * bool(torn) + "".join(json.dumps(line) + "\n" for line in lines)
        write_exactly(self._journal.fileno(), memoryview(text.encode()), end)

    def record(self, blocks: Iterable[Done], synced: Callable[[], None]) -> None:
        """Note finished blocks in the journal, after `synced` has made their data durable. If a power cut loses a line
        of the journal, its blocks are computed again."""
        synced()
        self._note(*([d.index, d.flags, b"".join(d.pieces).hex()] for d in blocks))

    def keep_only(self, sizes: Mapping[str, int]) -> None:
        """Remove from an earlier run's files what does not belong to the output (name -> bytes), and cut what is too
        long. Links are removed too, hard links as well, so that nothing is written through them."""
        for path in self.files.iterdir():
            about = path.lstat()
            if path.name not in sizes or not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
                remove(path)
            elif about.st_size > sizes[path.name]:
                os.truncate(path, sizes[path.name])

    def commit(self, proofs: PROOFS | None = None) -> None:
        """Give the whole output its name, in one step, and remove the staging folder.

        Before that, the journal notes the inode of the output and its `proofs`, by which a later run knows that the
        work is done (`finished_before`). Raises OutputError if something else has the name by now: that stays.
        """
        sync_folder(self.files, self.durable)
        new = next(self.files.iterdir()) if self.place.alone else self.files
        with stated(self.target, OutputError):
            self._note({"whole": _identity(new), "proofs": dict(proofs or {})})
            if self.durable:
                sync(self._journal.fileno())
            self._give_name(new)
        with suppress(OSError):  # what cannot be removed now, the next run removes
            self.discard()
        try:
            sync_folder(self.target.parent, self.durable)
        except OSError as error:
            raise OutputError(
                f"{self.target} is whole and in its place, but the system could not confirm that its name is on the "
                f"disk: {error.strerror}"
            ) from None

    def _give_name(self, new: Path) -> None:
        try:
            move_new(new, self.target)
        except FileExistsError:
            if not self.place.overwrite:
                raise OutputError(
                    f"{self.target} was made by another program meanwhile, and is left as it is. Move it away and run "
                    "the same command again: the output is whole, and is put there without computing it again"
                ) from None
            self._replace(new)

    def _replace(self, new: Path) -> None:
        """Put `new` in the place of the older output, which is then removed with the staging folder.

        1. The older output must be something that may be replaced.
        2. The two swap their names. Where the system cannot do that in one step (it is not Linux), the older output is
           moved into the staging folder first, as `old`; after a kill the next run puts it back (`_put_back`).
        3. The older output must still be something that may be replaced: another program may have written into it
           since step 1. If it is not, both get their old places back, and OutputError is raised.
        """
        self.place.require_replaceable(self.target)
        aside = new if (swapped := swap(new, self.target)) else self.folder / OLD
        if not swapped:
            self.target.rename(aside)
        try:
            self.place.require_replaceable(aside)
            if not swapped:
                move_new(new, self.target)
        except (OSError, OutputError):
            if swapped:
                swap(aside, self.target)
            else:
                move_new(aside, self.target)
            raise

    def discard(self) -> None:
        """Remove everything that was staged."""
        with suppress(OSError):
            _cleared(self.folder, self._journal)
        self.close()

    def close(self) -> None:
        """Release the lock, and leave the folder for the next run."""
        self._journal.close()


def hidden(target: Path) -> Path:
    """The staging folder of an output."""
    return target.with_name(f".{target.name}.taskvec")


def finished_before(place: Destination, key: str = "", proven: Callable[[PROOFS], bool] = lambda proofs: False) -> bool:
    """Whether a run of the same plan was killed after its output got its name, and the output is still that one.

    key: that of the plan. proven: tells by the proofs of `commit` whether the output is unchanged. The staging folder
    of such a run is removed, and so is that of a run that was killed before it had written any data.
    """
    folder = hidden(place.target)
    if not os.path.lexists(folder):
        return False
    with stated(place.target, OutputError):
        try:
            journal = _claimed(folder, place.target)
        except OutputError:  # another process works there, or it is not ours; a run that needs the folder will say so
            return False
        with journal:
            _put_back(folder, place.target)
            lines = _notes(journal)
            whole = next((line for line in reversed(lines) if isinstance(line, dict) and "whole" in line), {})
            here = os.path.lexists(place.target) and whole.get("whole") == _identity(place.target)
            same = isinstance(lines[0], dict) and lines[0].get("plan") == key if lines else False
            done = here and same and proven(whole.get("proofs", {}))
            if here or not lines or not _holds_data(folder):
                _cleared(folder, journal)
        return bool(done)


@contextmanager
def one_file(place: Destination) -> Iterator[Path]:
    """The path to write an output to that is one file. It gets its name after the `with` block; after an error in the
    block there is no file. Raises OutputError."""
    finished_before(place)
    place.require_writable()
    stage = Staging(place, "", resume=False, durable=True)
    try:
        with stated(place.target, OutputError):
            yield stage.files / place.target.name
        stage.commit()
    except BaseException:
        stage.discard()
        raise


def write_file(place: Destination, content: bytes) -> None:
    """Write one file, such as a page or a picture: whole and on the disk, or not at all. Raises OutputError."""
    with one_file(place) as path, os.fdopen(opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.write(content)
        file.flush()
        sync(file.fileno())


# ---- the folder and its journal ------------------------------------------------------------------
def _claimed(folder: Path, target: Path) -> Any:
    """The journal, open and locked, of the folder, which is made if there is none. If another process finishes and
    removes it before the lock is held, the journal has no name (no link) any more, and we begin again. Raises
    OutputError if another process works in the folder, or if taskvec cannot have made it."""
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
        journal.close()
    raise OutputError(busy)


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


def _require_explained(folder: Path, journal: Any) -> None:
    """Raise OutputError if the folder holds files or a journal that no run of taskvec can have left."""
    lines = _notes(journal)
    first = lines[0] if lines else None
    if lines and not (isinstance(first, dict) and isinstance(first.get("plan"), str) and "folder" in first):
        raise _foreign(folder, [f"{JOURNAL} is not as taskvec writes it"])
    if not lines and _holds_data(folder):
        raise _foreign(folder, [f"{JOURNAL} is empty, and there are files"])


def _foreign(folder: Path, problems: list[str]) -> OutputError:
    return OutputError(
        f"{folder} has the name under which an output grows, but taskvec has not made it so. Nothing in it was "
        "touched: look at it, remove it and run the same command again, or take another name.",
        problems,
    )


def _holds_data(folder: Path) -> bool:
    """Whether the staging folder holds files of an output, new or old."""
    files = folder / FILES
    return os.path.lexists(folder / OLD) or (files.is_dir() and any(files.iterdir()))


def _lines(journal: Any) -> Iterator[bytes]:
    """The lines of the journal, one at a time: for a large model there are many."""
    with os.fdopen(os.dup(journal.fileno()), "rb") as again:
        again.seek(0)
        yield from again


def _notes(journal: Any) -> list[Any]:
    """The lines of the journal that are not blocks, parsed. The first one is None if it is no JSON. Later lines that
    were cut off by a kill are left out, and so are zeros that a power cut has left."""
    notes: list[Any] = []
    for line in _lines(journal):
        text = line.strip(b"\0\n")
        if text and (not notes or text.startswith(b"{")):
            try:
                notes.append(json.loads(text))
            except (ValueError, RecursionError):
                notes += [] if notes else [None]
    return notes


def _blocks(journal: Any) -> Iterator[Done]:
    """The blocks that the journal records. Lines that are not as `Staging.record` writes them are left out."""
    for text in _lines(journal):
        with suppress(ValueError, RecursionError):
            line = json.loads(text) if text.startswith(b"[") else None
            if isinstance(line, list) and [*map(type, line)] == [int, int, str]:
                raw = bytes.fromhex(line[2])
                yield Done(line[0], tuple(raw[k : k + 32] for k in range(0, len(raw), 32)), line[1])


def _own_files(folder: Path, lines: list[Any]) -> bool:
    """Whether `files` is missing, or the folder that the journal names. Otherwise it is an older output, which has
    swapped names with the new one."""
    numbers = [line[FILES] for line in lines if isinstance(line, dict) and FILES in line]
    try:
        return not numbers or (folder / FILES).lstat().st_ino == numbers[-1]
    except FileNotFoundError:
        return True


def _remove_files(folder: Path, lines: list[Any]) -> None:
    """Remove what was staged, and an output that was replaced. Raises OutputError if that is more than a checkpoint."""
    older = [folder / OLD] if _own_files(folder, lines) else [folder / OLD, folder / FILES]
    if others := [f"{path.name}/{name}" for path in older if path.is_dir() for name in strangers(path)]:
        raise OutputError(
            f"{folder} holds an older output that was replaced, and in it are files that are no part of a checkpoint. "
            "Move these to another place and run the same command again:",
            others[:SHOWN],
        )
    for path in (folder / FILES, folder / OLD):
        if os.path.lexists(path):
            remove(path)


def _put_back(folder: Path, target: Path) -> None:
    """Give an older output its name back, if a killed run had set it aside and nothing has the name now."""
    if os.path.lexists(folder / OLD) and not os.path.lexists(target):
        with suppress(FileExistsError):
            move_new(folder / OLD, target)


def _cleared(folder: Path, journal: Any) -> None:
    """Remove the data, then the journal, then the folder. The next process that takes the lock makes a new folder."""
    _remove_files(folder, _notes(journal))
    (folder / JOURNAL).unlink(missing_ok=True)
    with suppress(OSError):  # not empty: another run has already begun in it
        folder.rmdir()


def _identity(path: Path) -> list[int]:
    """What a file or folder keeps when it is renamed: the numbers of its device and of its inode."""
    about = path.lstat()
    return [about.st_dev, about.st_ino]
