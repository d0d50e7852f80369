"""Tensors as many vectors: the lanes of those scopes of which every row or column has numbers of its own."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taskvec.methods.core.roles import Scope

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Lanes:
    """The vectors that a tensor is seen as: its rows, along the last axis, or its columns, along the first one.

    As a matrix of `rows` times `width`, and of vectors and scalars one lane.
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
        """How many there are."""
        return self.rows if self.along is Scope.ROW else self.width

    def index(self, start: int, n: int) -> "NDArray[Any]":
        """The lane of each of the elements start .. start+n."""
        import numpy as np

        elements = np.arange(start, start + n)
        return elements // self.width if self.along is Scope.ROW else elements % self.width
