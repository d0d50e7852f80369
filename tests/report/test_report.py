"""The report: one self-contained page from a journal alone, and pictures; what it shows, and what it never does."""

import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

import taskvec as tv
from taskvec.cli.report import _names
from taskvec.errors import FormatError
from taskvec.report.page import _command, page
from taskvec.report.svg import ticks
from taskvec.report.trades import trades, undominated
from taskvec.searching.evidence import interval
from taskvec.searching.records import read_record
from taskvec.searching.search import search

RNG = np.random.default_rng(0)
TARGETS = {
    s: {"one": RNG.normal(0.6, 0.3, n), "two": RNG.normal(0.4, 0.3, n)} for s, n in (("validation", 80), ("test", 150))
}
BASE, A, B = (tv.from_arrays({"w": np.float32(v)}, n) for n, v in (("base", (0, 0)), ("a", (1, 0)), ("b", (0, 1))))
ONE = tv.parse("base + lam*(a - base) + lam*(b - base)", base=BASE, a=A, b=B)
TWO = tv.parse("base + x*(a - base) + y*(b - base)", base=BASE, a=A, b=B)
GRID = {"lam": (0, 1, 0.1)}
VOID = {"meta", "link", "br", "hr", "img", "input"}


def judge(weights, split):
    w = weights["w"].astype(float)
    hits = {t: (np.abs(x - w[k]) < 0.4).astype(float) for k, (t, x) in enumerate(TARGETS[split].items())}
    return hits | {"ppl": float(20 + 5 * (w**2).sum())}


judge.examples = lambda split: {t: [f"{split}{t}{k}" for k in range(len(v))] for t, v in TARGETS[split].items()}


def single(weights, split):
    return {"ppl": float(20 + 5 * (weights["w"].astype(float) ** 2).sum())}


class Tree(HTMLParser):
    """Every element is closed by its own end; texts and attributes are kept."""

    def __init__(self, html):
        super().__init__()
        self.open, self.texts, self.attributes, self.tags = [], [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def shown(tmp_path, *args, **options):
    search(*args, journal=tmp_path / "j.jsonl", **options)
    record = read_record(tmp_path / "j.jsonl")
    html = page({"j": record})
    return record, html, Tree(html)


def test_every_curve_has_its_band_and_the_chosen_value(tmp_path):
    record, html, tree = shown(tmp_path, ONE, judge, GRID, objective="mean(one, two)")
    text, charts = " ".join(tree.texts), re.findall(r"<svg.*?</svg>", html, flags=re.S)
    assert len(charts) == 5  # the objective, three metrics, and the objective against ppl, of which it is not made
    assert 'aria-label="mean(one, two) against ppl' in charts.pop() and "so there is no front" in text
    lam = record.chosen.knobs["lam"]
    for chart, name in zip(charts, ["objective", "one", "two", "ppl"], strict=True):
        value = record.chosen.goodness if name == "objective" else record.chosen.metrics[name]
        assert f"lam = {lam:g}: {value:.4g}<" in chart and 'class="chosen ring"' in chart
        assert ("band" in chart) == (name in ("one", "two")) and 'class="level"' in chart
        assert chart.count("<circle") == len(record.trials) + 1
    assert f"lam = {lam:g}" in text and "the highest mean(one, two) of 11 candidates" in text
    ends = record.plateau()
    assert f"{ends[0]:g} to {ends[1]:g}" in text and 'class="shade"' in charts[0]
    span = interval([record.test["chosen"]["one"]])
    assert f"{span.low:.3g} to {span.high:.3g}" in text and "(Holm)" in text
    assert record.file in html.replace("&#x27;", "'").replace("&quot;", '"') and "taskvec merge recipe.py" in text
    assert text.count("no significant difference") == sum(d.p > 0.05 for d in record.compared().values())
    assert f"All {len(record.trials)} candidates" in text


def test_the_recipe_of_the_page_makes_the_chosen_model(tmp_path):
    from safetensors.numpy import save_file

    for name, value in (("base", (0, 0)), ("a", (1, 0)), ("b", (0, 1))):
        save_file({"w": np.float32(value)}, tmp_path / f"{name}.safetensors")
    family = tv.parse(
        "base + lam*(a - base) + lam*(b - base)", **{n: str(tmp_path / f"{n}.safetensors") for n in ("base", "a", "b")}
    )
    record, _, _ = shown(tmp_path, family, judge, GRID, objective="mean(one, two)", test=False)
    assert tv.parse(record.file)["w"] == pytest.approx([record.chosen.knobs["lam"]] * 2)


def test_two_knobs_on_a_grid_are_a_heat_map(tmp_path):
    record, html, _ = shown(tmp_path, TWO, judge, {"x": (0, 1, 0.25), "y": (0, 1, 0.25)}, objective="mean(one, two)")
    cells = re.findall(r'<rect class="cell( chosen)?".*?<title>(.*?)</title>', html)
    assert len(cells) == 25 and sum(bool(chosen) for chosen, _ in cells) == 1
    values = {(t.knobs["x"], t.knobs["y"]): t.goodness for t in record.trials}
    assert {title for _, title in cells} == {f"x = {x:g}, y = {y:g}: {v:.4g}" for (x, y), v in values.items()}


def test_a_cell_shows_what_can_be_chosen_and_a_ring_where_nothing_can(tmp_path):
    ranges = {"x": (0, 1, 0.25), "y": (0, 1, 0.25)}
    record, html, _ = shown(tmp_path, TWO, judge, ranges, objective="-ppl", minimise=True, constraints=["ppl <= 23"])
    heat = re.search(r'<svg class="heat".*?</svg>', html, flags=re.S)[0]
    broken = [t for t in record.trials if t.broken]
    assert 0 < len(broken) == heat.count('class="dot broken"') == heat.count("; breaks ppl &lt;= 23")
    assert heat.count('<rect class="frame"') == 1 and "a ring: no candidate there" in html
    worst, best = (f"{f(-t.metrics['ppl'] for t in record.trials):.3g}<" for f in (max, min))
    assert 0 < heat.rindex(worst) < heat.rindex(best)  # the key, from light to dark


def test_the_best_so_far_is_a_staircase(tmp_path):
    _, html, _ = shown(tmp_path, TWO, judge, {"x": (0, 1), "y": (0, 1)}, sampler="random", trials=20, seed=2)
    progress = next(s for s in re.findall(r"<svg.*?</svg>", html, flags=re.S) if ">progress<" in s)
    steps = [p.split(",") for p in re.search(r'"line c0" points="(.*?)"', progress)[1].split()]
    pairs = [*pairwise(steps)]
    assert pairs and all(a[0] == b[0] or a[1] == b[1] for a, b in pairs)


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


def test_several_objectives_have_their_front(tmp_path):
    ranges = {"x": (0, 1), "y": (0, 1)}
    record, html, tree = shown(
        tmp_path, TWO, judge, ranges, objective=["mean(one, two)", "-ppl"], sampler="random", trials=30
    )
    assert f"the line joins the {len(record.front())} that none beats" in html
    assert " ".join(tree.texts).count("on the front") >= len(record.front()) - 1


def test_a_target_against_its_constraint(tmp_path):
    options = {"objective": "one", "minimise": True, "constraints": ["ppl <= base.ppl + 2"]}
    record, html, tree = shown(tmp_path, ONE, judge, GRID, **options)
    broken = sum(bool(t.broken) for t in record.trials)
    assert 0 < broken < len(record.trials)
    trade = next(s for s in re.findall(r"<svg.*?</svg>", html, flags=re.S) if "one against ppl" in s)
    assert trade.count('class="dot broken"') == broken and "ppl &lt;= base.ppl + 2" in trade
    assert 'class="base"' in trade and "there is one that none beats in both" in html  # both are small at lam = 0
    curves = {s: s.count("level bound") for s in re.findall(r"<svg.*?</svg>", html, flags=re.S)}
    assert sum(curves.values()) == 2 and 'class="title" x="62" y="15">ppl<' in next(s for s, n in curves.items() if n)
    assert f"{len(record.trials) - broken} of {len(record.trials)} candidates keep ppl" in " ".join(tree.texts)


def test_what_keeping_a_constraint_costs_is_a_front(tmp_path):
    record, html, _ = shown(tmp_path, ONE, judge, GRID, objective="one", constraints=["base.ppl + 2 >= ppl"])
    (trade,) = trades(record)
    points = [(t.metrics["ppl"], t.metrics["one"]) for t in record.trials]
    none = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)}
    assert set(trade.front) == none and len(none) > 2 and f"joins the {len(none)} that none beats in both" in html
    assert (trade.x, trade.y, trade.bound.value, trade.bound.up, trade.base) == ("ppl", "one", 22, False, points[0])


@pytest.mark.parametrize("up", [(True, True), (True, False), (False, True), (False, False)])
def test_undominated_is_what_comparing_all_with_all_finds(up):
    points = [tuple(p) for p in RNG.integers(0, 12, (60, 2)).tolist()]
    good = {p: tuple(v if u else -v for v, u in zip(p, up, strict=True)) for p in points}
    beaten = {p for p in good for q in good if q != p and all(a >= b for a, b in zip(good[q], good[p], strict=True))}
    assert set(undominated(points, up)) == good.keys() - beaten


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


def test_candidates_that_were_given_up_are_pale_and_end_the_plateau(tmp_path):
    class Parted:
        text = "parted"

        def __init__(self, start=0.0, stop=1.0):
            self.ends = start, stop

        def examples(self, split):
            return None

        def part(self, start, stop):
            return Parted(start, stop)

        def __call__(self, weights, split):
            hits = {n: v for n, v in judge(weights, split).items() if n != "ppl"}
            return {n: v[round(self.ends[0] * len(v)) : round(self.ends[1] * len(v))] for n, v in hits.items()}

    grid = {"lam": (-1, 2, 0.1)}
    record, html, _ = shown(tmp_path, ONE, Parted(), grid, objective="mean(one, two)", race=True)
    lost = [t.knobs["lam"] for t in record.given_up]
    assert lost and html.count('class="dot lost"') == 3 * len(lost) and f"Pale: {len(lost)} given up" in html
    low, high = record.plateau()
    assert not [v for v in lost if low <= v <= high]
    assert "Given up after a part of the examples" in html


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


def taskvec(folder, *words, code=0):
    done = subprocess.run([sys.executable, "-m", "taskvec", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout if not code else done.stderr


def test_the_verb_writes_pages_and_pictures(tmp_path):
    search(ONE, judge, GRID, objective="one", journal=tmp_path / "sum.jsonl")
    search(TWO, judge, {"x": [0, 0.5, 1], "y": [0, 0.5, 1]}, objective=["one", "two"], journal=tmp_path / "two.jsonl")
    out = taskvec(tmp_path, "report", "sum.jsonl", "two.jsonl", "-o", "r.html", "--plots", "figures")
    files = ["figures/sum-curves.png", "figures/two-heatmap.png", "figures/two-tradeoff.png"]
    assert out.split() == ["r.html", files[0], "figures/sum-tradeoff.png", files[2], files[1]]
    assert all((tmp_path / f).read_bytes().startswith(b"\x89PNG") for f in files)
    assert [t for t in Tree((tmp_path / "r.html").read_text()).tags if t == "h1"] == ["h1", "h1"]
    odd = {"objective": "one", "constraints": ["'a$b$' <= base['a$b$'] + 2"], "journal": tmp_path / "odd.jsonl"}
    search(ONE, lambda w, s: judge(w, s) | {"a$b$": judge(w, s)["ppl"]}, GRID, **odd)
    taskvec(tmp_path, "report", "odd.jsonl", "--plots", "svg", "--format", "svg")
    assert all("<svg" in (tmp_path / "svg" / f"odd-{what}.svg").read_text() for what in ("curves", "tradeoff"))
    (tmp_path / "odd.jsonl").unlink()
    taskvec(tmp_path, "report", "sum.jsonl", "--plots", "svg", "--format", "svg")
    assert "<svg" in (tmp_path / "svg" / "sum-curves.svg").read_text()
    assert "highest one of 11 candidates" in taskvec(tmp_path, "report", "sum.jsonl")
    assert {p.name for p in tmp_path.iterdir()} == {"sum.jsonl", "two.jsonl", "r.html", "figures", "svg"}


def test_what_cannot_be_reported_is_stated_and_nothing_is_lost(tmp_path):
    search(ONE, judge, GRID, objective="one", journal=tmp_path / "j.jsonl")
    (tmp_path / "r.html").write_text("mine")
    assert "r.html exists" in taskvec(tmp_path, "report", "j.jsonl", "-o", "r.html", code=1)
    assert (tmp_path / "r.html").read_text() == "mine"
    (tmp_path / "half.jsonl").write_bytes(b"\n".join((tmp_path / "j.jsonl").read_bytes().splitlines()[:5]) + b"\n")
    (tmp_path / "text.jsonl").write_text("hello\n")
    for name, what in (
        ("half.jsonl", "has not ended"), ("text.jsonl", "line 1: no line of a journal"), ("none.jsonl", "none.jsonl"),
        (".", "."),
    ):  # fmt: skip
        assert what in taskvec(tmp_path, "report", name, "-o", "new.html", code=1)
    assert "no/such" in taskvec(tmp_path, "report", "j.jsonl", "-o", "no/such/r.html", code=1)
    assert "error" in taskvec(tmp_path, "report", "j.jsonl", "--plots", "f", "--format", "docx", code=1)
    assert not (tmp_path / "new.html").exists()
    taskvec(tmp_path, "report", "j.jsonl", "-o", "r.html", "--overwrite")
    assert "<html" in (tmp_path / "r.html").read_text()


def test_a_page_takes_the_place_of_no_folder_and_of_no_journal(tmp_path):
    search(ONE, judge, GRID, objective="one", journal=tmp_path / "j.jsonl")
    before = (tmp_path / "j.jsonl").read_bytes()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("years")
    assert "mine is a folder" in taskvec(tmp_path, "report", "j.jsonl", "-o", "mine", "--overwrite", code=1)
    assert (tmp_path / "mine" / "work.txt").read_text() == "years"
    assert "is a journal" in taskvec(tmp_path, "report", "j.jsonl", "-o", "j.jsonl", "--overwrite", code=1)
    assert (tmp_path / "j.jsonl").read_bytes() == before


def test_journals_of_one_name_are_told_apart_and_their_pictures_stay_in_the_folder(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        search(ONE, judge, GRID, objective="one", journal=tmp_path / folder / "j.jsonl")
    paths = [str(tmp_path / folder / "j.jsonl") for folder in ("a", "b")]
    taskvec(tmp_path, "report", *paths, "--plots", "figures", "-o", "r.html")
    assert {p.name for p in (tmp_path / "figures").iterdir()} >= {"j-curves.png", "j-2-curves.png"}
    assert {p.name for f in ("a", "b") for p in (tmp_path / f).iterdir()} == {"j.jsonl"}
    assert "<h1>j</h1>" in (html := (tmp_path / "r.html").read_text()) and "<h1>j-2</h1>" in html
    assert [*_names(("postgresql://me:secret@host/db#a/b", "j.jsonl"))] == ["a_b", "j"]


@pytest.mark.parametrize("value", ["<script>", None, [1], {}, float("nan"), float("inf"), True])
@pytest.mark.parametrize("place", ["knobs", "scores"])
def test_a_journal_that_no_search_writes_is_stated(tmp_path, place, value):
    search(ONE, judge, GRID, objective="one", journal=tmp_path / "j.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    next(line for line in lines if "trial" in line)[place]["lam" if place == "knobs" else "one"] = value
    (tmp_path / "j.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(FormatError, match=r"j\.jsonl: no search writes this"):
        read_record(tmp_path / "j.jsonl")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda first, last: first.update(search=99), "another version"),
        (lambda first, last: first.update(objective=[]), "objective is .., not a list of texts"),
        (lambda first, last: first.update(objective=["one*1e308*1e308"]), "no finite number"),
        (lambda first, last: first.update(objective=["import os"]), "does not fit together"),
        (lambda first, last: first.update(constraints=["one >= nobody.one"]), "no model is called nobody"),
        (lambda first, last: last.update(choice={"lam": 0.123}), "none of the candidates"),
    ],
)
def test_a_journal_whose_parts_do_not_fit_is_stated(tmp_path, change, what):
    search(ONE, judge, GRID, objective="one", journal=tmp_path / "j.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    change(lines[0], lines[-1])
    (tmp_path / "j.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(FormatError, match=what):
        read_record(tmp_path / "j.jsonl")


def test_a_journal_that_is_nested_too_deeply_is_stated(tmp_path):
    (tmp_path / "j.jsonl").write_text('{"search":1}\n' + "[" * 100_000 + "]" * 100_000 + "\n")
    with pytest.raises(FormatError, match="line 2"):
        read_record(tmp_path / "j.jsonl")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.3, 0.2), (19.9, 26.1), (1e-7, 3e-7), (0, 1.2), (5, 123456)])
def test_ticks_are_round_and_within(low, high):
    found = ticks(low, high, 6)
    assert 3 <= len(found) <= 9 and all(low - 1e-12 <= v <= high + 1e-12 for v in found)
    steps = np.diff(found)
    assert np.allclose(steps, steps[0])
