"""Selections: which entries of which model are taken, entry by entry, by their size, variance or overlap.

Pure functions of float32 arrays of one shape. Parameters without a default are measured in passes before.
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
from taskvec.methods.core.method import ALIKE, MODELS, Measured, Range
from taskvec.methods.core.passes import Progress, one_by_one, total
from taskvec.methods.core.roles import Scope, Setting
from taskvec.methods.core.thresholds import cuts
from taskvec.numbers import kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

POSITIVE = Range(0, math.inf)


def nearswap(base: "NDArray[Any]", m: "NDArray[Any]", *, t: float = 0.0001, floor: float = 0) -> "NDArray[Any]":
    """base + w (m - base), w = min(1, t / |m - base|): m where the two are within t, a step of t towards it elsewhere.

    NearSwap (alchemonaut, huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001, default its t). Differences below
    `floor` count as that: mergekit's is 1e-6, which shows where t is smaller still; the original has none.
    """
    import numpy as np

    difference = m - base
    size = np.maximum(np.abs(difference), np.float32(floor))
    weight = np.where(size > np.float32(t), np.float32(t) / np.where(size > 0, size, np.float32(1)), np.float32(1))
    return np.asarray(np.where(weight == 1, m, base + weight * difference), np.float32)


def arcee_fusion(base: "NDArray[Any]", m: "NDArray[Any]") -> "NDArray[Any]":
    """m where its importance |m - base| * KL(softmax(m_row) || softmax(base_row)) is an outlier's, else base.

    Arcee Fusion, of mergekit. Rows are along the last axis, 1e-8 is added to every probability; an outlier is at or
    above median + 1.5 (q3 - q1), where the quantile q of n sorted values is the one at floor(q (n-1)). Divergences in
    float64, importances in float32. Deviation: mergekit computes all in float32, where a small divergence is rounding,
    and estimates the quantiles of more than 10^6 entries from 10^6 random ones; ours are exact. Sees whole tensors.
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

    FuseChat (Wan et al., 2024, arXiv 2408.07990; the authors' code is mergekit's), within each tensor. Select: of its
    entries the floor(select * d) with the largest variance across the vectors, of the d whose variance is not 0; with
    select=1 all. Calculate: w_t = mean tau_t^2 over sum_k mean tau_k^2, of what is selected. Erase: entries against the
    sign. Variances are computed in float64 and ranked as float32, below 2**-133 they are 0.
    Deviations: all entries equal to the least variance are selected (theirs picks among them); the divisor is at least
    1e-6, as theirs; equal weights where the mean squares add up to less than `floor` (theirs 1e-6, which fine deltas
    are); tie="none" elects nobody by a sum of zero, "plus" plus, as theirs.
    """
    import numpy as np

    chosen = _selected(taus, threshold)
    sums = chosen[0].copy()
    for tau in chosen[1:]:
        sums += tau
    sign = np.where(sums >= 0, np.float32(1), np.float32(-1)) if tie == "plus" else np.sign(sums)
    merged, weight = np.zeros_like(sums), np.zeros_like(sums)
    for share, tau in zip(shares, chosen, strict=True):
        agree = tau * sign > 0
        merged += np.where(agree, np.float32(share) * tau, np.float32(0))
        weight += np.where(agree, np.float32(share), np.float32(0))
    return np.asarray(merged / np.maximum(weight, np.float32(1e-6)), np.float32)


def _selected(taus: "Sequence[NDArray[Any]]", threshold: float) -> "list[NDArray[Any]]":
    import numpy as np

    if not threshold:
        return list(taus)
    kept = _variance(taus) >= np.float32(threshold)
    return [np.where(kept, tau, np.float32(0)) for tau in taus]


def _variance(taus: "Sequence[NDArray[Any]] | NDArray[Any]") -> "NDArray[Any]":
    """Across the vectors, entry by entry; what float32 cannot hold to 16 bits is 0."""
    import numpy as np

    with np.errstate(all="ignore"):
        mean = taus[0].astype(np.float64)
        for tau in taus[1:]:
            mean += tau
        mean /= len(taus)
        square = np.zeros_like(mean)
        for tau in taus:
            square += (tau - mean) ** 2
        found = (square / len(taus)).astype(np.float32)
    return np.asarray(np.where(found < np.float32(2.0**-133), np.float32(0), found))


def _rank_of_last(size: int, zeros: int, *, select: float, **_: Any) -> dict[str, int]:
    """The rank of the smallest variance that is selected."""
    return {"threshold": math.floor(select * (size - zeros))}


def _calculated(m: Measurement, threads: int, progress: Progress) -> Measured:
    least = dict.fromkeys(m.names, 0.0)
    numbers: dict[str, dict[str, Any]] = {name: m.numbers(name) for name in m.names}
    if _calculated_passes(m.params) > 1:
        (found,) = cuts([m], threads, progress, _rank_of_last, _variance, zeros=True)
        values = found.values()
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

    Reinforced Agent Merging (2026, arXiv 2601.13572): an entry that one vector alone has changed is taken whole.
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
    """`ram`, where an entry that vector t alone has is multiplied by 1 + r * min(alpha, shared_t / unique_t).

    RAM+ (2026, arXiv 2601.13572): shared_t and unique_t count the entries of vector t above epsilon that other vectors
    have too, and have not; over the whole model as in the authors' code, within each tensor with scope="tensor" as in
    mergekit's ramplus_tl. Defaults as mergekit's; the authors' script has r=.2, alpha=1.
    """
    import numpy as np

    active = [np.abs(tau) > np.float32(epsilon) for tau in taus]
    count = np.zeros(taus[0].shape, np.float32)
    for yes in active:
        count += yes
    alone, found = count == 1, np.zeros(taus[0].shape, np.float32)
    for boost, yes, tau in zip(boosts, active, taus, strict=True):
        found += np.where(yes, np.where(alone, np.float32(boost) * tau, tau), np.float32(0))
    return np.asarray(found / np.maximum(count, np.float32(1)))


class Shared(NamedTuple):
    """Of each vector, how many entries of a tensor lie above `epsilon`."""

    shared: list[int]  # those where another vector has one too
    alone: list[int]  # those where no other vector has one


def _overlaps(m: Measurement, threads: int, progress: Progress) -> dict[str, Shared]:
    """Tensor -> what the vectors share."""
    import numpy as np

    n = m.count
    limits = {name: np.float32(m.numbers(name)["epsilon"]) for name in m.names}  # type: ignore[arg-type]

    def work(piece: Piece, rows: "NDArray[Any]") -> tuple[Piece, Shared]:
        found = Shared([0] * n, [0] * n)
        for tile in pieces_of(piece.name, piece.start, piece.start + piece.size, METHOD_TILE):
            m.fill(tile, rows)
            active = np.abs(rows[:, : tile.size]) > limits[piece.name]
            many = active.sum(axis=0, dtype=np.int32) > 1
            for k in range(n):
                both = int(np.count_nonzero(active[k] & many))
                found.shared[k] += both
                found.alone[k] += int(np.count_nonzero(active[k])) - both
        return piece, found

    totals = {name: Shared([0] * n, [0] * n) for name in m.names}
    for piece, found in each(m.pieces(), work, partial(rows_of, n), threads):
        for k in range(n):
            totals[piece.name].shared[k] += found.shared[k]
            totals[piece.name].alone[k] += found.alone[k]
        progress(piece.size)
    return totals


def _boosted(m: Measurement, threads: int, progress: Progress) -> Measured:
    totals = _overlaps(m, threads, progress)
    told = {}
    for name in totals:
        over = totals.values() if m.scope is Scope.MODEL else [totals[name]]
        given: dict[str, Any] = m.numbers(name)
        boosts = []
        for k in range(m.count):
            both, one = sum(found.shared[k] for found in over), sum(found.alone[k] for found in over)
            boosts.append(1 + given["r"] * min(given["alpha"], both / one) if one else 1.0)
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
