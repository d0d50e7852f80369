"""Races: what is looked at first is a fair sample, whatever the order of the examples, and the best is not given up."""

import numpy as np
import pytest

import taskvec as tv
from searching.near import BASE, GRID, ONE, SEEDS, TWO, A, Near, Parted
from taskvec.errors import MismatchError
from taskvec.searching.goals import objective
from taskvec.searching.judge import Judge
from taskvec.searching.race import deal, hopeless
from taskvec.searching.search import search

ZERO, UNIT = (tv.from_arrays({"w": np.float32([v])}, n) for n, v in (("base", 0), ("one", 1)))
FAMILY = ZERO + tv.knob("lam") * (UNIT - ZERO)
STEPS = 10


class Sorted:
    """Examples sorted by class: a larger lam is better on most classes, and worse on the first ones."""

    text = "sorted"

    def __init__(self, seed, classes=4, n=200, ends=(0.0, 1.0), cut=round, calls=None):
        self.about, self.ends, self.cut = (seed, classes, n), ends, cut
        self.calls = [] if calls is None else calls

    def examples(self, split):
        return {"a": [f"{split}{k}" for k in range(self.cut(self.about[2]))]}

    def part(self, start, stop):
        return Sorted(*self.about, (start, stop), self.cut, self.calls)

    def __call__(self, weights, split):
        seed, classes, n = self.about
        lam = float(weights["w"][0])
        draw = np.random.default_rng([seed, split == "test"])
        loser = np.arange(n) * classes // n < max(1, classes // 4)
        hits = (draw.random(n) < np.where(loser, 0.8 - 0.6 * lam, 0.4 + 0.5 * lam)).astype(float)
        part = hits[self.cut(self.ends[0] * n) : self.cut(self.ends[1] * n)]
        self.calls.append(len(part))
        return {"a": part}


def searched(evaluate, race):
    knobs = {"lam": [k / STEPS for k in range(STEPS + 1)]}
    return search(FAMILY, evaluate, knobs, objective="a", race=race, test=False)


def test_the_best_is_found_among_examples_sorted_by_class():
    """It was given up in 37 to 67 % of such searches when a race looked at the first quarter of the examples."""
    lost = saved = 0
    for seed in range(24):
        slow, quick = Sorted(seed), Sorted(seed)
        full, raced = searched(slow, False), searched(quick, True)
        lost += full.chosen.knobs != raced.chosen.knobs
        saved += len(raced.given_up)

    assert lost <= 1 and saved > 24


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 4, 10, 20])
def test_the_best_is_hardly_ever_given_up(classes):
    lost = 0
    for seed in range(150):
        full, raced = (searched(Sorted(seed, classes), race) for race in (False, True))
        lost += full.chosen.knobs["lam"] in [t.knobs["lam"] for t in raced.given_up]
    assert lost / 150 <= 0.04


@pytest.mark.parametrize("n", [4, 5, 12, 31, 200, 1003])
@pytest.mark.parametrize("cut", [round, int])
def test_stretches_are_all_examples_and_the_first_ones_a_quarter_spread_over_all(n, cut):
    by = deal({"a": [0.0] * n}, shuffled=False)
    assert by.stretches[0][0] == 0 and by.stretches[-1][1] == 1
    assert all(a[1] == b[0] for a, b in zip(by.stretches[:-1], by.stretches[1:], strict=True))
    lengths = [cut(by.stretches[k][1] * n) - cut(by.stretches[k][0] * n) for k in by.first]
    places = by.places(n, lengths)
    assert len(places) == sum(lengths) and all(0 <= p < n for p in places) and len({*places}) == len(places)
    assert abs(len(places) - n / 4) <= len(by.first) and by.places(n, [k + 2 for k in lengths]) is None
    if n >= 32:
        assert all(sum(n * k / 4 <= p < n * (k + 1) / 4 for p in places) for k in range(4))
    assert by == deal({"a": [1.0] * n, "b": [0.0] * 5000}, shuffled=False)


def test_where_parts_are_not_to_be_had_nothing_is_dealt():
    assert deal({"a": [0.0] * 50, "norm": 1.0}, shuffled=False) is None
    assert deal({"a": [0.0] * 3}, shuffled=True) is None
    assert deal({"a": [0.0] * 50}, shuffled=True).stretches == ((0, 0.25), (0.25, 1))


@pytest.mark.parametrize("cut", [round, int])
def test_scores_of_stretches_are_joined_to_those_of_the_whole(cut):
    full, raced = searched(Sorted(3, n=203), False), searched(Sorted(3, n=203, cut=cut), True)
    by_knobs = {tuple(t.knobs.values()): t.scores for t in full.trials}
    assert raced.given_up and all(by_knobs[tuple(t.knobs.values())] == t.scores for t in raced.trials)


def test_one_stretch_is_asked_for_where_examples_are_shuffled():
    evaluate = Sorted(0)
    evaluate.shuffled = True
    searched(evaluate, True)
    assert {*evaluate.calls} == {200, 50, 150}


def test_a_part_of_other_examples_than_was_asked_for_is_stated():
    with pytest.raises(MismatchError, match=r"must have the examples round\(start\*n\) to round\(stop\*n\)"):
        searched(Sorted(0, n=994, cut=lambda x: int(x // 7) * 7), True)


@pytest.mark.parametrize(("ours", "theirs", "gone"), [(0, 1, False), (1, 0, False)])
def test_a_few_examples_that_all_say_the_same_are_no_proof(ours, theirs, gone):
    judge = Judge.of([objective("a")], False, [], {})
    for n in (1, 2, 3):
        assert hopeless(judge, {"a": [theirs] * n}, {"a": [ours] * n}, {"a": range(n)}) is gone
    assert hopeless(judge, {"a": [1] * 30}, {"a": [0] * 30}, {"a": range(30)})
    assert not hopeless(judge, {"a": [0] * 30 + [1] * 30}, {"a": [0.5] * 30}, {"a": range(30)})


def test_a_race_chooses_the_same_with_fewer_examples(tmp_path):
    slow, quick = Parted(), Parted()
    ranges = {"x": (-1, 1, 0.2), "y": (-1, 1, 0.2)}
    full = search(TWO, slow, ranges, test=False)
    raced = search(TWO, quick, ranges, race=True, journal=tmp_path / "j", test=False)
    assert raced.chosen.knobs == full.chosen.knobs and raced.chosen.scores == full.chosen.scores
    assert len(raced.given_up) > 60 and len(raced.given_up) + len(raced.trials) == len(full.trials) == 121
    assert sum(quick.counted) < 0.7 * sum(slow.counted)
    assert f"{len(raced.given_up)} more candidates were given up" in str(raced)
    by_knobs = {tuple(t.knobs.values()): t for t in full.trials}
    assert all(by_knobs[tuple(t.knobs.values())].scores == t.scores for t in raced.trials)  # parts joined to the whole
    again = search(TWO, quick, ranges, race=True, journal=tmp_path / "j", test=False)
    assert again.trials == raced.trials and again.given_up == raced.given_up


def test_an_evaluator_without_parts_or_with_single_numbers_is_not_raced():
    class Single(Parted):
        def __call__(self, weights, split):
            return super().__call__(weights, split) | {"norm": 1.0}

        def part(self, start, stop):
            return Single(start, stop)

    for evaluate in (Near(), Single()):
        result = search(ONE, evaluate, GRID, objective="mean(a, b)", race=True, test=False)
        assert not result.given_up and len(result.trials) == 21


def test_a_race_over_seeds_finds_what_no_race_finds():
    family = tv.parse("base + lam*(a - base)", base=BASE, a=A)
    options = {"objective": "a", "replicates": [{"a": other} for other in SEEDS]}
    full, raced = (search(family, Parted(), GRID, race=race, **options) for race in (False, True))
    assert raced.given_up and raced.chosen.knobs == full.chosen.knobs
    assert raced.chosen.scores == full.chosen.scores and raced.seeds == full.seeds
