"""What place.py promises, asked of every place. A new kind of place has its line in PLACES."""

import os
import random
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest

from memory_place import MemoryPlace, Store
from taskvec.errors import FormatError, SourceChanged
from taskvec.places.local import Folder
from taskvec.places.place import WithDescriptor

CONTENT = random.Random(0).randbytes(100_000)


class InFolder:
    """A folder of this machine, and what other programs do there."""

    def __init__(self, tmp_path: Path):
        self.root = tmp_path / "place"
        self.root.mkdir()

    def inside(self, name=""):
        (self.root / name).mkdir(exist_ok=True)
        return Folder(self.root / name)

    def put(self, name, content):
        """A new file in the place of the old one, as careful programs write."""
        (self.root / "new").write_bytes(content)
        (self.root / "new").replace(self.root / name)

    def remove(self, name):
        (self.root / name).unlink()


class InMemory:
    """The place in memory."""

    def __init__(self, tmp_path: Path):
        self.store = Store()

    def inside(self, name=""):
        return MemoryPlace(self.store, f"{name}/" if name else "")

    def put(self, name, content):
        self.store.put(name, content)

    def remove(self, name):
        del self.store.files[name]


PLACES = {kind.__name__: kind for kind in (InFolder, InMemory)}


@pytest.fixture(params=PLACES)
def world(request, tmp_path):
    return PLACES[request.param](tmp_path)


# ---- reading ---------------------------------------------------------------------------------------
def test_any_thread_reads_any_range(world):
    world.put("x", CONTENT)
    file, wrong = world.inside().open("x"), []
    assert file.size == len(CONTENT)

    def read(k):
        for at in range(k, 90_000, 997):
            out = memoryview(bytearray(1000))
            file.readinto(at, out)
            if not file.read(at, 1000) == out == CONTENT[at : at + 1000]:
                wrong.append(at)

    together(read)
    assert not wrong and file.read(0, 0) == file.read(len(CONTENT), 0) == b""


def together(work, count=4):
    threads = [threading.Thread(target=work, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(("offset", "length"), [(2, 3), (4, 1), (100, 1)])
def test_what_lies_past_the_end_is_not_made_up(world, offset, length):
    world.put("x", b"1234")
    with pytest.raises(SourceChanged, match="x"):
        world.inside().open("x").read(offset, length)


def test_two_openings_of_a_file_have_one_address_and_one_stamp(world):
    world.put("x", b"1234")
    world.put("y", b"1234")
    place = world.inside()
    x, again, y = place.open("x"), place.open("x"), place.open("y")
    assert (x.address, x.stamp) == (again.address, again.stamp) and repr(x.stamp) == repr(again.stamp)
    assert x.address != y.address and hash(x.stamp) is not None
    world.put("y", b"other")
    x.require_unchanged()


@pytest.mark.parametrize("read_before", [False, True])
def test_a_file_that_was_replaced_has_another_stamp_and_is_not_taken_for_the_first(world, read_before):
    world.put("x", b"1234")
    place = world.inside()
    file = place.open("x")
    if read_before:
        assert file.read(1, 2) == b"23"
    world.put("x", b"5678")
    other = place.open("x")
    assert other.address == file.address and (other.stamp, repr(other.stamp)) != (file.stamp, repr(file.stamp))
    with pytest.raises(SourceChanged, match="x changed"):
        file.require_unchanged()
    with suppress(SourceChanged):
        assert file.read(0, 4) == b"1234"
    assert other.read(0, 4) == b"5678"


def test_a_file_that_vanished_has_changed(world):
    world.put("x", b"1234")
    file = world.inside().open("x")
    world.remove("x")
    with pytest.raises(SourceChanged, match=r"x (vanished|changed)"):
        file.require_unchanged()


def test_the_names_are_those_of_the_files_and_not_of_folders(world):
    world.put("x", b"1")
    world.put("y.json", b"2")
    world.inside("inner").create("z", 1, durable=False).close()
    place = world.inside()
    assert sorted(place.names()) == ["x", "y.json"]
    assert [name for name in ("x", "y.json", "z", "inner", "none") if place.holds(name)] == ["x", "y.json"]
    assert world.inside("inner").names() == ["z"]


def test_what_is_not_there_is_named_in_the_error(world):
    place = world.inside()
    with pytest.raises(FormatError, match=r"none.*does not exist") as error:
        place.open("none")
    assert place.uri("none") in str(error.value) and place.uri("none").startswith(place.uri())


def test_a_descriptor_reads_what_the_file_reads(world):
    """Of places whose files have one."""
    world.put("x", CONTENT)
    file = world.inside().open("x")
    if isinstance(file, WithDescriptor):
        assert os.pread(file.fd(), 1000, 5) == file.read(5, 1000)


# ---- writing ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("durable", [False, True])
def test_a_draft_is_written_by_any_thread_in_any_order(world, durable):
    place = world.inside()
    ranges = [(at, min(at + 777, len(CONTENT))) for at in range(0, len(CONTENT), 777)]
    random.Random(1).shuffle(ranges)
    with closing(place.create("x", len(CONTENT), durable)) as draft:

        def write(k):
            for begin, end in ranges[k::4]:
                draft.write(begin, memoryview(bytearray(CONTENT[begin:end])))

        together(write)
        out = memoryview(bytearray(5000))
        assert draft.read(50_000, out) and out == CONTENT[50_000:55_000]
        assert not draft.read(len(CONTENT) - 10, out)
        draft.sync()
    assert place.open("x").read(0, len(CONTENT)) == CONTENT


def test_a_draft_that_is_created_again_still_has_what_was_written(world):
    place = world.inside()
    for begin, end in ((0, 400), (600, 1000)):
        with closing(place.create("x", 1000, durable=False)) as draft:
            draft.write(begin, memoryview(CONTENT)[begin:end])
    file = place.open("x")
    assert file.size == 1000 and file.read(0, 400) + file.read(600, 400) == CONTENT[:400] + CONTENT[600:1000]


@pytest.mark.parametrize("whole", [False, True])
def test_a_draft_gets_its_name_in_one_step(world, whole):
    """Of a file, and of a folder with all that is in it."""
    for name in ("a", "b"):
        with closing(world.inside("draft").create(name, 4, durable=True)) as draft:
            draft.write(0, memoryview(f"of {name}".encode()))
    if whole:
        world.inside().publish("draft", "out")
        assert sorted(world.inside("out").names()) == ["a", "b"]
        assert world.inside("out").open("b").read(0, 4) == b"of b"
        assert not world.inside("draft").names()
    else:
        world.inside().publish("draft/a", "out")
        assert world.inside().names() == ["out"] and world.inside().open("out").read(0, 4) == b"of a"
        assert world.inside("draft").names() == ["b"]


@pytest.mark.parametrize("taken", ["by a file", "by a folder"])
@pytest.mark.parametrize("draft", ["draft", "draft/a"])
def test_a_name_that_is_taken_stays_with_what_has_it(world, taken, draft):
    with closing(world.inside("draft").create("a", 4, durable=False)) as file:
        file.write(0, memoryview(b"new!"))
    if taken == "by a file":
        world.put("out", b"old")
    else:
        world.inside("out").create("x", 3, durable=False).close()
    with pytest.raises(FileExistsError):
        world.inside().publish(draft, "out")
    assert world.inside("draft").open("a").read(0, 4) == b"new!"
    if taken == "by a file":
        assert world.inside().open("out").read(0, 3) == b"old"
    else:
        assert world.inside("out").names() == ["x"]
