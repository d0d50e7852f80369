"""What every sink promises, tested on each of them. A new one has its line in SINKS.

A sink is made for tensors and metadata; what its files hold is read by open_source, and by the safetensors package.
"""

import json
import os
import random
import threading
import tracemalloc
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from taskvec.formats import open_source, sink
from taskvec.formats.header import read_header
from taskvec.formats.sink import Safetensors, laid_out
from taskvec.numbers.dtypes import BITS
from taskvec.places.local import PAGE, File, Folder
from taskvec.sources.source import Spec

METADATA = {"format": "pt", "taskvec.mass": "0"}
SPECS = {
    "long": Spec((70, 1000), "F32"),  # more than a fingerprint reads of it
    "doubles": Spec((3, 5), "F64"),
    "halves": Spec((7,), "F16"),
    "none": Spec((0, 4), "F32"),
    "one": Spec((), "I64"),
    "longer": Spec((300_000,), "U8"),
}


def one_file(folder, specs, durable=False):
    return Safetensors(Folder(folder), [laid_out("model.safetensors", specs, METADATA)], durable)


def at_a_page(folder, specs, durable=True):
    return Safetensors(Folder(folder), [laid_out("model.safetensors", specs, METADATA, PAGE)], durable)


def shards(folder, specs, durable=False):
    names = [f"model-{k + 1:05d}-of-00002.safetensors" for k in range(2)]
    parts = [dict([*specs.items()][k::2]) for k in range(2)]
    table = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    return Safetensors(
        Folder(folder), [laid_out(n, p, METADATA, PAGE) for n, p in zip(names, parts, strict=True)], durable
    )


SINKS = {f.__name__: f for f in (one_file, at_a_page, shards)}


@pytest.fixture(params=SINKS)
def made(request, tmp_path):
    """made(name="out") -> a folder and a sink of SPECS in it."""
    opened = []

    def make(name="out"):
        (tmp_path / name).mkdir(exist_ok=True)
        opened.append(SINKS[request.param](tmp_path / name, SPECS))
        return tmp_path / name, opened[-1]

    yield make
    for each in opened:
        each.close()


def content(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 60, spec.nbytes, np.uint8).tobytes() for name, spec in SPECS.items()}


def blocks(step, seed=None):
    """(tensor, first element, elements) of all tensors, in order or shuffled."""
    starts = [(name, start, spec.numel) for name, spec in SPECS.items() for start in range(0, spec.numel, step)]
    ranges = [(name, start, min(step, numel - start)) for name, start, numel in starts]
    if seed is not None:
        random.Random(seed).shuffle(ranges)
    return ranges


def cut(data, name, start, count):
    bits = BITS[SPECS[name].dtype]
    return memoryview(bytearray(data[name][start * bits // 8 : (start + count) * bits // 8]))


def written(made, name="out", data=None, step=9999, seed=None):
    """A whole output: its folder."""
    folder, sink = made(name)
    data = data or content()
    for block in blocks(step, seed):
        sink.write(*block[:2], cut(data, *block))
    sink.finish(METADATA)
    sink.close()
    return folder


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# ---- what is written ------------------------------------------------------------------------------
def test_what_is_written_is_what_was_planned_and_what_readers_find(made):
    folder, data = written(made), content()
    source = open_source(folder)
    assert source.specs == SPECS and source.metadata == METADATA
    for name, spec in SPECS.items():
        out = bytearray(spec.nbytes)
        source.readinto(name, 0, memoryview(out))
        assert bytes(out) == data[name], name


def test_the_safetensors_package_reads_the_same_as_from_its_own_file(made, tmp_path):
    kinds = {"F32": "f4", "F64": "f8", "F16": "f2", "I64": "i8", "U8": "u1"}
    data = content()
    arrays = {n: np.frombuffer(data[n], kinds[s.dtype]).reshape(s.shape) for n, s in SPECS.items()}
    save_file(arrays, tmp_path / "theirs.safetensors")
    theirs, ours = load_file(tmp_path / "theirs.safetensors"), {}
    for path in written(made).glob("*.safetensors"):
        ours |= load_file(path)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert (ours[name].dtype, ours[name].shape, ours[name].tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize(("step", "seed"), [(9999, 1), (501, 2), (1 << 20, 3)])
def test_neither_the_order_of_the_writes_nor_their_sizes_change_a_byte(made, step, seed):
    assert files(written(made, "shuffled", step=step, seed=seed)) == files(written(made, "in order"))


def test_threads_may_write_at_once(made):
    folder, sink = made("threads")
    data, todo = content(), blocks(777, seed=4)

    def work(k):
        for block in todo[k::4]:
            sink.write(*block[:2], cut(data, *block))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.finish(METADATA)
    assert files(folder) == files(written(made, "alone"))


def test_no_file_is_opened_again_after_the_first_write(made, monkeypatch):
    opened, real = [], os.open
    monkeypatch.setattr(os, "open", lambda path, *rest, **more: opened.append(path) or real(path, *rest, **more))
    _, sink = made()
    before = len(opened)
    data = content()
    for block in blocks(9999):
        sink.write(*block[:2], cut(data, *block))
    sink.fingerprint()
    sink.finish(METADATA)
    assert len(opened) == before > 0


# ---- what an earlier run has written ---------------------------------------------------------------
def test_what_is_kept_stays_as_it_is_and_only_the_rest_is_written(made):
    whole = files(written(made, "whole"))
    folder, first = made("twice")
    data, todo = content(), blocks(5000, seed=5)
    for block in todo[::2]:
        first.write(*block[:2], cut(data, *block))
    first.close()
    _, second = made("twice")
    for k, (name, start, count) in enumerate(todo):
        piece = cut(data, name, start, count)
        if k % 2:
            second.write(name, start, piece)
        else:
            there = memoryview(bytearray(len(piece)))
            assert second.read(name, start, there) and there == piece
            second.keep(name, start, there)
    wanted = open_source(written(made, "other")).fingerprint
    assert second.fingerprint() == wanted
    second.finish(METADATA)
    assert files(folder) == whole


def test_nothing_is_read_where_the_file_ends_before(tmp_path, monkeypatch):
    monkeypatch.setattr("taskvec.places.local._reserve", lambda fd, size: None)  # a file system that reserves nothing
    with closing(one_file(tmp_path, SPECS)) as sink:
        sink.write("doubles", 0, memoryview(bytes(8)))
        out = memoryview(bytearray(8))
        assert sink.read("doubles", 0, out) and not sink.read("longer", 299_990, out)


@pytest.mark.parametrize(("held", "read"), [(0, 11), (20_000, 4), (4 << 20, 0)])
def test_the_fingerprint_is_that_of_a_source_opened_on_the_output(made, monkeypatch, held, read):
    """Whether memory sufficed for the samples of all tensors, of some or of none; the others are read again."""
    reads, real = [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *given: reads.append(given) or real(*given))
    monkeypatch.setattr(sink, "HELD", held)
    folder, output = made()
    data = content(6)
    for block in blocks(4097, seed=7):
        output.write(*block[:2], cut(data, *block))
    before, many = output.fingerprint(), len(reads)
    output.finish(METADATA)
    assert before == open_source(folder).fingerprint and many == read


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("make", SINKS.values(), ids=SINKS)
def test_what_shall_be_durable_is_synced_by_sync_and_by_finish(tmp_path, monkeypatch, make, durable):
    synced, real = [], os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(fd) or real(fd))
    with closing(make(tmp_path, SPECS, durable)) as sink:
        for where in blocks(1 << 20):
            block(sink, *where)
        sink.sync()
        first = len(synced)
        sink.finish(METADATA)
    many = len(files(tmp_path)) - (make is shards)
    assert (first, len(synced)) == ((many, 2 * many) if durable else (0, 0))


# ---- what it costs ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("count", "shape", "name"),
    [(30_000, (8,), "{}"), (20_000, (64,), "model.layers.{}.weight"), (20_000, (4096,), "w" * 200 + "{}"),
     (300, (100_000,), "model.layers.{}.weight"), (5000, (0,), "ü{}")],
)  # fmt: skip
def test_a_sink_takes_no_more_memory_than_it_says_and_not_much_less(tmp_path, count, shape, name):
    specs = {name.format(k): Spec(shape, "F32") for k in range(count)}
    layouts = [laid_out("model.safetensors", specs, METADATA)]
    data = memoryview(bytearray(4 * shape[0]))
    tracemalloc.start()
    try:
        with closing(Safetensors(Folder(tmp_path), layouts, durable=False)) as output:
            for tensor in specs:
                output.keep(tensor, 0, data)
            output.fingerprint()
            output.finish(METADATA)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= sink.cost_of_sink(specs).of(threads=1) <= 3 * peak


# ---- what is refused -------------------------------------------------------------------------------
def block(sink, name, start, count):
    sink.write(name, start, memoryview(bytearray(count * BITS[SPECS[name].dtype] // 8)))


@pytest.mark.parametrize(
    ("name", "start", "count"),
    [("long", 100, 50), ("long", 100, 10), ("long", 149, 1), ("long", 0, 101), ("long", 149, 2), ("long", 0, 70_000),
     ("long", 69_999, 2), ("long", 70_000, 1), ("none", 0, 1), ("doubles", 0, 15), ("doubles", 14, 1)],
)  # fmt: skip
def test_elements_that_are_written_already_or_do_not_exist_are_refused(made, name, start, count):
    folder, sink = made()
    block(sink, "long", 100, 50)
    block(sink, "doubles", 0, 15)
    before = files(folder)
    with pytest.raises(ValueError, match=f"{name}: its bytes .* do not exist, or some of them are written already"):
        sink.write(name, start, memoryview(b"\7" * (count * BITS[SPECS[name].dtype] // 8)))
    assert files(folder) == before


def test_an_output_with_elements_that_nobody_wrote_is_not_finished(made):
    _, sink = made()
    todo = blocks(9999)
    for where in todo[1:]:
        block(sink, *where)
    with pytest.raises(ValueError, match="1 tensors are not all written: long"):
        sink.finish(METADATA)
    block(sink, *todo[0])
    assert sink.finish(METADATA)


def test_a_tensor_that_belongs_to_two_files_is_refused(tmp_path):
    layouts = [laid_out(name, SPECS, METADATA) for name in ("a.safetensors", "b.safetensors")]
    with pytest.raises(ValueError, match="doubles, halves, long, longer, none, one: a tensor belongs to one file"):
        Safetensors(Folder(tmp_path), layouts, durable=False)


# ---- the header of a safetensors file --------------------------------------------------------------
@pytest.mark.parametrize("multiple", [8, PAGE])
def test_the_header_is_as_long_as_was_said_and_the_data_lies_where_was_said(tmp_path, multiple):
    layout = laid_out("model.safetensors", SPECS, METADATA, multiple)
    with closing(Safetensors(Folder(tmp_path), [layout], durable=False)) as sink:
        for where in blocks(9999):
            block(sink, *where)
        sink.finish(METADATA)
    header = read_header(File(tmp_path / "model.safetensors"))
    assert header.offsets == layout.offsets and min(header.offsets.values()) == layout.header_size
    assert layout.header_size % multiple == 0
    assert (tmp_path / "model.safetensors").stat().st_size == layout.size


def test_shorter_metadata_is_padded_and_longer_is_refused(tmp_path):
    layout = laid_out("model.safetensors", {"one": SPECS["one"]}, METADATA | {"digest": "0" * 64})
    with closing(Safetensors(Folder(tmp_path), [layout], durable=False)) as sink:
        block(sink, "one", 0, 1)
        with pytest.raises(ValueError, match=r"model.safetensors has \d+ bytes for a header of \d+"):
            sink.finish(METADATA | {"digest": "0" * 64, "more": "than was planned"})
        sink.finish(METADATA)
    header = read_header(File(tmp_path / "model.safetensors"))
    assert header.metadata == METADATA and header.offsets == layout.offsets


def test_the_proof_of_a_file_is_the_digest_of_its_header(tmp_path):
    from blake3 import blake3

    layout = laid_out("model.safetensors", SPECS, METADATA)
    with closing(Safetensors(Folder(tmp_path), [layout], durable=False)) as sink:
        for where in blocks(9999):
            block(sink, *where)
        proofs = sink.finish(METADATA)
    header = (tmp_path / "model.safetensors").read_bytes()[: layout.header_size]
    assert proofs == {"model.safetensors": blake3(header).hexdigest()}


def test_a_sink_that_cannot_be_made_leaves_no_file_open(tmp_path):
    (tmp_path / "b.safetensors").mkdir()
    parts = [{"one": SPECS["one"]}, {"long": SPECS["long"]}]
    layouts = [laid_out(f"{n}.safetensors", part, METADATA) for n, part in zip("ab", parts, strict=True)]
    mine = Path("/proc/self/fd")
    if not mine.is_dir():
        pytest.skip("needs /proc")
    before = len([*mine.iterdir()])
    with pytest.raises(IsADirectoryError):
        Safetensors(Folder(tmp_path), layouts, durable=False)
    assert len([*mine.iterdir()]) == before
