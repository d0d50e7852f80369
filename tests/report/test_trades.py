"""What is traded for what: the front of two objectives, and what a constraint costs."""

import re

import pytest

from report.shown import GRID, ONE, RNG, TWO, judge, shown
from taskvec.report.trades import trades, undominated


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
