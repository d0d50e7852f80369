"""The tables of what architectures leave unsaid: what each stands for, and that they agree with one another."""

from fnmatch import fnmatchcase

import pytest

from taskvec.views import architectures as known
from taskvec.views.bylayer import Origin, explicit, moved

FULL, SLIDING, LINEAR = known.FULL, known.SLIDING, known.LINEAR


@pytest.mark.parametrize("model_type", known.OWN)
def test_a_period_of_its_own_is_written_out_from_the_first_layer_on(model_type):
    period = known.OWN[model_type]
    kinds = explicit({"model_type": model_type}, 2 * len(period) + 1)["layer_types"]
    assert kinds[: len(period)] == kinds[len(period) : -1] == [*period]
    assert kinds[-1] == (FULL if model_type in known.ENDING_FULL else period[0])


@pytest.mark.parametrize("key", known.PERIODS)
def test_a_number_is_a_period_that_ends_in_its_own_kind(key):
    last, others = known.PERIODS[key]
    assert explicit({key: 3}, 4)["layer_types"] == [others, others, last, others]
    assert explicit({key: 1}, 2)["layer_types"] == [last, last]
    assert explicit({key: 0}, 2) == explicit({key: True}, 2) == explicit({key: None}, 2) == {}
    for model_type in known.FIRST_OF_PERIOD:
        assert explicit({key: 3, "model_type": model_type}, 4)["layer_types"] == [last, others, others, last]


@pytest.mark.parametrize("model_type", known.DENSE)
def test_leading_dense_layers_are_those_of_the_table_unless_it_is_said(model_type):
    first = known.DENSE[model_type]
    kinds = explicit({"model_type": model_type}, first + 2)["mlp_layer_types"]
    assert kinds == ["dense"] * first + ["sparse"] * 2
    assert explicit({"model_type": model_type, "first_k_dense_replace": 0}, 2)["mlp_layer_types"] == ["sparse"] * 2
    assert "mlp_layer_types" not in explicit({"model_type": model_type, "mlp_layer_types": ["dense"]}, 1)


@pytest.mark.parametrize("model_type", known.WITHOUT_ROPE)
def test_every_so_many_layers_have_no_rotary_positions(model_type):
    step = known.WITHOUT_ROPE[model_type]
    assert explicit({"model_type": model_type}, step + 1)["no_rope_layers"] == [1] * (step - 1) + [0, 1]
    assert explicit({"model_type": model_type, "no_rope_layer_interval": 2}, 3)["no_rope_layers"] == [1, 0, 1]


def test_letters_stand_for_kinds_and_other_letters_for_nothing():
    assert explicit({"sliding_window_pattern": "LG"}, 3)["layer_types"] == [SLIDING, FULL, SLIDING]
    assert explicit({"sliding_window_pattern": "LX"}, 3) == {} == explicit({"sliding_window_pattern": ""}, 3)


@pytest.mark.parametrize("model_type", [m for m, says in known.BY_NUMBER.items() if says])
def test_kinds_by_number_must_be_written_out_before_layers_move(model_type):
    table = {"model_type": model_type}
    says = known.BY_NUMBER[model_type]
    problems = moved([Origin(table, 4, k) for k in (1, 0)], table)[1]
    assert any(f"write {says}, one a layer" in problem for problem in problems)
    assert not moved([Origin(table, 4, k) for k in range(4)], table)[1]  # where they stood


@pytest.mark.parametrize("key", known.BOUND)
def test_what_binds_a_layer_to_its_number_allows_no_other_place(key):
    table = {key: 1}
    assert any("binds each layer" in p for p in moved([Origin(table, 3, k) for k in (1, 2)], table)[1])
    first = moved([Origin(table, 3, k) for k in (0, 1)], table)[1]
    assert bool(first) == (key not in known.FROM_THE_START)
    assert not moved([Origin({key: 0}, 3, k) for k in (1, 2)], {key: 0})[1]


def test_the_tables_name_what_the_other_tables_know():
    assert {*known.FROM_THE_START} <= {*known.BOUND, *known.BY_NUMBER}
    assert known.SAID_BY.keys() >= known.PERIODS.keys()
    assert {kind for period in known.OWN.values() for kind in period} >= {FULL, SLIDING, LINEAR}
    for key in {*known.SAID_BY} - {"_block_types"}:  # else the period of a key that no list says is never looked at
        assert any(fnmatchcase(key, p) for p in known.OF_PERIODS) or key in known.PERIODS, key
