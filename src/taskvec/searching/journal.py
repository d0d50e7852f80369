"""The journal of a search keeps all that is known: a line of JSON for each trial, in the order of their ends.

A search that was stopped goes on from its journal, and several processes that share a journal share the work.

1. Each line is appended whole under a lock, and is on the disk when the call returns (stores.py).
2. The first line says what is searched. A journal of one search is never continued by another one.
3. Before a process begins a trial, or looks at test examples, it writes a claim (leases.py), so that no other process
   does the same work.
4. A line that no search writes is refused (entries.py).
"""

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taskvec.algebra.weights import Weights
from taskvec.errors import FormatError, OutputError
from taskvec.places.local import stated
from taskvec.searching.entries import Line, require_sound
from taskvec.searching.leases import Watch, claim_of, hold, kept
from taskvec.searching.stores import URL, parsed, store_of

FORMAT, KINDS = 2, ("search", "interference")
POLL = 0.5  # seconds between two looks at what another process is doing
Total = Callable[[Sequence[Line]], int]  # how many trials there are to be, given the lines so far
Progress = Callable[[int, int], None]  # trials done, trials in all


class Journal:
    """The lines in a file, in a database or, without a place, in memory. `lines()` has what every process wrote."""

    def __init__(self, where: "str | os.PathLike[str] | None", about: Mapping[str, Any], kind: str = "search"):
        """Begin a journal, or go on with one of the same search (or other `kind` of work).

        about: what is searched, the journal's first line. Raises OutputError, FormatError.
        """
        self.store, self.kind = store_of(where), kind
        self._watch, self._mutex, self._sound = Watch(), threading.RLock(), 1  # the number of lines checked
        first = {kind: FORMAT, **json.loads(json.dumps(about))}
        with self._locked():
            lines = self.store.lines()
            if not lines:
                self.store.append(first)
            elif lines[0] != first:
                self._refuse(lines[0], first, kind)

    def lines(self) -> list[Line]:
        """All lines but the first."""
        with self._locked():
            return self._lines()

    def add(self, line: Line) -> None:
        """Add a line."""
        with self._locked():
            self.store.append(line)

    def choose(self, line: Line) -> None:
        """Add the line of a choice, unless the last choice in the journal is the same."""
        with self._locked():
            choices = [{k: v for k, v in old.items() if k != "time"} for old in self._lines() if "choice" in old]
            if choices[-1:] != [line]:
                self.store.append(_stamped(line))

    # ---- work that is shared ---------------------------------------------------------------------
    def work(
        self,
        total: "Total | int",
        do: Callable[[int, Sequence[Line]], Line],
        in_turn: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Do every trial that no other process does, and wait for the others: on return all are done.

        do: (the number of a trial, the lines so far) -> its line, {"trial": number, ...}, or {"end": number} if there
            is nothing more to try. If it raises, the trial is given back.
        in_turn: begin no trial before all ahead of it are done.
        progress: is called after each trial of this process with the number of trials that all processes have done.
        """
        while True:
            claim, lines = self.claim(total, in_turn)
            if claim is not None:
                with kept(claim, self.add):
                    line = self._finish(claim, do(claim["claim"], lines))
                if progress and "trial" in line:
                    progress(sum("trial" in line for line in self.lines()))
            elif self.waiting(total):
                time.sleep(POLL)
            else:
                return

    def once(self, what: Mapping[str, Any], do: Callable[[Sequence[Line]], Line]) -> Line:
        """The line that has all of `what`.

        If the journal has none, one process makes it by `do`, from the lines so far, and the others wait for it.
        """
        while True:
            with self._locked():
                lines = self._lines()
                if (line := _line_with(what, lines)) is not None:
                    return line
                claim = None if self._taken(lines, [what]) else self._claim(what)
            if claim is None:
                time.sleep(POLL)
                continue
            with kept(claim, self.add):
                return self._finish(claim, {**what, **do(lines)})

    def waiting(self, total: "Total | int") -> bool:
        """Whether a trial is still to be finished."""
        done, count = _done(self.lines(), total)
        return any(number not in done for number in range(count))

    def claim(self, total: "Total | int", in_turn: bool = False) -> tuple[Line | None, list[Line]]:
        """(a claim of this process on the first free trial, or None if no trial is free; the lines so far).

        A trial is free if it is not done and no living process works on it.
        """
        with self._locked():
            lines = self._lines()
            done, count = _done(lines, total)
            missing = [number for number in range(count) if number not in done][: 1 if in_turn else None]
            taken = self._taken(lines, missing)
            free = next((number for number in missing if number not in taken), None)
            return None if free is None else self._claim(free), lines

    def _taken(self, lines: Sequence[Line], among: Sequence[Any]) -> list[Any]:
        """Those of the trials, or other pieces of work, that a living process works on."""
        last = {_key(line["claim"]): line for line in lines if "claim" in line}
        beats = {line["beat"]: float(line["at"]) for line in lines if "beat" in line}
        released = {line["release"] for line in lines if "release" in line}
        return [
            what for what in among if (claim := last.get(_key(what))) and self._watch.counts(claim, beats, released)
        ]

    def _claim(self, what: "int | Mapping[str, Any]") -> Line:
        claim = claim_of(what)
        if self.store.shared:
            self.store.append(claim)
        hold(claim)
        return claim

    def _finish(self, claim: Line, line: Line) -> Line:
        """Write the line that the claimed work gave, and return it. If another process did the same work meanwhile, its
        line is returned and nothing is written."""
        what = claim["claim"] if isinstance(claim["claim"], Mapping) else {"trial": claim["claim"]}
        with self._locked():
            written = _line_with(what, self._lines())
            if written is None:
                self.store.append(line := line if "end" in line else _stamped(line))
            return written or line

    def _lines(self) -> list[Line]:
        """All lines but the first. Each of them is checked when it is first read."""
        lines = self.store.lines()
        if self._sound < len(lines):
            require_sound(lines[self._sound :], self.kind, str(self.store), self._sound + 1)
            self._sound = len(lines)
        return lines[1:]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """A block in which nothing else writes: no other process, and no other thread of this one."""
        with self._mutex, self.store.locked():
            yield

    def _refuse(self, old: Line, new: Line, kind: str) -> None:
        if old.get(kind) in range(1, FORMAT):
            shown = ". `taskvec report` still shows it if it came to its end" if kind == "search" else ""
            raise OutputError(
                f"{self.store} was begun by an earlier version of taskvec, which looked at examples in another order: "
                f"take another name, or remove it{shown}"
            )
        raise OutputError(
            f"{self.store} is the journal of another {kind}; take another name, or remove it. It differs in:",
            _differences(old, new),
        )


def read_lines(where: "str | os.PathLike[str]") -> tuple[list[Line], bool]:
    """(the lines of a journal of a search, whether its last line is torn), without writing to it.

    Raises FormatError, and OutputError if a database cannot be reached.
    """
    torn = False
    if URL.match(os.fspath(where)):
        store = store_of(where)
        with store.locked():
            lines = [*store.lines()]
    else:
        with stated(where, FormatError):
            data = Path(where).read_bytes()
        whole_lines = data[: data.rfind(b"\n") + 1]
        lines, torn = parsed(os.fspath(where), whole_lines.splitlines(), 1), len(whole_lines) < len(data)
    if not lines or "search" not in lines[0]:
        raise FormatError(f"{os.fspath(where)} is no journal of a search")
    return lines, torn


def _line_with(what: Mapping[str, Any], lines: Sequence[Line]) -> Line | None:
    """The first line that has all of `what` and is not a claim."""
    return next(
        (line for line in lines if "claim" not in line and all(k in line and line[k] == v for k, v in what.items())),
        None,
    )


def _key(what: Any) -> Any:
    return what if isinstance(what, int) else json.dumps(what, sort_keys=True)


def _done(lines: Sequence[Line], total: "Total | int") -> tuple[set[int], int]:
    """(the finished trials, how many there are to be: `total`, or fewer if a sampler came to its end)."""
    done = {line["trial"] for line in lines if "trial" in line}
    count = total if isinstance(total, int) else total(lines)
    return done, min([count, *(line["end"] for line in lines if "end" in line)])


def _differences(old: Line, new: Line) -> list[str]:
    kind = next((kind for kind in KINDS if kind in old), None)
    if kind is None:
        return ["the first line, which is none of a journal"]
    if kind not in new:
        return [f"the kind of work: it was begun by taskvec {kind}"]
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{key}: {_short(old.get(key))} there, {_short(new.get(key))} here" for key in keys]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _stamped(line: Line) -> Line:
    """The line with the time of now, in UTC and to the second."""
    return line | {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def fingerprints(models: Sequence[Weights]) -> dict[str, str]:
    """The fingerprints of all files and arrays that some models are made from, by name. They are in the first line of a
    journal, so that a search with other files does not go on from it.

    If several arrays in memory have the same name, the second one is called NAME_2, and so on."""
    prints: dict[str, str] = {}
    for source in dict.fromkeys(leaf for model in models for leaf in model.mentioned):
        names = (f"{source.text}_{k}" if k > 1 else source.text for k in itertools.count(1))
        prints[next(name for name in names if name not in prints)] = source.fingerprint
    return prints
