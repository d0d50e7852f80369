"""Merges that weigh models by statistics: small numbers by hand, where no model is sure, and files that do not fit."""

import re

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import FormatError, MismatchError, RecipeError
from taskvec.methods.statistics import NORM, TRANSPOSED, transposed_in
from taskvec.sources.abilities import Leaf


def weights(name, values, statistic=None, **more):
    arrays = {"w": np.asarray(values, np.float32)} | more
    return tv.from_arrays(arrays, name) if statistic is None else tv.from_arrays(arrays, name, statistic=statistic)


def fisher(a, b, fa, fb, options='norm="none", floor=0, floors="all"'):
    given = {"a": weights("a", a), "b": weights("b", b)}
    given |= {"f": weights("f", fa, "fisher"), "g": weights("g", fb, "fisher")}
    return tv.parse(f"fisher(a, b, f, g, {options})", **given)["w"]


def test_fisher_is_the_mean_by_information_and_the_plain_one_where_there_is_none():
    np.testing.assert_allclose(fisher([0, 0, 4], [4, 4, 0], [3, 0, 0], [1, 2, 0]), [1, 4, 2], rtol=1e-6)
    np.testing.assert_allclose(fisher([0, 4], [4, 0], [0, 0], [0, 0], 'norm="none", floors="first"'), [0, 4])
    merged = fisher([0, 0], [4, 4], [1, 1], [1, 1], 'norm="none", floor=0, weights=(3, 1)')
    np.testing.assert_allclose(merged, [1, 1], rtol=1e-6)
    apart = fisher([0, 0], [4, 4], [1, 1], [100, 100], "floor=0")  # no model wins by the scale of its loss
    np.testing.assert_allclose(apart, [2, 2], rtol=1e-6)


def test_regmean_is_the_solution_on_all_inputs_and_the_mean_where_there_are_none():
    a, b = np.array([[1.0, 2.0]]), np.array([[3.0, 6.0]])
    ga, gb = np.diag([1.0, 3.0]), np.diag([3.0, 1.0])
    given = {"a": weights("a", a), "b": weights("b", b), "f": weights("f", ga, "gram"), "g": weights("g", gb, "gram")}
    np.testing.assert_allclose(tv.parse("regmean(a, b, f, g)", **given)["w"], [[2.5, 3]], rtol=1e-6)
    given |= {"f": weights("f", 0 * ga, "gram"), "g": weights("g", 0 * gb, "gram")}
    np.testing.assert_allclose(tv.parse("regmean(a, b, f, g)", **given)["w"], [[2, 4]], rtol=1e-6)
    np.testing.assert_allclose(tv.parse("regmean(a, b, f, g, weights=(3, 1))", **given)["w"], [[1.5, 3]], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        ("fisher(a, b, f, g, weights=(0, 0))", RecipeError, "weights must not all be 0"),
        ("fisher(a, b, f, g, weights=(1,))", RecipeError, "weights is one number an argument, 2"),
        ("fisher(a, b, f)", RecipeError, r"statistics of each, fisher\(a, b, fisher_a, fisher_b\): not 3"),
        ("fisher(a, b, f, b)", RecipeError, "argument 4 of 4 is .*taskvec stats MODEL --kind fisher"),
        ("regmean(a, b, f, g)", RecipeError, "argument 3 of 4 is fisher statistics"),
        ("fisher(a, b, f, 0.5*g)", RecipeError, "argument 4 of 4 is"),
        ("fisher(a, f)", RecipeError, "at least 2"),
        ("fisher(a, b, f, h)", MismatchError, r"(?s)are not of these models.*v is in h, not in the models"),
        ("fisher(a, b, f, k)", MismatchError, r"w is F32\[3\] in k, F32\[2\] in the models"),
    ],
)
def test_what_does_not_fit_is_stated(call, kind, message):
    given = {"a": weights("a", [1, 2]), "b": weights("b", [3, 4])}
    given |= {n: weights(n, [1, 1], "fisher") for n in "fg"} | {"k": weights("k", [1, 1, 1], "fisher")}
    given["h"] = weights("h", [1, 1], "fisher", v=np.ones(2, np.float32))
    with pytest.raises(kind, match=message):
        len(tv.parse(call, **{n: w for n, w in given.items() if re.search(rf"\b{n}\b", call)})["w"])


class Told(Leaf):
    """What of a source a reader of its metadata sees."""

    text = "file"

    def __init__(self, **metadata):
        self.metadata = metadata


def test_layouts_are_a_list_of_names():
    assert transposed_in(Told()) == frozenset() and transposed_in(Told(**{TRANSPOSED: '["a", "b"]'})) == {"a", "b"}
    for text in ("[1]", "{}", "[", "null"):
        with pytest.raises(FormatError, match="is no list of names"):
            transposed_in(Told(**{TRANSPOSED: text}))


@pytest.mark.parametrize("text", ["nan", "-1", "inf", "long"])
def test_a_norm_that_is_no_length_is_stated(text):
    given = {n: weights(n, [1, 2]) for n in "ab"} | {n: weights(n, [1, 1], "fisher") for n in "fg"}
    (source,) = given["f"].terms
    source.metadata = {**getattr(source, "metadata", {}), NORM: text}
    with pytest.raises(FormatError, match=rf"norm is '{text}', not a length"):
        tv.parse("fisher(a, b, f, g)", **given)["w"]
