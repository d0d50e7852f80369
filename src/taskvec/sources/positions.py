"""Where a tensor stands in a model: read from its name."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

# Heads that a checkpoint leaves out where they are its embedding, each with the embeddings that they may be tied to.
TIED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "lm_head.weight": (
            "model.embed_tokens.weight", "model.language_model.embed_tokens.weight",
            "model.decoder.embed_tokens.weight", "transformer.wte.weight", "transformer.word_embeddings.weight",
            "backbone.embeddings.weight", "shared.weight",
        ),
        "language_model.lm_head.weight": ("language_model.model.embed_tokens.weight",),
        "lm_head.decoder.weight": ("roberta.embeddings.word_embeddings.weight",),
        "cls.predictions.decoder.weight": ("bert.embeddings.word_embeddings.weight",),
        "embed_out.weight": ("gpt_neox.embed_in.weight",),
        "proj_out.weight": ("model.decoder.embed_tokens.weight",),
        "output.weight": ("tok_embeddings.weight",),
    }
)  # fmt: skip
HEADS = tuple(TIED)
# The tensors of no layer that have a row for each token, beside the heads: by the ends of their names.
EMBEDDINGS = (
    "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight",
    "backbone.embeddings.weight", "shared.weight",
)  # fmt: skip
BIASES = (*(head.removesuffix("weight") + "bias" for head in HEADS), "cls.predictions.bias")
_LAYER = re.compile(r"^(?:(.*?)\.)?(\d+)(?:\.|$)")


def layer_of(name: str) -> tuple[str, int] | None:
    """A tensor's stack and layer: "model.layers.3.mlp.up.weight" -> ("model.layers", 3); else None."""
    found = _LAYER.match(name)
    return (found[1] or "", int(found[2])) if found else None


def by_token(name: str) -> bool:
    """Whether a tensor, by its name, has a row for each token: an embedding, a head or its bias."""
    known = name in HEADS or name in BIASES or f".{name}".endswith(tuple(f".{end}" for end in EMBEDDINGS))
    return known and layer_of(name) is None


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
