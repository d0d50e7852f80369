"""The folder in which an output grows: one writer, one plan, one journal, one step at the end."""

import json
import os
import shutil
import stat

import pytest

from taskvec.errors import OutputError
from taskvec.saving import staging
from taskvec.saving.outputs import Destination
from taskvec.saving.staging import Done, Staging, finished_before, one_file, write_file


def synced():
    """What makes data durable, of which there is none."""


BLOCKS = [Done(0, (b"a" * 32, b"b" * 32), 0), Done(1, (b"c" * 32,), 1)]


def at(target, overwrite=False):
    return Destination(target, target.suffix == ".safetensors", overwrite)


@pytest.fixture
def stage(tmp_path):
    """stage(key="k", name="out") -> a Staging; all are closed at the end."""
    opened = []

    def make(key="k", name="out", resume=True, overwrite=False):
        opened.append(Staging(at(tmp_path / name, overwrite), key, resume, False))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def test_what_is_recorded_is_there_for_the_next_run_of_the_same_plan(stage):
    first = stage()
    (first.files / "x").write_text("data")
    first.record(BLOCKS, synced)
    first.close()
    second = stage()
    assert second.done == {0: BLOCKS[0], 1: BLOCKS[1]} and (second.files / "x").read_text() == "data"


def test_blocks_are_noted_only_when_their_data_is_safe(stage):
    one, seen = stage(), []
    journal = one.folder / "journal.jsonl"
    before = journal.read_text()
    one.record(BLOCKS, lambda: seen.append(journal.read_text()))
    assert seen == [before] and journal.read_text() != before


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
    """At every step of the clearing another one comes: it is refused, or what it has made stays."""
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


# ---- the last step --------------------------------------------------------------------------------
def test_what_another_program_has_put_there_meanwhile_stays_and_the_output_waits(stage, tmp_path):
    one = stage()
    (one.files / "model.safetensors").write_text("new")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("of another program")
    with pytest.raises(OutputError, match="made by another program meanwhile, and is left as it is"):
        one.commit()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    assert (one.files / "model.safetensors").read_text() == "new"


@pytest.mark.parametrize("can_swap", [True, False])
@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_an_older_output_is_replaced_and_gone(stage, tmp_path, monkeypatch, can_swap, name):
    if not can_swap:
        monkeypatch.setattr(staging, "swap", lambda a, b: False)
    old = tmp_path / name if name.endswith("s") else tmp_path / name / "model.safetensors"
    old.parent.mkdir(exist_ok=True)
    old.write_text("old")
    one = stage(name=name, overwrite=True)
    (one.files / "model.safetensors").write_text("new")
    one.commit()
    assert old.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("can_swap", [True, False])
@pytest.mark.parametrize("when", ["before", "in the last moment"])
def test_what_is_no_checkpoint_by_now_is_put_back_where_it_was(stage, tmp_path, monkeypatch, can_swap, when):
    """Between the look and the step a program writes its own files into the older output."""
    if not can_swap:
        monkeypatch.setattr(staging, "swap", lambda a, b: False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model.safetensors").write_text("old")
    one = stage(overwrite=True)
    (one.files / "model.safetensors").write_text("new")
    real, looks = Destination.require_replaceable, []

    def look(self, found):
        looks.append(found)
        if when == "before" or len(looks) > 1:
            (found / "thesis.txt").write_text("years of work")
        real(self, found)

    monkeypatch.setattr(Destination, "require_replaceable", look)
    with pytest.raises(OutputError, match=r"no checkpoint(.|\n)*thesis.txt"):
        one.commit()
    assert {p.name: p.read_text() for p in (tmp_path / "out").iterdir()} == {
        "model.safetensors": "old",
        "thesis.txt": "years of work",
    }
    assert (one.files / "model.safetensors").read_text() == "new"


def test_an_older_output_that_a_killed_run_set_aside_comes_back(stage, tmp_path):
    """Only where names cannot be swapped is there such a moment."""
    one = stage()
    one.close()
    (one.folder / "old").mkdir()
    (one.folder / "old/model.safetensors").write_text("old")
    assert not finished_before(at(tmp_path / "out"))
    assert (tmp_path / "out/model.safetensors").read_text() == "old"


def test_an_older_output_that_was_swapped_out_is_cleared_only_if_it_is_a_checkpoint(stage, tmp_path):
    """Killed right after the swap: what lies in `files` is the older output, not what was staged."""
    one = stage()
    one.close()
    (tmp_path / "older").mkdir()
    (tmp_path / "older/thesis.txt").write_text("years of work")
    shutil.rmtree(one.files)
    (tmp_path / "older").rename(one.files)
    with pytest.raises(OutputError, match=r"files/thesis.txt"):
        stage(key="other")
    assert (one.files / "thesis.txt").read_text() == "years of work"
    (one.files / "thesis.txt").unlink()
    (one.files / "model.safetensors").touch()
    assert stage(key="other").done == {} and not list(one.files.iterdir())


def died_after(monkeypatch, stage, step):
    """A commit that is cut off just before or after its rename."""
    one = stage()
    (one.files / "model.safetensors").write_text("new")

    def cut_off(new, target):
        if step == "after":
            new.rename(target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("taskvec.places.local.move_new", cut_off)
        with pytest.raises(KeyboardInterrupt):
            one.commit({"model.safetensors": "of new"})
    one.close()


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
    """A run that died between its journal's first line and its first file, over an output that exists."""
    (tmp_path / "out").mkdir()
    stage().close()
    (tmp_path / ".out.taskvec/files").rmdir()
    assert not finished_before(at(tmp_path / "out"), "k", lambda proofs: True)


def test_an_empty_folder_of_a_run_that_came_no_further_is_cleared(tmp_path):
    for make in (lambda: None, (tmp_path / ".out.taskvec/journal.jsonl").touch):
        (tmp_path / ".out.taskvec").mkdir()
        make()
        assert not finished_before(at(tmp_path / "out"))
        assert not list(tmp_path.iterdir())


# ---- a folder that taskvec has not made -----------------------------------------------------------
def planted(tmp_path, what):
    """A staging folder as a clone or an archive may hold it; what lies elsewhere and must stay."""
    home, folder = tmp_path / "home", tmp_path / "clone/.out.taskvec"
    home.mkdir()
    (home / "thesis.txt").write_text("years")
    (home / "keys").write_text("keys")
    (tmp_path / "clone").mkdir()
    line = json.dumps({"plan": "k", "folder": 1}) + "\n"
    if what == "the folder is a link":
        (home / "files").mkdir()
        (home / "files/x").write_text("mine")
        folder.symlink_to("../home")
    elif what == "the folder is a file":
        folder.write_text("mine")
    else:
        folder.mkdir()
    if what == "files is a link":
        (folder / "files").symlink_to("../../home")
        (folder / "journal.jsonl").write_text(line)
    elif what == "the journal is a link":
        (folder / "journal.jsonl").symlink_to("../../home/keys")
    elif what == "the journal is a link to nothing":
        (folder / "journal.jsonl").symlink_to("../../home/new")
    elif what == "the journal is a second name":
        (folder / "journal.jsonl").hardlink_to(home / "keys")
    elif what == "the journal is a pipe":
        os.mkfifo(folder / "journal.jsonl")
    elif what == "the journal is another text":
        (folder / "journal.jsonl").write_text("dear diary\n")
    elif what == "something else":
        (folder / "lock").symlink_to("../../home/keys")
    elif what == "files without a journal":
        (folder / "files").mkdir()
        (folder / "files/thesis.txt").write_text("years")


PLANTED = ["the folder is a link", "the folder is a file", "files is a link", "the journal is a link",
           "the journal is a link to nothing", "the journal is a second name", "the journal is a pipe",
           "the journal is another text", "something else", "files without a journal"]  # fmt: skip


@pytest.mark.parametrize("what", PLANTED)
def test_a_folder_that_taskvec_has_not_made_is_refused_and_nothing_in_it_or_behind_it_changes(tmp_path, what):
    planted(tmp_path, what)

    def everything():
        found = [p for p in tmp_path.rglob("*") if "journal" not in p.name or p.is_symlink()]
        return {str(p): (p.lstat().st_ino, p.read_bytes() if p.is_file() else b"") for p in found}

    before, place = everything(), at(tmp_path / "clone/out", True)
    assert not finished_before(place)
    with pytest.raises(OutputError, match=r"taskvec has not made it so\. Nothing in it was touched"):
        Staging(place, "k", True, False)
    with pytest.raises(OutputError, match="taskvec has not made it so"):
        write_file(Destination(place.target, alone=True), b"new")
    assert everything() == before


def test_a_folder_of_another_user_is_refused(tmp_path):
    if os.geteuid():
        pytest.skip("needs root, to make a folder of somebody else's")
    (tmp_path / ".out.taskvec").mkdir()
    os.chown(tmp_path / ".out.taskvec", 12345, 12345)
    with pytest.raises(OutputError, match=r"taskvec has not made it so(.|\n)*belongs to another user"):
        Staging(at(tmp_path / "out"), "k", True, False)
    assert not list((tmp_path / ".out.taskvec").iterdir()) and len(list(tmp_path.iterdir())) == 1


def test_the_command_line_names_a_planted_folder_and_goes_on_once_it_is_gone(tmp_path, build, run):
    build.model(tmp_path / "base", build.tensors(0))
    planted(tmp_path, "files is a link")
    words = ("merge", "b", f"b={tmp_path / 'base'}", "-o", "out")
    found = run(*words, cwd=tmp_path / "clone")
    assert found.code == 1 and ".out.taskvec" in found.stderr and "files is a link" in found.stderr
    assert (tmp_path / "home/thesis.txt").read_text() == "years" and not (tmp_path / "clone/out").exists()
    shutil.rmtree(tmp_path / "clone/.out.taskvec")
    assert run(*words, cwd=tmp_path / "clone").code == 0
    assert [p.name for p in (tmp_path / "clone").iterdir()] == ["out"]


def test_a_copy_of_a_staging_folder_is_not_gone_on_with(stage, tmp_path):
    """In a clone or an archive: its blocks may be anybody's, so it is cleared like that of another plan."""
    one = stage()
    (one.files / "model.safetensors").write_text("data")
    one.record(BLOCKS, synced)
    one.close()
    one.folder.rename(tmp_path / "kept")
    shutil.copytree(tmp_path / "kept", one.folder)
    assert stage().done == {} and not list(one.files.iterdir())


def test_links_among_an_earlier_runs_files_are_removed_before_anything_is_written(stage, tmp_path):
    one = stage()
    (tmp_path / "mine").write_text("mine")
    (one.files / "a").symlink_to(tmp_path / "mine")
    (one.files / "b").hardlink_to(tmp_path / "mine")
    one.keep_only({"a": 10, "b": 10})
    assert not list(one.files.iterdir()) and (tmp_path / "mine").read_text() == "mine"


def test_the_folder_is_for_its_owner_alone_and_the_output_as_any_other(stage, tmp_path):
    one = stage()
    assert stat.S_IMODE(one.folder.stat().st_mode) == 0o700
    (one.files / "model.safetensors").write_text("new")
    one.commit()
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


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
    one = stage()
    (one.files / "model.safetensors").write_text("data")
    one.record(BLOCKS[:1], synced)
    one.close()
    with (tmp_path / ".out.taskvec/journal.jsonl").open("a") as journal:
        journal.write(line + "\n")
    assert not finished_before(at(tmp_path / "out"), "k", lambda proofs: True)
    two = stage()
    assert two.done == ({} if "files" in line else {0: BLOCKS[0]})  # other files than those of the blocks
    two.record(BLOCKS[1:], synced)
    two.close()
    assert stage().done == two.done | {1: BLOCKS[1]}


def test_what_follows_a_torn_line_is_read(stage, tmp_path):
    one = stage()
    one.record(BLOCKS[:1], synced)
    one.close()
    with (tmp_path / ".out.taskvec/journal.jsonl").open("a") as journal:
        journal.write('[7, 0, "00')
    two = stage()
    two.record(BLOCKS[1:], synced)
    two.close()
    assert stage().done == {0: BLOCKS[0], 1: BLOCKS[1]}


# ---- files of their own ---------------------------------------------------------------------------
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
