"""Methods that mergekit offers too, each against eager torch lines of the equation that it has in its original.

test_parity.py compares with the peer's own output.
"""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import taskvec as tv
from taskvec.errors import MassError, RecipeError, TaskvecError
from taskvec.methods.core import counting
from taskvec.methods.core.call import METHOD_TILE as TILE
from taskvec.methods.core.call import PART
from taskvec.methods.core.counting import Guess

SHAPES = {
    "embed.weight": (31, 24),
    "layers.0.conv": (6, 5, 4),
    "layers.0.b": (24,),
    "layers.1.w": (24, 40),
    "one": (1,),
}


def arrays(seed, scale=1.0, coarse=False, shapes=SHAPES):
    """Named float32 arrays; `coarse` ones take few values, so that many magnitudes are equal."""
    rng = np.random.default_rng(seed)
    found = {name: (scale * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    return {k: np.round(2 * v) / 2 for k, v in found.items()} if coarse else found


@pytest.fixture(params=[False, True], ids=["fine", "coarse"])
def taus(request):
    return [arrays(seed, coarse=request.param) for seed in (1, 2, 3)]


def known(taus, mass=0):
    return {f"t{k}": tv.from_arrays(tau, f"t{k}", mass=mass) for k, tau in enumerate(taus)}


def made(recipe, taus, mass=0):
    """The tensors that a recipe over t0, t1, ... makes."""
    found = tv.parse(recipe, **{k: v for k, v in known(taus, mass).items() if k in recipe})
    return {name: found[name] for name in found}


def wanted(taus, function, *more):
    """The function of each tensor's arguments, in float64."""
    return {name: function([torch.tensor(tau[name]).double() for tau in taus], *more).numpy() for name in taus[0]}


def same(found, right, rtol=0.0):
    assert found.keys() == right.keys()
    for name in right:
        np.testing.assert_allclose(found[name], right[name], rtol=rtol, atol=rtol, err_msg=name)


# ---- on the sphere ---------------------------------------------------------------------------------
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
    taus = [arrays(1), arrays(2, scale=3)]
    t = weights[1] / sum(weights) if sum(weights) else 0.5
    right = wanted(taus, lambda x: arc(*x, t, dim))
    same(made(f'nuslerp(t0, t1, weights={weights}, scope="{scope}")', taus), right, 1e-5)
    same(made(f'nuslerp(t0, t1, weights={weights}, scope="{scope}")', taus, mass=1), right, 1e-5)


@pytest.mark.parametrize("scope", ["tensor", "row", "column"])
@pytest.mark.parametrize("factor", [2, -1])
def test_nuslerp_of_parallel_and_opposite_vectors_is_a_line(scope, factor):
    a = arrays(1)
    found = made(f'nuslerp(t0, t1, weights=(3, 1), scope="{scope}")', [a, {k: factor * v for k, v in a.items()}])
    same(found, {k: (0.75 + 0.25 * factor) * v for k, v in a.items()}, 1e-6)


def test_multislerp_of_zeros_is_zero():
    """Tensors that no fine-tune has changed."""
    taus = [{"w": np.zeros((3, 4), np.float32)}] * 3
    assert not made("multislerp(t0, t1, t2)", taus)["w"].any()


def test_nuslerp_by_rows_of_tensors_longer_than_a_part_and_of_rows_that_are():
    shapes = {"tall": (PART // 8 + 3, 9), "wide": (3, PART + 5), "flat": (PART + 7,)}
    taus = [arrays(1, shapes=shapes), arrays(2, shapes=shapes)]
    for scope, dim in (("row", -1), ("column", 0)):
        right = wanted(taus, lambda x, dim=dim: arc(*x, 0.25, dim))
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
    found = made(f'multislerp(t0, t1, t2, weights={weights}, normalize="{normalize}")', taus)
    same(found, wanted(taus, barycentre, w), 1e-5)


def test_multislerp_of_opposites_is_a_line_for_two_and_refused_for_more():
    a = arrays(1)
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
    found = made("karcher(t0, t1, t2, weights=(5, 2, 3), max_iter=200, tol=0.00000001)", taus)
    same(found, wanted(taus, frechet, w), 1e-5)
    same(made("karcher(t0, t1, t2, weights=(1, 0, 0))", taus), taus[0], 1e-6)


def test_karchers_zero_vectors_count_in_the_mean_length_where_mergekit_counts_them():
    a, zero = arrays(1), {k: np.zeros_like(v) for k, v in arrays(1).items()}
    same(made("karcher(t0, t1)", [a, zero]), a, 1e-6)
    same(made('karcher(t0, t1, zero="tol")', [a, zero]), {k: v / 2 for k, v in a.items()}, 1e-6)
    opposite = [a, {k: -v for k, v in a.items()}]
    with pytest.raises(RecipeError, match="cancel out"):
        made("karcher(t0, t1)", opposite)
    assert made('karcher(t0, t1, zero="tol", max_iter=1)', opposite)["embed.weight"].shape == (31, 24)


def test_slerps_zero_vector_is_at_right_angles_where_mergekit_has_it_so():
    a, zero = arrays(1), {k: np.zeros_like(v) for k, v in arrays(1).items()}
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
    same(made('stock(t0, t1, t2, scope="row")', taus), wanted(taus, ratio_of, 1e-30), 1e-4)
    small = [{k: v * np.float32(1e-4) for k, v in tau.items()} for tau in taus]
    right = wanted(small, ratio_of, 1e-6)
    found = made('stock(t0, t1, t2, scope="row", floor=0.000001)', small)
    same({k: 1e4 * v for k, v in found.items()}, {k: 1e4 * v for k, v in right.items()}, 1e-4)
    assert not np.allclose(1e4 * found["one"], 1e4 * made("stock(t0, t1, t2)", small)["one"], rtol=0.01)


def test_stock_at_its_singularity_is_the_base():
    a = arrays(1)
    for scope in ("tensor", "row"):
        found = made(f'stock(t0, t1, scope="{scope}")', [a, {k: -v for k, v in a.items()}])
        assert not any(v.any() for v in found.values())


# ---- selections --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("t", "floor"), [(0.3, 0), (0, 0), (100, 0), (1e-7, 1e-6), (0.3, 1e-6)])
def test_nearswap_steps_by_t(taus, t, floor):
    def near(x):
        a, b = x
        weight = (t / (a - b).abs().clamp(min=max(floor, 1e-300))).clamp(0, 1)
        return weight * b + (1 - weight) * a

    close = [taus[0], {k: v + np.float32(1e-6) * taus[1][k] for k, v in taus[0].items()}]
    for pair in (taus[:2], close):
        same(made(f"nearswap(t0, t1, t={t:.7f}, floor={floor:.7f})", pair, mass=1), wanted(pair, near), 1e-6)


def test_nearswap_swaps_exactly_what_is_near():
    a, b = arrays(1), arrays(2)
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
    taus = [arrays(1), arrays(2)]
    found = made("arcee_fusion(t0, t1)", taus, mass=1)
    same(found, wanted(taus, fused))
    share = np.mean(found["layers.1.w"] == taus[1]["layers.1.w"])
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
    right = wanted(taus, selected_consensus, select, tie == "plus")
    same(made(f'sce(t0, t1, t2, select={select}, tie="{tie}")', taus), right, 2e-6)


def test_sce_weighs_small_deltas_alike_where_mergekit_does(taus):
    small = [{k: v * np.float32(s) for k, v in tau.items()} for s, tau in zip((1e-5, 1e-4, 1e-4), taus, strict=True)]
    found = made("sce(t0, t1, t2, floor=0.000001)", small)
    same(
        {k: 1e4 * v for k, v in found.items()},
        {k: 1e4 * v for k, v in wanted(small, selected_consensus, 1, False, 1e-6).items()},
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
    found = []
    for k in range(len(stacks[0])):
        both = sum(int(((s.abs() > epsilon)[k] & ((s.abs() > epsilon).sum(0) > 1)).sum()) for s in stacks)
        one = sum(int(((s.abs() > epsilon)[k] & ((s.abs() > epsilon).sum(0) == 1)).sum()) for s in stacks)
        found.append(1 + r * min(alpha, both / max(one, 1e-5)))
    return found


def test_ram_takes_what_one_vector_alone_has_and_averages_the_rest(taus):
    same(made("ram(t0, t1, t2, epsilon=0.7)", taus), wanted(taus, reinforced, 0.7, [1.0, 1, 1]), 1e-6)
    same(made("ram(t0, t1, t2)", taus), wanted(taus, reinforced, 1e-5, [1.0, 1, 1]), 1e-6)


@pytest.mark.parametrize(("epsilon", "r", "alpha"), [(1.2, 0.1, 0.2), (0.7, 0.5, 0.9), (1.2, 2, 100)])
def test_ramplus_boosts_what_one_vector_alone_has(taus, epsilon, r, alpha):
    stacks = {k: torch.tensor(np.stack([t[k] for t in taus])).double() for k in SHAPES}
    options = f"epsilon={epsilon}, r={r}, alpha={alpha}"
    right = wanted(taus, reinforced, epsilon, boosts_of(list(stacks.values()), epsilon, r, alpha))
    same(made(f"ramplus(t0, t1, t2, {options})", taus), right, 1e-6)
    right = {k: reinforced(list(s), epsilon, boosts_of([s], epsilon, r, alpha)).numpy() for k, s in stacks.items()}
    same(made(f'ramplus(t0, t1, t2, {options}, scope="tensor")', taus), right, 1e-6)


# ---- consensus and sparsifiers as mergekit has them ---------------------------------------------------
def normalised(x, weights, count, plus):
    """Generalised task arithmetic with `normalize`: deltas that are multiplied by their weights already."""
    stack = torch.stack(x)
    vote = (stack.sign() if count else stack).sum(0)
    sign = torch.where(vote >= 0, 1, -1) if plus else vote.sign()
    agree = (stack.sign() == sign) & (stack != 0)
    divisor = (torch.tensor(weights).double().reshape(-1, *[1] * x[0].dim()) * agree).sum(0)
    return (stack * agree).sum(0) / torch.where(divisor == 0, 1, divisor)


@pytest.mark.parametrize("weights", [(0.5, 1, 0.25), (1, 1, 1), (0.5, -0.5, 1)])
@pytest.mark.parametrize("vote", ["sum", "count"])
@pytest.mark.parametrize("tie", ["none", "plus"])
def test_elect_divides_by_the_weights_of_those_that_agree(taus, weights, vote, tie):
    scaled = [{k: v * np.float32(w) for k, v in tau.items()} for tau, w in zip(taus, weights, strict=True)]
    parts = ", ".join(f"{w}*t{k}" for k, w in enumerate(weights))
    found = made(f'elect({parts}, weights={weights}, vote="{vote}", tie="{tie}")', taus)
    same(found, wanted(scaled, normalised, weights, vote == "count", tie == "plus"), 2e-6)


def test_weights_of_one_are_the_mean_and_a_sum_has_no_divisor(taus):
    same(made("elect(t0, t1, t2, weights=(1, 1, 1))", taus), made("elect(t0, t1, t2)", taus))
    with pytest.raises(RecipeError, match="divisor of the mean"):
        made('elect(t0, t1, t2, weights=(1, 1, 1), reduce="sum")', taus)


def ranked(values):
    """Positions from the largest magnitude to the smallest, of equal ones the first position first."""
    return np.lexsort((np.arange(values.size), -np.abs(values.ravel())))


def only_at(values, places):
    found = np.zeros_like(values)
    found.ravel()[places] = values.ravel()[places]
    return found


@pytest.mark.parametrize("density", [0.001, 0.05, 0.3, 0.77, 1])
def test_trim_keeps_exactly_k_and_of_equals_the_first(taus, density):
    found = made(f'trim(t0, density={density}, scope="tensor", ties="first", least=1)', taus)
    right = {k: only_at(v, ranked(v)[: max(1, int(density * v.size))]) for k, v in taus[0].items()}
    same(found, right)
    whole = np.concatenate([taus[0][k].ravel() for k in sorted(SHAPES)])
    found = made(f'trim(t0, density={density}, ties="first")', taus)
    right = only_at(whole, ranked(whole)[: int(density * whole.size)])
    assert np.array_equal(np.concatenate([found[k].ravel() for k in sorted(SHAPES)]), right)


WRONG = {
    "nothing": Guess(()), "another value": Guess((), (1e9,)), "another window": Guess(((3, 2),)),
    "a value and a window": Guess(((3, 2),), (0.0, 1e9)),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_a_sample_that_was_wrong_costs_passes_and_changes_nothing(taus, scope, wrong, monkeypatch):
    calls = [f'breadcrumbs(t0, density=0.3, gamma=0.1, scope="{scope}", ties="{ties}")' for ties in ("all", "first")]
    right = [made(call, taus) for call in calls]
    monkeypatch.setattr(counting, "_guess", lambda sample, wanted, size: wrong)
    for call, expected in zip(calls, right, strict=True):
        same(made(call, taus), expected)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.98, 1])
@pytest.mark.parametrize("gamma", [0, 0.01, 0.3])
def test_breadcrumbs_keeps_its_density_where_mergekit_spares_outliers(taus, density, gamma):
    found = made(f'breadcrumbs(t0, density={density}, gamma={gamma}, outliers="spare", ties="first")', taus)
    for name, tau in taus[0].items():
        kept, top = int(density * tau.size), int(gamma * tau.size)
        bottom = max(0, tau.size - kept - top)
        ascending = ranked(tau)[::-1]
        same({name: found[name]}, {name: only_at(tau, ascending[bottom : bottom + kept])})


few_values = hnp.arrays(np.float32, st.integers(1, 60), elements=st.sampled_from([-2.0, -1, -0.5, 0, 0.5, 1, 2]))


@given(few_values, st.integers(1, 100), st.integers(0, 100), st.sampled_from(["all", "spare"]))
def test_of_equal_entries_the_first_are_the_larger_ones(values, density, gamma, outliers):
    """Exactly floor(gamma n) go, exactly floor(density n) of the others stay, or as many as there are."""
    options = f'density={density / 100}, gamma={gamma / 100}, outliers="{outliers}", ties="first"'
    found = made(f"breadcrumbs(t0, {options})", [{"w": values}])["w"]
    kept, gone = int(density / 100 * values.size), int(gamma / 100 * values.size)
    gone = min(gone, values.size - kept) if outliers == "spare" else gone
    assert np.array_equal(found, only_at(values, ranked(values)[gone : gone + kept]))


def l1(values):
    return float(np.abs(values).sum(dtype=np.float64))


SPARSE = [
    'trim(t0, density=0.3, scope="tensor"%s)',
    "trim(t0, density=0.3%s)",
    'trim(t0, density=0.3, ties="first"%s)',
    'breadcrumbs(t0, density=0.3, gamma=0.1, ties="first"%s)',
    "breadcrumbs(t0, density=0.3, gamma=0.1%s)",
    "dare(t0, drop=0.4%s)",
    "della(t0, density=0.6%s)",
]


@pytest.mark.parametrize("recipe", SPARSE)
def test_rescaled_by_l1_a_tensor_keeps_its_sum_of_magnitudes(taus, recipe):
    found, plain = made(recipe % ', rescale="l1"', taus), made(recipe % ', rescale="none"', taus)
    for name, tau in taus[0].items():
        scale = l1(tau) / l1(plain[name]) if l1(plain[name]) else 1
        np.testing.assert_allclose(found[name], plain[name] * scale, rtol=1e-6)
        assert set(np.unique(plain[name])) <= {0, *np.unique(tau)}


def test_della_says_mergekits_window_as_twice_its_half():
    """mergekit: keep probabilities from density - epsilon for the smallest of a row to density + epsilon."""
    tau = {"w": np.tile(np.arange(1, 6, dtype=np.float32), (40_000, 1))}
    found = made('della(t0, density=0.5, epsilon=0.3, rescale="none", seed=1)', [tau])["w"]
    assert np.allclose((found != 0).mean(0), np.linspace(0.35, 0.65, 5), atol=0.015)


# ---- laws, streaming, bad input -----------------------------------------------------------------------
SYMMETRIC = ["multislerp(%s)", "karcher(%s)", "stock(%s)", "ram(%s)", "ramplus(%s, epsilon=0.7)", "sce(%s, select=0.4)"]


@pytest.mark.parametrize("recipe", SYMMETRIC)
def test_the_order_of_the_vectors_does_not_matter(taus, recipe):
    same(made(recipe % "t2, t0, t1", taus), made(recipe % "t0, t1, t2", taus), 1e-5)


HOMOGENEOUS = ["nuslerp(%s, %s, weights=(1, 3))", 'nuslerp(%s, %s, scope="row")', "multislerp(%s, %s)", "sce(%s, %s)"]


@pytest.mark.parametrize("recipe", HOMOGENEOUS)
def test_twice_the_vectors_make_twice_the_result(taus, recipe):
    twice = made(recipe % ("2*t0", "2*t1"), taus)
    same(twice, {k: 2 * v for k, v in made(recipe % ("t0", "t1"), taus).items()}, 1e-5)


STREAMED = [
    'base + nuslerp(math - base, code - base, weights=(1, 2), scope="row")',
    'nuslerp(math, code, scope="column")',
    "multislerp(base, math, code, weights=(1, 2, 3))",
    'model_stock(base, math, code, scope="row", floor=0.000001)',
    "nearswap(base, math, t=0.01)",
    "arcee_fusion(base, math)",
    "base + sce(math - base, code - base, select=0.2)",
    "base + ramplus(math - base, code - base, epsilon=0.8)",
    'base + elect(0.5*(math - base), code - base, weights=(0.5, 1), tie="plus")',
    'base + trim(math - base, density=0.3, ties="first", rescale="l1")',
    'base + trim(math - base, density=0.3, ties="first", scope="tensor")',
    'base + breadcrumbs(math - base, ties="first", outliers="spare", density=0.5, gamma=0.1)',
    'base + dare(math - base, rescale="l1")',
    'base + della(math - base, rescale="l1") + ram(code - base)',
]


@pytest.fixture(scope="module")
def models(build, tmp_path_factory):
    """Three models of few values, so that thresholds have equals, with tensors longer than a part."""
    home = tmp_path_factory.mktemp("models")
    shapes = {"model.layers.0.w": (9, 5), "model.layers.1.w": (9, 5), "bias": (7,), "big": (5, TILE + 7)}
    for seed, name in enumerate(("base", "math", "code")):
        content = arrays(seed, coarse=True, shapes=shapes) | {"ids": np.arange(5)}
        build.model(home / name, content)
    return home


def loaded(models, recipe):
    return tv.parse(recipe, **{name: tv.load(models / name) for name in ("base", "math", "code") if name in recipe})


@pytest.mark.parametrize("recipe", STREAMED)
def test_the_same_bytes_for_any_threads_and_blocks_and_as_text(models, recipe, tmp_path):
    w = loaded(models, recipe)
    assert tv.parse(str(w)) == w
    tv.save(w, tmp_path / "one", threads=1, dtype="float32")
    tv.save(tv.parse(str(w)), tmp_path / "two", threads=3, ram="600MB", shard_size="1MB", dtype="float32")
    one, two = tv.load(tmp_path / "one"), tv.load(tmp_path / "two")
    for name in w:
        assert np.array_equal(one[name], two[name], equal_nan=True), name
    assert np.array_equal(w.read("big", slice(1, 3)), one["big"][1:3])


def test_a_tile_is_cut_as_the_whole_where_a_range_begins_in_its_middle(models):
    """Of the entries equal to the threshold those before the range count too."""
    w = loaded(models, 'trim(math - base, density=0.3, scope="tensor", ties="first")')
    (source,) = w.terms
    whole = w["big"].ravel()
    for start, n in ((1, 5), (TILE - 3, 7), (TILE + 1000, 2 * TILE), (3 * TILE + 1, whole.size - 3 * TILE - 1)):
        out = np.empty(n, np.float32)
        source.readinto("big", start, memoryview(out).cast("B"))
        assert np.array_equal(out, whole[start : start + n])
    assert np.count_nonzero(whole) == int(0.3 * whole.size)


def test_the_plan_counts_the_passes_that_the_options_take(models):
    def passes(recipe):
        return tv.plan(loaded(models, recipe)).passes

    assert passes("trim(math - base)") == 2
    assert passes('trim(math - base, ties="first")') == 2 and passes('trim(math - base, rescale="l1")') == 3
    assert passes("dare(math - base)") == 1 and passes('dare(math - base, rescale="l1")') == 2
    assert passes("sce(math - base, code - base)") == 2 and passes("sce(math - base, code - base, select=0.5)") == 4
    assert passes('nuslerp(math, code, scope="row")') == 2 == passes("ramplus(math - base, code - base)")


def test_weights_may_be_knobs_and_follow_the_layers():
    taus = [arrays(1), arrays(2)]
    sources = known(taus)
    free = tv.parse("nuslerp(t0, t1, weights=(1 - w, w))", **sources)
    assert free.knobs == {"w"}
    assert free.bind(w=0.25) == tv.parse("nuslerp(t0, t1, weights=(0.75, 0.25))", **sources)
    found = made("nuslerp(t0, t1, weights=(layers(0, 1, outside=1), layers(1, 0, outside=1)))", taus)
    assert np.allclose(found["layers.0.b"], taus[1]["layers.0.b"])
    assert np.allclose(found["layers.1.w"], taus[0]["layers.1.w"])


@pytest.mark.parametrize("recipe", [r for r in SPARSE if "della" not in r])
def test_a_tensor_without_elements_does_no_harm(recipe):
    tau = {"none": np.zeros((0, 4), np.float32), "w": arrays(1)["one"]}
    assert made(recipe % ', rescale="l1"', [tau]).keys() == tau.keys()


WRONG = [
    ("nuslerp(math, code, weights=(1, 2, 3))", RecipeError, "weights is one number an argument, 2 in parentheses"),
    ("nuslerp(math, code, base)", RecipeError, "exactly 2"),
    ('nuslerp(math, code, scope="model")', RecipeError, "scope is one of tensor, row, column"),
    ("multislerp(math, code, weights=0.5)", RecipeError, "one number an argument"),
    ("multislerp(math, code, weights=(1, -1))", RecipeError, "add up to 0"),
    ("karcher(math, code, weights=(-1, 2))", RecipeError, r"weights must lie in \[0, inf\], not -1"),
    ("karcher(math, code, weights=(0, 0))", RecipeError, "add up to 0"),
    ("nearswap(base, math, t=-0.1)", RecipeError, r"t must lie in \[0, inf\], not -0.1"),
    ("nearswap(base, math - base)", MassError, "not on both"),
    ("base + arcee_fusion(math - base, code - base)", MassError, "argument 1 is a task vector: add its base"),
    ("base + sce(math - base, select=0)", RecipeError, r"select must lie in \(0, 1\]"),
    ("base + sce(math, code - base)", MassError, "argument 1 is a model"),
    ("base + ram(math - base, epsilon=-1)", RecipeError, "epsilon must lie in"),
    ("base + ramplus(math - base, alpha=-1)", RecipeError, "alpha must lie in"),
    ("base + della(math - base, epsilon=1.2)", RecipeError, r"epsilon must lie in \[0, 1\], not 1.2"),
    ("base + elect(math - base, weights=(1, 2))", RecipeError, "1 in parentheses"),
    ('base + elect(math - base, tie="minus")', RecipeError, "tie is one of none, plus"),
    ('base + trim(math - base, ties="last")', RecipeError, "ties is one of all, first"),
    ('base + trim(math - base, rescale="l2")', RecipeError, "rescale is one of none, l1"),
    ("base + trim(math - base, least=-1)", RecipeError, "least must lie in"),
    ('base + dare(math - base, rescale="l2")', RecipeError, "rescale is one of expected, l1, none"),
    ("base + stock(math - base, code - base, floor=-1)", RecipeError, "floor must lie in"),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "kind", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_what_a_method_cannot_take_is_a_stated_error(models, tmp_path, recipe, kind, message):
    with pytest.raises(kind, match=message):
        tv.save(loaded(models, recipe), tmp_path / "out")
    assert not list(tmp_path.iterdir())


NAN = ["nuslerp(b, x)", 'nuslerp(b, x, scope="row")', "multislerp(b, x)", "nearswap(b, x)", "nearswap(x, b)",
       "arcee_fusion(b, x)", "b + sce(x - b)", "b + sce(x - b, 2*(x - b), select=0.5)", "b + ram(x - b)",
       "b + ramplus(x - b)", 'b + dare(x - b, rescale="l1")',
       'b + trim(x - b, ties="first", rescale="l1")']  # fmt: skip


@pytest.mark.parametrize("recipe", NAN)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_reported_by_tensor(tmp_path, recipe, bad):
    x, b = np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)
    x[1, 1] = bad
    with pytest.raises(TaskvecError, match="w has NaN or Inf"):
        tv.save(tv.parse(recipe, b=tv.from_arrays({"w": b}, "b"), x=tv.from_arrays({"w": x}, "x")), tmp_path / "out")
    assert not list(tmp_path.iterdir())
