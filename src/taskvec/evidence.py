"""How sure one can be: intervals of means over examples, and tests of two models on the same examples.

Scores are numbers an example, (n,) float; several tasks are several such arrays, and what counts is the mean over the
tasks of their means. Draws are seeded.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from taskvec.errors import MismatchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 10_000
CHUNK = 1 << 21  # draws that are held at once
Groups = Sequence["NDArray[Any] | Sequence[float]"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and where it would lie were other examples drawn."""

    mean: float
    low: float
    high: float
    confidence: float = 0.95

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True, slots=True)
class Spread:
    """Of several seeds: the mean of what each gave, their standard deviation (n - 1), and where the mean may lie."""

    values: tuple[float, ...]
    deviation: float
    interval: Interval

    def __str__(self) -> str:
        i = self.interval
        return f"{i.mean:.4g} ± {self.deviation:.2g} [{i.low:.4g}, {i.high:.4g}] over {len(self.values)} seeds"


@dataclass(frozen=True, slots=True)
class Difference:
    """Two models on the same examples: second minus first, and how likely so much is if neither is better."""

    interval: Interval
    p: float
    test: str


def bootstrap(groups: Groups, *, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """BCa bootstrap interval of mean_t mean_i x_ti, examples resampled within each group (Efron, 1987, JASA 82).

    Low and high are quantiles of the resampled means at Phi(z0 + (z0 + z) / (1 - a (z0 + z))), z the normal quantiles,
    z0 the bias, a the acceleration from the influence values (x_ti - mean_t) / (T n_t). Where all examples score alike
    the interval is the mean.
    """
    import numpy as np

    arrays = [np.asarray(g, np.float64) for g in groups]
    center = float(np.mean([a.mean() for a in arrays]))
    influence = np.concatenate([(a - a.mean()) / a.size for a in arrays]) / len(arrays)
    spread = float((influence**2).sum())
    if spread == 0:
        return Interval(center, center, center, confidence)
    means = np.sort(_resampled(arrays, resamples, seed))
    normal = NormalDist()
    below = (np.searchsorted(means, center, "left") + np.searchsorted(means, center, "right")) / 2 / resamples
    bias = normal.inv_cdf(min(max(float(below), 1 / resamples), 1 - 1 / resamples))
    skew = float((influence**3).sum()) / (6 * spread**1.5)

    def end(share: float) -> float:
        z = bias + normal.inv_cdf(share)
        return float(np.quantile(means, normal.cdf(bias + z / (1 - skew * z))))

    return Interval(center, end((1 - confidence) / 2), end((1 + confidence) / 2), confidence)


def _resampled(arrays: "Sequence[NDArray[Any]]", resamples: int, seed: int) -> "NDArray[Any]":
    """Means of resampled groups, (resamples,). A group's draws depend on the seed and its place alone."""
    import numpy as np

    total = np.zeros(resamples)
    for k, array in enumerate(arrays):
        draw = np.random.default_rng([seed, k])
        step = max(1, CHUNK // array.size)
        for at in range(0, resamples, step):
            count = min(step, resamples - at)
            total[at : at + count] += array[draw.integers(0, array.size, (count, array.size))].mean(axis=1)
    return total / len(arrays)


def spread(values: Sequence[float], *, confidence: float = 0.95) -> Spread:
    """Mean +- t_{n-1} s / sqrt(n) over seeds, s their standard deviation (Student, 1908). At least two values."""
    n, mean = len(values), math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = _student((1 + confidence) / 2, n - 1) * deviation / math.sqrt(n)
    return Spread(tuple(values), deviation, Interval(mean, mean - half, mean + half, confidence))


def _student(share: float, freedom: int) -> float:
    """The quantile above 1/2 of Student's t: the finite sum for whole degrees of freedom (Abramowitz and Stegun,
    26.7.3 and 26.7.4), bisected."""
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / sqrt(freedom)
    for _ in range(80):
        angle = (low + high) / 2
        c, term, total = math.cos(angle), 1.0, 1.0
        for k in range(2 + freedom % 2, freedom - 1, 2):
            term *= c * c * (k - 1) / k
            total += term
        inside = math.sin(angle) * total
        if freedom % 2:
            inside = (angle + (inside * c if freedom > 1 else 0.0)) * 2 / math.pi
        low, high = (angle, high) if (1 + inside) / 2 < share else (low, angle)
    return math.tan(low) * math.sqrt(freedom)


def difference(
    first: Groups, second: Groups, *, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> Difference:
    """Second minus first on the same examples: a bootstrap interval, and a two-sided paired test of no difference.

    One group of zeros and ones: McNemar's test, exact (the binomial test of the examples on which they differ). Else a
    permutation test: the sign of each example's difference is flipped at random, p = (1 + how often the mean is as far
    from 0) / (1 + resamples). Raises MismatchError for groups of different examples.
    """
    import numpy as np

    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(first, second, strict=True)]
    if unlike := [f"{a.size} and {b.size}" for a, b in pairs if a.size != b.size]:
        raise MismatchError(f"a paired test needs the same examples, not {', '.join(unlike)}")
    apart = [b - a for a, b in pairs]
    interval = bootstrap(apart, confidence=confidence, seed=seed, resamples=resamples)
    if len(pairs) == 1 and np.isin(np.concatenate(pairs[0]), (0, 1)).all():
        better, worse = int((apart[0] > 0).sum()), int((apart[0] < 0).sum())
        return Difference(interval, mcnemar(better, worse), "McNemar, exact")
    seen, flips = abs(interval.mean), np.zeros(resamples)
    for k, d in enumerate(apart):
        draw = np.random.default_rng([seed, k, 1])
        step = max(1, CHUNK // d.size)
        for at in range(0, resamples, step):
            count = min(step, resamples - at)
            flips[at : at + count] += (draw.integers(0, 2, (count, d.size)) * 2 - 1) @ d / d.size / len(apart)
    beyond = int((np.abs(flips) >= seen * (1 - 1e-12)).sum())
    return Difference(interval, (1 + beyond) / (1 + resamples), "permutation")


def mcnemar(better: int, worse: int) -> float:
    """Two-sided p of the exact binomial test of so many examples won and lost (McNemar, 1947, Psychometrika 12)."""
    n, k = better + worse, min(better, worse)
    if n == 0:
        return 1.0
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """p-values that hold for all comparisons together: the k-th smallest of m times m - k + 1, never falling (Holm,
    1979, Scand. J. Statist. 6)."""
    found, least = {}, 0.0
    for k, name in enumerate(sorted(ps, key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - k) * ps[name]))
        found[name] = least
    return {name: found[name] for name in ps}
