"""Quantised weights: numbers of a few bits that mean something only together with scales that lie beside them.

The mean of two such codes is not the code of the mean, so they are never summed, nor passed through as if they were
plain integers. Only a copy of a whole file (saving/plan.py), which changes no byte, may hold them. No list of formats
decides, but what a checkpoint holds:

1. A tensor whose name has a word for a scale in it (`scale`, `absmax`, `zero_point`, ...) is a companion.
2. It belongs to the tensor of the same module whose name is left when those words are taken away: `w13_weight_scale`
   to `w13_weight`, `q_proj.scale` to `q_proj.weight`, `down_proj_scales` to `down_proj_blocks`. A module that has a
   `scale` and no weight, such as a norm, or a `logit_scale` beside `in_proj_weight`, has no companion.
3. A tensor of 8-bit floats, of integers or of bits with a companion is quantised. Ordinary models have floating point
   tensors with a parameter `scale` beside them, so a tensor of 16 bits or more needs more: a companion of its very name
   (`weight_scale`), one of a dtype that only scales have, or one that has a number for each block or expert of it.
4. Packed integers that have only their name (`qweight`), and every matrix of integers or of floats of at most 8 bits in
   a checkpoint whose config.json says how it was quantised, need no companion.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from taskvec.errors import MismatchError
from taskvec.sources.abilities import FromFiles
from taskvec.sources.source import Source, Spec

SHOWN = 20  # tensors that an error names
WAY_OUT = (
    "take the 16-bit checkpoint that they were made from, or de-quantise first, with the library that quantised them: "
    "in transformers, from_pretrained with a quantization_config that has dequantize=True, or model.dequantize(), and "
    "then save_pretrained"
)
FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
OF_SCALES = ("F8_E8M0", "U8")  # dtypes of scales that are powers of two: their exponents
BELOW_BYTES = ("F4", "F6_E2M3", "F6_E3M2")
PLAIN = ("F16", "BF16", "F32", "F64")
Words = tuple[str, ...]
_HINTS = ("scal", "amax", "absmax", "scb", "zero", "qbias")  # few names have one of these in them
_SPLIT = re.compile(r"[._:]+")
_SCALE = re.compile(
    r"(?:q|w|de)?scales?|scaling|dequant|amax|absmax|scb|q?zeros?|qbiases"
)  # words that say that a tensor scales another one,
_SURE = frozenset({"absmax", "scb", "qzeros", "qscale", "wscale", "inv"})  # and those that leave no doubt of it
_PACKED = frozenset(
    {"weight", "weights", "qweight", "packed", "blocks", "qdata", "data", "codes", "w", "q"}
)  # of what is scaled
_KIND = frozenset({  # words that say of what kind a scale is
    "inv", "global", "point", "points", "map", "state", "quant", "quantizer", "nested", "offset", "input", "output",
    "act", "activation", "pre", "factor", "per", "tensor", "block", "and", "max", "ub", "0", "1", "2", "3",
})  # fmt: skip
_BY_NAME = frozenset({"qweight", "qzeros", "weight_packed", "W_q"})
_SMALL = frozenset({"I8", "U8", "I16", "U16", "I32", "U32"})  # integers that weights are packed into


def refuse(sources: Iterable[Source]) -> None:
    """Raise MismatchError if one of the sources, which are files or arrays, holds quantised weights. Every part of an
    expression asks this, so a checkpoint remembers the lines about it in an attribute of that name, `codes`."""
    found = ((source, source.codes if isinstance(source, FromFiles) else None) for source in sources)
    lines = [f"{s.text}: {line}" for s, its in found for line in (codes(s.specs) if its is None else its)]
    if not lines:
        return
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    raise MismatchError(
        "quantised weights cannot be summed: their numbers mean something only together with their scales.",
        [*lines[:SHOWN], *more, WAY_OUT],
    )


def codes(specs: Mapping[str, Spec], method: str = "") -> Iterator[str]:
    """The quantised tensors, a line each that says why. `method`: what config.json says of how they were made."""
    companions = _companions(specs)
    for name, spec in specs.items():
        if name in companions or spec.dtype not in PLAIN:
            beside = next((c for c, words in companions.get(name, ()) if _scales(words, specs[c], spec)), None)
            if beside:
                yield f"{name} is {spec} with {beside} ({specs[beside]}) beside it"
            elif reason := _alone(name.rpartition(".")[2], spec, method):
                yield f"{name} is {spec}, {reason}"


def _alone(last: str, spec: Spec, method: str) -> str:
    """Why a tensor without companions is one of codes (rule 4), "" if it is none."""
    packed = spec.dtype in _SMALL and len(spec.shape) in (2, 3)
    if packed and last in _BY_NAME:
        return "under a name of packed weights"
    if method and (packed or (spec.dtype in (*FLOAT8, *BELOW_BYTES) and len(spec.shape) > 1)):
        return f"and config.json says that the model is quantised ({method})"
    return ""


def _scales(words: Words, scale: Spec, spec: Spec) -> bool:
    """Whether what stands beside a tensor under the words of a scale makes its numbers codes (rule 3)."""
    if spec.dtype in FLOAT8:
        return scale.dtype != spec.dtype and scale.numel <= max(1, spec.numel)
    if spec.dtype not in PLAIN:
        return spec.dtype not in ("BOOL", "C64")
    if len(spec.shape) < 2:
        return False
    blocks = len(scale.shape) == len(spec.shape) and all(
        1 < few < many for few, many in zip(scale.shape[-2:], spec.shape[-2:], strict=True)
    )
    experts = len(spec.shape) == 3 and scale.shape[:1] == spec.shape[:1] != (1,) and bool(_own(words))
    return "weight" in words or not _SURE.isdisjoint(words) or scale.dtype in OF_SCALES or blocks or experts


def _companions(specs: Mapping[str, Spec]) -> dict[str, list[tuple[str, Words]]]:
    """Tensor -> the scales that belong to it (rule 2), each with the words of its name within their module."""
    text = "\n".join(specs).lower()  # of all names at once: most models have no such name
    hints = [hint for hint in _HINTS if hint in text]
    suspects = [name for name in specs if any(hint in name.lower() for hint in hints)] if hints else []
    owners: dict[tuple[str, Words], list[str]] = {}
    for name in specs if suspects else ():
        module, _, last = name.rpartition(".")
        words = _words(last)
        if not any(map(_SCALE.fullmatch, words)):
            owners.setdefault((module, tuple(w for w in words if w not in _PACKED)), []).append(name)
    found: dict[str, list[tuple[str, Words]]] = {}
    for name in suspects:
        segments = name.split(".")
        if not any(map(_SCALE.fullmatch, _words(segments[-1]))):
            continue
        for k in range(len(segments) - 1, max(-1, len(segments) - 4), -1):  # weight_quantizer.scale has two of them
            words = _words(".".join(segments[k:]))
            for owner in owners.get((".".join(segments[:k]), _own(words)), ()):
                found.setdefault(owner, []).append((name, words))
    return found


def _own(words: Words) -> Words:
    """What is left of a scale's words: those of the tensor that it belongs to."""
    return tuple(w for w in words if not (_SCALE.fullmatch(w) or w in _PACKED or w in _KIND))


def _words(text: str) -> Words:
    return tuple(word for word in _SPLIT.split(text.lower()) if word)
