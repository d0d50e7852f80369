"""The page of a search is one file of HTML that loads nothing. All texts of a journal in it are escaped."""

import shlex

import numpy as np
import pytest

import taskvec as tv
from report.shown import GRID, ONE, B, Tree, judge, shown, single
from taskvec.report.page import _command, page
from taskvec.searching.records import read_record


def test_the_recipe_of_the_page_makes_the_chosen_model(tmp_path):
    from safetensors.numpy import save_file

    for name, value in (("base", (0, 0)), ("a", (1, 0)), ("b", (0, 1))):
        save_file({"w": np.float32(value)}, tmp_path / f"{name}.safetensors")
    family = tv.parse(
        "base + lam*(a - base) + lam*(b - base)", **{n: str(tmp_path / f"{n}.safetensors") for n in ("base", "a", "b")}
    )
    record, _, _ = shown(tmp_path, family, judge, GRID, objective="mean(one, two)", test=False)
    assert tv.parse(record.file)["w"] == pytest.approx([record.chosen.knobs["lam"]] * 2)


def test_the_line_to_run_is_quoted_and_makes_the_chosen_model():
    line = _command('base = load("org/base")\nm = load("a b; rm -rf $(x)")\n0.5*base + 0.5*m\n')
    assert shlex.split(line) == [
        "taskvec", "merge", "0.5*base + 0.5*m", "base=org/base", "m=a b; rm -rf $(x)", "-o", "merged/",
    ]  # fmt: skip
    assert "$(" not in line.replace("'m=a b; rm -rf $(x)'", "")
    for other in (
        'a = load("x", revision="y")\na\n',
        "a = a\na\n",
        'a = select(load("x"), "*")\na\n',
        "",
        "; x = 1\na",
    ):
        assert _command(other) == ""


@pytest.mark.parametrize(
    ("evaluate", "options"),
    [
        (judge, {"objective": "one", "constraints": ["ppl <= 1"]}),  # none will do
        (judge, {"objective": "one", "test": False}),
        (single, {"objective": "-ppl"}),
        (judge, {"objective": "one", "trials": 1}),
        (judge, {"objective": "one", "replicates": [{"a": B}]}),
    ],
    ids=["infeasible", "no test", "single numbers", "one trial", "seeds"],
)
def test_whatever_was_found_makes_a_page(tmp_path, evaluate, options):
    record, html, tree = shown(tmp_path, ONE, evaluate, GRID, **options)
    text = " ".join(tree.texts)
    assert ("No candidate will do" in text) == (record.chosen is None) and tree.tags.count("h1") == 1
    assert ("none of 11 keeps ppl <= 1; the closest, lam = 0, misses ppl <= 1 by 19" in text) == (record.chosen is None)
    assert ("within 0.01 of its best" in text) == (record.chosen is not None)
    assert ("Over seeds" in text) == bool(record.seeds) and "nan" not in html.lower().replace("finance", "")


def test_texts_of_a_journal_are_escaped_and_nothing_comes_from_elsewhere(tmp_path):
    bad = "<script>alert(1)</script>"

    def evil(weights, split):
        return {bad: [float(weights["w"][0]), 0.5]}

    _, html, tree = shown(tmp_path, ONE, evil, GRID, objective=f'mean("{bad}")')
    assert html.count("<script>") == tree.tags.count("script") == 1 and "alert(1)</script>" not in html
    named = page({'<img src="x">': read_record(tmp_path / "j.jsonl")})
    assert "img" not in Tree(named).tags
    assert not [a for a in tree.attributes if a[1] in ("src", "href")]
    assert "://" not in html and "url(" not in html and "@import" not in html
    assert "prefers-color-scheme: dark" in html and 'name="viewport"' in html
    assert (
        all(("svg", "role", "img") in tree.attributes for _ in "1") and "aria-label" in html and 'scope="row"' in html
    )
