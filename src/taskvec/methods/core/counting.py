"""Counting magnitudes, streamed: a sample tells where to look, and one pass over the data counts there.

thresholds.py says what this is for. One pass (`counted`) counts for several calls at once:

1. The tensors are cut into runs of RUN elements. Threads take them one by one.
2. For a run the thread borrows a set of tables of the run's group to which no other thread adds (`_Tally.begin`). It
   makes one if all are in use: (2**16 bins + 1,) uint32 a window. So there are at most as many sets as threads.
3. The run goes through the kernels, as a whole if they read it from files, otherwise tile by tile (`_count_piece`).
   What several calls have in common, such as a base, is read once. The kernels add to the tables, and count what
   equals the likely magnitudes: (tiles + 1,) uint32, of which the last number is how many entries lie above.
4. The set is given back (`_Tally.end`). With the last run of a group its sets are added up and read (`ranks.located`),
   and the tables are free for other groups. So a model of many tensors needs no more tables than a few of them do.
5. The pass yields what was read off the counts, a few numbers for each group.
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from taskvec.algebra.program import Program
from taskvec.executors.threads import each
from taskvec.methods.core.call import METHOD_TILE, PART
from taskvec.methods.core.measurement import SPAN, Piece, pieces_of, rows_of
from taskvec.methods.core.ranks import EVERY, HIGH, Asked, Counts, Located, Tables, Window, first_of, located
from taskvec.methods.core.reading import together
from taskvec.numbers.operations import COUNT, EQUAL
from taskvec.sources.abilities import OnDisk

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE = 8192  # elements of a piece of the sample
SAMPLED = 1 << 19  # the most elements in all pieces of a group
SPARSE = 64  # of a large group, at most one piece in so many is sampled
WIDEST = 12  # the most bins of a window; each takes 256 KB of counts a thread
LIKELY = 2  # how many likely magnitudes are counted one by one,
SURE = 0.8  # if at least this share of the sample between a rank's two bounds equals one of them
RUN = 16 * PART  # elements of a run
Ranks = Mapping[str, Mapping[str, int]]  # group -> {parameter: rank}


class Guess(NamedTuple):
    """Where a group's thresholds may lie, and what they may be."""

    windows: tuple[Window, ...]
    values: tuple[float, ...] = ()


# ---- where to look -------------------------------------------------------------------------------------------------
def guessed(asked: Sequence[Asked], threads: int) -> list[dict[str, Guess]]:
    """For each call: group -> where its thresholds lie, as far as a sample of SAMPLED numbers can tell."""
    guesses: list[dict[str, Guess]] = [{} for _ in asked]
    groups = [(k, group) for k, a in enumerate(asked) for group in a.sizes]
    for k, group, guess in each(groups, partial(_guess_of, asked), partial(_memory, asked), threads):
        guesses[k][group] = guess
    return guesses


def _guess_of(asked: Sequence[Asked], which: tuple[int, str], rows: "NDArray[Any]") -> tuple[int, str, Guess]:
    k, group = which
    return k, group, _guess(_sample(asked[k], group, rows), asked[k].ranks(group), asked[k].sizes[group])


def _sample(asked: Asked, group: str, rows: "NDArray[Any]") -> "NDArray[Any]":
    """A sample of a group's magnitudes, (about SAMPLED at most,) float32. Its tensors are seen as one long row, from
    which pieces are read at equal distances."""
    import numpy as np

    size = asked.sizes[group]
    step = max(SAMPLE, SPARSE * SAMPLE if size > SPARSE * SAMPLE else 0, size * SAMPLE // SAMPLED)
    pieces, sofar, at = list[Piece](), 0, 0
    for name in asked.members[group]:
        numel = asked.m.sizes[name]
        pieces += [Piece(name, start, min(SAMPLE, numel - start)) for start in range(-sofar % step, numel, step)]
        sofar += numel
    sample = np.empty(sum(piece.size for piece in pieces), np.float32)
    for piece in pieces:
        asked.m.fill(piece, rows)
        sample[at : at + piece.size] = asked.of(rows[:, : piece.size])
        at += piece.size
    np.abs(sample, out=sample)
    return sample


def _guess(sample: "NDArray[Any]", ranks: Mapping[str, int], size: int) -> Guess:
    """What to count for each rank: it lies, give or take four standard errors, between two places of the sorted sample.

    Differences of 16-bit floats take few values. If most of the sample between these places equals the LIKELY most
    frequent magnitudes, or if the window would be too wide, it is these magnitudes. Otherwise it is the window of bins
    from the first place to the last.
    """
    import numpy as np

    windows, likely, count = dict[Window, None](), dict[float, None](), sample.size
    below = np.cumsum(np.bincount(sample.view(np.uint32) >> np.uint32(16), minlength=HIGH))
    for rank in (rank for rank in ranks.values() if rank and count):
        share = rank / size
        error = 4 * math.sqrt(count * share * (1 - share)) + 2
        low = max(0, count - int(share * count + error))
        high = min(count - 1, max(0, count - int(share * count - error)))
        near, times = np.unique(_sorted_part(sample, below, low, high), return_counts=True)
        most = np.argsort(times)[-LIKELY:]
        first, last = (int(bits) >> 16 for bits in near[[0, -1]].view(np.uint32))
        if times[most].sum() >= SURE * times.sum() or last - first >= WIDEST:
            likely |= dict.fromkeys(near[most].tolist())
        else:
            windows[first, last - first + 1] = None
    return Guess(tuple(windows), tuple(likely))


def _sorted_part(sample: "NDArray[Any]", below: "NDArray[Any]", low: int, high: int) -> "NDArray[Any]":
    """The numbers at the places low .. high of the sorted sample, three times as fast as by `np.partition`.
    below[k]: how many numbers lie in the bins up to k."""
    import numpy as np

    first, last = (int(np.searchsorted(below, place, side="right")) for place in (low, high))
    bins = sample.view(np.uint32) >> np.uint32(16)
    start = int(below[first - 1]) if first else 0
    part: NDArray[Any] = np.sort(sample[(bins >= first) & (bins <= last)])[low - start : high - start + 1]
    return part


# ---- counting there ------------------------------------------------------------------------------------------------
def counted(
    asked: Sequence[Asked],
    guesses: Sequence[Mapping[str, Guess]],
    ranks: Sequence[Ranks],
    threads: int,
    progress: Callable[[int], None],
) -> Iterator[tuple[int, str, Located]]:
    """One pass over the groups that the guesses of each call name. Yields (number of the call, group, what the counts
    say of its ranks) for each group when it is done."""
    tallies = [_Tally(*each_call) for each_call in zip(asked, guesses, ranks, strict=True)]
    for size, done in each(_runs(tallies), partial(_count_run, tallies), partial(_memory, asked), threads):
        progress(size)
        yield from done


def _runs(tallies: "Sequence[_Tally]") -> list[Piece]:
    sizes = {name: t.asked.m.sizes[name] for t in tallies for name in t.asked.groups if t.wants(name)}
    return [run for name, numel in sizes.items() for run in pieces_of(name, 0, numel, RUN)]


def _count_run(
    tallies: "Sequence[_Tally]", run: Piece, rows: "NDArray[Any]"
) -> tuple[int, list[tuple[int, str, Located]]]:
    """Count one run. Returns (elements that were read, what the counts say of the groups that end with this run)."""
    borrowed = {k: tally.begin(run) for k, tally in enumerate(tallies) if tally.wants(run.name)}
    whole = all(tallies[k].streams(run.name) for k in borrowed)
    for piece in pieces_of(run.name, run.start, run.start + run.size, run.size if whole else METHOD_TILE):
        _count_piece([(tallies[k], mine) for k, mine in borrowed.items()], run, piece, rows)
    ends = {k: tallies[k].end(run, mine) for k, mine in borrowed.items()}
    return run.size * len(borrowed), [(k, *end) for k, end in ends.items() if end]


def _count_piece(borrowed: "Sequence[tuple[_Tally, _Partial]]", run: Piece, piece: Piece, rows: "NDArray[Any]") -> None:
    """Add a piece of the run to the counts of each call."""
    import numpy as np

    ops = sum(1 + len(mine.tables) + len(mine.same) for _, mine in borrowed)
    program = together([tally.asked.m.call for tally, _ in borrowed], *piece, ops)
    sinks: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for tally, mine in borrowed:
        ranked = tally.ranked(program, piece, rows)
        for window, table in mine.tables.items():
            program.add(COUNT, (ranked,), window, table)
        for value, same in mine.same.items():
            sinks.append((same, np.zeros(-(-piece.size // SPAN) + 1, np.uint32)))
            program.add(EQUAL, (ranked,), (value, SPAN), sinks[-1][1])
    program.run()
    first = (piece.start - run.start) // SPAN
    for same, sink in sinks:
        same[first:][: len(sink) - 1] = sink[:-1]
        same[-1] += sink[-1]


class _Partial:
    """A set of tables of a group, to which one thread at a time adds, run after run. `same` is of the present run."""

    def __init__(self, tables: Tables):
        self.tables, self.size = tables, 0
        self.same: dict[float, NDArray[Any]] = {}  # magnitude -> (tiles + 1,) how many have it; how many lie above


class _Tally:
    """What is counted of one call."""

    def __init__(self, asked: Asked, guesses: Mapping[str, Guess], ranks: Ranks):
        self.asked, self.guesses, self.ranks = asked, guesses, ranks
        self._lock = threading.Lock()
        self._left = {group: asked.sizes[group] for group in guesses}
        self._counts: dict[str, Counts] = {}  # of groups that are not finished; their tables are in the partials
        self._partials: dict[str, list[_Partial]] = {}
        # Tables to use again, as fresh memory costs more than counting. Each is as large as the largest and is used in
        # part, so that groups with windows of different sizes can share them.
        self._spare: list[NDArray[Any]] = []

    def wants(self, name: str) -> bool:
        """Whether this tensor is counted."""
        return self.asked.groups.get(name) in self.guesses

    def streams(self, name: str) -> bool:
        """Whether the kernels read all that is ranked from files, so that only their windows take memory."""
        sums = self.asked.m.sums(name)
        return self.asked.of is first_of and all(isinstance(s, OnDisk) for linear in sums for s, _ in linear.parts)

    def ranked(self, program: Program, piece: Piece, rows: "NDArray[Any]") -> int:
        """Add what is ranked to a program; a reference to it."""
        m = self.asked.m
        if self.asked.of is first_of:
            return m.call.operands(program, piece.name)[0]
        m.fill(piece, rows)
        return program.array(self.asked.of(rows[: m.count, : piece.size]))

    def begin(self, run: Piece) -> _Partial:
        """A set of tables of the run's group to which no other thread adds until `end`."""
        import numpy as np

        group = self.asked.groups[run.name]
        guess = self.guesses[group]
        with self._lock:
            free = self._partials.setdefault(group, [])
            mine = next((part for part in free if part.size + run.size < 1 << 32), None)  # counts have 32 bits
            if mine is None:
                mine = _Partial({window: self._table(window) for window in guess.windows})
            else:
                free.remove(mine)
        mine.size += run.size
        mine.same = {value: np.zeros(-(-run.size // SPAN) + 1, np.uint32) for value in guess.values}
        return mine

    def _table(self, window: Window) -> "NDArray[Any]":
        import numpy as np

        whole = self._spare.pop() if self._spare else np.empty(_size((0, WIDEST)), np.uint32)
        table = whole[: _size(window)]
        table.fill(0)
        return table

    def end(self, run: Piece, mine: _Partial) -> tuple[str, Located] | None:
        """Give the tables back. Returns what the counts say if this was the last run of a group."""
        import numpy as np

        group = self.asked.groups[run.name]
        with self._lock:
            counts = self._counts.setdefault(group, Counts({}, {}, {}))
            for value, tiles in mine.same.items():
                numel = self.asked.m.sizes[run.name]
                everywhere = counts.equals.setdefault((run.name, value), np.zeros(-(-numel // SPAN), np.int64))
                everywhere[run.start // SPAN :][: len(tiles) - 1] = tiles[:-1]
                counts.above[value] = counts.above.get(value, 0) + int(tiles[-1])
            self._partials[group].append(mine)
            self._left[group] -= run.size
            if self._left[group]:
                return None
            parts, counts = self._partials.pop(group), self._counts.pop(group)
        for window in parts[0].tables:
            counts.tables[window] = _added([part.tables[window] for part in parts], self.asked.sizes[group])
        said = located(self.asked, group, self.ranks.get(group, {}), counts)
        bases = (table.base for part in parts for table in part.tables.values())
        with self._lock:
            self._spare += [base for base in bases if base is not None]
        return group, said


def _added(tables: "Sequence[NDArray[Any]]", size: int) -> "NDArray[Any]":
    """The sum of the tables of one window, in 64 bits for a group of 2**32 elements or more."""
    import numpy as np

    whole = tables[0] if size < 1 << 32 else tables[0].astype(np.uint64)
    for table in tables[1:]:
        np.add(whole, table, out=whole)
    return whole


def _memory(asked: Sequence[Asked]) -> "NDArray[Any]":
    """A thread's memory, for a piece of each argument."""
    return rows_of(max(a.m.count for a in asked))


def _size(window: Window) -> int:
    """The size of a window's table: a count for each magnitude, and one for how many lie above."""
    return (HIGH if window is EVERY else window[1] << 16) + 1
