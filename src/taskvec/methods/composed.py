"""Names for what several methods say together. Each returns the expression it stands for, which prints as such."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from taskvec.algebra.coefficients import Coefficient, layers, only
from taskvec.algebra.weights import Weights
from taskvec.errors import MassError, RecipeError
from taskvec.methods.consensus import ELECT
from taskvec.methods.core.method import require_known
from taskvec.methods.geometry import STOCK
from taskvec.methods.sparsify import DARE, DELLA, TRIM
from taskvec.numbers.rationals import Number
from taskvec.sources.text import matches

Value = Number | Coefficient
P = ParamSpec("P")


def _checked(function: Callable[P, Weights]) -> Callable[P, Weights]:
    """The function, whose callers are told of wrong arguments as those of any other method are."""
    signature = inspect.signature(function)
    known = [p.name for p in signature.parameters.values() if p.kind is not p.VAR_POSITIONAL]

    @wraps(function)
    def call(*args: P.args, **params: P.kwargs) -> Weights:
        require_known(function.__name__, params, known)
        try:
            signature.bind(*args, **params)
        except TypeError as error:
            raise RecipeError(f"{function.__name__}: {error}") from None
        return function(*args, **params)

    return call


@_checked
def ties(
    *taus: Weights, density: Value = 0.2, scope: str = "model", reduce: str = "mean", vote: str = "sum"
) -> Weights:
    """elect(trim(tau_1), ..., trim(tau_n)): TIES-Merging (Yadav et al., NeurIPS 2023).

    Defaults of the paper: the largest 20 % of each whole vector, disjoint mean. Add it to the base:
    `base + ties(math - base, code - base)`.
    """
    return ELECT(*(TRIM(t, density=density, scope=scope) for t in taus), reduce=reduce, vote=vote)


@_checked
def dare_ties(*taus: Weights, drop: Value = 0.5, seed: Value = 0, reduce: str = "mean", vote: str = "sum") -> Weights:
    """elect(dare(tau_1), ..., dare(tau_n)), each with a seed of its own: seed, seed + 1, ...

    DARE (Yu et al., ICML 2024) before TIES' election. Without the election it is a sum, where each needs a seed of
    its own, too: `dare(a, seed=0) + dare(b, seed=1)`.
    """
    return ELECT(
        *(DARE(t, drop=drop, seed=seed + k if k else seed) for k, t in enumerate(taus)), reduce=reduce, vote=vote
    )


@_checked
def della_ties(
    *taus: Weights,
    density: Value = 0.7,
    epsilon: Value = 0.14,
    seed: Value = 0,
    reduce: str = "mean",
    vote: str = "sum",
) -> Weights:
    """elect(della(tau_1), ..., della(tau_n)), each with a seed of its own: DELLA (Deep et al., 2024) as published.

    density + epsilon/2 may be at most 1, and density - epsilon/2 must be above 0, as for `della`.
    """
    parts = (DELLA(t, density=density, epsilon=epsilon, seed=seed + k if k else seed) for k, t in enumerate(taus))
    return ELECT(*parts, reduce=reduce, vote=vote)


@_checked
def model_stock(base: Weights, *models: Weights, scope: str = "tensor", floor: Value = 0) -> Weights:
    """base + stock(model_1 - base, ..., model_n - base): Model Stock (Jang et al., ECCV 2024)."""
    if len(models) < 2:
        raise RecipeError(f"model_stock takes a base and at least two models, not {len(models)}")
    return base + STOCK(*(m - base for m in models), scope=scope, floor=floor)


@_checked
def patch(base: Weights, model: Weights, *patterns: str) -> Weights:
    """base + only(patterns)*(model - base): the tensors that fit a pattern from `model`, exactly, all others from base.

    Weight patching; with a number in front of the difference it is interpolation of those tensors (PAINT, Ilharco et
    al., NeurIPS 2022, arXiv 2208.05592, on a part). Raises RecipeError for a pattern that fits no tensor.
    """
    if wrong := [type(w).__name__ for w in (base, model) if not isinstance(w, Weights)]:
        raise RecipeError(f"patch takes a base, a model and patterns, not {', '.join(wrong)}")
    where = only(*patterns)
    if idle := [p for p in patterns if not any(matches(p, name) for name in base.specs)]:
        raise RecipeError(f"patch: no tensor fits {', '.join(idle)}")
    return base + where * (model - base)


@_checked
def lines(tau: Weights, *, alpha: Value = 0.1, beta: Value = 0.9) -> Weights:
    """layers(alpha, alpha + beta, outside=alpha) * tau: layer l of L times alpha + beta l/(L-1), alpha outside them.

    LiNeS (Wang et al., ICLR 2025, arXiv 2410.17146), for one vector or a merge of T of them: `lines(ties(a, b))`. As in
    the authors' code, tensors of no layer (embeddings, head) count as the first. They take beta = 1 - alpha for one
    vector, as here, and search alpha; for a merge alpha = ||sum_t tau_t||_1 / ||merge||_1 / T, and search beta.
    """
    if not isinstance(tau, Weights):
        raise RecipeError(f"lines works on a task vector, not on {type(tau).__name__}; parameters have names")
    if not tau.knobs and tau.kind():
        raise MassError("lines works on a task vector (mass 0), and this is a model: subtract its base")
    low = Coefficient.of(alpha)
    return layers(low, low + Coefficient.of(beta), outside=low) * tau
