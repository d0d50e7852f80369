"""The charts of a search show what was tried, chosen and given up."""

import re
from itertools import pairwise

from report.shown import GRID, ONE, TWO, judge, shown
from taskvec.searching.evidence import interval


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


def test_the_best_so_far_is_a_staircase(tmp_path):
    _, html, _ = shown(tmp_path, TWO, judge, {"x": (0, 1), "y": (0, 1)}, sampler="random", trials=20, seed=2)
    progress = next(s for s in re.findall(r"<svg.*?</svg>", html, flags=re.S) if ">progress<" in s)
    steps = [p.split(",") for p in re.search(r'"line c0" points="(.*?)"', progress)[1].split()]
    pairs = [*pairwise(steps)]
    assert pairs and all(a[0] == b[0] or a[1] == b[1] for a, b in pairs)


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
