"""Editing neural networks by arithmetic on their weights.

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
    from taskvec.alignment import match
    from taskvec.arrays import from_arrays
    from taskvec.coefficients import knob, layers, only, per, without
    from taskvec.engine import Saved, save
    from taskvec.errors import TaskvecError
    from taskvec.grains import layerwise
    from taskvec.interference import disentanglement
    from taskvec.learning import entropy, learn
    from taskvec.lineage import verify
    from taskvec.live import load_into
    from taskvec.measures import compare
    from taskvec.methods.lift import method
    from taskvec.permuted import permute
    from taskvec.planning import Plan, plan
    from taskvec.recipe import load, parse
    from taskvec.searching import search
    from taskvec.source import Source, Spec
    from taskvec.statistics import stats
    from taskvec.weights import Weights

# Public name -> its module. Imported when first asked for, so that `import taskvec` costs next to nothing.
_HOME = {
    "Plan": "planning", "Saved": "engine", "Source": "source", "Spec": "source", "TaskvecError": "errors",
    "Weights": "weights", "compare": "measures", "disentanglement": "interference", "entropy": "learning",
    "from_arrays": "arrays", "knob": "coefficients", "layers": "coefficients", "layerwise": "grains",
    "learn": "learning", "load": "recipe", "load_into": "live", "method": "methods.lift",
    "only": "coefficients", "match": "alignment", "parse": "recipe", "per": "coefficients", "permute": "permuted",
    "plan": "planning", "save": "engine", "search": "searching", "stats": "statistics", "verify": "lineage",
    "without": "coefficients",
}  # fmt: skip
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
