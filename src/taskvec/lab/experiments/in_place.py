"""What edits leave behind: models that are computed from the base, and models that are edited in place.

An edit in place adds λτ to the weights and rounds the sum to their dtype. Two edits in the other order round otherwise,
and a subtraction does not undo the rounding of the addition before it. taskvec keeps the sum as a recipe and computes
the model from θ0, so equal sums are equal models.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

from taskvec.algebra.weights import Weights
from taskvec.lab.results import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

TASKVEC = "from θ0, by taskvec"
WAYS = {TASKVEC: "", "in place, float32": "float32", "in place, bfloat16": "bfloat16"}  # -> the dtype of the rounding
Steps = Sequence[tuple[str, float]]  # (task, λ) of each vector that is added; a negative λ removes it


def left_behind(
    base: Weights, vectors: Mapping[str, Weights], order: Sequence[str], lam: float
) -> tuple[Table, dict[str, tuple[float, float]]]:
    """How many values of a model depend on the order of the edits, and how many do not come back after a removal.

    Returns a table, and for each way {its name: (share by order, share by removal)}.
    """
    added = [(task, lam) for task in order]
    removed = [*added, (order[0], -lam)]
    shares, rows = {}, []
    for name, dtype in WAYS.items():
        by_order, _ = apart(base, vectors, added, added[::-1], dtype)
        by_removal, largest = apart(base, vectors, removed, added[1:], dtype)
        shares[name] = by_order, by_removal
        rows.append((name, by_order, by_removal, largest))
    table = Table(
        "What edits leave behind: values of the model that differ, in %",
        ("the model is computed", "depend on the order", "differ from the model without it", "largest difference"),
        tuple(rows),
        f"Of the trained tensors, with the vectors of the first seed and λ = {lam:g}. By order: {', '.join(order)} "
        f"added in this order and in the reverse. By removal: all added and {order[0]} removed, against the model to "
        "which it was never added.",
        plain=("largest difference",),
    )
    return table, shares


def apart(
    base: Weights, vectors: Mapping[str, Weights], one: Steps, other: Steps, dtype: str = ""
) -> tuple[float, float]:
    """(the share of the values that differ between two ways of editing, the largest difference), over all tensors of
    the vectors. dtype: that of weights which are edited in place; "" for models that are computed from the base."""
    differ, count, largest = 0, 0, 0.0
    recipes = [reduce(add, (lam * vectors[task] for task, lam in steps), base) for steps in (one, other)]
    for name in sorted({name for vector in vectors.values() for name in vector}):
        if dtype:
            first, second = (edited(base, vectors, steps, name, dtype) for steps in (one, other))
        else:
            first, second = (recipe[name] for recipe in recipes)
        differ += int((first != second).sum())
        count += first.size
        largest = max(largest, float(abs(first - second).max()))
    return differ / count, largest


def edited(base: Weights, vectors: Mapping[str, Weights], steps: Steps, name: str, dtype: str) -> "NDArray[Any]":
    """A tensor after the steps, each of which rounds it to the dtype; returned in float32."""
    import torch

    values = torch.from_numpy(base[name].copy()).to(getattr(torch, dtype))
    for task, lam in steps:
        values += (lam * torch.from_numpy(vectors[task][name])).to(values.dtype)
    return values.float().numpy()
