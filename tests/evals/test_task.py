"""What all kinds of tasks share: batches to learn by, parts of the examples, and answers that are made once."""

from itertools import pairwise

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import RecipeError
from taskvec.evals.command import Command
from taskvec.evals.task import InModule, Predicts, Task, batch_of, within


@pytest.mark.parametrize(("count", "size"), [(10, 3), (12, 4), (5, 8)])
def test_batches_of_an_epoch_are_every_example_once_and_each_epoch_has_its_order(count, size):
    each = -(-count // size)
    epochs = [[k for step in range(each) for k in batch_of(count, size, first + step)] for first in (0, each)]
    assert all(sorted(epoch) == [*range(count)] for epoch in epochs) and epochs[0] != epochs[1]
    assert batch_of(count, size, 1) == batch_of(count, size, 1) and len(batch_of(count, size, 0)) == min(count, size)


@pytest.mark.parametrize("count", [1, 7, 50, 203])
def test_adjoining_parts_are_all_examples_and_none_is_in_two(count):
    cuts = [0, 0.1, 0.25, 0.6, 1]
    parts = [[*range(count)[within(count, *ends)]] for ends in pairwise(cuts)]
    assert [k for part in parts for k in part] == [*range(count)] and len(parts[1]) <= count * 0.15 + 1


def test_an_answer_is_made_once_for_the_same_weights_and_the_same_question():
    one, two = (tv.from_arrays({"w": np.ones(1, np.float32)}, name) for name in "ab")
    task, made = Task(), []
    for weights, asked in ((one, ("test",)), (one, ("test",)), (one, ("validation",)), (two, ("validation",))):
        assert task.once(weights, asked, lambda: made.append(1) or len(made)) == len(made)
    assert len(made) == 3


def test_a_task_has_only_the_abilities_that_it_offers():
    assert not isinstance(Command(), InModule | Predicts)
    with pytest.raises(RecipeError, match="nothing can be learned from command"):
        Command().loss_of(None, [], True)


@pytest.mark.parametrize(
    ("settings", "what"), [({"batch": 0}, "batch is at least 1"), ({"dtype": "int8"}, "dtype is one of auto")]
)
def test_settings_that_no_task_can_have_are_refused(tmp_path, settings, what):
    with pytest.raises(RecipeError, match=f"mood: {what}"):
        Task(data="x.txt", **settings).settle("mood", tmp_path)
