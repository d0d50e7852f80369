"""Intervals and tests against scipy's, and against what they promise when examples are drawn again."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from taskvec.errors import MismatchError
from taskvec.evidence import bootstrap, difference, holm, mcnemar, spread

RNG = np.random.default_rng(7)
SKEWED = RNG.exponential(size=60)
HITS = RNG.integers(0, 2, 90)


@pytest.mark.parametrize("values", [SKEWED, HITS, RNG.normal(size=40)], ids=["skewed", "hits", "normal"])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_an_interval_is_scipy_s_bca(values, confidence):
    """Both ends to within what 10,000 resamples leave of chance: a twentieth of the interval."""
    ours = bootstrap([values], confidence=confidence)
    theirs = stats.bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=20_000, rng=np.random.default_rng(1), method="BCa"
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=width / 20)
    assert ours.high == pytest.approx(theirs.high, abs=width / 20)


def test_an_interval_over_tasks_is_of_the_mean_of_their_means():
    groups = [HITS, SKEWED[:20], np.ones(5)]
    found = bootstrap(groups)
    assert found.mean == pytest.approx(np.mean([g.mean() for g in groups]))
    error = np.sqrt(sum(g.var() / g.size for g in groups)) / 3
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_nine_intervals_in_ten_hold_the_truth():
    """300 samples of 60 examples from a skewed distribution; binomial bounds at five standard errors."""
    rng = np.random.default_rng(3)
    inside = 0
    for k in range(300):
        found = bootstrap([rng.exponential(size=60)], confidence=0.9, seed=k, resamples=999)
        inside += found.low <= 1 <= found.high
    assert abs(inside / 300 - 0.885) < 5 * np.sqrt(0.9 * 0.1 / 300)


def test_examples_that_score_alike_leave_no_doubt():
    found = bootstrap([np.ones(9), np.zeros(4)])
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5) and str(found) == "0.5 [0.5, 0.5]"


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_binomial_test(better, worse):
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1
    assert mcnemar(better, worse) == pytest.approx(expected, rel=1e-9)


def test_two_models_of_hits_are_compared_by_mcnemar():
    first, second = RNG.integers(0, 2, (2, 200))
    found = difference([first], [second])
    won, lost = ((second > first).sum(), (second < first).sum())
    assert found.test == "McNemar, exact" and found.p == pytest.approx(stats.binomtest(won, won + lost).pvalue)
    assert found.interval.mean == pytest.approx(second.mean() - first.mean())
    back = difference([second], [first])
    assert back.p == found.p and back.interval.mean == -found.interval.mean


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.4])
def test_numbers_are_compared_by_permuting_signs(shift):
    first = RNG.normal(size=50)
    second = first + RNG.normal(shift, 0.5, 50)
    found = difference([first], [second])
    theirs = stats.permutation_test(
        (second - first,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(2)
    )
    assert found.test == "permutation"
    assert found.p == pytest.approx(theirs.pvalue, abs=5 * np.sqrt(0.25 / 10_000) * 2)
    assert difference([second], [first]).p == pytest.approx(found.p, abs=0.03)


def test_a_permutation_test_is_wrong_as_often_as_it_says():
    """Of 400 pairs of equal models a tenth have p below 0.1, in two tasks together."""
    rng = np.random.default_rng(11)
    wrong = 0
    for k in range(400):
        first, second = ([rng.normal(size=30), rng.normal(size=20)] for _ in range(2))
        wrong += difference(first, second, seed=k, resamples=499).p <= 0.1
    assert abs(wrong / 400 - 0.1) < 5 * np.sqrt(0.1 * 0.9 / 400)


def test_other_examples_cannot_be_compared():
    with pytest.raises(MismatchError, match="the same examples, not 3 and 4"):
        difference([np.ones(3)], [np.ones(4)])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_and_keeps_their_order(ps):
    given_ps = {str(k): p for k, p in enumerate(ps)}
    found = holm(given_ps)
    assert list(found) == list(given_ps)
    assert all(min(1, p) <= found[n] <= min(1, len(ps) * p) + 1e-12 for n, p in given_ps.items())
    order = sorted(given_ps, key=given_ps.__getitem__)
    assert all(found[a] <= found[b] for a, b in pairwise(order))


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 30, 31])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_spread_over_seeds_is_student_s(n, confidence):
    values = np.random.default_rng(n).normal(3, 2, n)
    found = spread(values.tolist(), confidence=confidence)
    low, high = stats.t.interval(confidence, n - 1, values.mean(), stats.sem(values))
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), rel=1e-9)
    assert found.deviation == pytest.approx(values.std(ddof=1)) and f"over {n} seeds" in str(found)
