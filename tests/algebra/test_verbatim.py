"""A copy of one file may hold quantised weights, here and in another process; nothing that is computed may."""

import pickle

import numpy as np
import pytest

import taskvec as tv
from taskvec.algebra.verbatim import Verbatim, verbatim
from taskvec.errors import MismatchError

ARRAYS = {
    "q_proj.qweight": np.arange(12, dtype=np.int32).reshape(3, 4),
    "q_proj.scales": np.ones((3, 1), np.float16),
    "norm.weight": np.ones(4, np.float32),
}


@pytest.fixture
def quantised(tmp_path, build):
    return tv.load(build.model(tmp_path / "quantised", ARRAYS))


def test_a_copy_has_the_tensors_that_an_expression_refuses(quantised):
    with pytest.raises(MismatchError, match="quantised weights cannot be summed"):
        quantised.specs  # noqa: B018 - raises
    (source,) = quantised.terms
    for same in (quantised, 1 * quantised, quantised.named("q")):
        copied = verbatim(same)
        assert copied.specs == source.specs and copied == quantised and str(copied) == str(quantised)
        assert copied.names() == same.names() and copied.placed is copied and copied.kind() == 1


def test_a_pickle_of_a_copy_is_a_copy(quantised):
    copied = pickle.loads(pickle.dumps(verbatim(quantised.named("q"))))
    assert type(copied) is Verbatim and copied.keys() == ARRAYS.keys() and [*copied.mentioned.values()] == ["q"]


def test_what_is_computed_from_a_copy_is_none(quantised):
    copied = verbatim(quantised)
    for computed in (1 * copied, copied + 0 * copied, -copied, copied / 2, copied.bind(), copied.named("q")):
        assert type(computed) is tv.Weights
        with pytest.raises(MismatchError, match="quantised"):
            computed.specs  # noqa: B018 - raises


def test_only_one_file_or_array_with_nothing_done_to_it_is_a_copy(quantised):
    other = tv.from_arrays({"w": np.ones(2, np.float32)}, "other")
    changed = [0.5 * quantised, quantised + other - other, other + quantised - other, quantised - quantised,
               tv.knob("x") * quantised, tv.only("*") * quantised, tv.Weights({}), tv.select(other, "*")]  # fmt: skip
    for weights in changed:
        assert verbatim(weights) is weights
    assert type(verbatim(other)) is Verbatim and np.array_equal(verbatim(other)["w"], [1, 1])
