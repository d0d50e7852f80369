"""Merges by angles and norms that mergekit offers too, each against eager lines of the equation of its original.

test_parity.py compares with mergekit's own output.
"""

import itertools

import numpy as np
import pytest
import torch
from method_arrays import UNEVEN, arrays, eagerly, made, same

from taskvec.errors import RecipeError
from taskvec.methods.core.call import PART


def arc(a, b, t, dim):
    """Slerp of the vectors along `dim`, or of the whole."""
    if dim is None:
        return arc(a.reshape(-1), b.reshape(-1), t, -1).reshape(a.shape)
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=dim, eps=1e-30).unsqueeze(dim).clamp(-1, 1)
    angle = cosine.arccos()
    curved = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
    return torch.where(cosine.abs() > 1 - 3e-8, (1 - t) * a + t * b, curved)


@pytest.mark.parametrize(("scope", "dim"), [("tensor", None), ("row", -1), ("column", 0)])
@pytest.mark.parametrize("weights", [(1, 1), (0.3, 0.9), (1, 0), (-0.2, 1.2), (1, -1)])
def test_nuslerp_is_an_arc_between_the_vectors_as_they_are(scope, dim, weights):
    taus = [arrays(1, shapes=UNEVEN), arrays(2, scale=3, shapes=UNEVEN)]
    t = weights[1] / sum(weights) if sum(weights) else 0.5
    right = eagerly(taus, lambda x: arc(*x, t, dim))
    same(made(f'nuslerp(t0, t1, weights={weights}, scope="{scope}")', taus), right, 1e-5)
    same(made(f'nuslerp(t0, t1, weights={weights}, scope="{scope}")', taus, mass=1), right, 1e-5)


@pytest.mark.parametrize("scope", ["tensor", "row", "column"])
@pytest.mark.parametrize("factor", [2, -1])
def test_nuslerp_of_parallel_and_opposite_vectors_is_a_line(scope, factor):
    a = arrays(1, shapes=UNEVEN)
    merged = made(f'nuslerp(t0, t1, weights=(3, 1), scope="{scope}")', [a, {k: factor * v for k, v in a.items()}])
    same(merged, {k: (0.75 + 0.25 * factor) * v for k, v in a.items()}, 1e-6)


def test_multislerp_of_zeros_is_zero():
    """Tensors that no fine-tune has changed."""
    taus = [{"w": np.zeros((3, 4), np.float32)}] * 3
    assert not made("multislerp(t0, t1, t2)", taus)["w"].any()


def test_nuslerp_by_rows_of_tensors_longer_than_a_part_and_of_rows_that_are():
    shapes = {"tall": (PART // 8 + 3, 9), "wide": (3, PART + 5), "flat": (PART + 7,)}
    taus = [arrays(1, shapes=shapes), arrays(2, shapes=shapes)]
    for scope, dim in (("row", -1), ("column", 0)):
        right = eagerly(taus, lambda x, dim=dim: arc(*x, 0.25, dim))
        same(made(f'nuslerp(t0, t1, weights=(3, 1), scope="{scope}")', taus), right, 1e-5)


def barycentre(x, w, eps=1e-8):
    """mergekit's steps: mean of the unit vectors, mean of their tangents there, the exponential map."""
    flat = torch.stack([v.reshape(-1) for v in x])
    norms = flat.norm(dim=1, keepdim=True)
    unit = flat / (norms + eps)
    mean = (w[:, None] * unit).sum(0)
    mean = mean / mean.norm()
    tangent = (w[:, None] * (unit - (unit @ mean)[:, None] * mean)).sum(0)
    length = tangent.norm() + eps
    point = mean * length.cos() + tangent * length.sin() / length
    return (point * (norms[:, 0] * w).sum()).reshape(x[0].shape)


@pytest.mark.parametrize("weights", [(), (1, 2, 3), (0.5, 0.25, 0.1)])
@pytest.mark.parametrize("normalize", ["sum", "none"])
def test_multislerp_is_the_barycentre_and_its_tangent_step_is_nothing(weights, normalize):
    taus = [arrays(s) for s in (1, 2, 3)]
    w = torch.tensor([float(x) for x in weights or (1, 1, 1)]).double()
    w = w / w.sum() if normalize == "sum" else w
    merged = made(f'multislerp(t0, t1, t2, weights={weights}, normalize="{normalize}")', taus)
    same(merged, eagerly(taus, barycentre, w), 1e-5)


def test_multislerp_of_opposites_is_a_line_for_two_and_refused_for_more():
    a = arrays(1, shapes=UNEVEN)
    opposite = [a, {k: -2 * v for k, v in a.items()}]
    same(made("multislerp(t0, t1)", opposite), {k: -0.5 * v for k, v in a.items()}, 1e-6)
    same(made("multislerp(t0, t1, weights=(3, 1))", opposite), {k: 1.25 * v for k, v in a.items()}, 1e-6)
    with pytest.raises(RecipeError, match="cancel out"):
        made("multislerp(t0, t1, t2, weights=(1, 0.5, 0.5))", [a, opposite[1], opposite[1]])
    with pytest.raises(RecipeError, match="add up to 0"):
        made("multislerp(t0, t1, weights=(1, -1))", opposite)


def frechet(x, w, steps=200):
    flat = torch.stack([v.reshape(-1) for v in x])
    norms = flat.norm(dim=1)
    unit = flat / norms[:, None]
    mean = (w[:, None] * unit).sum(0)
    mean = mean / mean.norm()
    for _ in range(steps):
        cosine = (unit @ mean).clamp(-1, 1)
        angle = cosine.arccos()
        pull = torch.where(angle > 1e-9, angle / angle.sin(), 1) * w
        tangent = (pull[:, None] * (unit - cosine[:, None] * mean)).sum(0)
        if tangent.norm() < 1e-12:
            break
        mean = tangent.norm().cos() * mean + tangent.norm().sin() * tangent / tangent.norm()
    return (mean * (w * norms).sum()).reshape(x[0].shape)


def test_karcher_takes_weights():
    taus = [{k: v for k, v in arrays(s).items() if k != "one"} for s in (1, 2, 3)]
    w = torch.tensor([0.5, 0.2, 0.3]).double()
    merged = made("karcher(t0, t1, t2, weights=(5, 2, 3), max_iter=200, tol=0.00000001)", taus)
    same(merged, eagerly(taus, frechet, w), 1e-5)
    same(made("karcher(t0, t1, t2, weights=(1, 0, 0))", taus), taus[0], 1e-6)


def test_karchers_zero_vectors_count_in_the_mean_length_where_mergekit_counts_them():
    a, zero = arrays(1, shapes=UNEVEN), {k: np.zeros_like(v) for k, v in arrays(1, shapes=UNEVEN).items()}
    same(made("karcher(t0, t1)", [a, zero]), a, 1e-6)
    same(made('karcher(t0, t1, zero="tol")', [a, zero]), {k: v / 2 for k, v in a.items()}, 1e-6)
    opposite = [a, {k: -v for k, v in a.items()}]
    with pytest.raises(RecipeError, match="cancel out"):
        made("karcher(t0, t1)", opposite)
    assert made('karcher(t0, t1, zero="tol", max_iter=1)', opposite)["embed.weight"].shape == (31, 24)


def test_slerps_zero_vector_is_at_right_angles_where_mergekit_has_it_so():
    a, zero = arrays(1, shapes=UNEVEN), {k: np.zeros_like(v) for k, v in arrays(1, shapes=UNEVEN).items()}
    right = {k: np.sin(0.75 * np.pi / 2) * v for k, v in a.items()}
    same(made('slerp(t0, t1, t=0.25, zero="one")', [a, zero]), right, 1e-6)
    same(made('slerp(t0, t1, zero="one")', [zero, zero]), zero)
    with pytest.raises(RecipeError, match='zero="one"'):
        made("slerp(t0, t1)", [a, zero])


def ratio_of(x, floor):
    """Model Stock's t times the mean, of vectors along the last axis."""
    n = len(x)
    pairs = [
        ((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)).clamp(min=floor)).clamp(-1, 1)
        for a, b in itertools.combinations(x, 2)
    ]
    cosine = torch.stack(pairs).mean(0).unsqueeze(-1)
    below = 1 + (n - 1) * cosine
    return torch.where(below.abs() < 1e-6, 0, n * cosine / below) * sum(x) / n


def test_stock_by_rows_and_with_a_floor_under_the_norms():
    shared = arrays(9, scale=2)
    taus = [{k: v + shared[k] for k, v in arrays(s).items()} for s in (1, 2, 3)]
    same(made('stock(t0, t1, t2, scope="row")', taus), eagerly(taus, ratio_of, 1e-30), 1e-4)
    small = [{k: v * np.float32(1e-4) for k, v in tau.items()} for tau in taus]
    right = eagerly(small, ratio_of, 1e-6)
    merged = made('stock(t0, t1, t2, scope="row", floor=0.000001)', small)
    same({k: 1e4 * v for k, v in merged.items()}, {k: 1e4 * v for k, v in right.items()}, 1e-4)
    assert not np.allclose(1e4 * merged["one"], 1e4 * made("stock(t0, t1, t2)", small)["one"], rtol=0.01)


def test_stock_at_its_singularity_is_the_base():
    a = arrays(1, shapes=UNEVEN)
    for scope in ("tensor", "row"):
        merged = made(f'stock(t0, t1, scope="{scope}")', [a, {k: -v for k, v in a.items()}])
        assert not any(v.any() for v in merged.values())
