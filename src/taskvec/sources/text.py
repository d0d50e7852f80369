"""Texts of recipes: the patterns that names of tensors fit, and string literals."""

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import cache

WILD = re.compile(r"[*?\[]")  # what makes a pattern more than a name


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
    """Which of several patterns is the first that fits a name.

    There may be a pattern for each of a hundred thousand tensors, and it is asked for each of them: patterns that are
    plain names are looked up, and only the others are tried one by one.
    """

    def __init__(self, patterns: Iterable[str]):
        self._patterns = tuple(patterns)
        self._names: dict[str, int] = {}
        for k, pattern in enumerate(self._patterns):
            if not WILD.search(pattern):
                self._names.setdefault(pattern, k)
        self._wild = [k for k, pattern in enumerate(self._patterns) if WILD.search(pattern)]

    def of(self, name: str) -> int | None:
        """The place of the pattern; None if none fits."""
        plain = self._names.get(name)
        for k in self._wild:
            if plain is not None and k > plain:
                break
            if matches(self._patterns[k], name):
                return k
        return plain


def quoted(text: str) -> str:
    """A string literal that a recipe reads back."""
    return '"' + text.encode("unicode_escape").decode().replace('"', '\\"') + '"'
