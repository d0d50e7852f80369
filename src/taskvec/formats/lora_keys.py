"""The tensors of a LoRA's file: which belong together, and which tensor of the base each pair changes.

PEFT writes `base_model.model.<module>.lora_A.weight`. Other programs write the same with the adapter's name
(`lora_A.default.weight`), without the prefix, or within the wrappers of torch.compile, DDP and FSDP. What can be read
in one way only is read; every other tensor is named in an error.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from taskvec.formats.adapter_config import ATTENTION, MERGE, Ranks
from taskvec.formats.factors import CONFIG
from taskvec.sources.source import Spec

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})  # parts of no model's names
OUTSIDE = ("module", "_forward_module")  # wrappers that stand before PEFT's prefix
LAYER = ".base_layer"
_KEY = re.compile(
    r"^(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.(?!(?:weight|bias)$)(?P<adapter>[^.]+))?"
    r"(?:\.weight)?$"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """The factors of one tensor: the names of A (rank, in) and B (out, rank), and how to join them."""

    a: str
    b: str
    rank: int
    scale: float
    transposed: bool  # the weight is stored (in, out): delta = scale * (B @ A).T
    embedding: bool = False  # the weight is an embedding, which is always stored so


@dataclass(slots=True)
class Tensors:
    """What the tensors of a file are. pairs: tensor of the base -> its factors. copies: tensor of the base -> the copy
    of it that PEFT put beside the factors. problems: a sentence for each of the others."""

    pairs: dict[str, Pair] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Sides:
    embedding: bool
    keys: dict[str, str] = field(default_factory=dict)


def read_keys(specs: Mapping[str, Spec], config: Mapping[str, Any], ranks: Ranks) -> Tensors:
    """What the tensors of a file are. Raises ValueError if the configuration's patterns take too long to match."""
    tensors = Tensors()
    modules: dict[str, _Sides] = {}
    adapters: set[str] = set()
    others: list[str] = []
    for key, spec in specs.items():
        if not (parts := _KEY.match(key)):
            others.append(key)
        elif problem := _no_factor(key, spec):
            tensors.problems.append(problem)
        else:
            adapters.add(parts["adapter"] or "")
            sides = modules.setdefault(module_of(parts["module"]), _Sides(bool(parts["embedding"])))
            if (before := sides.keys.setdefault(parts["side"], key)) != key or sides.embedding != bool(
                parts["embedding"]
            ):
                tensors.problems.append(f"{key} and {before} are the same factor of one module: one must go")
    if len(adapters) > 1:
        names = ", ".join(sorted(repr(name) for name in adapters))
        tensors.problems.append(f"the file holds several adapters ({names}): save each in a folder of its own")
    for key in others:
        _read_other(key, modules, tensors)
    for module, sides in modules.items():
        _read_pair(module, sides, specs, modules, config, ranks, tensors)
    return tensors


def module_of(path: str) -> str:
    """The name that a module has in the base model, without PEFT's prefix and without wrappers."""
    parts = [part for part in path.split(".") if part not in WRAPPERS]
    for at in range(len(parts) - 1):
        if parts[at : at + 2] == ["base_model", "model"]:
            outer = parts[:at]
            while outer and outer[0] in OUTSIDE:
                del outer[0]
            return ".".join(outer + parts[at + 2 :])
    return ".".join(parts)


def _no_factor(key: str, spec: Spec) -> str | None:
    if 0 in spec.shape or len(spec.shape) < 2:
        return (
            f"{key} is {spec}: only matrices can be multiplied (an empty or flat one is a shard that was not gathered "
            "before it was saved, under DeepSpeed ZeRO-3 or FSDP: save the adapter again)"
        )
    if len(spec.shape) > 2:
        return f"{key} is {spec}: only matrices can be multiplied, and this is a convolution's factor: {MERGE}"
    return None if spec.arithmetic else f"{key} is {spec}: only matrices of floats can be multiplied"


def _read_other(key: str, modules: Mapping[str, _Sides], tensors: Tensors) -> None:
    """A tensor that is no factor: the copy of a layer that PEFT puts beside an embedding's factors, or a problem."""
    path, _, parameter = key.rpartition(".")
    module = module_of(path.removesuffix(LAYER))
    if path.endswith(LAYER) and module in modules:
        tensors.copies[f"{module}.{parameter}"] = key
    else:
        tensors.problems.append(f"{key} is no lora_A or lora_B but {_what_is(key)}: {MERGE}")


def _what_is(key: str) -> str:
    if "trainable_tokens" in key:
        return "rows of an embedding that were trained, too (trainable_token_indices)"
    if "lora_magnitude_vector" in key:
        return "the norms of DoRA"
    if re.search(r"\.lora_[AB](\.[^.]+)?\.bias$", key):
        return "a bias of a factor (lora_bias)"
    if key.endswith(".alpha"):
        return "a scale of its own, as kohya's programs write it"
    if ".lora_" in key or ".hada_" in key or ".lokr_" in key:
        return "a tensor of another kind of adapter"
    return (
        "a whole tensor, as PEFT saves one for modules_to_save, or with an embedding whose vocabulary was resized "
        "(save_embedding_layers)"
    )


def _read_pair(
    module: str,
    sides: _Sides,
    specs: Mapping[str, Spec],
    modules: Mapping[str, _Sides],
    config: Mapping[str, Any],
    ranks: Ranks,
    tensors: Tensors,
) -> None:
    if sides.keys.keys() != {"A", "B"}:
        tensors.problems.append(f"{module} has only lora_{next(iter(sides.keys))}")
        return
    a, b = sides.keys["A"], sides.keys["B"]
    rank = specs[a].shape[0]
    if specs[b].shape[1] != rank:
        tensors.problems.append(f"{module}: A is {list(specs[a].shape)}, B is {list(specs[b].shape)}")
        return
    targets = config.get("target_parameters") or []
    name = tensor_of(module, targets, config.get("target_modules"), modules)
    owner = module.removesuffix(ATTENTION)
    wanted, scale = ranks.of(owner if owner in modules else module)
    if rank != wanted:
        tensors.problems.append(_wrong_rank(module, rank, wanted, bool(targets)))
    elif not name:
        tensors.problems.append(_several(module, bool(targets)))
    elif name in tensors.pairs:
        tensors.problems.append(f"{name} has two pairs of factors, of {tensors.pairs[name].a} and of {a}: one must go")
    else:
        turned = sides.embedding or bool(config.get("fan_in_fan_out"))
        tensors.pairs[name] = Pair(a, b, rank, scale, turned, sides.embedding)


def tensor_of(module: str, parameters: Iterable[str], targets: Any, modules: Mapping[str, Any]) -> str | None:
    """The tensor of the base that a module's factors change; None if that cannot be told."""
    stem = module.removesuffix(LAYER)
    if stem != module and (parameters or stem in modules):
        return None
    dotted = f".{stem}"
    own = {p.rpartition(".")[2] for p in parameters if dotted.endswith(f".{p.rpartition('.')[0]}")}
    if not own:
        return f"{stem}.weight"
    as_module = isinstance(targets, list) and any(isinstance(t, str) and dotted.endswith(f".{t}") for t in targets)
    return f"{stem}.{own.pop()}" if len(own) == 1 and not as_module else None


def _wrong_rank(module: str, rank: int, wanted: int, parameters: bool) -> str:
    if parameters and rank % wanted == 0:
        return (
            f"{module}: its factors have {rank} = {rank // wanted} x {wanted} rows, those of {rank // wanted} experts "
            f"in one tensor (target_parameters), which are no plain product: {MERGE}"
        )
    return (
        f"{module}: its factors have the rank {rank}, and {CONFIG} says {wanted}, by which the scale would be wrong "
        "(PEFT refuses it, too): write the r or rank_pattern that it was trained with"
    )


def _several(module: str, parameters: bool) -> str:
    what = "parameters of one module (target_parameters)" if parameters else "adapters on top of one another"
    return f"{module}: factors of several {what} lie nested, which the names do not tell apart: {MERGE}"
