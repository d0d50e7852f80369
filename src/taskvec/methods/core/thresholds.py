"""Order statistics: the magnitude of a given rank, exact and streamed, and how those that are equal to it divide.

One pass counts the magnitudes within the few windows in which a sample says that the thresholds lie; where exactly
k entries are wanted, also those equal to what it says they are, tile by tile: the first are taken. Where it was wrong
two more passes count the upper 15 bits of all and then the lower 16 in the right bin, and another one the equal ones.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from taskvec.methods.core.applied import Applied
from taskvec.methods.core.counting import (
    EVERY,
    Asked,
    Counts,
    Equals,
    Guess,
    Ranks,
    Tables,
    Values,
    Window,
    bin_of,
    counted,
    first_of,
    groups_of,
    guessed,
)  # fmt: skip

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Cut(NamedTuple):
    """The magnitude of a rank; of the `equals` entries that have it the first `quota` are within the rank."""

    value: float
    quota: int
    equals: int


NOWHERE = Cut(math.inf, 0, 0)  # rank 0: nothing is within


class _Cuts:
    """The cuts of one call, as far as they are known."""

    def __init__(self, asked: Asked, equals: Equals):
        self.asked, self.equals = asked, equals
        self.found = {group: dict.fromkeys(asked.wanted(group), NOWHERE) for group in asked.sizes}
        self.left = {group: _ranked(asked.wanted(group)) for group in asked.sizes}
        self.right: dict[str, dict[Window, None]] = {}

    def take(self, group: str, counts: Counts) -> None:
        """What of the ranks that are left lies within the windows, or is one of the values."""
        self.equals.update(counts.equals)
        for key, rank in [*self.left[group].items()]:
            for cut in chain(_among(counts, rank), _within(counts.tables, rank)):
                self.found[group][key] = cut
                self.left[group].pop(key, None)

    def look(self, group: str, counts: Counts) -> None:
        """The bins of the ranks, from the counts of all upper bits."""
        upper = counts.tables[EVERY][:-1]
        wanted = self.asked.wanted(group, zeros=int(upper[0]))
        self.right[group] = dict.fromkeys((bin_of(upper, rank)[0], 1) for rank in wanted.values() if rank)
        self.left[group] = _ranked(wanted)


def cuts(
    calls: Sequence[Applied],
    threads: int,
    progress: Callable[[int], None],
    ranks: Ranks,
    of: Values = first_of,
    zeros: bool = False,
    equals: Sequence[Equals] = (),
) -> list[dict[str, dict[str, Cut]]]:
    """Of each call, group -> {parameter: Cut}. `ranks` is told the group's size and, if it wants the `zeros`, for which
    all bins must be counted first, how many magnitudes are below 2**-133. What equals likely thresholds goes into
    `equals`, of each call its own."""
    asked = [Asked(call, ranks, of) for call in calls]
    every = [_Cuts(a, own) for a, own in zip(asked, equals or [{} for _ in asked], strict=True)]

    def count(guesses: list[dict[str, Guess]], what: Callable[[_Cuts, str, Counts], None]) -> None:
        counted(asked, guesses, threads, progress, lambda k, group, counts: what(every[k], group, counts))

    if not zeros:  # the ranks do not depend on what is counted
        count(guessed(asked, threads), _Cuts.take)
    missed = [{group: Guess((EVERY,)) for group, ranked in c.left.items() if ranked or zeros} for c in every]
    if any(missed):
        count(missed, _Cuts.look)
        count([{group: Guess((*windows,)) for group, windows in c.right.items() if windows} for c in every], _Cuts.take)
    return [c.found for c in every]


def _among(counts: Counts, rank: int) -> Iterator[Cut]:
    """The value of this rank, if it is one of those that were counted."""
    for value, above in counts.above.items():
        equal = sum(int(tiles.sum()) for (_, of), tiles in counts.equals.items() if of == value)
        if above < rank <= above + equal:
            yield Cut(value, rank - above, equal)


def _within(tables: Tables, rank: int) -> Iterator[Cut]:
    """The value of this rank, if it lies in a window."""
    for (first, _), table in tables.items():
        counts, above = table[:-1], int(table[-1])
        if above < rank <= above + int(counts.sum()):
            at, quota = bin_of(counts, rank - above)
            yield Cut(_value((first << 16) + at), quota, int(counts[at]))


def _ranked(wanted: Mapping[str, int]) -> dict[str, int]:
    return {key: rank for key, rank in wanted.items() if rank}


def _value(bits: int) -> float:
    import numpy as np

    return float(np.uint32(bits).view(np.float32))


def quotas(
    call: Applied, threads: int, found: Mapping[str, Mapping[str, Cut]], equals: Equals
) -> dict[str, dict[str, Any]]:
    """Tensor -> {parameter: how many of the equal entries of each tile are within the rank}, inf where all of them are.

    Of equal magnitudes the first ones are within: by the tensors' names and then by their positions. One pass over what
    has more of them than its quota and is not among the `equals` that were counted with the ranks; 8 bytes a tile.
    """
    import numpy as np

    counts, asked = dict(equals), Asked(call, lambda *_, **__: {})
    groups = {name: group for name, group in asked.groups.items() if call.specs[name].numel}  # others have no entries
    split = {group: {k: c for k, c in of_group.items() if c.quota < c.equals} for group, of_group in found.items()}
    lacking = {(g, c.value): None for n, g in groups.items() for c in split[g].values() if (n, c.value) not in counts}
    missed = {group: Guess((), tuple(value for of, value in lacking if of == group)) for group, _ in lacking}
    counted([asked], [missed], threads, lambda size: None, lambda _, group, new: counts.update(new.equals))
    told: dict[str, dict[str, Any]] = {n: dict.fromkeys(found[g], math.inf) for n, g in asked.groups.items()}
    for name, key, before in _before(groups, split, counts):
        told[name][key] = np.maximum(0, split[groups[name]][key].quota - before)
    return told


def _before(
    groups: Mapping[str, str], split: Mapping[str, Mapping[str, Cut]], counts: Equals
) -> Iterable[tuple[str, str, "NDArray[Any]"]]:
    """(tensor, parameter, equal entries before each of its tiles), the tensors of a group by name."""
    import numpy as np

    sofar: dict[tuple[str, str], int] = {}
    for name in sorted(groups):
        for key, cut in split[groups[name]].items():
            tiles = counts[name, cut.value]
            start = sofar.get((groups[name], key), 0)
            yield name, key, start + np.cumsum(tiles) - tiles
            sofar[groups[name], key] = start + int(tiles.sum())


def values_of(call: Applied, found: Mapping[str, Mapping[str, Cut]]) -> dict[str, dict[str, float]]:
    """Tensor -> {parameter: magnitude}."""
    return {name: {key: cut.value for key, cut in found[group].items()} for name, group in groups_of(call).items()}
