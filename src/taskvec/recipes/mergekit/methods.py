"""mergekit's methods, one row each: the parameters and inputs of a method, and the expression that it stands for.

mergekit differs from the papers: it trims each tensor by itself, elects plus where the signs sum to zero, rescales by
the ratio of L1 norms, and divides by the weights of those that agree. Our methods have options for this, which these
expressions use. Sums are computed in float32, whatever the dtypes of the inputs are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from taskvec.algebra.coefficients import ZERO, Coefficient
from taskvec.algebra.weights import Weights
from taskvec.errors import MassError
from taskvec.notes import note
from taskvec.recipes.recipe import FUNCTIONS

IGNORED, OPTIONAL, REQUIRED = "ignored", "optional", "required"  # whether a method uses a base
# A parameter has one value, or one for each input, or one for each input that is not the base.
SHARED, EACH, TUNED = "shared", "each", "tuned"


@dataclass(frozen=True, slots=True)
class Call:
    """What a method is given for one slice. shared: parameter -> value. own: parameter -> a value for each model."""

    base: Weights | None
    models: tuple[Weights, ...]
    shared: Mapping[str, Coefficient]
    own: Mapping[str, tuple[Coefficient, ...]]
    flags: Mapping[str, bool]
    seed: int

    @property
    def ground(self) -> Weights:
        """The base, for a method that requires one."""
        assert self.base is not None
        return self.base

    @property
    def taus(self) -> list[Weights]:
        """Each model minus the base."""
        return [m - self.ground for m in self.models]


@dataclass(frozen=True, slots=True)
class Row:
    """A method of mergekit.

    build: makes the expression.
    numbers: parameter -> (SHARED, EACH or TUNED; the default, or None if the file must give a value).
    flags: parameter that is true or false -> default.
    least, most: the number of inputs, the base included.
    """

    build: Callable[[Call], Weights]
    numbers: Mapping[str, tuple[str, float | None]]
    flags: Mapping[str, bool]
    base: str = IGNORED
    least: int = 1
    most: int | None = None


# ---- sums ---------------------------------------------------------------------------------------------------------
def linear(call: Call) -> Weights:
    """sum w_i x_i [/ sum w_i, with normalize]."""
    total = sum((w * m for w, m in zip(call.own["weight"], call.models, strict=True)), Weights({}))
    return total / _sum(call.own["weight"]) if call.flags["normalize"] else _as_model(total)


def passthrough(call: Call) -> Weights:
    """scale * x of the one input."""
    (scale,), (model,) = call.own["scale"], call.models
    return model if scale == 1 else _as_model(scale * model)


def task_arithmetic(call: Call) -> Weights:
    """base + lambda * sum w_i tau_i [/ sum w_i, with normalize]."""
    return _joined(call, call.taus, elect=False)


def ties(call: Call) -> Weights:
    """Task vectors that are trimmed by magnitude in each tensor, with the election of signs."""
    trimmed = [_trimmed(call, t, d) for t, d in zip(call.taus, call.own["density"], strict=True)]
    return _joined(call, trimmed, elect=True)


def breadcrumbs(call: Call) -> Weights:
    """Task vectors without their largest and smallest entries, summed."""
    return _joined(call, _crumbs(call), elect=False)


def breadcrumbs_ties(call: Call) -> Weights:
    """`breadcrumbs` with the election of signs in place of the sum."""
    return _joined(call, _crumbs(call), elect=True)


def dare_linear(call: Call) -> Weights:
    """Task vectors with entries dropped at random, summed."""
    return _joined(call, _dropped(call), elect=False)


def dare_ties(call: Call) -> Weights:
    """`dare_linear` with the election of signs in place of the sum."""
    return _joined(call, _dropped(call), elect=True)


def della(call: Call) -> Weights:
    """Task vectors with entries dropped at random, small ones more often, with the election of signs."""
    return _joined(call, _pruned(call), elect=True)


def della_linear(call: Call) -> Weights:
    """`della` with the sum in place of the election of signs."""
    return _joined(call, _pruned(call), elect=False)


def _joined(call: Call, taus: list[Weights], elect: bool) -> Weights:
    """base + lambda * sum w_i tau_i; with `elect`, of each entry only those are summed that have the elected sign."""
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
    options = {"scope": "tensor", "ties": "first", "least": 1, "rescale": _norm(call)}
    return tau if density == 1 else _called("trim", tau, density=density, **options)


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
    except MassError:  # the mass differs from tensor to tensor
        pass
    return _called("as_model", weights)


def _called(name: str, *args: Weights, **params: object) -> Weights:
    """One of our methods or views, with the type that its result has."""
    result: Weights = FUNCTIONS[name](*args, **params)
    return result


# ---- geometry and the rest ---------------------------------------------------------------------------------------
def slerp(call: Call) -> Weights:
    """The point at t of the arc from the base to the other model. Vectors of zeros are allowed, as in mergekit."""
    return _called("slerp", call.ground, *call.models, t=call.shared["t"], zero="one")


def nuslerp(call: Call) -> Weights:
    """A point of the arc between two models, or between their task vectors if there is a base."""
    scope = "tensor" if call.flags["nuslerp_flatten"] else "column" if call.flags["nuslerp_row_wise"] else "row"
    return _on_taus(call, "nuslerp", weights=call.own["weight"], scope=scope)


def multislerp(call: Call) -> Weights:
    """The barycentre on the sphere of models, or of task vectors if there is a base."""
    if len(call.models) == 1:
        if call.base is not None:
            note("multislerp of one model is that model: its base and its weight have no effect")
        return call.models[0]
    normalize = "sum" if call.flags["normalize_weights"] else "none"
    return _on_taus(call, "multislerp", weights=call.own["weight"], normalize=normalize, eps=call.shared["eps"])


def karcher(call: Call) -> Weights:
    """The Karcher mean of all inputs."""
    if len(call.models) == 1:
        return call.models[0]
    numbers = {key: call.shared[key] for key in ("max_iter", "tol")}
    return _called("karcher", *call.models, zero="tol", **numbers)


def model_stock(call: Call) -> Weights:
    """base + stock(taus), tensor by tensor or row by row."""
    scope = "row" if call.flags["filter_wise"] else "tensor"
    return _called("model_stock", call.ground, *call.models, scope=scope, floor=1e-6)


def arcee_fusion(call: Call) -> Weights:
    """The base with the most important changes of the other model."""
    return _called("arcee_fusion", call.ground, *call.models)


def nearswap(call: Call) -> Weights:
    """The base, moved towards the other model where the two are near each other."""
    return _called("nearswap", call.ground, *call.models, t=call.shared["t"], floor=1e-6)


def sce(call: Call) -> Weights:
    """base + sce(taus)."""
    return call.ground + _called("sce", *call.taus, select=call.shared["select_topk"], tie="plus", floor=1e-6)


def ram(call: Call) -> Weights:
    """base + ram(taus)."""
    return call.ground + _called("ram", *call.taus, epsilon=call.shared["epsilon"])


def ramplus_tl(call: Call) -> Weights:
    """base + ramplus(taus)."""
    numbers = {key: call.shared[key] for key in ("r", "alpha", "epsilon")}
    return call.ground + _called("ramplus", *call.taus, scope="tensor", **numbers)


def _on_taus(call: Call, name: str, **params: object) -> Weights:
    """A method on task vectors, whose result is added to the base; without a base, the method on the models."""
    if call.base is None:
        return _called(name, *call.models, **params)
    return call.base + _called(name, *call.taus, **params)


def _arithmetic(build: Callable[[Call], Weights], normalize: bool, rescale: bool, **more: float) -> Row:
    """A row for a method that makes task vectors sparse and then sums them or elects signs."""
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
