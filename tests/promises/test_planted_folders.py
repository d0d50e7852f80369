"""A hidden folder that taskvec has not made, or that was copied or has links in it, is not used and not touched."""

import json
import os
import shutil
import stat

import pytest

from saving.stages import BLOCKS, at, stages, synced
from taskvec.errors import OutputError
from taskvec.saving.outputs import Destination
from taskvec.saving.staging import Staging, finished_before, write_file


@pytest.fixture
def stage(tmp_path):
    with stages(tmp_path) as make:
        yield make


def planted(tmp_path, what):
    """Make a staging folder as a clone or an archive may hold it, and files elsewhere that must stay as they are."""
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
        paths = [p for p in tmp_path.rglob("*") if "journal" not in p.name or p.is_symlink()]
        return {str(p): (p.lstat().st_ino, p.read_bytes() if p.is_file() else b"") for p in paths}

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
    done = run(*words, cwd=tmp_path / "clone")
    assert done.code == 1 and ".out.taskvec" in done.stderr and "files is a link" in done.stderr
    assert (tmp_path / "home/thesis.txt").read_text() == "years" and not (tmp_path / "clone/out").exists()
    shutil.rmtree(tmp_path / "clone/.out.taskvec")
    assert run(*words, cwd=tmp_path / "clone").code == 0
    assert [p.name for p in (tmp_path / "clone").iterdir()] == ["out"]


def test_a_copy_of_a_staging_folder_is_not_gone_on_with(stage, tmp_path):
    """Nobody knows who wrote the blocks in a clone or an archive, so the folder is cleared as that of another plan."""
    staged = stage()
    (staged.files / "model.safetensors").write_text("data")
    staged.record(BLOCKS, synced)
    staged.close()
    staged.folder.rename(tmp_path / "kept")
    shutil.copytree(tmp_path / "kept", staged.folder)
    assert stage().done == {} and not list(staged.files.iterdir())


def test_links_among_an_earlier_runs_files_are_removed_before_anything_is_written(stage, tmp_path):
    staged = stage()
    (tmp_path / "mine").write_text("mine")
    (staged.files / "a").symlink_to(tmp_path / "mine")
    (staged.files / "b").hardlink_to(tmp_path / "mine")
    staged.keep_only({"a": 10, "b": 10})
    assert not list(staged.files.iterdir()) and (tmp_path / "mine").read_text() == "mine"


def test_the_folder_is_for_its_owner_alone_and_the_output_as_any_other(stage, tmp_path):
    staged = stage()
    assert stat.S_IMODE(staged.folder.stat().st_mode) == 0o700
    (staged.files / "model.safetensors").write_text("new")
    staged.commit()
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode
