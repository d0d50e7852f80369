"""Files: exact reads, refusals of the system in words, and names that change in one step."""

import ctypes
import errno
import fcntl
import os
import shutil
import threading
from pathlib import Path

import pytest

from taskvec import storage
from taskvec.blocks import arena
from taskvec.errors import FormatError, OutputError, SourceChanged
from taskvec.storage import PAGE, File, Output, address, expanded, move_into_place, place_to_write, resolve, stated


def test_a_file_is_read_at_exact_positions_by_many_threads(tmp_path):
    content = os.urandom(100_000)
    (tmp_path / "x").write_bytes(content)
    file, wrong = File(tmp_path / "x"), []

    def read(k):
        for at in range(k, 90_000, 997):
            if file.read(at, 1000) != content[at : at + 1000]:
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and file.read(100_000, 0) == b""


def test_a_read_past_the_end_is_a_changed_source(tmp_path):
    (tmp_path / "x").write_bytes(b"1234")
    with pytest.raises(SourceChanged, match="became shorter"):
        File(tmp_path / "x").read(2, 3)


SPANS = [(0, PAGE), (0, 1), (1, PAGE), (PAGE - 1, 2), (5, 3 * PAGE + 7), (3 * PAGE, 600_000), (PAGE + 4, 300), (9, 0)]


@pytest.mark.parametrize("lies", ["as the file does", "otherwise"])
@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize("direct", [False, True])
def test_what_is_written_lies_where_it_was_put_and_nothing_else_changes(tmp_path, monkeypatch, lies, refuses, direct):
    """Directly, through the cache, and where the system opens a file for direct writes only to refuse them."""
    real = os.pwrite

    def refusing(fd, *rest):
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, *rest)

    if refuses:
        monkeypatch.setattr(os, "pwrite", refusing)
    memory, size = arena(700_000), 650_000
    for at, length in SPANS:
        file = Output(tmp_path / "x", size, direct)
        expected = bytearray(size)
        for fill, (begin, count) in enumerate([(0, size), (at, length)], 1):
            shift = begin % PAGE + (lies == "otherwise")
            piece = memory[shift : shift + count]
            piece[:] = expected[begin : begin + count] = bytes([fill]) * count
            file.write(piece, begin)
        file.close()
        assert (tmp_path / "x").read_bytes() == expected


def test_direct_writes_do_not_enter_the_cache(tmp_path):
    """What makes them worth their rules: measured by what is left to flush, not by time."""
    file = Output(tmp_path / "x", 64 << 20, direct=True)
    if file._direct is None:
        pytest.skip("this file system has no direct writes")
    memory = arena(8 << 20)
    assert address(memory) % PAGE == 0
    for at in range(0, 64 << 20, 8 << 20):
        file.write(memory, at)
    file.close()
    assert cached_pages(tmp_path / "x") == 0


def cached_pages(path):
    """Pages of a file that the system holds in memory (mincore)."""
    import mmap

    libc = ctypes.CDLL(None)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        begin = ctypes.c_char.from_buffer(view)
        found = (ctypes.c_ubyte * (len(view) // PAGE))()
        assert libc.mincore(ctypes.c_void_p(ctypes.addressof(begin)), ctypes.c_size_t(len(view)), found) == 0
        del begin
    return sum(x & 1 for x in found)


def test_a_full_disk_shows_when_the_room_is_reserved(disk):
    with pytest.raises(OSError, match="No space left"):
        Output(disk("size=1m") / "x", 2 << 20, direct=False)


def test_files_that_are_let_go_of_leave_no_descriptor_open(tmp_path):
    (tmp_path / "x").write_bytes(b"1234")
    mine = Path("/proc/self/fd")
    if not mine.is_dir():
        pytest.skip("needs /proc")
    before = len(list(mine.iterdir()))
    for _ in range(50):
        File(tmp_path / "x").read(0, 4)
    assert len(list(mine.iterdir())) <= before + 1


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda p: (p / "none").read_bytes(), "does not exist"),
        (lambda p: p.read_bytes(), "is a folder"),
        (lambda p: (p / "file/x").read_bytes(), "Not a directory"),
        (lambda p: (p / ("x" * 300)).read_bytes(), "File name too long"),
    ],
)
def test_what_the_system_refuses_names_the_path(tmp_path, broken, says):
    (tmp_path / "file").touch()
    with pytest.raises(FormatError, match=says) as error, stated("given"):
        broken(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_full_disk_is_stated_as_one_whatever_was_asked(tmp_path):
    with pytest.raises(OutputError, match="no space left on the disk of here; make room"), stated("here"):
        raise OSError(28, "No space left on device")


def test_paths_that_cannot_be_are_stated(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "loop", "~nobody-of-this-name", "x" * 300):
        with pytest.raises(FormatError):
            resolve(path)
    for path in (tmp_path / "loop", "~nobody-of-this-name"):
        with pytest.raises(OutputError):
            place_to_write(path)
    assert expanded("~") == expanded("~/.") and "~" not in str(expanded("~/x"))


def tree(path):
    return path.read_text() if path.is_file() else {p.name: p.read_text() for p in path.iterdir()}


def put(path, text, as_folder):
    if as_folder:
        path.mkdir()
        (path / text).write_text(text)
    else:
        path.write_text(text)


@pytest.mark.parametrize("can_swap", [True, False])
@pytest.mark.parametrize("as_folder", [True, False])
@pytest.mark.parametrize("old", [True, False])
def test_a_move_into_place_leaves_the_new_one_alone(tmp_path, monkeypatch, can_swap, as_folder, old):
    if not can_swap:
        monkeypatch.setattr(storage, "_swap", lambda a, b: False)
    put(tmp_path / "new", "new", as_folder)
    if old:
        put(tmp_path / "target", "old", as_folder)
    move_into_place(tmp_path / "new", tmp_path / "target")
    assert [p.name for p in tmp_path.iterdir()] == ["target"]
    assert tree(tmp_path / "target") == ({"new": "new"} if as_folder else "new")


def test_a_folder_that_is_replaced_exists_at_every_moment(tmp_path, monkeypatch):
    """Looked at when the old one is about to be removed, and by a thread that never stops looking."""
    put(tmp_path / "target", "old", True)
    missing, stop = [], threading.Event()

    def watch():
        while not stop.is_set():
            if not os.path.lexists(tmp_path / "target"):
                missing.append(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for k in range(50):
        put(tmp_path / "new", f"new{k}", True)
        move_into_place(tmp_path / "new", tmp_path / "target", durable=False)
    stop.set()
    watcher.join()
    assert not missing or not storage._swap(tmp_path, tmp_path)
    assert tree(tmp_path / "target") == {"new49": "new49"}


def test_a_move_that_fails_puts_the_old_one_back(tmp_path, monkeypatch):
    put(tmp_path / "target", "old", True)
    monkeypatch.setattr(storage, "_swap", lambda a, b: False)
    with pytest.raises(FileNotFoundError):
        move_into_place(tmp_path / "gone", tmp_path / "target")
    assert tree(tmp_path / "target") == {"old": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_what_is_removed_through_a_link_is_the_link(tmp_path):
    put(tmp_path / "kept", "x", True)
    (tmp_path / "link").symlink_to("kept")
    storage.remove(tmp_path / "link")
    storage.remove(tmp_path / "never was")
    assert tree(tmp_path / "kept") == {"x": "x"} and not (tmp_path / "link").is_symlink()
    shutil.rmtree(tmp_path / "kept")
