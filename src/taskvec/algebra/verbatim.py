"""A copy of one file: the only expression whose tensors may be quantised.

Quantised weights cannot be summed or scaled (sources/quantised.py), so `Weights.specs` refuses them. A file that is
copied as it is keeps every byte, and may hold them. `verbatim` recognises such an expression, and says so in its type.
"""

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType

from taskvec.algebra.weights import Weights
from taskvec.sources.abilities import Composite
from taskvec.sources.source import Spec


class Verbatim(Weights):
    """One file or array with the coefficient 1. It may hold quantised weights, as may a pickle of it.

    Whatever is computed from it, such as a sum or a multiple, is an ordinary expression, which refuses them again.
    """

    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        """Name -> Spec of the one source."""
        (source,) = self.terms
        return MappingProxyType(dict(source.specs))


def verbatim(weights: Weights) -> Weights:
    """The same expression, as a Verbatim if it is one file or array, unscaled and with nothing added; else itself."""
    (source, *more) = weights.summed or (None,)
    if source is None or more or isinstance(source, Composite) or weights.terms.get(source) != 1:
        return weights
    return Verbatim(weights.terms, weights.mentioned)
