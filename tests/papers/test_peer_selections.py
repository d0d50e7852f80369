"""Selections that mergekit offers too, each against eager lines of the equation of its original.

test_parity.py compares with mergekit's own output.
"""

import numpy as np
import pytest
import torch
from method_arrays import UNEVEN, arrays, eagerly, made, same


@pytest.fixture(params=[False, True], ids=["fine", "coarse"])
def taus(request):
    return [arrays(seed, coarse=request.param, shapes=UNEVEN) for seed in (1, 2, 3)]


@pytest.mark.parametrize(("t", "floor"), [(0.3, 0), (0, 0), (100, 0), (1e-7, 1e-6), (0.3, 1e-6)])
def test_nearswap_steps_by_t(taus, t, floor):
    def near(x):
        a, b = x
        weight = (t / (a - b).abs().clamp(min=max(floor, 1e-300))).clamp(0, 1)
        return weight * b + (1 - weight) * a

    close = [taus[0], {k: v + np.float32(1e-6) * taus[1][k] for k, v in taus[0].items()}]
    for pair in (taus[:2], close):
        same(made(f"nearswap(t0, t1, t={t:.7f}, floor={floor:.7f})", pair, mass=1), eagerly(pair, near), 1e-6)


def test_nearswap_swaps_exactly_what_is_near():
    a, b = arrays(1, shapes=UNEVEN), arrays(2, shapes=UNEVEN)
    assert all(np.array_equal(v, b[k]) for k, v in made("nearswap(t0, t1, t=100)", [a, b], mass=1).items())
    assert all(np.array_equal(v, a[k]) for k, v in made("nearswap(t0, t1, t=0)", [a, b], mass=1).items())


def fused(x):
    base, m = x
    p, q = m.softmax(-1) + 1e-8, base.softmax(-1) + 1e-8
    importance = ((m - base).abs().float() * (p * (p / q).log()).sum(-1, keepdim=True).float()).reshape(-1)
    ordered = importance.sort().values
    q1, q2, q3 = (ordered[int(q * (len(ordered) - 1))].double() for q in (0.25, 0.5, 0.75))
    return torch.where((importance >= (q2 + 1.5 * (q3 - q1)).float()).reshape(m.shape), m, base)


def test_arcee_fusion_takes_the_outliers_of_importance():
    taus = [arrays(1, shapes=UNEVEN), arrays(2, shapes=UNEVEN)]
    merged = made("arcee_fusion(t0, t1)", taus, mass=1)
    same(merged, eagerly(taus, fused))
    share = np.mean(merged["layers.1.w"] == taus[1]["layers.1.w"])
    assert 0 < share < 0.3


def selected_consensus(x, select, plus, floor=0.0):
    stack = torch.stack(x)
    if select < 1:
        variance = stack.var(dim=0, unbiased=False).float()
        k = int(select * (variance > 0).sum())
        least = variance.reshape(-1).sort(descending=True).values[k - 1] if k else torch.inf
        stack = stack * (variance >= least)
    weights = stack.square().reshape(len(x), -1).mean(1)
    weights = weights / weights.sum() if weights.sum() > floor else torch.full_like(weights, 1 / len(x))
    total = stack.sum(0)
    sign = torch.where(total >= 0, 1, -1) if plus else total.sign()
    agree = (stack.sign() == sign) & (stack != 0)
    weights = weights.reshape(-1, *[1] * x[0].dim()) * agree
    return (weights * stack).sum(0) / weights.sum(0).clamp(min=1e-6)


@pytest.mark.parametrize("select", [0.01, 0.3, 0.9, 1])
@pytest.mark.parametrize("tie", ["none", "plus"])
def test_sce_selects_calculates_and_erases(taus, select, tie):
    right = eagerly(taus, selected_consensus, select, tie == "plus")
    same(made(f'sce(t0, t1, t2, select={select}, tie="{tie}")', taus), right, 2e-6)


def test_sce_weighs_small_deltas_alike_where_mergekit_does(taus):
    small = [{k: v * np.float32(s) for k, v in tau.items()} for s, tau in zip((1e-5, 1e-4, 1e-4), taus, strict=True)]
    merged = made("sce(t0, t1, t2, floor=0.000001)", small)
    same(
        {k: 1e4 * v for k, v in merged.items()},
        {k: 1e4 * v for k, v in eagerly(small, selected_consensus, 1, False, 1e-6).items()},
        1e-5,
    )


def reinforced(x, epsilon, boosts):
    stack = torch.stack(x)
    active = stack.abs() > epsilon
    count = active.sum(0)
    boost = torch.tensor(boosts).double().reshape(-1, *[1] * x[0].dim())
    alone = (stack * active * boost).sum(0)
    return torch.where(count == 1, alone, (stack * active).sum(0) / count.clamp(min=1))


def boosts_of(stacks, epsilon, r, alpha):
    """1 + r * clip(shared / unique, 0, alpha) of each vector, over the tensors given."""
    boosts = []
    for k in range(len(stacks[0])):
        both = sum(int(((s.abs() > epsilon)[k] & ((s.abs() > epsilon).sum(0) > 1)).sum()) for s in stacks)
        one = sum(int(((s.abs() > epsilon)[k] & ((s.abs() > epsilon).sum(0) == 1)).sum()) for s in stacks)
        boosts.append(1 + r * min(alpha, both / max(one, 1e-5)))
    return boosts


def test_ram_takes_what_one_vector_alone_has_and_averages_the_rest(taus):
    same(made("ram(t0, t1, t2, epsilon=0.7)", taus), eagerly(taus, reinforced, 0.7, [1.0, 1, 1]), 1e-6)
    same(made("ram(t0, t1, t2)", taus), eagerly(taus, reinforced, 1e-5, [1.0, 1, 1]), 1e-6)


@pytest.mark.parametrize(("epsilon", "r", "alpha"), [(1.2, 0.1, 0.2), (0.7, 0.5, 0.9), (1.2, 2, 100)])
def test_ramplus_boosts_what_one_vector_alone_has(taus, epsilon, r, alpha):
    stacks = {k: torch.tensor(np.stack([t[k] for t in taus])).double() for k in UNEVEN}
    options = f"epsilon={epsilon}, r={r}, alpha={alpha}"
    right = eagerly(taus, reinforced, epsilon, boosts_of(list(stacks.values()), epsilon, r, alpha))
    same(made(f"ramplus(t0, t1, t2, {options})", taus), right, 1e-6)
    right = {k: reinforced(list(s), epsilon, boosts_of([s], epsilon, r, alpha)).numpy() for k, s in stacks.items()}
    same(made(f'ramplus(t0, t1, t2, {options}, scope="tensor")', taus), right, 1e-6)
