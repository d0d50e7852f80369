"""Texts from files reach a terminal, a shell and a model card as characters, never as commands to any of them."""

import ast
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import taskvec

EVIL = "x\x1b]0;title\x07\x1b[2J\x9b31m\u202e\x7f"
SHOWN = "x\\x1b]0;title\\x07\\x1b[2J\\x9b31m\\u202e\\x7f"


@pytest.fixture
def world(tmp_path, build):
    """Files whose names, tensors and metadata would steer a terminal."""
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    build.raw(tmp_path / "name.safetensors", {EVIL + ".layers.0.w": tensor}, bytes(4))
    build.raw(tmp_path / "other.safetensors", {"w": tensor}, bytes(4))
    build.raw(tmp_path / "dtype.safetensors", {"w": tensor | {"dtype": EVIL}}, bytes(4))
    build.raw(
        tmp_path / "meta.safetensors", {"__metadata__": {EVIL: EVIL, "taskvec.base": EVIL}, "w": tensor}, bytes(4)
    )
    build.raw(tmp_path / "nan.safetensors", {EVIL: tensor}, np.array([np.nan], "f4").tobytes())
    save_file({"[red]a[/].layers.0.w": np.ones(3, "f4")}, tmp_path / "[b]c[dim].safetensors")
    save_file({"[/].0.w": np.ones(3, "f4")}, tmp_path / f"{EVIL}.safetensors")
    save_file({"w": np.ones(3, "f4")}, tmp_path / "good.safetensors")
    record = {"recipe": EVIL, "forced": EVIL, "fingerprint": EVIL, "tensors": {}}
    record["inputs"] = {EVIL: {"uri": EVIL, "mass": 1, "fingerprint": EVIL}}
    (tmp_path / "taskvec.json").write_text(json.dumps(record))
    (tmp_path / "merge.yml").write_text(f"merge_method: linear\n{json.dumps(EVIL)}: 1\nmodels: []\n")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ("show", "name.safetensors", "--tensors"), ("show", "dtype.safetensors"), ("show", "meta.safetensors"),
        ("merge", "(a+b)/2", "a=name.safetensors", "b=other.safetensors", "-o", "out"), ("log", "."), ("verify", "."),
        ("check", "name.safetensors", "other.safetensors"), ("merge", "a", "a=nan.safetensors", "-o", "out"),
        ("merge", "merge.yml", "-o", "out"), ("compare", f"{EVIL}.safetensors", f"{EVIL}.safetensors"),
        ("show", EVIL), ("nosuchverb" + EVIL,), ("show", "a", EVIL),
        ("merge", "good", "good=good.safetensors", "-o", f"out{EVIL}"),
    ],
    ids=lambda words: " ".join(words)[:24].encode("unicode_escape").decode(),
)  # fmt: skip
def test_no_control_character_of_a_file_reaches_the_terminal(world, run, words):
    done = run(*words)
    assert "Traceback" not in done.stderr
    printed = done.stdout + done.stderr
    assert all(c.isprintable() or c == "\n" for c in printed), printed
    assert "title" in printed  # the text itself is shown
    assert SHOWN[:12] in printed


def test_square_brackets_in_names_are_no_markup_in_tables(world, run):
    done = run("compare", "[b]c[dim].safetensors", "[b]c[dim].safetensors")
    assert done.code == 0 and "[b]c[dim]" in done.stdout, done
    assert run("compare", f"{EVIL}.safetensors", f"{EVIL}.safetensors").code == 0


def test_json_holds_no_control_character_either(world, run):
    done = run("show", "meta.safetensors", "--json")
    assert done.stdout.isascii() and all(c.isprintable() or c == "\n" for c in done.stdout)
    assert json.loads(done.stdout)["metadata"][EVIL] == EVIL


def test_all_that_the_command_line_prints_passes_through_one_door():
    """click.echo and print stand in the functions that escape, and nowhere else in cli/."""
    printing = []
    for path in sorted((Path(taskvec.__file__).parent / "cli").glob("*.py")):
        for top in ast.parse(path.read_text(encoding="utf-8")).body:
            calls = [ast.unparse(node.func) for node in ast.walk(top) if isinstance(node, ast.Call)]
            printing += [(path.name, getattr(top, "name", "")) for call in calls if call in ("click.echo", "print")]
    assert printing == [("common.py", "show_json"), ("common.py", "say")]


def test_the_command_of_a_model_card_is_quoted_for_a_shell(world, run, build):
    """Pasted, it makes the same bytes again and runs nothing else, whatever patterns and paths hold."""
    more = {"$(touch PWNED)": np.ones(3, np.float32)}
    folder = build.model(world / "a $(touch PWNED) `b` 'c' |<b>", build.tensors(0) | more)
    build.model(world / "b", build.tensors(1) | more)
    recipe = 'b + 0.5*only("*.mlp.*", "$(touch PWNED)")*(a - b)'
    assert run("merge", recipe, f"a={folder.name}", "b=b", "-o", "out").code == 0
    card = (world / "out" / "README.md").read_text()
    (line,) = [line for line in card.splitlines() if line.startswith("$ taskvec ")]
    again = line.removeprefix("$ taskvec ").replace("-o OUT", "-o again")
    done = subprocess.run(
        ["bash", "-c", f"$PY -m taskvec {again}"], cwd=world, env=os.environ | {"PY": _python()}, capture_output=True
    )
    assert done.returncode == 0, done
    assert (world / "again/model.safetensors").read_bytes() == (world / "out/model.safetensors").read_bytes()
    assert not (world / "PWNED").exists()
    row = next(line for line in card.splitlines() if line.startswith("| a "))
    assert row.count("|") == 5 and "<b>" not in row, row


def test_a_recipe_that_begins_with_a_minus_is_no_option_of_the_command(world, run, build):
    for k, name in enumerate("ab"):
        build.model(world / name, build.tensors(k))
    assert run("merge", "-o", "out", "--", "-1*a + 2*b", "a=a", "b=b").code == 0
    card = (world / "out" / "README.md").read_text()
    assert "$ taskvec merge -o OUT -- '-a + 2*b' a=a b=b" in card


def _python():
    import sys

    return sys.executable
