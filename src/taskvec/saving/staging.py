"""Where an output grows until it is whole: a hidden sibling folder with a journal, locked by the process that writes.

`.NAME.taskvec/files/` holds the output. `journal.jsonl` beside it is the lock, and has a line each for

1. the plan, and the number (inode) of the hidden folder: a copy of the folder, in a clone or an archive, is not gone on
   with. What else lies there under this name, a link, or files that no journal speaks of, is refused and left alone;
2. the number of `files`, so that it is known from an older output which a swap has put there in its place;
3. every run of blocks that are safely on disk;
4. at last what the whole output consists of, just before it gets its name.

A killed process leaves all that. The same command checks what is there against the journal and goes on; any other
command for the same output clears it away first. Clearing goes from the data to the journal to the folder, so that at
every moment either the journal explains what is there, or nothing is there.
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
from taskvec.places.local import Folder, opened, stated, write_exactly
from taskvec.places.moving import CANNOT, move_new, remove, swap, sync, sync_folder
from taskvec.saving.outputs import SHOWN, Destination, strangers

try:
    import fcntl
except ImportError:  # Windows: no lock, the journal still names its plan
    fcntl = None  # type: ignore[assignment]

JOURNAL, FILES, OLD = "journal.jsonl", "files", "old"
PROOFS = Mapping[str, str]  # file -> digest, of what an output consisted of when it was whole


@dataclass(frozen=True, slots=True)
class Done:
    """A block that was computed: the digests of its pieces and the flags of its arithmetic."""

    index: int
    pieces: tuple[bytes, ...]
    flags: int


class Staging:
    """The folder for one output and one plan. `done` holds the blocks that an earlier run recorded."""

    def __init__(self, place: Destination, key: str, resume: bool, durable: bool):
        """Raises OutputError if the output cannot be written, also if that is so only since another has finished it."""
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
                    self.close()  # an earlier run may still be gone on with
                else:
                    self.discard()
                raise

    def _begun(self, key: str, resume: bool) -> Iterable[Done]:
        """The blocks of an earlier run of the same plan; without one, an empty folder and the journal's first lines."""
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
        end = os.fstat(self._journal.fileno()).st_size
        torn = end and os.pread(self._journal.fileno(), 1, end - 1) != b"\n"
        text = "\n" * bool(torn) + "".join(json.dumps(line) + "\n" for line in lines)
        write_exactly(self._journal.fileno(), memoryview(text.encode()), end)

    def record(self, blocks: Iterable[Done], synced: Callable[[], None]) -> None:
        """Note finished blocks once `synced` has made their data durable; a line that is lost costs only its blocks."""
        synced()
        self._note(*([d.index, d.flags, b"".join(d.pieces).hex()] for d in blocks))

    def keep_only(self, sizes: Mapping[str, int]) -> None:
        """Remove what does not belong to the output (name -> size) from an earlier run's files."""
        for found in self.files.iterdir():
            about = found.lstat()
            if found.name not in sizes or not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
                remove(found)
            elif about.st_size > sizes[found.name]:
                os.truncate(found, sizes[found.name])

    def commit(self, proofs: PROOFS | None = None) -> None:
        """The whole output under its name, in one step; then the staging folder is gone.

        The journal says first which folder or file that is and what it consists of (`proofs`), so that a run that finds
        it in place knows it is done. Raises OutputError if something else has the name by now: that is left alone.
        """
        sync_folder(self.files, self.durable)
        new = next(self.files.iterdir()) if self.place.alone else self.files
        with stated(self.target, OutputError):
            self._note({"whole": _identity(new), "proofs": dict(proofs or {})})
            if self.durable:
                sync(self._journal.fileno())
            self._give_name(new)
        with suppress(OSError):  # the output is there: what cannot be cleared now, the next run clears
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
            home = Folder(self.target.parent)
            home.publish(new.relative_to(home.folder).as_posix(), self.target.name)
        except FileExistsError:
            if not self.place.overwrite:
                raise OutputError(
                    f"{self.target} was made by another program meanwhile, and is left as it is. Move it away and run "
                    "the same command again: the output is whole, and is put there without computing it again"
                ) from None
            self._replace(new)

    def _replace(self, new: Path) -> None:
        """`new` in the place of what has the name, which is looked at before and after; removed with the folder.

        Where the system can swap two names at once (Linux), the target exists at every moment. Elsewhere the old one is
        set aside in the folder, and the next run puts it back if nothing has its name.
        """
        self.place.require_replaceable(self.target)
        aside = new if (swapped := swap(new, self.target)) else self.folder / OLD
        if not swapped:
            self.target.rename(aside)
        try:
            self.place.require_replaceable(aside)  # whatever it is that has just come out
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
        """Let go of the folder and leave it for the next run."""
        self._journal.close()


def hidden(target: Path) -> Path:
    """The staging folder of an output."""
    return target.with_name(f".{target.name}.taskvec")


def finished_before(place: Destination, key: str = "", proven: Callable[[PROOFS], bool] = lambda proofs: False) -> bool:
    """Whether a run of the same plan was killed after its last step, and its output is `proven` to be there still.

    What such a run has left is cleared away, and also what a run left that came no further than making the folder.
    """
    folder = hidden(place.target)
    if not os.path.lexists(folder):
        return False
    with stated(place.target, OutputError):
        try:
            journal = _claimed(folder, place.target)
        except OutputError:  # somebody works there, or it is not ours: a run that needs the folder says so
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
    """Where a file is to be written that is an output of its own. Behind the `with` it has its name, whole; after an
    error there is nothing. Raises OutputError."""
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
    """A page or a picture under its name: whole and on the disk, or not at all. Raises OutputError."""
    with one_file(place) as path, os.fdopen(opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.write(content)
        file.flush()
        sync(file.fileno())


# ---- the folder and its journal ------------------------------------------------------------------
def _claimed(folder: Path, target: Path) -> Any:
    """The journal, open and locked, of a folder that is ours. Raises OutputError if it is another's or somebody's."""
    busy = f"another taskvec is writing {target} at this moment: wait for it or take another name"
    for _ in range(100):  # as often as others finish, and their folders go away under ours
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
    """Raise OutputError unless this is a folder of this user's that holds what taskvec puts there, and no links."""
    kinds = {JOURNAL: {stat.S_IFREG}, FILES: {stat.S_IFDIR}, OLD: {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}}
    about = folder.lstat()
    problems = [] if stat.S_ISDIR(about.st_mode) else ["it is no folder but a link or a file"]
    if not problems and not _is_ours(about, folder):
        problems.append("it belongs to another user")
    for found in [] if problems else sorted(folder.iterdir()):
        inner = found.lstat()
        if found.name not in kinds:
            problems.append(f"{found.name} is none of taskvec's")
        elif stat.S_IFMT(inner.st_mode) not in kinds[found.name] or (found.name == JOURNAL and inner.st_nlink > 1):
            problems.append(f"{found.name} is a link, or not what taskvec puts there")
    if problems:
        raise _foreign(folder, problems)


def _is_ours(about: os.stat_result, folder: Path) -> bool:
    """Whether something belongs to this user: to whom a file system gives what we make, where that is somebody else."""
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
    """Raise OutputError if there are files, or a journal, that no run of taskvec can have left."""
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
    files = folder / FILES
    return os.path.lexists(folder / OLD) or (files.is_dir() and any(files.iterdir()))


def _each(journal: Any) -> Iterator[bytes]:
    """The lines of the journal, which for a large model are many: one at a time."""
    with os.fdopen(os.dup(journal.fileno()), "rb") as again:
        again.seek(0)
        yield from again


def _notes(journal: Any) -> list[Any]:
    """What the journal says beside its blocks; None for a first line that is none. Lines that a kill has torn are left
    out, and so is what a power cut has left of a first one."""
    found: list[Any] = []
    for line in _each(journal):
        text = line.strip(b"\0\n")
        if text and (not found or text.startswith(b"{")):
            try:
                found.append(json.loads(text))
            except (ValueError, RecursionError):
                found += [] if found else [None]
    return found


def _blocks(journal: Any) -> Iterator[Done]:
    """The blocks that were noted, of lines that are as they should be."""
    for text in _each(journal):
        with suppress(ValueError, RecursionError):
            line = json.loads(text) if text.startswith(b"[") else None
            if isinstance(line, list) and [*map(type, line)] == [int, int, str]:
                raw = bytes.fromhex(line[2])
                yield Done(line[0], tuple(raw[k : k + 32] for k in range(0, len(raw), 32)), line[1])


def _own_files(folder: Path, lines: list[Any]) -> bool:
    """Whether `files` is what a run has made there, or missing, and not an older output that was swapped with it."""
    numbers = [line[FILES] for line in lines if isinstance(line, dict) and FILES in line]
    try:
        return not numbers or (folder / FILES).lstat().st_ino == numbers[-1]
    except FileNotFoundError:
        return True


def _remove_files(folder: Path, lines: list[Any]) -> None:
    """What was staged, and an output that was replaced. Raises OutputError if that holds more than a checkpoint."""
    older = [folder / OLD] if _own_files(folder, lines) else [folder / OLD, folder / FILES]
    if others := [f"{path.name}/{name}" for path in older if path.is_dir() for name in strangers(path)]:
        raise OutputError(
            f"{folder} holds an older output that was replaced, and in it what is no part of a checkpoint. Move that "
            "to a place of its own and run the same command again:",
            others[:SHOWN],
        )
    for path in (folder / FILES, folder / OLD):
        if os.path.lexists(path):
            remove(path)


def _put_back(folder: Path, target: Path) -> None:
    """An older output that a killed run had set aside, where nothing has its name now."""
    if os.path.lexists(folder / OLD) and not os.path.lexists(target):
        with suppress(FileExistsError):
            move_new(folder / OLD, target)


def _cleared(folder: Path, journal: Any) -> None:
    """Data first, then the journal, then the folder; who takes the lock next has a new one."""
    _remove_files(folder, _notes(journal))
    (folder / JOURNAL).unlink(missing_ok=True)
    with suppress(OSError):  # another run has begun in it already
        folder.rmdir()


def _identity(path: Path) -> list[int]:
    """What a file or folder keeps when it is renamed."""
    found = path.lstat()
    return [found.st_dev, found.st_ino]
