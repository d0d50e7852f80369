"""How often 95 % intervals hold the truth, and how often tests are wrong, by simulation and by exact sums.

Where scores are hits and misses, or nearly all alike, not every coverage can be had: with ten examples at p = 0.95 any
interval covers 91.4 or 98.9 %. There the intervals are held to cover at least what is asked, and the docs say so.
"""

import numpy as np
import pytest
from scipy import stats

from taskvec.searching.evidence import are_hits, difference, interval, mcnemar, skewed, stratified, tango, wilson

SIZES = (10, 20, 50, 200)
RUNS = 3000
NOISE = 4 * np.sqrt(0.05 * 0.95 / RUNS)  # of a simulated share
SCORES = {  # a sample, and the mean that it is of
    "normal": (lambda rng, n: rng.normal(size=n), 0.0),
    "uniform": (lambda rng, n: rng.random(n), 0.5),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0),
    "lognormal": (lambda rng, n: rng.lognormal(size=n), np.exp(0.5)),
    "heavy tails": (lambda rng, n: rng.normal(size=n) ** 3, 0.0),
    "shares of four": (lambda rng, n: rng.integers(0, 4, n) / 3 - rng.integers(0, 4, n) / 3, 0.0),
    "four in ten changed": (lambda rng, n: rng.exponential(size=n) * (rng.random(n) < 0.4), 0.4),
    "one in ten changed": (lambda rng, n: rng.exponential(size=n) * (rng.random(n) < 0.1), 0.1),
    "one in ten, either way": (lambda rng, n: rng.normal(size=n) * (rng.random(n) < 0.1), 0.0),
}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("p", [0.5, 0.8, 0.95])
def test_intervals_of_hits_cover_what_they_promise(n, p):
    """Exact: the sum over all numbers of hits. A bootstrap covered 37, 66 and 91 % at p = 0.95."""
    ends = [wilson(k, n) for k in range(n + 1)]
    covered = sum(stats.binom.pmf(k, n, p) for k, (low, high) in enumerate(ends) if low <= p <= high)
    assert (0.92 if (n, p) != (10, 0.95) else 0.91) <= covered <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "n", "p"),
    [(8, 10, 0.99), (8, 50, 0.99), (20, 20, 0.95), (8, 20, 0.95), (4, 20, 0.95), (2, 20, 0.95), (8, 20, 0.5)],
)
def test_intervals_of_the_hits_of_several_tasks_cover_what_they_promise(tasks, n, p):
    """Put together from each task's own interval they covered 83 to 92 %, since tasks without a miss add nothing."""
    drawn = np.random.default_rng(0).binomial(n, p, (600, tasks))
    ends = [stratified([(float(right), n) for right in row]) for row in drawn]
    covered = np.mean([low <= p <= high for low, high in ends])
    assert 0.92 - 4 * np.sqrt(0.05 * 0.95 / 600) <= covered and (covered <= 0.985 or tasks * n * (1 - p) < 2)


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (0.95, 0.95, 0.0),
        (0.95, 0.95, 0.5),
        (0.95, 0.9, 0.3),
        (0.8, 0.8, 0.6),
        (0.8, 0.7, 0.5),
        (0.5, 0.5, 0.8),
        (0.5, 0.6, 0.3),
    ],
)
def test_differences_of_hits_cover_at_least_what_they_promise(n, one, other, alike):
    """`alike`: the correlation of two models on an example. Few examples differ where models are alike or good."""
    both = one * other + alike * np.sqrt(one * (1 - one) * other * (1 - other))
    cells = [other - both, one - both, 1 - one - other + 2 * both]  # better, worse, the same
    drawn = np.random.default_rng(0).multinomial(n, cells, RUNS)
    ends = {(b, w): tango(b, w, n) for b, w, _ in {*map(tuple, drawn.tolist())}}
    covered = np.mean([ends[b, w][0] <= other - one <= ends[b, w][1] for b, w, _ in drawn.tolist()])
    assert covered >= 0.92 and (covered <= 0.98 or (cells[0] + cells[1]) * n < 15)
    if one == other:
        assert np.mean([mcnemar(b, w) <= 0.05 for b, w, _ in drawn.tolist()]) <= 0.05 + NOISE


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", SCORES)
def test_intervals_of_other_scores_cover_what_they_promise(kind, n):
    """Also of skewed differences. Where too few examples differ there is no interval, and nothing is significant."""
    draw, mean = SCORES[kind]
    rng = np.random.default_rng(n)
    intervals = [interval([draw(rng, n)], hits=False) for _ in range(RUNS)]
    known = [i for i in intervals if i.known]
    if len(known) > 0.2 * RUNS:
        covered = np.mean([i.low <= mean <= i.high for i in known])
        least = 0.90 if (kind, n) == ("lognormal", 10) else 0.92  # very skewed: see the docs
        most = 0.99 + NOISE if kind in ("heavy tails", "four in ten changed", "one in ten changed") else 0.98
        assert least <= covered <= most
    else:
        assert kind.startswith("one in ten") or n == 10


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", SCORES)
def test_a_test_of_no_difference_is_wrong_as_often_as_it_says(kind, n):
    """Flipping signs was wrong in up to 28 % of such skewed differences."""
    draw, mean = SCORES[kind]
    rng = np.random.default_rng(n + 1)
    wrong = 0
    for _ in range(RUNS):
        scores = draw(rng, n)
        limits, p = skewed([scores - mean]) if mean else ((d := difference([0 * scores], [scores])).interval, d.p)
        wrong += bool(p <= 0.05) if limits.known or not mean else 0
    assert wrong / RUNS <= (0.09 if kind == "lognormal" and n < 50 else 0.05) + NOISE


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.5, 0.8, 0.95])
def test_means_over_several_tasks_of_hits_cover_what_they_promise(p):
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(RUNS):
        groups = [(rng.random(n) < q).astype(float) for n, q in ((20, p), (50, 0.7), (30, 0.9))]
        limits = interval(groups)
        assert all(map(are_hits, groups)) and 0 <= limits.low <= limits.high <= 1
        inside += limits.low <= (p + 1.6) / 3 <= limits.high
    assert 0.92 <= inside / RUNS <= 0.98
