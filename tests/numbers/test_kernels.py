"""The package uses the compiled kernels where there are any, and has short forms of `run`."""

import numpy as np

from taskvec.numbers import compiled, in_numpy, kernels
from taskvec.numbers.dtypes import ARITHMETIC
from taskvec.numbers.operations import DROP, ELECT


def test_the_kernels_are_the_compiled_ones_where_there_are_any():
    chosen = compiled if compiled.AVAILABLE else in_numpy
    assert kernels.COMPILED == compiled.AVAILABLE
    for name in ("run", "lowrank", "philox", "prune"):
        assert getattr(kernels, name) is getattr(chosen, name)


def test_a_linear_combination_is_one_sum():
    out, x, y = np.empty(2, np.float32), np.float32([1, 2]), np.array([1.0, -1.0])
    assert kernels.combine(out, "F32", [x, y], ["F32", "F64"], [2.0, 0.5], 2) == 0
    assert out.tolist() == [2.5, 3.5]


def test_an_operation_is_applied_to_arrays_of_any_shape_and_stride():
    x, y = np.float32([[1, 2], [3, -4]]).T, np.float64([[1, -5], [1, 1]])
    assert kernels.apply(ELECT, [x, y], (0, 0, 0, 1, 1)).tolist() == [[2, -5], [3, -4]]
    ones, numbers = np.ones(100, np.float32), (12345, 678, 2, 1 << 31, 1.0)
    whole = kernels.apply(DROP, [ones], numbers)
    assert np.array_equal(kernels.apply(DROP, [ones[:40]], numbers, 37), whole[37:77])


def test_a_pair_of_vectors_gives_a_dot_product_and_two_counts():
    assert kernels.pair(np.float32([1, -2, 0]), np.float32([3, 1, 5]), 3) == (1.0, 2, 1)


def test_elements_have_these_sizes():
    assert {dtype: kernels.itemsize(dtype) for dtype in ARITHMETIC} == {
        "F32": 4, "F64": 8, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    }  # fmt: skip
