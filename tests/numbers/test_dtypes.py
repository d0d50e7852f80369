"""Names, widths and kinds of dtypes."""

import ml_dtypes
import numpy as np
import pytest
import torch

from taskvec.errors import RecipeError
from taskvec.numbers.dtypes import (
    ARITHMETIC,
    BITS,
    CODES,
    LONG_NAMES,
    accumulator,
    elements_in,
    numpy_dtype,
    parse_dtype,
)

# The width in bits of every dtype of the safetensors format, from its specification.
WIDTHS = {
    64: "F64 C64 I64 U64", 32: "F32 I32 U32", 16: "F16 BF16 I16 U16",
    8: "F8_E4M3 F8_E5M2 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I8 U8 BOOL", 6: "F6_E2M3 F6_E3M2", 4: "F4",
}  # fmt: skip


def test_every_dtype_of_the_format_has_its_width():
    assert dict(BITS) == {name: bits for bits, names in WIDTHS.items() for name in names.split()}


def test_the_codes_are_those_of_the_compiled_kernels():
    """_tiles.h numbers the dtypes in this order."""
    assert dict(CODES) == {"F32": 0, "F64": 1, "F16": 2, "BF16": 3, "F8_E4M3": 4, "F8_E5M2": 5}
    assert tuple(CODES) == ARITHMETIC and {*LONG_NAMES.values()} == {*ARITHMETIC}


@pytest.mark.parametrize("long", LONG_NAMES)
def test_every_way_to_name_a_dtype_is_read(long):
    short = LONG_NAMES[long]
    of_torch = getattr(torch, long)
    of_numpy = getattr(np, long, None) or getattr(ml_dtypes, long)
    for given in (long, short, short.lower(), f"torch.{long}", of_torch, of_numpy):
        assert parse_dtype(given) == short
    assert torch.empty(0, dtype=of_torch).element_size() * 8 == BITS[short] == np.dtype(of_numpy).itemsize * 8


@pytest.mark.parametrize(
    ("given", "short"), [("fp64", "F64"), ("fp32", "F32"), ("float", "F32"), ("FP16", "F16"), ("Half", "F16")]
)
def test_the_short_names_that_people_type_are_read(given, short):
    assert parse_dtype(given) == short


@pytest.mark.parametrize("given", ["int8", "I64", np.int8, "float128", "", "torch.int32", None])
def test_what_cannot_be_summed_is_refused_with_the_names_that_can(given):
    with pytest.raises(RecipeError) as told:
        parse_dtype(given)
    known = "float64, float32, float16, bfloat16, float8_e4m3fn, float8_e5m2"
    assert str(told.value) == f"dtype {given!r} is not one we can compute: use one of {known}"


@pytest.mark.parametrize(
    ("dtype", "size", "elements"),
    [("U8", 7, 7), ("F32", 10, 2), ("F64", 7, 0), ("F4", 3, 6), ("F6_E2M3", 2, 0), ("F6_E2M3", 3, 4),
     ("F6_E3M2", 10, 12), ("BF16", 100, 50), ("F6_E2M3", 300, 400)],
)  # fmt: skip
def test_elements_that_fill_whole_bytes(dtype, size, elements):
    """Two of 4 bits fill one byte, four of 6 bits fill three."""
    assert elements_in(dtype, size) == elements


def test_a_sum_is_held_in_float64_only_where_one_of_its_dtypes_is():
    assert accumulator("BF16", "F64", "F32") == "F64" and accumulator("BF16", "F16") == accumulator() == "F32"


@pytest.mark.parametrize("name", [name for name in BITS if name not in ARITHMETIC])
def test_what_is_not_summed_has_a_dtype_of_numpy_or_is_bytes(name):
    kinds = {"I": "int", "U": "uint"}
    known = {"BOOL": "bool", "C64": "complex64"} | {f"{k}{n}": f"{kinds[k]}{n}" for k in kinds for n in (8, 16, 32, 64)}
    assert numpy_dtype(name) == known.get(name, "uint8")
    assert name not in known or np.dtype(known[name]).itemsize * 8 == BITS[name]
