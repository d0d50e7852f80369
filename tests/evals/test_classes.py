"""Tasks that put examples into classes by logits: what follows from the logits of a task."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch

import taskvec as tv
from taskvec.errors import MismatchError, NonFiniteError
from taskvec.evals.classes import IntoClasses
from taskvec.evals.texts import Example
from taskvec.live.learn import entropy

EXAMPLES = [Example("one", "a"), Example("two", "b"), Example("three", "b")]
LOGITS = torch.tensor([[2.0, 1.0], [0.5, 0.25], [-1.0, 3.0]])
MODEL = tv.from_arrays({"w": np.ones(1, np.float32)})


@dataclass
class Fixed(IntoClasses):
    """Logits that are known, whatever the model."""

    logits: torch.Tensor = field(default_factory=lambda: LOGITS)
    factor: float = 1.0
    kind: ClassVar[str] = "fixed"
    names = ("a", "b")

    @property
    def sharpness(self):
        return self.factor

    def part(self, split, start, stop):
        return EXAMPLES[round(3 * start) : round(3 * stop)]

    def logits_of(self, model, examples):
        return self.logits

    def _computed(self, weights, examples):
        return self.logits[: len(examples)]


def test_the_highest_logit_is_the_class_and_a_hit_is_the_examples_own():
    task = Fixed()
    assert task.predictions(MODEL, "test", 0, 1).tolist() == [0, 0, 1] and task.wanted("test", 0, 1) == [0, 1, 1]
    assert task.scores(MODEL, "test", 0, 1)[""].tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("factor", [1.0, 20.0])
def test_probabilities_are_the_softmax_of_the_logits_times_the_sharpness(factor):
    probabilities = Fixed(factor=factor).probabilities(MODEL, "test", 0, 1)
    assert probabilities.tolist() == (LOGITS * factor).softmax(-1).tolist()


@pytest.mark.parametrize("factor", [1.0, 20.0])
def test_the_loss_is_cross_entropy_or_without_labels_the_entropy(factor):
    task, numbers = Fixed(factor=factor), torch.tensor([0, 1, 1])
    assert task.loss_of(None, EXAMPLES, True) == torch.nn.functional.cross_entropy(LOGITS * factor, numbers)
    assert task.loss_of(None, EXAMPLES, False) == entropy(LOGITS * factor)


def test_labels_that_are_no_class_and_logits_that_are_no_numbers_are_stated():
    with pytest.raises(MismatchError, match="labels that are no class"):
        Fixed().loss_of(None, [Example("four", "c")], True)
    with pytest.raises(NonFiniteError):
        Fixed(logits=torch.full((3, 2), torch.nan)).predictions(MODEL, "test", 0, 1)
