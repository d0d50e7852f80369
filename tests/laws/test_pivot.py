"""Sums are computed around a pivot: what nobody moved keeps its bits, and small differences are exact."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import taskvec as tv

DTYPES = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
N = 4000


def normal(seed, scale=0.02, n=N):
    return np.random.default_rng(seed).standard_normal(n) * scale


def tuned(base, seed, step=2e-6, dtype=np.float32):
    """A fine-tuned model: every other entry moved by about `step`, the others as they were."""
    moved = base.astype(np.float64).copy()
    moved[::2] += normal(seed, step, len(moved[::2]))
    return moved.astype(dtype)


def model(values, name):
    return tv.from_arrays({"w": values}, name)


def vector(values, name):
    return tv.from_arrays({"w": values}, name, mass=0)


scales = st.fractions(-2, 2, max_denominator=20)


@given(st.lists(scales, min_size=1, max_size=5), st.sampled_from(sorted(DTYPES)))
def test_what_nobody_moved_keeps_its_bits(lams, dtype):
    values = normal(1).astype(DTYPES[dtype])
    base, *others = (model(values.copy(), name) for name in ("base", *(f"m{k}" for k in range(len(lams)))))
    # Equal arrays of different names are different sources.
    merged = base + sum((lam * (m - base) for lam, m in zip(lams, others, strict=True)), tv.Weights({}))
    assert np.array_equal(merged["w"], values.astype(merged["w"].dtype))
    assert not (merged - base)["w"].any()


@given(st.lists(scales, min_size=2, max_size=5).filter(lambda numbers: sum(numbers) != 0))
def test_an_average_of_equal_models_is_that_model(shares):
    values = normal(2).astype(np.float32)
    parts = [Fraction(c) / sum(shares) * model(values.copy(), f"m{k}") for k, c in enumerate(shares)]
    assert np.array_equal(sum(parts, tv.Weights({}))["w"], values)


@given(st.lists(scales.filter(bool), min_size=1, max_size=3))
def test_a_vector_of_another_family_leaves_alone_what_it_did_not_move(lams):
    """target + lam*(chat - base): where chat is base, target stays, though base is another model altogether."""
    values, family = normal(3).astype(np.float32), normal(4).astype(np.float32)
    target, base = model(values, "target"), model(family, "base")
    chats = [model(family.copy(), f"chat{k}") for k in range(len(lams))]
    merged = target + sum((lam * (c - base) for lam, c in zip(lams, chats, strict=True)), tv.Weights({}))
    if set(merged.terms.values()) >= {1} and sum(c == 1 for c in merged.terms.values()) == 1:
        assert np.array_equal(merged["w"], values)
    else:  # two models stand there as they are: which of them is the target cannot be told
        assert np.abs(merged["w"] - values).max() <= np.spacing(np.abs(values).max() + np.abs(family).max())


@pytest.mark.parametrize("step", [2e-4, 2e-5, 2e-6])
def test_a_scaled_difference_is_as_exact_as_its_own_size_allows(step):
    base = normal(5).astype(np.float32)
    fine = tuned(base, 6, step)
    scaled = (0.3 * (model(fine, "fine") - model(base, "base")))["w"]
    exact = 0.3 * (fine.astype(np.float64) - base)
    assert np.abs(scaled - exact).max() <= 2**-23 * np.abs(exact).max()
    assert np.array_equal(np.sign(scaled), np.sign(exact))


@given(st.floats(0.01, 3))
def test_opposite_steps_of_16_bit_models_vote_alike(lam):
    base = normal(7).astype(ml_dtypes.bfloat16)
    up = tuned(base, 8, 1e-3, ml_dtypes.bfloat16)
    step = up.astype(np.float32) - base.astype(np.float32)
    down = base.astype(np.float32) - step
    even = down.astype(ml_dtypes.bfloat16).astype(np.float32) == down
    first, second = (model(v, n) for v, n in ((up, "up"), (down.astype(ml_dtypes.bfloat16), "down")))
    ground = model(base, "base")
    both = lam * (first - ground), lam * (second - ground)
    assert not (both[0] + both[1])["w"][even].any()
    assert not tv.elect(*both)["w"][even].any()  # nobody is elected, since the votes are equal


def test_a_stored_difference_adds_to_the_base_as_the_model_does():
    for dtype in (np.float16, ml_dtypes.bfloat16):
        base = normal(9).astype(dtype)
        fine = tuned(base, 10, 1e-3, dtype)
        stored = vector(fine.astype(np.float32) - base.astype(np.float32), "stored")
        b, m = model(base, "base"), model(fine, "fine")
        for lam in (0.1, 0.3, 0.5):  # up to a half the base is the pivot
            assert np.array_equal((b + lam * stored)["w"], (b + lam * (m - b))["w"])


@given(st.permutations(["base", "a", "b", "c"]))
def test_the_order_in_which_a_sum_is_written_changes_no_bit(order):
    values = normal(11).astype(np.float32)
    models = {n: model(tuned(values, k), n) for k, n in enumerate(["base", "a", "b", "c"], 12)}
    numbers = {"base": Fraction(-1, 10), "a": Fraction(3, 10), "b": Fraction(4, 10), "c": Fraction(4, 10)}
    summed = sum((numbers[n] * models[n] for n in order), tv.Weights({}))
    wanted = sum((numbers[n] * models[n] for n in models), tv.Weights({}))
    assert np.array_equal(summed["w"], wanted["w"])


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_negative_zero_that_nobody_moved_stays_one(dtype):
    values = np.array([-0.0, 0.0, 1.0, -0.0]).astype(DTYPES[dtype])
    b, m = model(values, "base"), model(np.array([-0.0, 0.0, 2.0, 0.0]).astype(DTYPES[dtype]), "m")
    zero = vector(np.zeros(4, np.float32), "zero")
    other, chat = (
        model(normal(30, n=4).astype(DTYPES[dtype]), "other"),
        model(normal(30, n=4).astype(DTYPES[dtype]), "c"),
    )
    for merged in (b + 0.3 * (m - b), b - 0.3 * (m - b), b + zero, b + 0.5 * zero, b + 0.3 * (chat - other)):
        assert np.signbit(merged["w"][:2]).tolist() == [True, False]
    assert np.signbit((b + tv.trim(m - b))["w"][:2]).tolist() == [True, False]


def test_infinities_that_all_models_share_stay(tmp_path):
    mask = np.where(np.tri(8) > 0, 0, -np.inf).astype(np.float32)
    models = [tv.from_arrays({"mask": mask.copy(), "w": normal(k).astype(np.float32)}, f"m{k}") for k in (20, 21)]
    tv.save(0.5 * models[0] + 0.5 * models[1], tmp_path / "out", allow_nonfinite=True)
    assert np.array_equal(tv.load(tmp_path / "out")["mask"], mask)


@pytest.mark.parametrize("scope", ["row", "column"])
def test_sums_by_rows_and_columns_keep_what_nobody_moved_too(scope):
    a = np.array([[-0.0, 0.3], [1.5, -2.0]], np.float32)
    call = tv.nuslerp(*(tv.from_arrays({"w": a.copy()}, n) for n in "ab"), scope=scope)
    assert np.array_equal(call["w"].view(np.uint32), a.view(np.uint32))
    large = [tv.from_arrays({"w": np.full((2, 2), v, np.float32)}, f"m{v:g}") for v in (3e38, -3e38)]
    assert not tv.nuslerp(*large, scope=scope)["w"].any()


def test_more_sources_than_a_kernel_takes_are_a_stated_error(monkeypatch):
    monkeypatch.setattr("taskvec.algebra.program.MOST_INPUTS", 3)
    models = [model(normal(k, n=4).astype(np.float32), f"m{k}") for k in range(4)]
    with pytest.raises(tv.TaskvecError, match="at most 3 sources, not 4"):
        sum(models, tv.Weights({}))["w"]
