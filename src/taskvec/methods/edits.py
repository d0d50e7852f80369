"""Edits of one task vector because of another: `freeze_conflicts` leaves out the layers in which the two conflict."""

import math
from typing import TYPE_CHECKING, Any

from taskvec.methods.core.lift import Lifted
from taskvec.methods.core.measurement import Measurement
from taskvec.methods.core.method import Range, Told
from taskvec.methods.core.pairs import PairSums
from taskvec.methods.core.passes import Progress, one_by_one, pairs, total
from taskvec.methods.core.roles import Scope, Setting
from taskvec.sources.positions import layer_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _conflicts(m: Measurement, threads: int, progress: Progress) -> Told:
    """Tensor -> {"keep": 0 or 1}, decided by the sums over its layer, or over the tensor alone."""
    sums = pairs(m, threads, progress)
    groups = {name: (m.scope is Scope.LAYER and layer_of(name)) or name for name in sums}
    of_groups: dict[object, list[PairSums]] = {}
    for name, pieces in sums.items():
        of_groups.setdefault(groups[name], []).extend(pieces)
    measured = {group: _agreement(pieces) for group, pieces in of_groups.items()}
    told = {}
    for name, group in groups.items():
        cosine, against = measured[group]
        limits = m.numbers(name)
        told[name] = {"keep": float(not (cosine < limits["cosine"] or against > limits["conflict"]))}  # type: ignore[operator]
    return told


def _agreement(pieces: list[PairSums]) -> tuple[float, float]:
    """(cosine, share of opposite signs) of two vectors. NaN if one is zero, which conflicts with nothing."""
    xx, xy, yy = (total([piece[pair].dot for piece in pieces]) for pair in ((0, 0), (0, 1), (1, 1)))
    both, against = sum(piece[0, 1].both for piece in pieces), sum(piece[0, 1].against for piece in pieces)
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
        ranges={"cosine": Range(-1, 1), "conflict": Range(0, 1)},
        scope=Setting("scope", {"layer": Scope.LAYER, "tensor": Scope.TENSOR}),
    ),
)  # fmt: skip
