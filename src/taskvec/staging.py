"""Where an output grows until it is whole: a hidden sibling folder with a journal, locked by the process that writes.

`.NAME.taskvec/files/` holds the output, `journal.jsonl` one line for the plan and one for every run of blocks that are
safely on disk. A killed process leaves both; the same command checks what is there against the journal and goes on.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from taskvec.errors import OutputError
from taskvec.sidecars import strangers
from taskvec.storage import move_into_place, remove, stated, sync_folder

try:
    import fcntl
except ImportError:  # Windows: no lock, the journal still names its plan
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Done:
    """A block that was computed: the digests of its pieces and the flags of its arithmetic."""

    index: int
    pieces: tuple[bytes, ...]
    flags: int


class Staging:
    """The folder for one output and one plan. `done` holds the blocks that an earlier run recorded."""

    def __init__(self, target: Path, key: str, resume: bool, durable: bool, ready: Callable[[], None] = lambda: None):
        """`ready` is called once the folder is ours: another process may have finished the output until then."""
        self.target, self.durable = target, durable
        self.folder = target.with_name(f".{target.name}.taskvec")
        self.files = self.folder / "files"
        self._journal_path = self.folder / "journal.jsonl"
        with stated(target, OutputError):
            self._claim()
            try:
                ready()
            except OutputError:
                self._let_go()
                raise
            earlier = _read_journal(self._journal_path, key) if resume else None
            if earlier is None:
                shutil.rmtree(self.files, ignore_errors=True)
                self._journal_path.write_text(json.dumps({"plan": key}) + "\n", encoding="utf-8")
            self.done: dict[int, Done] = {done.index: done for done in earlier or []}
            self.files.mkdir(exist_ok=True)
            self._journal: IO[str] = self._journal_path.open("a", encoding="utf-8")

    def _claim(self) -> None:
        busy = OutputError(f"another taskvec is writing {self.target} at this moment: wait for it or take another name")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = (self.folder / "lock").open("w")
        except FileNotFoundError:  # the other one has finished, and its folder went away under ours
            raise busy from None
        if fcntl is None:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise busy from None
        if not os.fstat(self._lock.fileno()).st_nlink:  # it finished just now, with its folder
            raise busy

    def _let_go(self) -> None:
        with suppress(OSError):
            remove(self.folder)
        self._lock.close()  # after the folder is gone: who locks it next has a new one

    def record(self, blocks: Iterable[Done], files: Iterable[int]) -> None:
        """Make the data of finished blocks durable, then note them; a line that is lost costs only its blocks."""
        for fd in files if self.durable else ():
            os.fdatasync(fd)
        lines = [json.dumps([d.index, d.flags, b"".join(d.pieces).hex()]) + "\n" for d in blocks]
        self._journal.write("".join(lines))
        self._journal.flush()

    def keep_only(self, sizes: Mapping[str, int]) -> None:
        """Remove what does not belong to the output (name -> size) from an earlier run's files."""
        for found in self.files.iterdir():
            if found.name not in sizes or not found.is_file() or found.is_symlink():
                remove(found)
            elif found.stat().st_size > sizes[found.name]:
                os.truncate(found, sizes[found.name])

    def commit(self) -> None:
        """The whole output under its name, in one step; then the staging folder is gone.

        The journal says first which folder or file that is, so that a run that finds it in place knows it is done.
        """
        sync_folder(self.files, self.durable)
        only = [*self.files.iterdir()]
        new = only[0] if self.target.suffix == ".safetensors" and len(only) == 1 else self.files
        with stated(self.target, OutputError):
            self._journal.write(json.dumps({"whole": _identity(new)}) + "\n")
            self._journal.flush()
            if self.durable:
                os.fsync(self._journal.fileno())
            move_into_place(new, self.target, self.durable)
        self.discard()

    def discard(self) -> None:
        """Remove everything that was staged."""
        self._journal.close()
        self._let_go()

    def close(self) -> None:
        """Let go of the folder and leave it for the next run."""
        self._journal.close()
        self._lock.close()


def _read_journal(path: Path, key: str) -> list[Done] | None:
    """The blocks of an earlier run of the same plan, or None if there was none. A torn last line is no block."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        if not lines or json.loads(lines[0]) != {"plan": key}:
            return None
    except (OSError, ValueError):
        return None
    found = []
    for line in lines[1:]:
        with suppress(ValueError, TypeError):
            index, flags, digests = json.loads(line)
            raw = bytes.fromhex(digests)
            found.append(Done(index, tuple(raw[k : k + 32] for k in range(0, len(raw), 32)), flags))
    return found


def require_writable(target: Path, overwrite: bool, sources: Iterable[Path]) -> None:
    """Raise OutputError if `target` cannot become the output, before anything is made.

    A folder is replaced only with `overwrite`, only if it holds nothing but a checkpoint, and never if a source lies
    within it.
    """
    if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
        if not overwrite:
            raise OutputError(
                f"{target} exists{' and is not empty' if target.is_dir() else ''}; --overwrite replaces it"
            )
        if target.is_dir() == (target.suffix == ".safetensors"):
            raise OutputError(
                f"{target} is a {'folder' if target.is_dir() else 'file'}, the output is not; remove it first"
            )
        folders = [s if s.is_dir() else s.parent for s in map(Path.resolve, sources)]
        inside = [str(folder) for folder in folders if target in folder.parents]
        if target.is_dir() and (inside or target in Path.cwd().parents):
            raise OutputError(
                f"{target} holds what is still needed ({', '.join(inside) or 'this folder'}): not replaced"
            )
        if target.is_dir() and (others := strangers(target)):
            raise OutputError(
                f"{target} is no checkpoint, or not only that, so it is not replaced; it holds:", others[:20]
            )
    above = next((p for p in target.parents if os.path.lexists(p)), None)
    if above is None or not above.is_dir():
        raise OutputError(f"{target} cannot be made: {above} is not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"{target} cannot be made: no permission to write in {above}")


def finished_before(target: Path, key: str) -> bool:
    """Whether a run of the same plan was killed after its last step, with only the clearing up left; clears up then."""
    folder = target.with_name(f".{target.name}.taskvec")
    try:
        lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
        known = lines[:1] == [json.dumps({"plan": key})]
        done = known and json.dumps({"whole": _identity(target)}) in lines
    except (OSError, ValueError):
        return False
    if done:
        remove(folder)
    return done


def _identity(path: Path) -> list[int]:
    """What a file or folder keeps when it is renamed."""
    found = path.stat()
    return [found.st_dev, found.st_ino]
