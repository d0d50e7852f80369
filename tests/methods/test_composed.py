"""Names for what several methods say together: each is the expression that it stands for."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import MassError, RecipeError

SHAPES = {"layers.0.mlp.w": (5, 4), "layers.1.mlp.w": (5, 4), "layers.1.attn.w": (4, 4), "head": (7,)}


def arrays(seed):
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s).astype("f4") for n, s in SHAPES.items()}


A, B, BASE = (tv.from_arrays(arrays(k), n) for k, n in enumerate(("a", "b", "base")))
TAUS = A - BASE, B - BASE


@pytest.mark.parametrize(
    ("composed", "wanted"),
    [
        (tv.ties(*TAUS), tv.elect(*(tv.trim(t, density=0.2, scope="model") for t in TAUS))),
        (
            tv.ties(*TAUS, density=0.4, scope="tensor", reduce="sum", vote="count"),
            tv.elect(*(tv.trim(t, density=0.4, scope="tensor") for t in TAUS), reduce="sum", vote="count"),
        ),
        (tv.dare_ties(*TAUS), tv.elect(*(tv.dare(t, drop=0.5, seed=k) for k, t in enumerate(TAUS)))),
        (
            tv.dare_ties(*TAUS, seed=7, drop=0.9),
            tv.elect(*(tv.dare(t, drop=0.9, seed=7 + k) for k, t in enumerate(TAUS))),
        ),
        (
            tv.della_ties(*TAUS, seed=3, density=0.5, epsilon=0.2, vote="count"),
            tv.elect(*(tv.della(t, seed=3 + k, density=0.5, epsilon=0.2) for k, t in enumerate(TAUS)), vote="count"),
        ),
        (tv.model_stock(BASE, A, B), BASE + tv.stock(*TAUS)),
        (tv.model_stock(BASE, A, B, scope="row", floor=1), BASE + tv.stock(*TAUS, scope="row", floor=1)),
        (tv.patch(BASE, A, "*.mlp.*"), BASE + tv.only("*.mlp.*") * (A - BASE)),
        (tv.lines(TAUS[0]), tv.layers(0.1, 1, outside=0.1) * TAUS[0]),
        (tv.lines(TAUS[0], alpha=0.5, beta=0.25), tv.layers(0.5, 0.75, outside=0.5) * TAUS[0]),
    ],
)  # fmt: skip
def test_it_is_the_expression_that_its_docstring_says(composed, wanted):
    assert composed == wanted and hash(composed) == hash(wanted)


def test_a_stock_is_of_two_models_at_least():
    with pytest.raises(RecipeError, match="a base and at least two models, not 1"):
        tv.model_stock(BASE, A)


def test_lines_takes_one_vector_and_waits_for_knobs():
    with pytest.raises(MassError, match=r"works on a task vector .* subtract its base"):
        tv.lines(A)
    with pytest.raises(RecipeError, match="not on float; parameters have names"):
        tv.lines(0.5)
    free = tv.parse("lines(a - x*base)", a=A, base=BASE)
    assert free.bind(x=1) == tv.lines(TAUS[0])


def test_in_python_wrong_arguments_of_composed_methods_are_stated_errors_too():
    tau, m = (tv.from_arrays({"w": np.ones(3, np.float32)}, name, mass) for name, mass in (("tau", 0), ("m", 1)))
    for call, message in (
        (lambda: tv.ties(tau, densty=0.2), "ties has no parameter densty .did you mean density"),
        (lambda: tv.della_ties(tau, drop=0.2), "della_ties has no parameter drop; it has density, epsilon, seed"),
        (lambda: tv.lines(tau, 0.1), "lines: too many positional arguments"),
        (lambda: tv.patch(m), "patch: missing a required argument: 'model'"),
        (lambda: tv.dare_ties(tau, tau, seed="one"), "seed is a number, not str"),
    ):
        with pytest.raises(RecipeError, match=message):
            call()
    assert tv.lines(tau=tau) == tv.lines(tau)


def test_patch_takes_those_tensors_exactly_and_is_the_expression_it_says():
    base, other = tv.from_arrays(arrays(0), "base"), tv.from_arrays(arrays(1), "other")
    patched = tv.patch(base, other, "*.mlp.*", "head")
    assert patched == base + tv.only("*.mlp.*", "head") * (other - base) and patched.mass == 1
    assert tv.parse('patch(base, other, "*.mlp.*", "head")', base=base, other=other) == patched
    for name in SHAPES:
        source = other if ".mlp." in name or name == "head" else base
        assert np.array_equal(patched[name], source[name]), name


def test_patch_refuses_patterns_that_fit_nothing_and_what_is_no_model():
    base, other = tv.from_arrays(arrays(0), "base"), tv.from_arrays(arrays(1), "other")
    with pytest.raises(RecipeError, match=r"no tensor fits \*\.mpl\.\*"):
        tv.patch(base, other, "*.mlp.*", "*.mpl.*")
    with pytest.raises(RecipeError, match="patterns are texts"):
        tv.patch(base, other)
    with pytest.raises(RecipeError, match="takes a base, a model and patterns, not str"):
        tv.patch(base, "*.mlp.*")
    with pytest.raises(MassError, match="differs from tensor to tensor"):
        tv.patch(base, other - base, "*.mlp.*").kind()
