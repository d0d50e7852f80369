"""A method as data: the ranges of its parameters, and the arguments and parameters that it refuses."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import MassError, RecipeError
from taskvec.methods.core.lift import Lifted
from taskvec.methods.core.method import ALIKE, MODELS, VECTORS, Range, require_known


def weights(mass=1, **arrays):
    return tv.from_arrays(arrays or {"w": np.ones(3, np.float32)}, "m", mass=mass)


M, TAU = weights(), weights(0)


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "text"),
    [
        (Range(0, 1), (0, 0.5, 1), (-1e-9, 1 + 1e-9, np.nan), "[0, 1]"),
        (Range(0, 1, open_below=True), (1e-9, 1), (0, 1.5), "(0, 1]"),
        (Range(-1, 2, whole=True), (-1, 0, 2), (0.5, -2, 3), "[-1, 2] and be a whole number"),
        (Range(0, np.inf), (0, 1e30), (-1,), "[0, inf]"),
    ],
)
def test_a_range_holds_its_ends_unless_it_is_open_and_prints_as_one_writes_it(limits, inside, outside, text):
    assert all(v in limits for v in inside) and not any(v in limits for v in outside) and str(limits) == text


def pick(x, *more, k=0.5, how="up", each=()):
    return x


def lifted(**options):
    return Lifted(pick, choices={"how": ("up", "down")}, **options)


PICK = lifted(most=3, takes=ALIKE, ranges={"k": Range(0, 1)})


def test_it_has_the_name_and_the_defaults_of_its_function():
    assert PICK.name == "pick" and PICK.defaults == {"k": 0.5, "how": "up", "each": ()}
    assert Lifted(lambda x, *, a, b=1: x).defaults == {"b": 1}  # what is measured has no default


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "pick takes at least 1 models or task vectors, not 0"),
        ((M,) * 4, "pick takes at least 1 .*, not 4"),
        ((M, 0.5), "works on models or task vectors, not on float; parameters have names"),
        ((M, "a", None), "not on str, NoneType"),
    ],
)
def test_arguments_that_are_too_few_too_many_or_no_weights(args, message):
    with pytest.raises(RecipeError, match=message):
        PICK(*args)


def test_models_vectors_or_either_but_not_both():
    models, vectors = lifted(takes=MODELS), lifted()
    assert models(M, M).mass == 1 and vectors(TAU, TAU).mass == 0 and PICK(M).mass == 1 and PICK(TAU).mass == 0
    with pytest.raises(MassError, match=r"works on models \(mass 1\), and argument 2 is a task vector: add its base"):
        models(M, TAU)
    with pytest.raises(MassError, match=r"task vectors \(mass 0\), and argument 3 is a model: subtract its base"):
        vectors(TAU, TAU, M)
    with pytest.raises(MassError, match=r"not on both: their masses are \[1, 0\]"):
        PICK(M, TAU)


def test_masses_are_known_once_knobs_are_bound():
    free = lifted()(tv.parse("m - lam*n", m=M, n=tv.from_arrays({"w": np.zeros(3, np.float32)}, "n")))
    assert free.knobs == {"lam"} and free.bind(lam=1).mass == 0
    with pytest.raises(MassError):
        free.bind(lam=2)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"k": -0.1}, r"pick: k must lie in \[0, 1\], not -0.1"),
        ({"k": "1"}, "k is a number, not str"),
        ({"k": (1,)}, "k is a number, not tuple"),
        ({"k": M}, "k is a number, not Weights"),
        ({"how": 1}, "how is one of up, down, not 1"),
        ({"each": 1}, "each is one number an argument, 2 in parentheses, not 1"),
        ({"each": (1,)}, "each is one number an argument, 2"),
        ({"each": (1, "x")}, "each is a number, not str"),
        ({"kk": 1}, r"pick has no parameter kk \(did you mean k\?\); it has k, how, each"),
        ({"zzz": 1}, r"pick has no parameter zzz; it has"),
    ],
)
def test_parameters_that_it_cannot_take(params, message):
    with pytest.raises(RecipeError, match=message):
        PICK(M, M, **params)


def test_a_parameter_may_be_at_the_end_of_its_range_and_a_tuple_empty_or_a_list():
    for params in ({"k": 0}, {"k": 1}, {"each": ()}, {"each": [1, 2]}, {"how": "down"}):
        assert PICK(M, M, **params).mass == 1


def test_a_number_that_differs_from_tensor_to_tensor_is_checked_where_it_is_out_of_range():
    arrays = {f"layers.{k}.w": np.ones(2, np.float32) for k in range(3)}
    call = PICK(weights(**arrays), k=tv.layers(0.5, 1.5, outside=0))
    with pytest.raises(RecipeError, match=r"k must lie in \[0, 1\], not 1.5 at layers.2.w"):
        call.read("layers.0.w")  # before any work


def test_what_numbers_cannot_be_together_is_said_of_the_call_or_of_the_tensor():
    fussy = lifted(takes=MODELS, check=lambda told, count: f"{count} of {told['k']:g}" if told["k"] > 0.7 else "")
    with pytest.raises(RecipeError, match=r"pick: 2 of 0\.8"):
        fussy(M, M, k=0.8)
    arrays = {f"layers.{k}.w": np.ones(2, np.float32) for k in range(2)}
    with pytest.raises(RecipeError, match=r"pick at layers.1.w: 1 of 0.9"):
        fussy(weights(**arrays), k=tv.layers(0.1, 0.9, outside=0)).read("layers.1.w")


def test_statistics_come_after_as_many_models_and_are_of_the_kind_that_is_needed():
    for args, message in (((M,), "models and then the statistics of each"), ((M, M), "argument 2 of 2 is")):
        with pytest.raises(RecipeError, match=message):
            tv.fisher(*args)


def test_the_nearest_parameter_is_named_and_of_none_it_is_said():
    require_known("f", ["a"], ["a", "b"])
    with pytest.raises(
        RecipeError, match=r"f has no parameter densty \(did you mean density\?\); it has density, seed"
    ):
        require_known("f", ["seed", "densty"], ["density", "seed"])
    with pytest.raises(RecipeError, match="f has no parameter a; it has none"):
        require_known("f", ["a"], [])


def test_without_more_a_method_sees_whole_tensors_alone_and_takes_no_pass():
    seen = []

    def watched(x):
        seen.append(x.shape)
        return x

    m = weights(0, w=np.ones((2, 3), np.float32))
    (call,) = Lifted(watched)(m).terms
    assert call.unmeasured == 0 and call.methods == {} and call.specs["w"].shape == (2, 3)
    call.readinto("w", 0, memoryview(bytearray(24)))
    assert seen == [(2, 3)]
    held = [next(iter(Lifted(watched, copies=k)(m).terms)).cost.once for k in (0, 1)]
    assert held[1] - held[0] == 24


def test_messages_say_what_a_method_takes():
    for takes, words in ((VECTORS, "task vectors"), (MODELS, "models"), (ALIKE, "models or task vectors")):
        with pytest.raises(RecipeError, match=f"pick works on {words}, not on int; parameters have names$"):
            lifted(takes=takes)(1)
    with pytest.raises(RecipeError, match=r"k must lie in \[0, 1\], not 2$"):
        PICK(M, k=2)


def test_models_and_their_statistics_are_told_apart_by_their_half():
    known = lifted(takes=MODELS, least=2, statistics="fisher")
    f = tv.from_arrays({"w": np.ones(3, np.float32)}, "f", statistic="fisher")
    (call,) = known(M, M, f, f, each=(1, 2)).terms
    assert len(call.models) == len(call.statistics) == 2 and call.mass == 1
    for args in (
        (M, M, f, M),
        (M, M, f, f + f),
        (M, M, f, tv.from_arrays({"w": np.ones(3, "f4")}, "g", statistic="gram")),
    ):
        with pytest.raises(RecipeError, match="argument 4 of 4 is "):
            known(*args)
    with pytest.raises(RecipeError, match="takes at least 2 models, not 1"):
        known(M, f)
    with pytest.raises(RecipeError, match="each is one number an argument, 2 in parentheses"):
        known(M, M, f, f, each=(1, 2, 3, 4))
