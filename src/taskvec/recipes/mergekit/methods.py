"""mergekit's methods, one row each: the parameters and inputs of a method, and the expression that it stands for.

mergekit trims tensor by tensor, lets a sum of zero elect plus, rescales by the ratio of L1 norms, and divides by the
weights that agree. The expressions say this in the options of our methods. Sums are float32 whatever the inputs are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from taskvec.algebra.coefficients import ZERO, Coefficient
from taskvec.algebra.weights import Weights
from taskvec.errors import MassError
from taskvec.notes import note
from taskvec.recipes.recipe import FUNCTIONS

IGNORED, OPTIONAL, REQUIRED = "ignored", "optional", "required"  # what a method does with a base
SHARED, EACH, TUNED = "shared", "each", "tuned"  # one value; one an input; one an input that is not the base


@dataclass(frozen=True, slots=True)
class Call:
    """What a method is given for one slice. own: parameter -> a value for each of `models`."""

    base: Weights | None
    models: tuple[Weights, ...]
    shared: Mapping[str, Coefficient]
    own: Mapping[str, tuple[Coefficient, ...]]
    flags: Mapping[str, bool]
    seed: int

    @property
    def ground(self) -> Weights:
        """The base, of a method that cannot do without."""
        assert self.base is not None
        return self.base

    @property
    def taus(self) -> list[Weights]:
        """Each model minus the base."""
        return [m - self.ground for m in self.models]


@dataclass(frozen=True, slots=True)
class Row:
    """numbers: parameter -> (whose it is, default or None if it must be given). Counts are of all inputs."""

    build: Callable[[Call], Weights]
    numbers: Mapping[str, tuple[str, float | None]]
    flags: Mapping[str, bool]
    base: str = IGNORED
    least: int = 1
    most: int | None = None


# ---- sums ---------------------------------------------------------------------------------------------------------
def linear(call: Call) -> Weights:
    """sum w_i x_i, divided by sum w_i."""
    total = sum((w * m for w, m in zip(call.own["weight"], call.models, strict=True)), Weights({}))
    return total / _sum(call.own["weight"]) if call.flags["normalize"] else _as_model(total)


def passthrough(call: Call) -> Weights:
    """The one input, scaled where the file says so."""
    (scale,), (model,) = call.own["scale"], call.models
    return model if scale == 1 else _as_model(scale * model)


def task_arithmetic(call: Call) -> Weights:
    """base + lambda * sum w_i tau_i [/ sum w_i]."""
    return _joined(call, call.taus, elect=False)


def ties(call: Call) -> Weights:
    """Trimmed by magnitude, tensor by tensor; the elected sign; a weighted mean of those that agree."""
    return _joined(
        call, [_trimmed(call, t, d) for t, d in zip(call.taus, call.own["density"], strict=True)], elect=True
    )


def breadcrumbs(call: Call) -> Weights:
    """Without the outliers and the small ones, then summed."""
    return _joined(call, _crumbs(call), elect=False)


def breadcrumbs_ties(call: Call) -> Weights:
    """The same, then the election."""
    return _joined(call, _crumbs(call), elect=True)


def dare_linear(call: Call) -> Weights:
    """Dropped at random, then summed."""
    return _joined(call, _dropped(call), elect=False)


def dare_ties(call: Call) -> Weights:
    """The same, then the election."""
    return _joined(call, _dropped(call), elect=True)


def della(call: Call) -> Weights:
    """Dropped at random, the small ones more often; the election."""
    return _joined(call, _pruned(call), elect=True)


def della_linear(call: Call) -> Weights:
    """The same, then summed."""
    return _joined(call, _pruned(call), elect=False)


def _joined(call: Call, taus: list[Weights], elect: bool) -> Weights:
    weights, normalize = call.own["weight"], call.flags["normalize"]
    parts = [w * t for w, t in zip(weights, taus, strict=True)]
    mixed: Weights
    if elect:
        reduce = "mean" if normalize else "sum"
        mixed = FUNCTIONS["elect"](*parts, weights=weights if normalize else (), reduce=reduce, tie="plus")
    else:
        mixed = sum(parts, Weights({}))
        mixed = mixed / _sum(weights) if normalize and _sum(weights) else mixed
    return call.ground + call.shared["lambda"] * mixed


def _trimmed(call: Call, tau: Weights, density: Coefficient) -> Weights:
    found: Weights = FUNCTIONS["trim"](tau, density=density, scope="tensor", ties="first", least=1, rescale=_norm(call))
    return tau if density == 1 else found


def _crumbs(call: Call) -> list[Weights]:
    options = {"outliers": "spare", "ties": "first", "rescale": _norm(call)}
    return [
        tau if density == 1 else FUNCTIONS["breadcrumbs"](tau, density=density, gamma=gamma, **options)
        for tau, density, gamma in zip(call.taus, call.own["density"], call.own["gamma"], strict=True)
    ]


def _dropped(call: Call) -> list[Weights]:
    return [
        t if d == 1 else FUNCTIONS["dare"](t, drop=1 - d, seed=call.seed + k, rescale=_norm(call))
        for k, (t, d) in enumerate(zip(call.taus, call.own["density"], strict=True))
    ]


def _pruned(call: Call) -> list[Weights]:
    rows = zip(call.taus, call.own["density"], call.own["epsilon"], strict=True)
    return [
        t if d == 1 else FUNCTIONS["della"](t, density=d, epsilon=2 * e, seed=call.seed + k, rescale=_norm(call))
        for k, (t, d, e) in enumerate(rows)
    ]


def _norm(call: Call) -> str:
    return "l1" if call.flags["rescale"] else "none"


def _sum(weights: tuple[Coefficient, ...]) -> Coefficient:
    return sum(weights, ZERO)


def _as_model(weights: Weights) -> Weights:
    try:
        if weights.mass == 1:
            return weights
    except MassError:  # another mass for every tensor
        pass
    found: Weights = FUNCTIONS["as_model"](weights)
    return found


# ---- geometry and the rest ---------------------------------------------------------------------------------------
def slerp(call: Call) -> Weights:
    """Along the arc from the base to the other model; zero vectors are let through, as mergekit does."""
    found: Weights = FUNCTIONS["slerp"](call.ground, *call.models, t=call.shared["t"], zero="one")
    return found


def nuslerp(call: Call) -> Weights:
    """Between two models, or between their task vectors if there is a base."""
    scope = "tensor" if call.flags["nuslerp_flatten"] else "column" if call.flags["nuslerp_row_wise"] else "row"
    return _on_taus(call, "nuslerp", weights=call.own["weight"], scope=scope)


def multislerp(call: Call) -> Weights:
    """The barycentre on the sphere, of models or of task vectors."""
    if len(call.models) == 1:
        if call.base is not None:
            note("multislerp of one model is that model: the base has no part in it, and neither has a weight")
        return call.models[0]
    normalize = "sum" if call.flags["normalize_weights"] else "none"
    return _on_taus(call, "multislerp", weights=call.own["weight"], normalize=normalize, eps=call.shared["eps"])


def karcher(call: Call) -> Weights:
    """The Karcher mean of all inputs."""
    if len(call.models) == 1:
        return call.models[0]
    numbers = {key: call.shared[key] for key in ("max_iter", "tol")}
    found: Weights = FUNCTIONS["karcher"](*call.models, zero="tol", **numbers)
    return found


def model_stock(call: Call) -> Weights:
    """base + stock(taus), tensor by tensor or row by row."""
    scope = "row" if call.flags["filter_wise"] else "tensor"
    found: Weights = FUNCTIONS["model_stock"](call.ground, *call.models, scope=scope, floor=1e-6)
    return found


def arcee_fusion(call: Call) -> Weights:
    """What matters most of the other model."""
    found: Weights = FUNCTIONS["arcee_fusion"](call.ground, *call.models)
    return found


def nearswap(call: Call) -> Weights:
    """The other model where it is near."""
    found: Weights = FUNCTIONS["nearswap"](call.ground, *call.models, t=call.shared["t"], floor=1e-6)
    return found


def sce(call: Call) -> Weights:
    """base + sce(taus)."""
    found: Weights = FUNCTIONS["sce"](*call.taus, select=call.shared["select_topk"], tie="plus", floor=1e-6)
    return call.ground + found


def ram(call: Call) -> Weights:
    """base + ram(taus)."""
    found: Weights = FUNCTIONS["ram"](*call.taus, epsilon=call.shared["epsilon"])
    return call.ground + found


def ramplus_tl(call: Call) -> Weights:
    """base + ramplus(taus)."""
    numbers = {key: call.shared[key] for key in ("r", "alpha", "epsilon")}
    found: Weights = FUNCTIONS["ramplus"](*call.taus, scope="tensor", **numbers)
    return call.ground + found


def _on_taus(call: Call, name: str, **params: object) -> Weights:
    found: Weights = FUNCTIONS[name](*(call.models if call.base is None else call.taus), **params)
    return found if call.base is None else call.base + found


def _arithmetic(build: Callable[[Call], Weights], normalize: bool, rescale: bool, **more: float) -> Row:
    """A row of the family sparsify x consensus."""
    numbers: dict[str, tuple[str, float | None]] = {
        "weight": (TUNED, None),
        "density": (TUNED, 1),
        "lambda": (SHARED, 1),
    }
    numbers |= {key: (TUNED, default) for key, default in more.items()}
    return Row(build, numbers, {"normalize": normalize, "rescale": rescale, "int8_mask": False}, REQUIRED)


METHODS: Mapping[str, Row] = MappingProxyType(
    {
        "linear": Row(linear, {"weight": (EACH, None)}, {"normalize": True}),
        "passthrough": Row(passthrough, {"scale": (EACH, 1)}, {}, most=1),
        "task_arithmetic": _arithmetic(task_arithmetic, normalize=False, rescale=False),
        "ties": _arithmetic(ties, normalize=True, rescale=False),
        "dare_ties": _arithmetic(dare_ties, normalize=False, rescale=True),
        "dare_linear": _arithmetic(dare_linear, normalize=False, rescale=True),
        "breadcrumbs": _arithmetic(breadcrumbs, normalize=False, rescale=False, gamma=0.01),
        "breadcrumbs_ties": _arithmetic(breadcrumbs_ties, normalize=False, rescale=False, gamma=0.01),
        "della": _arithmetic(della, normalize=True, rescale=True, epsilon=0.15),
        "della_linear": _arithmetic(della_linear, normalize=False, rescale=True, epsilon=0.15),
        "slerp": Row(slerp, {"t": (SHARED, None)}, {}, REQUIRED, least=2, most=2),
        "nuslerp": Row(
            nuslerp, {"weight": (TUNED, None)}, {"nuslerp_flatten": True, "nuslerp_row_wise": False}, OPTIONAL, 2, 3
        ),
        "multislerp": Row(
            multislerp, {"weight": (TUNED, None), "eps": (SHARED, 1e-8)}, {"normalize_weights": True}, OPTIONAL
        ),
        "karcher": Row(karcher, {"max_iter": (SHARED, 10), "tol": (SHARED, 1e-5)}, {}),
        "model_stock": Row(model_stock, {}, {"filter_wise": False}, REQUIRED, least=3),
        "arcee_fusion": Row(arcee_fusion, {}, {}, REQUIRED, least=2, most=2),
        "nearswap": Row(nearswap, {"t": (SHARED, None)}, {}, REQUIRED, least=2, most=2),
        "sce": Row(sce, {"select_topk": (SHARED, 1)}, {"int8_mask": False}, REQUIRED),
        "ram": Row(ram, {"epsilon": (SHARED, 1e-5)}, {}, REQUIRED),
        "ramplus_tl": Row(
            ramplus_tl, {"r": (SHARED, 0.1), "alpha": (SHARED, 0.2), "epsilon": (SHARED, 1e-5)}, {}, REQUIRED
        ),
    }
)
