"""Where a tensor stands in a model, which its name tells: in which layer, and whether it is an embedding or a head."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

# Heads, each with the embeddings that it may be tied to. A checkpoint leaves out a head that is tied to its embedding.
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
# The ends of the names of embeddings: outside the layers these and the heads have a row for each token.
EMBEDDINGS = (
    "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight",
    "backbone.embeddings.weight", "shared.weight",
)  # fmt: skip
BIASES = (*(head.removesuffix("weight") + "bias" for head in HEADS), "cls.predictions.bias")
_LAYER = re.compile(r"^(?:(.*?)\.)?(\d+)(?:\.|$)")


def layer_of(name: str) -> tuple[str, int] | None:
    """The stack and the layer of a tensor: "model.layers.3.mlp.up.weight" -> ("model.layers", 3). None for no layer."""
    match = _LAYER.match(name)
    return (match[1] or "", int(match[2])) if match else None


def by_token(name: str) -> bool:
    """Whether a tensor, by its name, has a row for each token: an embedding, a head or its bias."""
    known = name in HEADS or name in BIASES or f".{name}".endswith(tuple(f".{end}" for end in EMBEDDINGS))
    return known and layer_of(name) is None


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor's name and the depth of its layer: from 0, the first of its stack, to 1, the last; None for no layer."""

    name: str
    depth: Fraction | None = None


def places(names: Iterable[str]) -> dict[str, Place]:
    """The place of every tensor. Layer l has depth l / (L-1), where L is the number of layers that the names show."""
    layers = {name: layer_of(name) for name in names}
    last: dict[str, int] = {}  # stack -> its last layer, L-1
    for stack, layer in filter(None, layers.values()):
        last[stack] = max(layer, last.get(stack, 0))
    return {name: Place(name, Fraction(at[1], last[at[0]] or 1) if at else None) for name, at in layers.items()}
