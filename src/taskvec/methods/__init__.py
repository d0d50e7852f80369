"""Merge methods, paper by paper: pure functions of float32 arrays (or of their Gram matrix), applied to Weights.

The docstring of a method says which paper it is from, its equation, the shapes, and where it deviates. Everywhere
tau_t = theta_t - theta_base is the task vector of model t, and n (or T) is the number of vectors.

sparsify.py    make one vector sparser
consensus.py   make one vector of several, entry by entry
fusion.py      select entries by size, variance or overlap
geometry.py    linear combinations whose coefficients follow from norms and angles
spectrum.py    work matrix by matrix, on singular values and vectors
statistics.py  weigh models by statistics of their data, from files that `stats` makes
edits.py       leave out layers in which two vectors conflict
ablation.py    take away directions that a model could write
composed.py    short names for expressions of these methods
core/          what applies these functions to Weights
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
