"""The folder in which an output grows: one writer, one plan, one journal of the blocks that are done."""

import json
import os
import shutil

import pytest

from saving.stages import BLOCKS, at, stages, synced
from taskvec.errors import OutputError
from taskvec.saving.outputs import Destination
from taskvec.saving.staging import finished_before, one_file, write_file


@pytest.fixture
def stage(tmp_path):
    with stages(tmp_path) as make:
        yield make


def test_what_is_recorded_is_there_for_the_next_run_of_the_same_plan(stage):
    first = stage()
    (first.files / "x").write_text("data")
    first.record(BLOCKS, synced)
    first.close()
    second = stage()
    assert second.done == {0: BLOCKS[0], 1: BLOCKS[1]} and (second.files / "x").read_text() == "data"


def test_blocks_are_noted_only_when_their_data_is_safe(stage):
    staged, journal_then = stage(), []
    journal = staged.folder / "journal.jsonl"
    before = journal.read_text()
    staged.record(BLOCKS, lambda: journal_then.append(journal.read_text()))
    assert journal_then == [before] and journal.read_text() != before


@pytest.mark.parametrize("other", [{"key": "another"}, {"resume": False}])
def test_another_plan_or_no_resume_starts_from_nothing(stage, other):
    first = stage()
    (first.files / "x").write_text("data")
    first.record(BLOCKS, synced)
    first.close()
    second = stage(**other)
    assert second.done == {} and not list(second.files.iterdir())


@pytest.mark.parametrize("end", [b'[1, 0, "c', b"[1", b'{"torn": 1}\n', b"\xff", b"[1, 0, 7]\n", b"nonsense\n"])
def test_a_torn_line_is_no_block(stage, tmp_path, end):
    first = stage()
    first.record(BLOCKS[:1], synced)
    first.close()
    with (tmp_path / ".out.taskvec/journal.jsonl").open("ab") as journal:
        journal.write(end)
    assert stage().done == {0: BLOCKS[0]}


def test_a_second_writer_of_the_same_output_is_refused_until_the_first_is_done(stage):
    first = stage()
    with pytest.raises(OutputError, match="another taskvec is writing"):
        stage()
    stage(name="other")
    first.close()
    stage()


def test_a_writer_that_comes_as_the_first_one_finishes_has_a_folder_of_its_own(stage, monkeypatch):
    """The lock is taken on a file that the first writer removes before the second one holds it."""
    import fcntl

    first, real = stage(), fcntl.flock

    def late(file, how):
        monkeypatch.setattr(fcntl, "flock", real)
        first.discard()
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    second = stage()
    assert second.files.is_dir() and (second.folder / "journal.jsonl").is_file()


def test_a_writer_that_comes_while_the_first_one_clears_up_loses_nothing_to_it(stage, monkeypatch):
    """At every step of the clearing another writer comes. It is refused, or what it has made stays."""
    real, came = os.unlink, []

    def slow(path, *rest, **more):
        real(path, *rest, **more)
        monkeypatch.setattr(os, "unlink", real)
        try:
            came.append(stage(key="other"))
        except OutputError as error:
            came.append(str(error))
        monkeypatch.setattr(os, "unlink", slow)

    first = stage()
    (first.files / "x").write_text("data")
    monkeypatch.setattr(os, "unlink", slow)
    first.discard()
    refused, second = came
    assert "another taskvec is writing" in refused
    assert second.files.is_dir() and second.folder.stat().st_ino != 0
    second.record(BLOCKS, synced)
    second.close()
    monkeypatch.setattr(os, "unlink", real)
    assert stage(key="other").done == {0: BLOCKS[0], 1: BLOCKS[1]}


def test_what_is_no_longer_writable_once_the_lock_is_held_is_refused_and_cleared(stage, tmp_path, monkeypatch):
    def taken(self):
        raise OutputError("somebody was faster")

    monkeypatch.setattr(Destination, "require_writable", taken)
    with pytest.raises(OutputError, match="faster"):
        stage()
    assert not list(tmp_path.iterdir())


def test_a_refusal_leaves_what_an_earlier_run_can_be_gone_on_with(stage, tmp_path):
    first = stage()
    first.record(BLOCKS, synced)
    first.close()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("of another program")
    with pytest.raises(OutputError, match="exists and is not empty"):
        stage()
    shutil.rmtree(tmp_path / "out")
    assert len(stage().done) == 2


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_a_commit_leaves_the_output_and_nothing_else(stage, tmp_path, name):
    staged = stage(name=name)
    (staged.files / "model.safetensors").write_text("data")
    staged.commit()
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).is_file() == name.endswith(".safetensors")


def test_what_is_discarded_leaves_nothing(stage, tmp_path):
    staged = stage()
    (staged.files / "x").write_text("data")
    staged.discard()
    assert not list(tmp_path.iterdir())


def test_files_that_are_not_of_the_output_are_cleared_and_longer_ones_cut(stage, tmp_path):
    staged = stage()
    (staged.files / "a").write_bytes(b"12345")
    (staged.files / "b").write_bytes(b"12")
    (staged.files / "notes.txt").write_text("of an older output")
    (staged.files / "folder").mkdir()
    (tmp_path / "mine").write_text("mine")
    (staged.files / "c").symlink_to(tmp_path / "mine")
    staged.keep_only({"a": 3, "b": 3, "c": 3})
    assert {p.name: p.read_bytes() for p in staged.files.iterdir()} == {"a": b"123", "b": b"12"}
    assert (tmp_path / "mine").read_text() == "mine"


def test_an_empty_folder_of_a_run_that_came_no_further_is_cleared(tmp_path):
    for make in (lambda: None, (tmp_path / ".out.taskvec/journal.jsonl").touch):
        (tmp_path / ".out.taskvec").mkdir()
        make()
        assert not finished_before(at(tmp_path / "out"))
        assert not list(tmp_path.iterdir())


HOSTILE = [
    b"\0" * 40,
    b"\xff\xfe",
    b"[" * 5000,
    b"{}",
    b'{"plan": 3, "folder": 1}',
    b"null",
    b"7",
    b'"x"',
    b'[1, 2, "3"]',
]


@pytest.mark.parametrize("first", HOSTILE)
def test_a_journal_of_any_content_is_a_stated_error_or_an_empty_one(stage, tmp_path, first):
    stage().close()
    (tmp_path / ".out.taskvec/journal.jsonl").write_bytes(first + b"\n")
    try:
        assert stage().done == {}
    except OutputError as error:
        assert "not as taskvec writes it" in str(error)


ODD = ['[1, 0, "zz"]', "[1, 0, 3]", '[true, 0, ""]', '[1e400, 0, ""]', '{"whole": 3}', '{"files": "x"}', "[[[", "nan"]


@pytest.mark.parametrize("line", ODD)
def test_an_odd_line_costs_itself_alone(stage, tmp_path, line):
    staged = stage()
    (staged.files / "model.safetensors").write_text("data")
    staged.record(BLOCKS[:1], synced)
    staged.close()
    with (tmp_path / ".out.taskvec/journal.jsonl").open("a") as journal:
        journal.write(line + "\n")
    assert not finished_before(at(tmp_path / "out"), "k", lambda proofs: True)
    resumed = stage()
    assert resumed.done == ({} if "files" in line else {0: BLOCKS[0]})  # other files than those of the blocks
    resumed.record(BLOCKS[1:], synced)
    resumed.close()
    assert stage().done == resumed.done | {1: BLOCKS[1]}


def test_what_follows_a_torn_line_is_read(stage, tmp_path):
    staged = stage()
    staged.record(BLOCKS[:1], synced)
    staged.close()
    with (tmp_path / ".out.taskvec/journal.jsonl").open("a") as journal:
        journal.write('[7, 0, "00')
    resumed = stage()
    resumed.record(BLOCKS[1:], synced)
    resumed.close()
    assert stage().done == {0: BLOCKS[0], 1: BLOCKS[1]}


def test_a_file_is_written_whole_and_alone_and_never_over_another(tmp_path):
    place = Destination(tmp_path / "r.html", alone=True)
    write_file(place, b"one page")
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"] and place.target.read_bytes() == b"one page"
    with pytest.raises(OutputError, match="exists; --overwrite replaces it"):
        write_file(place, b"another")
    write_file(Destination(tmp_path / "r.html", alone=True, overwrite=True), b"another")
    assert place.target.read_bytes() == b"another" and [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_a_file_that_fails_half_way_leaves_nothing(tmp_path):
    with (
        pytest.raises(OutputError, match="no space left"),
        one_file(Destination(tmp_path / "r.html", alone=True)) as path,
    ):
        path.write_bytes(b"one ")
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_a_link_is_replaced_by_a_file_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "keys").write_text("keys")
    (tmp_path / "r.html").symlink_to("keys")
    write_file(Destination.of_file(tmp_path / "r.html", overwrite=True), b"page")
    assert (tmp_path / "keys").read_text() == "keys" and not (tmp_path / "r.html").is_symlink()
    assert (tmp_path / "r.html").read_text() == "page"


def test_the_journal_names_its_plan_in_the_first_line(stage, tmp_path):
    stage(key="abc")
    first = (tmp_path / ".out.taskvec/journal.jsonl").read_text().splitlines()[0]
    assert json.loads(first) == {"plan": "abc", "folder": (tmp_path / ".out.taskvec").stat().st_ino}
    assert [p.name for p in tmp_path.iterdir()] == [".out.taskvec"]
