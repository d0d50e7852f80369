"""Edit neural networks by arithmetic on their weights.

>>> import taskvec as tv
>>> base = tv.load("org/base")
>>> math = tv.load("org/base-math") - base
>>> tv.save(base + 0.4 * math, "edited/")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from taskvec.methods import FUNCTIONS as _METHODS
from taskvec.version import __version__
from taskvec.views import FUNCTIONS as _VIEWS

if TYPE_CHECKING:
    from taskvec.algebra.arrays import from_arrays
    from taskvec.algebra.coefficients import knob, layers, only, per, without
    from taskvec.algebra.layerwise import layerwise
    from taskvec.algebra.weights import Weights
    from taskvec.analysis.compare import compare
    from taskvec.analysis.match import match
    from taskvec.errors import TaskvecError
    from taskvec.live.learn import entropy, learn
    from taskvec.live.load_into import load_into
    from taskvec.live.stats import stats
    from taskvec.methods.core.lift import method
    from taskvec.recipes.recipe import load, parse
    from taskvec.saving.lineage import verify
    from taskvec.saving.plan import Plan, plan
    from taskvec.saving.save import Saved, save
    from taskvec.searching.interference import disentanglement
    from taskvec.searching.search import search
    from taskvec.sources.source import Source, Spec
    from taskvec.views.permuted import permute

# Module -> its public names. Imported when first asked for, so that `import taskvec` costs next to nothing.
_NAMES = {
    "errors": ("TaskvecError",),
    "sources.source": ("Source", "Spec"),
    "algebra.arrays": ("from_arrays",),
    "algebra.coefficients": ("knob", "layers", "only", "per", "without"),
    "algebra.layerwise": ("layerwise",),
    "algebra.weights": ("Weights",),
    "views.permuted": ("permute",),
    "methods.core.lift": ("method",),
    "recipes.recipe": ("load", "parse"),
    "saving.lineage": ("verify",),
    "saving.plan": ("Plan", "plan"),
    "saving.save": ("Saved", "save"),
    "analysis.compare": ("compare",),
    "analysis.match": ("match",),
    "live.learn": ("entropy", "learn"),
    "live.load_into": ("load_into",),
    "live.stats": ("stats",),
    "searching.interference": ("disentanglement",),
    "searching.search": ("search",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = [
    "Plan", "Saved", "Source", "Spec", "TaskvecError", "Weights", "compare", "disentanglement", "entropy",
    "from_arrays", "knob", "layers", "layerwise", "learn", "load", "load_into", "match", "method", "only", "parse",
    "per", "permute", "plan", "save", "search", "stats", "verify", "without", "__version__", *_METHODS, *_VIEWS,
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for functions in (_METHODS, _VIEWS):  # by the names that recipes call them: `tv.ties(a, b)` is `ties(a, b)`
        if name in functions:
            return functions[name]
    if name not in _HOME:
        raise AttributeError(f"module 'taskvec' has no attribute {name!r}")
    return getattr(import_module(f"taskvec.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
