"""Notes: what a user should know about a result although it is no error.

`note` issues an ordinary Python warning of the category `Note`, so that a caller in Python can filter it, show it or
turn it into an error. Within `collected()` there are no warnings: the notes are kept, each once and in order. The
command line prints these notes to stderr and puts them into its JSON.
"""

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_collectors: "list[tuple[dict[str, None], Callable[[str], None] | None]]" = []  # the innermost is the last


class Note(UserWarning):
    """Something that a user should know about a result, though it is no error."""


def note(text: str) -> None:
    """Give `text` to the collector if there is one, from any thread; otherwise warn at the line that called taskvec."""
    with _lock:
        if not _collectors:
            known, tell = None, None
        else:
            known, tell = _collectors[-1]
            if text in known:
                return
            known[text] = None
    if known is None:
        warnings.warn(Note(text), stacklevel=_outside())
    elif tell:
        tell(text)


@contextmanager
def collected(tell: "Callable[[str], None] | None" = None) -> Iterator[dict[str, None]]:
    """Keep the notes of all threads until the block ends, as a dict whose keys are the texts, in order and each once.

    tell: is called with every new text at once.
    """
    texts: dict[str, None] = {}
    with _lock:
        _collectors.append((texts, tell))
    try:
        yield texts
    finally:
        with _lock:
            _collectors[:] = [entry for entry in _collectors if entry[0] is not texts]


def so_far() -> list[str]:
    """The notes that the innermost collector has so far; none without a collector."""
    with _lock:
        return list(_collectors[-1][0]) if _collectors else []


def _outside() -> int:
    """The stack level of the nearest caller outside this package, as `warnings.warn` in `note` counts it.

    Functions of functools stand in between, for cached properties.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in ("taskvec", "functools"):
        frame, level = frame.f_back, level + 1
    return level
