"""One block: where its memory lies, what it is filled with, and from whom."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.algebra.program import RESULT, Linear, aligned
from taskvec.places.local import PAGE, address
from taskvec.saving.blocks import arena, fill, sums
from taskvec.sources.source import Spec

X = np.arange(10, dtype=np.float32)
A = tv.from_arrays({"w": X, "ids": np.arange(10), "old": X}, "a")
B = tv.from_arrays({"w": X + 2, "ids": np.arange(10), "old": X}, "b")
W = tv.per({"old": 0, "*": 0.5}) * (A + B)
(DONOR,) = A.terms


def filled(name, start, count, dtype="F32", donor=DONOR, out=None):
    specs = {n: Spec(s.shape, dtype if s.arithmetic else s.dtype) for n, s in W.specs.items()}
    memory = memoryview(bytearray(b"\xff" * (aligned(8 * count) + RESULT + 4096)))
    return fill(memory, name, specs[name], start, count, sums(W, specs), donor, out), memory


@pytest.mark.parametrize("size", [0, 1, PAGE, 3 * PAGE + 5])
def test_memory_begins_at_a_page_and_has_its_size(size):
    found = arena(size)
    assert len(found) == size and not found.readonly and address(arena(size + 1)) % PAGE == 0


def test_there_is_a_sum_for_each_tensor_and_an_empty_one_for_what_passes_through():
    found = sums(W, W.specs)
    assert [*found] == ["w", "ids", "old"] and found["ids"] == Linear() and not found["old"]
    assert found["w"] == W.linear("w") and len(found["w"].terms) == 2


@pytest.mark.parametrize(("dtype", "kind"), [("F32", np.float32), ("F64", np.float64), ("F16", np.float16)])
def test_a_sum_is_written_in_the_dtype_of_the_output(dtype, kind):
    (out, flags), memory = filled("w", 3, 5, dtype)
    assert np.frombuffer(out, kind).tolist() == (X[3:8] + 1).tolist() and flags == 0
    assert address(out) == address(memory) and len(out) == 5 * np.dtype(kind).itemsize


def test_what_is_no_floating_point_number_is_the_donors():
    (out, flags), _ = filled("ids", 2, 4)
    assert np.frombuffer(out, np.int64).tolist() == [2, 3, 4, 5] and flags == 0


def test_what_nobody_names_is_zero_whatever_the_memory_held():
    (out, flags), _ = filled("old", 0, 10)
    assert bytes(out) == bytes(40) and flags == 0


@pytest.mark.parametrize("name", ["w", "ids", "old"])
def test_other_memory_is_filled_where_it_is_given(name):
    given = memoryview(bytearray(b"\xff" * (32 if name == "ids" else 16)))
    (out, _), _ = filled(name, 0, 4, out=given)
    assert out is given and bytes(given) == bytes(filled(name, 0, 4)[0][0])


def test_flags_tell_what_is_not_finite():
    big = tv.from_arrays({"w": np.full(3, 1e5, np.float32)}, "big")
    spec = {"w": Spec((3,), "F16")}
    _, flags = fill(memoryview(bytearray(1 << 16)), "w", spec["w"], 0, 3, sums(big, spec), None)
    assert flags
