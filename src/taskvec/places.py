"""Where a tensor stands among the layers: read from its name."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

_LAYER = re.compile(r"^(?:(.*?)\.)?(\d+)(?:\.|$)")


def layer_of(name: str) -> tuple[str, int] | None:
    """A tensor's stack and layer: "model.layers.3.mlp.up.weight" -> ("model.layers", 3); else None."""
    found = _LAYER.match(name)
    return (found[1] or "", int(found[2])) if found else None


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor's name and its relative depth in its stack of layers: 0 the first, 1 the last, None outside them."""

    name: str
    depth: Fraction | None = None


def places(names: Iterable[str]) -> dict[str, Place]:
    """The place of every name, depths over the layers that the names show: layer l of L has depth l / (L-1)."""
    found = {name: layer_of(name) for name in names}
    last: dict[str, int] = {}
    for layer in found.values():
        if layer:
            last[layer[0]] = max(layer[1], last.get(layer[0], 0))
    depths = {n: Fraction(at[1], last[at[0]] or 1) if at else None for n, at in found.items()}
    return {name: Place(name, depth) for name, depth in depths.items()}
