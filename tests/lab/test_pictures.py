"""The charts of results as picture files."""

import xml.etree.ElementTree as ElementTree

from taskvec.lab.pictures import pictures
from taskvec.lab.results import Curves, Findings, Points

CURVES = Curves("Sensitivity", "λ", "accuracy", {"target": ((0, 0.5, 0.4, 0.6), (1, 0.2, 0.1, 0.3))}, {"chosen": 0.5})
POINTS = Points("Gains", "gain", "drop", {"movie": (0.1, 0.2), "spam": (0.3, 0.1)})


def test_every_chart_is_written_as_png_and_svg(tmp_path):
    written = pictures(Findings("negation", "?", (), curves=(CURVES,), points=(POINTS,)), tmp_path / "figures")
    assert [path.name for path in written] == [
        "negation-1.png", "negation-1.svg", "negation-2.png", "negation-2.svg",
    ]  # fmt: skip
    for path in written:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG") if path.suffix == ".png" else ElementTree.fromstring(content) is not None


def test_a_picture_takes_the_place_of_an_older_one(tmp_path):
    findings = Findings("addition", "?", (), curves=(CURVES,))
    pictures(findings, tmp_path)
    (tmp_path / "addition-1.png").write_bytes(b"old")
    pictures(findings, tmp_path)
    assert (tmp_path / "addition-1.png").read_bytes().startswith(b"\x89PNG")


def test_findings_without_charts_have_no_pictures(tmp_path):
    assert pictures(Findings("methods", "?", ()), tmp_path / "none") == []
