"""Texts of recipes: patterns for names of tensors, string literals, and names that were misspelt."""

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import cache

WILD = re.compile(r"[*?\[]")  # a text without these is a plain name


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))


def matches(pattern: str, name: str) -> bool:
    """`*` is any run, `?` one character, `[ab]` one of several; the whole name must fit, and case counts."""
    return _compiled(pattern).match(name) is not None


def fits_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns fits the name."""
    return any(matches(pattern, name) for pattern in patterns)


def literal(text: str) -> str:
    """A pattern that fits the text itself and nothing else."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


class FirstMatch:
    """Says which of several patterns is the first that fits a name.

    There may be a hundred thousand patterns, one for each tensor of a model, and as many questions. So patterns that
    are plain names are looked up in a dict, and only the others are tried one by one.
    """

    def __init__(self, patterns: Iterable[str]):
        self._patterns = tuple(patterns)
        self._names: dict[str, int] = {}
        for k, pattern in enumerate(self._patterns):
            if not WILD.search(pattern):
                self._names.setdefault(pattern, k)
        self._wild = [k for k, pattern in enumerate(self._patterns) if WILD.search(pattern)]

    def of(self, name: str) -> int | None:
        """The index of the first pattern that fits the name; None if none does."""
        plain = self._names.get(name)
        for k in self._wild:
            if plain is not None and k > plain:
                break
            if matches(self._patterns[k], name):
                return k
        return plain

    def reached(self, names: Iterable[str]) -> set[str]:
        """The patterns that are the first to fit one of the names."""
        return {self._patterns[k] for name in names if (k := self.of(name)) is not None}


def quoted(text: str) -> str:
    """The text as a string literal of a recipe."""
    return '"' + text.encode("unicode_escape").decode().replace('"', '\\"') + '"'


def counted(count: int, what: str) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{count} {what}{'' if count == 1 else 's'}"
