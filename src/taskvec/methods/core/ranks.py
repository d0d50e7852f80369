"""Which magnitudes a method asks for, by their rank, and how they are read off counts.

The largest magnitude of a group has rank 1. A group is one tensor, or the whole model (`Measurement.groups`). The bits
of a float32 without its sign, read as a whole number, are in the order of the magnitudes themselves. So the counts of
how many entries have which bits tell the magnitude of every rank, and nothing need be sorted:

1. The upper 15 bits of a magnitude are its bin, one of HIGH. A table of all bins (EVERY) says in which bin a rank lies.
2. The lower 16 bits tell apart the 2**16 magnitudes within a bin. A table of a window of neighbouring bins has a number
   for each of their magnitudes, and one more: how many entries lie above the window. That number and the counts say
   which magnitude has the rank, if it lies in the window at all.
3. Where a few magnitudes are the likely ones, it is enough to count what equals each of these and what lies above it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from taskvec.errors import RecipeError
from taskvec.methods.core.measurement import Measurement
from taskvec.methods.core.roles import Scope, written

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIGH = 1 << 15  # bins: values of the upper bits of a float32's magnitude
Window = tuple[int, int]  # the first bin, and how many
EVERY: Window = (-1, 1)  # all bins, of which the upper bits are counted
Tables = dict[Window, "NDArray[Any]"]  # window -> (magnitudes + 1,) counts, the last of what lies above
Equals = dict[tuple[str, float], "NDArray[Any]"]  # (tensor, magnitude) -> how many entries of each tile have it
RanksOf = Callable[..., dict[str, int]]  # (size, zeros, **numbers) -> {parameter: rank}, 0 for none
Values = Callable[["NDArray[Any]"], "NDArray[Any]"]  # (arguments, n) -> the n numbers that are ranked


class Cut(NamedTuple):
    """The magnitude of a rank. `equals` entries have it, and the first `quota` of them are within the rank."""

    value: float
    quota: int
    equals: int


NOWHERE = Cut(math.inf, 0, 0)  # rank 0: nothing is within


class Counts(NamedTuple):
    """What was counted of a group."""

    tables: Tables
    equals: Equals
    above: dict[float, int]  # magnitude -> how many are larger


class Located(NamedTuple):
    """What the counts of a group say of its ranks."""

    ranks: dict[str, int]  # parameter -> the rank that was looked for
    cuts: dict[str, Cut]  # parameter -> its cut, where the magnitude of the rank was counted
    windows: tuple[Window, ...]  # the bins in which the ranks lie, if every bin was counted
    equals: Equals


def first_of(rows: "NDArray[Any]") -> "NDArray[Any]":
    """What is ranked unless a method says otherwise: its one argument."""
    first: NDArray[Any] = rows[0]
    return first


class Asked:
    """The ranks that a method asks for in a measurement."""

    def __init__(self, m: Measurement, ranks_of: RanksOf, of: Values = first_of):
        self.m, self.ranks_of, self.of, self.groups = m, ranks_of, of, m.groups
        self.members: dict[str, list[str]] = {}  # group -> its tensors
        for name, group in self.groups.items():
            self.members.setdefault(group, []).append(name)
        self.sizes = {
            group: sum(m.sizes[name] for name in names) for group, names in self.members.items()
        }  # group -> elements
        numbers = {name: m.numbers(name) for name in self.groups}
        self.told: dict[str, dict[str, Any]] = {group: numbers[names[-1]] for group, names in self.members.items()}
        if any(numbers[name] != self.told[group] for name, group in self.groups.items()):
            whole = written(m.method.scope, Scope.MODEL)
            raise RecipeError(f"{m.method.name}: with {whole} a parameter is one number, not one a tensor")
        for group, size in self.sizes.items():
            if 0 < (entries := self._entries(group)) < size:
                raise RecipeError(
                    f"{m.method.name}: {m.method.entries}={entries:g} is less than the {size} of its argument alone"
                )

    def ranks(self, group: str, zeros: int = 0) -> dict[str, int]:
        """Parameter -> rank in a group of which so many entries are zero.

        If the call was told how many entries the model has, the rank is among all of these. Entries that an adapter
        does not name are zero; so a rank beyond the size of the group becomes that size."""
        size = self.sizes[group]
        whole = max(size, int(self._entries(group)))
        ranks = self.ranks_of(whole, zeros + whole - size, **self.told[group])
        return {key: min(rank, size) for key, rank in ranks.items()}

    def _entries(self, group: str) -> float:
        """How many entries the call was told that the model has; 0 if it was not."""
        return float(self.told[group].get(self.m.method.entries, 0))


def located(asked: Asked, group: str, ranks: Mapping[str, int], counts: Counts) -> Located:
    """Read the counts of a group. ranks: parameter -> the rank to look for. They are not used where every bin was
    counted: then all ranks of the method are looked for, as they may depend on how many entries are zero."""
    if EVERY in counts.tables:
        upper = counts.tables[EVERY][:-1]
        wanted = asked.ranks(group, zeros=int(upper[0]))
        windows = dict.fromkeys((bin_of(upper, rank)[0], 1) for rank in wanted.values() if rank)
        return Located({key: rank for key, rank in wanted.items() if rank}, {}, (*windows,), counts.equals)
    cuts = {key: cut for key, rank in ranks.items() for cut in chain(_among(counts, rank), _within(counts, rank))}
    return Located(dict(ranks), cuts, (), counts.equals)


def _among(counts: Counts, rank: int) -> Iterator[Cut]:
    """The cut of this rank, if its magnitude is one of the likely ones, which were counted."""
    for value, above in counts.above.items():
        equal = sum(int(tiles.sum()) for (_, magnitude), tiles in counts.equals.items() if magnitude == value)
        if above < rank <= above + equal:
            yield Cut(value, rank - above, equal)


def _within(counts: Counts, rank: int) -> Iterator[Cut]:
    """The cut of this rank, if its magnitude lies in a window."""
    for (first, _), table in counts.tables.items():
        inside, above = table[:-1], int(table[-1])
        if above < rank <= above + int(inside.sum()):
            at, quota = bin_of(inside, rank - above)
            yield Cut(_value((first << 16) + at), quota, int(inside[at]))


def bin_of(counts: "NDArray[Any]", rank: int) -> tuple[int, int]:
    """(place of the count that holds the entry of this rank from the top, its rank among the entries counted there)."""
    import numpy as np

    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, above.dtype.type(rank)))
    before = int(above[place - 1]) if place else 0
    return len(counts) - 1 - place, rank - before


def _value(bits: int) -> float:
    import numpy as np

    return float(np.uint32(bits).view(np.float32))
