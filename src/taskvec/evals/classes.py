"""Examples are put into classes by logits: what the tasks of texts (classification.py) and of pictures share.

A task says how it computes logits. From these follow hits and misses, the class that is predicted, the probabilities
that an ensemble averages, and a loss to train or to learn by.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taskvec.algebra.weights import Weights
from taskvec.evals.module import best
from taskvec.evals.task import Task
from taskvec.evals.texts import Example, places
from taskvec.live.learn import entropy

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


@dataclass
class IntoClasses(Task, ABC):
    """A task whose score for an example is 1 if the class with the highest logit is the example's own, else 0."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """The classes, in the order of the logits."""

    @property
    @abstractmethod
    def sharpness(self) -> float:
        """What logits are multiplied by before their softmax: cosines need it, since they lie from -1 to 1."""

    @abstractmethod
    def logits_of(self, model: Callable[..., Any], examples: Sequence[Example]) -> "torch.Tensor":
        """(examples, classes) in float32, of a model that is called like the module, with gradients if it has them."""

    @abstractmethod
    def _computed(self, weights: Weights, examples: Sequence[Example]) -> "torch.Tensor":
        """The logits of a model for all these examples, (examples, classes) in float32, batch by batch."""

    def scores(self, weights: Weights, split: str, start: float, stop: float) -> Mapping[str, Any]:
        """{"": 0 or 1 for each example}."""
        predicted = self.predictions(weights, split, start, stop)
        return {"": (predicted == self.wanted(split, start, stop)).astype(float)}

    def wanted(self, split: str, start: float, stop: float) -> list[int]:
        """The number of each example's own class, (n,)."""
        return self._numbers_of(self.part(split, start, stop))

    def predictions(self, weights: Weights, split: str, start: float, stop: float) -> "NDArray[Any]":
        """The number of the class with the highest logit for each example, (n,)."""
        import numpy as np

        return np.asarray(best(self.name, self._all_logits(weights, split, start, stop)), np.int64)

    def probabilities(self, weights: Weights, split: str, start: float, stop: float) -> "NDArray[Any]":
        """The softmax of each example's logits times `sharpness`, (n, classes) in float32."""
        logits = self._all_logits(weights, split, start, stop) * self.sharpness
        probabilities: NDArray[Any] = logits.softmax(-1).numpy()
        return probabilities

    def loss_of(self, model: Callable[..., Any], examples: Sequence[Example], labels: bool) -> "torch.Tensor":
        """See `Task.loss_of`: cross-entropy, or the entropy of the predictions, of the logits times `sharpness`."""
        import torch

        logits = self.logits_of(model, examples) * self.sharpness
        if not labels:
            return entropy(logits)
        return torch.nn.functional.cross_entropy(logits, torch.tensor(self._numbers_of(examples), device=logits.device))

    def _all_logits(self, weights: Weights, split: str, start: float, stop: float) -> "torch.Tensor":
        """(n, classes) in float32; kept for the last weights, since scores and predictions both need them."""
        part = split, start, stop
        logits: torch.Tensor = self.once(weights, part, lambda: self._computed(weights, self.part(*part)))
        return logits

    def _numbers_of(self, examples: Sequence[Example]) -> list[int]:
        """The number of the class of each example."""
        return places([e.label for e in examples], self.names, self.name)
