"""An expression as a dict: what it is, what it reads, and how it is written."""

from fractions import Fraction

import numpy as np
import pytest

import taskvec as tv
from taskvec.algebra.weights import Weights
from taskvec.errors import FingerprintError, MassError, MismatchError, RecipeError, UnboundKnob
from taskvec.sources.in_memory import ArraySource
from taskvec.sources.positions import Place
from taskvec.sources.source import Spec

NAMES = ("embed.weight", "layers.0.mlp.up", "layers.1.mlp.up", "norm")


def model(name, seed, mass=1, **options):
    rng = np.random.default_rng(seed)
    return tv.from_arrays({n: rng.standard_normal((3, 4)).astype(np.float32) for n in NAMES}, name, mass, **options)


B, M, C, V = model("base", 0), model("math", 1), model("code", 2), model("lora", 3, mass=0)
SOURCES = {"base": B, "math": M, "code": C, "lora": V}


def test_rows_are_rows_of_the_whole():
    w = SOURCES["base"] + 0.3 * SOURCES["lora"]
    assert np.array_equal(w.read("norm", slice(1, 3)), w["norm"][1:3])
    assert w.read("norm", slice(3, 3)).shape == (0, 4)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), True, "0.3", None])
def test_what_is_no_number_cannot_scale(scale):
    with pytest.raises(RecipeError):
        SOURCES["base"] * scale


def test_mass_two_says_what_to_do():
    with pytest.raises(MassError, match="Subtract a base"):
        (SOURCES["base"] + SOURCES["math"]).kind()
    with pytest.raises(MassError, match="mass 1 at"):
        (tv.only("*.mlp.*") * SOURCES["base"]).kind()


def test_a_partition_of_models_by_filters_is_a_model():
    w = tv.only("*.mlp.*") * SOURCES["math"] + tv.without("*.mlp.*") * SOURCES["code"]
    assert w.kind() == 1


def test_a_range_of_rows_may_have_a_step():
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    weights = tv.from_arrays({"w": values, "i": np.arange(6)})
    for rows in (slice(None, None, 2), slice(4, 1, -1), slice(1, 5, 1)):
        assert np.array_equal(weights.read("w", rows), values[rows])
        assert np.array_equal(weights.read("i", rows), np.arange(6)[rows])


def test_arrays_of_one_name_are_told_apart_in_the_text():
    """Else the text of their difference would be that of nothing."""
    one, two = ({"w": np.full(3, k, np.float32)} for k in (1, 2))
    p, q = tv.from_arrays(one), tv.from_arrays(two)
    assert str(p - q) == "arrays - arrays_2" and str(tv.slerp(p, q)) == "slerp(arrays, arrays_2)" and str(p) == "arrays"
    assert tv.parse(str(p - q), arrays=p, arrays_2=q) == p - q


# ---- the vector space -----------------------------------------------------------------------------------
def test_only_weights_are_added_and_only_numbers_scale():
    for wrong in (1, None, "base"):
        for call in (lambda w: B + w, lambda w: B - w, lambda w: w + B):
            with pytest.raises(TypeError):
                call(wrong)
        assert wrong != B
    assert sum([B, M]) == 0 + B + M
    with pytest.raises(TypeError):
        0.0 + B
    with pytest.raises(TypeError, match="scaled by numbers, not multiplied with one another"):
        B * M
    with pytest.raises(RecipeError, match="division by zero"):
        B / 0


def test_what_cancels_is_still_mentioned_and_must_still_fit():
    w = B + (M - B)
    assert w == M and hash(w) == hash(M) and [s.text for s in w.mentioned] == ["base", "math"]
    assert {s.text for s in w.summed} == {"base", "math"} and [s.text for s in w.terms] == ["math"]
    assert Weights(B.terms, summed=iter(M.terms)).summed == (*M.terms, *B.terms)
    other = tv.from_arrays({"w": np.ones(3, np.float32)}, "other")
    with pytest.raises(MismatchError, match="the sources do not fit together"):
        (M + other - other).specs  # noqa: B018


def test_a_name_that_was_given_stays_with_its_source():
    given, again = B.named("start"), tv.Weights(B.terms, {next(iter(B.terms)): "later"})
    assert [*(given + again).mentioned.values()] == ["start"] and [*(B + given).mentioned.values()] == ["start"]
    assert str(given) == "base" and [*given.names().values()] == ["start"]
    summed = B + M - B
    assert summed.named("x") is summed, "what is made from several has no name"


def test_weights_are_a_mapping_that_computes_only_what_is_asked_for():
    assert [*B] == [*NAMES] and len(B) == 4 and "norm" in B and "other" not in B and 3 not in B
    assert repr(B - V) == "Weights(base - lora)"


# ---- knobs ---------------------------------------------------------------------------------------------
def test_knobs_are_those_of_coefficients_and_of_calls():
    w = tv.parse(
        "base + lam*(math - base) + ties(math - base, code - base, density=mu)",
        **{n: SOURCES[n] for n in ("base", "math", "code")},
    )
    assert w.knobs == {"lam", "mu"}
    assert w.bind(lam=0, mu=0.5)["norm"].shape == (3, 4)
    assert w.bind(lam=0, mu=0.5).knobs == frozenset() and w.bind(lam=0).knobs == {"mu"}
    for bound in (w.bind(lam=0), (w - tv.knob("nu") * (C - C)).bind(lam=0)):
        assert [s.text for s in bound.mentioned] == [s.text for s in w.mentioned]
    assert {s.text for s in (B + tv.knob("k") * (M - B) + C - C).bind(k=1).summed} == {"base", "math", "code"}
    with pytest.raises(UnboundKnob, match=r"no knob named nu, xi: knobs are lam, mu$"):
        w.bind(xi=1, nu=2)
    with pytest.raises(UnboundKnob, match=r"no knob named x: knobs are none$"):
        B.bind(x=1)


@pytest.mark.parametrize("ask", [lambda w: w.mass, lambda w: w.kind(), lambda w: w.parts("norm"), lambda w: w["norm"]])
def test_names_without_a_value_are_named_wherever_numbers_are_needed(ask):
    w = B + (tv.knob("y") + tv.knob("x")) * (M - B)
    with pytest.raises(UnboundKnob) as told:
        ask(w)
    assert str(told.value) == "names without a value: x, y. Bind each to a number (a knob) or to a model."


# ---- mass -----------------------------------------------------------------------------------------------
def test_mass_is_one_number_for_all_tensors_or_each_is_named_once():
    assert (0.5 * B + 0.25 * M).mass == Fraction(3, 4) and Weights({}).mass == 0 and (V * 7).mass == 0
    assert (tv.only("*") * tv.from_arrays({}, "empty")).mass == 0
    assert (tv.per({"*.mlp.*": 1, "*": 0}) * B + tv.per({"*.mlp.*": 0, "*": 1}) * M).kind() == 1
    with pytest.raises(MassError) as told:
        (tv.per({"norm": 0.5, "*": 1}) * B).kind()
    wanted = ["the mass differs from tensor to tensor, so this is neither a model nor a task vector:",
              "mass 0.5 at norm", "mass 1 at embed.weight"]  # fmt: skip
    assert str(told.value) == "\n  - ".join(wanted)


def test_another_mass_than_zero_and_one_is_refused_with_the_expression():
    with pytest.raises(MassError) as told:
        (0.5 * B + M).kind()
    assert str(told.value).startswith("this has mass 1.5: a model has mass 1") and told.value.problems == ()
    assert str(told.value).endswith("\n  expression: 0.5*base + math")


def test_statistics_are_neither():
    alone, other = model("f", 1, statistic="fisher"), model("g", 2, statistic="gram")
    assert [*alone] == [*NAMES]
    with pytest.raises(MassError, match="g holds gram statistics"):
        (V + other).specs  # noqa: B018
    with pytest.raises(MassError, match="f holds fisher statistics"):
        model("f", 1, statistic="fisher").kind()


# ---- what it is -----------------------------------------------------------------------------------------
def test_the_reference_is_the_first_model_and_the_donor_the_first_that_takes_part():
    (b,), (m,), (v,) = B.terms, M.terms, V.terms
    assert (V + M + B).reference is m and (V + M + B).donor is m and (B - B + M).reference is b
    assert (B - B + M).donor is m and V.reference is V.donor is v and (M - M).donor is m
    nothing = Weights({})
    assert nothing.reference is None and nothing.donor is None and nothing.specs == nothing.places == {}
    assert nothing.placed is nothing


@pytest.fixture
def adapters(build, tmp_path):
    """A model and two adapters, each of another tensor of it."""
    shapes = {"up.weight": (3, 4), "down.weight": (3, 4), "norm.weight": (4,)}
    model = build.model(tmp_path / "model", build.tensors(0, shapes))
    for seed, name in enumerate(("up", "down"), 1):
        factors = {f"base_model.model.{name}.lora_A.weight": (2, 4), f"base_model.model.{name}.lora_B.weight": (3, 2)}
        build.lora(tmp_path / name, build.tensors(seed, factors))
    return [tv.load(path) for path in (model, tmp_path / "up", tmp_path / "down")]


def test_an_adapter_is_the_reference_only_where_there_is_no_other(adapters):
    base, up, down = adapters
    assert not (up + base).reference.partial and [*(up + base)] == [*base] and up.reference.partial
    assert [*up] == ["up.weight"] and [*(up + down)] == ["up.weight", "down.weight"]


def test_a_tensor_that_an_adapter_does_not_name_is_zero_in_it(adapters):
    base, up, down = adapters
    whole, (model,) = base + up + 2 * down, base.terms
    assert whole.parts("norm.weight") == {(model, "norm.weight"): 1}
    assert (base + tv.per({"norm.weight": 2, "*": 1}) * up).parts("norm.weight") == {(model, "norm.weight"): 1}
    assert [name for _, name, _ in whole.linear("norm.weight").terms] == ["norm.weight"]
    assert len(whole.parts("up.weight")) == len(whole.linear("up.weight").terms) == 2
    assert np.array_equal(whole["norm.weight"], base["norm.weight"])
    assert np.allclose(whole["down.weight"], base["down.weight"] + 2 * down["down.weight"], atol=1e-6)


def test_all_that_does_not_fit_is_listed_up_to_a_bound():
    many = {f"x{k}": np.ones(1, np.float32) for k in range(60)}
    with pytest.raises(MismatchError) as told:
        (tv.from_arrays(many, "a") + tv.from_arrays({"y": np.ones(1, np.float32)}, "b")).specs  # noqa: B018
    assert len(told.value.problems) < 60 and any(p.endswith("more") for p in told.value.problems)


def test_a_pattern_that_fits_nothing_is_refused_where_the_names_are_known():
    w = B + tv.only("nothing.*") * (M - B)
    with pytest.raises(RecipeError, match="the recipe has patterns that do nothing:"):
        w["norm"]


def test_a_pattern_within_a_call_is_looked_at_too():
    table = tv.per({"nothing.*": 0.2, "*": 0.5})
    for call in (tv.ties(tv.only("nothing.*") * (M - B), density=0.5), tv.trim(M - B, density=table)):
        with pytest.raises(RecipeError, match="the recipe has patterns that do nothing:"):
            (B + call).check_patterns()


def test_a_pattern_within_a_call_may_fit_tensors_of_the_model_around_it(adapters):
    base, up, _ = adapters
    call = tv.trim(tv.only("norm.weight") * up, density=0.5)
    (base + call).check_patterns()
    with pytest.raises(RecipeError, match="fits no tensor"):
        call.check_patterns()


def test_a_gradient_over_the_layers_of_an_adapter_alone_is_refused(adapters):
    base, up, _ = adapters
    with pytest.raises(RecipeError, match="does not say how many there are"):
        (tv.layers(0, 1, outside=1) * up)["up.weight"]
    within = base + tv.layers(0, 1, outside=0.5) * up
    assert np.allclose(within["up.weight"], (base + 0.5 * up)["up.weight"], atol=1e-6)


def test_a_pattern_may_fit_only_tensors_that_an_adapter_alone_does_not_name(adapters):
    base, up, _ = adapters
    alone = tv.only("norm.weight") * up
    assert alone.parts("up.weight") == {} and not alone["up.weight"].any()
    with pytest.raises(RecipeError, match="patterns that do nothing"):
        (base + tv.only("other.weight") * up)["up.weight"]


def test_methods_that_are_told_their_model_leave_what_cancelled_in_the_sum(adapters):
    base, up, _ = adapters
    gone = tv.from_arrays({"w": np.ones(2, np.float32)}, "gone", mass=0)
    w = base + tv.trim(up, density=0.5) + gone - gone
    told = w.placed
    assert told is not w and len(told.terms) == 2 and [s.text for s in told.summed[2:]] == ["gone"]
    with pytest.raises(MismatchError, match="the sources do not fit together"):
        told.specs  # noqa: B018


def test_a_model_that_cancelled_beside_an_adapter_stays_in_the_text(adapters):
    base, up, _ = adapters
    w = base + up - base
    assert str(w) == f"{up} + {base} - {base}" and [*w] == [*base]


def test_a_vector_meets_only_the_base_that_it_was_made_from(tmp_path):
    for name, w in (("base", B), ("math", M)):
        tv.save(w, tmp_path / f"{name}.safetensors")
    base, math = tv.load(tmp_path / "base.safetensors"), tv.load(tmp_path / "math.safetensors")
    tv.save(math - base, tmp_path / "tau.safetensors")
    tau = tv.load(tmp_path / "tau.safetensors")
    (base + tau).check_bases()
    tau.check_bases()
    (math - base + base + tau).check_bases()
    with pytest.raises(FingerprintError, match="a task vector meets a base that it was not made from"):
        (math + tau).check_bases()
    tv.save(tv.select(math, "norm") - tv.select(base, "norm"), tmp_path / "norm.safetensors")
    (tv.select(base, "norm") + tv.load(tmp_path / "norm.safetensors")).check_bases()


# ---- values --------------------------------------------------------------------------------------------
def test_terms_are_summed_in_the_order_of_fingerprints():
    w = C + B + M
    prints = [s.fingerprint for s, _ in w.ordered()]
    assert prints == sorted(prints) and len(prints) == 3 and dict(w.ordered()) == dict(w.terms)


def test_the_parts_of_a_tensor_are_sources_with_their_numbers():
    (b,), (m,), (v,) = B.terms, M.terms, V.terms
    assert (B / 3 - V).parts("norm") == {(b, "norm"): Fraction(1, 3), (v, "norm"): -1}
    w = tv.only("norm") * B + tv.rename(M, {"norm": "embed.weight", "embed.weight": "norm"})
    assert w.parts("norm") == {(b, "norm"): 1, (m, "embed.weight"): 1}
    assert w.parts("embed.weight") == {(m, "norm"): 1}, "what is 0 takes no part"
    moved = tv.rename(B + 0.5 * V, {"norm": "x"})
    assert (3 * moved).parts("x") == {(b, "norm"): 3, (v, "norm"): Fraction(3, 2)}
    at_the_end = Place("layers.0.mlp.up", Fraction(1))
    assert (B + tv.layers(0, 1, outside=0) * V).parts("layers.0.mlp.up", at_the_end)[v, "layers.0.mlp.up"] == 1
    twice = tv.rename(M, {"norm": "norm"}) + M - B
    assert twice.parts("norm") == {(m, "norm"): 2, (b, "norm"): -1}
    assert (tv.rename(M, {"norm": "norm"}) - M).parts("norm") == {}


def test_linear_is_the_same_with_and_without_a_look_at_each_tensor():
    for w in (0.4 * B + 0.6 * M + V, B, V):
        looked = w + 0 * B
        table = tv.per({"norm": 1, "*": 1}) * w
        for name in NAMES:
            assert w.linear(name) == table.linear(name) == looked.linear(name)
            assert {n for _, n, _ in w.linear(name).terms} == {name}


def test_what_is_read_is_float32_or_float64_if_a_source_is():
    wide = tv.from_arrays({n: B[n].astype(np.float64) + 1e-12 for n in NAMES}, "wide")
    assert B["norm"].dtype == np.float32 and (0.5 * B + 0.5 * wide)["norm"].dtype == wide["norm"].dtype == np.float64
    assert np.array_equal(wide["norm"], B["norm"].astype(np.float64) + 1e-12)
    nothing = B - B + V - V
    assert nothing["norm"].tolist() == np.zeros((3, 4)).tolist() and nothing["norm"].dtype == np.float32


@pytest.mark.parametrize(
    "rows", [None, slice(0), slice(1), slice(1, None), slice(-1, None), slice(2, 1), slice(0, 9, 1)]
)
def test_rows_of_any_shape_are_those_of_numpy(rows):
    arrays = {"m": np.arange(12, dtype=np.float32).reshape(4, 3), "v": np.arange(5, dtype=np.float32),
              "t": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "i": np.arange(4),
              "none": np.zeros((0, 3), np.float32), "flat": np.zeros((3, 0), np.float32)}  # fmt: skip
    w = tv.from_arrays(arrays)
    for name, array in arrays.items():
        part = w.read(name, rows)
        assert part.tolist() == array[rows or ...].tolist() and part.shape == array[rows or ...].shape, name


def test_a_scalar_has_no_rows_and_what_numpy_has_no_dtype_for_is_bytes():
    w = tv.from_arrays({"s": np.float32(3), "b": np.array(True)})
    assert w["s"] == 3 and w["s"].shape == () and w["b"].shape == () and w["b"].dtype == bool
    for name in w:
        for rows in (slice(None), slice(0, 1), slice(1, None)):
            with pytest.raises(IndexError, match="too many indices"):
                w.read(name, rows)
    codes = ArraySource("codes", {"w": np.arange(2, dtype=np.uint8)}, {"w": Spec((2, 2), "F4")}, mass=1)
    assert Weights({codes: 1})["w"].tolist() == [0, 1], "two elements in each byte"


# ---- texts ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        ("base + 0.4*(math - base)", "0.6*base + 0.4*math"), ("-base + math", "-base + math"), ("base - base", "0"),
        ("(x + 1)*base", "(1 + x)*base"), ("-x*base + y/2*math", "-x*base + 0.5*y*math"),
        ("math + base", "math + base"), ("base - math*3 + math*2", "base - math"),
    ],
)  # fmt: skip
def test_an_expression_is_written_in_the_order_of_mention(recipe, text):
    w = tv.parse(recipe, **{name: SOURCES[name] for name in ("base", "math") if name in recipe})
    assert str(w) == w.text() == text
    assert w.text({next(iter(B.terms)): "b"}) == text.replace("base", "b")


def test_names_are_identifiers_that_differ_and_are_not_reserved(build, tmp_path):
    for k, name in enumerate(("my model", "3b", "for", "a/x", "b/x", "c/x_2", "d/x")):
        build.model(tmp_path / name, build.tensors(k))
    loaded = [tv.load(tmp_path / n) for n in ("my model", "3b", "for", "a/x", "b/x", "c/x_2", "d/x")]
    w = sum(loaded, Weights({}))
    assert [*w.names().values()] == ["my_model", "_3b", "for_2", "x", "x_2", "x_2_2", "x_3"]
    assert [*(B + M).names({"base", "base_2"}).values()] == ["base_3", "math"]
    assert [*tv.from_arrays({"w": np.ones(1, np.float32)}, "/").names().values()] == ["source"]


def test_files_are_written_by_their_paths_even_where_arrays_of_one_name_are_told_apart(build, tmp_path):
    file = tv.load(build.model(tmp_path / "base", {"w": np.ones(3, np.float32)}))
    p, q = (tv.from_arrays({"w": np.full(3, k, np.float32)}) for k in (1, 2))
    assert str(file + p - q) == f"{file} + arrays - arrays_2" and str(file).startswith("load(")


def test_a_file_is_named_without_its_ending_whatever_the_slash():
    for text, name in (("a\\b\\c.safetensors", "c"), ("runs/x/", "source"), ("a-b", "a_b")):
        assert [*tv.from_arrays({"w": np.ones(1, np.float32)}, text).names().values()] == [name]


def test_of_very_many_differences_fifty_are_shown_and_eight_where_the_way_out_is_known():
    def named(begin, shape, name, count=60):
        return tv.from_arrays({f"{begin}x{k}": np.ones(shape, np.float32) for k in range(count)}, name)

    a, b, c, d = named("", (2, 3), "a"), named("", (5,), "b"), named("model.", (2, 3), "c"), named("", (7,), "d")
    fifty = named("", (2, 3), "a", 50) + named("", (5,), "b", 50)
    for w, shown, more in ((a + b, 50, [10]), (a + c, 8, [112]), (a + b + d, 50, [35, 35]), (fifty, 50, [])):
        with pytest.raises(MismatchError) as told:
            w.specs  # noqa: B018
        lines = told.value.problems
        assert len([line for line in lines if " is " in line or "not in a" in line]) == shown
        assert [line for line in lines if line.startswith("...")] == [f"... and {n} more" for n in more]
        assert ("they fit together in a recipe that says" in lines[-1]) == (shown == 8), "the way out comes last"
