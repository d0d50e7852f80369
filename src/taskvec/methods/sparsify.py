"""Sparsifiers: each takes one task vector and gives a sparser one. `elect` (consensus.py) joins several of them.

trim         TIES-Merging, step 1: keeps the largest entries
breadcrumbs  Model Breadcrumbs: drops the largest and the small entries
dare         DARE: drops entries at random and scales the others up
della        DELLA's MagPrune: drops entries at random, smaller ones more often
random_like  a random direction of the same norm, as a baseline

They are pure functions of a float32 array of any shape. Their parameters without a default are measured in passes over
the data before the one that writes:
threshold, outlier   entries are kept if threshold <= |tau| < outlier
quota, spared        of the entries with |tau| == threshold the first `quota` of the array are kept, and of those with
                     |tau| == outlier the first `spared` are dropped; inf: all
ratio                sum |tau| / sum |kept| over the tensor
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from taskvec.algebra.derived import Parameter
from taskvec.algebra.program import Program
from taskvec.methods.core.call import PART
from taskvec.methods.core.draws import DROPS, PRUNES, key_of, normal
from taskvec.methods.core.lift import Lifted
from taskvec.methods.core.measurement import Measurement
from taskvec.methods.core.method import Range, Told
from taskvec.methods.core.passes import ByRows, Progress, grams, one_by_one, with_scale
from taskvec.methods.core.ranks import RanksOf
from taskvec.methods.core.roles import Rows, Scale, Scope, Setting
from taskvec.methods.core.thresholds import Cuts, cuts
from taskvec.numbers import kernels
from taskvec.numbers.operations import DROP, KEEP, SUM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DENSITY = Range(0, 1, open_below=True)
ENTRIES = Range(0, 2**62, whole=True)
SEED = Range(-(2**53), 2**53, whole=True)  # beyond, float64 does not tell neighbouring whole numbers apart
SCOPES = {"model": Scope.MODEL, "tensor": Scope.TENSOR}
FIRST_OF_EQUALS = Setting("ties", {"all": False, "first": True})
SIEVED = Scale("ratio", Setting("rescale", {"none": False, "l1": True}))
DRAWN = Scale("ratio", Setting("rescale", {"expected": False, "l1": True, "none": False}))
ROUNDING = 1e-9  # by so much a probability of 1 may exceed 1, as the sum of two decimal numbers


# ---- by magnitude --------------------------------------------------------------------------------------------------
def trim(
    tau: "NDArray[Any]",
    *,
    density: float = 0.2,
    scope: str = "model",
    ties: str = "all",
    least: float = 0,
    rescale: str = "none",
    entries: float = 0,
    threshold: float,
    quota: float,
    ratio: float,
) -> "NDArray[Any]":
    """TIES, step 1: keep the entries whose magnitude is among the largest `density` of all, and set the others to 0.

    TIES-Merging (Yadav et al., NeurIPS 2023, arXiv 2306.01708). The default is that of the paper, 20 % of the whole
    model.

    tau: one task vector, float32, of any shape. The result has that shape.
    density: the share to keep, in (0, 1]. Of d entries the k largest are kept, k = max(least, floor(density * d)).
    scope: "model" ranks all entries of the model together, "tensor" ranks those of each tensor.
    ties: "all" keeps every entry that is equal to the k-th largest; "first" keeps exactly k entries, and of the equal
        ones those that come first by tensor name and position.
    rescale: "l1" multiplies what is kept of a tensor by sum |tau| / sum |kept|, unless one of the sums is below 1e-7.
    entries: how many floating-point entries the whole model has, also those that an adapter does not name. An
        expression with a model in it knows this number; give it for an adapter alone. Then a LoRA, the model merged
        with it minus the base, and the stored difference give the same, as in the authors' code, which works on merged
        models.

    Deviation: the authors' code keeps one entry more (`kthvalue` of d - k, and `>=`). mergekit's way is scope="tensor",
    least=1, ties="first", except that an unstable sort picks among equal entries; its `rescale` is "l1".
    """
    return _within_bounds(tau, threshold, quota, float("inf"), float("inf"), ratio)


def breadcrumbs(
    tau: "NDArray[Any]",
    *,
    density: float = 0.1,
    gamma: float = 0.01,
    scope: str = "tensor",
    outliers: str = "all",
    ties: str = "all",
    rescale: str = "none",
    entries: float = 0,
    threshold: float,
    quota: float,
    outlier: float,
    spared: float,
    ratio: float,
    width: int,
) -> "NDArray[Any]":
    """Drop the floor(gamma * n) largest entries (outliers) and all but the floor(density * n) largest of the others.

    Model Breadcrumbs (Davari & Belilovsky, ECCV 2024, arXiv 2312.06795), which has a density beta of .1 to .2 and gamma
    of .01 to .1, within each layer; a layer is one tensor here.

    tau: one task vector, float32, of any shape. The result has that shape; what is dropped is 0.
    scope: "tensor" ranks the n entries of each tensor, "model" all n of the model, "row" the n of each row along the
        last axis, as the authors' code does. Its `top_k_keep` is density + gamma, and its `top_k_remove` is gamma.
    outliers: where density + gamma exceeds 1, "all" leaves fewer entries than density asks for; "spare" drops only so
        many outliers that the density is kept, as mergekit does.
    ties: "all" counts entries that are equal to a threshold as larger ones; "first" counts exactly as many as asked
        for, the first ones of the array (the authors' code takes those that `topk` happens to return).
    rescale, entries: as in `trim`; "l1" is over a whole tensor.
    """
    if scope == "row":
        return _banded_rows(tau, density, gamma, outliers, ties, ratio, width)
    return _within_bounds(tau, threshold, quota, outlier, spared, ratio)


def _banded_rows(
    tau: "NDArray[Any]", density: float, gamma: float, outliers: str, ties: str, ratio: float, width: int
) -> "NDArray[Any]":
    """`breadcrumbs` of each row. tau holds whole rows."""
    import numpy as np

    rows = np.abs(tau.reshape(-1, max(1, width)))
    kept, dropped = _band(rows.shape[1], density, gamma, outliers)
    if ties == "first":
        order = np.argsort(-rows, axis=1, kind="stable")[:, dropped : dropped + kept]
        within = np.zeros(rows.shape, bool)
        np.put_along_axis(within, order, True, axis=1)
    else:
        descending = -np.sort(-rows, axis=1)
        within = rows >= descending[:, dropped + kept - 1 : dropped + kept] if kept else np.zeros(rows.shape, bool)
        within &= rows < descending[:, dropped - 1 : dropped] if dropped else True
    return np.asarray(np.where(within.reshape(tau.shape), tau * np.float32(ratio), np.float32(0)), np.float32)


def _banded_sizes(tau: "NDArray[Any]", bits: memoryview | None, **told: Any) -> tuple[float, float]:
    """sum |tau| and sum |what `breadcrumbs` keeps of its rows|."""
    import numpy as np

    parameters = {key: told[key] for key in ("density", "gamma", "outliers", "ties", "ratio")}
    kept = _banded_rows(tau, **parameters, width=tau.shape[-1])
    before, after = (float(np.abs(x.astype(np.float64)).sum()) for x in (tau, kept))
    return before, after if math.isfinite(before) else math.nan


def _band(size: int, density: float, gamma: float, outliers: str) -> tuple[int, int]:
    """(how many of `size` entries are kept, how many larger ones are dropped)."""
    kept, dropped = math.floor(density * size), math.floor(gamma * size)
    dropped = min(dropped, size - kept) if outliers == "spare" else dropped
    return min(kept, size - dropped), dropped


def _within_bounds(
    tau: "NDArray[Any]", low: float, quota: float, high: float, spared: float, ratio: float
) -> "NDArray[Any]":
    """The entries with low <= |tau| < high, times `ratio`. Of those equal to `low` only the first `quota` stay, and of
    those equal to `high` only the first `spared` go."""
    import numpy as np

    kept = kernels.apply(KEEP, [tau], (low, high, quota, spared))
    if ratio != 1:
        kept *= np.float32(ratio)
    return kept


def _lowered_sieve(program: Program, args: list[int], name: str, told: Mapping[str, Any]) -> int:
    bounds = told["threshold"], told.get("outlier", math.inf), told["quota"], told.get("spared", math.inf)
    kept = program.add(KEEP, args, bounds)
    return kept if told["ratio"] == 1 else program.add(SUM, [kept], (told["ratio"],))


def _rank_of_last(size: int, zeros: int, *, density: float, least: float, **_: Any) -> dict[str, int]:
    """The rank of the smallest entry that `trim` keeps."""
    return {"threshold": min(size, max(int(least), math.floor(density * size)))}


def _ranks_of_band(size: int, zeros: int, *, density: float, gamma: float, outliers: str, **_: Any) -> dict[str, int]:
    """The ranks of the smallest entry that `breadcrumbs` keeps, and of the smallest outlier."""
    kept, dropped = _band(size, density, gamma, outliers)
    return {"threshold": dropped + kept, "outlier": dropped}


def _trimmed(ms: "Sequence[Measurement]", threads: int, progress: Progress) -> list[Told]:
    return _sieve(ms, threads, progress, _rank_of_last)


def _banded(ms: "Sequence[Measurement]", threads: int, progress: Progress) -> list[Told]:
    nothing = dict.fromkeys(("threshold", "quota", "outlier", "spared"), math.inf)  # each row has thresholds of its own
    ranked = [m for m in ms if not m.by_rows]
    sieved = iter(_sieve(ranked, threads, progress, _ranks_of_band) if ranked else [])
    measured: list[Told] = []
    for m in ms:
        rows = {name: nothing | {"width": m.width(name)} for name in m.names}
        told = with_scale(m, threads, progress, rows, _banded_sizes) if m.by_rows else next(sieved)
        measured.append({name: {**rows[name], **known} for name, known in told.items()})
    return measured


def _sieve(ms: "Sequence[Measurement]", threads: int, progress: Progress, ranks: RanksOf) -> list[Told]:
    return [_sieved(c, threads, progress) for c in cuts(ms, threads, progress, ranks)]


def _sieved(located: Cuts, threads: int, progress: Progress) -> Told:
    """What a method is told of its cuts: the thresholds, how many of the entries equal to them count, and the scale."""
    m, quota_of = located.asked.m, {"threshold": "quota", "outlier": "spared"}
    quotas = located.quotas(threads) if m.call.by_tile else {}
    told: dict[str, dict[str, Any]] = {name: dict(values) for name, values in located.values().items()}
    for name, values in located.values().items():
        told[name] |= {quota_of[key]: quotas[name][key] if quotas else math.inf for key in values}
    return with_scale(m, threads, progress, told)


def _sieve_passes(params: Mapping[str, Parameter]) -> int:
    return (params["scope"] != "row") + (params["rescale"] == "l1")


# ---- at random -----------------------------------------------------------------------------------------------------
def dare(
    tau: "NDArray[Any]",
    *,
    drop: float = 0.5,
    seed: float = 0,
    rescale: str = "expected",
    ratio: float,
    name: str,
    start: int,
) -> "NDArray[Any]":
    """Drop each entry with probability `drop` and divide the others by 1 - drop, so that the expectation stays.

    DARE (Yu et al., ICML 2024, arXiv 2311.03099): m * tau / (1 - p) with m ~ Bernoulli(1 - p).

    tau: one task vector, float32, of any shape. The result has that shape.
    seed: the draw of an entry depends only on the seed, the name of its tensor and its position. Two vectors with one
        seed lose the same entries, so give each a seed of its own.
    rescale: "expected" divides by 1 - drop. "l1" multiplies by sum |tau| / sum |kept| of the tensor instead, as the
        `rescale` of mergekit does. "none" leaves the kept entries as they are.

    Deviation: mergekit draws from torch's global generator. The distribution is the same, and the draws are not.
    """
    return kernels.apply(DROP, [tau], _draw(drop, seed, rescale, ratio, name), start)


def _draw(drop: float, seed: float, rescale: str, ratio: float, name: str) -> tuple[float, ...]:
    """The numbers of the operation DROP: its key, its stream, the least draw that is kept, and the scale."""
    return *key_of(int(seed), name), DROPS, math.ceil(drop * 2**32), 1 / (1 - drop) if rescale == "expected" else ratio


def _lowered_dare(program: Program, args: list[int], name: str, told: Mapping[str, Any]) -> int:
    drawn = _draw(told["drop"], told["seed"], told["rescale"], told["ratio"], name)
    return program.add(DROP, args, drawn)


def della(
    tau: "NDArray[Any]",
    *,
    density: float = 0.7,
    epsilon: float = 0.14,
    seed: float = 0,
    rescale: str = "expected",
    rows: str = "last",
    ratio: float,
    name: str,
    start: int,
) -> "NDArray[Any]":
    """MagPrune: within a row, a larger entry is more likely to be kept; a kept entry is divided by its probability.

    DELLA (Deep et al., 2024, arXiv 2406.11617). The magnitudes of a row of n entries have the ranks 0 .. n-1, from the
    smallest to the largest, and an entry is kept with p = density - epsilon/2 + epsilon * rank / (n-1). Entries of
    equal magnitude have the mean of their ranks (the paper says nothing of them, and mergekit takes the order in which
    an unstable sort leaves them). A row of one entry has p = density. The paper's example has drop .3 and window .14,
    as here.

    tau: one task vector, float32, of any shape. The result has that shape.
    epsilon: the whole window, as in the paper. mergekit's epsilon is half of it, so that its 0.15 is 0.3 here. All p
        must be above 0 and at most 1, or the expectation would be lost: a RecipeError says how large epsilon may be.
        With density=1 everything is kept, whatever epsilon is.
    seed, rescale: as in `dare`; "expected" divides by p.
    rows: a row is what leads to one output of a layer. "last" takes rows along the last axis, which is right for
        matrices (out, in) and stacked experts (experts, out, in). "first" takes all that lies behind the first axis,
        which is right for convolutions (out, in, height, width).

    Deviation: of tensors with more than two axes the authors' code, and mergekit's, ranks along the second axis.
    """
    import numpy as np

    kept, contiguous = np.empty(tau.shape, np.float32), np.ascontiguousarray(tau)
    scale = 0.0 if rescale == "expected" else ratio
    count, width = _rows(tau, rows)
    window = _window(density, epsilon, width)
    kernels.prune(kept, contiguous, count, width, start, PRUNES, key_of(int(seed), name), density, window, scale)
    return kept


def _window(density: float, epsilon: float, width: int) -> float:
    """The largest probability of a row minus the smallest: 0 if all entries are kept, or if there is only one."""
    return epsilon if density < 1 and width > 1 else 0.0


def _rows(tau: "NDArray[Any]", rows: str = "last") -> tuple[int, int]:
    """(how many rows, their width)."""
    width = math.prod(tau.shape[1:]) if rows == "first" and tau.ndim > 1 else tau.shape[-1] if tau.ndim else 1
    return tau.size // max(1, width), width


def _della_problem(params: Mapping[str, Any], count: int) -> str:
    """What is wrong with the probabilities that `della` would have."""
    density, epsilon = params["density"], params["epsilon"]
    low, high = density - epsilon / 2, density + epsilon / 2
    if density == 1 or (low > 0 and high <= 1 + ROUNDING):
        return ""
    most = 2 * min(density, 1 - density)
    bound = f"less than {most:g}" if density <= 0.5 else f"at most {most:g}"
    return (
        f"density={density:g} and epsilon={epsilon:g} make probabilities from {low:g} to {high:g}, which must be above "
        f"0 and at most 1: with this density epsilon may be {bound} (it is twice what mergekit calls epsilon)"
    )


def _pruned_sizes(
    tau: "NDArray[Any]", bits: memoryview | None, *, name: str, start: int, seed: float, density: float, epsilon: float,
    ratio: float, **_: Any,
) -> tuple[float, float]:  # fmt: skip
    """sum |tau| and sum |what `della` keeps of it|. Sets the bits of what is kept."""
    sums, key = memoryview(bytearray(16)).cast("d"), key_of(int(seed), name)
    count, width = _rows(tau)
    window = _window(density, epsilon, width)
    kernels.prune(None, tau, count, width, start, PRUNES, key, density, window, ratio, bits, sums)
    return sums[0], sums[1]


def _drawn(m: Measurement, threads: int, progress: Progress, by_rows: ByRows | None = None) -> Told:
    return with_scale(m, threads, progress, {name: {} for name in m.names}, by_rows)


def _drawn_passes(params: Mapping[str, Parameter]) -> int:
    return int(params["rescale"] == "l1")


def _sizes(m: Measurement, threads: int, progress: Progress) -> Told:
    """What `random_like` is told of each tensor: ||tau|| / ||r||. r is drawn for this in parts, and not kept."""
    import numpy as np

    measured: dict[str, dict[str, float]] = {}
    for name, gram in grams(m, threads, progress).items():
        seed, numel, square = int(float(m.numbers(name)["seed"])), m.sizes[name], 0.0  # type: ignore[arg-type]
        for at in range(0, numel, PART):
            drawn = normal(seed, name, at, min(PART, numel - at)).astype(np.float64)
            square += float(drawn @ drawn)
        measured[name] = {"ratio": (gram[0][0] / square) ** 0.5 if square else 0.0}
    return measured


def random_like(tau: "NDArray[Any]", *, seed: float = 0, ratio: float, name: str, start: int) -> "NDArray[Any]":
    """A random direction that has the norm of tau in every tensor: r * ||tau_l|| / ||r||, r ~ N(0, I).

    The random-vector baseline of Ilharco et al. (ICLR 2023), table 1.

    tau: one task vector, float32, of any shape. The result has that shape.
    seed: two vectors with one seed get the same direction.
    """
    import numpy as np

    return np.asarray(normal(int(seed), name, start, tau.size).reshape(tau.shape) * np.float32(ratio), np.float32)


TRIM = Lifted(
    trim, local=True, lower=_lowered_sieve, measure=_trimmed, passes=_sieve_passes, most=1, thresholds=1,
    ranges={"density": DENSITY, "least": Range(0, math.inf, whole=True), "entries": ENTRIES},
    scope=Setting("scope", SCOPES), by_tile=FIRST_OF_EQUALS, scale=SIEVED, entries="entries",
)  # fmt: skip
BREADCRUMBS = Lifted(
    breadcrumbs, local=True, lower=_lowered_sieve, measure=_banded, passes=_sieve_passes, most=1, thresholds=2,
    ranges={"density": DENSITY, "gamma": Range(0, 1), "entries": ENTRIES},
    scope=Setting("scope", SCOPES | {"row": Scope.ROW}), by_tile=FIRST_OF_EQUALS, scale=SIEVED, entries="entries",
    choices={"outliers": ("all", "spare")},
)  # fmt: skip
DARE = Lifted(
    dare, local=True, lower=_lowered_dare, keyed=True, measure=one_by_one(_drawn), passes=_drawn_passes, most=1,
    ranges={"drop": Range(0, 1 - 2**-24), "seed": SEED}, scale=DRAWN,
)  # fmt: skip
DELLA = Lifted(
    della, keyed=True, measure=one_by_one(partial(_drawn, by_rows=_pruned_sizes)), passes=_drawn_passes, most=1,
    ranges={"density": DENSITY, "epsilon": Range(0, 1), "seed": SEED}, scale=DRAWN, check=_della_problem,
    rows=Setting("rows", {"last": Rows.LAST_AXIS, "first": Rows.BEHIND_FIRST_AXIS}),
)  # fmt: skip
RANDOM_LIKE = Lifted(
    random_like, local=True, keyed=True, measure=one_by_one(_sizes), passes=1, most=1, ranges={"seed": SEED}
)
METHODS = (TRIM, BREADCRUMBS, DARE, DELLA, RANDOM_LIKE)
