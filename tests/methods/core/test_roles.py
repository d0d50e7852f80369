"""What parameters mean to the framework, whatever they are called."""

import pytest

from taskvec.methods.core.roles import LANES, WITHIN_TENSORS, Scope, Setting, meant, written

OVER = Setting("over", {"everything": Scope.MODEL, "each": Scope.TENSOR})


def test_a_setting_is_read_off_the_parameter_that_it_names():
    assert (
        OVER.of({"over": "everything"}) is Scope.MODEL and OVER.of({"over": "each", "scope": "model"}) is Scope.TENSOR
    )
    with pytest.raises(KeyError):
        OVER.of({"over": "row"})


def test_what_is_declared_means_itself_unless_it_is_a_setting():
    assert meant(Scope.ROW, {"over": "each"}) is Scope.ROW and meant(OVER, {"over": "each"}) is Scope.TENSOR


def test_a_recipe_asks_for_a_meaning_by_its_text():
    assert written(OVER, Scope.TENSOR) == 'over="each"'
    assert written(OVER, Scope.ROW) == "" == written(Scope.TENSOR, Scope.TENSOR)


def test_lanes_lie_within_tensors_and_layers_and_models_do_not():
    assert {*LANES} == {Scope.ROW, Scope.COLUMN} and {*WITHIN_TENSORS} == {Scope.TENSOR, *LANES}
