"""Whether a user's function is that of an earlier run: the proof follows what it reaches, or there is none."""

import math

import numpy as np
import pytest

from taskvec.methods.core.proof import proof_of

FACTOR, STATE = 2.0, {"factor": 2.0}


def helped(x):
    return helper(x)


def helper(x):
    return 0.5 * x


def plain(x, *, scale=2.0):
    return np.clip(x, -scale, scale) * FACTOR + np.sqrt(np.abs(x))


def nested(x):
    return sum(np.float32(k) * y for k, y in enumerate(x))


def reads(x):
    return np.load("factor.npy") * x


def stateful(x):
    return STATE["factor"] * x


def imports(x):
    import a_module_of_mine

    return a_module_of_mine.f(x)


def closed_over(value):
    def inner(x):
        return value * x

    return inner


def test_the_proof_of_a_function_follows_what_it_reaches(monkeypatch):
    first = [proof_of(f) for f in (helped, plain, nested, closed_over(2.0))]
    assert None not in first and len({*first}) == 4
    assert first == [proof_of(f) for f in (helped, plain, nested, closed_over(2.0))]
    assert proof_of(closed_over(3.0)) != first[3]
    monkeypatch.setitem(globals(), "helper", lambda x: 0.25 * x)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert proof_of(helped) != first[0] and proof_of(plain) != first[1] and proof_of(nested) == first[2]
    for f in (reads, stateful, imports, closed_over([2.0])):
        assert proof_of(f) is None, f.__name__


def tabled(x, *, table=(1, 2.0, frozenset({"a"}), None, ...)):
    return x if table else math.floor(x)


def unbound():
    def inner(x):
        return later * x

    if False:
        later = 1
    return inner


def drawing(x):
    return np.random.default_rng(0).normal(size=x.shape)


def around(x):
    return around(x[1:]) if x.size > 1 else x


@pytest.mark.parametrize("fn", [tabled, around, np.linalg.norm, math.floor])
def test_plain_values_recursion_and_functions_of_known_libraries_have_a_proof(fn):
    assert isinstance(proof_of(fn), str) and proof_of(fn) == proof_of(fn)


@pytest.mark.parametrize("fn", [unbound(), drawing, open, lambda x: eval("x")])
def test_what_nobody_can_follow_has_none(fn):
    assert proof_of(fn) is None


def test_defaults_and_names_count():
    makers = [lambda x, k=1: k * x, lambda x, k=2: k * x, lambda y, k=1: k * y, lambda x, *, k=1: k * x]
    assert len({proof_of(make) for make in makers}) == 4 and None not in map(proof_of, makers)
