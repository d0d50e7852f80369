"""BatchNorm's running statistics of an edited model: they are measured on pictures, and become a change of the base.

A BatchNorm layer turns an input x into (x - mean) / sqrt(variance + eps), with a mean and a variance for each channel
that the training of the base left in it. They are no parameters, so no vector has them, but the inputs that they
describe change when the weights are edited. `measured` estimates them anew:

1. The module takes on the model. In all BatchNorm layers the statistics are forgotten.
2. Training pictures of the given tasks go through it in batches, in which the tasks take turns. Each layer normalises
   with the statistics of the batch, as in training, and so the next layer sees what it will see.
3. A layer's mean and variance are the means of those of all batches, each counted alike.

This is what is done after averaging networks (Izmailov et al., 2018, arXiv 1803.05407, section 3). It assumes that the
statistics were those of the data before. Here they are those of other pictures, the base's, and a frozen head expects
features that were normalised with them. `repaired` changes them only by what the edit changed (Jordan et al., 2023,
REPAIR, arXiv 2211.08403). Of one channel of a layer, let m and v be the base's statistics, a and s the mean and the
standard deviation of the inputs in the fine-tuned models (the means over these models), and a' and s' those in the
edited model. Then

    v* = v (s' / s)^2        m* = a' - (s' / s) (a - m)

make the edited model's normalised values have the mean (a - m) / sqrt(v) and the standard deviation s / sqrt(v) of the
fine-tuned models. Layers are treated one after the other, so that each sees inputs that were repaired already. A model
that was not edited keeps its statistics.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from taskvec.algebra.arrays import from_arrays
from taskvec.algebra.weights import Weights
from taskvec.errors import RecipeError
from taskvec.evals.prototypes import Prototypes
from taskvec.evals.texts import Example
from taskvec.saving.batchnorm import VARIANCES

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

BATCH = 64
Statistics = Mapping[str, "NDArray[Any]"]  # tensor -> values, of all running means and variances


def has_statistics(weights: Weights) -> bool:
    """Whether this is a model with BatchNorm, by the names of its tensors."""
    return any(name.endswith(VARIANCES) for name in weights.specs)


def normalisations(module: "torch.nn.Module") -> "dict[str, torch.nn.Module]":
    """The layers of a module that have running statistics, by name."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return {name: m for name, m in module.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}


def measured(weights: Weights, tasks: "Sequence[tuple[Prototypes, Sequence[Example]]]") -> Statistics:
    """The statistics of a model on pictures of these tasks, which share one module. Raises RecipeError for tasks that
    embed no pictures."""
    import torch

    if other := [task.name for task, _ in tasks if not isinstance(task, Prototypes)]:
        raise RecipeError(f"statistics of BatchNorm are measured with tasks of pictures, and these are none: {other}")
    live = tasks[0][0].live
    module = live.take(weights)
    live.holds = None  # from here on the module holds other statistics than the weights say
    layers = normalisations(module)
    momenta = {name: layer.momentum for name, layer in layers.items()}
    for layer in layers.values():
        layer.reset_running_stats()  # type: ignore[operator]
        layer.momentum = None  # type: ignore[assignment]  # all batches count alike
        layer.train()
    turns = [(tasks[k][0], e) for k, e in _in_turns([examples for _, examples in tasks])]
    try:
        with torch.no_grad():
            for start in range(0, len(turns), BATCH):
                batch = turns[start : start + BATCH]
                if len(batch) > 1:  # one picture has no variance where a channel is a single number
                    module(pixel_values=torch.cat([task.pixels([example]) for task, example in batch]))
    finally:
        for name, layer in layers.items():
            layer.momentum = momenta[name]
            layer.eval()
    return {
        f"{name}.{kind}": getattr(layer, kind).detach().float().cpu().numpy().copy()
        for name, layer in layers.items()
        for kind in ("running_mean", "running_var")
    }


def inputs(weights: Weights, tasks: "Sequence[tuple[Prototypes, Sequence[Example]]]") -> Statistics:
    """The mean and the standard deviation of what reaches each channel of each layer, as `LAYER.mean` and `LAYER.std`.

    The layers normalise with the model's own statistics. All pictures go through it in one batch.
    """
    import torch

    seen: dict[str, torch.Tensor] = {}

    def note(name: str, layer: Any, x: "torch.Tensor") -> None:
        seen[f"{name}.mean"], seen[f"{name}.std"] = _moments(x)

    _through(weights, tasks, note)
    return {name: values.cpu().numpy() for name, values in seen.items()}


def repaired(
    weights: Weights, tasks: "Sequence[tuple[Prototypes, Sequence[Example]]]", wanted: Statistics
) -> Statistics:
    """The statistics m* and v* of an edited model: see above. wanted: a and s, the mean of several models' `inputs`."""
    import torch

    found: dict[str, torch.Tensor] = {}

    def repair(name: str, layer: Any, x: "torch.Tensor") -> None:
        mean, std = _moments(x)
        before, spread = (torch.from_numpy(wanted[f"{name}.{kind}"]).to(mean) for kind in ("mean", "std"))
        ratio = torch.where(
            (spread > 0) & (std > 0), std / spread, torch.ones_like(std)
        )  # 1 for a channel that is dead
        layer.running_mean.copy_(mean - ratio * (before - layer.running_mean))
        layer.running_var.copy_(((layer.running_var + layer.eps) * ratio**2 - layer.eps).clamp(min=0))
        for kind in ("running_mean", "running_var"):
            found[f"{name}.{kind}"] = getattr(layer, kind).detach().clone()

    _through(weights, tasks, repair)
    return {name: values.float().cpu().numpy() for name, values in found.items()}


def _moments(x: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """The mean and the standard deviation of each channel, (channels,). x: (n, channels, ...)."""
    values = x.detach().float().transpose(0, 1).flatten(1)
    return values.mean(1), values.std(1, correction=0)


def _through(
    weights: Weights, tasks: "Sequence[tuple[Prototypes, Sequence[Example]]]", see: Callable[[str, Any, Any], None]
) -> None:
    """Send all pictures through a model in one batch. `see` gets each BatchNorm layer and its input beforehand."""
    import torch

    live = tasks[0][0].live
    module = live.take(weights)
    live.holds = None  # `see` may change statistics

    def hook(name: str) -> Any:
        return lambda layer, given: see(name, layer, given[0])

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in normalisations(module).items()]
    try:
        with torch.no_grad():
            turns = _in_turns([examples for _, examples in tasks])
            module(pixel_values=torch.cat([tasks[k][0].pixels([example]) for k, example in turns]))
    finally:
        for handle in handles:
            handle.remove()


def _in_turns(of_tasks: Sequence[Sequence[Example]]) -> list[tuple[int, Example]]:
    """(the number of the task, the example): the first of each task, then the second of each, and so on."""
    numbered = [[(k, e) for e in examples] for k, examples in enumerate(of_tasks)]
    return [pair for pair in chain.from_iterable(zip_longest(*numbered)) if pair is not None]


def averaged(statistics: Sequence[Statistics]) -> Statistics:
    """The mean of several models' statistics, tensor by tensor."""
    import numpy as np

    return {name: np.mean([s[name] for s in statistics], 0) for name in statistics[0]}


def change(base: Weights, statistics: Statistics, name: str) -> Weights:
    """What has to be added to the base so that it has these statistics: a vector that is zero in all other tensors."""
    return from_arrays({n: values - base[n] for n, values in statistics.items()}, name, mass=0, base=base)
