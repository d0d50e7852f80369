"""Which pattern fits which name, and texts that a recipe reads back."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvec.sources import text
from taskvec.sources.text import FirstMatch, counted, fits_any, literal, matches, quoted

NAMES = ("a.w", "a.b", "A.w", "b.w", "a[0].w")


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("a.w", ["a.w"]), ("*", [*NAMES]), ("a.*", ["a.w", "a.b"]), ("?.w", ["a.w", "A.w", "b.w"]), ("*.b", ["a.b"]),
        ("[ab].w", ["a.w", "b.w"]), ("[!a].w", ["A.w", "b.w"]), ("a[[]0].w", ["a[0].w"]), ("a", []), (".w", []),
        ("a.", []), ("a.w?", []), ("", []),
    ],
)  # fmt: skip
def test_the_whole_name_must_fit_and_case_counts(pattern, fits):
    assert [name for name in NAMES if matches(pattern, name)] == fits


def test_a_name_with_a_line_end_fits_a_run():
    assert matches("a*b", "a\nb") and not matches("a", "a\n")


patterns = st.lists(st.sampled_from(["a.w", "b.w", "*.w", "a.*", "?.b", "a[0].w", "[ab].w", "*"]), max_size=6)


@given(patterns, st.sampled_from([*NAMES, "c.b", "0"]))
def test_the_first_pattern_that_fits_is_the_one_that_a_search_one_by_one_finds(given_patterns, name):
    """Also among plain names, which are looked up and not tried, and where one of them stands twice."""
    wanted = next(
        (k for k, p in enumerate(given_patterns) if (matches(p, name) if text.WILD.search(p) else p == name)), None
    )
    assert FirstMatch(iter(given_patterns)).of(name) == wanted


def test_no_pattern_is_tried_that_cannot_be_the_first(monkeypatch):
    tried = []
    monkeypatch.setattr(text, "matches", lambda pattern, name: tried.append(pattern))
    table = FirstMatch(["x*", "a.w", "y?", "a.w", "*"])
    assert table.of("a.w") == 1 and tried == ["x*"]
    assert table.of("b.w") is None and tried == ["x*", "x*", "y?", "*"]


@pytest.mark.parametrize(
    ("given_text", "shown"), [("a", '"a"'), ('a"b\\', '"a\\"b\\\\"'), ("a\n\x1bö", '"a\\n\\x1b\\xf6"'), ("", '""')]
)
def test_a_string_is_written_as_one_line_of_ascii(given_text, shown):
    assert quoted(given_text) == shown


@given(st.text())
def test_a_string_is_read_back_as_it_was(given_text):
    literal_text = quoted(given_text)
    assert ast.literal_eval(literal_text) == given_text and literal_text.isascii() and literal_text.isprintable()


def test_one_of_several_patterns_fits_a_whole_name():
    assert fits_any("config.json", ("*.txt", "conf*.json")) and not fits_any("config.json", ("config", "*.JSON"))
    assert not fits_any("x", ())


@pytest.mark.parametrize("name", ["plain.weight", "a*b", "w[0]", "really?", "[", "]"])
def test_a_literal_fits_the_text_itself_and_nothing_else(name):
    assert matches(literal(name), name)
    assert not matches(literal(name), name.replace("*", "x").replace("?", "x").replace("[0]", "0") + "x")


def test_a_number_of_things_is_one_thing_or_several():
    assert [counted(k, "seed") for k in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]
