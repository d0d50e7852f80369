"""Merge methods, paper by paper: pure functions of float32 arrays (or of their Gram matrix), lifted to Weights.

sparsify.py    one vector to a sparser one
consensus.py   several vectors to one, entry by entry
fusion.py      selections by size, variance or overlap
geometry.py    combinations by the angles and norms of a span
spectrum.py    matrix by matrix, by singular values and vectors
statistics.py  models weighed by statistics of their data, from files that `stats` makes
edits.py       layers in which two vectors conflict, left out
ablation.py    directions that a model can no longer write
composed.py    names for what several methods say together
core/          what lifts these functions to Weights
"""

from taskvec.lazy import Lazy

__all__ = ["FUNCTIONS", "MODULES"]

MODULES = {  # module -> the methods it has
    "taskvec.methods.sparsify": ("trim", "breadcrumbs", "dare", "della", "random_like"),
    "taskvec.methods.consensus": ("elect", "unified", "magmax", "consensus", "pcb"),
    "taskvec.methods.fusion": ("nearswap", "arcee_fusion", "sce", "ram", "ramplus"),
    "taskvec.methods.geometry": (
        "slerp", "karcher", "geometric_median", "stock", "metagpt", "norm_matched", "nuslerp", "multislerp",
    ),
    "taskvec.methods.spectrum": ("low_rank", "iso_c", "tsv_m", "iso_cts", "knots", "svc"),
    "taskvec.methods.statistics": ("fisher", "regmean"),
    "taskvec.methods.edits": ("freeze_conflicts",),
    "taskvec.methods.ablation": ("ablate",),
    "taskvec.methods.composed": ("ties", "dare_ties", "della_ties", "model_stock", "patch", "lines"),
}  # fmt: skip
FUNCTIONS = Lazy(MODULES)
