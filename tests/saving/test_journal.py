"""The journal of a staging folder: what a later run believes of it, and what the system's refusals do to it."""

import errno
import importlib.util
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import pytest

from taskvec.errors import OutputError
from taskvec.saving import journal, staging
from taskvec.saving.journal import JOURNAL
from taskvec.saving.outputs import SHOWN, Destination
from taskvec.saving.staging import Done, Staging, finished_before, one_file, write_file

BLOCKS = [Done(2, (b"a" * 32, b"b" * 32), 0), Done(3, (b"c" * 32,), 1)]


def at(target, overwrite=False):
    return Destination(target, target.suffix == ".safetensors", overwrite)


def synced():
    """What makes data durable, of which there is none."""


@pytest.fixture
def stage(tmp_path):
    """stage(key="k", name="out") -> a Staging; all are closed at the end."""
    stages = []

    def make(key="k", name="out", resume=True, overwrite=False, durable=False):
        stages.append(Staging(at(tmp_path / name, overwrite), key, resume, durable))
        return stages[-1]

    yield make
    for each in stages:
        each.close()


def killed_after_the_name(monkeypatch, stage):
    """A commit that is killed when the output has its name, and its folder is still there."""
    with monkeypatch.context() as patch:
        patch.setattr(Staging, "discard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stage.commit({"x": "proof"})
    stage.close()


def interrupted(*rest):
    raise KeyboardInterrupt


def refused(number):
    def fail(*rest, **more):
        raise OSError(number, os.strerror(number))

    return fail


# ---- what is written in which order ----------------------------------------------------------------
def test_a_block_is_read_back_as_it_was_and_no_line_is_empty(stage):
    one = stage()
    one.record(BLOCKS[:1], synced)
    one.record(BLOCKS[1:], synced)
    text = (one.folder / JOURNAL).read_text()
    assert text.endswith("\n") and "\n\n" not in text and len(text.splitlines()) == 4
    one.close()
    assert stage().done == {2: BLOCKS[0], 3: BLOCKS[1]}


@pytest.fixture
def steps(monkeypatch):
    """The names of what the staging syncs, moves and removes, in order."""
    seen = []
    real_name, real_folder = Staging._give_name, staging.sync_folder

    def name_given(self, new):
        seen.append("name")
        real_name(self, new)

    def folder(path, durable=True):
        seen.append(f"folder {path.name}" if durable else "no folder")
        real_folder(path, durable)

    monkeypatch.setattr(staging, "sync", lambda fd: seen.append("file"))
    monkeypatch.setattr(staging, "sync_folder", folder)
    monkeypatch.setattr(Staging, "_give_name", name_given)
    return seen


def test_everything_is_on_the_disk_before_the_name_and_the_name_itself_after_it(stage, steps, tmp_path):
    stage(durable=True).commit()
    assert steps == ["file", "folder files", "file", "name", f"folder {tmp_path.name}"]


def test_nothing_waits_for_the_disk_if_that_is_not_wanted(stage, steps):
    stage(durable=False).commit()
    assert steps == ["no folder", "name", "no folder"]


def test_a_file_of_its_own_is_whole_on_the_disk_before_it_has_its_name(steps, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(staging, "sync", lambda fd: (steps.append("file"), sizes.append(os.fstat(fd).st_size)))
    write_file(Destination(tmp_path / "r.html", alone=True), b"one page")
    assert steps == ["file", "file", "folder files", "file", "name", f"folder {tmp_path.name}"]
    assert sizes[1] == len(b"one page")  # the first is the journal's, and so is the last


def test_the_folders_above_an_output_are_made(stage, tmp_path):
    one = stage(name="a/b/out")
    (one.files / "model.safetensors").write_text("new")
    one.commit(MappingProxyType({"model.safetensors": "proof"}))
    assert (tmp_path / "a/b/out/model.safetensors").read_text() == "new"


# ---- what a later run believes ---------------------------------------------------------------------
def test_a_run_begins_anew_if_the_files_of_the_journal_are_gone(stage, tmp_path):
    one = stage()
    one.record(BLOCKS, synced)
    one.close()
    one.files.rename(tmp_path / "away")
    two = stage()
    assert two.done == {} and not [*two.files.iterdir()]
    two.record(BLOCKS[:1], synced)
    two.close()
    assert stage().done == {2: BLOCKS[0]}


def test_files_that_the_journal_does_not_name_yet_are_not_gone_on_with(stage):
    """A run that was killed between the making of the folder and the line that says which one it is."""
    one = stage()
    lines = (one.folder / JOURNAL).read_text().splitlines(keepends=True)
    one.close()
    (one.folder / JOURNAL).write_text(lines[0])
    two = stage()
    two.close()
    assert [json.loads(line).keys() for line in (two.folder / JOURNAL).read_text().splitlines()] == [
        {"plan", "folder"},
        {"files"},
    ]


def test_zeros_that_a_power_cut_left_are_no_journal(stage):
    one = stage()
    one.close()
    (one.folder / JOURNAL).write_bytes(b"\0" * 40 + b"\n")
    assert stage().done == {}


@pytest.mark.parametrize("first", [{"plan": 3, "folder": 1}, {"plan": "k"}, {"folder": 1}, ["plan", "folder"], None])
def test_a_first_line_that_is_none_of_taskvecs_is_refused(stage, first):
    one = stage()
    one.close()
    (one.folder / JOURNAL).write_text(json.dumps(first) + "\n")
    with pytest.raises(OutputError, match="not as taskvec writes it"):
        stage()


@pytest.mark.parametrize("line", ['{"whole": [1', "{" * 5, "[" * 100_000, '{"a":' * 100_000])
def test_a_line_that_is_cut_off_costs_itself_alone(stage, line, tmp_path):
    one = stage()
    (one.files / "x").touch()
    one.record(BLOCKS[:1], synced)
    one.close()
    with (one.folder / JOURNAL).open("a") as file:
        file.write(line + "\n")
    assert finished_before(at(tmp_path / "out"), "k", lambda proofs: True) is False
    two = stage()
    assert two.done == {2: BLOCKS[0]} and (two.files / "x").exists()


def test_the_last_word_of_a_journal_counts_about_what_is_whole(stage, tmp_path, monkeypatch):
    """The first commit found another file in its place. The second one was killed when the new output had its name."""
    one = stage(name="out.safetensors")
    (one.files / "out.safetensors").write_text("first")
    (tmp_path / "out.safetensors").write_text("of another program")
    with pytest.raises(OutputError, match="made by another program"):
        one.commit({"x": "first"})
    one.close()
    (tmp_path / "out.safetensors").rename(tmp_path / "mine")
    two = stage(name="out.safetensors")
    (two.files / "out.safetensors").rename(tmp_path / "kept")  # its inode stays in use
    (two.files / "out.safetensors").write_text("second")
    killed_after_the_name(monkeypatch, two)
    place = at(tmp_path / "out.safetensors")
    assert finished_before(place, "k", lambda proofs: proofs == {"x": "proof"}) is True
    assert {p.name for p in tmp_path.iterdir()} == {"out.safetensors", "mine", "kept"}


def test_a_run_that_died_after_a_swap_is_done_and_the_older_output_is_cleared(stage, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model.safetensors").write_text("old")
    one = stage(overwrite=True)
    (one.files / "model.safetensors").write_text("new")
    killed_after_the_name(monkeypatch, one)
    assert finished_before(at(tmp_path / "out"), "k", lambda proofs: proofs == {"x": "proof"}) is True
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/model.safetensors").read_text() == "new"


def test_nothing_is_believed_to_be_done_without_a_way_to_prove_it(stage, tmp_path, monkeypatch):
    one = stage(key="")
    (one.files / "model.safetensors").write_text("new")
    killed_after_the_name(monkeypatch, one)
    assert finished_before(at(tmp_path / "out")) is False
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_link_to_the_output_is_not_the_output(stage, tmp_path, monkeypatch):
    one = stage()
    (one.files / "model.safetensors").write_text("new")
    killed_after_the_name(monkeypatch, one)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    (tmp_path / "out").symlink_to("elsewhere")
    assert finished_before(at(tmp_path / "out"), "k", lambda proofs: True) is False


def test_a_run_that_wrote_nothing_yet_is_cleared(stage, tmp_path):
    stage().close()
    assert finished_before(at(tmp_path / "out"), "k") is False and not [*tmp_path.iterdir()]


def test_the_look_for_a_finished_run_makes_nothing(tmp_path):
    assert finished_before(at(tmp_path / "nowhere/out")) is False and not [*tmp_path.iterdir()]
    (tmp_path / "out").mkdir()
    assert finished_before(at(tmp_path / "out")) is False and [p.name for p in tmp_path.iterdir()] == ["out"]


# ---- an older output -------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["file", "link"])
def test_an_older_file_or_link_that_was_set_aside_comes_back(stage, tmp_path, kind):
    one = stage(name="out.safetensors")
    one.close()
    old = one.folder / "old"
    old.write_text("old") if kind == "file" else old.symlink_to("nowhere")
    with pytest.raises(OutputError, match="exists; --overwrite"):
        stage(name="out.safetensors")
    back = tmp_path / "out.safetensors"
    assert back.is_symlink() if kind == "link" else back.read_text() == "old"
    assert not os.path.lexists(old)


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_an_older_output_whose_name_is_taken_by_now_is_kept_until_its_run_goes_on(stage, tmp_path, kind):
    one = stage()
    one.close()
    old = one.folder / "old"
    if kind == "link":
        old.symlink_to("nowhere")
    else:
        old.mkdir()
        (old / "model.safetensors").write_text("old")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("years")
    assert finished_before(at(tmp_path / "out"), "k") is False
    assert os.path.lexists(old) and (tmp_path / "out/thesis.txt").read_text() == "years"


def test_an_older_output_whose_name_is_taken_in_the_last_moment_is_kept(stage, tmp_path, monkeypatch):
    one = stage()
    one.close()
    (one.folder / "old").mkdir()
    monkeypatch.setattr(staging, "move_new", refused(errno.EEXIST))
    assert finished_before(at(tmp_path / "out"), "k") is False and (one.folder / "old").is_dir()


@pytest.mark.parametrize("swapped", [True, False])
def test_what_is_no_checkpoint_in_an_older_output_is_named_and_never_removed(stage, tmp_path, swapped):
    one = stage()
    one.close()
    if swapped:
        one.files.rename(tmp_path / "away")
        one.files.mkdir()
    (one.folder / "old").mkdir()
    names = [f"thesis-{k:02}.txt" for k in range(SHOWN + 5)]
    for name in names:
        (one.folder / "old" / name).touch()
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="no part of a checkpoint") as told:
        stage(key="other")
    assert [*told.value.problems] == [f"old/{name}" for name in names[:SHOWN]]
    assert {p.name for p in (one.folder / "old").iterdir()} == {*names}


def test_an_older_output_gets_its_name_back_if_the_new_one_cannot_have_it(stage, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model.safetensors").write_text("old")
    one = stage(overwrite=True)
    (one.files / "model.safetensors").write_text("new")
    real = staging.move_new

    def move(new, target):
        if new == one.files and not target.exists():
            raise PermissionError(errno.EACCES, "Permission denied")
        real(new, target)

    monkeypatch.setattr(staging, "swap", lambda a, b: False)
    monkeypatch.setattr(staging, "move_new", move)
    with pytest.raises(OutputError, match="permission denied"):
        one.commit()
    assert (tmp_path / "out/model.safetensors").read_text() == "old"
    assert (one.files / "model.safetensors").read_text() == "new"


# ---- what the system refuses -----------------------------------------------------------------------
def test_a_folder_that_cannot_be_made_is_a_stated_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        Staging(at(tmp_path / "file/out"), "k", True, False)
    with pytest.raises(OutputError, match="is not a folder"), one_file(at(tmp_path / "file/r.safetensors")):
        pass


def test_a_last_step_that_the_system_refuses_is_a_stated_error_and_the_output_waits(stage, monkeypatch):
    one = stage()
    (one.files / "x").touch()
    monkeypatch.setattr(Path, "rename", refused(errno.ENOSPC))
    with pytest.raises(OutputError, match="no space left"):
        one.commit()
    assert (one.files / "x").exists()


def test_a_name_that_may_not_be_on_the_disk_is_told(stage, tmp_path, monkeypatch):
    one = stage()
    real = staging.sync_folder
    monkeypatch.setattr(
        staging, "sync_folder", lambda path, durable: refused(errno.EIO)() if path == tmp_path else real(path, durable)
    )
    with pytest.raises(OutputError, match=r"out is whole and in its place, but .*not confirm.*: Input/output error"):
        one.commit()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_removed_now_is_left_to_the_next_run(stage, monkeypatch):
    one = stage()
    (one.files / "x").touch()
    with monkeypatch.context() as patch:
        patch.setattr(staging, "remove", refused(errno.EACCES))
        one.discard()
        with pytest.raises(OutputError, match="permission denied"):
            stage(key="other")
    assert stage(key="another").done == {} and not (one.files / "x").exists()


def test_clearing_that_the_system_refuses_is_a_stated_error(stage, tmp_path, monkeypatch):
    stage().close()
    monkeypatch.setattr(staging, "remove", refused(errno.EACCES))
    with pytest.raises(OutputError, match="permission denied"):
        finished_before(at(tmp_path / "out"), "k")


def test_a_folder_in_which_another_run_begins_while_it_is_cleared_stays(stage, tmp_path, monkeypatch):
    one = stage()
    one.close()
    monkeypatch.setattr(Path, "rmdir", refused(errno.ENOTEMPTY))
    assert finished_before(at(tmp_path / "out"), "k") is False and not [*one.folder.iterdir()]


def test_a_journal_that_somebody_removed_is_no_reason_to_keep_the_rest(stage, tmp_path):
    one = stage()
    (one.folder / JOURNAL).unlink()
    one.discard()
    assert not [*tmp_path.iterdir()]


# ---- the lock --------------------------------------------------------------------------------------
def test_the_look_for_a_finished_run_touches_nothing_while_another_one_works(stage, tmp_path):
    one = stage()
    assert finished_before(at(tmp_path / "out"), "k", lambda proofs: True) is False and one.files.is_dir()


def test_a_run_that_is_refused_lets_go_of_the_folder_at_once(stage, tmp_path):
    stage().close()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").touch()
    with pytest.raises(OutputError, match="exists and is not empty") as told:
        stage()
    (tmp_path / "out/thesis.txt").unlink()
    assert stage().done == {} and told.traceback  # which still holds what was begun


def test_a_look_that_is_interrupted_lets_go_of_the_folder_at_once(stage, tmp_path, monkeypatch):
    one = stage()
    killed_after_the_name(monkeypatch, one)
    with pytest.raises(KeyboardInterrupt) as told:
        finished_before(at(tmp_path / "out"), "k", interrupted)
    assert finished_before(at(tmp_path / "out"), "k", lambda proofs: True) is True and told.traceback


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_written_to_without_one(stage, monkeypatch, number):
    import fcntl

    monkeypatch.setattr(fcntl, "flock", refused(number))
    assert stage().files.is_dir()


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EIO])
def test_a_lock_that_is_refused_for_any_other_reason_is_somebody_elses(stage, monkeypatch, number):
    import fcntl

    monkeypatch.setattr(fcntl, "flock", refused(number))
    with pytest.raises(OutputError, match="another taskvec is writing"):
        stage()


def test_a_system_without_such_locks_is_written_to(stage, tmp_path, monkeypatch):
    """As on Windows, which has no fcntl."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    spec = importlib.util.spec_from_file_location("journal_without_locks", journal.__file__)
    without = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(without)
    monkeypatch.setattr(staging, "claimed", without.claimed)
    stage().commit()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_vanishes_before_its_journal_is_open_is_made_again(stage, tmp_path, monkeypatch):
    real, looks = journal._require_own, []

    def vanishing(folder):
        looks.append(folder)
        if len(looks) == 1:
            folder.rmdir()
        real(folder)

    monkeypatch.setattr(journal, "_require_own", vanishing)
    assert stage().files.is_dir() and len(looks) == 2


def test_a_journal_that_vanishes_again_and_again_is_somebody_elses_work(stage, monkeypatch, tmp_path):
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda *rest: (tmp_path / ".out.taskvec" / JOURNAL).unlink())
    with pytest.raises(OutputError, match="another taskvec is writing"):
        stage()


# ---- whose folder it is ----------------------------------------------------------------------------
def test_a_link_to_an_empty_folder_is_no_staging_folder(stage, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / ".out.taskvec").symlink_to("home")
    with pytest.raises(OutputError, match=r"taskvec has not made it so(.|\n)*no folder but a link"):
        stage()
    assert not [*(tmp_path / "home").iterdir()]


def test_a_journal_that_is_a_second_name_of_an_empty_file_is_refused(stage, tmp_path):
    (tmp_path / "mine").touch()
    (tmp_path / ".out.taskvec").mkdir()
    (tmp_path / ".out.taskvec" / JOURNAL).hardlink_to(tmp_path / "mine")
    with pytest.raises(OutputError, match=r"journal\.jsonl is a link"):
        stage()
    assert (tmp_path / "mine").read_bytes() == b""


def test_all_that_is_wrong_with_a_folder_is_listed_in_order(stage, tmp_path):
    (tmp_path / ".out.taskvec").mkdir()
    for name in ("c", "a", "d", "b"):
        (tmp_path / ".out.taskvec" / name).touch()
    (tmp_path / ".out.taskvec/files").touch()
    with pytest.raises(OutputError) as told:
        stage()
    assert [*told.value.problems] == [
        *(f"{name} is none of taskvec's files" for name in "abcd"),
        "files is a link, or not what taskvec puts there",
    ]


def test_a_file_system_that_gives_all_we_make_to_another_user_is_written_to(stage, tmp_path, monkeypatch):
    opened, user = Path("/proc/self/fd"), tmp_path.stat().st_uid
    before = len([*opened.iterdir()]) if opened.is_dir() else 0
    monkeypatch.setattr(os, "geteuid", lambda: user + 4242)
    one = stage()
    assert one.files.is_dir() and [p.name for p in tmp_path.iterdir()] == [".out.taskvec"]
    one.discard()
    assert not opened.is_dir() or len([*opened.iterdir()]) == before


def test_what_a_killed_writer_of_a_file_left_is_not_gone_on_with(tmp_path, monkeypatch):
    place = Destination(tmp_path / "r.html", alone=True)
    with monkeypatch.context() as patch:
        patch.setattr(Staging, "discard", Staging.close)
        with suppress(KeyboardInterrupt), one_file(place) as path:
            path.write_bytes(b"half a pa")
            raise KeyboardInterrupt
    assert (tmp_path / ".r.html.taskvec/files/r.html").exists()
    write_file(place, b"page")
    assert place.target.read_bytes() == b"page" and [p.name for p in tmp_path.iterdir()] == ["r.html"]
