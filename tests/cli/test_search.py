"""The verbs that judge: what they ask for before any work, and how processes share a search."""

import pytest
from click.testing import CliRunner

from taskvec.cli import search
from taskvec.errors import RecipeError


def called(command, words, code=2):
    done = CliRunner().invoke(command, words.split())
    assert done.exit_code == code, done.output
    return done.output if code == 2 else str(done.exception)


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (search.evaluate, "a", "Missing option '--evaluate'"),
        (search.evaluate, "a --evaluate f --split all", "is not one of 'validation', 'test'"),
        (search.search, "a --evaluate f --rule first", "is not one of 'best', 'largest'"),
        (search.search, "a --evaluate f --jobs 0", "not in the range"),
        (search.search, "a --evaluate f --trials 0", "not in the range"),
        (search.sweep, "a --evaluate f --rule best", "No such option"),
        (search.learn, "a --evaluate f --loss none", "is not one of 'entropy', 'labels'"),
        (search.interference, "a b --evaluate f --tasks x,y", "Missing argument 'SECOND'"),
        (search.interference, "a b c --evaluate f", "Missing option '--tasks'"),
    ],
)
def test_what_a_verb_needs_is_asked_for(command, words, said):
    assert said in called(command, words)


def test_an_output_that_exists_is_refused_before_anything_is_judged(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/x").write_text("")
    said = called(search.search, f"a --evaluate nowhere.py:f -o {tmp_path / 'out'}", code=1)
    assert str(tmp_path / "out") in said and "nowhere" not in said


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["search", "a", "-o", "out", "--seed", "1"], ["search", "a", "--seed", "1"]),
        (["search", "a", "--out", "out"], ["search", "a"]),
        (["search", "--out=out", "a", "--json"], ["search", "a"]),
        (["search", "a", "--knob", "x=0:1"], ["search", "a", "--knob", "x=0:1"]),
    ],
)
def test_a_process_that_helps_writes_no_model_and_prints_nothing(words, kept):
    assert search._without_out(words) == kept


def test_one_process_needs_no_helper_and_keeps_the_journal():
    with search._helped(1, {"journal": "j.jsonl"}) as journal:
        assert journal == "j.jsonl"


def test_a_reference_takes_the_sources_that_its_recipe_names():
    sources = ("base=x", "a=y=z", "b=w")
    assert search._used("base + 0.5*(a - base)", sources) == ("base=x", "a=y=z")
    with pytest.raises(RecipeError, match=r"--reference 'a \+' is no recipe"):
        search._used("a +", sources)


def test_a_clamp_is_two_ends():
    assert search._ends("-1:2") == (-1, 2)
