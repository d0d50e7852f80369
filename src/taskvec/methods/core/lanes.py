"""A tensor as many vectors, its lanes: rows or columns, for the scopes in which each has coefficients of its own."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taskvec.methods.core.roles import Scope

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Lanes:
    """The vectors that a tensor is seen as: its rows, along the last axis, or its columns, along the first one.

    The tensor is read as a matrix of `rows` times `width`. A vector or a scalar is one lane.
    """

    rows: int
    width: int
    along: Scope

    @classmethod
    def of(cls, shape: tuple[int, ...], along: Scope) -> "Lanes":
        """The matrix as which a tensor of this shape is read."""
        numel = math.prod(shape)
        width = (shape[-1] if along is Scope.ROW else numel // max(1, shape[0])) if shape else 1
        return cls(numel // max(1, width), width, along)

    @property
    def count(self) -> int:
        """The number of lanes."""
        return self.rows if self.along is Scope.ROW else self.width

    def index(self, start: int, n: int) -> "NDArray[Any]":
        """The lane of each of the elements start .. start+n."""
        import numpy as np

        elements = np.arange(start, start + n)
        return elements // self.width if self.along is Scope.ROW else elements % self.width
