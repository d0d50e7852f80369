"""Weights are a vector space, exactly: the laws that let an expression be a dict."""

import copy
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import taskvec as tv
from taskvec.algebra.coefficients import Coefficient
from taskvec.algebra.weights import Weights
from taskvec.errors import RecipeError, UnboundKnob
from taskvec.recipes.recipe import FUNCTIONS, written

NAMES = ("embed.weight", "layers.0.mlp.up", "layers.0.attn.q", "layers.1.mlp.up", "layers.1.attn.q", "norm")


def model(name: str, seed: int, mass: int = 1) -> Weights:
    rng = np.random.default_rng(seed)
    return tv.from_arrays({n: rng.standard_normal((3, 4)).astype(np.float32) for n in NAMES}, name, mass)


SOURCES = {
    "base": model("base", 0),
    "math": model("math", 1),
    "code": model("code", 2),
    "lora": model("lora", 3, mass=0),
}

numbers = st.one_of(
    st.integers(-3, 3),
    st.decimals(-2, 2, places=3).map(float),
    st.fractions(-2, 2, max_denominator=12),
    st.floats(-1e6, 1e6, allow_nan=False),
)
factors = st.one_of(
    st.sampled_from(["lam", "mu"]).map(tv.knob),
    st.sampled_from([tv.only("*.mlp.*"), tv.without("norm", "embed.*"), tv.only("layers.0.*")]),
    st.builds(lambda a, b: tv.per({"*.attn.*": a, "*": b}), numbers, numbers),
    st.builds(lambda a, b: tv.layers(a, b, outside=1), numbers, numbers),
)
coefficients = st.recursive(
    st.one_of(numbers.map(Coefficient.of), factors),
    lambda inner: st.one_of(st.builds(lambda a, b: a + b, inner, inner), st.builds(lambda a, b: a * b, inner, inner)),
    max_leaves=4,
)
weights = st.recursive(
    st.sampled_from(list(SOURCES.values())),
    lambda inner: st.one_of(
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda a, b: a - b, inner, inner),
        st.builds(lambda c, a: c * a, coefficients, inner),
    ),
    max_leaves=6,
)


@given(weights, weights)
def test_addition_commutes(a, b):
    assert a + b == b + a


@given(weights, weights, weights)
def test_addition_associates_exactly(a, b, c):
    assert (a + b) + c == a + (b + c)


@given(coefficients, weights, weights)
def test_scaling_distributes_over_sums_of_weights(c, a, b):
    assert c * (a + b) == c * a + c * b


@given(coefficients, coefficients, weights)
def test_scaling_distributes_over_sums_of_coefficients(c, d, a):
    assert (c + d) * a == c * a + d * a
    assert c * (d * a) == (c * d) * a


@given(weights)
def test_every_expression_has_its_opposite(a):
    assert not (a - a).terms
    assert 0 * a - (0 * a - a) == a
    assert (-a) * -1 == a
    assert a + 0 * a == a


@given(st.sampled_from(["base", "math", "code"]), st.sampled_from(["base", "math", "code"]))
def test_adding_a_difference_gives_the_model_back(base, tuned):
    b, m = SOURCES[base], SOURCES[tuned]
    assert b + (m - b) == m
    assert all(np.array_equal((b + (m - b))[n], m[n]) for n in NAMES)


@given(weights)
@settings(max_examples=300)
def test_text_reads_back_as_the_same_expression(w):
    text = str(w)
    if text == "0":
        return
    used = {name: source for name, source in SOURCES.items() if next(iter(source.terms)) in w.terms}
    assert tv.parse(text, **used) == w
    assert str(tv.parse(text, **used)) == text


@given(numbers.filter(bool), numbers.filter(bool))
def test_mass_is_linear_and_exact(x, y):
    b, m, v = SOURCES["base"], SOURCES["math"], SOURCES["lora"]
    assert (x * b + y * m + y * v).mass == (Coefficient.of(x) + Coefficient.of(y)).constant
    assert (b + x * (m - b) + y * v).mass == 1
    assert (x * (m - b)).mass == 0


def test_coefficients_are_the_numbers_that_were_written():
    b, m, c, t = (model(n, k) for k, n in enumerate("bmct"))
    w = b + 0.4 * (m - b) + 0.4 * (c - b) - 0.3 * (t - b)
    assert str(w) == "0.5*b + 0.4*m + 0.4*c - 0.3*t"
    assert ((b + m + c) / 3).terms[next(iter(b.terms))].constant == Fraction(1, 3)


@given(weights, st.fractions(-1, 1, max_denominator=8), st.fractions(-1, 1, max_denominator=8))
def test_values_are_those_of_the_eager_sum(w, lam, mu):
    bound = w.bind(**{k: v for k, v in {"lam": lam, "mu": mu}.items() if k in w.knobs})
    for name in NAMES if bound.terms else ():
        place = bound.places[name]
        exact = sum(float(c.at(place)) * SOURCES[s.text][name].astype(np.float64) for s, c in bound.terms.items())
        size = sum(abs(float(c.at(place))) * np.abs(SOURCES[s.text][name]) for s, c in bound.terms.items())
        assert np.all(np.abs(bound[name] - exact) <= 1e-6 * size + 1e-30)


@given(st.permutations(["base", "math", "code", "lora"]), st.lists(numbers, min_size=4, max_size=4))
def test_the_order_of_mention_does_not_change_a_bit(order, scales):
    amount = dict(zip(["base", "math", "code", "lora"], scales, strict=True))
    one = sum((amount[n] * SOURCES[n] for n in amount), Weights({}))
    two = sum((amount[n] * SOURCES[n] for n in order), Weights({}))
    assert all(np.array_equal(one[n], two[n]) for n in NAMES)


def test_filters_are_zero_or_one_and_complete():
    assert tv.only("*.mlp.*") + tv.without("*.mlp.*") == 1
    assert tv.only("a", "b") * tv.only("b", "a") == tv.only("a", "b")
    b, m = SOURCES["base"], SOURCES["math"]
    w = b + tv.only("*.mlp.*") * (m - b)
    assert np.array_equal(w["layers.0.mlp.up"], m["layers.0.mlp.up"])
    assert np.array_equal(w["norm"], b["norm"])


def test_a_gradient_runs_from_the_first_layer_to_the_last():
    b, m = SOURCES["base"], SOURCES["math"]
    w = b + tv.layers(0, 1, outside=0.5) * (m - b)
    assert np.array_equal(w["layers.0.mlp.up"], b["layers.0.mlp.up"])
    assert np.array_equal(w["layers.1.mlp.up"], m["layers.1.mlp.up"])
    assert np.array_equal(w["norm"], (0.5 * b + 0.5 * m)["norm"])


def test_knobs_are_bound_by_name_and_needed_for_values():
    w = tv.parse("base + lam*(math - base)", base=SOURCES["base"], math=SOURCES["math"])
    assert w.knobs == {"lam"}
    with pytest.raises(UnboundKnob, match="lam"):
        w["norm"]
    with pytest.raises(UnboundKnob, match="mu"):
        w.bind(mu=1)
    assert w.bind(lam=1) == SOURCES["math"]


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.int8, np.float16])
def test_numbers_of_numpy_are_numbers_on_either_side(kind):
    w, lam = SOURCES["lora"], tv.knob("lam")
    assert kind(2) * w == w * kind(2) == 2 * w and w / kind(2) == 0.5 * w
    assert kind(2) * lam == lam * kind(2) == 2 * lam and kind(2) + lam == lam + kind(2) and kind(2) - lam == 2 - lam
    assert kind(1) / lam == 1 / lam and Coefficient.of(kind(2)) == kind(2) and str(kind(2) * w) == "2*lora"
    assert w.bind() == w and (lam * w).bind(lam=kind(2)) == 2 * w
    assert lam != float("nan")


def test_weights_are_copied_and_an_error_says_what_to_send_in_their_place():
    w = SOURCES["base"] + 0.5 * SOURCES["lora"]
    assert copy.copy(w) == copy.deepcopy(w) == copy.deepcopy({"w": w})["w"] == w
    with pytest.raises(TypeError, match="send their text"):
        pickle.dumps(w)


def test_a_knob_has_a_name_that_the_text_reads_back():
    for name in ("for", "lambda", "a b", "1"):
        with pytest.raises(RecipeError, match="must be an identifier"):
            tv.knob(name)
    for name in ("λ", "\ufb01x", "lam"):  # Python's parser reads the ligature as two letters
        w = tv.knob(name) * SOURCES["base"]
        assert tv.parse(str(w), base=SOURCES["base"]) == w


def test_slips_of_types_are_stated_errors(tmp_path):
    base = SOURCES["base"]
    for call in (
        lambda: tv.parse(None), lambda: tv.parse(5), lambda: tv.save("base", tmp_path / "x"),
        lambda: tv.plan(base, like="base"), lambda: tv.plan(base, threads=0), lambda: tv.plan(base, dtype=np.int8),
        lambda: tv.from_arrays({"w": np.ones(2)}, mass=2), lambda: tv.plan(base, shard_size=-1.0),
    ):  # fmt: skip
        with pytest.raises(tv.TaskvecError):
            call()
    assert tv.plan(base, shard_size=1e9, ram=1e9).shards == tv.plan(base, shard_size="1GB").shards
    for dtype in (np.float16, np.dtype("float16"), "float16", "torch.float16"):
        assert {spec.dtype for spec in tv.plan(base, dtype=dtype).specs.values()} == {"F16"}
    assert tv.take_layers(base, np.int64(0), np.int8(1)) == tv.take_layers(base, 0, 1)


def test_models_in_folders_that_are_called_like_functions_have_names_that_a_recipe_reads(tmp_path, build):
    for seed, name in enumerate(("ties", "load", "for", "ties_2")):
        build.model(tmp_path / name, build.tensors(seed))
    w = sum(tv.load(tmp_path / name) for name in ("ties", "load", "for", "ties_2")) / 4
    saved = tv.save(w, tmp_path / "out")
    given = {name: tv.Weights({source: 1}) for source, name in w.names(FUNCTIONS).items()}
    assert tv.parse(saved.recipe, **given) == w == tv.parse(written(w))
    assert tv.plan(w).as_dict()["recipe"] == saved.recipe
