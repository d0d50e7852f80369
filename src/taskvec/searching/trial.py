"""A trial of a search: one candidate, and what it scored.

A candidate is the recipe with a number for each of its knobs. The journal has a line for it; `Judge` (judge.py) adds
how good it is. Samplers, the result and the report all work with this one class.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from taskvec.evals import Numbers, means

Knobs = dict[str, float]


def in_words(knobs: Mapping[str, float]) -> str:
    """The name of a candidate: its knobs with their values."""
    return ", ".join(f"{name} = {value:.4g}" for name, value in knobs.items())


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate, and what it scored on validation examples."""

    number: int
    knobs: Knobs
    scores: Mapping[str, Numbers]
    seconds: float
    goods: tuple[float, ...]  # the objectives, all to be large: the first is negated where it is to be small
    broken: Mapping[str, float]  # the constraints that it does not keep, and by how much
    memo: Mapping[str, Any] = field(default_factory=dict)  # what its sampler wrote down when it proposed it

    def told(self) -> str:
        """The knobs and their values in words."""
        return in_words(self.knobs)

    @property
    def breach(self) -> float:
        """The sum of the amounts by which constraints are broken."""
        return math.fsum(self.broken.values())

    @property
    def goodness(self) -> float:
        """The objective that decides; larger is better."""
        return self.goods[0]

    @property
    def metrics(self) -> dict[str, float]:
        """The mean of every metric."""
        return means(self.scores)
