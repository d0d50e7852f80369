"""Passes over the data for what a method must know before it can work: Gram matrices, ratios of norms, overlaps.

Exact, and in no more memory than a block a thread and the numbers that are found. Parts are fixed and sums of parts are
exactly rounded, so that threads change nothing. thresholds.py has the order statistics.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from taskvec.algebra.program import Linear
from taskvec.errors import NonFiniteError
from taskvec.executors.threads import each
from taskvec.methods.core.applied import Applied, here
from taskvec.methods.core.call import METHOD_TILE, PART
from taskvec.methods.core.lanes import LANES, Lanes
from taskvec.methods.core.method import Measured
from taskvec.numbers.operations import DOT, NONZERO, PAIR, SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

Progress = Callable[[int], None]
Part = tuple[str, int, int]  # a tensor, the first element, how many
Pair = tuple[int, int]
Pairs = dict[Pair, tuple[float, int, int]]  # (dot, entries nonzero in both, those of opposite signs)
SUMMED = 4 * PART  # elements that a kernel sums at once: fixed, too
MOST_AT_ONCE = 8192  # pairs of vectors that a kernel multiplies in one run
LEAST_SUM = 1e-7  # sums of magnitudes below this have no ratio


def one_by_one(measure: Callable[[Applied, int, Progress], Measured]) -> Callable[..., list[Measured]]:
    """What measures several calls one after the other, each in passes of its own."""

    def every(calls: Sequence[Applied], threads: int, progress: Progress) -> list[Measured]:
        return [measure(call, threads, progress) for call in calls]

    return every


def grams(call: Applied, threads: int, progress: Callable[[int], None]) -> Measured:
    """Tensor -> {"gram": G}, G_ij = <x_i, x_j> over the tensor, or over the whole model with scope="model"; float64.

    With scope="row" or "column" G_ij is an array, a number for each lane. Raises NonFiniteError that names
    the tensors which make the products of the whole model NaN or Inf.
    """
    if call.params.get("scope") in LANES:
        return _grams_of_lanes(call, threads, progress)
    n, sums = len(call.args), _measured(call, threads, progress, DOT)
    whole = call.params.get("scope") == "model"
    everything = [p for found in sums.values() for p in found]

    def gram(found: Sequence[Mapping[Pair, list[float]]]) -> list[list[Any]]:
        return _square({pair: total([p[pair][0] for p in found]) for pair in _pairs(n)}, n)

    shared = gram(everything) if whole else []
    if not all(math.isfinite(product) for row in shared for product in row):
        spoilt = [name for name, found in sums.items() if not all(math.isfinite(x) for row in gram(found) for x in row)]
        raise NonFiniteError(f"{call.name} compares whole models, and these tensors have NaN or Inf:", spoilt)
    return {name: {"gram": shared if whole else gram(found)} for name, found in sums.items()}


def pairs(call: Applied, threads: int, progress: Callable[[int], None]) -> dict[str, list[Pairs]]:
    """Tensor -> for each of its parts {(i, j): kernels.pair of the arguments i <= j}."""
    sums = _measured(call, threads, progress, PAIR)
    return {
        n: [{p: (d, int(b), int(a)) for p, (d, b, a) in part.items()} for part in parts] for n, parts in sums.items()
    }


def _measured(call: Applied, threads: int, progress: Progress, code: int) -> dict[str, list[dict[Pair, list[float]]]]:
    """Tensor -> for each of its parts {(i, j): what DOT or PAIR finds of the arguments i <= j}."""
    import numpy as np

    wanted, width = _pairs(len(call.args)), 3 if code == PAIR else 1

    def work(part: Part, found: "NDArray[Any]") -> tuple[str, int, dict[Pair, list[float]]]:
        name, start, count = part
        for at in range(0, len(wanted), MOST_AT_ONCE):
            program = call.program(name, start, count, ops=0)
            refs = call.operands(program, name)
            for sink, (i, j) in zip(found[at : at + MOST_AT_ONCE], wanted[at : at + MOST_AT_ONCE], strict=True):
                program.add(code, (refs[i], refs[j]), sink=sink)
            program.run()
        return name, count, dict(zip(wanted, found.tolist(), strict=True))

    sums: dict[str, list[dict[Pair, list[float]]]] = {}
    for name, count, found in each(parts(call, SUMMED), work, lambda: np.empty((len(wanted), width)), threads):
        sums.setdefault(name, []).append(found)
        progress(count)
    return sums


def _grams_of_lanes(call: Applied, threads: int, progress: Callable[[int], None]) -> Measured:
    """A tensor a thread, its parts in order, so that a lane is always summed in the same order."""
    import numpy as np

    n, along = len(call.args), str(call.params["scope"])

    def work(name: str, rows: "NDArray[Any]") -> tuple[str, dict[Pair, "NDArray[Any]"]]:
        lanes = Lanes.of(call.specs[name].shape, along)
        sums = {pair: np.zeros(lanes.count) for pair in _pairs(n)}
        for row, high, column, wide in _blocks(lanes):
            fill(call, (name, row * lanes.width + column, high * wide), rows)
            first, size, axis = (row, high, 1) if along == "row" else (column, wide, 0)
            for i, j in sums:
                with np.errstate(all="ignore"):
                    product = rows[i, : high * wide].astype(np.float64) * rows[j, : high * wide]
                    sums[i, j][first : first + size] += product.reshape(high, wide).sum(axis=axis)
        return name, sums

    measured = {}
    names = [name for name, spec in call.specs.items() if spec.arithmetic]
    for name, sums in each(names, work, partial(rows_of, n), threads):
        measured[name] = {"gram": _square(sums, n)}
        progress(call.specs[name].numel)
    return measured


def _blocks(lanes: Lanes) -> Iterator[tuple[int, int, int, int]]:
    """(row, rows, column, columns): the matrix in blocks of at most PART elements that lie in one piece."""
    if lanes.width > PART:
        for row in range(lanes.rows):
            for column in range(0, lanes.width, PART):
                yield row, 1, column, min(PART, lanes.width - column)
    else:
        step = PART // max(1, lanes.width)
        for row in range(0, lanes.rows, step):
            yield row, min(step, lanes.rows - row), 0, lanes.width


Sizes = Iterator[tuple[str, int, float, float]]  # tensor, elements, sums of their magnitudes before and after
Bits = Mapping[str, memoryview]  # of some tensors: a bit an entry, whether it is kept
ByRows = Callable[..., tuple[float, float]]  # (tau, bits, **told) -> sum |tau|, sum |what the function makes of it|


def ratios(
    call: Applied, threads: int, progress: Callable[[int], None], told: Measured, by_rows: ByRows | None = None
) -> dict[str, float]:
    """Tensor -> sum |tau| / sum |what the function makes of tau|, 1 where one of the two is below LEAST_SUM.

    What `fn` is told beside its parameters: `told`, and ratio=1. by_rows: what finds the sums of a run of whole rows,
    and sets `bits`, for a function that is not lowered.
    """
    import numpy as np

    known = {
        name: call.numbers(name) | dict(told.get(name, {})) | {"ratio": 1.0}
        for name, spec in call.specs.items() if spec.arithmetic
    }  # fmt: skip
    totals: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in known}
    kept = {n: np.empty(-(-call.specs[n].numel // 8), np.uint8).data for n in known if call.remembers_of(n)}
    sizes = partial(_sizes_by_rows, by_rows) if by_rows else _lowered_sizes
    for name, count, before, after in sizes(call, threads, known, kept):
        totals[name][0].append(before)
        totals[name][1].append(after)
        progress(count)
    call.kept.update(kept)
    found = {name: (total(before), total(after)) for name, (before, after) in totals.items()}
    return {name: 1.0 if min(sums) < LEAST_SUM else sums[0] / sums[1] for name, sums in found.items()}


def _lowered_sizes(call: Applied, threads: int, known: Mapping[str, dict[str, Any]], kept: Bits) -> Sizes:
    import numpy as np

    lower = call.method.lower
    assert lower is not None

    def work(part: Part, found: "NDArray[Any]") -> tuple[str, int, float, float]:
        name, start, count = part
        program = call.program(name, start, count, ops=2)
        args = call.operands(program, name)
        made = lower(program, args, name, here(known[name], start))
        for ref, sink in zip((args[0], made), found, strict=True):
            program.add(SIZE, (ref,), sink=sink)
        if name in kept:
            program.add(NONZERO, (made,), sink=kept[name][start // 8 :])
        program.run()
        return name, count, float(found[0, 0]), float(found[1, 0])

    return each(parts(call, SUMMED), work, lambda: np.empty((2, 1)), threads)


def _sizes_by_rows(
    by_rows: ByRows, call: Applied, threads: int, known: Mapping[str, dict[str, Any]], kept: Bits
) -> Sizes:
    import numpy as np

    step = max((call.step(name, PART) for name in known), default=PART)

    def work(span: Part, rows: "NDArray[Any]") -> tuple[str, int, float, float]:
        name, start, count = span
        fill(call, span, rows)
        bits = kept[name][start // 8 :] if name in kept else None
        tau = rows[0, :count].reshape(-1, call.width(name))
        return name, count, *by_rows(tau, bits, name=name, start=start, **known[name])

    spans = [(name, *span) for name in known for span in call.spans(name, 0, call.specs[name].numel, PART)]
    return each(spans, work, lambda: np.empty((1, step), np.float32), threads)


def overlaps(
    call: Applied, threads: int, progress: Callable[[int], None]
) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Tensor -> for each vector how many entries above `epsilon` it shares with another, and how many it has alone."""
    import numpy as np

    n = len(call.args)
    names = [name for name, spec in call.specs.items() if spec.arithmetic]
    limits = {name: np.float32(call.numbers(name)["epsilon"]) for name in names}  # type: ignore[arg-type]

    def work(part: Part, rows: "NDArray[Any]") -> tuple[str, int, list[int], list[int]]:
        name, start, count = part
        shared, alone = [0] * n, [0] * n
        for at in range(start, start + count, METHOD_TILE):
            size = min(METHOD_TILE, start + count - at)
            fill(call, (name, at, size), rows)
            active = np.abs(rows[:, :size]) > limits[name]
            many = active.sum(axis=0, dtype=np.int32) > 1
            for k in range(n):
                both = int(np.count_nonzero(active[k] & many))
                shared[k] += both
                alone[k] += int(np.count_nonzero(active[k])) - both
        return name, count, shared, alone

    totals = {name: [0] * n for name in limits}, {name: [0] * n for name in limits}
    for name, count, *found in each(parts(call), work, partial(rows_of, n), threads):
        for into, counts in zip(totals, found, strict=True):
            into[name] = [a + b for a, b in zip(into[name], counts, strict=True)]
        progress(count)
    return totals


# ---- how a pass walks ----------------------------------------------------------------------------------------------
def parts(call: Applied, step: int = PART) -> Iterator[Part]:
    """Every tensor in parts of so many elements."""
    for name, spec in call.specs.items():
        if spec.arithmetic:
            for start in range(0, spec.numel, step):
                yield name, start, min(step, spec.numel - start)


def rows_of(count: int) -> "NDArray[Any]":
    """Memory of a thread: a part of each of `count` arguments."""
    import numpy as np

    return np.empty((count, PART), np.float32)


def fill(call: Applied, part: Part, rows: "NDArray[Any]") -> bool:
    """The values of the arguments, a row each; whether all of them are known to be finite."""
    name, start, count = part
    finite = [_values(call, linear, start, row[:count]) for row, linear in zip(rows, call.sums(name), strict=False)]
    return all(finite)


def _values(call: Applied, linear: Linear, start: int, out: "NDArray[Any]") -> bool:
    finite = [call.values(linear, start + at, out[at : at + METHOD_TILE]) for at in range(0, out.size, METHOD_TILE)]
    return all(finite)


def total(values: Sequence[float]) -> float:
    """The sum, exactly rounded; nan if one of them is not finite, so that the result shows it."""
    return math.fsum(values) if all(map(math.isfinite, values)) else math.nan


def _pairs(n: int) -> list[Pair]:
    return [(i, j) for i in range(n) for j in range(i, n)]


def _square(upper: Mapping[Pair, Any], n: int) -> list[list[Any]]:
    return [[upper[min(i, j), max(i, j)] for j in range(n)] for i in range(n)]
