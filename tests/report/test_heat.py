"""Heat maps show the objective over two knobs whose values form a grid."""

import re

from report.shown import TWO, judge, shown


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
