"""Patterns that do nothing: without an error, a typing error in `only`, `without` or `per` would drop a term unseen.

Each pattern must fit the name of some tensor. Only `*`, the row for the rest, may fit none. A row of `per` must also be
reached: it is an error if earlier rows take all the tensors that it fits.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import translate
from functools import cache
from itertools import islice

from taskvec.algebra.coefficients import Coefficient, Only, Per
from taskvec.sources.positions import Place
from taskvec.sources.source import Source
from taskvec.sources.text import WILD, FirstMatch, quoted

NEAR, CANDIDATES = 2, 300  # names that an error suggests; names among which it chooses them


def unfit(coefficients: Iterable[Coefficient], names: Collection[str]) -> Iterator[str]:
    """A line for each pattern in the coefficients that does nothing if these are the names of the tensors."""
    factors = dict.fromkeys(factor for c in coefficients for factor in c.walk())
    known = names if isinstance(names, Mapping) else dict.fromkeys(names)  # fast to search, and in order
    for factor in factors:
        if isinstance(factor, Only):
            yield from (_unknown(p, "only or without", known) for p in factor.patterns if not fits_one(p, known))
        elif isinstance(factor, Per):
            yield from _unreached([pattern for pattern, _ in factor.table], known)


def vanishing(terms: Mapping[Source, Coefficient], places: Mapping[str, Place]) -> Iterator[str]:
    """A line for each adapter of which nothing is added: the patterns in front of it fit tensors of the model, and none
    of the tensors that the adapter names."""
    adapters = {source: c for source, c in terms.items() if source.partial and c.constant is None and not c.knobs}
    for source, c in adapters.items():
        if not any(c.at(places[name]) for name in source.specs):
            few = ", ".join([*source.specs][:2])
            yield f"nothing of {source.text} is added: {c} is 0 on every tensor that it names ({few}, ...)"


def fits_one(pattern: str, names: Collection[str]) -> bool:
    """Whether a pattern fits one of the names, or is the row for the rest (`*`)."""
    if not pattern.strip("*") or pattern in names:
        return True
    return WILD.search(pattern) is not None and bool(fitting(pattern, names, 1))


def fitting(pattern: str, names: Iterable[str], most: int | None = None) -> list[str]:
    """The names that a pattern fits, at most `most` of them."""
    fits = re.compile(translate(pattern)).match
    return [*islice((name for name in names if fits(name)), most)]


def nearest(pattern: str, names: Iterable[str]) -> str:
    """What a pattern that fits nothing was perhaps meant to be, as the end of a message. "" if there are no names.

    That is the pattern with `*` around it, if this fits a name. Else it is the names whose segments are most like those
    of the pattern; of all layers one is looked at.
    """
    names = list(names)
    inside = f"*{pattern.strip('*')}*"
    if within := fitting(inside, names):
        return f": a pattern must fit the whole name, and {quoted(inside)} fits {len(within)} such as {within[0]}"
    one_layer = {re.sub(r"\d+", "0", name): name for name in reversed(names)}
    likest = sorted([*one_layer.values()][-CANDIDATES:], key=lambda name: -_likeness(pattern, name))
    return f"; the nearest: {', '.join(likest[:NEAR])}" if likest else ""


def _likeness(pattern: str, name: str) -> float:
    """The sum over the segments of a pattern of how like each is to the likest segment of a name. Of names that are
    equally like the one with fewer segments is preferred."""
    wanted = [s for s in pattern.replace("*", ".").split(".") if s]
    return sum(max(_alike(w, s) for s in name.split(".")) for w in wanted) - 0.001 * name.count(".")


@cache
def _alike(a: str, b: str) -> float:
    from difflib import SequenceMatcher  # for errors alone

    return SequenceMatcher(None, a, b).ratio()


def _unknown(pattern: str, where: str, names: Iterable[str]) -> str:
    return f"{quoted(pattern)} (in {where}) fits no tensor{nearest(pattern, names)}"


def _unreached(patterns: list[str], names: Collection[str]) -> Iterator[str]:
    """A line for each row of a table that is for no tensor: a tensor gets the value of the first pattern that fits."""
    reached = FirstMatch(patterns).reached(names)
    for k, pattern in enumerate(patterns):
        if pattern in reached or not pattern.strip("*"):
            continue
        if not fits_one(pattern, names):
            yield _unknown(pattern, "per", names)
        else:
            fit = fitting(pattern, names)
            earlier = [quoted(p) for p in patterns[:k] if fitting(p, fit, 1)]
            yield f"{quoted(pattern)} (in per) is never reached: {', '.join(earlier)} above it takes all that it fits"
