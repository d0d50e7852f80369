"""Results: estimates over seeds, verdicts in words, and findings that are read back as they were written."""

import json
import math
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from taskvec.errors import DataError
from taskvec.lab.results import (
    FAILS,
    FEW,
    HOLDS,
    WEAKLY,
    Claim,
    Curves,
    Estimate,
    Findings,
    Points,
    Table,
    percent,
    read_findings,
    verdict,
    write_findings,
)  # fmt: skip
from taskvec.searching.evidence import Interval

SHARES = st.floats(0, 1, allow_nan=False)


@given(st.lists(SHARES, min_size=FEW, max_size=8).filter(lambda values: max(values) - min(values) > 1e-3))
def test_an_estimate_has_student_s_interval_of_its_seeds(values):
    low, high = stats.t.interval(0.95, len(values) - 1, mean(values), stats.sem(values))
    estimate = Estimate.over(values)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((mean(values), low, high), abs=1e-9)
    assert estimate.known and estimate.values == tuple(values)


@pytest.mark.parametrize("values", [[0.5], [0.4, 0.6], [0.5, 0.5, 0.5]])
def test_too_few_seeds_and_seeds_that_are_all_the_same_have_no_interval(values):
    estimate = Estimate.over(values)
    assert (estimate.mean, estimate.low, estimate.high) == (0.5, None, None) and not estimate.known


def test_a_difference_is_paired_seed_by_seed():
    one, two = Estimate.over([0.9, 0.5, 0.1]), Estimate.over([0.8, 0.41, 0.0])
    gap = one.minus(two)
    assert gap.values == pytest.approx((0.1, 0.09, 0.1)) and gap.low > 0, "the seeds differ, their differences do not"
    with pytest.raises(ValueError, match="zip"):
        one.minus(Estimate.over([0.5]))


@pytest.mark.parametrize(
    ("values", "examples", "wanted"),
    [
        ([0.10, 0.11, 0.12], (0.05, 0.15), HOLDS),
        ([0.10, 0.11, 0.12], None, HOLDS),
        ([0.10, 0.10, 0.10], (0.05, 0.15), HOLDS),
        ([0.10, 0.11, 0.12], (-0.05, 0.25), WEAKLY),
        ([-0.3, 0.11, 0.50], (0.05, 0.15), WEAKLY),
        ([0.10, 0.11], (0.05, 0.15), WEAKLY),
        ([0.1], None, WEAKLY),
        ([0.0, 0.0, 0.0], (-0.1, 0.1), FAILS),
        ([-0.1, -0.2, -0.1], (0.1, 0.2), FAILS),
    ],
)
def test_a_claim_holds_if_seeds_and_examples_both_say_so(values, examples, wanted):
    interval = examples and Interval(mean(examples), *examples)
    assert verdict(Estimate.over(values), interval) == wanted


def test_a_claim_of_more_than_so_much_is_compared_with_that():
    assert verdict(Estimate.over([0.96, 0.97, 0.98]), wanted=0.9) == HOLDS
    assert verdict(Estimate.over([0.86, 0.97, 0.98]), wanted=0.9) == WEAKLY
    assert verdict(Estimate.over([0.86, 0.87, 0.88]), wanted=0.9) == FAILS


def test_examples_without_an_interval_do_not_carry_a_claim():
    unknown = Interval(0.1, math.nan, math.nan, why="too few")
    assert verdict(Estimate.over([0.10, 0.11, 0.12]), unknown) == WEAKLY


def test_numbers_are_told_in_points():
    assert percent(0.6123) == "61.2" and percent(Estimate.over([0.5])) == "50.0"
    assert percent(Estimate(0.5, 0.45, 0.55)) == "50.0 [45.0, 55.0]"


FINDINGS = Findings(
    "negation", "Does it?", ("One.", "Two."),
    (Table("t", ("a", "b", "c"), (("x", Estimate.over([0.1, 0.2, 0.4]), None), ("y", 0.5, "z")), "note", ("c",)),),
    (Curves("c", "λ", "y", {"l": ((0.0, 0.1, None, None), (1.0, 0.2, 0.1, 0.3))}, {"m": 0.5}, "note", "bands"),),
    (Points("p", "x", "y", {"one": (0.1, -0.2)}, "note"),),
    (Claim("claim", "paper", "here", HOLDS),),
    ("limit",),
)  # fmt: skip


def test_findings_are_read_back_as_they_were_written(tmp_path):
    digest = write_findings(FINDINGS, tmp_path / "f.json")
    assert read_findings(tmp_path / "f.json") == FINDINGS
    assert write_findings(read_findings(tmp_path / "f.json"), tmp_path / "g.json") == digest
    assert (tmp_path / "f.json").read_bytes() == (tmp_path / "g.json").read_bytes()


def test_findings_of_real_experiments_are_read_back_as_they_were_written(finished):
    for findings in finished.result.findings:
        assert read_findings(finished.folder / "findings" / f"{findings.experiment}.json") == findings


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"experiment": "a", "question": "b", "protocol": 3}'])
def test_a_file_without_findings_is_a_stated_error(tmp_path, text):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(DataError, match=r"f\.json holds no findings of the lab"):
        read_findings(tmp_path / "f.json")
    with pytest.raises(DataError, match="holds no findings"):
        read_findings(tmp_path / "gone.json")


@pytest.mark.parametrize("key", ["tables", "curves", "points", "claims"])
def test_findings_with_a_damaged_part_are_a_stated_error(tmp_path, key):
    for part in (3, [3], [{}], [{"title": "t"}]):
        (tmp_path / "f.json").write_text(json.dumps(FINDINGS.as_dict() | {key: part}))
        with pytest.raises(DataError, match="holds no findings"):
            read_findings(tmp_path / "f.json")
