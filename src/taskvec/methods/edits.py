"""Edits of one task vector because of another: layers that are left out."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from taskvec.methods.core.applied import Applied
from taskvec.methods.core.lift import Lifted
from taskvec.methods.core.method import Measured, Range
from taskvec.methods.core.passes import Pairs, one_by_one, pairs, total
from taskvec.sources.positions import layer_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _conflicts(call: Applied, threads: int, progress: Callable[[int], None]) -> Measured:
    """Tensor -> {"keep": 0 or 1}, by the sums over its layer, or over itself with scope="tensor"."""
    sums = pairs(call, threads, progress)
    by_layer = call.params["scope"] == "layer"
    groups: dict[object, list[Pairs]] = {}
    for name, parts in sums.items():
        groups.setdefault((by_layer and layer_of(name)) or name, []).extend(parts)
    measured = {group: _agreement(parts) for group, parts in groups.items()}
    found = {}
    for name in sums:
        cosine, against = measured[(by_layer and layer_of(name)) or name]
        limits = call.numbers(name)
        found[name] = {"keep": float(not (cosine < limits["cosine"] or against > limits["conflict"]))}  # type: ignore[operator]
    return found


def _agreement(parts: list[Pairs]) -> tuple[float, float]:
    """(cosine, share of opposite signs) of two vectors; nan where one is zero, which conflicts with nothing."""
    xx, xy, yy = (total([p[pair][0] for p in parts]) for pair in ((0, 0), (0, 1), (1, 1)))
    both, against = (sum(p[0, 1][k] for p in parts) for k in (1, 2))
    size = math.sqrt(xx) * math.sqrt(yy)
    return xy / size if size else math.nan, against / both if both else math.nan


def freeze_conflicts(
    tau: "NDArray[Any]",
    other: "NDArray[Any]",
    *,
    cosine: float = 0.0,
    conflict: float = 1.0,
    scope: str = "layer",
    keep: float,
) -> "NDArray[Any]":
    """tau without the layers l in which it works against `other`; the remaining layers stay as they are.

    A layer is set to 0 if cos(tau_l, other_l) < cosine, or if the signs differ in a share of more than `conflict` of
    the entries that are nonzero in both. These are the conflicts that TIES-Merging counts (Yadav et al., NeurIPS 2023,
    arXiv 2306.01708, section 3). TIES decides entry by entry, and this decides layer by layer. No paper has this rule,
    so the defaults drop only layers that point against `other` as a whole.

    tau, other: two task vectors, float32, of one shape. The result has that shape.
    cosine, conflict: may differ from tensor to tensor. A vector that is zero in a layer conflicts with nothing there.
    scope: "layer" decides for all tensors of a layer together, and for a tensor of no layer on its own; "tensor"
        decides for each tensor on its own.

    One pass over the data decides before the one that writes.
    """
    import numpy as np

    return tau if keep else np.zeros_like(tau)


METHODS = (
    Lifted(
        freeze_conflicts, local=True, measure=one_by_one(_conflicts), passes=1, least=2, most=2,
        ranges={"cosine": Range(-1, 1), "conflict": Range(0, 1)}, choices={"scope": ("layer", "tensor")},
    ),
)  # fmt: skip
