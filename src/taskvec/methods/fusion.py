"""Selections: each method decides entry by entry which models the entry is taken from, by size, variance or overlap.

The methods are pure functions of float32 arrays of one shape, and return an array of that shape. Parameters without a
default are measured in passes over the data before the one that writes:
threshold  the smallest variance that `sce` selects (step 1)
shares     the weights w_t of `sce` (step 2)
boosts     the factors of `ramplus` for entries that only one vector has
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from taskvec.algebra.coefficients import Coefficient
from taskvec.algebra.derived import Parameter
from taskvec.executors.threads import each
from taskvec.methods.core.call import METHOD_TILE
from taskvec.methods.core.lift import Lifted
from taskvec.methods.core.measurement import Measurement, Piece, pieces_of, rows_of
from taskvec.methods.core.method import ALIKE, MODELS, Range, Told
from taskvec.methods.core.passes import Progress, one_by_one, total
from taskvec.methods.core.roles import Scope, Setting
from taskvec.methods.core.thresholds import cuts
from taskvec.numbers import kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

POSITIVE = Range(0, math.inf)


def nearswap(base: "NDArray[Any]", m: "NDArray[Any]", *, t: float = 0.0001, floor: float = 0) -> "NDArray[Any]":
    """base + w (m - base) with w = min(1, t / |m - base|): m where it is within t of base, else a step of t towards m.

    NearSwap (alchemonaut, huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001; the default t is that of its name).

    base, m: two models or two task vectors, float32, of one shape. The result has that shape.
    floor: differences smaller than this count as this large. mergekit's floor is 1e-6, which matters if t is smaller
        still; the original has none.
    """
    import numpy as np

    difference = m - base
    size = np.maximum(np.abs(difference), np.float32(floor))
    weight = np.where(size > np.float32(t), np.float32(t) / np.where(size > 0, size, np.float32(1)), np.float32(1))
    return np.asarray(np.where(weight == 1, m, base + weight * difference), np.float32)


def arcee_fusion(base: "NDArray[Any]", m: "NDArray[Any]") -> "NDArray[Any]":
    """m where its importance |m - base| * KL(softmax(m_row) || softmax(base_row)) is an outlier, and base elsewhere.

    Arcee Fusion, of mergekit. A row lies along the last axis, and 1e-8 is added to every probability. An outlier is at
    or above median + 1.5 (q3 - q1), where the quantile q of n sorted values is the one at floor(q (n-1)).

    base, m: two models, float32, of one shape, whole tensors. The result has that shape.

    Deviation: divergences are computed in float64 and importances in float32. mergekit computes everything in float32,
    where a small divergence is only rounding, and estimates the quantiles of more than 10^6 entries from 10^6 random
    ones; here they are exact.
    """
    import numpy as np

    importance = np.abs(m - base)
    width = m.shape[-1] if m.ndim else 1
    rows = [x.reshape(-1, width) for x in (importance, m, base)]
    step = max(1, METHOD_TILE // max(1, width))
    for at in range(0, len(rows[0]), step):
        p, q = (_softmax(x[at : at + step].astype(np.float64)) + 1e-8 for x in rows[1:])
        rows[0][at : at + step] *= (p * np.log(p / q)).sum(axis=1, keepdims=True).astype(np.float32)
    places = [k * (importance.size - 1) // 4 for k in (1, 2, 3)]
    low, median, high = np.partition(importance, places, axis=None)[places].astype(np.float64).tolist()
    return np.where(importance >= np.float32(median + 1.5 * (high - low)), m, base)


def _softmax(rows: "NDArray[Any]") -> "NDArray[Any]":
    import numpy as np

    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


# ---- by variance ---------------------------------------------------------------------------------------------------
def sce(
    *taus: "NDArray[Any]",
    select: float = 1,
    floor: float = 0,
    tie: str = "none",
    threshold: float,
    shares: tuple[float, ...],
) -> "NDArray[Any]":
    """Select, Calculate, Erase: sum w_t tau_t / sum w_t over the vectors that agree with the sign of sum_t tau_t.

    FuseChat (Wan et al., 2024, arXiv 2408.07990; the authors' code is mergekit's), within each tensor:
    1. Select the floor(select * d) entries with the largest variance across the vectors, of the d entries whose
       variance is not 0. With select=1 all entries are selected.
    2. Calculate w_t = mean tau_t^2 / sum_k mean tau_k^2 of what is selected.
    3. Erase the entries against the sign.

    taus: n task vectors, float32, of one shape. The result has that shape. Variances are computed in float64 and ranked
        as float32; below 2**-133 they are 0.
    floor: where the mean squares add up to less than this, the weights are equal. The authors' floor is 1e-6, which
        small differences do not reach.
    tie: where the sum is zero, "none" elects no sign and "plus" elects plus, as the authors' code does.

    The divisor is at least 1e-6, as in the authors' code. Deviation: all entries that are equal to the least selected
    variance are selected, where the authors' code picks some of them.
    """
    import numpy as np

    chosen = _selected(taus, threshold)
    sums = chosen[0].copy()
    for tau in chosen[1:]:
        sums += tau
    sign = np.where(sums >= 0, np.float32(1), np.float32(-1)) if tie == "plus" else np.sign(sums)
    merged, weight = np.zeros_like(sums), np.zeros_like(sums)
    for share, tau in zip(shares, chosen, strict=True):
        agrees = tau * sign > 0
        merged += np.where(agrees, np.float32(share) * tau, np.float32(0))
        weight += np.where(agrees, np.float32(share), np.float32(0))
    return np.asarray(merged / np.maximum(weight, np.float32(1e-6)), np.float32)


def _selected(taus: "Sequence[NDArray[Any]]", threshold: float) -> "list[NDArray[Any]]":
    """The vectors with 0 where their variance is below the threshold. A threshold of 0 selects all entries."""
    import numpy as np

    if not threshold:
        return list(taus)
    kept = _variance(taus) >= np.float32(threshold)
    return [np.where(kept, tau, np.float32(0)) for tau in taus]


def _variance(taus: "Sequence[NDArray[Any]] | NDArray[Any]") -> "NDArray[Any]":
    """The variance across the vectors, entry by entry. Below 2**-133, where float32 has less than 16 bits, it is 0."""
    import numpy as np

    with np.errstate(all="ignore"):
        mean = taus[0].astype(np.float64)
        for tau in taus[1:]:
            mean += tau
        mean /= len(taus)
        square = np.zeros_like(mean)
        for tau in taus:
            square += (tau - mean) ** 2
        variance = (square / len(taus)).astype(np.float32)
    return np.asarray(np.where(variance < np.float32(2.0**-133), np.float32(0), variance))


def _rank_of_last(size: int, zeros: int, *, select: float, **_: Any) -> dict[str, int]:
    """The rank of the smallest variance that is selected."""
    return {"threshold": math.floor(select * (size - zeros))}


def _calculated(m: Measurement, threads: int, progress: Progress) -> Told:
    """What `sce` is told of each tensor: the threshold of step 1 and the weights of step 2."""
    least = dict.fromkeys(m.names, 0.0)
    numbers: dict[str, dict[str, Any]] = {name: m.numbers(name) for name in m.names}
    if _calculated_passes(m.params) > 1:
        (located,) = cuts([m], threads, progress, _rank_of_last, _variance, zeros=True)
        values = located.values()
        least = {name: values[name]["threshold"] if numbers[name]["select"] < 1 else 0.0 for name in m.names}
    n = m.count

    def work(piece: Piece, rows: "NDArray[Any]") -> tuple[Piece, list[float]]:
        m.fill(piece, rows)
        sums = [0.0] * n
        for at in range(0, piece.size, METHOD_TILE):
            tiles = _selected([row[at : min(at + METHOD_TILE, piece.size)] for row in rows], least[piece.name])
            sums = [s + kernels.pair(x, x, x.size)[0] for s, x in zip(sums, tiles, strict=True)]
        return piece, sums

    squares: dict[str, list[list[float]]] = {name: [] for name in m.names}
    for piece, sums in each(m.pieces(), work, partial(rows_of, n), threads):
        squares[piece.name].append(sums)
        progress(piece.size)
    told = {}
    for name in m.names:
        means = [total([part[k] for part in squares[name]]) / max(1, m.sizes[name]) for k in range(n)]
        whole = math.fsum(means)
        shares = [1 / n] * n if not whole or whole < numbers[name]["floor"] else [mean / whole for mean in means]
        told[name] = {"threshold": least[name], "shares": tuple(shares)}
    return told


def _calculated_passes(params: Mapping[str, Parameter]) -> int:
    return 1 if params["select"] == Coefficient.of(1) else 3


# ---- by overlap ----------------------------------------------------------------------------------------------------
def ram(*taus: "NDArray[Any]", epsilon: float = 1e-5) -> "NDArray[Any]":
    """The mean of the entries larger than epsilon in magnitude, over those vectors that have one there; 0 if none has.

    Reinforced Agent Merging (2026, arXiv 2601.13572). An entry that only one vector has changed is taken whole.

    taus: n task vectors, float32, of one shape. The result has that shape.
    """
    return ramplus(*taus, epsilon=epsilon, boosts=(1.0,) * len(taus))


def ramplus(
    *taus: "NDArray[Any]",
    r: float = 0.1,
    alpha: float = 0.2,
    epsilon: float = 1e-5,
    scope: str = "model",
    boosts: tuple[float, ...],
) -> "NDArray[Any]":
    """`ram`, where an entry that only vector t has is multiplied by 1 + r * min(alpha, shared_t / unique_t).

    RAM+ (2026, arXiv 2601.13572). Of the entries of vector t above epsilon, shared_t counts those that other vectors
    have too, and unique_t the others.

    taus: n task vectors, float32, of one shape. The result has that shape.
    r, alpha: the defaults are mergekit's; the authors' script has r=.2 and alpha=1.
    scope: "model" counts over the whole model, as the authors' code does; "tensor" counts within each tensor, as
        `ramplus_tl` of mergekit does.
    """
    import numpy as np

    active = [np.abs(tau) > np.float32(epsilon) for tau in taus]
    count = np.zeros(taus[0].shape, np.float32)
    for has_entry in active:
        count += has_entry
    is_unique, summed = count == 1, np.zeros(taus[0].shape, np.float32)
    for boost, has_entry, tau in zip(boosts, active, taus, strict=True):
        summed += np.where(has_entry, np.where(is_unique, np.float32(boost) * tau, tau), np.float32(0))
    return np.asarray(summed / np.maximum(count, np.float32(1)))


class Overlap(NamedTuple):
    """For each vector, how many of its entries lie above `epsilon`, in a tensor or a part of it."""

    shared: list[int]  # entries that another vector has, too
    unique: list[int]  # entries that no other vector has


def _overlaps(m: Measurement, threads: int, progress: Progress) -> dict[str, Overlap]:
    """Tensor -> the overlap of the vectors."""
    import numpy as np

    n = m.count
    limits = {name: np.float32(m.numbers(name)["epsilon"]) for name in m.names}  # type: ignore[arg-type]

    def work(piece: Piece, rows: "NDArray[Any]") -> tuple[Piece, Overlap]:
        overlap = Overlap([0] * n, [0] * n)
        for tile in pieces_of(piece.name, piece.start, piece.start + piece.size, METHOD_TILE):
            m.fill(tile, rows)
            active = np.abs(rows[:, : tile.size]) > limits[piece.name]
            is_shared = active.sum(axis=0, dtype=np.int32) > 1
            for k in range(n):
                shared = int(np.count_nonzero(active[k] & is_shared))
                overlap.shared[k] += shared
                overlap.unique[k] += int(np.count_nonzero(active[k])) - shared
        return piece, overlap

    totals = {name: Overlap([0] * n, [0] * n) for name in m.names}
    for piece, overlap in each(m.pieces(), work, partial(rows_of, n), threads):
        for k in range(n):
            totals[piece.name].shared[k] += overlap.shared[k]
            totals[piece.name].unique[k] += overlap.unique[k]
        progress(piece.size)
    return totals


def _boosted(m: Measurement, threads: int, progress: Progress) -> Told:
    """What `ramplus` is told of each tensor: 1 + r * min(alpha, shared_t / unique_t) for each vector t."""
    overlaps = _overlaps(m, threads, progress)
    told = {}
    for name in overlaps:
        counted = overlaps.values() if m.scope is Scope.MODEL else [overlaps[name]]
        numbers: dict[str, Any] = m.numbers(name)
        boosts = []
        for k in range(m.count):
            shared = sum(overlap.shared[k] for overlap in counted)
            unique = sum(overlap.unique[k] for overlap in counted)
            boosts.append(1 + numbers["r"] * min(numbers["alpha"], shared / unique) if unique else 1.0)
        told[name] = {"boosts": tuple(boosts)}
    return told


TIES = ("none", "plus")
METHODS = (
    Lifted(nearswap, local=True, takes=ALIKE, least=2, most=2, ranges={"t": POSITIVE, "floor": POSITIVE}),
    Lifted(arcee_fusion, takes=MODELS, least=2, most=2),
    Lifted(
        sce, local=True, measure=one_by_one(_calculated), passes=_calculated_passes, choices={"tie": TIES},
        ranges={"select": Range(0, 1, open_below=True), "floor": POSITIVE}, thresholds=1,
    ),
    Lifted(ram, local=True, ranges={"epsilon": POSITIVE}),
    Lifted(
        ramplus, local=True, measure=one_by_one(_boosted), passes=1,
        scope=Setting("scope", {"model": Scope.MODEL, "tensor": Scope.TENSOR}),
        ranges={"r": POSITIVE, "alpha": POSITIVE, "epsilon": POSITIVE},
    ),
)  # fmt: skip
