"""Pictures of a search show the numbers of its record. Pictures that make no sense are not drawn."""

import numpy as np
import pytest

from report.shown import GRID, ONE, TWO, judge
from taskvec.errors import OutputError
from taskvec.report.plots import curves, figures, heatmap, tradeoff
from taskvec.searching.records import read_record
from taskvec.searching.search import search

BOTH = {"x": [0, 0.5, 1], "y": [0, 1]}


def recorded(tmp_path, *args, **options):
    search(*args, journal=tmp_path / "j.jsonl", test=False, **options)
    return read_record(tmp_path / "j.jsonl")


def test_curves_are_of_every_metric_against_the_one_knob(tmp_path):
    record = recorded(tmp_path, ONE, judge, GRID, objective="one")
    drawn = {axis.get_title(loc="left"): axis for axis in curves(record).axes}
    assert drawn.keys() == {"one", "two", "ppl"}
    for metric, axis in drawn.items():
        x, y = axis.lines[0].get_data()
        assert [*x] == [t.knobs["lam"] for t in record.trials] and [*y] == [t.metrics[metric] for t in record.trials]
        assert f"lam = {record.chosen.knobs['lam']:g}" in axis.get_title(loc="right")
    assert heatmap(record) is None


def test_a_heat_map_has_the_objective_at_each_pair_of_values(tmp_path):
    record = recorded(tmp_path, TWO, judge, BOTH, objective="mean(one, two)")
    (image,) = heatmap(record).axes[0].images
    value = {(t.knobs["x"], t.knobs["y"]): t.goodness for t in record.trials}
    assert np.array_equal(image.get_array(), [[value[x, y] for x in BOTH["x"]] for y in BOTH["y"]])
    assert curves(record) is None


def test_a_trade_shows_the_candidates_and_their_front(tmp_path):
    record = recorded(tmp_path, ONE, judge, GRID, objective=["one", "two"])
    axis = tradeoff(record).axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("one", "two") and len(record.front()) > 1
    points = {tuple(p) for p in axis.collections[0].get_offsets().tolist()}
    assert points == {(t.metrics["one"], t.metrics["two"]) for t in record.trials}
    (front,) = [line for line in axis.lines if line.get_label() == "Pareto front"]
    assert {tuple(p) for p in front.get_xydata().tolist()} == {
        (t.metrics["one"], t.metrics["two"]) for t in record.front()
    }


def test_files_are_named_by_the_search_and_an_unknown_format_is_stated(tmp_path):
    record = recorded(tmp_path, ONE, judge, GRID, objective="one")
    made = figures(record, tmp_path / "out", "sum", "svg")
    assert [path.name for path in made] == ["sum-curves.svg", "sum-tradeoff.svg"]
    assert all("<svg" in path.read_text() for path in made)
    with pytest.raises(OutputError, match="docx"):
        figures(record, tmp_path / "out", "sum", "docx")
