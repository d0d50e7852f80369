"""Order statistics: the magnitude of a given rank, exact and streamed, and how those that are equal to it divide.

One pass counts the upper 15 bits of the magnitudes, and the lower 16 within the few bins in which a sample says that
the thresholds lie. Where it was wrong a second pass counts them in the right bin. Where exactly k entries are wanted,
another one counts those equal to the threshold, tile by tile: the first ones are taken.
"""

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from taskvec import kernels
from taskvec.errors import RecipeError
from taskvec.executors import each
from taskvec.methods.applied import PART, TILE, Applied
from taskvec.methods.passes import Part, fill, parts, rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIGH = 1 << 15  # values of the upper bits of a float32's magnitude; of the lower ones there are 2**16
SAMPLE, SAMPLED = 4096, 1 << 20  # numbers of a piece of the sample, and of all pieces of a group at most;
SPARSE = 64  # of a large one, one piece in so many
WIDEST = 12  # bins of a window: 256 KB of counts a thread for each
RUN = 16 * PART  # elements that are counted into one table
Window = tuple[int, int]  # the first bin of the upper bits, and how many
EVERY: Window = (-1, 1)  # all bins, of which the upper bits are counted
Tables = dict[
    Window, tuple["NDArray[Any]", int]
]  # window -> (counts of magnitudes, 2**16 a bin; how many lie above it)
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
    call: Applied,
    threads: int,
    progress: Callable[[int], None],
    ranks: Ranks,
    of: Values = first_of,
    zeros: bool = False,
) -> dict[str, dict[str, Cut]]:
    """Group -> {parameter: Cut}. `ranks` is told the group's size and, if it wants the `zeros`, for which all bins must
    be counted first, how many magnitudes are below 2**-133."""
    groups = groups_of(call)
    sizes = dict.fromkeys(groups.values(), 0)
    for name, group in groups.items():
        sizes[group] += call.specs[name].numel
    numbers = {name: call.numbers(name) for name in groups}
    told = {group: numbers[name] for name, group in groups.items()}
    if any(numbers[name] != told[group] for name, group in groups.items()):
        raise RecipeError(f'{call.method.name}: with scope="model" a parameter is one number, not one a tensor')
    found = {group: dict.fromkeys(ranks(size, 0, **told[group]), NOWHERE) for group, size in sizes.items()}
    left = {
        group: {key: rank for key, rank in ranks(size, 0, **told[group]).items() if rank}
        for group, size in sizes.items()
    }

    def take(group: str, tables: Tables) -> None:
        """What of the ranks that are left lies within the windows."""
        for key, rank in [*left[group].items()]:
            for (first, _), (counts, above) in tables.items():
                if above < rank <= above + int(counts.sum()):
                    at, quota = _bin(counts, rank - above)
                    found[group][key] = Cut(_value((first << 16) + at), quota, int(counts[at]))
                    left[group].pop(key, None)

    def look(group: str, tables: Tables) -> None:
        """The bins of the ranks, from the counts of all upper bits."""
        upper, _ = tables[EVERY]
        wanted = ranks(sizes[group], int(upper[0]), **told[group])
        right[group] = dict.fromkeys((_bin(upper, rank)[0], 1) for rank in wanted.values() if rank)
        left[group] = _ranked(wanted)

    right: dict[str, dict[Window, None]] = {}
    count = partial(_count, call, threads, progress, of, sizes)
    if not zeros:  # the ranks do not depend on what is counted
        count(_guessed(call, threads, ranks, of, sizes, told), take)
    if missed := {group: [EVERY] for group, ranked in left.items() if ranked or zeros}:
        count(missed, look)
        count({group: [*windows] for group, windows in right.items() if windows}, take)
    return found


def _guessed(
    call: Applied,
    threads: int,
    ranks: Ranks,
    of: Values,
    sizes: Mapping[str, int],
    told: Mapping[str, Mapping[str, Any]],
) -> dict[str, list[Window]]:
    """Group -> the windows in which its thresholds lie, as far as SAMPLED numbers of it can tell."""
    import numpy as np

    groups = groups_of(call)
    pieces: list[Part] = []
    sofar = dict.fromkeys(sizes, 0)  # a group's tensors as one long row, of which every so many numbers a piece is read
    for name, group in groups.items():
        numel, size = call.specs[name].numel, sizes[group]
        step = max(SAMPLE, SPARSE * SAMPLE if size > SPARSE * SAMPLE else 0, size * SAMPLE // SAMPLED)
        pieces += [(name, start, min(SAMPLE, numel - start)) for start in range(-sofar[group] % step, numel, step)]
        sofar[group] += numel

    def work(piece: Part, rows: "NDArray[Any]") -> tuple[str, "NDArray[Any]"]:
        fill(call, piece, rows)
        counts = np.zeros(HIGH, np.uint32)
        kernels.count(counts, of(rows[:, : piece[2]]), piece[2])
        return groups[piece[0]], counts

    upper: dict[str, NDArray[Any]] = {}
    for group, counts in each(pieces, work, partial(rows_of, len(call.args)), threads):
        upper[group] = np.add(upper.get(group, 0), counts)
    return {
        group: _windows(upper[group], ranks(size, 0, **told[group]), size) if group in upper else []
        for group, size in sizes.items()
    }


def _windows(upper: "NDArray[Any]", wanted: Mapping[str, int], size: int) -> list[Window]:
    """For each rank the bins within four standard errors of where it lies in the sample.

    All of them if they are few. Differences of 16-bit floats take few values, with empty bins between those that hold
    many: then the fullest two.
    """
    count, found = int(upper.sum()), []
    for rank in wanted.values() if count else ():
        share = rank / size
        error = 4 * math.sqrt(count * share * (1 - share)) + 2
        high, _ = _bin(upper, max(1, int(share * count - error)))
        low, _ = _bin(upper, min(count, max(1, int(share * count + error))))
        if rank and high - low < WIDEST:
            found.append((low, high - low + 1))
        elif rank:
            fullest = sorted(range(low, high + 1), key=upper.__getitem__)[-2:]
            found += [(place, 1) for place in fullest if upper[place]]
    return list(dict.fromkeys(found))


def _count(
    call: Applied,
    threads: int,
    progress: Callable[[int], None],
    of: Values,
    sizes: Mapping[str, int],
    windows: Mapping[str, list[Window]],
    finish: "Callable[[str, Tables], None]",
) -> None:
    """Counts within the windows, group by group."""
    import numpy as np

    groups, lock, left = groups_of(call), threading.Lock(), {group: sizes[group] for group in windows}
    totals: dict[str, dict[Window, tuple[NDArray[Any], list[int]]]] = {}
    spare: dict[int, list[NDArray[Any]]] = {}  # tables that are free again: fresh memory costs more than the counting

    def table(window: Window) -> "NDArray[Any]":
        size = _size(window)
        found = spare[size].pop() if spare.get(size) else np.empty(size, np.uint64)
        found.fill(0)
        return found

    def add(group: str, here: dict[Window, tuple["NDArray[Any]", list[int]]], size: int) -> None:
        """The counts of a run; with the last one of a group its tables are read and free again."""
        total = totals.setdefault(group, {})
        for window, (counts, above) in here.items():
            sums, over = total.get(window) or total.setdefault(window, (table(window), [0]))
            np.add(sums, counts, out=sums)
            over[0] += above[0]
        left[group] -= size
        if not left[group]:
            found = totals.pop(group)
            finish(group, {window: (counts, above) for window, (counts, (above,)) in found.items()})
            for counts, _ in found.values():
                spare.setdefault(counts.size, []).append(counts)

    def work(run: Part, mine: "_Mine") -> int:
        name, start, size = run
        here = {window: (mine.table(k, window), [0]) for k, window in enumerate(windows[groups[name]])}
        for at in range(0, size, TILE):
            count = min(TILE, size - at)
            fill(call, (name, start + at, count), mine.rows)
            row = of(mine.rows[:, :count])
            for (first, bins), (counts, above) in here.items():
                above[0] += kernels.count(counts, row, count, first, bins)
        with lock:
            add(groups[name], here, size)
        return size

    runs = [
        (name, start, min(RUN, call.specs[name].numel - start))
        for name, group in groups.items()
        if group in left
        for start in range(0, call.specs[name].numel, RUN)
    ]
    for size in each(runs, work, partial(_Mine, len(call.args)), threads):
        progress(size)


class _Mine:
    """A thread's memory: a part of each argument, and a table for every window of a run."""

    def __init__(self, count: int):
        self.rows = rows_of(count)
        self.tables: list[NDArray[Any]] = []

    def table(self, k: int, window: Window) -> "NDArray[Any]":
        """The k-th table, cleared."""
        import numpy as np

        while len(self.tables) <= k:
            self.tables.append(np.empty(WIDEST << 16, np.uint32))
        found = self.tables[k][: _size(window)]
        found.fill(0)
        return found


def _size(window: Window) -> int:
    return HIGH if window is EVERY else window[1] << 16


def _ranked(wanted: Mapping[str, int]) -> dict[str, int]:
    return {key: rank for key, rank in wanted.items() if rank}


def _value(bits: int) -> float:
    import numpy as np

    return float(np.uint32(bits).view(np.float32))


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
