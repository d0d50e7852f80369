"""Counting magnitudes, streamed: in windows of the bits of float32 where a sample says that thresholds lie."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from taskvec.algebra.program import Program
from taskvec.errors import RecipeError
from taskvec.executors.threads import each
from taskvec.methods.core.applied import SPAN, Applied, together
from taskvec.methods.core.call import METHOD_TILE, PART
from taskvec.methods.core.passes import Part, fill, rows_of
from taskvec.numbers.operations import COUNT, EQUAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIGH = 1 << 15  # values of the upper bits of a float32's magnitude; of the lower ones there are 2**16
SAMPLE, SAMPLED = 8192, 1 << 19  # numbers of a piece of the sample, and of all pieces of a group at most;
SPARSE = 64  # of a large one, one piece in so many
WIDEST = 12  # bins of a window at most: 256 KB of counts a thread for each
LIKELY, SURE = 2, 0.8  # values of which what equals them is counted, if so many of the sample are among them
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


class Asked:
    """A call, and the ranks that are wanted of its groups."""

    def __init__(self, call: Applied, ranks: Ranks, of: Values = first_of):
        self.call, self.ranks, self.of, self.groups = call, ranks, of, groups_of(call)
        self.sizes = dict.fromkeys(self.groups.values(), 0)  # group -> elements
        for name, group in self.groups.items():
            self.sizes[group] += call.specs[name].numel
        numbers = {name: call.numbers(name) for name in self.groups}
        self.told: dict[str, dict[str, Any]] = {group: numbers[name] for name, group in self.groups.items()}
        if any(numbers[name] != self.told[group] for name, group in self.groups.items()):
            raise RecipeError(f'{call.method.name}: with scope="model" a parameter is one number, not one a tensor')
        for group, size in self.sizes.items():
            if 0 < (entries := self.told[group].get("entries", 0)) < size:
                raise RecipeError(
                    f"{call.method.name}: entries={entries:g} is less than the {size} of its argument alone"
                )

    def wanted(self, group: str, zeros: int = 0) -> dict[str, int]:
        """Parameter -> rank, among all entries of the model where the call was told how many it has: those that an
        adapter does not name are zero, so a rank beyond those that it names takes in all of these."""
        size = self.sizes[group]
        whole = max(size, int(self.told[group].get("entries", 0)))
        ranks = self.ranks(whole, zeros + whole - size, **self.told[group])
        return {key: min(rank, size) for key, rank in ranks.items()}


def groups_of(call: Applied) -> dict[str, str]:
    """Tensor -> the group that is ranked together: itself, or "" with scope="model"."""
    whole = call.params.get("scope") == "model"
    return {name: "" if whole else name for name, spec in call.specs.items() if spec.arithmetic}


def guessed(asked: Sequence[Asked], threads: int) -> list[dict[str, Guess]]:
    """Of each call, group -> where its thresholds lie, as far as SAMPLED numbers of it can tell."""
    import numpy as np

    members: list[dict[str, list[str]]] = [{group: [] for group in a.sizes} for a in asked]
    for a, its in zip(asked, members, strict=True):
        for name, group in a.groups.items():
            its[group].append(name)

    def work(of: tuple[int, str], mine: _Mine) -> tuple[int, str, Guess]:
        k, group = of
        a, pieces, sofar, size = asked[k], list[Part](), 0, asked[k].sizes[group]
        step = max(SAMPLE, SPARSE * SAMPLE if size > SPARSE * SAMPLE else 0, size * SAMPLE // SAMPLED)
        for name in members[k][group]:  # as one long row, of which every so many numbers a piece is read
            numel = a.call.specs[name].numel
            pieces += [(name, start, min(SAMPLE, numel - start)) for start in range(-sofar % step, numel, step)]
            sofar += numel
        sample, at = np.empty(sum(count for *_, count in pieces), np.float32), 0
        for piece in pieces:
            fill(a.call, piece, mine.rows)
            sample[at : at + piece[2]] = a.of(mine.rows[:, : piece[2]])
            at += piece[2]
        np.abs(sample, out=sample)
        return k, group, _guess(sample, a.wanted(group), size)

    found: list[dict[str, Guess]] = [{} for _ in asked]
    everything = [(k, group) for k, a in enumerate(asked) for group in a.sizes]
    for k, group, guess in each(everything, work, partial(_Mine, asked), threads):
        found[k][group] = guess
    return found


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
        near, times = np.unique(_sorted_part(sample, below, low, high), return_counts=True)
        most = np.argsort(times)[-LIKELY:]
        first, last = (int(bits) >> 16 for bits in near[[0, -1]].view(np.uint32))
        if times[most].sum() >= SURE * times.sum() or last - first >= WIDEST:
            likely |= dict.fromkeys(near[most].tolist())
        else:
            windows[first, last - first + 1] = None
    return Guess(tuple(windows), tuple(likely))


def _sorted_part(sample: "NDArray[Any]", below: "NDArray[Any]", low: int, high: int) -> "NDArray[Any]":
    """The numbers at the places low .. high of the sorted sample. below[k]: how many lie in the bins up to k.
    Three times as fast as `np.partition`."""
    import numpy as np

    first, last = (int(np.searchsorted(below, place, side="right")) for place in (low, high))
    bins = sample.view(np.uint32) >> np.uint32(16)
    start = int(below[first - 1]) if first else 0
    found: NDArray[Any] = np.sort(sample[(bins >= first) & (bins <= last)])[low - start : high - start + 1]
    return found


def counted(
    asked: Sequence[Asked],
    guesses: Sequence[Mapping[str, Guess]],
    threads: int,
    progress: Callable[[int], None],
    finish: Callable[[int, str, Counts], None],
) -> None:
    """Counts within the windows, and of what equals the values; group by group of each call. In one pass for all the
    calls: what they have in common, such as a base, is read once. `finish` is told the call's number."""
    import numpy as np

    tallies = [_Tally(a, guess) for a, guess in zip(asked, guesses, strict=True)]

    def work(run: Part, mine: _Mine) -> int:
        name, start, size = run
        wanted = [(k, t, t.begin(name, size)) for k, t in enumerate(tallies) if t.wants(name)]
        step = size if all(t.streams(name) for _, t, _ in wanted) else METHOD_TILE
        for at in range(0, size, step):
            count = min(step, size - at)
            sinks = [{value: np.zeros(-(-count // SPAN) + 1, np.uint32) for value in part.same} for *_, part in wanted]
            program = together([t.asked.call for _, t, _ in wanted], name, start + at, count, _operations(wanted))
            for (_, tally, part), equal in zip(wanted, sinks, strict=True):
                ranked = tally.ranked(program, (name, start + at, count), mine)
                for window, counts in part.tables.items():
                    program.add(COUNT, (ranked,), window, counts)
                for value, sink in equal.items():
                    program.add(EQUAL, (ranked,), (value, SPAN), sink)
            program.run()
            for (*_, part), equal in zip(wanted, sinks, strict=True):
                for value, sink in equal.items():
                    part.same[value][at // SPAN :][: len(sink) - 1] = sink[:-1]
                    part.same[value][-1] += sink[-1]
        for k, tally, part in wanted:
            tally.end(run, part, partial(finish, k))
        return size * len(wanted)

    for size in each(_runs(tallies), work, partial(_Mine, asked), threads):
        progress(size)


def _operations(wanted: "Sequence[tuple[int, _Tally, _Partial]]") -> int:
    return sum(1 + len(part.tables) + len(part.same) for *_, part in wanted)


def _runs(tallies: "Sequence[_Tally]") -> list[Part]:
    sizes = {n: t.asked.call.specs[n].numel for t in tallies for n in t.asked.groups if t.wants(n)}
    return [(name, start, min(RUN, numel - start)) for name, numel in sizes.items() for start in range(0, numel, RUN)]


class _Partial:
    """What one thread at a time counts of a group, run after run; `same` is of the run at hand."""

    def __init__(self, tables: Tables):
        self.tables, self.size = tables, 0
        self.same: dict[float, NDArray[Any]] = {}


class _Tally:
    """What is counted of one call."""

    def __init__(self, asked: Asked, guesses: Mapping[str, Guess]):
        self.asked, self.guesses = asked, guesses
        self._lock = threading.Lock()
        self._left = {group: asked.sizes[group] for group in guesses}
        self._counts: dict[str, Counts] = {}  # of groups that are not finished; their tables are in the partials
        self._partials: dict[str, list[_Partial]] = {}
        # Tables to use again, as fresh memory costs more than counting: each as large as any is, and used in part, so
        # that groups with windows of many sizes share them.
        self._spare: list[NDArray[Any]] = []

    def wants(self, name: str) -> bool:
        """Whether this tensor is counted."""
        return self.asked.groups.get(name) in self.guesses

    def streams(self, name: str) -> bool:
        """Whether all that is ranked is read from files by the kernel: in no memory but its windows."""
        sums = self.asked.call.sums(name)
        return self.asked.of is first_of and all(hasattr(s, "segment") for linear in sums for s, _ in linear.parts)

    def ranked(self, program: Program, part: Part, mine: "_Mine") -> int:
        """What is ranked, as a reference."""
        call, of = self.asked.call, self.asked.of
        if of is first_of:
            return call.operands(program, part[0])[0]
        fill(call, part, mine.rows)
        return program.array(of(mine.rows[: len(call.args), : part[2]]))

    def begin(self, name: str, size: int) -> _Partial:
        """Tables of the tensor's group that nobody else adds to until `end`."""
        import numpy as np

        group = self.asked.groups[name]
        guess = self.guesses[group]
        with self._lock:
            free = self._partials.setdefault(group, [])
            found = next((part for part in free if part.size + size < 1 << 32), None)  # counts have 32 bits
            if found is None:
                found = _Partial({window: self._table(window) for window in guess.windows})
            else:
                free.remove(found)
        found.size += size
        found.same = {value: np.zeros(-(-size // SPAN) + 1, np.uint32) for value in guess.values}
        return found

    def _table(self, window: Window) -> "NDArray[Any]":
        import numpy as np

        whole = self._spare.pop() if self._spare else np.empty(_size((0, WIDEST)), np.uint32)
        found = whole[: _size(window)]
        found.fill(0)
        return found

    def end(self, run: Part, part: _Partial, finish: Callable[[str, Counts], None]) -> None:
        """The counts of a run; with the last one of a group its tables are read and free again."""
        import numpy as np

        name, start, size = run
        group = self.asked.groups[name]
        with self._lock:
            counts = self._counts.setdefault(group, Counts({}, {}, {}))
            for value, tiles in part.same.items():
                numel = self.asked.call.specs[name].numel
                everywhere = counts.equals.setdefault((name, value), np.zeros(-(-numel // SPAN), np.int64))
                everywhere[start // SPAN :][: len(tiles) - 1] = tiles[:-1]
                counts.above[value] = counts.above.get(value, 0) + int(tiles[-1])
            self._partials[group].append(part)
            self._left[group] -= size
            if self._left[group]:
                return
            parts = self._partials.pop(group)
            for window, table in parts[0].tables.items():
                few = self.asked.sizes[group] < 1 << 32
                counts.tables[window] = table if few else table.astype(np.uint64)
                for other in parts[1:]:
                    np.add(counts.tables[window], other.tables[window], out=counts.tables[window])
            finish(group, self._counts.pop(group))
            bases = (table.base for part in parts for table in part.tables.values())
            self._spare += [base for base in bases if base is not None]


class _Mine:
    """A thread's memory: a part of each argument."""

    def __init__(self, asked: Sequence[Asked]):
        self.rows = rows_of(max(len(a.call.args) for a in asked))


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
