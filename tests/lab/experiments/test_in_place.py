"""What edits leave behind, on tensors whose rounding is known."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.lab.experiments.in_place import TASKVEC, WAYS, apart, edited, left_behind


@pytest.fixture
def base():
    return tv.from_arrays({"w": np.ones(4, np.float32)}, "base")


def vector(*values):
    return tv.from_arrays({"w": np.array(values, np.float32)}, "tau", mass=0)


def test_an_addition_that_is_rounded_away_is_not_undone_by_a_subtraction(base):
    """1 + 2^-24 is 1 in float32, and 1 - 2^-24 is not."""
    vectors = {"a": vector(0, 0, 1, 1), "b": vector(0, 0, 0, 0)}
    steps = [("a", 2.0**-24), ("a", -(2.0**-24))]
    assert edited(base, vectors, steps, "w", "float32").tolist() == [1, 1, 1 - 2.0**-24, 1 - 2.0**-24]
    assert apart(base, vectors, steps, [("b", 1.0)], "float32") == (0.5, 2.0**-24)
    assert apart(base, vectors, steps, [("b", 1.0)]) == (0.0, 0.0)


def test_a_coarser_dtype_loses_larger_steps(base):
    vectors = {"a": vector(0, 0, 0, 2.0**-9)}
    assert edited(base, vectors, [("a", 1.0)], "w", "bfloat16").tolist() == [1, 1, 1, 1]
    assert edited(base, vectors, [("a", 1.0)], "w", "float32").tolist() == [1, 1, 1, 1 + 2.0**-9]


def test_models_computed_from_the_base_depend_on_no_order_and_remember_no_removed_vector():
    draw = np.random.default_rng(0)
    base = tv.from_arrays({"w": draw.standard_normal(500).astype(np.float32)}, "base")
    vectors = {name: vector(*draw.standard_normal(500) / 100) for name in "abc"}
    table, shares = left_behind(base, vectors, "abc", 0.3)
    assert shares[TASKVEC] == (0, 0)
    assert [row[0] for row in table.rows] == [*WAYS] and table.rows[0][1:] == (0, 0, 0)
    assert table.rows[2][3] > table.rows[1][3] > 0, "bfloat16 rounds more than float32"
