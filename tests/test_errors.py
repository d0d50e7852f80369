"""Every stated error is one kind of TaskvecError, and says all that it has found."""

import pickle
import re

import pytest

from taskvec import errors
from taskvec.errors import (
    MissingExtra,
    NotEnoughSpace,
    OutputError,
    RecipeError,
    TaskvecError,
    UnboundKnob,
    UnknownName,
)

KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}


def test_the_docstring_draws_the_tree():
    names = re.findall(r"^ +[+-] (\w+)", errors.__doc__, flags=re.M)
    assert {"TaskvecError", *names} == KINDS.keys()
    deeper = {*re.findall(r"^ +- (\w+)", errors.__doc__, flags=re.M)}
    assert {name for name, kind in KINDS.items() if TaskvecError not in (kind, kind.__base__)} == deeper


@pytest.mark.parametrize(
    ("kind", "parent"), [(UnknownName, RecipeError), (UnboundKnob, RecipeError), (NotEnoughSpace, OutputError)]
)
def test_what_is_more_special_is_caught_as_what_it_is(kind, parent):
    assert kind.__base__ is parent and parent.__base__ is TaskvecError


@pytest.mark.parametrize("kind", [kind for name, kind in KINDS.items() if name != "MissingExtra"])
def test_the_message_lists_every_finding(kind):
    error = kind("they differ:", (f"{n} is missing" for n in "ab"))
    assert str(error) == "they differ:\n  - a is missing\n  - b is missing"
    assert error.problems == ("a is missing", "b is missing")
    assert str(kind("plain")) == "plain" and kind("plain").problems == ()


def test_an_extra_that_is_missing_is_named_as_pip_takes_it():
    error = MissingExtra("match", "align")
    assert str(error) == 'match needs an extra: pip install "taskvec[align]"' and error.problems == ()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_error_of_another_process_arrives_as_what_it_was(kind):
    error = MissingExtra("align", "align") if kind is MissingExtra else kind("tensors differ:", ["a is missing", "b"])
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == str(error) and again.problems == error.problems
