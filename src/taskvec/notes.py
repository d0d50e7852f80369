"""Notes: what a user should know about a result that is no error.

`note` issues an ordinary Python warning of the category `Note`, so that a caller in Python may filter it, show it or
turn it into an error. Within `collected()` nothing is warned: the notes are kept, each once and in order, and the
command line prints them to stderr and puts them into its JSON.
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
    """Tell `text` to the collector if there is one, from any thread; else warn at the line that called taskvec."""
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
    """Keep the notes of all threads until the block ends: a dict with the texts as keys, in order, each once.

    `tell` is called with every new text at once.
    """
    found: dict[str, None] = {}
    with _lock:
        _collectors.append((found, tell))
    try:
        yield found
    finally:
        with _lock:
            _collectors[:] = [entry for entry in _collectors if entry[0] is not found]


def so_far() -> list[str]:
    """The notes that the innermost collector has by now; none without a collector."""
    with _lock:
        return list(_collectors[-1][0]) if _collectors else []


def _outside() -> int:
    """The stack level of the nearest caller outside this package, as `warnings.warn` in `note` counts it.

    Between its functions stand those of functools, for cached properties.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in ("taskvec", "functools"):
        frame, level = frame.f_back, level + 1
    return level
