"""The journal of a search: one line of JSON for what is known of it, in the order in which it came to be known.

Several processes may write to one journal. Each line is appended whole under a lock, and is on the disk when that
returns; a line that a kill or a full disk left torn is cut off by whoever writes next. The first line says what the
search is: a journal never goes on as another one.
"""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taskvec.errors import FormatError, OutputError
from taskvec.storage import stated

try:
    import fcntl
except ImportError:  # no locks: one process a journal
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
Line = dict[str, Any]


class Journal:
    """The lines of a file, or with no path of memory. `lines()` has what every process wrote."""

    def __init__(self, path: Path | None, about: Mapping[str, Any]):
        """Begin it, or go on if it is of the same search. Raises OutputError, FormatError."""
        self.path = path
        self._memory: list[Line] = []
        self._read: list[Line] = []
        self._size = 0
        first = {"search": FORMAT, **json.loads(json.dumps(about))}
        with self._locked() as fd:
            lines = self._lines(fd)
            if not lines:
                self._append(fd, [first])
            elif lines[0] != first:
                raise OutputError(
                    f"{path} is the journal of another search; take another name, or remove it. It differs in:",
                    _differences(lines[0], first),
                )

    def lines(self) -> list[Line]:
        """Everything but the first line."""
        with self._locked() as fd:
            return self._lines(fd)[1:]

    def add(self, line: Line) -> None:
        """One line more."""
        with self._locked() as fd:
            self._append(fd, [line])

    def claim(self, total: int) -> int | None:
        """The first trial that nobody has finished and no living process works on, now ours; None if there is none.

        A claim of a process of this machine that is gone counts for nothing.
        """
        with self._locked() as fd:
            lines = self._lines(fd)[1:]
            done, total = _done(lines, total)
            taken = {line["claim"]: line for line in lines if "claim" in line}
            for number in range(total):
                if number in done or (number in taken and _alive(taken[number])):
                    continue
                if self.path is not None:
                    self._append(fd, [{"claim": number, "host": socket.gethostname(), "pid": os.getpid()}])
                return number
        return None

    def waiting(self, total: int) -> bool:
        """Whether a trial is still being worked on, by another process."""
        done, total = _done(self.lines(), total)
        return any(number not in done for number in range(total))

    # ---- the file
    @contextmanager
    def _locked(self) -> Iterator[int]:
        if self.path is None:
            yield -1
            return
        with stated(self.path, OutputError):
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    def _lines(self, fd: int) -> list[Line]:
        """What is whole; read from where it was last read to."""
        if self.path is None:
            return self._memory
        with stated(self.path, FormatError):
            size = os.fstat(fd).st_size
            if size < self._size:
                raise FormatError(f"{self.path} became shorter while it was in use")
            data = os.pread(fd, size - self._size, self._size)
        whole = data[: data.rfind(b"\n") + 1]
        self._read += _parsed(self.path, whole, len(self._read) + 1)
        self._size += len(whole)
        return self._read

    def _append(self, fd: int, lines: list[Line]) -> None:
        if self.path is None:
            self._memory += lines
            return
        self._lines(fd)  # behind what others wrote
        text = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)
        with stated(self.path, OutputError):
            try:
                os.ftruncate(fd, self._size)  # what a kill left of a line
                done = 0
                while done < len(text):
                    done += os.pwrite(fd, text[done:], self._size + done)
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, self._size)
                raise
        self._lines(fd)


def read_lines(path: Path) -> list[Line]:
    """The lines of a journal that is only looked at. Raises FormatError."""
    with stated(path, FormatError):
        data = path.read_bytes()
    lines = _parsed(path, data[: data.rfind(b"\n") + 1], 1)
    if not lines or "search" not in lines[0]:
        raise FormatError(f"{path} is no journal of a search")
    return lines


def _parsed(path: Path, whole: bytes, first: int) -> list[Line]:
    """Whole lines, the first of them the file's line `first`."""
    found = []
    for number, text in enumerate(whole.splitlines(), first):
        try:
            line = json.loads(text.decode())
            if not isinstance(line, dict):
                raise ValueError("it is no object")
        except ValueError as error:
            raise FormatError(f"{path}, line {number}: no line of a journal ({error})") from None
        found.append(line)
    return found


def _done(lines: list[Line], total: int) -> tuple[set[int], int]:
    """(the finished trials, how many there are to be: fewer than `total` where a sampler came to its end)."""
    done = {line["trial"] for line in lines if "trial" in line}
    return done, min([total, *(line["end"] for line in lines if "end" in line)])


def _alive(claim: Line) -> bool:
    if claim["host"] != socket.gethostname():
        return True  # nobody here can tell
    if claim["pid"] == os.getpid():
        return False  # ours, of a search that was given up
    try:
        os.kill(claim["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _differences(old: Line, new: Line) -> list[str]:
    if "search" not in old:
        return ["its first line, which is none of a journal"]
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{key}: {_short(old.get(key))} there, {_short(new.get(key))} here" for key in keys]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def now() -> str:
    """The time of a line, to the second, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
