"""Patterns of an adapter's configuration: PEFT's result for any of them, in bounded time."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskvec.formats import patterns
from taskvec.formats.patterns import Patterns

PIECES = st.sampled_from(
    ["a", "b", "0", ".", r"\.", "_", "[ab]", "[^a]", "[0-9]", r"\d", r"\w", r"\S", "(a|b)", "(?:a|bb|)", "a*", "b+?",
     ".*", "(ab)*", "(a|b)+", "((a*)b)*", "a{2,3}", "(a?){3}", "^", "$", "-"]
)  # fmt: skip


def as_peft(table, module):
    """The key that PEFT finds (peft.utils.other.get_pattern_key)."""
    return next((key for key in table if re.match(rf"(.*\.)?({key})$", module)), None)


@settings(deadline=None, max_examples=400)
@given(
    st.lists(st.lists(PIECES, min_size=1, max_size=5).map("".join), max_size=5, unique=True),
    st.lists(st.text("ab0._-", max_size=9), min_size=1, max_size=5),
)
def test_the_first_pattern_that_fits_is_the_one_that_peft_finds(keys, modules):
    patterns = Patterns({key: key for key in keys})
    for module in modules:
        assert patterns.find(module, None) == as_peft(keys, module)


@pytest.mark.parametrize(
    "pattern", ["(([a-z_.0-9])+)+!", "(a*)*b", "(a|a)*b", "(.*)*!", "(a?){40}a{40}!", ".*.*.*.*.*.*.*.*!", "(a|ab|b)*c"]
)
def test_a_pattern_that_re_would_search_for_ever_is_matched_in_few_steps(pattern):
    patterns = Patterns({pattern: 1})
    assert patterns.find("model.layers.0." + "a" * 300, None) is None
    assert patterns._steps < 40_000_000


def test_a_table_with_a_pattern_for_every_module_is_looked_up():
    modules = [f"model.layers.{k}.self_attn.{part}" for k in range(500) for part in ("q_proj", "v_proj")]
    patterns = Patterns({f"^{module}" if k % 2 else module: k for k, module in enumerate(modules)})
    assert [patterns.find(module, None) for module in modules] == list(range(1000))
    assert patterns._steps < 60 * 1000 * 10 and not patterns.unused


def test_there_is_a_limit_to_the_steps(monkeypatch):
    monkeypatch.setattr(patterns, "MOST_STEPS", 10_000)
    with pytest.raises(ValueError, match="take too long"):
        Patterns({"(a*)*b": 1}).find("a" * 1000, None)


@pytest.mark.parametrize(
    "pattern", ["(", "(?i)q", r"(q)\1", "(?=q)q", "(?<!q)q", "q{3000}{3000}", "(" * 3000 + ")" * 3000, "q{9999}"]
)
def test_what_is_no_pattern_or_cannot_be_matched_in_bounded_time_is_refused(pattern):
    with pytest.raises(ValueError, match=r"."):
        Patterns({pattern: 1})


def test_repeating_nothing_is_nothing():
    assert Patterns({"q" + "(" * 9 + "()" + "{9999})" * 9: 1}).find("layers.0.q", None) == 1


def test_patterns_that_fit_nothing_are_known():
    patterns = Patterns({"q_proj": 1, "up_proj": 2, "k.*": 3})
    assert patterns.find("layers.0.q_proj", 0) == 1 and patterns.find("layers.0.x", 0) == 0
    assert patterns.unused == {"up_proj", "k.*"}
