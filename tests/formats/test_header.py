"""The header of a safetensors file: what we write is read back, by us and by the safetensors package."""

import json
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from taskvec.errors import FormatError, SourceChanged
from taskvec.formats.header import A_TENSOR, LONGEST, LONGEST_METADATA, read_header, write_header
from taskvec.numbers.dtypes import BITS
from taskvec.places.local import File
from taskvec.sources.source import Spec

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda n: n != "__metadata__")
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@st.composite
def specs(draw):
    table = draw(st.dictionaries(names, st.builds(Spec, shapes, st.sampled_from(sorted(BITS))), max_size=8))
    return {name: spec for name, spec in table.items() if spec.numel * BITS[spec.dtype] % 8 == 0}


def written(path, specs, metadata, least=0):
    header, offsets = write_header(specs, metadata, least)
    path.write_bytes(header + bytes(k % 251 for k in range(sum(spec.nbytes for spec in specs.values()))))
    return header, offsets


def test_there_are_the_22_dtypes_of_the_format():
    assert len(BITS) == 22


@settings(deadline=None, max_examples=200)
@given(specs(), st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), names), st.integers(0, 3000))
def test_what_is_written_is_read_back(tmp_path_factory, specs, metadata, least):
    path = tmp_path_factory.mktemp("header") / "x.safetensors"
    header, offsets = written(path, specs, metadata, least)
    there = read_header(File(path))
    assert (dict(there.specs), there.offsets, there.metadata) == (specs, offsets, metadata)
    assert len(header) % 8 == 0 or len(header) == least
    assert len(header) >= least


@settings(deadline=None, max_examples=100)
@given(specs(), st.dictionaries(names, names))
def test_the_safetensors_package_reads_the_same(tmp_path_factory, specs, metadata):
    path = tmp_path_factory.mktemp("header") / "x.safetensors"
    _, offsets = written(path, specs, metadata)
    whole = path.read_bytes()
    with safe_open(path, "np") as file:
        assert set(file.keys()) == specs.keys()
        assert (file.metadata() or {}) == metadata
        for name, spec in specs.items():
            piece = file.get_slice(name)
            assert (tuple(piece.get_shape()), piece.get_dtype()) == (spec.shape, spec.dtype)
            if spec.dtype in ("F32", "I64", "U8"):
                assert file.get_tensor(name).tobytes() == whole[offsets[name] : offsets[name] + spec.nbytes]


@pytest.mark.parametrize("dtype", sorted(BITS))
def test_every_dtype_lies_on_a_multiple_of_its_width(tmp_path, dtype):
    specs = {name: Spec((3,), kind) for name, kind in [("first", "U8"), ("b", "I16"), ("c", "F64")]}
    specs |= {"x": Spec((8,), dtype), "y": Spec((0, 4), dtype), "last": Spec((), "BOOL")}
    _, offsets = written(tmp_path / "x", specs, {})
    for name, spec in specs.items():
        assert offsets[name] % max(1, BITS[spec.dtype] // 8) == 0
    assert dict(read_header(File(tmp_path / "x")).specs) == specs


def test_a_scalar_has_one_element_and_an_empty_tensor_none(tmp_path):
    specs = {"scalar": Spec((), "F32"), "empty": Spec((3, 0), "F32"), "": Spec((1,), "I8")}
    written(tmp_path / "x", specs, {})
    known = read_header(File(tmp_path / "x")).specs
    assert [known[name].numel for name in ("scalar", "empty", "")] == [1, 0, 1]


def test_every_defect_is_listed_at_once(tmp_path, build):
    good = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    path = build.raw(tmp_path / "x", {"a": good | {"dtype": "Q"}, "b": good | {"shape": [2]}, "c": 7}, bytes(4))
    with pytest.raises(FormatError) as error:
        read_header(File(path))
    assert len(error.value.problems) == 3 and str(path) in str(error.value)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_damage_to_a_header_is_a_stated_error_or_still_a_whole_header(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("header") / "x.safetensors"
    specs = {"a.weight": Spec((2, 3), "F32"), "b": Spec((4,), "BF16"), "c": Spec((), "I64")}
    header, _ = written(path, specs, {"format": "pt"})
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.sampled_from([len(whole), len(whole) - 1, len(header), 8]))])
    try:
        there = read_header(File(path))
    except FormatError as error:
        assert str(path) in str(error)
    else:
        ends = [there.offsets[name] + spec.nbytes for name, spec in there.specs.items()]
        assert max(ends, default=0) <= path.stat().st_size


def test_a_header_may_be_padded_and_in_any_order_of_keys(tmp_path, build):
    text = json.dumps({"b": {"data_offsets": [4, 8], "shape": [1], "dtype": "F32"},
                       "a": {"shape": [1], "dtype": "F32", "data_offsets": [0, 4]}}, indent=4)  # fmt: skip
    header = read_header(File(build.raw(tmp_path / "x", text.encode() + b" " * 100, bytes(8))))
    assert list(header.specs) == ["a", "b"]


def test_the_limit_of_the_format_is_the_limit_of_the_safetensors_package(tmp_path):
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", LONGEST + 1))
        file.truncate(LONGEST + 100)
    with pytest.raises(FormatError, match="over the format's limit"):
        read_header(File(path))
    with pytest.raises(Exception, match=r"HeaderTooLarge|too large"), safe_open(path, "np"):
        pass


def test_a_file_that_shrinks_before_its_header_is_read_is_a_changed_source(tmp_path):
    path = tmp_path / "x"
    written(path, {"a": Spec((2,), "F32")}, {})
    file = File(path)
    path.write_bytes(b"1234")
    with pytest.raises(SourceChanged):
        read_header(file)


# ---- what a header may cost -----------------------------------------------------------------------
def peak_of_reading(path):
    """The most memory of Python objects while a header is read, or refused, and the error if there was one."""
    tracemalloc.start()
    try:
        read_header(File(path))
    except FormatError as error:
        return tracemalloc.get_traced_memory()[1], str(error)
    finally:
        tracemalloc.stop()
    return None, None


@pytest.mark.parametrize(
    ("text", "count"),
    [(b"[],", 2_000_000), (b"{},", 2_000_000), (b'"ab",', 5_000_000), (b"1,", 9_000_000)],
    ids=["lists", "tables", "texts", "numbers"],
)
def test_a_header_of_millions_of_values_is_refused_before_they_are_made(tmp_path, build, text, count):
    """As Python objects they are up to 25 times the text."""
    path = build.raw(tmp_path / "x", b'{"a":[' + text * count + b"0]}")
    peak, error = peak_of_reading(path)
    assert "more than" in error and str(path) in error
    assert peak < 1.5 * path.stat().st_size + 10_000_000


def test_metadata_are_bounded_because_they_stay_in_memory(tmp_path, build):
    tensor = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    fits = build.raw(tmp_path / "fits", {"__metadata__": {"k": "x" * (LONGEST_METADATA - 1000)}} | tensor, bytes(4))
    assert len(read_header(File(fits)).metadata["k"]) == LONGEST_METADATA - 1000
    braces = f"{'x' * 99}{{" * (LONGEST_METADATA // 100 + A_TENSOR)  # what looks like tensors is none
    for name, value in (("long", "x" * (LONGEST_METADATA + 9 * A_TENSOR)), ("braces", braces)):
        path = build.raw(tmp_path / name, {"__metadata__": {"k": value}} | tensor, bytes(4))
        with pytest.raises(FormatError, match="write the file again without it"):
            read_header(File(path))


def test_no_file_is_written_that_would_not_be_read(tmp_path):
    specs = {"a": Spec((1,), "F32")}
    with pytest.raises(FormatError, match="the output would have metadata of"):
        write_header(specs, {"k": "x" * (LONGEST_METADATA + 3 * A_TENSOR)})
    many = {f"model.layers.{k}.weight": Spec((), "U8") for k in range(50_000)}
    written(tmp_path / "x", many, {"lineage": "x" * (LONGEST_METADATA + 1000 * len(many))})
    assert len(read_header(File(tmp_path / "x")).specs) == len(many)
