"""Picture files of the charts: a PNG and an SVG of each."""

import sys
from dataclasses import replace

import pytest

from lab.test_page import FINDINGS
from taskvec.errors import MissingExtra
from taskvec.lab.pictures import pictures


def test_every_chart_is_written_as_png_and_svg(tmp_path):
    paths = pictures(FINDINGS, tmp_path / "figures")
    assert [path.name for path in paths] == ["negation-1.png", "negation-1.svg", "negation-2.png", "negation-2.svg"]
    assert sorted(paths) == sorted((tmp_path / "figures").iterdir())
    assert all(path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml") for path in paths)
    svg = (tmp_path / "figures" / "negation-1.svg").read_text()
    assert svg.count("<path") > 4


def test_a_picture_takes_the_place_of_an_older_one(tmp_path):
    (tmp_path / "negation-1.png").write_bytes(b"old")
    pictures(FINDINGS, tmp_path)
    assert (tmp_path / "negation-1.png").read_bytes().startswith(b"\x89PNG")


def test_findings_without_charts_have_no_pictures(tmp_path):
    assert pictures(replace(FINDINGS, curves=(), points=()), tmp_path / "none") == []


def test_a_run_has_the_pictures_of_all_its_charts(finished):
    names = {path.name for path in (finished.folder / "figures").iterdir()}
    wanted = {
        f"{f.experiment}-{k + 1}.{suffix}"
        for f in finished.result.findings
        for k in range(len(f.curves) + len(f.points))
        for suffix in ("png", "svg")
    }
    assert names == wanted


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match="plot"):
        pictures(FINDINGS, tmp_path)
