"""A checkpoint is a folder, a file or shards; which of them it is makes no difference to what it holds."""

import json
import os
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import taskvec as tv
from taskvec.errors import FormatError, SourceChanged
from taskvec.formats import open_source
from taskvec.formats.header import write_header
from taskvec.numbers.dtypes import BITS
from taskvec.sources.source import Spec


@pytest.fixture
def content(build):
    return build.tensors(0)


def raw_bytes(source, name):
    spec = source.specs[name]
    out = bytearray(spec.nbytes)
    source.readinto(name, 0, memoryview(out))
    return bytes(out)


def test_a_folder_its_file_and_its_shards_are_the_same_model(tmp_path, build, content):
    whole = build.model(tmp_path / "whole", content)
    shards = build.model(tmp_path / "shards", content, shards=3)
    sources = [open_source(p) for p in (whole, whole / "model.safetensors", shards,
                                      shards / "model.safetensors.index.json")]  # fmt: skip
    assert len({source.fingerprint for source in sources}) == 1
    for source in sources:
        assert source.mass == 1 and not source.partial
        for name, tensor in content.items():
            assert source.specs[name] == Spec(tensor.shape, "F32")
            assert raw_bytes(source, name) == tensor.tobytes()


def test_any_range_of_a_tensor_can_be_read(tmp_path, build, content):
    source = open_source(build.model(tmp_path / "m", content))
    flat = content["model.embed.weight"].reshape(-1)
    for start, count in [(0, 1), (7, 13), (39, 1), (0, 40), (5, 0)]:
        out = bytearray(4 * count)
        source.readinto("model.embed.weight", start, memoryview(out))
        assert np.array_equal(np.frombuffer(out, np.float32), flat[start : start + count])


def test_a_folder_with_one_file_of_any_name_is_a_checkpoint(tmp_path, build, content):
    folder = build.model(tmp_path / "m", content)
    (folder / "model.safetensors").rename(folder / "unet.fp16.safetensors")
    assert open_source(folder).fingerprint == open_source(build.model(tmp_path / "n", content)).fingerprint


def test_a_cache_of_links_to_blobs_is_read_as_the_hub_lays_it_out(tmp_path, build, content):
    folder = build.model(tmp_path / "m", content, shards=2)
    (tmp_path / "blobs").mkdir()
    for path in list(folder.iterdir()):
        path.rename(tmp_path / "blobs" / path.name)
        path.symlink_to(tmp_path / "blobs" / path.name)
    assert open_source(folder).specs.keys() == content.keys()


def test_the_fingerprint_tells_names_shapes_dtypes_and_data_apart(tmp_path, build, content):
    name = "model.norm.weight"
    variants = [
        content,
        content | {name: content[name] + 1},
        content | {name: content[name].reshape(2, 2)},
        content | {name: content[name].view(np.int32)},
        {("other" if n == name else n): t for n, t in content.items()},
    ]
    fingerprints = {open_source(build.model(tmp_path / str(k), v)).fingerprint for k, v in enumerate(variants)}
    assert len(fingerprints) == len(variants)


def test_sources_are_equal_while_they_are_the_same_unchanged_files(tmp_path, build, content):
    folder = build.model(tmp_path / "m", content)
    whole, file = open_source(folder), open_source(folder / "model.safetensors")
    assert whole == file and hash(whole) == hash(file)
    assert whole != open_source(build.model(tmp_path / "copy", content))
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert whole != open_source(folder)


def test_a_mass_of_zero_and_a_base_stand_in_the_metadata(tmp_path, content):
    save_file(content, tmp_path / "v.safetensors", metadata={"taskvec.mass": "0", "taskvec.base": "abc"})
    source = open_source(tmp_path / "v.safetensors")
    assert (source.mass, source.base) == (0, "abc")


def test_metadata_that_stay_in_memory_are_part_of_the_plan(tmp_path, content):
    for name, size in (("short", 0), ("long", 5_000_000)):
        save_file(content, tmp_path / f"{name}.safetensors", metadata={"notes": "x" * size})
    short, long = (tv.plan(tv.load(tmp_path / f"{name}.safetensors"), threads=1).peak for name in ("short", "long"))
    assert long - short >= 5_000_000


def test_a_file_that_changes_after_it_was_opened_is_noticed(tmp_path, build, content):
    folder = build.model(tmp_path / "m", content)
    source = open_source(folder)
    source.require_unchanged()
    save_file({n: t + 1 for n, t in content.items()}, folder / "model.safetensors")
    with pytest.raises(SourceChanged, match=r"model\.safetensors changed"):
        source.require_unchanged()
    (folder / "model.safetensors").unlink()
    with pytest.raises(SourceChanged, match="vanished"):
        source.require_unchanged()


def test_a_file_replaced_between_its_stamp_and_its_opening_is_noticed(tmp_path, build, content):
    from taskvec.places.local import File

    path = build.model(tmp_path / "m", content) / "model.safetensors"
    file = File(path)
    shutil.copyfile(path, tmp_path / "new")
    (tmp_path / "new").replace(path)
    with pytest.raises(SourceChanged):
        file.read(0, 8)


def test_an_index_and_a_whole_file_side_by_side_are_not_guessed_between(tmp_path, build, content):
    folder = build.model(tmp_path / "m", content, shards=2)
    save_file(content, folder / "model.safetensors")
    with pytest.raises(FormatError, match="name the one you mean"):
        open_source(folder)
    assert open_source(folder / "model.safetensors").specs.keys() == content.keys()
    assert open_source(folder / "model.safetensors.index.json").specs.keys() == content.keys()


def test_a_tensor_in_two_shards_is_refused(tmp_path, build, content):
    folder = build.model(tmp_path / "m", content, shards=2)
    first, second = sorted(folder.glob("*.safetensors"))
    save_file(load_file(second) | load_file(first), second)
    with pytest.raises(FormatError, match=f"in {second.name} is not in the index"):
        open_source(folder)


def test_all_dtypes_pass_through_untouched(tmp_path, build):
    specs = {f"t.{kind}": Spec((4, 2), kind) for kind in sorted(BITS)}
    header, _ = write_header(specs, {})
    data = np.random.default_rng(0).integers(0, 256, sum(s.nbytes for s in specs.values()), np.uint8).tobytes()
    data = bytes(b & 0x3B for b in data)  # exponents far from those of NaN and Inf
    (tmp_path / "x.safetensors").write_bytes(header + data)
    tv.save(tv.load(tmp_path / "x.safetensors"), tmp_path / "y.safetensors")
    before, after = open_source(tmp_path / "x.safetensors"), open_source(tmp_path / "y.safetensors")
    assert dict(before.specs) == dict(after.specs)
    for name in specs:
        assert raw_bytes(before, name) == raw_bytes(after, name), name


def test_what_is_written_opens_with_the_safetensors_package_at_any_size(tmp_path):
    specs = {
        "bf16": np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3),
        "scalar": np.float32(3.5),
        "none": np.zeros((0, 4), np.float16),
        "ключ 🗝": np.arange(3.0),
        "flags": np.array([True, False]),
    }
    w = tv.from_arrays({name: np.asarray(a) for name, a in specs.items()})
    tv.save(w, tmp_path / "one.safetensors")
    tv.save(w, tmp_path / "many", shard_size=1)
    sharded = {}
    for path in (tmp_path / "many").glob("*.safetensors"):
        sharded |= load_file(path)
    for content in (load_file(tmp_path / "one.safetensors"), sharded):
        assert content.keys() == specs.keys()
        for name, array in specs.items():
            assert content[name].tobytes() == np.asarray(array).tobytes()
            assert content[name].shape == np.asarray(array).shape
    table = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())["weight_map"]
    assert table.keys() == specs.keys() and all((tmp_path / "many" / file).is_file() for file in table.values())


def test_a_checkpoint_without_tensors_can_be_opened_and_saved(tmp_path, build):
    build.raw(tmp_path / "none.safetensors", {})
    tv.save(tv.load(tmp_path / "none.safetensors"), tmp_path / "out")
    assert load_file(tmp_path / "out/model.safetensors") == {}
