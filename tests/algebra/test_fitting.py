"""Adapters beside the model that they are added to: which one that is, and who says so when it has cancelled."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.algebra.coefficients import Coefficient
from taskvec.algebra.fitting import in_form, told_by, whole


@pytest.fixture
def sources(build, tmp_path):
    """A model, a task vector that names every tensor of it, and an adapter of one of them."""
    shapes = {"up.weight": (3, 4), "norm.weight": (4,)}
    model = tv.load(build.model(tmp_path / "model", build.tensors(0, shapes)))
    vector = tv.from_arrays(build.tensors(1, shapes), "vector", mass=0)
    factors = {"base_model.model.up.lora_A.weight": (2, 4), "base_model.model.up.lora_B.weight": (3, 2)}
    lora = tv.load(build.lora(tmp_path / "lora", build.tensors(2, factors)))
    return [next(iter(w.terms)) for w in (model, vector, lora)]


def test_adapters_are_beside_the_first_model_or_else_the_first_whole_vector(sources):
    model, vector, lora = sources
    assert whole([lora, vector, model]) is model and whole([lora, vector]) is vector
    assert whole([lora]) is None and whole([]) is None


def test_a_model_that_cancelled_says_of_adapters_alone_which_tensors_there_are(sources):
    model, vector, lora = sources
    assert told_by([lora], [lora, model]) is model
    assert told_by([lora, vector], [lora, model]) is None, "there still is one"
    assert told_by([lora], [lora]) is None and told_by([], []) is None


def test_without_an_adapter_or_a_model_all_stay_as_they_are(sources):
    model, vector, lora = sources
    for terms in ({model: 1, vector: 0.5}, {lora: 2}):
        given, mentioned, summed = in_form(terms, {}, (model,) if model in terms else ())
        assert given == {s: Coefficient.of(c) for s, c in terms.items()} and not mentioned and {*summed} <= {model}


def test_the_coefficients_of_forms_that_become_one_are_added(sources):
    model, _, lora = sources
    w = tv.Weights({lora: 1}) + tv.Weights({model: 1})
    (form,) = {*w.terms} - {model}
    again = w + tv.Weights({lora: 2})
    assert {*again.terms} == {model, form} and again.terms[form] == 3
    assert np.allclose(again["up.weight"], w["up.weight"] + 2 * tv.Weights({lora: 1})["up.weight"], atol=1e-5)
