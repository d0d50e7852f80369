"""Counting magnitudes, streamed: in windows of the bits of float32 where a sample says that thresholds lie."""

import math
import threading
from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from taskvec.executors import each
from taskvec.methods.applied import SPAN, Applied
from taskvec.methods.call import PART, TILE
from taskvec.methods.passes import Part, fill, rows_of
from taskvec.operations import COUNT, EQUAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIGH = 1 << 15  # values of the upper bits of a float32's magnitude; of the lower ones there are 2**16
SAMPLE, SAMPLED = 8192, 1 << 19  # numbers of a piece of the sample, and of all pieces of a group at most;
SPARSE = 64  # of a large one, one piece in so many
WIDEST = 12  # bins of a window at most: 256 KB of counts a thread for each
LIKELY, SURE = (
    2,
    0.8,
)  # values of which the entries that equal them are counted, if so many of the sample are among them
RUN = 16 * PART  # elements that are counted into one table
Window = tuple[int, int]  # the first bin of the upper bits, and how many
EVERY: Window = (-1, 1)  # all bins, of which the upper bits are counted
Tables = dict[Window, "NDArray[Any]"]  # window -> counts of magnitudes, 2**16 a bin, and how many lie above it
Equals = dict[tuple[str, float], "NDArray[Any]"]  # (tensor, magnitude) -> how many of each tile's entries have it
Ranks = Callable[..., dict[str, int]]  # (size, zeros, **numbers) -> {parameter: rank from the largest, 1 the largest}
Values = Callable[["NDArray[Any]"], "NDArray[Any]"]  # (arguments, n) -> the n numbers that are ranked


class Guess(NamedTuple):
    """Where a group's thresholds may lie, and what they may be."""

    windows: tuple[Window, ...]
    values: tuple[float, ...] = ()


class Counts(NamedTuple):
    """What was counted of a group."""

    tables: Tables
    equals: Equals
    above: dict[float, int]  # magnitude -> how many are larger


def first_of(rows: "NDArray[Any]") -> "NDArray[Any]":
    """What is ranked unless a method says otherwise: its one argument."""
    first: NDArray[Any] = rows[0]
    return first


def groups_of(call: Applied) -> dict[str, str]:
    """Tensor -> the group that is ranked together: itself, or "" with scope="model"."""
    whole = call.params.get("scope") == "model"
    return {name: "" if whole else name for name, spec in call.specs.items() if spec.arithmetic}


def guessed(
    call: Applied,
    threads: int,
    ranks: Ranks,
    of: Values,
    sizes: Mapping[str, int],
    told: Mapping[str, Mapping[str, Any]],
) -> dict[str, Guess]:
    """Group -> where its thresholds lie, as far as SAMPLED numbers of it can tell."""
    import numpy as np

    members: dict[str, list[str]] = {group: [] for group in sizes}
    for name, group in groups_of(call).items():
        members[group].append(name)

    def work(group: str, mine: _Mine) -> tuple[str, Guess]:
        pieces, sofar, size = list[Part](), 0, sizes[group]
        step = max(SAMPLE, SPARSE * SAMPLE if size > SPARSE * SAMPLE else 0, size * SAMPLE // SAMPLED)
        for name in members[group]:  # as one long row, of which every so many numbers a piece is read
            numel = call.specs[name].numel
            pieces += [(name, start, min(SAMPLE, numel - start)) for start in range(-sofar % step, numel, step)]
            sofar += numel
        sample, at = np.empty(sum(count for *_, count in pieces), np.float32), 0
        for piece in pieces:
            fill(call, piece, mine.rows)
            sample[at : at + piece[2]] = of(mine.rows[:, : piece[2]])
            at += piece[2]
        np.abs(sample, out=sample)
        return group, _guess(sample, ranks(size, 0, **told[group]), size)

    return dict(each(sizes, work, partial(_Mine, len(call.args)), threads))


def _guess(sample: "NDArray[Any]", wanted: Mapping[str, int], size: int) -> Guess:
    """For each rank where it lies in a sample of magnitudes, give or take four standard errors.

    Differences of 16-bit floats take few values, and between those that many have lie some that few have: then the
    values that occur most. Else the bins from the first to the last.
    """
    import numpy as np

    windows, likely, count = dict[Window, None](), dict[float, None](), sample.size
    below = np.cumsum(np.bincount(sample.view(np.uint32) >> np.uint32(16), minlength=HIGH))
    for rank in (rank for rank in wanted.values() if rank and count):
        share = rank / size
        error = 4 * math.sqrt(count * share * (1 - share)) + 2
        low, high = (
            max(0, count - int(share * count + error)),
            min(count - 1, max(0, count - int(share * count - error))),
        )
        near, times = np.unique(_between(sample, below, low, high), return_counts=True)
        most = np.argsort(times)[-LIKELY:]
        first, last = (int(bits) >> 16 for bits in near[[0, -1]].view(np.uint32))
        if times[most].sum() >= SURE * times.sum() or last - first >= WIDEST:
            likely |= dict.fromkeys(near[most].tolist())
        else:
            windows[first, last - first + 1] = None
    return Guess(tuple(windows), tuple(likely))


def _between(sample: "NDArray[Any]", below: "NDArray[Any]", low: int, high: int) -> "NDArray[Any]":
    """Those that have the places low .. high in ascending order, sorted. below[k]: how many lie in the bins up to k.
    Three times as fast as `np.partition`."""
    import numpy as np

    first, last = (int(np.searchsorted(below, place, side="right")) for place in (low, high))
    bins = sample.view(np.uint32) >> np.uint32(16)
    start = int(below[first - 1]) if first else 0
    found: NDArray[Any] = np.sort(sample[(bins >= first) & (bins <= last)])[low - start : high - start + 1]
    return found


def counted(
    call: Applied,
    threads: int,
    progress: Callable[[int], None],
    of: Values,
    sizes: Mapping[str, int],
    guesses: Mapping[str, Guess],
    finish: Callable[[str, Counts], None],
) -> None:
    """Counts within the windows, and of what equals the values; group by group."""
    import numpy as np

    groups, lock, left = groups_of(call), threading.Lock(), {group: sizes[group] for group in guesses}
    totals: dict[str, Counts] = {}
    spare: dict[int, list[NDArray[Any]]] = {}  # tables that are free again: fresh memory costs more than the counting

    def table(window: Window) -> "NDArray[Any]":
        size = _size(window)
        found = spare[size].pop() if spare.get(size) else np.empty(size, np.uint64)
        found.fill(0)
        return found

    def add(run: Part, here: Tables, same: Mapping[float, "NDArray[Any]"]) -> None:
        """The counts of a run; with the last one of a group its tables are read and free again."""
        name, start, size = run
        group = groups[name]
        total = totals.setdefault(group, Counts({}, {}, {}))
        for window, counts in here.items():
            if window not in total.tables:
                total.tables[window] = table(window)
            np.add(total.tables[window], counts, out=total.tables[window])
        for value, tiles in same.items():
            everywhere = total.equals.setdefault((name, value), np.zeros(_tiles(call, name), np.int64))
            everywhere[start // SPAN :][: len(tiles) - 1] = tiles[:-1]
            total.above[value] = total.above.get(value, 0) + int(tiles[-1])
        left[group] -= size
        if not left[group]:
            finish(group, totals.pop(group))
            for counts in total.tables.values():
                spare.setdefault(counts.size, []).append(counts)

    def work(run: Part, mine: _Mine) -> int:
        name, start, size = run
        guess = guesses[groups[name]]
        here = {window: mine.table(k, window) for k, window in enumerate(guess.windows)}
        same = {value: np.zeros(-(-size // SPAN) + 1, np.uint32) for value in guess.values}
        step = size if of is first_of and _streamed(call, name) else TILE
        for at in range(0, size, step):
            count = min(step, size - at)
            program = call.program(name, start + at, count, ops=1 + len(here) + len(same))
            if of is first_of:
                (ranked,) = call.operands(program, name)
            else:
                fill(call, (name, start + at, count), mine.rows)
                ranked = program.array(of(mine.rows[:, :count]))
            for window, counts in here.items():
                program.add(COUNT, (ranked,), window, counts)
            sinks = {value: np.zeros(-(-count // SPAN) + 1, np.uint32) for value in same}
            for value, sink in sinks.items():
                program.add(EQUAL, (ranked,), (value, SPAN), sink)
            program.run()
            for value, sink in sinks.items():
                same[value][at // SPAN :][: len(sink) - 1] = sink[:-1]
                same[value][-1] += sink[-1]
        with lock:
            add(run, here, same)
        return size

    for size in each(_runs(call, groups, guesses), work, partial(_Mine, len(call.args)), threads):
        progress(size)


def _runs(call: Applied, groups: Mapping[str, str], wanted: Container[str]) -> list[Part]:
    return [
        (name, start, min(RUN, call.specs[name].numel - start))
        for name, group in groups.items()
        if group in wanted
        for start in range(0, call.specs[name].numel, RUN)
    ]


def _streamed(call: Applied, name: str) -> bool:
    """Whether all that the arguments are summed of is read from files by the kernel: in no memory but its windows."""
    return all(hasattr(source, "segment") for terms in call.terms(name) for source, *_ in terms)


def _tiles(call: Applied, name: str) -> int:
    return -(-call.specs[name].numel // SPAN)


class _Mine:
    """A thread's memory: a part of each argument, and a table for every window of a run."""

    def __init__(self, count: int):
        self.rows = rows_of(count)
        self.tables: list[NDArray[Any]] = []

    def table(self, k: int, window: Window) -> "NDArray[Any]":
        """The k-th table, cleared."""
        import numpy as np

        while len(self.tables) <= k:
            self.tables.append(np.empty((WIDEST << 16) + 1, np.uint32))
        found = self.tables[k][: _size(window)]
        found.fill(0)
        return found


def _size(window: Window) -> int:
    """Counts of a window, and one for how many lie above."""
    return (HIGH if window is EVERY else window[1] << 16) + 1


def bin_of(counts: "NDArray[Any]", rank: int) -> tuple[int, int]:
    """(the bin that holds the element of this rank from the top, its rank within the bin)."""
    import numpy as np

    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, above.dtype.type(rank)))
    before = int(above[place - 1]) if place else 0
    return len(counts) - 1 - place, rank - before
