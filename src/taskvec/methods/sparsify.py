"""Sparsifiers: from one task vector to a sparser one. `elect` (consensus.py) joins them.

Pure functions of a float32 array of any shape. Parameters without a default are measured in passes before:
threshold, outlier   magnitudes of the ranks that bound what is kept
quota, spared        how many of the entries equal to them, the first ones of the array, are within the rank
ratio                sum |tau| / sum |kept| over the tensor
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from taskvec import kernels
from taskvec.derived import Parameter
from taskvec.methods.applied import Applied, Measured
from taskvec.methods.call import PART
from taskvec.methods.counting import Equals, Ranks, groups_of
from taskvec.methods.draws import DROPS, PRUNES, key_of, normal
from taskvec.methods.lift import Method, Range
from taskvec.methods.passes import ByRows, grams, one_by_one, ratios
from taskvec.methods.thresholds import Cut, cuts, quotas, values_of
from taskvec.operations import DROP, KEEP, SUM
from taskvec.terms import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

DENSITY = Range(0, 1, open_below=True)
RESCALE = {"rescale": ("expected", "l1", "none")}
SIEVE = {"scope": ("model", "tensor"), "ties": ("all", "first"), "rescale": ("none", "l1")}


# ---- by magnitude --------------------------------------------------------------------------------------------------
def trim(
    tau: "NDArray[Any]",
    *,
    density: float = 0.2,
    scope: str = "model",
    ties: str = "all",
    least: float = 0,
    rescale: str = "none",
    threshold: float,
    quota: float,
    ratio: float,
) -> "NDArray[Any]":
    """TIES, step 1: the entries whose magnitude is among the largest `density` of all, the others 0.

    TIES-Merging (Yadav et al., NeurIPS 2023, arXiv 2306.01708), default k = 20 % of the whole model. scope="tensor"
    ranks within each tensor. Of d entries those at or above the k-th largest magnitude are kept,
    k = max(least, floor(density * d)): with ties="all" everything equal to it too, with ties="first" exactly k, of the
    equal ones those first by tensor name and position. rescale="l1" multiplies what is kept of a tensor by
    sum |tau| / sum |kept|, unless one of them is below 1e-7. Deviation: the authors' code keeps one entry more
    (`kthvalue` of d - k, and `>=`). mergekit's are scope="tensor", least=1, ties="first", except that an unstable sort
    picks among its equals; its `rescale` is "l1".
    """
    return _between(tau, threshold, quota, float("inf"), float("inf"), ratio)


def breadcrumbs(
    tau: "NDArray[Any]",
    *,
    density: float = 0.1,
    gamma: float = 0.01,
    scope: str = "tensor",
    outliers: str = "all",
    ties: str = "all",
    rescale: str = "none",
    threshold: float,
    quota: float,
    outlier: float,
    spared: float,
    ratio: float,
) -> "NDArray[Any]":
    """Without the floor(gamma * n) largest entries (outliers) the floor(density * n) largest of the others, the rest 0.

    Model Breadcrumbs (Davari & Belilovsky, ECCV 2024, arXiv 2312.06795): beta = density .1-.2, gamma .01-.1, per layer.
    Deviation: "layer" is one tensor. Where density + gamma exceeds 1 fewer entries are left; with outliers="spare" only
    so many outliers go that the density is kept, as in mergekit. ties="all": entries equal to a threshold go with the
    larger ones; ties="first": exactly so many, of equal ones the first count as the larger ones. rescale: as in `trim`.
    """
    return _between(tau, threshold, quota, outlier, spared, ratio)


def _between(tau: "NDArray[Any]", low: float, quota: float, high: float, spared: float, ratio: float) -> "NDArray[Any]":
    """low <= |tau| < high, and of those equal to `high` all but the first `spared`, of those equal to `low` `quota`."""
    import numpy as np

    found = kernels.apply(KEEP, [tau], (low, high, quota, spared))
    if ratio != 1:
        found *= np.float32(ratio)
    return found


def _lowered_sieve(program: Program, args: list[int], name: str, told: Mapping[str, Any]) -> int:
    bounds = told["threshold"], told.get("outlier", math.inf), told["quota"], told.get("spared", math.inf)
    kept = program.add(KEEP, args, bounds)
    return kept if told["ratio"] == 1 else program.add(SUM, [kept], (told["ratio"],))


def _trimmed(calls: "Sequence[Applied]", threads: int, progress: "Callable[[int], None]") -> list[Measured]:
    def ranks(size: int, zeros: int, *, density: float, least: float, **_: Any) -> dict[str, int]:
        return {"threshold": min(size, max(int(least), math.floor(density * size)))}

    return _sieve(calls, threads, progress, ranks)


def _banded(calls: "Sequence[Applied]", threads: int, progress: "Callable[[int], None]") -> list[Measured]:
    def ranks(size: int, zeros: int, *, density: float, gamma: float, outliers: str, **_: Any) -> dict[str, int]:
        kept, gone = math.floor(density * size), math.floor(gamma * size)
        gone = min(gone, size - kept) if outliers == "spare" else gone
        return {"threshold": min(size, gone + kept), "outlier": gone}

    return _sieve(calls, threads, progress, ranks)


def _sieve(calls: "Sequence[Applied]", threads: int, progress: "Callable[[int], None]", ranks: Ranks) -> list[Measured]:
    equals: list[Equals] = [{} for _ in calls]
    found = cuts(calls, threads, progress, ranks, equals=equals)
    return [_sieved(call, threads, progress, f, e) for call, f, e in zip(calls, found, equals, strict=True)]


def _sieved(
    call: Applied, threads: int, progress: "Callable[[int], None]", found: dict[str, dict[str, Cut]], equals: Equals
) -> Measured:
    told: dict[str, dict[str, Any]] = {name: dict(v) for name, v in values_of(call, found).items()}
    exact = quotas(call, threads, found, equals) if call.params["ties"] == "first" else {}
    named = {"threshold": "quota", "outlier": "spared"}
    for name, group in groups_of(call).items():
        told[name] |= {named[key]: exact[name][key] if exact else math.inf for key in found[group]}
    return _with_ratio(call, threads, progress, told)


def _sieve_passes(params: Mapping[str, Parameter]) -> int:
    return 1 + (params["rescale"] == "l1")


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
    """Each entry is dropped with probability `drop`, the others divided by 1 - drop: the expectation stays.

    DARE (Yu et al., ICML 2024, arXiv 2311.03099): m ~ Bernoulli(1-p), m * tau / (1-p). The draw of an entry depends on
    the seed, the tensor's name and the entry's position alone. rescale="l1" multiplies by sum |tau| / sum |kept| of the
    tensor instead, as mergekit's `rescale` does, "none" by nothing. mergekit draws from torch's global generator: the
    distribution is the same, the draws are not.
    """
    return kernels.apply(DROP, [tau], _draw(drop, seed, rescale, ratio, name), start)


def _draw(drop: float, seed: float, rescale: str, ratio: float, name: str) -> tuple[float, ...]:
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
    ratio: float,
    name: str,
    start: int,
) -> "NDArray[Any]":
    """MagPrune: within a row, the larger an entry the likelier it stays; kept entries are divided by that probability.

    DELLA (Deep et al., 2024, arXiv 2406.11617): ranks 0 .. n-1 of |tau| in a row of n give
    p = density - epsilon/2 + epsilon * rank / (n-1), from the smallest to the largest; equal magnitudes have the mean
    of their ranks (the paper does not say; mergekit takes the order that an unstable sort leaves). Its example has
    drop .3, window .14. Rows are along the last axis. `epsilon` is the whole window, as in the paper; mergekit's is
    half of it, so that its epsilon=.15 is 0.3 here. rescale: as for `dare`, with 1/p in "expected".
    """
    import numpy as np

    found, given = np.empty(tau.shape, np.float32), np.ascontiguousarray(tau)
    scale = 0.0 if rescale == "expected" else ratio
    kernels.prune(found, given, *_rows(tau, start), PRUNES, key_of(int(seed), name), density, epsilon, scale)
    return found


def _rows(tau: "NDArray[Any]", start: int) -> tuple[int, int, int]:
    """(how many, their width, the position of the first element)."""
    width = tau.shape[-1] if tau.ndim else 1
    return tau.size // max(1, width), width, start


def _pruned_sizes(
    tau: "NDArray[Any]", bits: memoryview | None, *, name: str, start: int, seed: float, density: float, epsilon: float,
    ratio: float, **_: Any,
) -> tuple[float, float]:  # fmt: skip
    """sum |tau| and sum |what della keeps of it|; `bits` of what that is."""
    sums, key = memoryview(bytearray(16)).cast("d"), key_of(int(seed), name)
    kernels.prune(None, tau, *_rows(tau, start), PRUNES, key, density, epsilon, ratio, bits, sums)
    return sums[0], sums[1]


def _drawn(call: Applied, threads: int, progress: "Callable[[int], None]", by_rows: ByRows | None = None) -> Measured:
    return _with_ratio(call, threads, progress, {name: {} for name in groups_of(call)}, by_rows)


def _drawn_passes(params: Mapping[str, Parameter]) -> int:
    return int(params["rescale"] == "l1")


def _with_ratio(
    call: Applied,
    threads: int,
    progress: "Callable[[int], None]",
    told: dict[str, dict[str, Any]],
    by_rows: ByRows | None = None,
) -> Measured:
    found = ratios(call, threads, progress, told, by_rows) if call.params["rescale"] == "l1" else {}
    return {name: here | {"ratio": found.get(name, 1.0)} for name, here in told.items()}


def _sizes(call: Applied, threads: int, progress: "Callable[[int], None]") -> Measured:
    """||tau|| and ||r|| of every tensor; r is drawn here once more, in the parts in which tau is read."""
    import numpy as np

    found: dict[str, dict[str, float]] = {}
    for name, told in grams(call, threads, progress).items():
        seed, numel, square = int(float(call.numbers(name)["seed"])), call.specs[name].numel, 0.0  # type: ignore[arg-type]
        for at in range(0, numel, PART):
            drawn = normal(seed, name, at, min(PART, numel - at)).astype(np.float64)
            square += float(drawn @ drawn)
        found[name] = {"ratio": (told["gram"][0][0] / square) ** 0.5 if square else 0.0}
    return found


def random_like(tau: "NDArray[Any]", *, seed: float = 0, ratio: float, name: str, start: int) -> "NDArray[Any]":
    """A random direction with the norm of tau in every tensor: r * ||tau_l|| / ||r||, r ~ N(0, I).

    The random-vector baseline of Ilharco et al. (ICLR 2023), table 1. `ratio` is measured.
    """
    import numpy as np

    return np.asarray(normal(int(seed), name, start, tau.size).reshape(tau.shape) * np.float32(ratio), np.float32)


METHODS = (
    Method(
        trim, local=True, lower=_lowered_sieve, measure=_trimmed, passes=_sieve_passes, most=1, thresholds=1,
        ranges={"density": DENSITY, "least": Range(0, math.inf)}, choices=SIEVE,
    ),
    Method(
        breadcrumbs, local=True, lower=_lowered_sieve, measure=_banded, passes=_sieve_passes, most=1, thresholds=2,
        ranges={"density": DENSITY, "gamma": Range(0, 1)}, choices=SIEVE | {"outliers": ("all", "spare")},
    ),
    Method(
        dare, local=True, lower=_lowered_dare, keyed=True, measure=one_by_one(_drawn), passes=_drawn_passes, most=1,
        ranges={"drop": Range(0, 1 - 2**-24)}, choices=RESCALE,
    ),
    Method(
        della, rows=True, keyed=True, measure=one_by_one(partial(_drawn, by_rows=_pruned_sizes)),
        passes=_drawn_passes, most=1, ranges={"density": DENSITY, "epsilon": Range(0, 1)}, choices=RESCALE,
    ),
    Method(random_like, local=True, keyed=True, measure=one_by_one(_sizes), passes=1, most=1),
)  # fmt: skip
