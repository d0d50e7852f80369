"""One call of a method as a source: its tensors, its numbers, what it prints, and the memory that it takes."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import MismatchError, UnboundKnob
from taskvec.methods.core.call import PART

SHAPES = {"layers.0.w": (6, 4), "layers.1.w": (6, 4), "b": (5,)}


def weights(name, seed, mass=1, dtype=np.float32, **more):
    rng = np.random.default_rng(seed)
    return tv.from_arrays({n: rng.standard_normal(s).astype(dtype) for n, s in SHAPES.items()} | more, name, mass=mass)


def call_of(w):
    (source,) = w.terms
    return source


def test_its_tensors_are_float32_and_what_is_no_number_passes_from_the_first_model():
    a, b = (weights(n, k, dtype=np.float64, ids=np.arange(3)) for k, n in enumerate("ab"))
    merged, vector = tv.slerp(a, b), tv.trim(a - b)
    assert {s.dtype for n, s in merged.specs.items() if n != "ids"} == {"F32"}
    assert merged["ids"].tolist() == [0, 1, 2] and "ids" not in vector.specs
    assert call_of(merged).stored["b"].dtype == "F64" and call_of(merged).donor is call_of(a)


def test_its_mass_is_that_of_its_arguments():
    a, b = weights("a", 0), weights("b", 1)
    assert tv.slerp(a, b).mass == 1 and tv.slerp(a - b, b - a).mass == 0
    assert (a + 0.5 * tv.trim(b - a)).mass == 1


def test_names_and_shapes_of_its_arguments_must_be_the_same():
    with pytest.raises(MismatchError, match="extra"):
        len(tv.slerp(weights("a", 0), weights("b", 1, extra=np.ones(2, np.float32))).specs)
    with pytest.raises(MismatchError, match=r"\[9\]"):
        len(tv.slerp(weights("a", 0), weights("b", 1, b=np.ones(9, np.float32))).specs)


def test_what_is_equal_is_the_same_method_arguments_and_parameters():
    a, b = weights("a", 0), weights("b", 1)
    assert tv.slerp(a, b) == tv.slerp(a, b, t=0.5) != tv.slerp(a, b, t=0.25)
    assert tv.slerp(a, b) != tv.slerp(b, a) and tv.slerp(a, b) != tv.nuslerp(a, b)
    assert len({call_of(w).fingerprint for w in (tv.slerp(a, b), tv.slerp(b, a), tv.slerp(a, b, t=0.25))}) == 3


def test_parameters_at_their_defaults_are_not_printed_and_the_text_reads_back():
    a, b = weights("a", 0).named("a"), weights("b", 1).named("b")
    w = tv.slerp(a, b, t=0.5, zero="one")
    assert w.text(w.names()) == 'slerp(a, b, zero="one")'
    assert tv.parse('slerp(a, b, zero="one")', a=a, b=b) == w


def test_a_number_without_a_value_must_be_bound_before_values_are_read():
    a, b = weights("a", 0), weights("b", 1)
    free = tv.parse("slerp(a, b, t=x)", a=a, b=b)
    assert free.knobs == {"x"}
    with pytest.raises(UnboundKnob, match="names without a value: x"):
        call_of(free).numbers("b")
    bound = free.bind(x=0.25)
    assert bound == tv.slerp(a, b, t=0.25) and call_of(bound).numbers("b")["t"] == 0.25


def test_numbers_may_follow_the_layers_of_all_arguments():
    a, b = weights("a", 0), weights("b", 1)
    call = call_of(tv.slerp(a, b, t=tv.layers(0.25, 0.75, outside=0.5)))
    assert [call.numbers(n)["t"] for n in SHAPES] == [0.25, 0.75, 0.5]


def test_the_caller_cannot_change_its_numbers():
    call = call_of(tv.trim(weights("t", 0, mass=0), density=0.5))
    call.numbers("b")["density"] = 9
    assert call.numbers("b")["density"] == 0.5


def test_whole_tensors_that_a_method_holds_are_counted_and_tiles_are_not():
    """Of 1 MB a method of whole matrices holds its arguments and its results; an elementwise one a few tiles."""
    big = {"w": np.ones((512, 512), np.float32)}
    a, b = (tv.from_arrays(big, n, mass=0) for n in "ab")
    assert call_of(tv.elect(a, b)).cost.once == 0 < 4 << 20 < call_of(tv.iso_c(a, b)).cost.once
    assert call_of(tv.iso_c(a, b, a + b)).cost.once > call_of(tv.iso_c(a, b)).cost.once
    assert (
        call_of(tv.della(a)).cost_of("w").computing > 0
        and call_of(tv.trim(a)).cost.measuring >= 17 * 4 * 512 * 512 // 4
    )
    assert 512 * 4 * 8 <= call_of(tv.nuslerp(a, b, scope="row")).cost.once < 1 << 20  # a Gram matrix a row
    assert call_of(tv.nuslerp(a, b)).cost.once == 0
    half = call_of(tv.trim(a)).cost_of("w").computing, call_of(tv.trim(a, ties="first")).cost_of("w").computing
    assert 1 << 20 < half[0] < half[1]  # tables in which magnitudes are counted; and a tile more
    assert call_of(tv.elect(a, b)).cost_of("w").computing == 0 < call_of(tv.della(a)).cost_of("w").computing


def test_an_empty_tensor_costs_nothing():
    none = tv.from_arrays({"w": np.empty((0, 3), np.float32)}, "n", mass=0)
    assert tv.iso_c(none)["w"].shape == tv.della(none)["w"].shape == (0, 3)


@pytest.mark.parametrize("rows", ["last", "first"])
@pytest.mark.parametrize("shape", [(5, 3, 7), (9,), (1, 13), (13, 1), ()])
def test_rows_are_whole_wherever_a_range_begins(shape, rows):
    tau = tv.from_arrays({"w": np.random.default_rng(0).standard_normal(shape).astype("f4")}, "t", mass=0)
    w = tv.della(tau, rows=rows)
    whole = w["w"].reshape(-1)
    for start in range(0, whole.size, 4):
        out = np.empty(min(5, whole.size - start), np.float32)
        call_of(w).readinto("w", start, memoryview(out.view(np.uint8)))
        assert np.array_equal(out, whole[start : start + out.size])


def test_one_s_own_method_is_told_with_its_code():
    @tv.method
    def same(x):
        return x

    m = weights("m", 0)
    assert call_of(same(m)).methods == {"same": same.source} and call_of(tv.slerp(m, m)).methods == {}
    assert call_of(same(m)).own_proof()[0] and call_of(tv.slerp(m, m)).own_proof() == ()


def test_sources_are_called_as_the_first_argument_that_names_them_does():
    a, b = weights("a", 0), weights("b", 1)
    w = tv.slerp(a.named("x"), b.named("y"))
    assert w.text(w.names()) == "slerp(x, y)"
    twice = tv.multislerp(a, a.named("x"), b, a.named("z"))
    assert twice.text(twice.names()).startswith("multislerp(x, x, ")


def test_models_and_whole_vectors_tell_their_own_layers():
    a, b, t = weights("a", 0), weights("b", 1), weights("t", 2, mass=0)
    along = tv.layers(0.25, 0.75, outside=0.5)
    for call in (call_of(tv.slerp(a, b, t=along)), call_of(tv.trim(t, density=along))):
        assert call.placed(None) is call and call.placed(call_of(a)) is call


def test_only_what_is_drawn_and_rescaled_by_what_was_measured_is_drawn_twice():
    t = weights("t", 2, mass=0)
    twice = {
        call.text: call.draws_twice
        for call in map(call_of, (tv.dare(t), tv.dare(t, rescale="l1"), tv.della(t, rescale="l1"),
                                  tv.random_like(t), tv.trim(t, rescale="l1"), tv.elect(t, t)))
    }  # fmt: skip
    assert [*twice.values()] == [False, True, True, False, False, False], twice


def test_measuring_takes_a_part_of_each_argument_or_its_longest_row():
    tau = tv.from_arrays({"b": np.zeros(5, np.float32), "w": np.zeros((1, PART + 8), np.float32)}, "t", mass=0)
    assert call_of(tv.trim(tau)).cost.measuring == (1 + 16) * 4 * PART
    assert call_of(tv.della(tau, rescale="l1")).cost.measuring == (1 + 16) * 4 * (PART + 8)
    assert call_of(tv.della(tau)).cost.measuring == 0
