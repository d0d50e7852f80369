"""Methods that see whole matrices, against eager lines of their papers in torch, float64; and the laws they obey."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_arrays import made, same

import taskvec as tv
from taskvec.methods.core.singular import FLOOR

SHAPES = {
    "embed.weight": (41, 24), "layers.0.up": (24, 33), "layers.0.q": (24, 24), "layers.1.q": (24, 24),
    "layers.1.bias": (24,), "conv": (3, 4, 5), "scale": (), "row": (1, 9), "column": (9, 1),
}  # fmt: skip
SVD = torch.linalg.svd


def arrays(seed, shapes=SHAPES):
    """Random tensors with something in common, so that there are shared directions."""
    rng, shared = np.random.default_rng(seed), np.random.default_rng(99)
    return {
        k: np.asarray(rng.normal(size=shape) + shared.normal(size=shape), np.float32) for k, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def taus():
    return [arrays(seed) for seed in (1, 2, 3)]


def eagerly(taus, matrix, other):
    """A paper's lines for every tensor: `matrix` of those with two dimensions, `other` of the rest."""
    tensors = {}
    for name in taus[0]:
        x = torch.stack([torch.from_numpy(np.asarray(t[name])).double() for t in taus])
        tensors[name] = (matrix if x.dim() == 3 else other)(x).numpy()
    return tensors


def mean(x):
    return x.mean(0)


# ---- papers ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("rank", [1, 5, 23])
def test_low_rank_is_the_truncated_svd(taus, rank):
    def truncated(x):
        u, s, v = SVD(x[0], full_matrices=False)
        return u[:, :rank] @ s[:rank].diag() @ v[:rank]

    same(made(f"low_rank(t0, rank={rank})", taus), eagerly(taus, truncated, lambda x: x[0]), 2e-6)


def test_low_rank_by_share(taus):
    for share, rank in ((0.5, 12), (0.29, 7), (0.001, 1)):
        by_share, wanted = made(f"low_rank(t0, share={share})", taus), made(f"low_rank(t0, rank={rank})", taus)
        assert np.array_equal(by_share["layers.0.q"], wanted["layers.0.q"])
    assert np.array_equal(made("low_rank(t0, share=0.5, rank=3)", taus)["embed.weight"],
                          made("low_rank(t0, rank=3)", taus)["embed.weight"])  # fmt: skip


def test_iso_c_flattens_the_spectrum_of_the_sum(taus):
    def isotropic(x):
        u, s, v = SVD(x.sum(0), full_matrices=False)
        return u @ (torch.ones_like(s) * s.mean()).diag() @ v

    same(made("iso_c(t0, t1, t2)", taus), eagerly(taus, isotropic, mean), 1e-5)


def nearest(x):
    u, _, v = SVD(x, full_matrices=False)
    return u @ v


@pytest.mark.parametrize("count", [2, 3])
def test_tsv_m_is_its_paper(taus, count):
    def merged(x):
        if min(x.shape[1:]) < len(x):  # fewer directions than tasks: the published code makes nothing of these
            return x[0] * torch.nan
        us, ss, vs = SVD(x, full_matrices=False)
        k = ss.shape[1] // len(x)
        u = nearest(torch.cat([u[:, :k] for u in us], 1))
        v = nearest(torch.cat([v[:k] for v in vs], 0))
        return u @ torch.cat([s[:k] for s in ss]).diag() @ v

    tensors = made(f"tsv_m({', '.join(f't{k}' for k in range(count))})", taus)
    wanted = eagerly(taus[:count], merged, mean)
    for name in ("row", "column"):
        assert np.isfinite(tensors.pop(name)).all() and np.isnan(wanted.pop(name)).all()
    same(tensors, wanted, 1e-5)


@pytest.mark.parametrize("common", [0, 0.5, 0.8, 0.95])
def test_iso_cts_is_its_paper(taus, common):
    def merged(x):
        tasks, full = len(x), min(x.shape[1:])
        own = round((full - int(full * common)) / tasks)
        own -= own * tasks > full  # only here the published code takes more directions than there are
        k = full - own * tasks
        u, s, v = SVD(x.sum(0), full_matrices=False)
        uk = u[:, :k]
        us, ss, vs = [uk], [s[:k]], [v[:k]]
        for task in x:
            u, s, v = SVD(task - uk @ uk.T @ task, full_matrices=False)
            us, ss, vs = [*us, u[:, :own]], [*ss, s[:own]], [*vs, v[:own]]
        return nearest(torch.cat(us, 1)) @ nearest(torch.cat(vs, 0)) * torch.cat(ss).mean()

    same(made(f"iso_cts(t0, t1, t2, common={common})", taus), eagerly(taus, merged, mean), 1e-5)


def ties(x, density, reduce):
    """TIES of the rows of x, eagerly: trim each row, elect, disjoint mean or sum."""
    flat = x.reshape(len(x), -1)
    rank = int(density * flat.shape[1])
    cut = flat.abs().sort(1, descending=True).values[:, rank - 1 : rank] if rank else torch.full((len(x), 1), torch.inf)
    flat = torch.where(flat.abs() >= cut, flat, 0)
    agree = flat * flat.sum(0).sign() > 0
    total = torch.where(agree, flat, 0).sum(0)
    return (total if reduce == "sum" else total / agree.sum(0).clamp(min=1)).reshape(x.shape[1:])


@pytest.mark.parametrize(("density", "reduce"), [(0.2, "mean"), (0.5, "sum"), (1, "mean")])
def test_knots_is_ties_in_the_common_basis(taus, density, reduce):
    def merged(x):
        u, s, v = SVD(torch.cat(list(x), 1), full_matrices=False)
        aligned = torch.stack((s.diag() @ v).split(x.shape[2], 1))
        return u @ ties(aligned, density, reduce)

    tensors = made(f'knots(t0, t1, t2, density={density}, reduce="{reduce}")', taus)
    same(tensors, eagerly(taus, merged, lambda x: ties(x, density, reduce)), 1e-5)


@pytest.mark.parametrize("alpha", [0.1, 1])
def test_svc_is_its_equations(taus, alpha):
    total = {k: sum(t[k] for t in taus) for k in taus[0]}

    def calibrated(x):
        u, s, v = SVD(x.sum(0), full_matrices=False)
        for r in range(len(s)):
            whole, factors = u[:, r] @ x.sum(0), []
            for task in x:
                own = u[:, r] @ task
                factors.append(max(alpha, (whole @ own / (own @ own)).item()))
            s[r] *= len(x) / sum(factors)
        return u @ s.diag() @ v

    wanted = eagerly(taus, calibrated, lambda x: x.sum(0))
    tensors = made(f"svc(t0, t1, t2, t3, alpha={alpha})", [total, *taus])
    same(tensors, wanted, 1e-5)


@pytest.mark.parametrize("ratio", [0.05, 0.1, 1])
def test_pcb_is_its_paper(taus, ratio):
    def clamped(x, low, high):
        d = x.shape[1]
        ordered = x.sort(1).values
        return x.clamp(ordered[:, [int(d * low)]], ordered[:, [int(d * (1 - high) - 1)]])

    def normalised(x):
        low, high = x.min(1, keepdim=True).values, x.max(1, keepdim=True).values
        return (x - low) / (high - low)

    def merged(x):
        flat = x.reshape(len(x), -1)
        size = clamped(flat.abs(), 1e-4, 1e-4)
        score = torch.exp(len(x) * normalised(size) ** 2) * torch.tanh(flat * flat.sum(0))
        weight = normalised(clamped(score, 1 - ratio, 0))
        return ((weight * flat.sign() * size).sum(0) / weight.sum(0).clamp(min=1e-12)).reshape(x.shape[1:])

    taus = [{k: v / np.float32(8) for k, v in t.items()} for t in taus]  # so that tanh tells them apart in float32
    tensors, wanted = made(f"pcb(t0, t1, t2, ratio={ratio})", taus), eagerly(taus, merged, merged)
    for name in [k for k, v in wanted.items() if np.isnan(v).any()]:  # a share of less than two entries: theirs is 0/0
        assert taus[0][name].size * ratio < 2 and np.isfinite(tensors.pop(name)).all() and wanted.pop(name).any()
    assert len(tensors) > 5
    same(tensors, wanted, 1e-5)


# ---- laws -----------------------------------------------------------------------------------------
sides, seeds = st.integers(1, 12), st.integers(0, 10**6)


def matrices(seed, m, n, count):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(m, n)).astype(np.float32) for _ in range(count)]


def close(values, wanted, tolerance=2e-5):
    np.testing.assert_allclose(values, wanted, rtol=0, atol=tolerance * max(1.0, float(np.abs(wanted).max())))


@settings(deadline=None)
@given(seeds, sides, sides, sides)
def test_a_matrix_of_rank_r_is_its_own_low_rank(seed, m, n, r):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(m, r)) @ rng.normal(size=(r, n))).astype(np.float32)
    close(tv.low_rank.fn(x, rank=r), x, 2e-6)
    assert np.array_equal(tv.low_rank.fn(x, rank=min(m, n)), x) and np.array_equal(tv.low_rank.fn(x), x)
    assert np.array_equal(tv.low_rank.fn(x, rank=100), x)


@settings(deadline=None)
@given(seeds, sides, sides, sides)
def test_no_matrix_of_the_rank_is_nearer_than_low_rank(seed, m, n, r):
    """Eckart & Young: the distance is what the singular values that are left out add up to."""
    (x,) = matrices(seed, m, n, 1)
    left_out = np.linalg.svd(x.astype(np.float64), compute_uv=False)[r:]
    assert np.linalg.norm(x - tv.low_rank.fn(x, rank=r)) == pytest.approx(np.linalg.norm(left_out), abs=1e-5)


@settings(deadline=None)
@given(seeds, sides, sides)
def test_iso_c_of_one_has_a_flat_spectrum_and_the_same_directions(seed, m, n):
    (x,) = matrices(seed, m, n, 1)
    s = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    flat = tv.iso_c.fn(x).astype(np.float64)
    close(np.linalg.svd(flat, compute_uv=False), np.full(min(m, n), s.mean()))
    stretch = flat @ x.T.astype(np.float64)  # mean(s) U diag(s) U^T: symmetric, no negative eigenvalue
    close(stretch, stretch.T)
    assert np.linalg.eigvalsh((stretch + stretch.T) / 2).min() >= -1e-4


@settings(deadline=None)
@given(seeds, sides, sides)
def test_tsv_m_of_one_is_the_vector_and_of_two_equal_ones_its_first_half(seed, m, n):
    (x,) = matrices(seed, m, n, 1)
    close(tv.tsv_m.fn(x), x, 2e-6)
    close(tv.tsv_m.fn(x, x), tv.low_rank.fn(x, rank=max(1, min(m, n) // 2)))


@settings(deadline=None)
@given(seeds, sides, sides, st.integers(2, 4))
def test_iso_cts_with_everything_common_is_iso_c(seed, m, n, count):
    taus = matrices(seed, m, n, count)
    close(tv.iso_cts.fn(*taus, common=1), tv.iso_c.fn(*taus))


@settings(deadline=None)
@given(seeds, sides, sides)
def test_svc_takes_back_what_was_counted_twice(seed, m, n):
    (x,) = matrices(seed, m, n, 1)
    assert np.array_equal(tv.svc.fn(x, x), x)
    close(tv.svc.fn(2 * x, x, x), x, 2e-6)
    close(tv.svc.fn(x, x, alpha=4), x / 4, 2e-6)


@settings(deadline=None)
@given(seeds, sides, sides)
def test_the_side_from_which_a_matrix_is_seen_does_not_matter(seed, m, n):
    taus = matrices(seed, m, n, 3)
    turned = [np.ascontiguousarray(t.T) for t in taus]
    for name in ("iso_c", "tsv_m"):
        close(tv.__getattr__(name).fn(*turned), tv.__getattr__(name).fn(*taus).T)
    close(tv.low_rank.fn(turned[0], rank=2), tv.low_rank.fn(taus[0], rank=2).T)


@settings(deadline=None)
@given(seeds, sides, sides, st.permutations([0, 1, 2]))
def test_the_order_of_the_vectors_does_not_matter(seed, m, n, order):
    taus = matrices(seed, m, n, 3)
    mixed = [taus[k] for k in order]
    for name in ("iso_c", "tsv_m", "iso_cts", "knots", "pcb"):
        close(tv.__getattr__(name).fn(*mixed), tv.__getattr__(name).fn(*taus))
    close(tv.svc.fn(sum(taus), *mixed), tv.svc.fn(sum(taus), *taus))


@settings(deadline=None)
@given(seeds, sides, sides, st.integers(1, 3))
def test_signs_of_singular_vectors_do_not_matter(seed, m, n, count):
    """Turned by the same signs of rows and columns, vectors give the turned result, whatever LAPACK makes of each."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.choice([-1, 1], (m, 1)).astype(np.float32), rng.choice([-1, 1], (1, n)).astype(np.float32)
    taus = matrices(seed, m, n, count + 1)
    turned = [rows * t * columns for t in taus]
    for name in ("iso_c", "tsv_m", "iso_cts"):
        close(tv.__getattr__(name).fn(*turned), rows * tv.__getattr__(name).fn(*taus) * columns)


ALL = {
    "low_rank": lambda *t: tv.low_rank.fn(t[0], rank=2), "iso_c": tv.iso_c.fn, "tsv_m": tv.tsv_m.fn,
    "iso_cts": tv.iso_cts.fn, "knots": tv.knots.fn, "svc": tv.svc.fn, "pcb": tv.pcb.fn,
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5,), (), (1, 1), (2, 3, 4)])
def test_zeros_give_zeros_and_a_zero_beside_others_no_nan(name, shape):
    zero, x = np.zeros(shape, np.float32), np.asarray(np.random.default_rng(0).normal(size=shape), np.float32)
    assert np.array_equal(ALL[name](zero, zero), zero)
    assert np.isfinite(ALL[name](x, zero)).all() and np.isfinite(ALL[name](zero, x)).all()


def test_directions_that_a_vector_does_not_have_are_not_invented():
    """LoRAs of rank 1, where LAPACK's singular vectors beyond the first are arbitrary."""
    rng = np.random.default_rng(0)
    one, two = (np.float32(np.outer(rng.normal(size=20), rng.normal(size=30))) for _ in range(2))
    for rank, merged in ((1, tv.iso_c.fn(one)), (2, tv.iso_c.fn(one, two)), (2, tv.tsv_m.fn(one, two)),
                        (2, tv.iso_cts.fn(one, two)), (2, tv.knots.fn(one, two, density=1))):  # fmt: skip
        s = np.linalg.svd(merged.astype(np.float64), compute_uv=False)
        assert s[rank - 1] > 0.01 * s[0] and s[rank] < FLOOR * s[0]
    close(tv.iso_c.fn(one), one / 20)  # the mean is over all 20 singular values, 19 of them 0
    u, s, v = np.linalg.svd(one + two, full_matrices=False)
    close(tv.iso_c.fn(one, two), (u[:, :2] * s.sum() / 20) @ v[:2])


def test_nearly_dependent_directions_are_as_accurate_as_float32_allows():
    """A spectrum over six decades: closer to the exact result than an SVD in float32 is."""
    rng = np.random.default_rng(1)
    u, v = (np.linalg.qr(rng.normal(size=(60, 60)))[0] for _ in range(2))
    x = ((u * np.logspace(0, -5, 60)) @ v).astype(np.float32)
    exact = nearest(torch.from_numpy(x).double()).numpy()
    single = nearest(torch.from_numpy(x)).numpy()
    mean = np.linalg.svd(x.astype(np.float64), compute_uv=False).mean()
    ours = np.abs(tv.iso_c.fn(x) / mean - exact).max()
    assert ours < np.abs(single - exact).max() and ours < 1e-6
