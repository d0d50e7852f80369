"""The folder in which an output grows: one writer, one plan, one journal, one step at the end."""

import json

import pytest

from taskvec.errors import OutputError
from taskvec.staging import Done, Staging, finished_before, require_writable

BLOCKS = [Done(0, (b"a" * 32, b"b" * 32), 0), Done(1, (b"c" * 32,), 1)]


@pytest.fixture
def stage(tmp_path):
    """stage(key="k", name="out") -> a Staging; all are closed at the end."""
    opened = []

    def make(key="k", name="out", resume=True, **more):
        opened.append(Staging(tmp_path / name, key, resume, False, **more))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def test_what_is_recorded_is_there_for_the_next_run_of_the_same_plan(stage):
    first = stage()
    (first.files / "x").write_text("data")
    first.record(BLOCKS, [])
    first.close()
    second = stage()
    assert second.done == {0: BLOCKS[0], 1: BLOCKS[1]} and (second.files / "x").read_text() == "data"


@pytest.mark.parametrize("other", [{"key": "another"}, {"resume": False}])
def test_another_plan_or_no_resume_starts_from_nothing(stage, other):
    first = stage()
    (first.files / "x").write_text("data")
    first.record(BLOCKS, [])
    first.close()
    second = stage(**other)
    assert second.done == {} and not list(second.files.iterdir())


@pytest.mark.parametrize("end", [b'[1, 0, "c', b"[1", b'{"torn": 1}\n', b"\xff", b"[1, 0, 7]\n", b"nonsense\n"])
def test_a_torn_line_is_no_block(stage, tmp_path, end):
    first = stage()
    first.record(BLOCKS[:1], [])
    first.close()
    with (tmp_path / ".out.taskvec/journal.jsonl").open("ab") as journal:
        journal.write(end)
    assert stage().done in ({0: BLOCKS[0]}, {})


def test_a_second_writer_of_the_same_output_is_refused_until_the_first_is_done(stage):
    first = stage()
    with pytest.raises(OutputError, match="another taskvec is writing"):
        stage()
    stage(name="other")
    first.close()
    stage()


def test_a_writer_that_comes_as_the_first_one_finishes_is_refused_or_has_a_folder_of_its_own(stage, monkeypatch):
    """The lock is taken on a file that the first writer removes before the second one holds it."""
    import fcntl

    first, real = stage(), fcntl.flock

    def late(file, how):
        first.discard()
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(OutputError, match="another taskvec"):
        stage()
    monkeypatch.setattr(fcntl, "flock", real)
    assert stage().files.is_dir()


def test_what_is_no_longer_writable_once_the_lock_is_held_is_refused_and_cleared(stage, tmp_path):
    def taken():
        raise OutputError("somebody was faster")

    with pytest.raises(OutputError, match="faster"):
        stage(ready=taken)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_a_commit_leaves_the_output_and_nothing_else(stage, tmp_path, name):
    one = stage(name=name)
    (one.files / "model.safetensors").write_text("data")
    one.commit()
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).is_file() == name.endswith(".safetensors")


def test_what_is_discarded_leaves_nothing(stage, tmp_path):
    one = stage()
    (one.files / "x").write_text("data")
    one.discard()
    assert not list(tmp_path.iterdir())


def test_files_that_are_not_of_the_output_are_cleared_and_longer_ones_cut(stage, tmp_path):
    one = stage()
    (one.files / "a").write_bytes(b"12345")
    (one.files / "b").write_bytes(b"12")
    (one.files / "notes.txt").write_text("of an older output")
    (one.files / "folder").mkdir()
    (tmp_path / "mine").write_text("mine")
    (one.files / "c").symlink_to(tmp_path / "mine")
    one.keep_only({"a": 3, "b": 3, "c": 3})
    assert {p.name: p.read_bytes() for p in one.files.iterdir()} == {"a": b"123", "b": b"12"}
    assert (tmp_path / "mine").read_text() == "mine"


def died_after(monkeypatch, stage, step):
    """A commit that is cut off just before or after its rename."""
    one = stage()
    (one.files / "model.safetensors").write_text("new")

    def cut_off(new, target, durable):
        if step == "after":
            new.rename(target)
        raise KeyboardInterrupt

    monkeypatch.setattr("taskvec.staging.move_into_place", cut_off)
    with pytest.raises(KeyboardInterrupt):
        one.commit()
    one.close()


def test_a_run_that_died_after_its_last_step_is_known_as_done(stage, tmp_path, monkeypatch):
    died_after(monkeypatch, stage, "after")
    assert not finished_before(tmp_path / "out", "another")
    assert finished_before(tmp_path / "out", "k")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert not finished_before(tmp_path / "out", "k")


def test_a_run_that_died_before_its_last_step_is_not(stage, tmp_path, monkeypatch):
    died_after(monkeypatch, stage, "before")
    assert not finished_before(tmp_path / "out", "k")
    (tmp_path / "out").mkdir()
    assert not finished_before(tmp_path / "out", "k")


def test_an_older_output_is_never_taken_for_the_new_one(stage, tmp_path):
    """A run that died between its journal's first line and its first file, over an output that exists."""
    (tmp_path / "out").mkdir()
    stage().close()
    (tmp_path / ".out.taskvec/files").rmdir()
    assert not finished_before(tmp_path / "out", "k")


# ---- what may be replaced -------------------------------------------------------------------------
def refusal(*arguments):
    with pytest.raises(OutputError) as error:
        require_writable(*arguments)
    return str(error.value)


def test_nothing_and_an_empty_folder_can_become_the_output(tmp_path):
    require_writable(tmp_path / "new/deep", False, [])
    (tmp_path / "empty").mkdir()
    require_writable(tmp_path / "empty", False, [])
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_only_a_checkpoint_is_replaced_and_only_when_asked(tmp_path, build):
    build.model(tmp_path / "model", build.tensors(0))
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents/thesis.txt").write_text("years of work")
    require_writable(tmp_path / "model", True, [])
    assert "--overwrite" in refusal(tmp_path / "model", False, [])
    assert "--overwrite" in refusal(tmp_path / "documents", False, [])
    assert "no checkpoint" in refusal(tmp_path / "documents", True, [])
    (tmp_path / "model/notes.txt").write_text("what I thought of it")
    assert "notes.txt" in refusal(tmp_path / "model", True, [])
    assert "is a file" in refusal(tmp_path / "documents/thesis.txt", True, [])
    assert "not a folder" in refusal(tmp_path / "documents/thesis.txt/x", True, [])


def test_an_output_may_be_its_own_source_and_never_lie_around_one(tmp_path, build):
    model, file = build.model(tmp_path / "model", build.tensors(0)), tmp_path / "model/model.safetensors"
    require_writable(model, True, [model])
    require_writable(model, True, [file])
    inner = build.model(tmp_path / "model/inner", build.tensors(0))
    require_writable(inner, True, [model])
    for source in (inner, inner / "model.safetensors"):
        assert str(inner) in refusal(model, True, [source])
    (tmp_path / "link").symlink_to(inner)
    assert str(inner) in refusal(model, True, [tmp_path / "link"])


def test_a_folder_around_the_working_directory_is_not_replaced(tmp_path, build, monkeypatch):
    build.model(tmp_path / "model", build.tensors(0))
    (tmp_path / "model/work").mkdir()
    monkeypatch.chdir(tmp_path / "model/work")
    assert "still needed" in refusal(tmp_path / "model", True, [])


def test_the_journal_names_its_plan_in_the_first_line(stage, tmp_path):
    stage(key="abc")
    first = (tmp_path / ".out.taskvec/journal.jsonl").read_text().splitlines()[0]
    assert json.loads(first) == {"plan": "abc"}
    assert [p.name for p in tmp_path.iterdir()] == [".out.taskvec"]
