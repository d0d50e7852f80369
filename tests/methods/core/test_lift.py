"""A function of arrays lifted to one over Weights: what it may be, what it is told, and what it must give back."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import RecipeError, TaskvecError
from taskvec.methods.core.lift import code_digest

SHAPES = {"layers.0.w": (5, 4), "layers.1.w": (5, 4), "b": (7,)}


def weights(seed=0, mass=1):
    rng = np.random.default_rng(seed)
    return tv.from_arrays({n: rng.standard_normal(s).astype("f4") for n, s in SHAPES.items()}, f"m{seed}", mass=mass)


def test_a_function_of_whole_tensors_sees_their_shapes_and_a_local_one_flat_ranges():
    seen = []

    @tv.method
    def whole(x):
        seen.append(x.shape)
        return 2 * x

    @tv.method(local=True)
    def local(x):
        seen.append(x.ndim)
        return 2 * x

    m = weights()
    assert np.array_equal(whole(m)["layers.0.w"], 2 * m["layers.0.w"])
    assert np.array_equal(local(m)["layers.0.w"], 2 * m["layers.0.w"]) and seen == [(5, 4), 1]


def test_what_it_draws_is_seeded_by_the_tensor_and_the_place():
    seen = []

    @tv.method(local=True, keyed=True)
    def watched(x, *, name, start):
        seen.append((name, start, x.size))
        return x

    m = watched(weights())
    (source,) = m.terms
    source.readinto("layers.1.w", 8, memoryview(bytearray(4 * 12)))
    assert m["b"].size == 7 and seen == [("layers.1.w", 8, 12), ("b", 0, 7)]


def test_parameters_are_numbers_a_tensor_texts_and_tuples_a_number_an_argument():
    seen = {}

    @tv.method(ranges={"k": (0, 1)}, choices={"how": ("up", "down")})
    def f(*xs, k=0.5, how="up", each=()):
        seen[len(seen)] = (k, how, each)
        return xs[0]

    a, b = weights(0), weights(1)
    f(a, b)["b"]
    f(a, b, k=tv.layers(0, 1, outside=0.25), how="down", each=(1, 2))["layers.1.w"]
    assert seen == {0: (0.5, "up", ()), 1: (1.0, "down", (1.0, 2.0))}
    for options, message in (
        ({"k": 2}, r"f: k must lie in \[0, 1\], not 2"),
        ({"how": "left"}, "how is one of up, down, not 'left'"),
        ({"each": (1, 2, 3)}, "each is one number an argument, 2 in parentheses"),
        ({"l": 1}, "f has no parameter l"),
    ):
        with pytest.raises(RecipeError, match=message):
            f(a, b, **options)


def test_it_takes_as_many_arguments_as_the_function_and_any_with_a_star():
    two, many = tv.method(lambda x, y: x + y), tv.method(lambda x, *ys: x)
    m = weights()
    assert (two.least, two.most, many.least, many.most) == (2, 2, 1, None)
    for args in ((m,), (m, m, m)):
        with pytest.raises(RecipeError, match="takes exactly 2"):
            two(*args)
    assert many(m, m, m).mass == 1


def test_functions_that_cannot_be_lifted_are_stated_errors():
    with pytest.raises(RecipeError, match="f takes no arrays"):

        @tv.method
        def f(*, k=1):
            return k

    with pytest.raises(RecipeError, match="g: parameters need defaults: k, name"):

        @tv.method
        def g(x, *, k, name, m=1):
            return x

    with pytest.raises(RecipeError, match="h: parameters that are texts need choices: how"):

        @tv.method(choices={"other": ("a",)})
        def h(x, *, how="up", other="a"):
            return x

    assert tv.method(keyed=True)(lambda x, *, name, start: x).keyed


def test_a_method_that_fails_or_makes_another_shape_is_a_stated_error(tmp_path):
    @tv.method()
    def half(x):
        return x[: len(x) // 2]

    @tv.method(local=True)
    def broken(x):
        raise ValueError("no luck")

    for method, message in ((half, "made .* of layers"), (broken, "broken failed .*: ValueError: no luck")):
        with pytest.raises(TaskvecError, match=message):
            tv.save(method(weights()), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_two_functions_of_one_name_are_told_apart_by_their_code():
    def first(x):
        return x

    def second(x):
        return -x

    second.__name__ = first.__name__
    m = weights()
    assert tv.method(first)(m) == tv.method(first)(m) != tv.method(second)(m)
    assert code_digest(first) != code_digest(second)
    bare = eval("lambda x: x")  # of which there is no source
    assert code_digest(bare) == code_digest(eval("lambda x: x")) != code_digest(eval("lambda x: -x"))
