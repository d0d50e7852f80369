"""Intervals and tests agree with those of scipy and with their equations."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from taskvec.errors import MismatchError
from taskvec.searching.evidence import difference, holm, interval, mcnemar, spread, stratified, tango, wilson

RNG = np.random.default_rng(7)
SKEWED = RNG.exponential(size=60)
HITS = RNG.integers(0, 2, 90)


@pytest.mark.parametrize("n", [1, 2, 10, 57, 200])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_an_interval_of_hits_is_wilson_s(n, confidence):
    for right in {0, 1, n // 3, n - 1, n}:
        ours = interval([[1] * right + [0] * (n - right)], confidence=confidence)
        theirs = stats.binomtest(right, n).proportion_ci(confidence, method="wilson")
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
        assert 0 <= ours.low <= ours.mean <= ours.high <= 1 and ours.known
    assert ours.mean == pytest.approx(right / n)


def test_twenty_of_twenty_leave_room_for_doubt():
    certain = interval([np.ones(20)])
    assert certain.low == pytest.approx(20 / (20 + 1.959964**2), abs=1e-6) and certain.high == 1
    assert str(certain) == "1 [0.8389, 1]" and interval([np.zeros(20)]).high == pytest.approx(1 - certain.low)


@pytest.mark.parametrize("n", [10, 40, 300])
def test_other_scores_have_the_wider_of_student_s_and_hall_s_interval(n):
    values = RNG.exponential(size=n)
    wider, mean, error = interval([values]), values.mean(), stats.sem(values)
    t, skew = stats.t.ppf(0.975, n - 1), stats.skew(values, bias=False) / np.sqrt(n)
    low, high = (mean - error * 3 / skew * (np.cbrt(1 + skew * (q - skew / 6)) - 1) for q in (t, -t))
    assert wider.low == pytest.approx(min(low, mean - t * error)) == pytest.approx(mean - t * error)
    assert wider.high == pytest.approx(max(high, mean + t * error)) == pytest.approx(high)
    mirrored = interval([-values])
    assert (mirrored.low, mirrored.high) == pytest.approx((-wider.high, -wider.low))
    large = interval([values * 1e306])
    assert (large.low, large.high) == pytest.approx((wider.low * 1e306, wider.high * 1e306))


def test_an_interval_over_tasks_is_of_the_mean_of_their_means():
    groups = [HITS, SKEWED[:20], np.ones(5)]
    mixed = interval(groups)
    assert mixed.mean == pytest.approx(np.mean([g.mean() for g in groups]))
    error = np.sqrt(sum(g.var(ddof=1) / g.size for g in groups)) / 3
    assert 1.96 * error < (mixed.high - mixed.low) / 2 < 1.4 * 1.96 * error
    hits = interval([HITS, HITS, np.ones(30)])
    assert (hits.low, hits.high) == stratified([(HITS.sum(), 90), (HITS.sum(), 90), (30, 30)])
    error = np.sqrt(2 * HITS.var() / 90) / 3
    assert 1.8 * error < (hits.high - hits.low) / 2 < 2.4 * error and hits.low < hits.mean < hits.high < 1


@pytest.mark.parametrize(
    ("groups", "why"),
    [
        ([np.full(13, 0.25)], "all 13 are alike, which does not show how much they vary"),
        ([np.full(9, 2.0), np.full(4, 3.0)], "all 13 are alike"),
        ([[0.5]], "there is one example"),
        ([[0.1, 0.2, 0.3]], "3 examples are too few"),
        ([[0.5] * 95 + [0.1, 0.2, 0.3, 0.4, 0.6]], "all but 5 of 100 are alike, too few to show how much they vary"),
    ],
)
def test_where_nothing_shows_how_much_scores_vary_there_is_no_interval_and_it_is_said_why(groups, why):
    missing = interval(groups)
    assert not missing.known and why in missing.why and missing.ends() == (None, None)
    assert str(missing) == f"{missing.mean:.4g} [no interval]"


def test_what_was_once_not_0_or_1_is_no_metric_of_hits():
    assert interval([np.ones(20)], hits=False).why and interval([np.ones(20)], hits=True).known


def test_tango_s_interval_by_its_equation_and_by_hand():
    """The ends are where the score statistic with the likeliest nuisance parameter is the normal quantile."""

    def score(better, worse, n, d):
        def likelihood(q):  # q: the probability of getting worse; q + d of getting better
            return better * np.log(q + d) + worse * np.log(q) + (n - better - worse) * np.log(1 - 2 * q - d)

        grid = np.linspace(max(0, -d), (1 - d) / 2, 400_001)[1:-1]
        q = grid[np.argmax(likelihood(grid))]
        return (better - worse - n * d) / np.sqrt(n * (2 * q + d * (1 - d)))

    for better, worse, n in ((7, 3, 40), (12, 1, 30), (1, 9, 100)):
        low, high = tango(better, worse, n)
        assert score(better, worse, n, low) == pytest.approx(1.96, abs=2e-3)
        assert score(better, worse, n, high) == pytest.approx(-1.96, abs=2e-3)
        assert tango(worse, better, n) == pytest.approx((-high, -low))
    z2 = 1.959964**2
    assert tango(0, 0, 20) == pytest.approx((-z2 / (20 + z2), z2 / (20 + z2)), abs=1e-6)
    assert tango(20, 0, 20)[1] == 1 and tango(0, 20, 20)[0] == -1


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_binomial_test(better, worse):
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1
    assert mcnemar(better, worse) == pytest.approx(expected, rel=1e-9)


def test_two_models_of_hits_are_compared_by_mcnemar():
    first, second = RNG.integers(0, 2, (2, 200))
    forth = difference([first], [second])
    won, lost = ((second > first).sum(), (second < first).sum())
    assert forth.test == "McNemar, exact" and forth.p == pytest.approx(stats.binomtest(won, won + lost).pvalue)
    assert forth.interval.mean == pytest.approx(second.mean() - first.mean())
    back = difference([second], [first])
    assert back.p == forth.p and back.interval.mean == -forth.interval.mean


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.4])
def test_numbers_are_compared_by_a_t_test_that_heeds_skewness(shift):
    first = RNG.normal(size=50)
    second = first + RNG.normal(shift, 0.5, 50)
    forth = difference([first], [second])
    plain = stats.ttest_rel(second, first)
    skew = stats.skew(second - first, bias=False) / np.sqrt(50)
    t = plain.statistic
    hall = t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6
    assert forth.p == pytest.approx(max(plain.pvalue, 2 * stats.t.sf(abs(hall), 49)), rel=1e-6)
    back = difference([second], [first])
    assert back.p == pytest.approx(forth.p) and back.interval.low == pytest.approx(-forth.interval.high)


@given(st.lists(st.floats(-1, 3), min_size=12, max_size=40, unique=True))
def test_a_test_says_the_same_as_its_interval(values):
    compared = difference([np.zeros(len(values))], [np.array(values)])
    if compared.interval.known and abs(compared.p - 0.05) > 1e-6:
        assert (compared.p < 0.05) == (compared.interval.low > 0 or compared.interval.high < 0)


def test_a_few_that_differ_are_judged_by_the_sign_test():
    same = np.linspace(0.1, 0.9, 50)
    for change, p in (([0.1] * 5, 2**-4), ([0.1, 0.3, -0.1], 1.0), ([], 1.0)):
        compared = difference([same], [same + np.array(change + [0] * (50 - len(change)))])
        assert not compared.interval.known and compared.p == p and compared.test == "sign test"
    shifted = difference([np.zeros(30)], [np.full(30, 0.5)])
    assert shifted.p == 2**-29 and shifted.interval.why  # every example is better by as much
    rounded = difference([same], [same - 0.1])  # and here up to rounding
    assert len({*(same - 0.1 - same)}) > 1 and rounded.p == 2**-49 and rounded.interval.why
    assert rounded.chance == "p < 1e-12" and shifted.chance == "p = 1.9e-09"
    assert interval([0.1 * 3 + np.zeros(20), 0.3 + np.zeros(20)]).why and interval([[0.3, 0.1 * 3] * 10]).why


def test_several_tasks_are_compared_by_welch_s_degrees_of_freedom():
    pairs = [(RNG.normal(size=n), RNG.normal(0.3, s, size=n)) for n, s in ((20, 1), (35, 4))]
    compared = difference([a for a, _ in pairs], [b for _, b in pairs])
    apart = [b - a for a, b in pairs]
    variances = [d.var(ddof=1) / d.size for d in apart]
    freedom = int(sum(variances) ** 2 / sum(v**2 / (d.size - 1) for v, d in zip(variances, apart, strict=True)))
    half = stats.t.ppf(0.975, freedom) * np.sqrt(sum(variances)) / 2
    assert compared.interval.low <= compared.interval.mean - half * (1 - 1e-9)
    assert compared.interval.high >= compared.interval.mean + half * (1 - 1e-9)
    assert compared.interval.high - compared.interval.low < 2.2 * half


def test_other_examples_cannot_be_compared():
    with pytest.raises(MismatchError, match="the same examples, not 3 and 4"):
        difference([np.ones(3)], [np.ones(4)])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_and_keeps_their_order(ps):
    given_ps = {str(k): p for k, p in enumerate(ps)}
    corrected = holm(given_ps)
    assert list(corrected) == list(given_ps)
    assert all(min(1, p) <= corrected[n] <= min(1, len(ps) * p) + 1e-12 for n, p in given_ps.items())
    order = sorted(given_ps, key=given_ps.__getitem__)
    assert all(corrected[a] <= corrected[b] for a, b in pairwise(order))


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 30, 31])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_spread_over_seeds_is_student_s(n, confidence):
    values = np.random.default_rng(n).normal(3, 2, n)
    ours = spread(values.tolist(), confidence=confidence)
    low, high = stats.t.interval(confidence, n - 1, values.mean(), stats.sem(values))
    assert (ours.interval.low, ours.interval.high) == pytest.approx((low, high), rel=1e-9)
    assert ours.deviation == pytest.approx(values.std(ddof=1)) and f"over {n} seeds" in str(ours)


@pytest.mark.parametrize(("right", "n"), [(0, 12), (7, 20), (20, 20), (95, 100)])
def test_the_score_interval_of_one_task_is_wilson_s(right, n):
    assert stratified([(right, n)]) == pytest.approx(wilson(right, n), abs=1e-9)


def test_the_score_interval_of_several_tasks():
    low, high = stratified([(20.0, 20)] * 8)
    assert low == pytest.approx(wilson(160, 160)[0], abs=1e-6) and high == 1  # as if all were one task
    low, high = stratified([(20.0, 20)] * 7 + [(19.0, 20)])
    assert low < 1 - 1 / 160 < high < 1 and high - (1 - 1 / 160) > 0.004
