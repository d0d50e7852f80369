"""Merge methods, paper by paper: pure functions of float32 arrays (or of their Gram matrix), lifted to Weights.

applied.py    what lifts them: Method, and Applied, the source that a call of one is
passes.py     what must be known before: Gram matrices, magnitude thresholds; exact, streamed
draws.py      random numbers with a key
sparsify.py   trim, breadcrumbs, dare, della, random_like: one vector to a sparser one
consensus.py  elect, unified, magmax, consensus, pcb: several vectors to one, entry by entry
geometry.py   slerp, karcher, geometric_median, stock, metagpt: within the span of the arguments
spectrum.py   low_rank, iso_c, tsv_m, iso_cts, knots, svc: matrix by matrix, by singular values and vectors
blas.py       one thread for these, so that their bits do not depend on the number of cores
composed.py   ties, dare_ties, della_ties, model_stock, lines: names for what the others say together
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from taskvec.methods import composed, consensus, geometry, sparsify, spectrum
from taskvec.methods.applied import Applied
from taskvec.methods.lift import Method, method

__all__ = ["FUNCTIONS", "METHODS", "Applied", "Method", "method"]

METHODS: tuple[Method, ...] = (*sparsify.METHODS, *consensus.METHODS, *geometry.METHODS, *spectrum.METHODS)
FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {m.name: m for m in METHODS} | {f.__name__: f for f in composed.FUNCTIONS}
)
