"""Sparsifiers and the election with mergekit's options, each against eager lines.

test_parity.py compares with mergekit's own output.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from method_arrays import UNEVEN, arrays, eagerly, made, same

from taskvec.errors import RecipeError
from taskvec.methods.core import counting
from taskvec.methods.core.counting import Guess


@pytest.fixture(params=[False, True], ids=["fine", "coarse"])
def taus(request):
    return [arrays(seed, coarse=request.param, shapes=UNEVEN) for seed in (1, 2, 3)]


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
    merged = made(f'elect({parts}, weights={weights}, vote="{vote}", tie="{tie}")', taus)
    same(merged, eagerly(scaled, normalised, weights, vote == "count", tie == "plus"), 2e-6)


def test_weights_of_one_are_the_mean_and_a_sum_has_no_divisor(taus):
    same(made("elect(t0, t1, t2, weights=(1, 1, 1))", taus), made("elect(t0, t1, t2)", taus))
    with pytest.raises(RecipeError, match="divisor of the mean"):
        made('elect(t0, t1, t2, weights=(1, 1, 1), reduce="sum")', taus)


def ranked(values):
    """Positions from the largest magnitude to the smallest, of equal ones the first position first."""
    return np.lexsort((np.arange(values.size), -np.abs(values.ravel())))


def only_at(values, places):
    kept = np.zeros_like(values)
    kept.ravel()[places] = values.ravel()[places]
    return kept


@pytest.mark.parametrize("density", [0.001, 0.05, 0.3, 0.77, 1])
def test_trim_keeps_exactly_k_and_of_equals_the_first(taus, density):
    sparse = made(f'trim(t0, density={density}, scope="tensor", ties="first", least=1)', taus)
    right = {k: only_at(v, ranked(v)[: max(1, int(density * v.size))]) for k, v in taus[0].items()}
    same(sparse, right)
    whole = np.concatenate([taus[0][k].ravel() for k in sorted(UNEVEN)])
    sparse = made(f'trim(t0, density={density}, ties="first")', taus)
    right = only_at(whole, ranked(whole)[: int(density * whole.size)])
    assert np.array_equal(np.concatenate([sparse[k].ravel() for k in sorted(UNEVEN)]), right)


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
    sparse = made(f'breadcrumbs(t0, density={density}, gamma={gamma}, outliers="spare", ties="first")', taus)
    for name, tau in taus[0].items():
        kept, top = int(density * tau.size), int(gamma * tau.size)
        bottom = max(0, tau.size - kept - top)
        ascending = ranked(tau)[::-1]
        same({name: sparse[name]}, {name: only_at(tau, ascending[bottom : bottom + kept])})


few_values = hnp.arrays(np.float32, st.integers(1, 60), elements=st.sampled_from([-2.0, -1, -0.5, 0, 0.5, 1, 2]))


@given(few_values, st.integers(1, 100), st.integers(0, 100), st.sampled_from(["all", "spare"]))
def test_of_equal_entries_the_first_are_the_larger_ones(values, density, gamma, outliers):
    """Exactly floor(gamma n) go, exactly floor(density n) of the others stay, or as many as there are."""
    options = f'density={density / 100}, gamma={gamma / 100}, outliers="{outliers}", ties="first"'
    sparse = made(f"breadcrumbs(t0, {options})", [{"w": values}])["w"]
    kept, gone = int(density / 100 * values.size), int(gamma / 100 * values.size)
    gone = min(gone, values.size - kept) if outliers == "spare" else gone
    assert np.array_equal(sparse, only_at(values, ranked(values)[gone : gone + kept]))


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
    rescaled, plain = made(recipe % ', rescale="l1"', taus), made(recipe % ', rescale="none"', taus)
    for name, tau in taus[0].items():
        scale = l1(tau) / l1(plain[name]) if l1(plain[name]) else 1
        np.testing.assert_allclose(rescaled[name], plain[name] * scale, rtol=1e-6)
        assert set(np.unique(plain[name])) <= {0, *np.unique(tau)}


def test_della_says_mergekits_window_as_twice_its_half():
    """mergekit: keep probabilities from density - epsilon for the smallest of a row to density + epsilon."""
    tau = {"w": np.tile(np.arange(1, 6, dtype=np.float32), (40_000, 1))}
    sparse = made('della(t0, density=0.5, epsilon=0.3, rescale="none", seed=1)', [tau])["w"]
    assert np.allclose((sparse != 0).mean(0), np.linspace(0.35, 0.65, 5), atol=0.015)


@pytest.mark.parametrize("recipe", [r for r in SPARSE if "della" not in r])
def test_a_tensor_without_elements_does_no_harm(recipe):
    tau = {"none": np.zeros((0, 4), np.float32), "w": arrays(1, shapes=UNEVEN)["one"]}
    assert made(recipe % ', rescale="l1"', [tau]).keys() == tau.keys()
