"""Passes over the data that measure what a method must know: Gram matrices, sums over pairs, scales.

They need no more memory than a piece of each argument for each thread, and the numbers that result. Pieces have fixed
sizes, and sums over pieces are rounded exactly, so that the number of threads changes nothing. Order statistics are in
thresholds.py.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from taskvec.errors import NonFiniteError
from taskvec.executors.threads import each
from taskvec.methods.core.call import PART
from taskvec.methods.core.lanes import Lanes
from taskvec.methods.core.measurement import Measurement, Piece, here, rows_of
from taskvec.methods.core.method import Told
from taskvec.methods.core.pairs import Pair, PairSums, pair_sums, pairs_of, products, square
from taskvec.methods.core.roles import LANES, Scope
from taskvec.numbers.operations import DOT, NONZERO, SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

Progress = Callable[[int], None]  # is told of elements that were read
Gram = list[list[Any]]  # n x n, <x_i, x_j>: floats, or arrays with a number for each lane
SUMMED = 4 * PART  # elements that a kernel sums at once: fixed, too
LEAST_SUM = 1e-7  # sums of magnitudes below this have no ratio


def one_by_one(measure: Callable[[Measurement, int, Progress], Told]) -> Callable[..., list[Told]]:
    """A measuring function that measures several calls one after the other, each in passes of its own."""

    def every(measurements: Sequence[Measurement], threads: int, progress: Progress) -> list[Told]:
        return [measure(m, threads, progress) for m in measurements]

    return every


# ---- products of two arguments -------------------------------------------------------------------------------------
def told_grams(m: Measurement, threads: int, progress: Progress) -> Told:
    """What a method that combines its arguments is told: the Gram matrix of each tensor."""
    return {name: {m.method.first: gram} for name, gram in grams(m, threads, progress).items()}


def grams(m: Measurement, threads: int, progress: Progress) -> dict[str, Gram]:
    """Tensor -> the Gram matrix G, G_ij = <x_i, x_j> in float64.

    The products are over the tensor, or with Scope.MODEL over the whole model. With Scope.ROW or COLUMN each G_ij is an
    array with a number for each lane. Raises NonFiniteError where a product over the whole model is NaN or Inf. It
    names the tensors that make it so.
    """
    if m.scope in LANES:
        return _grams_of_lanes(m, threads, progress)
    wanted = pairs_of(m.count)

    def work(piece: Piece, nothing: None) -> tuple[Piece, dict[Pair, float]]:
        dots = products(DOT, wanted, m.sums(piece.name), piece.start, piece.size, m.scratch(piece))
        return piece, dict(zip(wanted, dots[:, 0].tolist(), strict=True))

    dots = _by_tensor(each(m.pieces(SUMMED), work, lambda: None, threads), progress)

    def gram(pieces: Sequence[Mapping[Pair, float]]) -> Gram:
        return square({pair: total([dot[pair] for dot in pieces]) for pair in wanted}, m.count)

    if m.scope is not Scope.MODEL:
        return {name: gram(pieces) for name, pieces in dots.items()}
    shared = gram([piece for pieces in dots.values() for piece in pieces])
    if not _is_finite(shared):
        spoiled = [name for name, pieces in dots.items() if not _is_finite(gram(pieces))]
        raise NonFiniteError(f"{m.call.name} compares whole models, and these tensors have NaN or Inf:", spoiled)
    return dict.fromkeys(dots, shared)


def pairs(m: Measurement, threads: int, progress: Progress) -> dict[str, list[PairSums]]:
    """Tensor -> for each of its pieces the sums of every pair of arguments."""
    wanted = pairs_of(m.count)

    def work(piece: Piece, nothing: None) -> tuple[Piece, PairSums]:
        return piece, pair_sums(wanted, m.sums(piece.name), piece.start, piece.size, m.scratch(piece))

    return _by_tensor(each(m.pieces(SUMMED), work, lambda: None, threads), progress)


def _by_tensor(results: Iterator[tuple[Piece, Any]], progress: Progress) -> dict[str, list[Any]]:
    """Tensor -> the results of its pieces."""
    of_tensors: dict[str, list[Any]] = {}
    for piece, result in results:
        of_tensors.setdefault(piece.name, []).append(result)
        progress(piece.size)
    return of_tensors


def _is_finite(gram: Gram) -> bool:
    return all(math.isfinite(product) for row in gram for product in row)


def _grams_of_lanes(m: Measurement, threads: int, progress: Progress) -> dict[str, Gram]:
    """`grams` with a number for each lane. A thread takes a whole tensor and its blocks in order, so that a lane is
    always summed in the same order."""
    import numpy as np

    def work(name: str, rows: "NDArray[Any]") -> tuple[str, Gram]:
        lanes = Lanes.of(m.shape(name), m.scope)
        sums = {pair: np.zeros(lanes.count) for pair in pairs_of(m.count)}
        for row, high, column, wide in _blocks(lanes):
            m.fill(Piece(name, row * lanes.width + column, high * wide), rows)
            first, size, axis = (row, high, 1) if lanes.along is Scope.ROW else (column, wide, 0)
            for i, j in sums:
                with np.errstate(all="ignore"):
                    product = rows[i, : high * wide].astype(np.float64) * rows[j, : high * wide]
                    sums[i, j][first : first + size] += product.reshape(high, wide).sum(axis=axis)
        return name, square(sums, m.count)

    measured = {}
    for name, gram in each(m.names, work, partial(rows_of, m.count), threads):
        measured[name] = gram
        progress(m.sizes[name])
    return measured


def _blocks(lanes: Lanes) -> Iterator[tuple[int, int, int, int]]:
    """The matrix in blocks of at most PART elements that lie next to one another: (row, rows, column, columns)."""
    if lanes.width > PART:
        for row in range(lanes.rows):
            for column in range(0, lanes.width, PART):
                yield row, 1, column, min(PART, lanes.width - column)
    else:
        step = PART // max(1, lanes.width)
        for row in range(0, lanes.rows, step):
            yield row, min(step, lanes.rows - row), 0, lanes.width


# ---- how much is kept ----------------------------------------------------------------------------------------------
Sizes = tuple[Piece, float, float]  # a piece, and the sums of its magnitudes before and after
ByRows = Callable[..., tuple[float, float]]  # (tau, bits, **told) -> sum |tau|, sum |what the function makes of it|


def with_scale(
    m: Measurement,
    threads: int,
    progress: Progress,
    told: Mapping[str, Mapping[str, Any]],
    by_rows: ByRows | None = None,
) -> Told:
    """What a method is told of each tensor, with the number by which it multiplies what it keeps (`Method.scale`).

    by_rows: for a method of rows, the function that adds up a run of whole rows and sets the bits of what is kept.
    """
    assert m.method.scale is not None
    key = m.method.scale.told
    scales = _scales(m, threads, progress, told, key, by_rows) if m.call.scaled else dict.fromkeys(told, 1.0)
    return {name: {**known, key: scales[name]} for name, known in told.items()}


def _scales(
    m: Measurement,
    threads: int,
    progress: Progress,
    told: Mapping[str, Mapping[str, Any]],
    key: str,
    by_rows: ByRows | None,
) -> dict[str, float]:
    """Tensor -> sum |tau| / sum |what the function makes of tau with a scale of 1|, or 1 if one of the two sums is
    below LEAST_SUM."""
    import numpy as np

    known = {name: {**m.numbers(name), **told[name], key: 1.0} for name in m.names}
    kept = {name: np.empty(-(-m.sizes[name] // 8), np.uint8).data for name in m.names if m.remembers(name)}
    before: dict[str, list[float]] = {name: [] for name in m.names}
    after: dict[str, list[float]] = {name: [] for name in m.names}
    if by_rows:
        sizes = each(
            m.rows(), partial(_sizes_by_rows, m, by_rows, known, kept), partial(rows_of, 1, m.longest()), threads
        )
    else:
        sizes = each(m.pieces(SUMMED), partial(_lowered_sizes, m, known, kept), lambda: np.empty((2, 1)), threads)
    for piece, whole, part in sizes:
        before[piece.name].append(whole)
        after[piece.name].append(part)
        progress(piece.size)
    m.kept.update(kept)
    sums = {name: (total(before[name]), total(after[name])) for name in m.names}
    return {name: 1.0 if min(whole, part) < LEAST_SUM else whole / part for name, (whole, part) in sums.items()}


Known = Mapping[str, Mapping[str, Any]]  # tensor -> what the function is told
Bits = Mapping[str, memoryview]  # tensor, some of all -> a bit an entry: whether it is kept


def _lowered_sizes(m: Measurement, known: Known, kept: Bits, piece: Piece, sums: "NDArray[Any]") -> Sizes:
    """The sums of a piece, from the method's own operations. sums: (2, 1) float64."""
    lower = m.method.lower
    assert lower is not None
    program, args = m.program(piece, ops=2)
    made = lower(program, args, piece.name, here(known[piece.name], piece.start))
    for ref, sink in zip((args[0], made), sums, strict=True):
        program.add(SIZE, (ref,), sink=sink)
    if piece.name in kept:
        program.add(NONZERO, (made,), sink=kept[piece.name][piece.start // 8 :])
    program.run()
    return piece, float(sums[0, 0]), float(sums[1, 0])


def _sizes_by_rows(
    m: Measurement, by_rows: ByRows, known: Known, kept: Bits, piece: Piece, rows: "NDArray[Any]"
) -> Sizes:
    """The same of a run of whole rows. rows: (1, at least as many elements) float32."""
    name, start, count = piece
    m.fill(piece, rows)
    bits = kept[name][start // 8 :] if name in kept else None
    tau = rows[0, :count].reshape(-1, m.width(name))
    return piece, *by_rows(tau, bits, name=name, start=start, **known[name])


def total(values: Sequence[float]) -> float:
    """The sum, exactly rounded. It is NaN if one of the values is not finite, so that the result shows it."""
    return math.fsum(values) if all(map(math.isfinite, values)) else math.nan
