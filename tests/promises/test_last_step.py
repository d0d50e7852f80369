"""The last step of a merge gives the output its name. It survives a kill, and replaces nothing that it should not."""

import shutil

import pytest

from saving.stages import at, stages
from taskvec.errors import OutputError
from taskvec.saving import staging
from taskvec.saving.outputs import Destination
from taskvec.saving.staging import finished_before


@pytest.fixture
def stage(tmp_path):
    with stages(tmp_path) as make:
        yield make


def test_what_another_program_has_put_there_meanwhile_stays_and_the_output_waits(stage, tmp_path):
    staged = stage()
    (staged.files / "model.safetensors").write_text("new")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("of another program")
    with pytest.raises(OutputError, match="made by another program meanwhile, and is left as it is"):
        staged.commit()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    assert (staged.files / "model.safetensors").read_text() == "new"


@pytest.mark.parametrize("can_swap", [True, False])
@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_an_older_output_is_replaced_and_gone(stage, tmp_path, monkeypatch, can_swap, name):
    if not can_swap:
        monkeypatch.setattr(staging, "swap", lambda a, b: False)
    old = tmp_path / name if name.endswith("s") else tmp_path / name / "model.safetensors"
    old.parent.mkdir(exist_ok=True)
    old.write_text("old")
    staged = stage(name=name, overwrite=True)
    (staged.files / "model.safetensors").write_text("new")
    staged.commit()
    assert old.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("can_swap", [True, False])
@pytest.mark.parametrize("when", ["before", "in the last moment"])
def test_what_is_no_checkpoint_by_now_is_put_back_where_it_was(stage, tmp_path, monkeypatch, can_swap, when):
    """After the check and before the last step another program writes its own files into the older output."""
    if not can_swap:
        monkeypatch.setattr(staging, "swap", lambda a, b: False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model.safetensors").write_text("old")
    staged = stage(overwrite=True)
    (staged.files / "model.safetensors").write_text("new")
    real, looks = Destination.require_replaceable, []

    def look(self, path):
        looks.append(path)
        if when == "before" or len(looks) > 1:
            (path / "thesis.txt").write_text("years of work")
        real(self, path)

    monkeypatch.setattr(Destination, "require_replaceable", look)
    with pytest.raises(OutputError, match=r"no checkpoint(.|\n)*thesis.txt"):
        staged.commit()
    assert {p.name: p.read_text() for p in (tmp_path / "out").iterdir()} == {
        "model.safetensors": "old",
        "thesis.txt": "years of work",
    }
    assert (staged.files / "model.safetensors").read_text() == "new"


def test_an_older_output_that_a_killed_run_set_aside_comes_back(stage, tmp_path):
    """This can happen only where the system cannot swap two names in one step."""
    staged = stage()
    staged.close()
    (staged.folder / "old").mkdir()
    (staged.folder / "old/model.safetensors").write_text("old")
    assert not finished_before(at(tmp_path / "out"))
    assert (tmp_path / "out/model.safetensors").read_text() == "old"


def test_an_older_output_that_was_swapped_out_is_cleared_only_if_it_is_a_checkpoint(stage, tmp_path):
    """Killed right after the swap: what lies in `files` is the older output, not what was staged."""
    staged = stage()
    staged.close()
    (tmp_path / "older").mkdir()
    (tmp_path / "older/thesis.txt").write_text("years of work")
    shutil.rmtree(staged.files)
    (tmp_path / "older").rename(staged.files)
    with pytest.raises(OutputError, match=r"files/thesis.txt"):
        stage(key="other")
    assert (staged.files / "thesis.txt").read_text() == "years of work"
    (staged.files / "thesis.txt").unlink()
    (staged.files / "model.safetensors").touch()
    assert stage(key="other").done == {} and not list(staged.files.iterdir())


def died_after(monkeypatch, stage, step):
    """A commit that is cut off just before or after its rename."""
    staged = stage()
    (staged.files / "model.safetensors").write_text("new")

    def cut_off(new, target):
        if step == "after":
            new.rename(target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("taskvec.places.local.move_new", cut_off)
        with pytest.raises(KeyboardInterrupt):
            staged.commit({"model.safetensors": "of new"})
    staged.close()


def proven(proofs):
    return proofs == {"model.safetensors": "of new"}


def test_a_run_that_died_after_its_last_step_is_known_as_done(stage, tmp_path, monkeypatch):
    died_after(monkeypatch, stage, "after")
    assert finished_before(at(tmp_path / "out"), "k", proven)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert not finished_before(at(tmp_path / "out"), "k", proven)


@pytest.mark.parametrize(("key", "holds"), [("another", proven), ("k", lambda proofs: False)])
def test_what_it_left_is_cleared_by_any_run_that_does_not_believe_it_too(stage, tmp_path, monkeypatch, key, holds):
    died_after(monkeypatch, stage, "after")
    assert not finished_before(at(tmp_path / "out"), key, holds)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_run_that_died_before_its_last_step_is_not_done_and_keeps_its_blocks(stage, tmp_path, monkeypatch):
    died_after(monkeypatch, stage, "before")
    assert not finished_before(at(tmp_path / "out"), "k", proven)
    (tmp_path / "out").mkdir()
    assert not finished_before(at(tmp_path / "out"), "k", proven)
    assert (stage().files / "model.safetensors").read_text() == "new"


def test_an_older_output_is_never_taken_for_the_new_one(stage, tmp_path):
    """The run died between the first line of its journal and its first file, and an output exists."""
    (tmp_path / "out").mkdir()
    stage().close()
    (tmp_path / ".out.taskvec/files").rmdir()
    assert not finished_before(at(tmp_path / "out"), "k", lambda proofs: True)
