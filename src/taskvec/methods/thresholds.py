"""Order statistics: the magnitude of a given rank, exact and streamed, and how those that are equal to it divide.

Two passes count the upper 15 bits of the magnitudes and then the lower 16 within the bins that hold a threshold. Where
exactly k entries are wanted, a third one counts the entries equal to it, tile by tile: the first ones are taken.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from taskvec import kernels
from taskvec.errors import RecipeError
from taskvec.executors import each
from taskvec.methods.applied import TILE, Applied
from taskvec.methods.passes import Part, fill, parts, rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIGH, LOW = 1 << 15, 1 << 16  # values of the upper bits of a float32's magnitude, and of the lower ones
Ranks = Callable[..., dict[str, int]]  # (size, zeros, **numbers) -> {parameter: rank from the largest, 1 the largest}
Values = Callable[["NDArray[Any]"], "NDArray[Any]"]  # (arguments, n) -> the n numbers that are ranked


class Cut(NamedTuple):
    """The magnitude of a rank; of the `equals` entries that have it the first `quota` are within the rank."""

    value: float
    quota: int
    equals: int


NOWHERE = Cut(math.inf, 0, 0)  # rank 0: nothing is within


def first_of(rows: "NDArray[Any]") -> "NDArray[Any]":
    """What is ranked unless a method says otherwise: its one argument."""
    first: NDArray[Any] = rows[0]
    return first


def groups_of(call: Applied) -> dict[str, str]:
    """Tensor -> the group that is ranked together: itself, or "" with scope="model"."""
    whole = call.params.get("scope") == "model"
    return {name: "" if whole else name for name, spec in call.specs.items() if spec.arithmetic}


def cuts(
    call: Applied, threads: int, progress: Callable[[int], None], ranks: Ranks, of: Values = first_of
) -> dict[str, dict[str, Cut]]:
    """Group -> {parameter: Cut}. `ranks` is told the group's size and how many magnitudes are below 2**-133."""
    groups = groups_of(call)
    sizes = dict.fromkeys(groups.values(), 0)
    for name, group in groups.items():
        sizes[group] += call.specs[name].numel
    numbers = {name: call.numbers(name) for name in groups}
    told = {group: numbers[name] for name, group in groups.items()}
    if any(numbers[name] != told[group] for name, group in groups.items()):
        raise RecipeError(f'{call.method.name}: with scope="model" a parameter is one number, not one a tensor')
    bins: dict[str, dict[str, tuple[int, int]]] = {}
    found = {group: dict.fromkeys(ranks(size, 0, **told[group]), NOWHERE) for group, size in sizes.items()}

    def first(group: str, counts: dict[int, "NDArray[Any]"]) -> None:
        wanted = ranks(sizes[group], int(counts[-1][0]), **told[group])
        bins[group] = {key: _bin(counts[-1], rank) for key, rank in wanted.items() if rank}

    def second(group: str, counts: dict[int, "NDArray[Any]"]) -> None:
        import numpy as np

        for key, (upper, rank) in bins[group].items():
            lower, quota = _bin(counts[upper], rank)
            value = float(np.uint32(upper << 16 | lower).view(np.float32))
            found[group][key] = Cut(value, quota, int(counts[upper][lower]))

    _count(call, threads, progress, of, sizes, {}, first)
    if needed := {group: sorted({upper for upper, _ in b.values()}) for group, b in bins.items() if b}:
        _count(call, threads, progress, of, sizes, needed, second)
    return found


def _count(
    call: Applied,
    threads: int,
    progress: Callable[[int], None],
    of: Values,
    sizes: Mapping[str, int],
    prefixes: Mapping[str, list[int]],
    finish: Callable[[str, dict[int, "NDArray[Any]"]], None],
) -> None:
    """Histograms of the upper bits, or of the lower ones within the bins `prefixes`, a group at a time."""
    import numpy as np

    groups = groups_of(call)

    def work(part: Part, rows: "NDArray[Any]") -> tuple[str, int, dict[int, "NDArray[Any]"]]:
        name, _, size = part
        fill(call, part, rows)
        wanted = prefixes[groups[name]] if prefixes else [-1]
        found = {prefix: np.zeros(HIGH if prefix < 0 else LOW, np.uint32) for prefix in wanted}
        for at in range(0, size, TILE):
            row = of(rows[:, at : min(at + TILE, size)])
            for prefix, counts in found.items():
                kernels.count(counts, row, row.size, prefix)
        return name, size, found

    totals: dict[str, dict[int, NDArray[Any]]] = {}
    left = {group: sizes[group] for group in prefixes or sizes}
    todo = [part for part in parts(call) if groups[part[0]] in left]
    for name, size, found in each(todo, work, partial(rows_of, len(call.args)), threads):
        group = groups[name]
        total = totals.setdefault(group, {})
        for prefix, counts in found.items():
            total[prefix] = total[prefix] + counts if prefix in total else counts.astype(np.int64)
        left[group] -= size
        if not left[group]:
            finish(group, totals.pop(group))
        progress(size)


def quotas(
    call: Applied,
    threads: int,
    progress: Callable[[int], None],
    found: Mapping[str, Mapping[str, Cut]],
    of: Values = first_of,
) -> dict[str, dict[str, Any]]:
    """Tensor -> {parameter: how many of the equal entries of each tile are within the rank}, inf where all of them are.

    Of equal magnitudes the first ones are within: by the tensors' names and then by their positions. One pass over what
    has more of them than its quota; 8 bytes a tile.
    """
    import numpy as np

    groups = groups_of(call)
    split = {group: {k: c for k, c in of_group.items() if c.quota < c.equals} for group, of_group in found.items()}

    def work(part: Part, rows: "NDArray[Any]") -> tuple[Part, dict[str, list[int]]]:
        name, _, size = part
        fill(call, part, rows)
        found: dict[str, list[int]] = {key: [] for key in split[groups[name]]}
        for at in range(0, size, TILE):
            row = np.abs(of(rows[:, at : min(at + TILE, size)]))
            for key, tiles in found.items():
                tiles.append(int(np.count_nonzero(row == np.float32(split[groups[name]][key].value))))
        return part, found

    tiles_of = {name: -(-call.specs[name].numel // TILE) for name in groups}
    counts = {name: {key: np.zeros(tiles_of[name], np.int64) for key in split[groups[name]]} for name in groups}
    todo = [part for part in parts(call) if split[groups[part[0]]]]
    for (name, start, size), here in each(todo, work, partial(rows_of, len(call.args)), threads):
        for key, tiles in here.items():
            counts[name][key][start // TILE :][: len(tiles)] = tiles
        progress(size)
    told: dict[str, dict[str, Any]] = {name: dict.fromkeys(found[groups[name]], math.inf) for name in groups}
    for name, key, before in _before(groups, split, counts):
        told[name][key] = np.maximum(0, split[groups[name]][key].quota - before)
    return told


def _before(
    groups: Mapping[str, str], split: Mapping[str, Iterable[str]], counts: Mapping[str, Mapping[str, "NDArray[Any]"]]
) -> Iterable[tuple[str, str, "NDArray[Any]"]]:
    """(tensor, parameter, equal entries before each of its tiles), the tensors of a group by name."""
    import numpy as np

    sofar: dict[tuple[str, str], int] = {}
    for name in sorted(groups):
        for key in split[groups[name]]:
            tiles = counts[name][key]
            start = sofar.get((groups[name], key), 0)
            yield name, key, start + np.cumsum(tiles) - tiles
            sofar[groups[name], key] = start + int(tiles.sum())


def _bin(counts: "NDArray[Any]", rank: int) -> tuple[int, int]:
    """(the bin that holds the element of this rank from the top, its rank within the bin)."""
    import numpy as np

    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, rank))
    before = int(above[place - 1]) if place else 0
    return len(counts) - 1 - place, rank - before


def values_of(call: Applied, found: Mapping[str, Mapping[str, Cut]]) -> dict[str, dict[str, float]]:
    """Tensor -> {parameter: magnitude}."""
    return {name: {key: cut.value for key, cut in found[group].items()} for name, group in groups_of(call).items()}
