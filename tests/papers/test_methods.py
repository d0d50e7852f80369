"""Every method against a few eager lines of its paper, on whole arrays in memory."""

import re
from pathlib import Path

import numpy as np
import pytest
from method_arrays import SHAPES, arrays, made, same, sources

import taskvec as tv
from taskvec.errors import RecipeError
from taskvec.methods import FUNCTIONS
from taskvec.methods.core.method import Method


@pytest.fixture(params=[False, True], ids=["fine", "coarse"])
def taus(request):
    return [arrays(seed, coarse=request.param) for seed in (1, 2, 3)]


def flat(tau):
    return np.concatenate([x.ravel() for x in tau.values()])


def trimmed(tau, density, whole):
    def cut(values):
        rank = int(density * values.size)
        return np.sort(np.abs(values).ravel())[::-1][rank - 1] if rank else np.inf

    return {k: np.where(np.abs(v) >= cut(flat(tau) if whole else v), v, 0).astype(np.float32) for k, v in tau.items()}


# ---- sparsify x consensus -------------------------------------------------------------------------
@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 0.9, 1])
@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_trim_keeps_the_largest_and_their_equals(taus, density, scope):
    same(made(f'trim(t0, density={density}, scope="{scope}")', taus), trimmed(taus[0], density, scope == "model"))


def elected(taus, reduce="mean", vote="sum"):
    merged = {}
    for name in taus[0]:
        x = np.stack([t[name] for t in taus]).astype(np.float64)
        sign = np.sign((np.sign(x) if vote == "count" else x).sum(0))
        agree = x * sign > 0
        total = np.where(agree, x, 0).sum(0)
        merged[name] = total if reduce == "sum" else total / np.maximum(1, agree.sum(0))
    return merged


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("vote", ["sum", "count"])
def test_elect_is_the_disjoint_mean(taus, reduce, vote):
    same(made(f'elect(t0, t1, t2, reduce="{reduce}", vote="{vote}")', taus), elected(taus, reduce, vote), 1e-6)


def test_ties_is_trim_elect_and_disjoint_mean(taus):
    same(made("ties(t0, t1, t2)", taus), elected([trimmed(t, 0.2, True) for t in taus]), 1e-6)
    half = {k: v / 2 for k, v in taus[0].items()}
    wanted = elected([trimmed(t, 0.5, False) for t in (half, taus[1])])
    same(made('ties(0.5*t0, t1, density=0.5, scope="tensor")', taus), wanted, 1e-6)


def test_breadcrumbs_drops_the_outliers_and_the_small_ones(taus):
    sparse = made("breadcrumbs(t0, density=0.2, gamma=0.05)", taus)
    for name, tau in taus[0].items():
        size = np.sort(np.abs(tau).ravel())[::-1]
        low, high = int(0.2 * tau.size) + int(0.05 * tau.size), int(0.05 * tau.size)
        wanted = np.abs(tau) >= size[low - 1] if low else np.zeros(tau.shape, bool)
        wanted &= np.abs(tau) < size[high - 1] if high else True
        same({name: sparse[name]}, {name: np.where(wanted, tau, 0)})


def test_unified_magmax_and_consensus_are_their_formulas(taus):
    x = {name: np.stack([t[name] for t in taus]) for name in taus[0]}
    sign = {k: np.sign(v.sum(0)) for k, v in x.items()}
    same(made("unified(t0, t1, t2)", taus), {k: sign[k] * np.maximum(0, v * sign[k]).max(0) for k, v in x.items()})
    pick = {k: np.take_along_axis(v, np.abs(v).argmax(0)[None], 0)[0] for k, v in x.items()}
    same(made("magmax(t0, t1, t2)", taus), pick)
    votes = {k: (np.abs(v) >= np.float32(0.4) * np.abs(v.sum(0) - v)).sum(0) for k, v in x.items()}
    wanted = {k: np.where(votes[k] >= 2, v.sum(0), 0) for k, v in x.items()}
    same(made("consensus(t0, t1, t2, k=2, lam=0.4)", taus), wanted, 1e-6)


def signed(rng, *shape):
    """Small whole numbers of both signs, so that sums are often zero and magnitudes often equal."""
    return rng.integers(-2, 3, shape).astype(np.float32)


def test_where_votes_are_even_the_authors_code_is_a_named_option():
    """EMR's `flag = (sum > 0) * 2 - 1`, MagMax's `torch.where(x.abs() >= best.abs(), x, best)`, TALL masks' `>`."""
    rng = np.random.default_rng(3)
    x = [signed(rng, 500) for _ in range(3)]
    taus = [{"w": tau} for tau in x]
    flag = (np.mean(x, axis=0) > 0) * 2 - 1
    largest = np.max([np.where(tau * flag > 0, np.abs(tau), 0) for tau in x], axis=0)
    assert np.array_equal(made('unified(t0, t1, t2, tie="minus")', taus)["w"], largest * flag)
    assert np.array_equal(made("unified(t0, t1, t2)", taus)["w"], np.where(np.sum(x, axis=0) == 0, 0, largest * flag))
    last, first = x[0], x[0]
    for tau in x[1:]:
        last = np.where(np.abs(tau) >= np.abs(last), tau, last)
        first = np.where(np.abs(tau) > np.abs(first), tau, first)
    assert not np.array_equal(last, first)
    assert np.array_equal(made('magmax(t0, t1, t2, tie="last")', taus)["w"], last)
    assert np.array_equal(made("magmax(t0, t1, t2)", taus)["w"], first)
    for tie, above in (("in", np.greater_equal), ("out", np.greater)):
        votes = sum(above(np.abs(tau), 0.5 * np.abs(np.sum(x, axis=0) - tau)) for tau in x)
        merged = made(f'consensus(t0, t1, t2, lam=0.5, tie="{tie}")', taus)["w"]
        assert np.array_equal(merged, np.where(votes >= 2, np.sum(x, axis=0), 0)), tie


@pytest.mark.parametrize("k", [0, 1.5, 3])
def test_a_number_of_votes_that_no_entry_can_have_is_refused(k):
    with pytest.raises(RecipeError, match="k"):
        made(f"consensus(t0, t1, k={k})", [arrays(1), arrays(2)])


ROWS = {
    "embed": (31, 24),
    "bias": (24,),
    "kernel": (5, 3, 2, 40),
    "one": (1,),
    "scalar": (),
    "thin": (7, 1),
    "none": (0, 4),
}


@pytest.mark.parametrize("ties", ["all", "first"])
@pytest.mark.parametrize("coarse", [False, True])
def test_breadcrumbs_of_rows_are_those_of_the_authors_code(ties, coarse):
    """Their mask_keep_top is `topk` of |tau| along the last axis, int(n * share) of each row."""
    rng = np.random.default_rng(4)
    tau = {n: signed(rng, *s) if coarse else rng.standard_normal(s).astype(np.float32) for n, s in ROWS.items()}
    sparse = made(f'breadcrumbs(t0, density=0.5, gamma=0.1, scope="row", ties="{ties}")', [tau])
    scaled = made(f'breadcrumbs(t0, density=0.5, gamma=0.1, scope="row", ties="{ties}", rescale="l1")', [tau])
    for name, x in tau.items():
        rows = x.reshape(-1, x.shape[-1] if x.ndim else 1)
        wanted = np.zeros_like(rows)
        for row, out in zip(rows, wanted, strict=True):
            size, kept, gone = np.abs(row), int(0.5 * row.size), int(0.1 * row.size)
            order = np.argsort(-size, kind="stable")
            if ties == "first":
                out[order[gone : gone + kept]] = row[order[gone : gone + kept]]
            elif kept:
                within = size >= size[order[gone + kept - 1]]
                within &= size < size[order[gone - 1]] if gone else True
                out[within] = row[within]
        assert np.array_equal(sparse[name], wanted.reshape(x.shape)), name
        before, after = np.abs(x).sum(dtype=float), np.abs(wanted).sum(dtype=float)
        np.testing.assert_allclose(scaled[name], sparse[name] * (before / after if after else 1), rtol=1e-6)


# ---- randomness -------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop", [0.1, 0.5, 0.9])
def test_dare_drops_at_its_rate_and_keeps_the_expectation(drop):
    tau = {"w": np.full(200_000, 2, np.float32)}
    sparse = made(f"dare(t0, drop={drop}, seed=3)", [tau])["w"]
    assert set(np.unique(sparse)) == {np.float32(0), np.float32(2) * np.float32(1 / (1 - drop))}
    error = np.sqrt(drop * (1 - drop) / 200_000)
    assert abs((sparse == 0).mean() - drop) < 5 * error and abs(sparse.mean() / 2 - 1) < 5 * error / (1 - drop)
    assert np.array_equal(sparse, made(f"dare(t0, drop={drop}, seed=3)", [tau])["w"])


def test_dare_ties_gives_every_vector_its_own_draws():
    assert str(tv.parse("dare_ties(t0, t1, seed=5)", **sources([arrays(1), arrays(2)]))) == (
        "elect(dare(t0, seed=5), dare(t1, seed=6))"
    )


def test_della_keeps_the_large_ones_more_often():
    """Keep rates of the ranks of a row are density -+ epsilon/2 at the ends, and kept entries are divided by them."""
    tau = {"w": np.tile(np.arange(1, 6, dtype=np.float32), (40_000, 1))}
    sparse = made("della(t0, density=0.6, epsilon=0.4, seed=1)", [tau])["w"]
    p = np.linspace(0.4, 0.8, 5)
    assert np.allclose((sparse != 0).mean(0), p, atol=0.015)
    assert np.allclose(sparse.mean(0), np.arange(1, 6), rtol=0.04)


def test_della_keeps_equal_ones_equally_often():
    """They have the mean of their ranks: with two kinds in a row, two rates."""
    tau = {"w": np.tile(np.float32([3, -1, 3, 1, 3]), (40_000, 1))}
    sparse = made("della(t0, density=0.5, epsilon=0.8, seed=1, rescale='l1')", [tau])["w"]
    assert np.allclose((sparse != 0).mean(0), [0.7, 0.2, 0.7, 0.2, 0.7], atol=0.01)


@pytest.mark.parametrize(
    "options",
    ["density=0.9, epsilon=0.2", "density=0.93, epsilon=0.14", "density=1", 'density=per({"*.w": 1, "*": 0.4})',
     "density=0.07, epsilon=0.1399", "density=layers(0.2, 0.9, outside=0.5)"],
)  # fmt: skip
def test_della_keeps_the_expectation_at_the_ends_of_its_range(options):
    tau = {"layers.0.w": np.ones((400, 500), np.float32), "layers.1.w": np.ones((400, 500), np.float32)}
    for sparse in made(f"della(t0, {options})", [tau]).values():
        assert abs(sparse.mean() - 1) < 0.06


def test_random_like_has_the_norm_of_every_tensor_and_no_direction_in_common(taus):
    random = made("random_like(t0, seed=2)", taus)
    for name, tau in taus[0].items():
        assert np.linalg.norm(random[name]) == pytest.approx(np.linalg.norm(tau), rel=1e-5)
    cosine = flat(random) @ flat(taus[0]) / np.linalg.norm(flat(random)) / np.linalg.norm(flat(taus[0]))
    assert abs(cosine) < 5 / np.sqrt(flat(random).size)


# ---- geometry ----------------------------------------------------------------------------------------
def each(taus, function, *numbers):
    return {k: function([t[k].astype(np.float64).ravel() for t in taus], *numbers).reshape(taus[0][k].shape)
            for k in taus[0]}  # fmt: skip


def eager_slerp(x, t):
    a, b = (v / np.linalg.norm(v) for v in x)
    w = np.arccos(np.clip(a @ b, -1, 1))
    if abs(a @ b) > 0.9995:
        return (1 - t) * x[0] + t * x[1]
    return (np.sin((1 - t) * w) * x[0] + np.sin(t * w) * x[1]) / np.sin(w)


@pytest.mark.parametrize("t", [0, 0.25, 0.5, 1])
def test_slerp_is_shoemakes(t):
    taus = [arrays(1), arrays(2)]
    same(made(f"slerp(t0, t1, t={t})", taus), each(taus, eager_slerp, t), 2e-6)
    near = [taus[0], {k: v * np.float32(1.01) for k, v in taus[0].items()}]
    same(made(f"slerp(t0, t1, t={t})", near), each(near, eager_slerp, t), 2e-6)


def test_slerps_t_may_follow_the_layers():
    taus = [arrays(1), arrays(2)]
    merged = made("slerp(t0, t1, t=layers(0, 1, outside=0.5))", taus)
    assert np.array_equal(merged["layers.0.w"], taus[0]["layers.0.w"])
    assert np.array_equal(merged["layers.1.w"], taus[1]["layers.1.w"])


def eager_karcher(x):
    sizes = [np.linalg.norm(v) for v in x]
    u = [v / s for v, s in zip(x, sizes, strict=True)]
    m = np.mean(u, axis=0)
    m /= np.linalg.norm(m)
    for _ in range(200):
        tangent = np.zeros_like(m)
        for v in u:
            angle = np.arccos(np.clip(m @ v, -1, 1))
            tangent += (angle / np.sin(angle) if angle > 1e-9 else 1) * (v - (m @ v) * m) / len(u)
        length = np.linalg.norm(tangent)
        if length < 1e-9:
            break
        m = np.cos(length) * m + np.sin(length) * tangent / length
    return m * np.mean(sizes)


def test_karcher_is_the_mean_on_the_sphere():
    taus = [{k: v for k, v in arrays(s).items() if k != "one"} for s in (1, 2, 3)]
    same(made("karcher(t0, t1, t2, max_iter=200, tol=0.000000001)", taus), each(taus, eager_karcher), 1e-5)


def test_the_geometric_median_cannot_be_improved():
    taus = [arrays(s) for s in (1, 2, 3)]
    median = made("geometric_median(t0, t1, t2)", taus)
    rng = np.random.default_rng(0)
    for name in SHAPES:
        x = [t[name].astype(np.float64) for t in taus]
        cost = lambda m, x=x: sum(np.linalg.norm(m - v) for v in x)  # noqa: E731
        for _ in range(20):
            assert cost(median[name]) <= cost(median[name] + 0.01 * rng.normal(size=SHAPES[name])) + 1e-6


def eager_stock(x):
    n = len(x)
    pairs = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for i, a in enumerate(x) for b in x[:i]]
    cosine = np.mean(pairs)
    return n * cosine / (1 + (n - 1) * cosine) * np.mean(x, axis=0)


def test_model_stock_is_its_ratio_times_the_mean():
    shared = arrays(9, scale=2)
    taus = [{k: v + shared[k] for k, v in arrays(s).items()} for s in (1, 2, 3)]
    base = arrays(5)
    models = {f"m{i}": tv.from_arrays({k: base[k] + t[k] for k in base}, f"m{i}") for i, t in enumerate(taus)}
    merged = tv.parse("model_stock(base, m0, m1, m2)", base=tv.from_arrays(base, "base"), **models)
    deltas = [{k: (base[k] + t[k]) - base[k] for k in base} for t in taus]
    wanted = each(deltas, eager_stock)
    same({k: merged[k] for k in merged}, {k: base[k] + wanted[k] for k in base}, 2e-5)


def test_metagpt_weighs_by_squared_norms(taus):
    squares = [np.sum(flat(t).astype(np.float64) ** 2) for t in taus]
    wanted = {k: sum(s / sum(squares) * t[k] for s, t in zip(squares, taus, strict=True)) for k in SHAPES}
    same(made("metagpt(t0, t1, t2)", taus), wanted, 1e-6)


def test_norm_matched_has_the_mean_norm_of_its_vectors(taus):
    norms = [np.linalg.norm(flat(t).astype(np.float64)) for t in taus]
    total = {k: sum(t[k].astype(np.float64) for t in taus) for k in SHAPES}
    lam = np.mean(norms) / np.linalg.norm(flat(total))
    merged = made("norm_matched(t0, t1, t2)", taus)
    same(merged, {k: lam * v for k, v in total.items()}, 1e-6)
    assert np.linalg.norm(flat({k: merged[k] for k in SHAPES})) == pytest.approx(np.mean(norms), rel=1e-5)
    same(made("norm_matched(t0)", taus[:1]), taus[0])  # to the bit
    same(made("norm_matched(t0, t1)", [taus[0], taus[0]]), taus[0], 1e-6)
    with pytest.raises(RecipeError, match="cancel out"):
        made("norm_matched(t0, t1)", [taus[0], {k: -v for k, v in taus[0].items()}])["layers.0.w"]


def test_freeze_conflicts_keeps_what_agrees_and_drops_what_does_not(taus):
    """More of it in test_edits.py."""
    against = {k: -v if k == "layers.0.w" else v for k, v in taus[0].items()}
    wanted = {k: np.zeros_like(v) if k == "layers.0.w" else v for k, v in taus[0].items()}
    same(made('freeze_conflicts(t0, t1, scope="tensor")', [taus[0], against]), wanted)


ELSEWHERE = {  # the sources of those methods whose docstrings name no paper on arXiv
    "random_like": "Ilharco et al. (ICLR 2023)", "elect": "Yadav et al., NeurIPS 2023", "nearswap": "alchemonaut",
    "arcee_fusion": "of mergekit", "slerp": "Shoemake 1985", "karcher": "Karcher mean", "geometric_median": "Weiszfeld",
    "norm_matched": "Yang et al., 2024", "nuslerp": "of mergekit", "multislerp": "goddard.blog",
}  # fmt: skip


def test_every_method_says_its_source_and_is_tested_against_it():
    tested = "".join(p.read_text(encoding="utf-8") for p in Path(__file__).parent.glob("test_*.py"))
    for method in (f for f in FUNCTIONS.values() if isinstance(f, Method)):
        source = ELSEWHERE.get(method.name)
        assert re.search(re.escape(source) if source else r"arXiv \d{4}\.\d{5}\b", method.fn.__doc__), method.name
        assert re.search(rf"\b{method.name}\(", tested), method.name


def test_lines_is_a_gradient_over_the_layers(taus):
    scaled = made("lines(t0, alpha=0.2, beta=0.6)", taus)
    scale = {"layers.0": 0.2, "layers.1": 0.8}
    same(scaled, {k: v * np.float32(scale.get(k[:8], 0.2)) for k, v in taus[0].items()}, 1e-7)


def test_lines_prints_as_what_it_stands_for(taus):
    known = {k: v for k, v in sources(taus).items() if k in ("t0", "t1")}
    text = "layers(0.1, 0.3, outside=0.1)*elect(trim(t0), trim(t1))"
    assert str(tv.parse("lines(ties(t0, t1), alpha=0.1, beta=0.2)", **known)) == text
    assert tv.parse("lines(t0)", t0=known["t0"]) == tv.parse("layers(0.1, 1, outside=0.1)*t0", t0=known["t0"])
    free = tv.parse("lines(t0, alpha=a, beta=1 - a)", t0=known["t0"])
    assert free.knobs == {"a"} and free.bind(a=0.1) == tv.lines(known["t0"])
