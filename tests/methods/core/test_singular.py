"""Singular values and vectors from Gram matrices in blocks are those of a plain SVD."""

import numpy as np
import pytest

from taskvec.methods.core import singular as module
from taskvec.methods.core.singular import (
    Triplets,
    as_wide,
    left_vectors,
    product,
    singular,
    summed,
    without_left,
    without_right,
)
from taskvec.methods.core.singular import blocks as blocks_of

RNG = np.random.default_rng(0)
TALL, WIDE = RNG.standard_normal((2, 12, 5)).astype(np.float32), RNG.standard_normal((2, 5, 12)).astype(np.float32)


@pytest.fixture(params=[1 << 20, 7], ids=["one block", "many blocks"], autouse=True)
def size_of_blocks(request, monkeypatch):
    """Blocks of 7 elements have one column of 5 rows, or less than a row of 12."""
    monkeypatch.setattr(module, "BLOCK", request.param)


def test_blocks_cover_the_second_axis_once():
    assert [k for part in blocks_of((5, 12)) for k in range(part.start, part.stop)] == [*range(12)]
    assert np.array_equal(summed((WIDE[0], WIDE[1]), slice(2, 4)), WIDE.astype("f8").sum(axis=0)[:, 2:4])


def test_a_matrix_is_seen_with_no_more_rows_than_columns():
    assert as_wide(TALL[0]).shape == as_wide(WIDE[0]).shape == (5, 12)
    assert np.shares_memory(as_wide(TALL[0]), TALL) and as_wide(np.ones((3, 3))).shape == (3, 3)


def test_singular_values_and_left_vectors_are_those_of_the_sum():
    s, u = singular(*WIDE)
    wanted_u, wanted_s, _ = np.linalg.svd(WIDE.astype("f8").sum(axis=0), full_matrices=False)
    assert np.allclose(s, wanted_s, rtol=1e-10) and np.allclose(np.abs((u * wanted_u).sum(axis=0)), 1)


def test_what_is_only_rounding_is_left_out():
    x = np.outer([1, 2, 3], [1, 0, 1, 0]).astype(np.float32)
    s, u = singular(x)
    assert s.shape == (1,) and u.shape == (3, 1) and np.isclose(s[0], np.linalg.norm(x))
    assert singular(np.zeros((3, 4), np.float32))[0].size == 0


@pytest.mark.parametrize("taus", [TALL, WIDE, TALL[:1], WIDE[:1]], ids=["tall", "wide", "one tall", "one wide"])
def test_left_vectors_of_matrices_side_by_side(taus):
    side_by_side = np.concatenate([*taus], axis=1).astype("f8")
    u = left_vectors(*taus)
    assert u.shape == (len(side_by_side), min(side_by_side.shape)) and np.allclose(u.T @ u, np.eye(u.shape[1]))
    assert np.allclose(u @ (u.T @ side_by_side), side_by_side)


@pytest.mark.parametrize("taus", [TALL, WIDE], ids=["tall", "wide"])
def test_a_product_has_the_shape_of_the_matrices(taus):
    left = RNG.standard_normal((5, 5))
    total = taus.astype("f8").sum(axis=0)
    wanted = left @ total if total.shape[0] == 5 else (left @ total.T).T
    made = product(left, *taus)
    assert made.dtype == np.float32 and np.allclose(made, wanted, rtol=1e-5)


def test_what_is_outside_a_span_is_at_right_angles_to_it():
    u, v = np.linalg.qr(RNG.standard_normal((5, 2)))[0], np.linalg.qr(RNG.standard_normal((12, 2)))[0].T
    left, right = without_left(u, WIDE[0]), without_right(v, WIDE[0])
    assert np.allclose(u.T @ left, 0) and np.allclose(left + u @ u.T @ WIDE[0], WIDE[0])
    assert np.allclose(right @ v.T, 0) and np.allclose(right + WIDE[0] @ v.T @ v, WIDE[0])


def test_triplets_are_the_first_directions_and_become_orthonormal_together():
    triplets = Triplets((5, 12), 4)
    for x in WIDE:
        triplets.add(2, x)
    for k, x in enumerate(WIDE.astype("f8")):
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        part = slice(2 * k, 2 * k + 2)
        assert np.allclose(triplets.s[part], s[:2])
        assert np.allclose(triplets.u[:, part] * s[:2] @ triplets.v[part], u[:, :2] * s[:2] @ vt[:2])
    merged = triplets.orthogonal(np.arange(4.0, 0, -1), (5, 12))
    assert merged.dtype == np.float32 and np.allclose(np.linalg.svd(merged)[1], [4, 3, 2, 1, 0], atol=1e-5)
    assert np.allclose(triplets.orthogonal(np.arange(4.0, 0, -1), (12, 5)), merged.T)


def test_triplets_stop_at_the_rank_and_at_the_least_value():
    triplets = Triplets((3, 4), 3)
    triplets.add(3, np.diag([3.0, 2.0, 0.0])[:, [0, 1, 2, 2]])
    assert triplets.count == 2
    triplets.add(1, np.eye(3, 4), least=2)
    assert triplets.count == 2 and triplets.s[:2].tolist() == pytest.approx([3, 2])
