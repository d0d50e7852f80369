"""Fine-tuning: a live module is trained on one task or several, and the change of its parameters is the task vector.

1. The module begins as the base. Only the parameters that the recipe names are trained. Heads are frozen: the base
   makes them before the training begins (evals/classification.py). BatchNorm normalises with the base's running
   statistics, which stay as they are, so a vector has none; its weights and biases are trained like all others.
2. Every epoch goes through all examples once, in an order drawn with the seed; the seed also decides dropout.
3. AdamW takes a step for each batch. The rate rises linearly over the warm-up and then falls to 0, linearly or along a
   cosine. Gradients are clipped together.
4. The change of each parameter is computed in float32 and returned. The module is left as it is then: whoever uses it
   next sets its weights first.

Seeds are fixed, so the same machine trains the same vector again. On another machine, with another number of threads or
another version of torch, the last bits may differ, and training carries such differences on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taskvec.errors import NonFiniteError, RecipeError
from taskvec.evals.task import Task
from taskvec.evals.texts import Example
from taskvec.lab.batchnorm import normalisations
from taskvec.lab.objectives import OBJECTIVES
from taskvec.lab.suite import Recipe
from taskvec.sources.text import fits_any

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training gives: the change of each trained parameter, and the loss before each step."""

    deltas: "Mapping[str, NDArray[Any]]"
    losses: tuple[float, ...]


def fine_tune(
    tasks: "Sequence[tuple[Task, Sequence[Example]]]",
    recipe: Recipe,
    seed: int,
    objective: str = "labels",
    until: float = 1.0,
    progress: Progress | None = None,
) -> Trained:
    """Train the module that these tasks share, each task on its examples, and return the change.

    objective: what is made small (objectives.py). until: stop after this share of the steps, with the schedule of all.

    Raises RecipeError for patterns that fit no parameter, and for tasks of several modules; NonFiniteError, with the
    step, where the loss is not finite.
    """
    import torch

    lives = {id(task.live): task.live for task, _ in tasks}
    if len(lives) != 1:
        raise RecipeError("tasks that are trained together must share one model")
    (live,) = lives.values()
    if live.holds is not None:
        raise RecipeError("the module must hold the base when a training begins")
    module = live.module
    parameters = chosen(module, recipe.parameters)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    wanted = {name: p.requires_grad for name, p in module.named_parameters()}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in parameters)
    optimizer = torch.optim.AdamW(parameters.values(), lr=recipe.rate, weight_decay=recipe.decay)
    loss_of, losses = OBJECTIVES[objective], []
    sizes = [len(examples) for _, examples in tasks]
    batches = plan(sum(sizes), recipe, seed)
    stop = max(1, round(until * len(batches)))
    torch.manual_seed(seed)  # dropout
    module.train()
    for layer in normalisations(module).values():
        layer.eval()
    try:
        for step, batch in enumerate(batches[:stop]):
            optimizer.param_groups[0]["lr"] = recipe.rate * rate_at(step, len(batches), recipe)
            # A context for each step: torch keeps 16-bit copies of the weights as long as one lasts.
            with torch.autocast(live.device.partition(":")[0], torch.bfloat16, enabled=bool(recipe.autocast)):
                loss = sum(
                    len(places) / len(batch) * loss_of(task, module, [examples[k] for k in places])
                    for (task, examples), places in zip(tasks, dealt(batch, sizes), strict=True)
                    if places
                )
            losses.append(_finite(loss, step))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters.values(), recipe.clip)
            optimizer.step()
            if progress:
                progress(step + 1, stop)
    finally:
        module.eval()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(wanted[name])
    deltas = {name: (p.detach().float() - before[name].float()).cpu().numpy() for name, p in parameters.items()}
    return Trained(deltas, tuple(losses))


def chosen(module: "torch.nn.Module", patterns: Sequence[str]) -> "dict[str, torch.nn.Parameter]":
    """The parameters that are trained. Raises RecipeError for a pattern that fits none."""
    names = [name for name, _ in module.named_parameters()]
    if idle := [p for p in patterns if not any(fits_any(name, [p]) for name in names)]:
        raise RecipeError("training: patterns that fit no parameter of the model:", idle)
    return {name: p for name, p in module.named_parameters() if fits_any(name, patterns)}


def plan(count: int, recipe: Recipe, seed: int) -> list[list[int]]:
    """The places of the examples of each step's batch: epoch after epoch, each in an order of its own."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    each = -(-count // recipe.batch)
    steps = recipe.steps or recipe.epochs * each
    batches: list[list[int]] = []
    while len(batches) < steps:
        order = torch.randperm(count, generator=generator).tolist()
        batches += [order[start : start + recipe.batch] for start in range(0, count, recipe.batch)]
    return batches[:steps]


def dealt(batch: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """The places of a batch among the examples of each task, where the tasks' examples stand one after the other."""
    found, first = [], 0
    for size in sizes:
        found.append([place - first for place in batch if first <= place < first + size])
        first += size
    return found


def rate_at(step: int, steps: int, recipe: Recipe) -> float:
    """The share of the recipe's rate that a step has: from 1/w up to 1 over w warm-up steps, then down towards 0."""
    warm = max(1, round(recipe.warm_up * steps))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return 0.5 * (1 + math.cos(math.pi * done)) if recipe.schedule == "cosine" else 1 - done


def _finite(loss: Any, step: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NonFiniteError(f"step {step} of the training: the loss is {value}; take a lower rate")
    return value
