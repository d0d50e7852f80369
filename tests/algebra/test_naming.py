"""Names for sources: what was given, else the end of the path; distinct, and words that a recipe can read."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.algebra.naming import distinct


def source(text, seed=0):
    (only,) = tv.from_arrays({"w": np.full(1, seed, np.float32)}, text).terms
    return only


@pytest.mark.parametrize(
    ("text", "name"),
    [('load("runs/math")', "math"), ('load("runs/math/")', "math"), ('load("a/b.safetensors")', "b"),
     ('load("org/model-1.5", revision="v2")', "model_1_5"), ("load(\"C:\\\\models\\\\x\")", "x"), ('load("7b")', "_7b"),
     ("plain", "plain"), ('load("")', "source")],
)  # fmt: skip
def test_a_name_is_the_end_of_the_path_made_a_word(text, name):
    (given,) = distinct({source(text): ""}).values()
    assert given == name and given.isidentifier()


def test_the_name_that_was_given_counts():
    assert [*distinct({source('load("x")'): "mine"}).values()] == ["mine"]


def test_equal_names_are_numbered_in_order_of_mention():
    mentioned = {source('load("a/x")', k): "" for k in range(3)} | {source("other", 9): "x_2"}
    assert [*distinct(mentioned).values()] == ["x", "x_2", "x_3", "x_2_2"]


def test_no_name_is_a_keyword_or_reserved():
    mentioned = {source("lambda"): "", source("ties", 1): "", source("free", 2): ""}
    assert [*distinct(mentioned, reserved={"ties"}).values()] == ["lambda_2", "ties_2", "free"]
