"""Order statistics: the magnitude of a given rank, exact and streamed, and which entries equal to it are within.

`trim` keeps the largest fifth of a model's entries, so it must know the magnitude of rank n/5 among n entries. To sort
them would take the memory of the model. Counting does not (ranks.py says why), and `cuts` counts in these steps:

1. Sample. Read some 2**19 entries of each group, a tensor or the whole model, in runs that are spread over it evenly.
2. Guess. A rank of the group lies, give or take four standard errors, between two places of the sorted sample. What
   lies between these is a window of at most 12 bins, or at most two magnitudes where most of it equals these.
3. Count. One pass over all entries counts, within each window, how many have which magnitude: (2**16 bins + 1,) numbers
   a window and thread. Of each likely magnitude it counts how many entries equal it, tile by tile.
4. Check. A rank that lies within its window, or is one of the likely magnitudes, is located exactly.
5. Recount where the guess was off. One more pass counts all entries by their bins, (2**15 + 1,) numbers, and so finds
   the right bin of every rank. Another one counts with that bin as the window, which cannot miss.

A method whose ranks depend on how many entries are zero, which only a count tells, begins with step 5.

Where exactly k entries are wanted and several are equal to the threshold, the first of them count, by tensors' names
and then by positions (`Cuts.quotas`). The counts tile by tile of step 3 say how many each tile has. Where the threshold
was not among the likely magnitudes, one more pass counts what equals it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taskvec.methods.core.counting import Guess, counted, guessed
from taskvec.methods.core.measurement import Measurement
from taskvec.methods.core.ranks import EVERY, NOWHERE, Asked, Cut, Equals, Located, RanksOf, Values, Window, first_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

Guesses = dict[str, Guess]  # group -> what to count


class Cuts:
    """The cuts of one measurement, as far as they are known: the magnitude of each rank (`ranks.Cut`)."""

    def __init__(self, asked: Asked):
        self.asked = asked
        ranks = {group: asked.ranks(group) for group in asked.sizes}
        self.cuts: dict[str, dict[str, Cut]] = {group: dict.fromkeys(ranks[group], NOWHERE) for group in ranks}
        self.left = {group: {key: rank for key, rank in of.items() if rank} for group, of in ranks.items()}
        self.windows: dict[str, tuple[Window, ...]] = {}  # group -> the bins that are known to hold its ranks
        self.equals: Equals = {}

    def learn(self, group: str, located: Located) -> None:
        """Take in what the counts of a group say."""
        self.equals.update(located.equals)
        self.cuts[group].update(located.cuts)
        self.left[group] = {key: rank for key, rank in located.ranks.items() if key not in located.cuts}
        self.windows[group] = located.windows

    def values(self) -> dict[str, dict[str, float]]:
        """Tensor -> {parameter: magnitude}."""
        return {
            name: {key: cut.value for key, cut in self.cuts[group].items()} for name, group in self.asked.groups.items()
        }

    def quotas(self, threads: int) -> dict[str, dict[str, Any]]:
        """Tensor -> {parameter: how many of the equal entries of each tile are within the rank}, or inf if all are.

        This takes 8 bytes a tile, and a pass over the groups that have more equal entries than their quota and whose
        equal entries were not counted together with the ranks.
        """
        import numpy as np

        groups = {name: group for name, group in self.asked.groups.items() if self.asked.m.sizes[name]}  # not empty
        split = {group: {k: c for k, c in of.items() if c.quota < c.equals} for group, of in self.cuts.items()}
        lacking: dict[str, dict[float, None]] = {}
        for name, group in groups.items():
            for cut in split[group].values():
                if (name, cut.value) not in self.equals:
                    lacking.setdefault(group, {})[cut.value] = None
        missed = {group: Guess((), (*values,)) for group, values in lacking.items()}
        for _, _, located in counted([self.asked], [missed], [{}], threads, lambda size: None):
            self.equals.update(located.equals)
        told: dict[str, dict[str, Any]] = {
            name: dict.fromkeys(self.cuts[group], math.inf) for name, group in self.asked.groups.items()
        }
        for name, key, before in _before(groups, split, self.equals):
            told[name][key] = np.maximum(0, split[groups[name]][key].quota - before)
        return told


def cuts(
    measurements: Sequence[Measurement],
    threads: int,
    progress: Callable[[int], None],
    ranks_of: RanksOf,
    of: Values = first_of,
    zeros: bool = False,
) -> list[Cuts]:
    """The cuts of several calls, measured in the same passes.

    ranks_of: (size of a group, how many of its entries are zero, **its parameters) -> {parameter: rank}. zeros: whether
    the ranks depend on how many entries have magnitudes below 2**-133, so that all bins must be counted first. of: what
    is ranked.
    """
    every = [Cuts(Asked(m, ranks_of, of)) for m in measurements]
    if not zeros:
        guesses = guessed([cut.asked for cut in every], threads)
        _count(every, guesses, threads, progress)
    missed = [{group: Guess((EVERY,)) for group, ranks in cut.left.items() if ranks or zeros} for cut in every]
    if any(missed):
        _count(every, missed, threads, progress)
        right = [{group: Guess(windows) for group, windows in cut.windows.items() if windows} for cut in every]
        _count(every, right, threads, progress)
    return every


def _count(every: Sequence[Cuts], guesses: list[Guesses], threads: int, progress: Callable[[int], None]) -> None:
    """One pass over the groups that the guesses name, from which the cuts learn their ranks."""
    asked, ranks = [cut.asked for cut in every], [cut.left for cut in every]
    for k, group, located in counted(asked, guesses, ranks, threads, progress):
        every[k].learn(group, located)


def _before(
    groups: Mapping[str, str], split: Mapping[str, Mapping[str, Cut]], counts: Equals
) -> Iterator[tuple[str, str, "NDArray[Any]"]]:
    """(tensor, parameter, equal entries before each of its tiles), the tensors of a group by name."""
    import numpy as np

    sofar: dict[tuple[str, str], int] = {}
    for name in sorted(groups):
        for key, cut in split[groups[name]].items():
            tiles = counts[name, cut.value]
            start = sofar.get((groups[name], key), 0)
            yield name, key, start + np.cumsum(tiles) - tiles
            sofar[groups[name], key] = start + int(tiles.sum())
