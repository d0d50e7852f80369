"""What a measuring function may ask of a call."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.methods.core.call import PART
from taskvec.methods.core.measurement import SPAN, Measurement, Piece, here, is_by_tile, pieces_of, rows_of

SHAPES = {"layers.0.w": (3, 40), "b": (5,), "none": (0, 4)}


def weights(seed):
    rng = np.random.default_rng(seed)
    return tv.from_arrays({n: rng.standard_normal(s).astype("f4") for n, s in SHAPES.items()}, f"t{seed}", mass=0)


def measurement(text, **more):
    given = {"a": weights(1), "b": weights(2)} if "b" in text.split("(")[1] else {"a": weights(1)}
    (call,) = tv.parse(text, **given).terms
    return Measurement(call, tuple(SHAPES), **more)


def test_pieces_are_all_elements_once_in_order():
    assert [*pieces_of("w", 2, 9, 3)] == [Piece("w", 2, 3), Piece("w", 5, 3), Piece("w", 8, 1)]
    m = measurement("elect(a, b)")
    assert [*m.pieces(50)] == [Piece("layers.0.w", 0, 50), Piece("layers.0.w", 50, 50), Piece("layers.0.w", 100, 20),
                               Piece("b", 0, 5)]  # fmt: skip
    assert m.sizes == {"layers.0.w": 120, "b": 5, "none": 0} and m.count == 2 and m.shape("b") == (5,)


def test_pieces_of_rows_are_whole_rows():
    m = measurement("della(a)")
    assert m.by_rows and m.width("layers.0.w") == 40
    assert [*m.rows(90)] == [Piece("layers.0.w", 0, 80), Piece("layers.0.w", 80, 40), Piece("b", 0, 5)]
    assert [*m.rows(7)][:3] == [Piece("layers.0.w", at, 40) for at in (0, 40, 80)]  # a row may be longer
    assert m.longest(90) == 90 and m.longest(7) == 40


def test_the_arguments_fill_a_row_each():
    m, rows = measurement("elect(a - 0.5*b, b)"), rows_of(2, 30)
    assert m.fill(Piece("layers.0.w", 17, 25), rows)
    a, b = (weights(k)["layers.0.w"].reshape(-1)[17:42] for k in (1, 2))
    np.testing.assert_allclose(rows[0, :25], a - np.float32(0.5) * b, rtol=1e-6)
    assert np.array_equal(rows[1, :25], b) and rows_of(3).shape == (3, PART)


@pytest.mark.parametrize(("text", "groups"), [("trim(a)", {""}), ('trim(a, scope="tensor")', {*SHAPES})])
def test_what_is_ranked_together_is_one_group(text, groups):
    m = measurement(text)
    assert {*m.groups.values()} == groups and [*m.groups] == [*SHAPES]


def test_bits_are_remembered_only_where_rows_share_no_byte():
    assert [measurement("della(a)", remember=True).remembers(n) for n in ("layers.0.w", "b")] == [True, False]
    assert not measurement("della(a)").remembers("layers.0.w")


def test_what_is_told_tile_by_tile_is_told_of_the_tile_at_hand():
    told = {"quota": np.array([3, 1, 2]), "threshold": 0.5, "scope": "model"}
    assert here(told, 0) == {"quota": 3, "threshold": 0.5, "scope": "model"} and here(told, 2 * SPAN + 7)["quota"] == 2
    assert is_by_tile(told["quota"]) and not is_by_tile(0.5) and not is_by_tile(np.float32(1)) and not is_by_tile("x")
