"""A place is all that readers and sinks need: what lies in memory is loaded, summed and written as on the disk."""

import json
from contextlib import closing

import numpy as np
import pytest

import taskvec as tv
from memory_place import MemoryPlace, Store
from taskvec.errors import FormatError, SourceChanged
from taskvec.formats import open_in, open_source
from taskvec.formats.sink import Safetensors, laid_out
from taskvec.sources.abilities import OnDisk


@pytest.fixture
def copied():
    """copied(folder) -> a place in memory that holds the same files."""

    def copy(folder):
        store = Store()
        for path in folder.iterdir():
            store.put(path.name, path.read_bytes())
        return MemoryPlace(store)

    return copy


def raw(source):
    tensors = {name: bytearray(spec.nbytes) for name, spec in source.specs.items()}
    for name, out in tensors.items():
        source.readinto(name, 0, memoryview(out))
    return tensors


def lora(build, at):
    factors = {"A": np.arange(8, dtype="f4").reshape(2, 4), "B": np.ones((8, 2), "f4")}
    return build.lora(
        at, {f"base_model.model.model.layers.0.mlp.lora_{side}.weight": factor for side, factor in factors.items()}
    )


KINDS = {
    "one file": (lambda build, at: build.model(at, build.tensors(0)), "model.safetensors"),
    "a folder": (lambda build, at: build.model(at, build.tensors(0)), ""),
    "shards": (lambda build, at: build.model(at, build.tensors(0), shards=3), ""),
    "an index": (lambda build, at: build.model(at, build.tensors(0), shards=3), "model.safetensors.index.json"),
    "a LoRA": (lora, ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_in_memory_is_the_same_source_as_on_the_disk(tmp_path, build, copied, kind):
    make, name = KINDS[kind]
    folder = make(build, tmp_path / "m")
    here, there = open_source(folder / name), open_in(copied(folder), name, "memory:m")
    assert there.specs == here.specs and raw(there) == raw(here)
    assert (there.fingerprint, there.mass, there.partial) == (here.fingerprint, here.mass, here.partial)
    assert there != here and there == open_in(there.place, name, "memory:m") and len({here, there}) == 2
    assert there.stamp() == open_in(there.place, name, "memory:m").stamp() and not isinstance(there, OnDisk)
    there.require_unchanged()
    there.place.store.put(next(iter(there.files)), b"other")
    with pytest.raises(SourceChanged):
        there.require_unchanged()


def test_a_merge_of_what_lies_in_memory_writes_the_same_bytes(tmp_path, build, copied):
    folders = [build.model(tmp_path / n, build.tensors(k), shards=k + 1) for k, n in enumerate("ab")]
    folders.append(lora(build, tmp_path / "lora"))
    merged = []
    for load in (open_source, lambda folder: open_in(copied(folder), "", f"memory:{folder.name}")):
        a, b, adapter = (tv.Weights({load(folder): 1}) for folder in folders)
        tv.save(a + 0.5 * (b - a) + adapter, tmp_path / "out.safetensors", overwrite=True)
        (source,) = tv.load(tmp_path / "out.safetensors").terms
        merged.append(raw(source))
    assert merged[0] == merged[1]


def test_a_sink_writes_to_memory_what_it_writes_to_the_disk(tmp_path, build):
    source = open_source(build.model(tmp_path / "m", build.tensors(0)))
    place = MemoryPlace(Store())
    layout = laid_out("out.safetensors", source.specs, {"format": "pt"})
    with closing(Safetensors(place, [layout], durable=True)) as sink:
        for name, data in raw(source).items():
            sink.write(name, 0, memoryview(data))
        sink.sync()
        assert sink.fingerprint() == source.fingerprint
        sink.finish({"format": "pt"})
    out = open_in(place, "out.safetensors", "memory:out")
    assert raw(out) == raw(source) and out.fingerprint == source.fingerprint


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "memory:m holds no safetensors file"),
        ({"pytorch_model.bin": b""}, "memory:m holds only pytorch_model.bin"),
        ({"model.safetensors": b"1234"}, "memory:model.safetensors is no safetensors file: it has 4 bytes"),
        ({"a.safetensors": b"", "b.safetensors": b""}, "memory: holds 2 safetensors files and no index"),
        ({"m.safetensors.index.json": b"[]"}, "memory:m.safetensors.index.json is no index of shards"),
        ({"m.safetensors.index.json": json.dumps({"weight_map": {"w": "x"}}).encode()}, "files that cannot be read"),
        ({"adapter_config.json": b"{}"}, "memory: has adapter_config.json and no adapter_model.safetensors"),
    ],
)
def test_errors_name_what_lies_in_memory(files, says):
    store = Store()
    for name, content in files.items():
        store.put(name, content)
    with pytest.raises(FormatError, match=says):
        open_in(MemoryPlace(store), "", "memory:m")
