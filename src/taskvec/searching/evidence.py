"""How sure one can be of a mean over examples, and of the difference between two models on the same examples.

The scores of a metric are one number for each example, (n,) float. Several tasks are several such arrays, and the mean
over the tasks of their means is what counts. Every result is a closed form and nothing is drawn at random, so the same
scores always give the same answer.

1. Scores that are all 0 or 1 are hits and misses; their values show it. Their mean is a proportion. Its interval is
   Wilson's, which stays within 0 and 1 and has a width even where all examples are right.
2. The hits of two models on the same examples are compared by McNemar's exact test and Tango's score interval.
3. For other scores there are two intervals: Student's, which is right for heavy tails, and Hall's, which corrects
   Student's for skewness. At each end the wider of the two counts. The test inverts the interval: p is below 0.05 where
   0 lies outside of it.
4. Where too few examples differ from one another, nothing shows how much scores vary. There is then no interval, and
   `why` gives the reason. tests/papers/test_coverage.py and docs/evaluators.md have the simulated coverage.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from taskvec.errors import MismatchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEW = 10  # examples, below which scores other than hits have no interval
APART = 6  # examples that must differ from the commonest score
ROUNDING = 1e-12  # two scores count as equal if they differ by less than this times the largest score
LARGEST = 1000  # degrees of freedom; more of them change nothing that is printed
TINY = 1e-12  # smaller p-values are printed as "p < 1e-12"
SMALL, LARGE = 1e-12, 1e9  # multipliers that count as 0, and as infinite
STEPS = 60  # of a bisection
Groups = Sequence["NDArray[Any] | Sequence[float]"]
NOWHERE = math.nan


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and where it would lie were other examples drawn. Without an interval both ends are NaN, and `why`
    has the reason."""

    mean: float
    low: float
    high: float
    confidence: float = 0.95
    why: str = ""

    @property
    def known(self) -> bool:
        """Whether it has ends."""
        return not self.why

    def ends(self) -> tuple[float, float] | tuple[None, None]:
        """(low, high), or None twice: for JSON, which has no NaN."""
        return (self.low, self.high) if self.known else (None, None)

    @property
    def span(self) -> str:
        """The ends in brackets, as all texts have them."""
        return f"[{self.low:.4g}, {self.high:.4g}]" if self.known else "[no interval]"

    def __str__(self) -> str:
        return f"{self.mean:.4g} {self.span}"


@dataclass(frozen=True, slots=True)
class Spread:
    """The results of several seeds: their mean and its interval, and their standard deviation (with n - 1)."""

    values: tuple[float, ...]
    deviation: float
    interval: Interval

    def __str__(self) -> str:
        i = self.interval
        return f"{i.mean:.4g} ± {self.deviation:.2g} {i.span} over {len(self.values)} seeds"


@dataclass(frozen=True, slots=True)
class Difference:
    """Two models on the same examples: the second's mean minus the first's, and how likely a difference at least this
    large is if neither is better."""

    interval: Interval
    p: float
    test: str

    @property
    def chance(self) -> str:
        """The p-value in words."""
        return f"p = {self.p:.2g}" if self.p >= TINY else f"p < {TINY:g}"


# ---- what is asked -------------------------------------------------------------------------------
def interval(groups: Groups, *, confidence: float = 0.95, hits: bool | None = None) -> Interval:
    """The mean over tasks, mean_t mean_i x_ti, and the interval in which it may lie.

    For hits and misses this is a score interval: Wilson's (1927, JASA 22) for one task, and that of the mean of
    independent proportions for several (`stratified`). For other scores see `skewed`.

    groups: for each task t its scores x_t, (n_t,). hits: whether these are hits and misses; if it is not given, their
    values show it.
    """
    arrays = _arrays(groups)
    if hits if hits is not None else all(map(are_hits, arrays)):
        counts = [(float(a.sum()), a.size) for a in arrays]
        ends = wilson(*counts[0], confidence) if len(counts) == 1 else stratified(counts, confidence)
        return Interval(math.fsum(right / n for right, n in counts) / len(counts), *ends, confidence)
    return skewed(arrays, confidence)[0]


def difference(first: Groups, second: Groups, *, confidence: float = 0.95, hits: bool | None = None) -> Difference:
    """Second minus first on the same examples: an interval, and a two-sided paired test of no difference.

    For one group of hits this is McNemar's exact test (the binomial test of the examples on which the models differ),
    with Tango's interval. Otherwise it is Student's t test of the differences, once as it is and once corrected for
    their skewness by Hall's transformation; the larger p counts. Where too few examples differ for a t test, it is the
    sign test: p = 2^(1 - k) if all k examples that differ do so in one direction, else 1. Raises MismatchError for
    groups of different sizes.
    """
    pairs = [*zip(_arrays(first), _arrays(second), strict=True)]
    if unlike := [f"{a.size} and {b.size}" for a, b in pairs if a.size != b.size]:
        raise MismatchError(f"a paired test needs the same examples, not {', '.join(unlike)}")
    apart = [b - a for a, b in pairs]
    if len(pairs) == 1 and (hits if hits is not None else all(map(are_hits, pairs[0]))):
        better, worse, n = int((apart[0] > 0).sum()), int((apart[0] < 0).sum()), apart[0].size
        low, high = tango(better, worse, n, confidence)
        return Difference(Interval((better - worse) / n, low, high, confidence), mcnemar(better, worse), EXACT)
    noise = _noise([*(a for a, _ in pairs), *(b for _, b in pairs)])
    mean, p = skewed(apart, confidence, noise)
    if mean.known:
        return Difference(mean, p, STUDENT)
    up, down = (sum(int((sign * d > noise).sum()) for d in apart) for sign in (1, -1))
    return Difference(mean, 1.0 if (up and down) or not up + down else 2.0 ** (1 - up - down), SIGNS)


EXACT, STUDENT, SIGNS = "McNemar, exact", "t test with Hall's correction for skewness", "sign test"


def spread(values: Sequence[float], *, confidence: float = 0.95) -> Spread:
    """Mean +- t_{n-1} s / sqrt(n) over seeds, s their standard deviation (Student, 1908). At least two values."""
    n, mean = len(values), math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = student((1 + confidence) / 2, n - 1) * deviation / math.sqrt(n)
    return Spread(tuple(values), deviation, Interval(mean, mean - half, mean + half, confidence))


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """p-values that hold for all comparisons together (Holm, 1979, Scand. J. Statist. 6): the k-th smallest of m is
    multiplied by m - k + 1, cut at 1, and raised to the one before it where it would be smaller."""
    corrected, least = {}, 0.0
    for k, name in enumerate(sorted(ps, key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - k) * ps[name]))
        corrected[name] = least
    return {name: corrected[name] for name in ps}


# ---- hits and misses -----------------------------------------------------------------------------
def are_hits(scores: "NDArray[Any] | Sequence[float]") -> bool:
    """Whether all scores are 0 or 1."""
    import numpy as np

    return bool(np.isin(scores, (0, 1)).all())


def wilson(right: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The proportions p with |right/n - p| <= z sqrt(p (1 - p) / n) (Wilson, 1927); coverage is near 95 % on average
    over p, where Clopper and Pearson's exact interval is wider and covers 98 % (Brown et al., 2001, Stat. Sci. 16)."""
    z, p = NormalDist().inv_cdf((1 + confidence) / 2), right / n
    wide = 1 + z * z / n
    middle, half = (p + z * z / (2 * n)) / wide, z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / wide
    return (0.0 if right == 0 else max(0.0, middle - half)), (1.0 if right == n else min(1.0, middle + half))


def stratified(counts: Sequence[tuple[float, int]], confidence: float = 0.95) -> tuple[float, float]:
    """The means m of T proportions with |mean_t right_t/n_t - m| <= z sqrt(sum_t p_t (1 - p_t) / n_t) / T, p_t the
    likeliest proportions whose mean is m (a score interval, as in Miettinen and Nurminen, 1985, Stat. Med. 4), by
    bisection. Intervals put together from each task's own ends cover too little where tasks are nearly all right."""
    z, tasks = NormalDist().inv_cdf((1 + confidence) / 2), len(counts)
    observed = math.fsum(right / n for right, n in counts) / tasks

    def score(m: float) -> float:
        likely = _likeliest(counts, m)
        variance = math.fsum(p * (1 - p) / n for p, (_, n) in zip(likely, counts, strict=True)) / tasks**2
        return (observed - m) / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, observed - m)

    low = 0.0 if observed == 0 else _where(lambda m: score(m) > z, 0.0, observed)
    return low, 1.0 if observed == 1 else _where(lambda m: score(m) > -z, observed, 1.0)


def _likeliest(counts: Sequence[tuple[float, int]], mean: float) -> list[float]:
    """The p_t that maximise sum_t right_t log p_t + (n_t - right_t) log(1 - p_t) where their mean is given: with a
    multiplier k, the roots of k p^2 - (n + k) p + right = 0 that lie in [0, 1]. They fall as k rises."""

    def at(k: float) -> list[float]:
        return [
            right / n if abs(k) < SMALL else ((n + k) - math.sqrt(max(0.0, (n + k) ** 2 - 4 * k * right))) / (2 * k)
            for right, n in counts
        ]

    k = _where(lambda k: math.fsum(at(k)) > mean * len(counts), -LARGE, LARGE)
    return [min(1.0, max(0.0, p)) for p in at(k)]


def tango(better: int, worse: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a difference of paired proportions (Tango, 1998, Stat. Med. 17), by bisection.

    It has every D with |better - worse - n D| <= z sqrt(n (2 q + D (1 - D))), q the likeliest probability of getting
    worse were the difference D. Where nothing changed it is +-z^2 / (n + z^2).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)

    def score(d: float) -> float:
        b, c = (2 * n - better + worse) * d - better - worse, -worse * d * (1 - d)
        q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        top, variance = better - worse - n * d, n * (2 * q + d * (1 - d))
        return top / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, top) if top else 0.0

    observed = (better - worse) / n
    return _where(lambda d: score(d) > z, -1.0, observed), _where(lambda d: score(d) > -z, observed, 1.0)


def mcnemar(better: int, worse: int) -> float:
    """Two-sided p of the exact binomial test of so many examples won and lost (McNemar, 1947, Psychometrika 12)."""
    n, k = better + worse, min(better, worse)
    if n == 0:
        return 1.0
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


# ---- other scores --------------------------------------------------------------------------------
def skewed(
    groups: "Sequence[NDArray[Any]]", confidence: float = 0.95, noise: float | None = None
) -> tuple[Interval, float]:
    """(an interval of mean_t mean_i x_ti, the p-value of its being 0).

    t = (mean - mu) / se is taken as Student's t; and so is h(t) = t + A t^2 / 3 + A^2 t^3 / 27 + A / 6, where A is the
    skewness of the mean (Hall, 1992, J. R. Statist. Soc. B 54, whose normal quantiles we replace by Student's, and
    whose sample skewness by the unbiased one). At each end the wider interval counts: Hall's alone is too short for
    heavy symmetric tails, Student's for skewed scores. Degrees of freedom of several tasks: Welch's. noise: by how much
    scores that are alike may be apart, from rounding.
    """
    import numpy as np

    sizes = [a.size for a in groups]
    largest = max(float(np.abs(a).max()) for a in groups) or 1.0  # sums and cubes of anything finite stay finite
    center = largest * (math.fsum(float((a / largest).mean()) for a in groups) / len(groups))
    if why := _too_little(groups, _noise(groups) if noise is None else noise):
        return Interval(center, NOWHERE, NOWHERE, confidence, why), math.nan
    off = [a / largest - (a / largest).mean() for a in groups]
    scale = max(float(np.abs(d).max()) for d in off)
    off = [d / scale for d in off]
    parts = [float((d**2).sum()) / (n - 1) / n if n > 1 else 0.0 for d, n in zip(off, sizes, strict=True)]
    variance = math.fsum(parts)
    third = math.fsum(
        float((d**3).sum()) * n / ((n - 1) * (n - 2)) / n**2 for d, n in zip(off, sizes, strict=True) if n > 2
    )
    skew = third / variance**1.5
    freedom = variance**2 / math.fsum(v * v / (n - 1) for v, n in zip(parts, sizes, strict=True) if n > 1)
    error = largest * scale * math.sqrt(variance) / len(groups)
    t = student((1 + confidence) / 2, int(freedom))
    low, high = (max if up else min for up in (False, True))
    ends = (
        low(center - t * error, center - error * _unhall(t, skew)),
        high(center + t * error, center - error * _unhall(-t, skew)),
    )
    plain = center / error
    p = max(2 * beyond(abs(v), int(freedom)) for v in (plain, _hall(plain, skew)))
    return Interval(center, *ends, confidence), p


def _hall(t: float, skew: float) -> float:
    return t + skew * t * t / 3 + skew * skew * t**3 / 27 + skew / 6


def _unhall(value: float, skew: float) -> float:
    return 3 / skew * (math.cbrt(1 + skew * (value - skew / 6)) - 1) if abs(skew) > 1e-6 else value


def _noise(scores: "Sequence[NDArray[Any]]") -> float:
    """How large a difference between equal numbers of this size may become by rounding."""
    import numpy as np

    return ROUNDING * max(float(np.abs(a).max()) for a in scores)


def _too_little(groups: "Sequence[NDArray[Any]]", noise: float) -> str:
    """Why these scores do not show how much scores vary; "" if they do."""
    import numpy as np

    n, apart = sum(a.size for a in groups), 0
    for a in map(np.sort, groups):
        alike = np.searchsorted(a, a + noise, "right") - np.arange(a.size)  # from each score on
        apart += a.size - int(alike.max())
    if not apart:
        return f"all {n} are alike, which does not show how much they vary" if n > 1 else "there is one example"
    if n < FEW:
        return f"{n} examples are too few"
    if apart < APART:
        return f"all but {apart} of {n} are alike, too few to show how much they vary"
    return ""


def _arrays(groups: Groups) -> "list[NDArray[Any]]":
    import numpy as np

    return [np.asarray(g, np.float64) for g in groups]


# ---- Student's t ---------------------------------------------------------------------------------
@lru_cache(maxsize=1024)
def student(share: float, freedom: int) -> float:
    """The quantile above 1/2 of Student's t, bisected."""
    angle = _where(lambda a: (1 + _inside(a, freedom)) / 2 < share, 0.0, math.pi / 2, 80)
    return math.tan(angle) * math.sqrt(min(freedom, LARGEST))


def beyond(t: float, freedom: int) -> float:
    """P(T > t) of Student's t, t >= 0."""
    return (1 - _inside(math.atan(t / math.sqrt(min(freedom, LARGEST))), freedom)) / 2


def _inside(angle: float, freedom: int) -> float:
    """P(|T| < t), tan(angle) = t / sqrt(freedom): the finite sum for whole degrees of freedom (Abramowitz and Stegun,
    26.7.3 and 26.7.4)."""
    freedom = min(freedom, LARGEST)
    c, term, total = math.cos(angle), 1.0, 1.0
    for k in range(2 + freedom % 2, freedom - 1, 2):
        term *= c * c * (k - 1) / k
        total += term
    inside = math.sin(angle) * total
    return (angle + (inside * c if freedom > 1 else 0.0)) * 2 / math.pi if freedom % 2 else inside


def _where(still: Callable[[float], bool], low: float, high: float, steps: int = STEPS) -> float:
    """The number between low and high up to which `still` holds, by bisection. It holds at low and fails at high."""
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if still(middle) else (low, middle)
    return low
