"""Quantised weights, which are recognised and refused.

A quantised tensor holds codes: numbers of a few bits, which mean something only together with the scales beside them.
The mean of two codes is not the code of the mean. So quantised tensors are never summed, and never copied into a sum as
plain integers are. Only a copy of a whole file (saving/plan.py) may hold them. They are recognised by what a checkpoint
holds, not by a list of formats:

1. A tensor whose name has a word for a scale in it (`scale`, `absmax`, `zero_point`, ...) may be a companion.
2. It is the companion of the tensor of the same module that has the rest of its name without these words:
   `w13_weight_scale` of `w13_weight`, `q_proj.scale` of `q_proj.weight`, `down_proj_scales` of `down_proj_blocks`. The
   `scale` of a norm that has no weight is nobody's companion, nor is `logit_scale` beside `in_proj_weight`.
3. A tensor of 8-bit floats, of integers or of bits with a companion is quantised. A tensor of floats of 16 bits or more
   is so only if its companion has its full name (`weight_scale`), a dtype that only scales have, or a number for each
   block or expert of it, because ordinary models have parameters called `scale` beside their weights, too.
4. No companion is needed for packed integers under a telling name (`qweight`), and in a checkpoint whose config.json
   says that it is quantised, for matrices of integers or of floats of at most 8 bits.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from taskvec.errors import MismatchError
from taskvec.sources.abilities import FromFiles
from taskvec.sources.source import Source, Spec

SHOWN = 20  # tensors that an error names at most
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
_HINTS = ("scal", "dequant", "amax", "absmax", "scb", "zero", "qbias")  # only names with one of these are looked at
_SPLIT = re.compile(r"[._:]+")
# Words for a scale, words for it that ordinary models do not use, and words for what is scaled.
_SCALE = re.compile(r"(?:q|w|de)?scales?|scaling|dequant|amax|absmax|scb|q?zeros?|qbiases")
_SURE = frozenset({"absmax", "scb", "qzeros", "qscale", "wscale", "inv"})
_PACKED = frozenset({"weight", "weights", "qweight", "packed", "blocks", "qdata", "data", "codes", "w", "q"})
_KIND = frozenset({  # words that say of what kind a scale is
    "inv", "global", "point", "points", "map", "state", "quant", "quantizer", "nested", "offset", "input", "output",
    "act", "activation", "pre", "factor", "per", "tensor", "block", "and", "max", "ub", "0", "1", "2", "3",
})  # fmt: skip
_BY_NAME = frozenset({"qweight", "qzeros", "weight_packed", "W_q"})
_SMALL = frozenset({"I8", "U8", "I16", "U16", "I32", "U32"})  # dtypes of integers that several codes are packed into


def refuse(sources: Iterable[Source]) -> None:
    """Raise MismatchError if one of the sources, which are files or arrays, holds quantised weights.

    Every part of an expression asks this, so that a checkpoint remembers the answer in its attribute `codes`.
    """
    lines: list[str] = []
    for source in sources:
        remembered = source.codes if isinstance(source, FromFiles) else None
        reasons = codes(source.specs) if remembered is None else remembered
        lines += [f"{source.text}: {reason}" for reason in reasons]
    if not lines:
        return
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    raise MismatchError(
        "quantised weights cannot be summed: their numbers mean something only together with their scales.",
        [*lines[:SHOWN], *more, WAY_OUT],
    )


def codes(specs: Mapping[str, Spec], method: str = "") -> Iterator[str]:
    """A line for each quantised tensor that says why it is one. method: how it was made, if config.json says so."""
    companions = _companions(specs)
    for name, spec in specs.items():
        if name in companions or spec.dtype not in PLAIN:
            beside = next((c for c, words in companions.get(name, ()) if _scales(words, specs[c], spec)), None)
            if beside:
                yield f"{name} is {spec} with {beside} ({specs[beside]}) beside it"
            elif reason := _alone(name.rpartition(".")[2], spec, method):
                yield f"{name} is {spec}, {reason}"


def _alone(last: str, spec: Spec, method: str) -> str:
    """Why a tensor without companions is quantised (rule 4); "" if it is not."""
    packed = spec.dtype in _SMALL and len(spec.shape) in (2, 3)
    if packed and last in _BY_NAME:
        return "under a name of packed weights"
    if method and (packed or (spec.dtype in (*FLOAT8, *BELOW_BYTES) and len(spec.shape) > 1)):
        return f"and config.json says that the model is quantised ({method})"
    return ""


def _scales(words: Words, scale: Spec, spec: Spec) -> bool:
    """Whether a companion with these words in its name makes a tensor a quantised one (rule 3)."""
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
    text = "\n".join(specs).lower()  # all names are searched at once, because most models have no such name
    hints = [hint for hint in _HINTS if hint in text]
    suspects = [name for name in specs if any(hint in name.lower() for hint in hints)] if hints else []
    owners: dict[tuple[str, Words], list[str]] = {}
    for name in specs if suspects else ():
        module, _, last = name.rpartition(".")
        words = _words(last)
        if not any(map(_SCALE.fullmatch, words)):
            owners.setdefault((module, tuple(w for w in words if w not in _PACKED)), []).append(name)
    companions: dict[str, list[tuple[str, Words]]] = {}
    for name in suspects:
        segments = name.split(".")
        if not any(map(_SCALE.fullmatch, _words(segments[-1]))):
            continue
        # The words of a scale may be in up to three segments of its name, as in q_proj.weight_quantizer.scale.
        for k in range(len(segments) - 1, max(-1, len(segments) - 4), -1):
            words = _words(".".join(segments[k:]))
            for owner in owners.get((".".join(segments[:k]), _own(words)), ()):
                companions.setdefault(owner, []).append((name, words))
    return companions


def _own(words: Words) -> Words:
    """The words in a scale's name that are those of the tensor that it belongs to."""
    return tuple(w for w in words if not (_SCALE.fullmatch(w) or w in _PACKED or w in _KIND))


def _words(text: str) -> Words:
    return tuple(word for word in _SPLIT.split(text.lower()) if word)
