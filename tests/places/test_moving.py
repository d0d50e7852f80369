"""Names that are given in one step, and never in the place of what is there."""

import errno
import os
import shutil
import subprocess
import sys
import threading

import pytest

from taskvec.places import moving
from taskvec.places.moving import move_new, remove, swap, sync, sync_folder, whole_folder


def put(path, text, as_folder):
    if as_folder:
        path.mkdir()
        (path / text).write_text(text)
    else:
        path.write_text(text)


def tree(path):
    return path.read_text() if path.is_file() else {p.name: p.read_text() for p in path.iterdir()}


WAYS = ["renameat2", "a hard link", "neither"]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Systems that have renameat2, that have hard links only, and that have neither."""

    def refuses(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    if request.param != "renameat2":
        monkeypatch.setattr(moving, "_renamed", lambda a, b, flags: False)
    if request.param == "neither":
        monkeypatch.setattr(os, "link", refuses)
    return request.param


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_new_name_is_given_where_there_is_none(tmp_path, way, as_folder):
    put(tmp_path / "new", "new", as_folder)
    move_new(tmp_path / "new", tmp_path / "target")
    assert [p.name for p in tmp_path.iterdir()] == ["target"]
    assert tree(tmp_path / "target") == ({"new": "new"} if as_folder else "new")
    assert as_folder or (tmp_path / "target").stat().st_nlink == 1


@pytest.mark.parametrize("as_folder", [True, False])
@pytest.mark.parametrize("old", ["a folder", "a file", "a link", "a dangling link"])
def test_a_name_that_is_taken_stays_with_what_has_it(tmp_path, way, as_folder, old):
    put(tmp_path / "new", "new", as_folder)
    put(tmp_path / "other", "old", True)
    if old.endswith("link"):
        (tmp_path / "target").symlink_to("other" if old == "a link" else "nowhere")
    else:
        put(tmp_path / "target", "old", old == "a folder")
    before = sorted((p.name, p.lstat().st_ino) for p in tmp_path.iterdir())
    with pytest.raises(FileExistsError):
        move_new(tmp_path / "new", tmp_path / "target")
    assert sorted((p.name, p.lstat().st_ino) for p in tmp_path.iterdir()) == before
    assert tree(tmp_path / "new") == ({"new": "new"} if as_folder else "new")


def test_a_folder_takes_the_place_of_an_empty_one(tmp_path):
    put(tmp_path / "new", "new", True)
    (tmp_path / "target").mkdir()
    move_new(tmp_path / "new", tmp_path / "target")
    assert tree(tmp_path / "target") == {"new": "new"}


def test_of_many_that_want_one_name_at_once_exactly_one_gets_it(tmp_path):
    """Real processes, all at the same name: nothing that has it is ever replaced."""
    code = (
        "import sys; from pathlib import Path; from taskvec.places.moving import move_new\n"
        "for k in range(200):\n"
        "    new = Path(f'new-{sys.argv[1]}-{k}'); new.write_text(sys.argv[1])\n"
        "    try: move_new(new, Path(f'target{k}'))\n"
        "    except FileExistsError: continue\n"
        "    print(k)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(n)], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for n in range(3)
    ]
    won = {str(n): process.communicate(timeout=60)[0].split() for n, process in enumerate(running)}
    assert sorted(k for numbers in won.values() for k in numbers) == sorted(map(str, range(200)))
    assert all((tmp_path / f"target{k}").read_text() == n for n, numbers in won.items() for k in numbers)


def test_two_names_are_swapped_so_that_both_exist_at_every_moment(tmp_path):
    """Seen by a thread that never stops looking."""
    put(tmp_path / "a", "a", True)
    put(tmp_path / "b", "b", True)
    if not swap(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this system cannot swap names")
    missing, stop = [], threading.Event()

    def watch():
        while not stop.is_set():
            if not os.path.lexists(tmp_path / "a"):
                missing.append(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(201):
        assert swap(tmp_path / "a", tmp_path / "b")
    stop.set()
    watcher.join()
    assert not missing and tree(tmp_path / "a") == {"a": "a"}
    assert not swap(tmp_path / "a", tmp_path / "none")


def test_what_is_removed_through_a_link_is_the_link(tmp_path):
    put(tmp_path / "kept", "x", True)
    (tmp_path / "link").symlink_to("kept")
    remove(tmp_path / "link")
    remove(tmp_path / "never was")
    assert tree(tmp_path / "kept") == {"x": "x"} and not (tmp_path / "link").is_symlink()
    shutil.rmtree(tmp_path / "kept")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_is_no_error_and_a_broken_disk_is_one(tmp_path, monkeypatch, number):
    def refuses(fd):
        raise OSError(refused, os.strerror(refused))

    monkeypatch.setattr(os, "fsync", refuses)
    refused = number
    sync_folder(tmp_path)
    sync(0)
    refused = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)
    sync_folder(tmp_path, durable=False)


# ---- whole folders ----------------------------------------------------------------------------------------
def test_a_folder_gets_its_name_when_it_is_whole(tmp_path):
    with whole_folder(tmp_path / "deep" / "data") as folder:
        (folder / "a.txt").write_text("a")
        assert not (tmp_path / "deep" / "data").exists()
    assert tree(tmp_path / "deep" / "data") == {"a.txt": "a"} and len([*(tmp_path / "deep").iterdir()]) == 1


def test_after_an_error_there_is_nothing(tmp_path):
    with pytest.raises(KeyError), whole_folder(tmp_path / "data") as folder:
        (folder / "a.txt").write_text("a")
        raise KeyError
    assert [*tmp_path.iterdir()] == []


def test_the_folder_of_a_faster_process_stays_and_a_file_of_that_name_is_an_error(tmp_path):
    with whole_folder(tmp_path / "data") as folder:
        (folder / "a.txt").write_text("late")
        put(tmp_path / "data", "first", as_folder=True)
    assert tree(tmp_path / "data") == {"first": "first"}
    with pytest.raises(FileExistsError), whole_folder(tmp_path / "file"):
        put(tmp_path / "file", "mine", as_folder=False)
    assert tree(tmp_path / "file") == "mine"
