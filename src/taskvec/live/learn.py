"""`learn`: the knobs of a recipe are learned by gradient, from a loss of the live module (the `torch` extra).

    family = base + tv.layerwise(a - base, "a") + tv.layerwise(b - base, "b")  # a knob for each layer and vector
    learned = tv.learn(family, module, lambda model, step: tv.entropy(model(**batch(step)).logits), start=0.3)

With the entropy of predictions on unlabelled inputs this is AdaMerging, with cross-entropy on a few labels it is aTLAS.

1. In each tensor a recipe with knobs is C + sum_m m(k) D_m: a constant C, and for each product m of knobs a direction
   D_m, which is a sum of sources. C, (*shape), and the D_m, (products, *shape), are computed once.
2. In every step the tensors are computed from the present knobs k, so that torch knows their gradients, and the module
   is called with them in place of its own parameters.
3. Adam changes the knobs. In the end the module gets the weights that the learned knobs give.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from taskvec.algebra.coefficients import Coefficient, Inverse, Knob, Monomial
from taskvec.algebra.weights import Weights
from taskvec.errors import MismatchError, MissingExtra, NonFiniteError, RecipeError
from taskvec.live.load_into import load_into
from taskvec.live.targets import fit
from taskvec.recipes.recipe import parse
from taskvec.sources.abilities import Composite
from taskvec.sources.source import Source
from taskvec.sources.text import counted

if TYPE_CHECKING:
    import torch

    Loss = Callable[[Callable[..., Any], int], torch.Tensor]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Learned:
    """The result of `learn`."""

    weights: Weights  # the model
    knobs: dict[str, float]
    losses: tuple[float, ...]  # the loss before each step

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {"model": str(self.weights), "knobs": self.knobs, "losses": list(self.losses)}

    def __str__(self) -> str:
        n = max(1, len(self.losses) // 10)
        first, last = sum(self.losses[:n]) / n, sum(self.losses[-n:]) / n
        values = [f"  {name} = {value:.4g}" for name, value in self.knobs.items()]
        steps = counted(len(self.losses), "step")
        head = f"{steps}: loss {first:.4g} -> {last:.4g} (means of {counted(n, 'step')})"
        return "\n".join([head, *values])


def learn(
    recipe: "Weights | str",
    module: "torch.nn.Module",
    loss: "Loss",
    *,
    start: float | Mapping[str, float] = 0.3,
    steps: int = 500,
    rate: float = 1e-3,
    clamp: tuple[float, float] | None = (0.0, 1.0),
    progress: Progress | None = None,
) -> Learned:
    """Minimise sum_step loss(f(.; theta(knobs)), step) over the knobs alone, with Adam.

    Each tensor is theta(k) = C + sum_m m(k) D_m, where m are the products of knobs in front of its sources.

    loss: `loss(model, step)` calls `model` as it would call the module, and returns a scalar. Gradients flow through
        torch.func.functional_call.
    start: the first value of all knobs, or one for each.
    clamp: the interval in which the knobs are kept after each step, or None.

    AdaMerging (Yang et al., 2024, arXiv 2310.02575) is the entropy of predictions on unlabelled inputs, summed over the
    tasks, with a knob for each vector, or (`layerwise(by="tensor")`) for each vector and tensor. The defaults are those
    of its code, where they were tuned on test images; take validation inputs. Deviation: its code clamps within the
    forward pass, this function after each step. aTLAS (Zhang et al., 2024, arXiv 2407.02880) is cross-entropy on few
    labels, without a clamp.

    Put the module into eval mode first. In the end it holds the learned weights. Memory: 1 + (number of products)
    float32 copies of the tensors that have knobs, so one shared knob needs two. Raises RecipeError for a recipe without
    knobs, for knobs inside a method, and for a loss that does not depend on them; NonFiniteError, with the step, for a
    loss that is not finite; MismatchError as `load_into`.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtra("learn", "torch") from None
    weights = (parse(recipe) if isinstance(recipe, str) else recipe).placed
    if isinstance(module, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
        raise RecipeError(f"learn cannot call a {type(module).__name__} with other weights: give it module.module")
    names = _knobs(weights)
    begin = _begin(names, start)
    load_into(module, weights.bind(**begin))
    parts = _parts(weights, module)
    values = torch.tensor([begin[name] for name in names], dtype=torch.float64, requires_grad=True)
    adam, losses = torch.optim.Adam([values], lr=rate), []
    frozen = {p: p.requires_grad for p in module.parameters()}
    module.requires_grad_(False)
    try:
        for step in range(steps):
            tensors = {name: part(dict(zip(names, values.unbind(), strict=True))) for name, part in parts.items()}

            def model(*args: Any, tensors: Any = tensors, **kwargs: Any) -> Any:
                return torch.func.functional_call(module, tensors, args, kwargs)

            value = loss(model, step)
            losses.append(_finite(value, step))
            adam.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            if not bool(values.grad.isfinite().all()):  # type: ignore[union-attr]
                raise NonFiniteError(f"step {step}: the gradient is not finite")
            adam.step()
            if clamp:
                with torch.no_grad():
                    values.clamp_(*clamp)
            if progress:
                progress(step + 1, steps)
    finally:
        for p, wanted in frozen.items():
            p.requires_grad_(wanted)
    knobs = dict(zip(names, (round(v, 6) for v in values.tolist()), strict=True))
    learned = weights.bind(**knobs)
    load_into(module, learned)
    return Learned(learned, knobs, tuple(losses))


def entropy(logits: "torch.Tensor") -> "torch.Tensor":
    """The mean Shannon entropy of softmax(logits) over the last axis, in nats: the loss of AdaMerging."""
    logs = logits.log_softmax(-1)
    mean: torch.Tensor = -(logs.exp() * logs).sum(-1).mean()
    return mean


# ---- theta as a function of the knobs ------------------------------------------------------------
@dataclass(frozen=True)
class _Part:
    """A tensor as a function of the knobs: constant + sum over products of (product of knobs) * direction."""

    products: tuple[Monomial, ...]
    constant: "torch.Tensor"  # (*shape)
    directions: "torch.Tensor"  # (products, *shape)
    dtype: "torch.dtype"  # of the module's parameter

    def __call__(self, values: "Mapping[str, torch.Tensor]") -> "torch.Tensor":
        """The tensor at these values of the knobs, differentiable in them."""
        import torch

        scales = torch.stack([_product(m, values) for m in self.products]).to(self.constant)
        tensor: torch.Tensor = (self.constant + torch.tensordot(scales, self.directions, dims=1)).to(self.dtype)
        return tensor


def _parts(weights: Weights, module: "torch.nn.Module") -> dict[str, _Part]:
    """The tensors that depend on knobs, under the names that they have in the module."""
    import torch

    targets, tensors = fit(module, weights), {}
    own = {id(tensor): name for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    for name, spec in weights.specs.items():
        if not spec.arithmetic:
            continue
        groups = _groups(weights, name)
        products = tuple(m for m in groups if m)
        if not products:
            continue
        target = targets[name].tensor
        if targets[name].is_sharded:
            raise MismatchError(f"learn needs whole parameters in each process, and {name} is a DTensor")
        read = {m: torch.from_numpy(_read(weights, parts, name, spec.shape)) for m, parts in groups.items()}
        constant = read.get((), torch.zeros(spec.shape))
        directions = torch.stack([read[m] for m in products])
        part = _Part(products, constant.to(target.device), directions.to(target.device), target.dtype)
        tensors[own[id(target)]] = part
    return tensors


def _groups(weights: Weights, name: str) -> dict[Monomial, dict[Source, Fraction]]:
    """For one tensor: product of knobs -> the sources that it scales, each with its number. () is the empty product."""
    groups: dict[Monomial, dict[Source, Fraction]] = {}
    for source, c in weights.terms.items():
        if name in source.specs:
            for product, number in c.reduced(weights.places[name]).terms.items():
                groups.setdefault(product, {})[source] = number
    return groups


def _read(weights: Weights, parts: Mapping[Source, Fraction], name: str, shape: tuple[int, ...]) -> Any:
    """The sum of some sources of `weights` in one tensor, (*shape) in float32."""
    import numpy as np

    partial = Weights(parts, summed=[s for s in weights.summed if s in parts])
    return np.ascontiguousarray(partial.read(name), np.float32).reshape(shape)


def _product(product: Monomial, values: "Mapping[str, torch.Tensor]") -> "torch.Tensor":
    """The value of a product of knobs, a scalar in float64."""
    result = next(iter(values.values())).new_ones(())
    for factor in product:
        if isinstance(factor, Knob):
            result = result * values[factor.name]
        else:
            assert isinstance(factor, Inverse)
            result = result / _value(factor.divisor, values)
    return result


def _value(c: Coefficient, values: "Mapping[str, torch.Tensor]") -> "torch.Tensor":
    """The value of a coefficient, a scalar in float64."""
    total = next(iter(values.values())).new_zeros(())
    for product, number in c.terms.items():
        total = total + float(number) * _product(product, values)
    return total


# ---- what is refused -----------------------------------------------------------------------------
def _knobs(weights: Weights) -> list[str]:
    """The names of the knobs. Raises RecipeError if there are none, or if some stand inside a method."""
    names = sorted(weights.knobs)
    if not names:
        raise RecipeError("the recipe has no knobs: there is nothing to learn (a name without a value is a knob)")
    if inside := sorted({k for source in weights.terms if isinstance(source, Composite) for k in source.knobs}):
        raise RecipeError(f"knobs inside a method have no gradient here: {', '.join(inside)}; search can choose them")
    return names


def _begin(names: list[str], start: float | Mapping[str, float]) -> dict[str, float]:
    """The first value of each knob. Raises RecipeError unless `start` has one for every knob and no others."""
    if not isinstance(start, Mapping):
        return dict.fromkeys(names, start)
    problems = [f"{name} is a knob without a start" for name in names if name not in start]
    problems += [f"{name} has a start and is no knob" for name in start if name not in names]
    if problems:
        raise RecipeError("start is a number, or one for every knob:", problems)
    return {name: start[name] for name in names}


def _finite(loss: "torch.Tensor", step: int) -> float:
    """The loss as a number. Raises RecipeError unless it is a scalar with a gradient, and NonFiniteError."""
    if getattr(loss, "ndim", 1) or not getattr(loss, "requires_grad", False):
        raise RecipeError(f"step {step}: loss(model, step) must return a scalar that depends on what the model gives")
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NonFiniteError(f"step {step}: the loss is {value}")
    return value
