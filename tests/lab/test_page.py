"""The page of results: every number and word of the findings, well-formed, with no text of a file as markup."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from taskvec.lab.page import cell_text, charts, page
from taskvec.lab.results import HOLDS, Claim, Curves, Estimate, Findings, Points, Table

ABOUT = {
    "suite": "tiny", "about": "A suite.", "training": {"rate": 0.1}, "taskvec": "0.1.0",
    "tasks": {"food": {"about": "what one eats", "data": "food.csv; 3 train"}},
    "experiments": {"negation": {"seeds": [0, 1, 2], "seconds": 3.5}},
}  # fmt: skip
LINE = ((0.0, 0.1, None, None), (0.5, 0.3, 0.2, 0.4), (1.0, 0.2, 0.1, 0.3))
ROWS = (("base", Estimate(0.5, 0.25, 0.75), 1.0), ("none", None, "x"))
TABLE = Table("Forgetting", ("model", "target", "λ"), ROWS, "Note.", ("λ",))
LINES = {"target": LINE, "control": LINE}
CURVES = Curves("Sensitivity", "λ", "accuracy", LINES, {"chosen": 0.4}, "Note of the curves.")
FINDINGS = Findings(
    "negation", "Does it forget?", ("It was subtracted.",),
    (TABLE,),
    (CURVES,),
    (Points("Gains", "gain", "drop", {"food": (0.1, 0.2), "nowhere": (float("nan"), 0.0)}, "Note of the points."),),
    (Claim("It forgets.", "48 to 24", "77 to 68", HOLDS),),
    ("Three targets are few.",),
)  # fmt: skip
VOID = {"meta", "line", "path", "circle", "rect", "polyline", "polygon", "br"}


class Page(HTMLParser):
    """Tags that are opened and closed in order, the text outside of them, and every attribute."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.tags = [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


def texts(findings):
    return [
        *findings.protocol,
        *findings.limits,
        *(c.here for c in findings.claims),
        *(t.title for t in findings.tables),
    ]


def test_a_page_has_everything_that_was_found():
    shown = Page(page(ABOUT, [FINDINGS]))
    assert not shown.open, "every tag is closed"
    for text in [
        *texts(FINDINGS), "Does it forget?", "48 to 24", HOLDS, "what one eats", "rate 0.1", "Seeds 0, 1, 2; 3.5 s",
        "Note of the curves.", "Note of the points.", "chosen: 0.4.", "50.0", "25.0 to 75.0",
    ]:  # fmt: skip
        assert text in shown.text, text
    assert [tag for tag, _ in shown.tags].count("svg") == 2


def test_a_page_of_a_real_run_is_well_formed_and_needs_no_network(finished):
    text = (finished.folder / "report.html").read_text()
    shown = Page(text)
    assert not shown.open
    assert all(sentence in shown.text for f in finished.result.findings for sentence in texts(f))
    assert not re.search(r"https?://(?!www\.w3\.org/)", text) and "src=" not in text and "@import" not in text
    targets = {a["id"] for _, a in shown.tags if "id" in a}
    assert {a["href"].removeprefix("#") for tag, a in shown.tags if tag == "a"} <= targets


HOSTILE = "<script>alert('1')</script>\"&"


def test_texts_of_a_suite_are_never_markup():
    table = replace(
        FINDINGS.tables[0], title=HOSTILE, columns=(HOSTILE, "b", "λ"), rows=((HOSTILE, HOSTILE, 1.0),), note=HOSTILE
    )
    curves = Curves(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: LINE}, {HOSTILE: 0.4}, HOSTILE, HOSTILE)
    points = replace(
        FINDINGS.points[0], title=HOSTILE, x=HOSTILE, y=HOSTILE, points={HOSTILE: (0.1, 0.2)}, note=HOSTILE
    )
    findings = Findings(
        HOSTILE, HOSTILE, (HOSTILE,), (table,), (curves,), (points,), (Claim(*[HOSTILE] * 4),), (HOSTILE,)
    )
    about = {
        **dict.fromkeys(("suite", "about", "taskvec"), HOSTILE), "training": {HOSTILE: HOSTILE},
        "tasks": {HOSTILE: {"about": HOSTILE, "data": HOSTILE}},
        "experiments": {HOSTILE: {"seeds": [HOSTILE], "seconds": 1}},
    }  # fmt: skip
    text = page(about, [findings])
    shown = Page(text)
    assert "<script" not in text and not shown.open
    assert not [attributes for _, attributes in shown.tags if any(name.startswith("on") for name in attributes)]
    assert shown.text.count("<script>alert('1')</script>\"&") > 20, "it is shown as it is"


@pytest.mark.parametrize(
    ("cell", "plain", "shown"),
    [
        (0.1234, False, "12.3"),
        (0.1234, True, "0.12"),
        (Estimate(0.5), False, "50.0"),
        (None, False, ""),
        ("a<b", True, "a&lt;b"),
    ],
)
def test_shares_are_shown_in_percent_and_coefficients_as_they_are(cell, plain, shown):
    assert cell_text(cell, plain) == shown


def test_every_curve_and_scatter_is_a_chart_with_its_caption():
    drawn = charts(FINDINGS)
    assert len(drawn) == 2 and all(svg.startswith("<svg") for svg, _ in drawn)
    (curves, caption), (points, note) = drawn
    assert "target (blue), control (green)" in caption and "Bands: 95 % intervals over seeds." in caption
    assert (
        curves.count("<circle") >= 6 and "food" in points and "nowhere" not in points and note == "Note of the points."
    )


def test_a_curve_without_intervals_says_nothing_of_bands():
    bare = replace(FINDINGS.curves[0], lines={"a": ((0.0, 0.1, None, None), (1.0, 0.2, None, None))})
    ((svg, caption),) = charts(Findings("e", "q", (), (), (bare,)))
    assert "Bands" not in caption and 'class="band' not in svg


def test_a_page_without_claims_and_of_an_experiment_that_about_does_not_know():
    text = page(ABOUT | {"experiments": {}}, [replace(FINDINGS, claims=())])
    assert "What holds on this suite" not in text and "Seeds" not in text
