"""Ranks read off counts are those that sorting gives, whatever was counted: windows, all bins, or likely values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import taskvec as tv
from taskvec.methods.core.counting import Guess, counted
from taskvec.methods.core.measurement import Measurement
from taskvec.methods.core.ranks import EVERY, Asked, Counts, Cut, bin_of, located


def asked_for(arrays, scope="tensor", **ranks):
    """What `trim` of these arrays would ask for, had it these ranks."""
    (call,) = tv.trim(tv.from_arrays(arrays, "tau", mass=0), scope=scope).terms
    return Asked(Measurement(call, tuple(arrays)), lambda size, zeros, **_: ranks)


def sorted_cut(values, rank):
    """By sorting all magnitudes."""
    down = np.sort(np.abs(values).ravel())[::-1]
    value = float(down[rank - 1])
    return Cut(value, rank - int((down > value).sum()), int((down == value).sum()))


VALUES = np.random.default_rng(0).standard_normal((300, 700)).astype(np.float32)
VALUES[:100] = np.round(VALUES[:100], 1)  # many entries are equal


@pytest.mark.parametrize("rank", [1, 2, 1000, 105_000, 209_999, 210_000])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_window_a_value_and_a_count_of_every_bin_say_the_same_rank(rank, threads):
    right = sorted_cut(VALUES, rank)
    asked = asked_for({"w": VALUES}, wanted=rank)
    first = int(np.float32(right.value).view(np.uint32)) >> 16
    ranks = [{"w": {"wanted": rank}}]

    def pass_over(guess):
        ((k, group, said),) = counted([asked], [{"w": guess}], ranks, threads, lambda size: None)
        assert (k, group) == (0, "w")
        return said

    for guess in (
        Guess(((first, 1),)),
        Guess(((max(0, first - 3), 5),)),
        Guess((), (right.value,)),
        Guess(((3, 2),), (9e9, right.value)),
    ):
        assert pass_over(guess).cuts == {"wanted": right}
    assert pass_over(Guess(((first + 1, 3),), (9e9,))).cuts == {}, "what misses the rank says nothing of it"
    said = pass_over(Guess((EVERY,)))
    assert said.windows == ((first, 1),) and said.ranks == {"wanted": rank} and not said.cuts


def test_groups_are_yielded_one_by_one_and_progress_counts_every_element():
    arrays = {"a": VALUES[:10], "b": VALUES[10:30], "c": VALUES[30:]}
    asked, seen = asked_for(arrays, wanted=5), []
    guesses = [{name: Guess((), (0.5,)) for name in ("a", "c")}]
    located = {group: said for _, group, said in counted([asked], guesses, [{}], 2, seen.append)}
    assert located.keys() == {"a", "c"} and sum(seen) == arrays["a"].size + arrays["c"].size
    for name, said in located.items():
        assert int(said.equals[name, 0.5].sum()) == int((np.abs(arrays[name]) == np.float32(0.5)).sum())


def test_the_whole_model_is_one_group():
    arrays = {"a": VALUES[:10], "b": VALUES[10:30]}
    both = np.concatenate([a.ravel() for a in arrays.values()])
    asked = asked_for(arrays, scope="model", wanted=777)
    right = sorted_cut(both, 777)
    ((_, group, said),) = counted(
        [asked], [{"": Guess((), (right.value,))}], [{"": {"wanted": 777}}], 2, lambda _: None
    )
    assert group == "" and said.cuts == {"wanted": right} and asked.sizes == {"": both.size}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.data())
def test_the_bin_of_a_rank_is_that_of_the_sorted_entries(counts, data):
    total = sum(counts)
    if not total:
        return
    rank = data.draw(st.integers(1, total))
    down = [k for k in reversed(range(len(counts))) for _ in range(counts[k])]
    place, within = bin_of(np.array(counts, np.uint32), rank)
    assert place == down[rank - 1] and within == rank - sum(counts[place + 1 :])


def test_ranks_that_depend_on_zeros_are_asked_for_when_every_bin_was_counted():
    values = np.zeros(100, np.float32)
    values[:40] = np.arange(1, 41)
    (call,) = tv.trim(tv.from_arrays({"w": values}, "tau", mass=0), scope="tensor").terms
    asked = Asked(Measurement(call, ("w",)), lambda size, zeros, **_: {"half": (size - zeros) // 2, "nothing": 0})
    table = np.bincount(values.view(np.uint32) >> 16, minlength=(1 << 15) + 1).astype(np.uint32)
    said = located(asked, "w", {}, Counts({EVERY: table}, {}, {}))
    assert said.ranks == {"half": 20}
    assert said.windows == ((int(np.float32(21).view(np.uint32)) >> 16, 1),)


def test_the_rank_just_above_a_window_is_not_within_it():
    values = np.array([4, 4, 2, 2, 1], np.float32)
    first = int(np.float32(2).view(np.uint32)) >> 16
    for rank, within in ((1, {}), (2, {}), (3, {"wanted": Cut(2.0, 1, 2)}), (4, {"wanted": Cut(2.0, 2, 2)}), (5, {})):
        asked = asked_for({"w": values}, wanted=rank)
        guesses = {"windows": Guess(((first, 1),)), "values": Guess((), (2.0,))}
        for what, guess in guesses.items():
            ((_, _, said),) = counted([asked], [{"w": guess}], [{"w": {"wanted": rank}}], 1, lambda size: None)
            assert said.cuts == within, (what, rank)
