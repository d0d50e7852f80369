"""Whether a LoRA's weights are stored (out, in), as Linear stores them, or (in, out), as Conv1D of GPT-2 does.

PEFT knows that for each module by its class, but it saves a single `fan_in_fan_out`: that of the last module. For a
model with both kinds (a BERT encoder with a GPT-2 decoder, GPT-2 with its head) the saved value is wrong for some. So
the base decides:

1. The shape of a weight decides if it is not square.
2. For a square weight its neighbours do. The other weights of its block are of the same kind, and their shapes and
   biases show which. The names that Conv1D has in transformers must agree with them, or the saved value must.
3. Otherwise the weight stays undecided, which is an error.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from taskvec.sources.positions import layer_of
from taskvec.sources.source import Spec

CONV1D = frozenset({"c_attn", "c_proj", "c_fc", "q_attn"})  # what Conv1D are called in transformers; some Linear, too
WIDENING = frozenset({"c_attn", "c_fc"})  # those of them with more outputs than inputs
Shape = tuple[int, int]  # (out, in)


class Decision(NamedTuple):
    """For each tensor whether it is stored (in, out), and those for which that cannot be told."""

    turned: dict[str, bool]
    undecided: tuple[str, ...]


def decide(shapes: Mapping[str, Shape], flag: bool, model: Mapping[str, Spec] | None) -> Decision:
    """The orientation of every tensor. shapes: (rows of B, columns of A). model: the base's tensors, if it is known."""
    turned = dict.fromkeys(shapes, flag)
    by_name = _by_name(shapes)
    mixed = len(set(by_name.values())) > 1
    for name, (out, into) in shapes.items():
        there = model.get(name) if model else None
        if out != into and there and there.shape in ((out, into), (into, out)):
            turned[name] = there.shape == (into, out)
            mixed = mixed or turned[name] != flag
    open_ = [name for name, (out, into) in shapes.items() if out == into or model is None]
    if not open_ or (len(set(map(_module, shapes))) == 1 and not mixed):
        return Decision(turned, ())
    around = _neighbourhoods(shapes, turned, model) if model else {}
    undecided = []
    for name in open_:
        shown = _nearest(name, around)
        if shown is None:
            if mixed and by_name[name] != flag:
                undecided.append(name)
        elif shown != flag:
            turned[name] = shown
            if shown != by_name[name]:
                undecided.append(name)
    return Decision(turned, tuple(undecided))


def _by_name(names: Iterable[str]) -> dict[str, bool]:
    """Whether each weight is of a Conv1D as far as names tell: in a layer all of whose names are those of Conv1D.

    A layer is of one kind throughout; one with a `c_proj` beside a `w1` (Qwen's first) is of Linear.
    """
    layers: dict[tuple[str, int] | str, set[bool]] = {}
    of = {name: layer_of(name) or name for name in names}
    for name, layer in of.items():
        layers.setdefault(layer, set()).add(_module(name) in CONV1D)
    return {name: layers[layer] == {True} for name, layer in of.items()}


def _module(name: str) -> str:
    """The last part of a module's name: "q_proj"."""
    return name.split(".")[-2] if "." in name else ""


def _neighbourhoods(
    shapes: Mapping[str, Shape], turned: Mapping[str, bool], model: Mapping[str, Spec]
) -> dict[str, set[bool]]:
    """Part of the model ("transformer.h.0.attn") -> the kinds of its weights that can be told, True for (in, out)."""
    kinds: dict[str, set[bool]] = {}
    for name, spec in model.items():
        if not name.endswith(".weight") or len(spec.shape) != 2 or spec.shape[0] == spec.shape[1]:
            continue
        if name in shapes:
            kind: bool | None = turned[name]
        else:
            kind = _shown(name, spec.shape, model.get(f"{name.removesuffix('weight')}bias"))
        if kind is not None:
            for part in _around(name):
                kinds.setdefault(part, set()).add(kind)
    return kinds


def _shown(name: str, shape: tuple[int, ...], bias: Spec | None) -> bool | None:
    """Whether a weight that is not square is stored (in, out): its bias has an entry for each output."""
    if bias is not None and bias.shape in ((shape[0],), (shape[1],)):
        return bias.shape == (shape[1],)
    return shape[1] > shape[0] if _module(name) in WIDENING else None


def _nearest(name: str, around: Mapping[str, set[bool]]) -> bool | None:
    """The kind of the weights in the smallest part around a tensor that shows one; None if that shows both."""
    kinds = next((around[part] for part in _around(name) if part in around), set())
    return next(iter(kinds)) if len(kinds) == 1 else None


def _around(name: str) -> Iterator[str]:
    """The parts of the model that a weight is in, the smallest first, without the model as a whole."""
    part = name.removesuffix(".weight").rpartition(".")[0]
    while part:
        yield part
        part = part.rpartition(".")[0]
