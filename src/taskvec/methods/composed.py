"""Short names for expressions of other methods.

Each function returns the expression that the first line of its docstring shows. To print the result prints it, too.
"""

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
    """The function, with the errors for wrong arguments and parameters that every other method has."""
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
    """elect(trim(tau_1), ..., trim(tau_n)): TIES-Merging (Yadav et al., NeurIPS 2023, arXiv 2306.01708).

    The defaults are those of the paper: the largest 20 % of each whole vector, and the disjoint mean. Add the result to
    the base: `base + ties(math - base, code - base)`.

    taus: n task vectors. density, scope: as in `trim`. reduce, vote: as in `elect`.
    """
    return ELECT(*(TRIM(t, density=density, scope=scope) for t in taus), reduce=reduce, vote=vote)


@_checked
def dare_ties(*taus: Weights, drop: Value = 0.5, seed: Value = 0, reduce: str = "mean", vote: str = "sum") -> Weights:
    """elect(dare(tau_1), ..., dare(tau_n)), each with a seed of its own: seed, seed + 1, ...

    DARE (Yu et al., ICML 2024, arXiv 2311.03099), followed by the election of TIES. DARE without the election is a sum,
    in which each vector needs a seed of its own, too: `dare(a, seed=0) + dare(b, seed=1)`.

    taus: n task vectors. drop, seed: as in `dare`. reduce, vote: as in `elect`.
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
    """elect(della(tau_1), ..., della(tau_n)), each with a seed of its own: DELLA (Deep et al., 2024, arXiv 2406.11617).

    taus: n task vectors. density, epsilon, seed: as in `della`; density + epsilon/2 may be at most 1, and density -
        epsilon/2
    must be above 0. reduce, vote: as in `elect`.
    """
    parts = (DELLA(t, density=density, epsilon=epsilon, seed=seed + k if k else seed) for k, t in enumerate(taus))
    return ELECT(*parts, reduce=reduce, vote=vote)


@_checked
def model_stock(base: Weights, *models: Weights, scope: str = "tensor", floor: Value = 0) -> Weights:
    """base + stock(model_1 - base, ..., model_n - base): Model Stock (Jang et al., ECCV 2024, arXiv 2403.19522).

    base, models: a base and at least two models fine-tuned from it. scope, floor: as in `stock`.
    """
    if len(models) < 2:
        raise RecipeError(f"model_stock takes a base and at least two models, not {len(models)}")
    return base + STOCK(*(m - base for m in models), scope=scope, floor=floor)


@_checked
def patch(base: Weights, model: Weights, *patterns: str) -> Weights:
    """base + only(patterns)*(model - base): tensors that fit a pattern come from `model`, all others from base.

    This is weight patching. With a number in front of the difference it interpolates these tensors (PAINT, Ilharco et
    al., NeurIPS 2022, arXiv 2208.05592, for a part of the model). Raises RecipeError for a pattern that fits no tensor.
    """
    if wrong := [type(w).__name__ for w in (base, model) if not isinstance(w, Weights)]:
        raise RecipeError(f"patch takes a base, a model and patterns, not {', '.join(wrong)}")
    where = only(*patterns)
    if idle := [p for p in patterns if not any(matches(p, name) for name in base.specs)]:
        raise RecipeError(f"patch: no tensor fits {', '.join(idle)}")
    return base + where * (model - base)


@_checked
def lines(tau: Weights, *, alpha: Value = 0.1, beta: Value = 0.9) -> Weights:
    """layers(alpha, alpha + beta, outside=alpha) * tau: layer l of L is multiplied by alpha + beta l/(L-1).

    LiNeS (Wang et al., ICLR 2025, arXiv 2410.17146), for one vector or a merge of n of them: `lines(ties(a, b))`. As in
    the authors' code, tensors of no layer (embeddings, head) count as the first layer. For one vector the authors take
    beta = 1 - alpha, as here, and search for alpha. For a merge they take alpha = ||sum_t tau_t||_1 / ||merge||_1 / n,
    and search for beta.

    tau: one task vector whose number of layers is known; for an adapter alone write `lines(base + lora - base)`.
    """
    if not isinstance(tau, Weights):
        raise RecipeError(f"lines works on a task vector, not on {type(tau).__name__}; parameters have names")
    if not tau.knobs and tau.kind():
        raise MassError("lines works on a task vector (mass 0), and this is a model: subtract its base")
    low = Coefficient.of(alpha)
    return layers(low, low + Coefficient.of(beta), outside=low) * tau
