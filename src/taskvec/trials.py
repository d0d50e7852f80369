"""The journal of a search, or of another row of trials: a line of JSON for all that is known, as it came to be known.

Several processes may write to one journal. Each line is appended whole under a lock, and is on the disk when that
returns. The first line says what is tried: a journal never goes on as another one.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskvec.errors import FormatError, OutputError
from taskvec.storage import stated
from taskvec.stores import URL, Line, parsed, store_of

FORMAT, KINDS = 1, ("search", "interference")
POLL = 0.5  # seconds between two looks at what another process is doing
LEASE, TIMES = 600.0, 10  # a claim of another machine is void after so many seconds, or times the longest trial


class Journal:
    """The lines of a file or a database, or with no place of memory. `lines()` has what every process wrote."""

    def __init__(self, where: "str | os.PathLike[str] | None", about: Mapping[str, Any], kind: str = "search"):
        """Begin it, or go on if it is of the same search (or what `kind` says). Raises OutputError, FormatError."""
        self.store = store_of(where)
        first = {kind: FORMAT, **json.loads(json.dumps(about))}
        with self.store.locked():
            lines = self.store.lines()
            if not lines:
                self.store.append(first)
            elif lines[0] != first:
                raise OutputError(
                    f"{self.store} is the journal of another {kind}; take another name, or remove it. It differs in:",
                    _differences(lines[0], first),
                )

    def lines(self) -> list[Line]:
        """Everything but the first line."""
        with self.store.locked():
            return self.store.lines()[1:]

    def add(self, line: Line) -> None:
        """One line more."""
        with self.store.locked():
            self.store.append(line)

    def claim(self, total: int) -> int | None:
        """The first trial that nobody has finished and no living process works on, now ours; None if there is none.

        A claim of a process of this machine that is gone counts for nothing, nor does one of another machine that has
        taken much longer than any trial did.
        """
        with self.store.locked():
            lines = self.store.lines()[1:]
            done, total = _done(lines, total)
            taken = {line["claim"]: line for line in lines if "claim" in line}
            lease = max([LEASE, *(TIMES * line.get("seconds", 0) for line in lines if "trial" in line)])
            for number in range(total):
                if number in done or (number in taken and _alive(taken[number], lease)):
                    continue
                if self.store.shared:
                    host, pid = socket.gethostname(), os.getpid()
                    self.store.append({"claim": number, "host": host, "pid": pid, "at": round(time.time())})
                return number
        return None

    def waiting(self, total: int) -> bool:
        """Whether a trial is still being worked on, by another process."""
        done, total = _done(self.lines(), total)
        return any(number not in done for number in range(total))


def read_lines(where: "str | os.PathLike[str]") -> list[Line]:
    """The lines of a journal that is only looked at. Raises FormatError, of a database OutputError."""
    if URL.match(os.fspath(where)):
        store = store_of(where)
        with store.locked():
            lines = [*store.lines()]
    else:
        with stated(where, FormatError):
            data = Path(where).read_bytes()
        lines = parsed(Path(where), data[: data.rfind(b"\n") + 1], 1)
    if not lines or "search" not in lines[0]:
        raise FormatError(f"{os.fspath(where)} is no journal of a search")
    return lines


def _done(lines: list[Line], total: int) -> tuple[set[int], int]:
    """(the finished trials, how many there are to be: fewer than `total` where a sampler came to its end)."""
    done = {line["trial"] for line in lines if "trial" in line}
    return done, min([total, *(line["end"] for line in lines if "end" in line)])


def _alive(claim: Line, lease: float) -> bool:
    if claim["host"] != socket.gethostname():
        return time.time() - float(claim["at"]) < lease  # nobody here can tell
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
    kind = next((kind for kind in KINDS if kind in old), None)
    if kind is None:
        return ["its first line, which is none of a journal"]
    if kind not in new:
        return [f"what is tried: it is of taskvec {kind}"]
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{key}: {_short(old.get(key))} there, {_short(new.get(key))} here" for key in keys]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def now() -> str:
    """The time of a line, to the second, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
