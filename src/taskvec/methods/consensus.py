"""Consensus: each method makes one task vector of several, entry by entry.

The methods are pure functions of n float32 arrays of one shape, and return an array of that shape. `pcb` weighs entries
by their rank within the tensor, and is given whole tensors for that.

elect      TIES-Merging, steps 2 and 3: the mean of the entries that agree with the elected sign
unified    EMR-Merging: the largest entry that agrees with the elected sign
magmax     MagMax: the largest entry
consensus  consensus merging: the sum, where enough of the TALL masks agree
pcb        PCB-Merging: a mean weighted by scores of size and agreement
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from taskvec.algebra.program import Program
from taskvec.errors import RecipeError
from taskvec.methods.core.lift import Lifted
from taskvec.methods.core.method import Range
from taskvec.numbers import kernels, operations

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXTREME = 1e-4  # the share of magnitudes that `pcb` clips at either end


def elect(
    *taus: "NDArray[Any]",
    reduce: str = "mean",
    vote: str = "sum",
    weights: tuple[float, ...] = (),
    tie: str = "none",
) -> "NDArray[Any]":
    """The mean (or sum) of the entries that agree with the elected sign sgn(sum_t tau_t); the others do not count.

    TIES-Merging (Yadav et al., NeurIPS 2023, arXiv 2306.01708), steps 2 and 3, "disjoint mean".

    taus: n task vectors, float32, of one shape. The result has that shape.
    reduce: "mean" divides by the number of agreeing entries, or by the sum of their `weights`; "sum" does not divide.
    vote: "sum" weighs each vote with its magnitude, as in the paper; "count" counts signs. The coefficients of the
        vectors count in both: `elect(0.5*a, b)` lets a have half its vote.
    weights: n numbers, the divisors of the mean; where their sum is 0 the mean divides by 1. The `normalize` of
        mergekit is `elect(0.5*a, b, weights=(0.5, 1))`. Raises RecipeError with reduce="sum", which has no divisor.
    tie: if the sum is zero, "none" elects no sign and the entry is 0; "plus" elects plus, as mergekit does.

    Deviation: where the sum is zero the authors' code takes the sign of the majority in the whole model.
    """
    return kernels.apply(operations.ELECT, taus, _election(len(taus), reduce, vote, weights, tie))


def _election(count: int, reduce: str, vote: str, weights: tuple[float, ...], tie: str) -> tuple[float, ...]:
    if weights and reduce == "sum":
        raise RecipeError('elect: weights are the divisor of the mean, and reduce="sum" has none')
    return vote == "count", reduce == "mean", tie == "plus", *(weights or (1.0,) * count)


def _lowered_elect(program: Program, args: list[int], name: str, told: Mapping[str, Any]) -> int:
    how = (told[key] for key in ("reduce", "vote", "weights", "tie"))
    return program.add(operations.ELECT, args, _election(len(args), *how))


def unified(*taus: "NDArray[Any]", tie: str = "none") -> "NDArray[Any]":
    """EMR's unified vector: the elected sign with the largest magnitude among the entries that agree with it.

    EMR-Merging (Huang et al., NeurIPS 2024, arXiv 2405.17461): gamma * max |tau_t| over the vectors with the sign
    gamma, and gamma = sgn(mean_t tau_t). The masks and rescalers of EMR, one for each task, are not part of this.

    taus: n task vectors, float32, of one shape. The result has that shape.
    tie: where the sum is zero, "none" elects no sign, as the equation does, and the entry is 0; "minus" elects minus,
        as the authors' code does.
    """
    import numpy as np

    total = _sum(taus)
    sign = np.where(total > 0, np.float32(1), np.float32(-1)) if tie == "minus" else np.sign(total)
    largest = np.zeros_like(taus[0])
    for tau in taus:
        largest = np.where((tau * sign > 0) & (np.abs(tau) > np.abs(largest)), tau, largest)
    return largest


def magmax(*taus: "NDArray[Any]", tie: str = "first") -> "NDArray[Any]":
    """In every entry the value with the largest magnitude.

    MagMax (Marczak et al., ECCV 2024, arXiv 2407.06322).

    taus: n task vectors, float32, of one shape. The result has that shape.
    tie: the paper does not say which of two entries of one magnitude and opposite signs is taken. "first" takes that of
        the first argument, "last" that of the last one, as the authors' code does.
    """
    import numpy as np

    best = taus[0].copy()
    for tau in taus[1:]:
        larger = np.abs(tau) >= np.abs(best) if tie == "last" else np.abs(tau) > np.abs(best)
        best = np.where(larger, tau, best)
    return best


def consensus(*taus: "NDArray[Any]", k: float = 2, lam: float = 0.6, tie: str = "in") -> "NDArray[Any]":
    """The sum of the vectors where at least k of their TALL masks agree that the entry matters, and 0 elsewhere.

    Consensus merging (Wang et al., ICML 2024, arXiv 2405.07813): mask_t = |tau_t| >= lam * |tau - tau_t|, with tau the
    sum of all vectors.

    taus: n task vectors, float32, of one shape. The result has that shape.
    k: how many masks must agree. Raises RecipeError for more than n.
    lam: one number for all vectors; the paper picks one for each task from {.2, ..., .6} on validation data.
    tie: "in" is the mask above. "out" is |tau_t| > lam * |tau - tau_t|, as in the authors' code; then nothing is left
        of two equal vectors with lam=1.
    """
    import numpy as np

    total = _sum(taus)
    votes = np.zeros_like(total)
    for tau in taus:
        size, rest = np.abs(tau), np.float32(lam) * np.abs(total - tau)
        votes += size > rest if tie == "out" else size >= rest
    return np.where(votes >= k, total, np.float32(0))


def _votes_problem(params: Mapping[str, Any], count: int) -> str:
    k = params["k"]
    return f"k={k:g} votes of {count} vectors can be nowhere: k is at most {count}" if k > count else ""


def pcb(*taus: "NDArray[Any]", ratio: float = 0.1) -> "NDArray[Any]":
    """sum_t w_t tau_t / sum_t w_t in every entry; the weights w_t favour large entries on which the vectors agree.

    PCB-Merging (Du et al., NeurIPS 2024, arXiv 2410.02396), as in its authors' pcb-merging.py:
    1. score_t = exp(n s(|tau_t|)^2) tanh(tau_t sum_k tau_k). Before this |tau_t| is clipped to within its 0.01 %
       extremes, and s scales from the least to the largest of a tensor onto [0, 1].
    2. w_t runs from 0 to 1, by score, among the `ratio` of a tensor's entries with the highest scores, and is 0 for the
       rest.
    3. An entry of which all weights are 0 is 0. The divisor is at least 1e-12.

    taus: n task vectors, float32, of one shape, whole tensors. The result has that shape.
    ratio: the authors take 0.05 for vision and 0.1 for language, and scale the result by 1.2.

    Deviation: ranks and scales are those of a tensor, not of the whole model. Equal scores have the weight 1 if they
    are positive.
    """
    import numpy as np

    total = _sum(taus)
    weighted, weight = np.zeros_like(total), np.zeros_like(total)
    for tau in taus:
        size = np.abs(tau)
        size = np.clip(size, *_values_at(size, EXTREME, EXTREME))
        score = np.tanh(np.multiply(tau, total, dtype=np.float64))  # float32 holds no squares of less than 1e-19
        scaled = _scaled(size, size.min(), size.max())
        score *= np.exp(len(taus) * (np.square(scaled, dtype=np.float64) - 1))  # exp(-n) times the score, as ranks stay
        score = _scaled(score, *_values_at(score, 1 - ratio, 0))
        weight += score
        weighted += score * np.sign(tau) * size
    return np.asarray(weighted / np.maximum(weight, np.float32(1e-12)), np.float32)


def _values_at(x: "NDArray[Any]", low: float, high: float) -> tuple[Any, Any]:
    """Two of d sorted values: the one at place floor(low d), and the one before place floor((1 - high) d)."""
    import numpy as np

    first, last = min(int(x.size * low), x.size - 1), int(x.size * (1 - high) - 1)
    ordered = np.partition(x.reshape(-1), (first, last))
    return ordered[first], ordered[last]


def _scaled(x: "NDArray[Any]", low: Any, high: Any) -> "NDArray[Any]":
    """0 up to `low`, 1 from `high` on, and linear between. If both are equal, 1 from there on if they are positive."""
    import numpy as np

    scaled = ((x >= low) & (low > 0)) if low == high else np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(scaled, np.float32)


def _sum(taus: "tuple[NDArray[Any], ...]") -> "NDArray[Any]":
    total = taus[0].copy()
    for tau in taus[1:]:
        total += tau
    return total


def _pcb_bytes(shape: tuple[int, ...], count: int) -> int:
    """Memory of `pcb`: the sum, the weights, the weighted sum and the sizes; the scores and their parts in float64."""
    return 12 * 4 * math.prod(shape)


ELECT = Lifted(
    elect,
    local=True,
    lower=_lowered_elect,
    choices={"reduce": ("mean", "sum"), "vote": ("sum", "count"), "tie": ("none", "plus")},
)
METHODS = (
    ELECT,
    Lifted(unified, local=True, choices={"tie": ("none", "minus")}),
    Lifted(magmax, local=True, choices={"tie": ("first", "last")}),
    Lifted(
        consensus,
        local=True,
        least=2,
        ranges={"k": Range(1, math.inf, whole=True), "lam": Range(0, math.inf)},
        choices={"tie": ("in", "out")},
        check=_votes_problem,
    ),
    Lifted(pcb, least=2, ranges={"ratio": Range(0, 1, open_below=True)}, workspace=_pcb_bytes),
)
