"""The tensors of a live torch module that can be set, by name, and the reasons why some cannot be set.

A parameter need not be a plain array. Before anything is written, `fit` refuses parameters that cannot be set: those
without memory, those that keep their numbers in a form of their own, and those whose elements share memory.
"""

import math
import sys
from collections.abc import Collection, Container, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from taskvec.algebra.weights import Weights
from taskvec.errors import MismatchError
from taskvec.numbers.dtypes import CODES, LONG_NAMES

if TYPE_CHECKING:
    import torch

# Parts of a name that wrappers add: torch.compile, activation checkpointing, FullyShardedDataParallel.
WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


class Target(NamedTuple):
    """A parameter or buffer, and `memory`: the tensor that lies in the memory of this process, outside any graph.

    This is the whole tensor, or for a DTensor (FSDP2, tensor parallelism) the shard of this process.
    """

    tensor: "torch.Tensor"
    memory: "torch.Tensor"
    is_sharded: bool

    @classmethod
    def of(cls, tensor: "torch.Tensor") -> "Target":
        """The target that a tensor of a module is."""
        if is_distributed(tensor):
            return cls(tensor, tensor.to_local().detach(), True)  # type: ignore[attr-defined]
        return cls(tensor, tensor.detach(), False)

    @property
    def place(self) -> object:
        """A value that is equal for two targets with the same elements in the same memory; None without elements."""
        memory = self.memory
        return (memory.data_ptr(), memory.shape, memory.stride(), memory.dtype) if memory.numel() else None


def fit(module: "torch.nn.Module", weights: Weights) -> dict[str, Target]:
    """The parameters and buffers of a module, by the names in the weights. Raises MismatchError, which lists all
    reasons why the weights do not fit."""
    stored = module.state_dict()  # first, since it is what makes FSDP2 put its shards back into the module
    name_of = _Names(module, weights.specs)
    everything = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    tensors = {name_of(name): tensor for name, tensor in everything}
    if unfit := [f"{name} {why}" for name, tensor in tensors.items() if (why := _unfit(tensor))]:
        raise MismatchError("the weights do not fit the module:", unfit)
    targets = {name: Target.of(tensor) for name, tensor in tensors.items()}
    problems = _differences(weights, targets, {*map(name_of, stored)})
    if problems and any("_fsdp_wrapped_module" in name for name, _ in everything):
        problems.append("FSDP1 keeps parameters in pieces: call this within its summon_full_params(module)")
    if problems := problems or collisions({name: targets[name] for name in weights.specs}):
        raise MismatchError("the weights do not fit the module:", problems)
    return targets


class _Names:
    """The name in the weights of a tensor of the module: without what wrappers add, unless the weights have it, too."""

    def __init__(self, module: "torch.nn.Module", wanted: Container[str]):
        from torch.nn.parallel import DataParallel, DistributedDataParallel

        parallel = (DataParallel, DistributedDataParallel)
        self.wanted = wanted
        self.prefixes = [
            f"{path}.module.".lstrip(".")
            for path, inner in module.named_modules(remove_duplicate=False) if isinstance(inner, parallel)
        ]  # fmt: skip

    def __call__(self, name: str) -> str:
        if not self.prefixes and not any(wrapper in name for wrapper in WRAPPERS):
            return name
        plain = name
        for prefix in sorted(self.prefixes, key=len, reverse=True):
            if plain.startswith(prefix):
                plain = prefix.removesuffix("module.") + plain.removeprefix(prefix)
        plain = ".".join(part for part in plain.split(".") if part not in WRAPPERS)
        return name if name in self.wanted else plain


def is_distributed(tensor: "torch.Tensor") -> bool:
    """Whether this is a DTensor (FSDP2, tensor parallelism), of which every process holds a part."""
    known = sys.modules.get("torch.distributed.tensor")  # whoever has a DTensor has imported it
    return known is not None and isinstance(tensor, known.DTensor)


def kinds() -> dict[Any, str]:
    """torch's dtypes, with their names in safetensors."""
    import torch

    floats = {getattr(torch, long): short for long, short in LONG_NAMES.items()}
    sizes = (8, 16, 32, 64)
    integers = {
        getattr(torch, f"{long}{n}"): f"{short}{n}" for n in sizes for long, short in (("int", "I"), ("uint", "U"))
    }
    return floats | integers | {torch.bool: "BOOL", torch.complex64: "C64"}


def twins(weights: Weights, targets: Mapping[str, Target]) -> dict[str, str]:
    """For tied parameters of which the weights have several names: each further name -> the first one."""
    first: dict[object, str] = {}
    tied = {}
    for name in weights.specs:
        key = targets[name].place or name
        if first.setdefault(key, name) != name:
            tied[name] = first[key]
    return tied


# ---- what cannot be set --------------------------------------------------------------------------------------------
def _unfit(tensor: "torch.Tensor") -> str | None:
    """The reason why a tensor cannot be set, whatever the weights are, or None."""
    import torch

    if type(tensor) in (torch.Tensor, torch.nn.Parameter) and not tensor.is_meta and _is_dense(tensor):
        return None  # nearly all tensors are plain ones
    from torch.nn.parameter import is_lazy
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    if is_lazy(tensor):
        return "has no shape yet: call the lazy module once before"
    if tensor.is_meta:
        return "is on the meta device: it has no memory to write to"
    if not _is_dense(tensor):
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        return f"is a tensor of layout {kind}: only dense ones can be set (to_dense())"
    if is_distributed(tensor):
        if any(placement.is_partial() for placement in tensor.placements):  # type: ignore[attr-defined]
            return "is a DTensor of partial sums: only shards and replicas can be set"
        return _unfit(tensor.to_local())  # type: ignore[attr-defined]
    if is_traceable_wrapper_subclass(tensor):
        return f"is a {type(tensor).__name__}, which keeps its numbers in a form of its own: only plain ones can be set"
    return None


def _is_dense(tensor: "torch.Tensor") -> bool:
    import torch

    return tensor.layout is torch.strided and not tensor.is_nested


def _differences(weights: Weights, targets: Mapping[str, Target], wanted: set[str]) -> list[str]:
    """The differences in names, shapes and dtypes because of which the weights do not fit. wanted: the names in the
    module's state_dict, which must have a value."""
    dtypes = kinds()
    given = {targets[name].place for name in weights.specs if name in targets} - {None}
    problems = [f"{name} is not in the module" for name in weights.specs if name not in targets]
    for name, target in targets.items():
        spec, tensor = weights.specs.get(name), target.tensor
        kind = dtypes.get(tensor.dtype)
        if spec is None:
            if name in wanted and target.place not in given:
                problems.append(f"{name} is in the module, not in the weights")
        elif spec.shape != tuple(tensor.shape):
            problems.append(f"{name} is {list(tensor.shape)} in the module, {list(spec.shape)} in the weights")
        elif kind != spec.dtype and not (spec.arithmetic and kind in CODES):
            problems.append(f"{name} is {tensor.dtype} in the module, {spec.dtype} in the weights")
    return problems + _renames([name for name in weights.specs if name not in targets], targets)


def _renames(strangers: list[str], known: Collection[str]) -> list[str]:
    """Advice: the `rename` that makes the names fit, if they differ from the module's only by what they begin with."""
    if not strangers:
        return []
    first = strangers[0]
    ends = [first[at + 1 :] for at, letter in enumerate(first) if letter == "."]
    if end := next((end for end in ends if end in known), None):
        begin = first.removesuffix(end)
        if all(name.startswith(begin) and name.removeprefix(begin) in known for name in strangers):
            return [f'without "{begin}" they are the module\'s: load rename(weights, {{"{begin}*": "*"}})']
    begins = [name.removesuffix(first) for name in known if name.endswith(f".{first}")]
    fitting = [begin for begin in begins if all(begin + name in known for name in strangers)]
    return [
        f'behind "{begin}" they are the module\'s: load rename(weights, {{"*": "{begin}*"}})' for begin in fitting[:1]
    ]


def collisions(targets: Mapping[str, Target]) -> list[str]:
    """The problems with tensors that have two elements at one place in memory, where the last write would win.

    Tied tensors, which have all elements in common, are no problem, nor are views of one memory that have none in
    common, such as the even and the odd columns of a matrix.
    """
    apart: dict[object, tuple[str, torch.Tensor]] = {}
    for name, target in targets.items():
        if place := target.place:
            apart.setdefault(place, (name, target.memory))  # tied tensors once, by their first name
    problems = []
    for group in _groups(sorted(apart.values(), key=lambda item: (str(item[1].device), item[1].data_ptr()))):
        if len(group) > 1 or not _is_plain(group[0][1]):
            problems += _shared(group)
    return problems


def _groups(ordered: "list[tuple[str, torch.Tensor]]") -> "Iterator[list[tuple[str, torch.Tensor]]]":
    """Groups of tensors whose ranges of memory overlap. ordered: (name, tensor), by their addresses."""
    group: list[tuple[str, torch.Tensor]] = []
    end, device = 0, None
    for name, tensor in ordered:
        if group and (tensor.data_ptr() >= end or tensor.device != device):
            yield group
            group = []
        end = max(end if group else 0, tensor.data_ptr() + _reach(tensor))
        device = tensor.device
        group.append((name, tensor))
    if group:
        yield group


def _reach(tensor: "torch.Tensor") -> int:
    """The number of bytes from the first element of a tensor to the end of its last one."""
    if tensor.is_contiguous():
        return tensor.nbytes
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return (1 + sum((size - 1) * stride for size, stride in steps)) * tensor.element_size()


def _is_plain(tensor: "torch.Tensor") -> bool:
    """Whether each axis steps over all that axes of smaller strides reach, so that no two elements share a place."""
    if tensor.is_contiguous():
        return True
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return False
            reach = (size - 1) * stride + reach
    return True


def _shared(group: "list[tuple[str, torch.Tensor]]") -> list[str]:
    """The problems with tensors in one range of memory. `owners` notes for each place the tensor that has it."""
    import numpy as np

    first = min(t.data_ptr() for _, t in group)
    unit = math.gcd(*(t.element_size() for _, t in group), *(t.data_ptr() - first for _, t in group))
    owners = np.full(max(t.data_ptr() - first + _reach(t) for _, t in group) // unit, -1, np.int32)
    problems = []
    for k, (name, tensor) in enumerate(group):
        wide = tensor.element_size() // unit
        view = np.lib.stride_tricks.as_strided(
            owners[(tensor.data_ptr() - first) // unit :],
            (*tensor.shape, wide), (*(4 * wide * stride for stride in tensor.stride()), 4),
        )  # fmt: skip
        others = [group[owner][0] for owner in np.unique(view) if owner >= 0]
        problems += [f"{other} and {name} share a part of their memory: clone() one of them" for other in others]
        view[...] = k
        if not others and np.count_nonzero(owners == k) < view.size:
            strides = tuple(tensor.stride())
            problems.append(f"{name} has elements that share memory (strides {strides}): make a clone() of it first")
    return problems
