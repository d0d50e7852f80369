"""The verb `report` writes pages and pictures from journals alone, and loses nothing."""

from commands import run
from report.shown import GRID, ONE, TWO, Tree, judge
from taskvec.cli.report import _names
from taskvec.searching.search import search


def test_the_verb_writes_pages_and_pictures(tmp_path):
    search(ONE, judge, GRID, objective="one", journal=tmp_path / "sum.jsonl")
    search(TWO, judge, {"x": [0, 0.5, 1], "y": [0, 0.5, 1]}, objective=["one", "two"], journal=tmp_path / "two.jsonl")
    out = run(tmp_path, "report", "sum.jsonl", "two.jsonl", "-o", "r.html", "--plots", "figures")
    files = ["figures/sum-curves.png", "figures/two-heatmap.png", "figures/two-tradeoff.png"]
    assert out.split() == ["r.html", files[0], "figures/sum-tradeoff.png", files[2], files[1]]
    assert all((tmp_path / f).read_bytes().startswith(b"\x89PNG") for f in files)
    assert [t for t in Tree((tmp_path / "r.html").read_text()).tags if t == "h1"] == ["h1", "h1"]
    odd = {"objective": "one", "constraints": ["'a$b$' <= base['a$b$'] + 2"], "journal": tmp_path / "odd.jsonl"}
    search(ONE, lambda w, s: judge(w, s) | {"a$b$": judge(w, s)["ppl"]}, GRID, **odd)
    run(tmp_path, "report", "odd.jsonl", "--plots", "svg", "--format", "svg")
    assert all("<svg" in (tmp_path / "svg" / f"odd-{what}.svg").read_text() for what in ("curves", "tradeoff"))
    (tmp_path / "odd.jsonl").unlink()
    run(tmp_path, "report", "sum.jsonl", "--plots", "svg", "--format", "svg")
    assert "<svg" in (tmp_path / "svg" / "sum-curves.svg").read_text()
    assert "highest one of 11 candidates" in run(tmp_path, "report", "sum.jsonl")
    assert {p.name for p in tmp_path.iterdir()} == {"sum.jsonl", "two.jsonl", "r.html", "figures", "svg"}


def test_what_cannot_be_reported_is_stated_and_nothing_is_lost(tmp_path):
    search(ONE, judge, GRID, objective="one", journal=tmp_path / "j.jsonl")
    (tmp_path / "r.html").write_text("mine")
    assert "r.html exists" in run(tmp_path, "report", "j.jsonl", "-o", "r.html", code=1)
    assert (tmp_path / "r.html").read_text() == "mine"
    (tmp_path / "half.jsonl").write_bytes(b"\n".join((tmp_path / "j.jsonl").read_bytes().splitlines()[:5]) + b"\n")
    (tmp_path / "text.jsonl").write_text("hello\n")
    for name, what in (
        ("half.jsonl", "has not ended"), ("text.jsonl", "line 1: no line of a journal"), ("none.jsonl", "none.jsonl"),
        (".", "."),
    ):  # fmt: skip
        assert what in run(tmp_path, "report", name, "-o", "new.html", code=1)
    assert "no/such" in run(tmp_path, "report", "j.jsonl", "-o", "no/such/r.html", code=1)
    assert "error" in run(tmp_path, "report", "j.jsonl", "--plots", "f", "--format", "docx", code=1)
    assert not (tmp_path / "new.html").exists()
    run(tmp_path, "report", "j.jsonl", "-o", "r.html", "--overwrite")
    assert "<html" in (tmp_path / "r.html").read_text()


def test_a_page_takes_the_place_of_no_folder_and_of_no_journal(tmp_path):
    search(ONE, judge, GRID, objective="one", journal=tmp_path / "j.jsonl")
    before = (tmp_path / "j.jsonl").read_bytes()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("years")
    assert "mine is a folder" in run(tmp_path, "report", "j.jsonl", "-o", "mine", "--overwrite", code=1)
    assert (tmp_path / "mine" / "work.txt").read_text() == "years"
    assert "is a journal" in run(tmp_path, "report", "j.jsonl", "-o", "j.jsonl", "--overwrite", code=1)
    assert (tmp_path / "j.jsonl").read_bytes() == before


def test_journals_of_one_name_are_told_apart_and_their_pictures_stay_in_the_folder(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        search(ONE, judge, GRID, objective="one", journal=tmp_path / folder / "j.jsonl")
    paths = [str(tmp_path / folder / "j.jsonl") for folder in ("a", "b")]
    run(tmp_path, "report", *paths, "--plots", "figures", "-o", "r.html")
    assert {p.name for p in (tmp_path / "figures").iterdir()} >= {"j-curves.png", "j-2-curves.png"}
    assert {p.name for f in ("a", "b") for p in (tmp_path / f).iterdir()} == {"j.jsonl"}
    assert "<h1>j</h1>" in (html := (tmp_path / "r.html").read_text()) and "<h1>j-2</h1>" in html
    assert [*_names(("postgresql://me:secret@host/db#a/b", "j.jsonl"))] == ["a_b", "j"]
