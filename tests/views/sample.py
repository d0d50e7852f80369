"""A view in one file: the rows of every tensor from the last one to the first."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from taskvec.algebra.derived import Parameter
from taskvec.algebra.weights import Weights
from taskvec.views.rows import RowPlan, Rows
from taskvec.views.view import lifted, require_weights


def reversed_rows(m: Weights) -> Weights:
    """The rows of every tensor of m in the opposite order. Tensors that are not floating point stay as they are."""
    return lifted(ReversedRows("reversed_rows", require_weights("reversed_rows", [m]), {}, {}))


class ReversedRows(Rows):
    """See `reversed_rows`."""

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return reversed_rows(*args)

    @cached_property
    def rearranged(self) -> tuple[str, ...]:
        """The tensors that have rows."""
        return tuple(name for name, spec in self.args[0].specs.items() if spec.arithmetic and spec.shape)

    def plan(self, name: str) -> RowPlan:
        """Row i is row n - 1 - i of the argument."""
        n = self.args[0].specs[name].shape[0]
        return RowPlan(np.zeros(n, np.int32), np.arange(n - 1, -1, -1, dtype=np.int32))
