"""Merge methods, paper by paper: pure functions of float32 arrays (or of their Gram matrix), lifted to Weights.

applied.py    what lifts them: Method, and Applied, the source that a call of one is
passes.py     what must be known before: Gram matrices, ratios of norms, overlaps; exact, streamed
thresholds.py the magnitude of a given rank, exact, streamed; how those that are equal to it divide
draws.py      random numbers with a key
sparsify.py   trim, breadcrumbs, dare, della, random_like: one vector to a sparser one
consensus.py  elect, unified, magmax, consensus, pcb: several vectors to one, entry by entry
fusion.py     nearswap, arcee_fusion, sce, ram, ramplus: selections by size, variance or overlap
geometry.py   slerp, nuslerp, multislerp, karcher, geometric_median, stock, metagpt, norm_matched: a span's
spectrum.py   low_rank, iso_c, tsv_m, iso_cts, knots, svc: matrix by matrix, by singular values and vectors
blas.py       one thread for these, so that their bits do not depend on the number of cores
statistics.py fisher, regmean: models weighed by statistics of their data, from files that `stats` makes
edits.py      freeze_conflicts: layers in which two vectors conflict, left out
ablation.py   ablate: directions that a model can no longer write
composed.py   ties, dare_ties, della_ties, model_stock, patch, lines: names for what the others say together
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from taskvec.methods import ablation, composed, consensus, edits, fusion, geometry, sparsify, spectrum, statistics
from taskvec.methods.applied import Applied
from taskvec.methods.lift import Method, method

__all__ = ["FUNCTIONS", "METHODS", "Applied", "Method", "method"]

METHODS: tuple[Method, ...] = (
    *sparsify.METHODS, *consensus.METHODS, *fusion.METHODS, *geometry.METHODS, *spectrum.METHODS, *statistics.METHODS,
    *edits.METHODS,
)  # fmt: skip
FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {m.name: m for m in METHODS} | {f.__name__: f for f in (*ablation.FUNCTIONS, *composed.FUNCTIONS)}
)
