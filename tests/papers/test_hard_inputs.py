"""Every elementwise method, and those of norms and spectra, on numbers and shapes that are hard, beside float64.

Vectors that are zero, equal or opposite, of magnitudes whose squares float32 cannot hold; one of them and fifty;
tensors without elements, of one, without axes, and with up to four.
"""

import re

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import NonFiniteError, RecipeError

SHAPES = {
    "m.w": (5, 7), "scalar": (), "none": (0,), "none of four": (0, 4), "four of none": (4, 0), "one": (1,), "b": (7,),
    "kernel": (3, 2, 2, 2), "experts": (3, 4, 5), "row": (1, 9), "column": (9, 1),
}  # fmt: skip


def scaled(size):
    return lambda rng, shape, k: (size * rng.standard_normal(shape)).astype(np.float32)


KINDS = {
    "plain": scaled(1), "small": scaled(1e-10), "tiny": scaled(1e-25), "below the normal numbers": scaled(1e-41),
    "large": scaled(1e19), "huge": scaled(1e30),
    "zero": lambda rng, shape, k: np.zeros(shape, np.float32),
    "one of them zero": lambda rng, shape, k: (rng.standard_normal(shape) * (k != 1)).astype(np.float32),
    "equal": lambda rng, shape, k: np.random.default_rng(9).standard_normal(shape).astype(np.float32),
    "opposite": lambda rng, shape, k: (-1) ** k * np.random.default_rng(9).standard_normal(shape).astype(np.float32),
    "constant": lambda rng, shape, k: np.ones(shape, np.float32),
    "of all sizes": lambda rng, shape, k: np.float32(rng.standard_normal(shape) * 10.0 ** rng.integers(-20, 20, shape)),
    "far apart": lambda rng, shape, k: (rng.standard_normal(shape) * 1e20 ** (1 - k)).astype(np.float32),
}  # fmt: skip


# ---- the methods in float64, of one tensor of all vectors, x: (n, *shape) ------------------------------------------
def elect(x):
    agree = x * np.sign(x.sum(0)) > 0
    return np.where(agree, x, 0).sum(0) / np.maximum(1, agree.sum(0))


def unified(x):
    sign = np.sign(x.sum(0))
    return sign * np.maximum(0, x * sign).max(0)


def magmax(x):
    return np.take_along_axis(x, np.abs(x).argmax(0)[None], 0)[0]


def consensus(x):
    return np.where(sum(np.abs(tau) >= 0.6 * np.abs(x.sum(0) - tau) for tau in x) >= 2, x.sum(0), 0)


def onto(x, low, high):
    return (x >= low) * (low > 0) if low == high else np.clip((x - low) / (high - low), 0, 1)


def between(x, low, high):
    ordered = np.sort(x.ravel())
    return ordered[min(int(x.size * low), x.size - 1)], ordered[int(x.size * (1 - high) - 1)]


def pcb(x):
    weighted = weight = np.zeros(x.shape[1:])
    for tau in x:
        size = np.clip(np.abs(tau), *between(np.abs(tau), 1e-4, 1e-4))
        score = np.exp(len(x) * (onto(size, size.min(), size.max()) ** 2 - 1)) * np.tanh(tau * x.sum(0))
        score = onto(score, *between(score, 0.9, 0))
        weighted, weight = weighted + score * np.sign(tau) * size, weight + score
    return weighted / np.maximum(weight, 1e-12)


def sce(x):
    squares = (x.reshape(len(x), -1) ** 2).mean(1)
    shares = squares / squares.sum() if squares.sum() else np.full(len(x), 1 / len(x))
    shares = shares.reshape((-1,) + (1,) * (x.ndim - 1))
    agree = x * np.sign(x.sum(0)) > 0
    return np.where(agree, shares * x, 0).sum(0) / np.maximum(1e-6, (agree * shares).sum(0))


def ram(x):
    active = np.abs(x) > np.float32(1e-5)
    return np.where(active, x, 0).sum(0) / np.maximum(1, active.sum(0))


def stock(x):
    norms, n = [np.linalg.norm(tau) for tau in x], len(x)
    pairs = [(i, j) for i in range(n) for j in range(i)]
    cosine = np.mean([(x[i] * x[j]).sum() / (norms[i] * norms[j] or 1) for i, j in pairs])
    below = 1 + (n - 1) * cosine
    return (0 if abs(below) < 1e-6 else n * cosine / below) * x.mean(0)


def metagpt(x):
    squares = [(tau**2).sum() for tau in x]
    return sum(s / (sum(squares) or 1) * tau for s, tau in zip(squares, x, strict=True))


def iso_c(x):
    if x.ndim != 3:
        return x.mean(0)
    u, s, v = np.linalg.svd(x.sum(0), full_matrices=False)
    live = s > 1e-6 * s[0]
    return s.mean() * (u[:, live] @ v[live])


METHODS = {
    "elect(%s)": elect, "unified(%s)": unified, "magmax(%s)": magmax, "consensus(%s)": consensus, "pcb(%s)": pcb,
    "sce(%s)": sce, "ram(%s)": ram, "stock(%s)": stock, 'metagpt(%s, scope="tensor")': metagpt, "iso_c(%s)": iso_c,
}  # fmt: skip


def compared(recipe, reference, vectors):
    """The method over arrays in memory, beside the eager function in float64."""
    known = {f"t{k}": tv.from_arrays(tau, f"t{k}", mass=0) for k, tau in enumerate(vectors)}
    merged = tv.parse(recipe % ", ".join(known), **known)
    for name, shape in SHAPES.items():
        wanted = reference(np.stack([tau[name].astype(np.float64) for tau in vectors])) if 0 not in shape else 0
        assert merged[name].shape == shape
        assert np.abs(merged[name] - wanted).max(initial=0) <= 1e-5 * np.abs(wanted).max(initial=0) + 4e-45, name


@pytest.mark.parametrize("recipe", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_hard_numbers_give_what_float64_gives(kind, recipe):
    if kind == "below the normal numbers" and recipe.startswith("pcb"):
        pytest.skip("which entries have the highest scores is a matter of rounding there")
    rng = np.random.default_rng(1)
    vectors = [{name: np.asarray(KINDS[kind](rng, shape, k)) for name, shape in SHAPES.items()} for k in range(3)]
    compared(recipe, METHODS[recipe], vectors)


@pytest.mark.parametrize("count", [1, 2, 50])
@pytest.mark.parametrize("recipe", METHODS)
def test_one_vector_two_and_fifty(recipe, count):
    if count == 1 and recipe.split("(")[0] in ("consensus", "pcb", "stock", "metagpt"):
        pytest.skip("takes two or more")
    rng = np.random.default_rng(count)
    vectors = [{n: np.asarray(rng.standard_normal(s), np.float32) for n, s in SHAPES.items()} for _ in range(count)]
    compared(recipe, METHODS[recipe], vectors)


EVERY = [
    "trim(a)", 'trim(a, scope="tensor", rescale="l1")', "breadcrumbs(a)", 'breadcrumbs(a, scope="row")',
    'breadcrumbs(a, scope="row", rescale="l1")', "dare(a)", 'dare(a, rescale="l1")', "della(a)",
    'della(a, rescale="l1")', 'della(a, rows="first")', "random_like(a)", "elect(a, b)", "unified(a, b)",
    "magmax(a, b)", "consensus(a, b)", "pcb(a, b)", "nearswap(a, b)", "arcee_fusion(base, base + a)", "sce(a, b)",
    "sce(a, b, select=0.5)", "ram(a, b)", "ramplus(a, b)", "low_rank(a, rank=1)", "iso_c(a, b)", "tsv_m(a, b)",
    "iso_cts(a, b)", "knots(a, b)", "svc(a, b)", "freeze_conflicts(a, b)", "lines(a)", "ties(a, b)",
    "fisher(base + a, base + b, fa, fb)", "regmean(base + a, base + b, ga, gb)",
    "slerp(a, b)", "nuslerp(a, b)", "geometric_median(a, b)", "stock(a, b)", "metagpt(a, b)", "multislerp(a, b)",
    "norm_matched(a)", "norm_matched(a, b)", "karcher(a, b)", "multislerp(a, b, c)",
]  # fmt: skip


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("recipe", EVERY)
def test_a_number_that_is_none_is_never_lost(recipe, bad, tmp_path):
    """In any argument: the error names its tensor, whatever a method would have dropped or left out."""
    rng = np.random.default_rng(2)
    words = {*re.findall(r"\b\w+\b", re.sub(r'"[^"]*"', "", recipe))}
    for spoilt in sorted(words & {"a", "b", "c", "base", "fa", "ga"}):
        arrays = {
            w: {n: rng.standard_normal(s).astype("f4") for n, s in {"l.w": (6, 8), "n": (8,)}.items()} for w in words
        }
        for w in words & {"ga", "gb"}:
            arrays[w] = {"l.w": np.eye(8, dtype=np.float32)}
        arrays[spoilt]["l.w"][2, 3] = bad
        known = {
            w: tv.from_arrays(
                arrays[w],
                w,
                mass=int(w == "base"),
                statistic={"f": "fisher", "g": "gram"}.get(w[0] * (len(w) == 2), ""),
            )
            for w in words & {"a", "b", "c", "base", "fa", "fb", "ga", "gb"}
        }
        with pytest.raises(NonFiniteError, match=r"l\.w"):
            tv.save(tv.parse(recipe, **known), tmp_path / "out")


@pytest.mark.parametrize("seed", ["0.5", str(2**60)])
def test_a_seed_is_a_whole_number_that_a_float_can_hold(seed):
    tau = tv.from_arrays({"w": np.ones(3, np.float32)}, "t", mass=0)
    for method in ("dare", "della", "random_like"):
        with pytest.raises(RecipeError, match="seed must lie in"):
            tv.parse(f"{method}(t, seed={seed})", t=tau)
