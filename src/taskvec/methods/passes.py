"""Passes over the data for what a method must know before it can work: Gram matrices and magnitude thresholds.

Both are exact and need no more memory than a block a thread and a table of counts.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from taskvec import kernels
from taskvec.errors import RecipeError
from taskvec.executors import each
from taskvec.methods.applied import PART, TILE, Applied, Measured
from taskvec.terms import Term

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIGH, LOW = 1 << 15, 1 << 16  # values of the upper bits of a float32's magnitude, and of the lower ones
Pairs = dict[tuple[int, int], tuple[float, int, int]]  # (dot, entries nonzero in both, those of opposite signs)


def pairs(call: Applied, threads: int, progress: Callable[[int], None]) -> dict[str, list[Pairs]]:
    """Tensor -> for each of its parts {(i, j): kernels.pair of the arguments i <= j}."""
    n = len(call.args)

    def work(part: tuple[str, int, int], rows: "NDArray[Any]") -> tuple[str, int, Pairs]:
        name, start, count = part
        for row, terms in zip(rows, call.terms(name), strict=True):
            _fill(call, terms, start, row[:count])
        return name, count, {(i, j): kernels.pair(rows[i], rows[j], count) for i in range(n) for j in range(i, n)}

    found: dict[str, list[Pairs]] = {}
    for name, count, sums in each(_parts(call), work, partial(_rows, n), threads):
        found.setdefault(name, []).append(sums)
        progress(count)
    return found


def grams(call: Applied, threads: int, progress: Callable[[int], None]) -> Measured:
    """Tensor -> {"gram": G}, G_ij = <x_i, x_j> over the tensor, or over the whole model with scope="model"; float64."""
    n, sums = len(call.args), pairs(call, threads, progress)
    whole = call.params.get("scope") == "model"
    everything = [p for parts in sums.values() for p in parts]

    def gram(parts: Sequence[Pairs]) -> list[list[float]]:
        return [[total([p[min(i, j), max(i, j)][0] for p in parts]) for j in range(n)] for i in range(n)]

    model = gram(everything) if whole else []
    return {name: {"gram": model if whole else gram(parts)} for name, parts in sums.items()}


def thresholds(
    call: Applied, threads: int, progress: Callable[[int], None], fractions: Callable[..., dict[str, float]]
) -> Measured:
    """Tensor -> {parameter: the magnitude of rank floor(fraction * d)}, counted from the largest, of its d elements.

    `fractions(**numbers)` names the parameters and how large a share of the elements lies at or above each. A rank of
    0 is infinity. scope="model" ranks the elements of all tensors together. Two passes: counts of the upper 15 bits of
    the magnitudes, then of the lower 16 within the bins that hold a threshold: exact for every float32.
    """
    import numpy as np

    whole = call.params.get("scope") == "model"
    names = [name for name, spec in call.specs.items() if spec.arithmetic]
    groups = {name: "" if whole else name for name in names}
    sizes: dict[str, int] = {}
    for name in names:
        sizes[groups[name]] = sizes.get(groups[name], 0) + call.specs[name].numel
    wanted: dict[str, dict[str, int]] = {}
    for name in names:
        shares = fractions(**call.numbers(name))
        if whole and shares != fractions(**call.numbers(names[0])):
            raise RecipeError(f'{call.method.name}: with scope="model" the density is one number, not one a tensor')
        wanted[groups[name]] = {key: math.floor(share * sizes[groups[name]]) for key, share in shares.items()}

    def count(prefixes: dict[str, list[int]], finish: Callable[[str, dict[int, "NDArray[Any]"]], None]) -> None:
        """Histograms of the upper bits, or of the lower ones within the bins `prefixes`, a group at a time."""

        def work(part: tuple[str, int, int], rows: "NDArray[Any]") -> tuple[str, int, dict[int, "NDArray[Any]"]]:
            name, start, size = part
            row = rows[0][:size]
            _fill(call, call.terms(name)[0], start, row)
            found = {}
            for prefix in prefixes[groups[name]] if prefixes else [-1]:
                found[prefix] = np.zeros(HIGH if prefix < 0 else LOW, np.uint32)
                kernels.count(found[prefix], row, size, prefix)
            return name, size, found

        totals: dict[str, dict[int, NDArray[Any]]] = {}
        left = {group: sizes[group] for group in prefixes or sizes}
        parts = [part for part in _parts(call) if groups[part[0]] in left]
        for name, size, found in each(parts, work, partial(_rows, 1), threads):
            group = groups[name]
            total = totals.setdefault(group, {})
            for prefix, counts in found.items():
                total[prefix] = total[prefix] + counts if prefix in total else counts.astype(np.int64)
            left[group] -= size
            if not left[group]:
                finish(group, totals.pop(group))
            progress(size)

    bins: dict[str, dict[str, tuple[int, int]]] = {}
    values = {group: dict.fromkeys(ranks, math.inf) for group, ranks in wanted.items()}

    def first(group: str, counts: dict[int, "NDArray[Any]"]) -> None:
        bins[group] = {key: _bin(counts[-1], rank) for key, rank in wanted[group].items() if rank}

    def second(group: str, counts: dict[int, "NDArray[Any]"]) -> None:
        for key, (upper, rank) in bins[group].items():
            lower, _ = _bin(counts[upper], rank)
            values[group][key] = float(np.uint32(upper << 16 | lower).view(np.float32))

    count({}, first)
    if needed := {group: sorted({upper for upper, _ in found.values()}) for group, found in bins.items() if found}:
        count(needed, second)
    return {name: values[groups[name]] for name in names}


def total(values: Sequence[float]) -> float:
    """The sum, exactly rounded; nan if one of them is not finite, so that the result shows it."""
    return math.fsum(values) if all(map(math.isfinite, values)) else math.nan


def _bin(counts: "NDArray[Any]", rank: int) -> tuple[int, int]:
    """(the bin that holds the element of this rank from the top, its rank within the bin)."""
    import numpy as np

    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, rank))
    before = int(above[place - 1]) if place else 0
    return len(counts) - 1 - place, rank - before


def _parts(call: Applied) -> Iterator[tuple[str, int, int]]:
    for name, spec in call.specs.items():
        if spec.arithmetic:
            for start in range(0, spec.numel, PART):
                yield name, start, min(PART, spec.numel - start)


def _rows(count: int) -> "NDArray[Any]":
    import numpy as np

    return np.empty((count, PART), np.float32)


def _fill(call: Applied, terms: list[Term], start: int, out: "NDArray[Any]") -> None:
    for at in range(0, out.size, TILE):
        call.values(terms, start + at, out[at : at + TILE])
