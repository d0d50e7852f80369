"""Processes that share a journal must not do the same work: a claim says who works on what, and until when it counts.

1. A process that begins something writes a claim into the journal: what it begins, a random token, and who the process
   is, namely the host, the boot of the host, the process number and the time at which the process started.
2. While it works, a thread writes the line {"beat": token, "at": time} every BEAT seconds. Work that is over within
   BEAT seconds writes none. If the work fails, {"release": token} gives the claim back.
3. A claim is free for others as soon as its process is known to be gone. On the same host and boot this can be seen:
   the process does not run, is a zombie, or started at another time, since process numbers are used again. About other
   hosts and containers nothing can be known: their claims are free after LEASE seconds without a beat.

A process that was only stopped for longer than that may find that another one did its work. The line that was written
first counts.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from taskvec.errors import TaskvecError
from taskvec.searching.entries import Line

BEAT = 20.0  # seconds between two signs of life
LEASE = 120.0  # seconds for which a claim counts without a sign of life
_at_work: set[str] = set()  # the tokens of the claims that this process is working on


def claim_of(what: "int | Mapping[str, Any]") -> Line:
    """A new claim of this process. what: the number of a trial, or a part of the line that the work will write."""
    return {
        "claim": what, "id": secrets.token_hex(6), "host": socket.gethostname(), "boot": _boot(), "pid": os.getpid(),
        "start": _started(os.getpid()), "at": round(time.time(), 3),
    }  # fmt: skip


class Watch:
    """What one process knows of the claims of others: the last sign of life of each, and when it was noticed."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[float, float]] = {}  # token -> (time of its last sign of life, when we noticed it)

    def counts(self, claim: Line, beats: Mapping[str, float], released: set[str]) -> bool:
        """Whether a claim still counts. beats: token -> time of the last beat; released: the tokens given back."""
        token = str(claim.get("id") or claim)
        if token in _at_work:
            return True
        if token in released or _gone(claim):
            return False
        last = max(float(claim["at"]), beats.get(token, 0.0))
        known, noticed = self._heard.get(token, (None, 0.0))
        if last != known:
            self._heard[token] = last, noticed = last, time.monotonic()
        # the first condition trusts the other machine's clock; the second holds even if that clock is ahead of ours
        return time.time() - last < LEASE and time.monotonic() - noticed < LEASE


def hold(claim: Line) -> None:
    """Remember that this process works on a claim, so that no other thread of it begins the same work."""
    _at_work.add(claim["id"])


def drop(claim: Line) -> None:
    """Forget a claim of this process: the work is over, or was given up."""
    _at_work.discard(claim["id"])


@contextmanager
def kept(claim: Line, add: Callable[[Line], None]) -> Iterator[None]:
    """A block in which a claim that this process holds keeps counting, because a thread writes beats.

    add: writes a line into the journal; it is called from that thread, too.
    """
    token, over = claim["id"], threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with suppress(TaskvecError):  # the work will fail on the same journal, and say why
                add({"beat": token, "at": round(time.time(), 3)})

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        with suppress(TaskvecError):
            add({"release": token})
        raise
    finally:
        over.set()
        thread.join()
        drop(claim)


def _gone(claim: Line) -> bool:
    """Whether it is known that the process of a claim has ended, or has given up its work."""
    pid = claim.get("pid")
    if claim.get("host") != socket.gethostname() or claim.get("boot") != _boot() or pid is None or os.name != "posix":
        return False
    if pid == os.getpid() and claim.get("start") == _started(pid):
        return True  # our own claim, of work that was given up
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return claim.get("start") != _started(pid)


@cache
def _boot() -> str:
    """The identity of this start of the machine and of the namespace that process numbers belong to; "" if unknown."""
    with suppress(OSError):
        space = Path("/proc/self/ns/pid").readlink()
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {space}"
    return ""


def _started(pid: int) -> int | None:
    """When a process began, in ticks since the boot; None for a zombie, and where the system does not tell."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])
