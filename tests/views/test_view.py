"""What all views share: their arguments, how they print, whether they are bits of a file, and what they hold."""

import numpy as np
import pytest

import taskvec as tv
from small_llamas import EMBEDDING, HEAD
from taskvec.algebra.coefficients import Coefficient, knob
from taskvec.errors import MismatchError, RecipeError
from taskvec.views.view import VIEW_TILE, require_weights, texts, whole, without_collisions


@pytest.mark.parametrize(("value", "number"), [(0, 0), (3, 3), (np.int64(3), 3), (Coefficient.of(4) / 2, 2)])
def test_a_whole_number_may_be_of_any_kind(value, number):
    assert whole("f", "k", value, 0).constant == number


@pytest.mark.parametrize("value", [True, 2.0, -1, "2", None, knob("k"), Coefficient.of(1) / 2])
def test_what_is_no_whole_number_is_said_with_its_name(value):
    with pytest.raises(RecipeError, match="f: k must be a whole number of at least 0, not "):
        whole("f", "k", value, 0)


def test_whole_numbers_have_bounds_that_belong_to_them():
    assert whole("f", "k", 2, 2, 3).constant == 2 and whole("f", "k", 3, 2, 3).constant == 3
    with pytest.raises(RecipeError, match="at least 2, not 1"):
        whole("f", "k", 1, 2, 3)
    with pytest.raises(RecipeError, match="k must be at most 3, not 4"):
        whole("f", "k", 4, 2, 3)


def test_texts_that_are_not_given_are_left_out():
    assert texts("f", a="x", b=None, c="") == {"a": "x", "c": ""}
    with pytest.raises(RecipeError, match=r'f: b must be a text, b="...", not int'):
        texts("f", a="x", b=0)


def test_two_tensors_of_one_name_are_all_listed():
    assert without_collisions("f", [("a", (0, "x")), ("b", (1, "x"))]) == {"a": (0, "x"), "b": (1, "x")}
    with pytest.raises(MismatchError, match=r"(?s)f gives several tensors one name:.*a: x, y.*b: z, z") as error:
        without_collisions("f", [("a", (0, "x")), ("b", (0, "z")), ("a", (0, "y")), ("b", (1, "z")), ("c", (0, "c"))])
    assert "c: c" not in str(error.value)


def test_arguments_are_expressions_with_something_in_them(models):
    assert require_weights("f", iter([models["math"]])) == (models["math"],)
    with pytest.raises(RecipeError, match="f works on models or task vectors, not on int, str"):
        require_weights("f", [models["math"], 1, "m"])
    with pytest.raises(RecipeError, match="f takes at least one"):
        require_weights("f", [])
    with pytest.raises(RecipeError, match="f was given an expression with nothing in it"):
        require_weights("f", [tv.Weights({})])


def test_a_parameter_at_its_default_is_not_printed(models):
    m = models["math"].named("m")
    assert tv.resize_vocab(m, 7, fill="zero").text(m.mentioned) == "resize_vocab(m, 7)"
    given = tv.resize_vocab(m, 7, fill="mean", head=HEAD)
    assert given.text(m.mentioned) == f'resize_vocab(m, 7, fill="mean", head="{HEAD}")'


def test_bits_of_a_file_are_known_by_the_fingerprint_of_the_file_that_they_would_make(models, tmp_path):
    """Arithmetic is not: it is known by its call."""
    for k, w in enumerate((tv.take_layers(models["math"], 1, 3), tv.stack(tv.rename(models["math"], {HEAD: "x"})))):
        tv.save(w, tmp_path / f"{k}")
        (source,), (file,) = w.terms, tv.load(tmp_path / f"{k}").terms
        assert source.verbatim and source.fingerprint == file.fingerprint
    half = tv.take_layers(0.5 * models["math"] + 0.5 * models["base"], 1, 3)
    tv.save(half, tmp_path / "half")
    (source,), (file,) = half.terms, tv.load(tmp_path / "half").terms
    assert not source.verbatim and source.fingerprint != file.fingerprint


def test_a_view_holds_some_memory_for_each_of_its_tensors(models):
    (one,), (two,) = (tv.take_layers(models["math"], 0, n).terms for n in (1, 2))
    assert 0 < one.cost.once < two.cost.once


def test_a_vector_s_base_is_the_view_of_the_one_model_that_is_subtracted(models):
    a, b, c = (models[n] for n in ("math", "base", "code"))
    (source,), (ground,) = tv.take_layers(a - b, 0, 2).terms, tv.take_layers(b, 0, 2).terms
    assert source.base == ground.fingerprint
    (source,) = tv.take_layers(2 * a - b - c, 0, 2).terms
    assert source.base is None and ground.base is None


def test_sums_longer_than_a_tile_go_on_where_the_tile_ended():
    rng = np.random.default_rng(0)
    rows = VIEW_TILE // 7 + 3
    a, b = ({EMBEDDING: rng.standard_normal((rows, 7)).astype("f4")} for _ in "ab")
    w = tv.resize_vocab(tv.from_arrays(a) - tv.from_arrays(b), rows)
    assert np.array_equal(w[EMBEDDING], a[EMBEDDING] - b[EMBEDDING])
