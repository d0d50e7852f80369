"""What the verbs share: NAME=URI arguments, numbers, recipe files, and two ways to print."""

import io
import json
import sys

import click
import pytest

from taskvec.cli import common
from taskvec.errors import RecipeError


def test_arguments_are_names_and_places():
    assert common.named(("a=x", "b=y=z")) == {"a": "x", "b": "y=z"} and common.named(()) == {}
    assert common.named(("org/a@main=x",), any_name=True) == {"org/a@main": "x"}
    for wrong in ("a", "a=", "=x", "1a=x", "org/a=x"):
        with pytest.raises(RecipeError, match=f"'{wrong}' is not NAME=URI"):
            common.named((wrong,))
    with pytest.raises(RecipeError, match="a is given twice"):
        common.named(("a=x", "a=y"))
    with pytest.raises(RecipeError, match="'x' is not KNOB=NUMBER"):
        common.named(("x",), "KNOB=NUMBER")


@pytest.mark.parametrize(
    ("text", "numerator", "denominator"),
    [("0.3", 3, 10), ("-1", -1, 1), ("1/3", 1, 3), ("1e-3", 1, 1000), ("+2", 2, 1), ("0.5/2", 1, 4), ("1/0.5", 2, 1)],
)
def test_a_number_is_exactly_what_is_written(text, numerator, denominator):
    coefficient = common.number("x", text).constant
    assert (coefficient.numerator, coefficient.denominator) == (numerator, denominator)


@pytest.mark.parametrize("text", ["", "a", "1/", "1/2/3", "0x10", "1,5"])
def test_what_is_no_number_is_said_with_its_name(text):
    with pytest.raises(RecipeError, match=f"x={text}: .* is not a number"):
        common.number("x", text)


def test_a_recipe_is_a_text_or_a_file_with_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.py").write_text("a + b")
    (tmp_path / "m.safetensors").write_bytes(b"x")
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    assert common.recipe_text("r.py") == "a + b" and common.recipe_text("a - b") == "a - b"
    assert common.recipe_text("a" * 5000) == "a" * 5000
    for name, message in (
        ("other.py", "other.py does not exist: give a recipe, or a file with one"),
        ("m.safetensors", "is a checkpoint, not a recipe"),
        ("bad.txt", "cannot be read as a recipe"),
    ):
        with pytest.raises(RecipeError, match=message):
            common.recipe_text(name)


def test_options_of_mergekit_s_files_and_of_recipes_are_told_apart(tmp_path):
    path = tmp_path / "c.yml"
    path.write_text("merge_method: linear\nmodels: [{model: nowhere}]\n")
    with pytest.raises(RecipeError, match="--set and --methods are for recipes"):
        common.made(str(path), (), ("x=1",), None, None, None)
    with pytest.raises(RecipeError, match="--document half: the recipe is no file of mergekit's"):
        common.made("a", (), (), None, "half", None)


def test_all_sources_that_cannot_be_read_are_said_at_once(tmp_path):
    with pytest.raises(Exception, match="some sources cannot be read") as error:
        common.weights_of("a + b", (f"a={tmp_path / 'x'}", f"b={tmp_path / 'y'}"), (), None)
    assert "a: " in str(error.value) and "b: " in str(error.value)


def test_json_is_one_document_and_texts_have_no_bytes_that_steer_a_terminal(capsys):
    common.show_json({"a": "\x7f\x1b", "path": click})
    out = capsys.readouterr().out
    assert json.loads(out)["a"] == "\x7f\x1b" and "\x7f" not in out and "\x1b" not in out
    common.say("a\x1b[31m")
    common.show_note("b\x1b")
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err and printed.err.startswith("note: b")
    assert "\x1b" not in common.cell("a\x1b\nb").plain and "\\n" in common.cell("a\nb").plain


@pytest.mark.parametrize(
    ("machine", "quiet", "out", "err"),
    [(False, False, "text\n", "warning: odd\n"), (False, True, "", ""), (True, False, '{\n  "k": 1\n}\n', "")],
)
def test_what_was_written_is_said_once_in_the_way_that_is_asked_for(capsys, machine, quiet, out, err):
    common.show_written("out", {"k": 1}, "text", machine, quiet, "odd")
    assert capsys.readouterr() == (out, err)


def test_an_output_that_could_not_be_talked_about_is_whole_all_the_same(capsys):
    with common.whole("out"):
        raise OSError(28, "No space left on device")
    assert (
        capsys.readouterr().err
        == "note: out is whole and in its place; the rest could not be printed: No space left on device\n"
    )
    with common.whole("out"):
        raise BrokenPipeError
    assert capsys.readouterr().err == ""


def test_progress_is_shown_on_a_terminal_alone(monkeypatch):
    with common.progress(False, "x") as report:
        assert report is None
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with common.progress(True, "x") as report:
        assert report is None
    with common.progress(False, "merging") as report:
        report(1, 2)
        report(2, 0)
