"""What a live torch module has that can be set: its tensors by name, and what keeps one of them from being set.

A parameter need not be a plain array. `fit` finds, before anything is written, the ones that cannot be set: those
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

# Parts of a name that a wrapper puts there: torch.compile, activation checkpointing, FullyShardedDataParallel.
WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


class Target(NamedTuple):
    """A parameter or buffer, and what of it lies in the memory of this process, outside any graph.

    That is all of it, or of a DTensor (FSDP2, tensor parallelism) the process's own shard.
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
        """Equal for two that are the same elements of the same memory; None for one without elements."""
        memory = self.memory
        return (memory.data_ptr(), memory.shape, memory.stride(), memory.dtype) if memory.numel() else None


def fit(module: "torch.nn.Module", weights: Weights) -> dict[str, Target]:
    """The parameters and buffers of a module by name. Raises MismatchError with all that keeps the weights out."""
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
    """What a tensor of the module is called in the weights: without what wrappers add, unless they have that, too."""

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
    """Whether it is a DTensor (FSDP2, tensor parallelism), of which every process holds a part."""
    known = sys.modules.get("torch.distributed.tensor")  # whoever has a DTensor has imported it
    return known is not None and isinstance(tensor, known.DTensor)


def kinds() -> dict[Any, str]:
    """torch's dtypes by their safetensors names."""
    import torch

    found = {getattr(torch, long): short for long, short in LONG_NAMES.items()}
    sizes = (8, 16, 32, 64)
    found |= {
        getattr(torch, f"{long}{n}"): f"{short}{n}" for n in sizes for long, short in (("int", "I"), ("uint", "U"))
    }
    return found | {torch.bool: "BOOL", torch.complex64: "C64"}


def twins(weights: Weights, targets: Mapping[str, Target]) -> dict[str, str]:
    """Name -> the first name of the same memory, for tied parameters whose names the weights hold both."""
    first: dict[object, str] = {}
    found = {}
    for name in weights.specs:
        key = targets[name].place or name
        if first.setdefault(key, name) != name:
            found[name] = first[key]
    return found


# ---- what cannot be set --------------------------------------------------------------------------------------------
def _unfit(tensor: "torch.Tensor") -> str | None:
    """Why a tensor cannot be set whatever the weights are."""
    import torch

    if type(tensor) in (torch.Tensor, torch.nn.Parameter) and not tensor.is_meta and _is_dense(tensor):
        return None  # nearly all are plain ones
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
    """Names, shapes and dtypes that keep the weights from being the module's."""
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
    """The `rename` after which names that the module lacks are its own, if they differ by what they begin with."""
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
    """The tensors of which two elements are one place in memory, but for tied ones, of which all are.

    What is written last would win there. Views of one memory without a place in common, such as the even and the odd
    columns of a matrix, do no harm.
    """
    apart: dict[object, tuple[str, torch.Tensor]] = {}
    for name, target in targets.items():
        if place := target.place:
            apart.setdefault(place, (name, target.memory))  # of tied names the first
    found = []
    for group in _groups(sorted(apart.values(), key=lambda item: (str(item[1].device), item[1].data_ptr()))):
        if len(group) > 1 or not _is_plain(group[0][1]):
            found += _shared(group)
    return found


def _groups(ordered: "list[tuple[str, torch.Tensor]]") -> "Iterator[list[tuple[str, torch.Tensor]]]":
    """Runs of tensors, in the order of their addresses, whose stretches of memory overlap."""
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
    """Bytes from the first element of a tensor to the end of its last one."""
    if tensor.is_contiguous():
        return tensor.nbytes
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return (1 + sum((size - 1) * stride for size, stride in steps)) * tensor.element_size()


def _is_plain(tensor: "torch.Tensor") -> bool:
    """Whether each axis steps over all that the axes of smaller steps reach: then no two elements are one."""
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
    """Which of the tensors of one stretch of memory have places in common: an owner is noted for each of them."""
    import numpy as np

    first = min(t.data_ptr() for _, t in group)
    unit = math.gcd(*(t.element_size() for _, t in group), *(t.data_ptr() - first for _, t in group))
    owners = np.full(max(t.data_ptr() - first + _reach(t) for _, t in group) // unit, -1, np.int32)
    found = []
    for k, (name, tensor) in enumerate(group):
        wide = tensor.element_size() // unit
        view = np.lib.stride_tricks.as_strided(
            owners[(tensor.data_ptr() - first) // unit :],
            (*tensor.shape, wide), (*(4 * wide * stride for stride in tensor.stride()), 4),
        )  # fmt: skip
        others = [group[owner][0] for owner in np.unique(view) if owner >= 0]
        found += [f"{other} and {name} share a part of their memory: clone() one of them" for other in others]
        view[...] = k
        if not others and np.count_nonzero(owners == k) < view.size:
            strides = tuple(tensor.stride())
            found.append(f"{name} has elements that share memory (strides {strides}): make a clone() of it first")
    return found
