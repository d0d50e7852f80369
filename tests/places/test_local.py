"""Files: exact reads, refusals of the system in words, and names that change in one step."""

import ctypes
import errno
import fcntl
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from taskvec.errors import FormatError, OutputError, SourceChanged
from taskvec.places.local import (
    PAGE,
    File,
    Output,
    address,
    expanded,
    located,
    opened,
    place_to_write,
    replace_text,
    resolve,
    stated,
    write_text,
)
from taskvec.saving.blocks import arena


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


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device", "a link to a pipe"])
def test_what_has_no_fixed_bytes_is_refused_without_waiting_for_it(tmp_path, kind):
    os.mkfifo(tmp_path / "a pipe")
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a device").symlink_to("/dev/zero")
    (tmp_path / "a link to a pipe").symlink_to("a pipe")
    with pytest.raises(FormatError, match=f"{kind} is no regular file"):
        File(tmp_path / kind)


@pytest.mark.parametrize("given", ["m/x", "m", ".", "x", "m/../m/x"])
def test_a_uri_is_a_place_and_a_name_in_it(tmp_path, monkeypatch, given):
    (tmp_path / "m").mkdir()
    for name in ("m/x", "x"):
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    place, name = located(given)
    assert place.uri(name) == given
    if name:
        file = place.open(name)
        monkeypatch.chdir("/")
        assert Path(file.address).read_bytes() == (tmp_path / given).read_bytes()


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
            file.write(begin, piece)
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
        file.write(at, memory)
    file.close()
    assert cached_pages(tmp_path / "x") == 0


def test_memory_that_cannot_be_written_to_is_written_too(tmp_path):
    """Whose address nobody can ask for, so that it cannot go past the cache."""
    file = Output(tmp_path / "x", 1 << 20, direct=True)
    file.write(0, memoryview(b"x" * (1 << 20)))
    file.close()
    assert (tmp_path / "x").read_bytes() == b"x" * (1 << 20)


@pytest.mark.parametrize("at", [0, 5])
def test_a_short_write_is_one_call_through_the_cache(tmp_path, monkeypatch, at):
    """Split at pages and sent past the cache, each of a hundred thousand small tensors would wait for the disk."""
    file, calls, real = Output(tmp_path / "x", 1 << 20, direct=True), [], os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: calls.append(len(data)) or real(fd, data, offset))
    file.write(at, arena(1 << 20)[at : at + 20_000])
    file.close()
    assert calls == [20_000]


def cached_pages(path):
    """Pages of a file that the system holds in memory (mincore)."""
    import mmap

    libc = ctypes.CDLL(None)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        begin = ctypes.c_char.from_buffer(view)
        pages = (ctypes.c_ubyte * (len(view) // PAGE))()
        assert libc.mincore(ctypes.c_void_p(ctypes.addressof(begin)), ctypes.c_size_t(len(view)), pages) == 0
        del begin
    return sum(x & 1 for x in pages)


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


# ---- what tells that a file changed ---------------------------------------------------------------
TICK = 0.02  # seconds, more than a tick of the clock of any file system that tests run on


def put_back(path, change):
    """`change(path)`, and then the time of change as it was: rsync --times, cp -p, touch -r."""
    before = path.stat()
    time.sleep(TICK)
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_size == before.st_size


def in_place(path):
    with path.open("r+b") as file:
        file.write(b"new")


def replaced(path):
    path.with_name("other").write_bytes(b"new" + path.read_bytes()[3:])
    path.with_name("other").rename(path)


@pytest.mark.parametrize("change", [in_place, replaced])
@pytest.mark.parametrize("is_open", [True, False])
def test_a_file_whose_time_of_change_was_put_back_has_changed(tmp_path, change, is_open):
    (tmp_path / "x").write_bytes(b"0123456789")
    file = File(tmp_path / "x")
    if is_open:
        file.read(0, 4)
    file.require_unchanged()
    put_back(tmp_path / "x", change)
    with pytest.raises(SourceChanged, match="changed while it was read"):
        file.require_unchanged()
    if not is_open:
        with pytest.raises(SourceChanged, match="changed while it was read"):
            file.read(0, 4)


def test_a_file_that_is_only_read_by_others_has_not_changed(tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")
    file = File(tmp_path / "x")
    (tmp_path / "x").read_bytes()
    os.utime(tmp_path)  # what happens to its folder is no business of the file
    (tmp_path / "y").symlink_to("x")
    file.require_unchanged()


# ---- what is written is never written through a link ------------------------------------------------
@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "new"),
        lambda path: Output(path, 100, direct=False),
        lambda path: Output(path, 100, direct=True),
        lambda path: opened(path, os.O_WRONLY | os.O_CREAT),
    ],
)
def test_a_link_is_refused_and_what_it_leads_to_stays(tmp_path, write):
    (tmp_path / "keys").write_text("keys")
    (tmp_path / "link").symlink_to("keys")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("link", "dangling"):
        with pytest.raises(FormatError, match="is a link, which is not followed"), stated(tmp_path / name):
            write(tmp_path / name)
    assert (tmp_path / "keys").read_text() == "keys" and not (tmp_path / "nowhere").exists()


def test_what_is_no_unicode_is_written_as_an_escape(tmp_path):
    write_text(tmp_path / "x", "of " + os.fsdecode(b"b\xffse"))
    assert (tmp_path / "x").read_text(encoding="utf-8") == "of b\\udcffse"


def test_a_text_that_is_replaced_is_always_an_old_one_or_the_new_one(tmp_path):
    """Also while two processes write it, and when they are killed."""
    path, texts = tmp_path / "about.json", [letter * 300_000 for letter in "ab"]
    replace_text(path, texts[0])
    children = []
    for text in texts:
        child = os.fork()
        if not child:
            try:
                while True:
                    replace_text(path, text)
            finally:
                os._exit(1)
        children.append(child)
    seen = {path.read_text() for _ in range(200)}
    for child in children:
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, "it had been writing until then"
    assert seen | {path.read_text()} <= {*texts}


def test_a_text_that_takes_the_place_of_a_link_leaves_what_the_link_led_to(tmp_path):
    (tmp_path / "keys").write_text("keys")
    (tmp_path / "link").symlink_to("keys")
    replace_text(tmp_path / "link", "new")
    assert (tmp_path / "keys").read_text() == "keys" and (tmp_path / "link").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keys", "link"]


@pytest.mark.parametrize("name", ["", "/", "a\0b"])
def test_what_can_be_no_outputs_name_is_stated(name):
    with pytest.raises(OutputError, match=r"no name|cannot be written to|is the root of all files"):
        place_to_write(name)
