"""Patterns that fit nothing: a typing error in `only`, `without` or `per` would otherwise take a term away in silence.

A pattern is in order if it fits the name of a tensor; `*` alone, the row for the rest, always is. A row of `per` must
also be reached: one whose tensors earlier rows take all says something that is not done.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import translate
from functools import cache
from itertools import islice

from taskvec.algebra.coefficients import Coefficient, Only, Per
from taskvec.sources.positions import Place
from taskvec.sources.source import Source
from taskvec.sources.text import matches, quoted

NEAR, CANDIDATES = 2, 300  # names that an error suggests, and that are looked at for it
WILD = frozenset("*?[")


def unfit(coefficients: Iterable[Coefficient], names: Collection[str]) -> Iterator[str]:
    """What is wrong with the patterns in coefficients, for tensors of these names: a line each."""
    factors = dict.fromkeys(factor for c in coefficients for factor in c.walk())
    known = names if isinstance(names, Mapping) else dict.fromkeys(names)  # fast to ask, and in order
    for factor in factors:
        if isinstance(factor, Only):
            yield from (_unknown(p, "only or without", known) for p in factor.patterns if not fits_one(p, known))
        elif isinstance(factor, Per):
            yield from _unreached([pattern for pattern, _ in factor.table], known)


def vanishing(terms: Mapping[Source, Coefficient], places: Mapping[str, Place]) -> Iterator[str]:
    """Adapters of whose tensors a filter or a table leaves none, a line each: its patterns fit tensors of the model,
    and yet nothing of the adapter is added."""
    asked = {source: c for source, c in terms.items() if source.partial and c.constant is None and not c.knobs}
    for source, c in asked.items():
        if not any(c.at(places[name]) for name in source.specs):
            few = ", ".join([*source.specs][:2])
            yield f"nothing of {source.text} is added: {c} is 0 on every tensor that it names ({few}, ...)"


def fits_one(pattern: str, names: Collection[str]) -> bool:
    """Whether a pattern is the name of one of the tensors, or is for the rest (`*`)."""
    if not pattern.strip("*") or pattern in names:
        return True
    return not WILD.isdisjoint(pattern) and bool(fitting(pattern, names, 1))


def fitting(pattern: str, names: Iterable[str], most: int | None = None) -> list[str]:
    """The names that a pattern fits, at most so many. As `coefficients.matches`, which remembers what it was asked."""
    fits = re.compile(translate(pattern)).match
    return [*islice((name for name in names if fits(name)), most)]


def is_fit(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name fits one of the patterns."""
    return any(fitting(pattern, [name]) for pattern in patterns)


def nearest(pattern: str, names: Iterable[str]) -> str:
    """What a pattern that fits nothing was perhaps meant to be: "; *mlp* would fit ..."."""
    names = list(names)
    inside = f"*{pattern.strip('*')}*"
    if within := fitting(inside, names):
        return f": a pattern must fit the whole name, and {quoted(inside)} fits {len(within)} such as {within[0]}"
    numberless = {re.sub(r"\d+", "0", name): name for name in reversed(names)}  # one layer for all of them
    found = sorted([*numberless.values()][-CANDIDATES:], key=lambda name: -_likeness(pattern, name))
    return f"; the nearest: {', '.join(found[:NEAR])}" if found else ""


def _likeness(pattern: str, name: str) -> float:
    """How well each segment of a pattern is found among the segments of a name."""
    wanted = [s for s in pattern.replace("*", ".").split(".") if s]
    return sum(max(_alike(w, s) for s in name.split(".")) for w in wanted) - 0.001 * name.count(".")


@cache
def _alike(a: str, b: str) -> float:
    from difflib import SequenceMatcher  # for errors alone

    return SequenceMatcher(None, a, b).ratio()


def _unknown(pattern: str, where: str, names: Iterable[str]) -> str:
    return f"{quoted(pattern)} (in {where}) fits no tensor{nearest(pattern, names)}"


def _unreached(patterns: list[str], names: Collection[str]) -> Iterator[str]:
    """The rows of a table that say nothing: each tensor goes to the first pattern that fits."""
    taken = reached(patterns, names)
    for k, pattern in enumerate(patterns):
        if pattern in taken or not pattern.strip("*"):
            continue
        if not fits_one(pattern, names):
            yield _unknown(pattern, "per", names)
        else:
            its = fitting(pattern, names)
            earlier = [quoted(p) for p in patterns[:k] if fitting(p, its, 1)]
            yield f"{quoted(pattern)} (in per) is never reached: {', '.join(earlier)} above it takes all that it fits"


def reached(patterns: list[str], names: Iterable[str]) -> set[str]:
    """The patterns that are the first to fit one of the names."""
    literal = {p: k for k, p in reversed([*enumerate(patterns)]) if WILD.isdisjoint(p)}
    wild = [(k, p) for k, p in enumerate(patterns) if not WILD.isdisjoint(p)]
    first: set[int] = set()
    for name in names:
        at = next((k for k, p in wild if matches(p, name)), len(patterns))
        first.add(min(at, literal.get(name, len(patterns))))
    return {patterns[k] for k in first if k < len(patterns)}
