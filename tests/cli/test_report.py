"""The verb `report`: where its page may be written, and what its charts are called."""

import pytest
from click.testing import CliRunner

from taskvec.cli.report import report


def called(*words, code=1):
    done = CliRunner().invoke(report, [*map(str, words)])
    assert (done.exit_code, type(done.exception).__name__ if done.exception else "") == (
        code,
        "OutputError" if code else "",
    )
    return str(done.exception) if code else done.output


def test_the_page_takes_the_place_of_nothing_that_is_no_page(ended, tmp_path):
    assert "is a folder: name a file in it" in called(ended, "-o", tmp_path)
    assert "is not a folder" in called(ended, "-o", tmp_path / "no" / "p.html")
    assert "is a journal, and the page would take its place" in called(ended, "-o", ended, "--overwrite")
    (tmp_path / "p.html").write_text("old")
    assert "exists: take another name, or --overwrite" in called(ended, "-o", tmp_path / "p.html")
    called(ended, "-o", tmp_path / "p.html", "--overwrite", "-q", code=0)
    assert (tmp_path / "p.html").read_text().startswith("<!DOCTYPE html>") or "<html" in (
        tmp_path / "p.html"
    ).read_text()


def test_two_journals_of_one_name_are_told_apart_and_one_has_no_heading(ended, tmp_path):
    (tmp_path / "ended.jsonl").write_bytes(ended.read_bytes())
    both = called(ended, tmp_path / "ended.jsonl", code=0).splitlines()
    assert "ended" in both and "ended-2" in both
    assert "ended" not in called(ended, code=0).splitlines()


def test_a_journal_is_asked_for():
    done = CliRunner().invoke(report, [])
    assert done.exit_code == 2 and "JOURNAL" in done.output


@pytest.mark.parametrize("machine", [("--json",), ()])
def test_it_prints_the_record_of_the_trials(ended, machine):
    assert "x" in called(ended, *machine, code=0)
