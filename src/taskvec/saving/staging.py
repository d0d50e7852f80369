"""The hidden folder in which an output grows until it is whole.

An output NAME grows in `.NAME.taskvec`, beside the place where it will be:

    files/          the files of the output
    journal.jsonl   what has been done so far; the process that writes holds a lock on it (journal.py)
    old             an older output, for the moment in which the new one takes its name, where names cannot be swapped

A killed process leaves all of this behind. The same command compares the files with the journal and goes on. Any other
command for the same output clears the folder away first: the data, then the journal, then the folder. So at every
moment either the journal explains what is there, or nothing is there.
"""

import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from taskvec.errors import OutputError
from taskvec.places.local import Folder, opened, stated
from taskvec.places.moving import move_new, remove, swap, sync, sync_folder
from taskvec.saving.journal import FILES, JOURNAL, OLD, append, claimed, holds_data, lines_of, notes
from taskvec.saving.outputs import SHOWN, Destination, strangers

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
        """Lock the folder, and go on with what is there or begin anew.

        Raises OutputError if another process is writing this output, or if it cannot be written. The latter is checked
        under the lock, because another process may have finished the same output a moment before.
        """
        self.place, self.target, self.durable = place, place.target, durable
        self.folder = hidden(self.target)
        self.files = self.folder / FILES
        with stated(self.target, OutputError):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._journal = claimed(self.folder, self.target)
            try:
                _put_back(self.folder, self.target)
                place.require_writable()
                self.done = {done.index: done for done in self._begun(key, resume)}
            except BaseException:
                if notes(self._journal):
                    self.close()  # the work of an earlier run stays, so that a later run can go on with it
                else:
                    self.discard()
                raise

    def _begun(self, key: str, resume: bool) -> Iterable[Done]:
        """The blocks that an earlier run of the same plan recorded; or none, once folder and journal are emptied."""
        lines, first = notes(self._journal), {"plan": key, "folder": self.folder.stat().st_ino}
        if resume and lines[:1] == [first] and _own_files(self.folder, lines):
            return _blocks(self._journal)
        _remove_files(self.folder, lines)
        os.ftruncate(self._journal.fileno(), 0)
        append(self._journal, first)
        self.files.mkdir()
        append(self._journal, {FILES: self.files.stat().st_ino})
        if self.durable:
            sync(self._journal.fileno())
        return []

    def record(self, blocks: Iterable[Done], synced: Callable[[], None]) -> None:
        """Note finished blocks in the journal, after `synced` has made their data durable. If a power cut loses a line
        of the journal, its blocks are computed again."""
        synced()
        append(self._journal, *([d.index, d.flags, b"".join(d.pieces).hex()] for d in blocks))

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

        Before that, the journal notes the number (inode) of the output and its `proofs`. A later run that finds this
        very output under its name knows by them that the work is done (`finished_before`). Raises OutputError if
        something else has the name by now, and leaves that as it is.
        """
        sync_folder(self.files, self.durable)
        new = next(self.files.iterdir()) if self.place.alone else self.files
        with stated(self.target, OutputError):
            append(self._journal, {"whole": _identity(new), "proofs": dict(proofs or {})})
            if self.durable:
                sync(self._journal.fileno())
            self._give_name(new)
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
        with suppress(OSError):  # what cannot be removed now, the next run removes
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
            journal = claimed(folder, place.target)
        except OutputError:  # another process works there, or it is not ours; a run that needs the folder will say so
            return False
        with journal:
            _put_back(folder, place.target)
            lines = notes(journal)
            whole: dict[str, Any] = next((line for line in reversed(lines) if "whole" in line), {})
            here = os.path.lexists(place.target) and whole.get("whole") == _identity(place.target)
            done = here and lines[0]["plan"] == key and proven(whole.get("proofs", {}))
            if here or not holds_data(folder):
                _cleared(folder, journal)
        return bool(done)


@contextmanager
def one_file(place: Destination) -> Iterator[Path]:
    """For an output that is one file: the path to write it to. After the `with` block the file has its name; after an
    error in the block there is no file. Raises OutputError."""
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


# ---- what lies in the folder ---------------------------------------------------------------------
def _blocks(journal: FileIO) -> Iterator[Done]:
    """The blocks that the journal records. Lines that are not as `Staging.record` writes them are left out."""
    for text in lines_of(journal):
        with suppress(ValueError, RecursionError):
            line = json.loads(text) if text.startswith(b"[") else None
            if isinstance(line, list) and [*map(type, line)] == [int, int, str]:
                raw = bytes.fromhex(line[2])
                yield Done(line[0], tuple(raw[k : k + 32] for k in range(0, len(raw), 32)), line[1])


def _own_files(folder: Path, lines: list[Any]) -> bool:
    """Whether `files` is there and is the folder that the journal names. If it is another one, it is an older output,
    which has swapped names with the new one."""
    files = folder / FILES
    return files.is_dir() and [files.stat().st_ino] == [line[FILES] for line in lines if FILES in line]


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
        remove(path)


def _put_back(folder: Path, target: Path) -> None:
    """Give an older output its name back, if a killed run had set it aside and nothing has the name now."""
    if os.path.lexists(folder / OLD) and not os.path.lexists(target):
        with suppress(FileExistsError):
            move_new(folder / OLD, target)


def _cleared(folder: Path, journal: FileIO) -> None:
    """Remove the data, then the journal, then the folder. The next process that takes the lock makes a new folder."""
    _remove_files(folder, notes(journal))
    (folder / JOURNAL).unlink(missing_ok=True)
    with suppress(OSError):  # not empty: another run has already begun in it
        folder.rmdir()


def _identity(path: Path) -> list[int]:
    """What a file or folder keeps when it is renamed: the numbers of its device and of its inode."""
    about = path.lstat()
    return [about.st_dev, about.st_ino]
