"""Every public name explains itself: help() and editors show its parameters and what it computes."""

import inspect
import pydoc

import pytest

import taskvec as tv
from taskvec.methods import FUNCTIONS
from taskvec.methods.core.lift import Lifted

METHODS = [method for method in FUNCTIONS.values() if isinstance(method, Lifted)]


@pytest.mark.parametrize("name", [name for name in tv.__all__ if name != "__version__"])
def test_every_public_name_has_a_docstring_of_its_own(name):
    thing = getattr(tv, name)
    assert thing.__doc__ and thing.__doc__ != type(thing).__doc__


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_help_shows_every_parameter_of_a_method_and_no_array_that_is_measured(method):
    shown = inspect.signature(method).parameters.values()
    named = {p.name: p.default for p in shown if p.kind is p.KEYWORD_ONLY}
    assert named == method.defaults
    assert len(shown) > len(named), "what the method works on comes first"
    text = pydoc.plain(pydoc.render_doc(method))
    assert f"{method.name}{inspect.signature(method)}" in text
    assert method.fn.__doc__.split("\n")[0] in text


def test_a_method_of_ones_own_shows_its_parameters_too():
    @tv.method(local=True)
    def clip(tau, *, limit=0.01):
        """Cut at the limit."""
        return tau.clip(-limit, limit)

    assert str(inspect.signature(clip)) == "(tau, *, limit=0.01)"
    assert "clip(tau, *, limit=0.01)\n    \n    Cut at the limit." in pydoc.plain(pydoc.render_doc(clip))
