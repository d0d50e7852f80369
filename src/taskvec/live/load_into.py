"""`load_into`: sets a live torch module to an expression, in place (the `torch` extra)."""

import ctypes
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from importlib.util import find_spec
from itertools import accumulate
from typing import TYPE_CHECKING

from taskvec.algebra.derived import prepare
from taskvec.algebra.integers import require_same
from taskvec.algebra.weights import Weights
from taskvec.errors import MismatchError, MissingExtra, NonFiniteError
from taskvec.executors.threads import default_threads, each
from taskvec.live.targets import Target, fit, kinds, twins
from taskvec.numbers.dtypes import BITS
from taskvec.saving.batchnorm import VARIANCES, negative
from taskvec.saving.blocks import Range, arena, fill, ranges, sums
from taskvec.saving.cost import cost_of_block
from taskvec.sources.in_memory import ArraySource
from taskvec.sources.source import Spec

if TYPE_CHECKING:
    import torch

BLOCK = 1 << 20  # bytes of a parameter that are computed at once


def load_into(module: "torch.nn.Module", weights: Weights, *, threads: int | None = None) -> None:
    """Set the parameters and buffers of a live torch module to the expression, in place, in the module's dtypes.

    The values are always computed from the sources, so nothing drifts however often the coefficients change. Names must
    be those of `module.state_dict()` or of buffers that it leaves out, with or without the parts that torch.compile,
    DataParallel and other wrappers add. Of tied parameters one name is enough, and two must agree. Parameters may have
    any strides and lie on any device. For a DTensor (FSDP2, tensor parallelism) each process computes the whole
    tensors, one after the other, and keeps its own shards: all processes must call this, and they exchange nothing.
    Tensors that a graph still needs count as changed, so that a backward pass through an older graph is an error, as
    after a step of an optimiser.

    Raises MismatchError, which lists every difference, before anything is changed, also if the weights are arrays over
    the module's own memory, or if two elements to be set are one place in memory (expanded parameters, views that
    overlap). Raises NonFiniteError afterwards; the module then holds what was computed.
    """
    if not find_spec("torch"):
        raise MissingExtra("load_into", "torch")
    weights.kind()
    weights = weights.placed
    targets, dtypes = fit(module, weights), kinds()
    require_same(weights)
    if shared := _shared(weights, targets):
        raise MismatchError("arrays lie in the module's own memory, which is to be set from them (copy them):", shared)
    specs = {name: Spec(spec.shape, dtypes[targets[name].tensor.dtype]) for name, spec in weights.specs.items()}
    linear, count = sums(weights, specs), threads or default_threads(busy=True)  # sources are mostly in the page cache
    prepare([weights], count)
    parts = {name: terms.parts for name, terms in linear.items() if specs[name].arithmetic}
    memory = partial(arena, cost_of_block(parts, specs, BLOCK).block)

    def computed(block: Range, memory: memoryview, out: memoryview | None = None) -> tuple[memoryview, int]:
        name, start, count = block
        return fill(memory, name, specs[name], start, count, linear, weights.donor, out)

    tied = twins(weights, targets)

    def same(block: Range, memories: tuple[memoryview, memoryview]) -> tuple[str, bool]:
        """Whether two names of one parameter have the same values."""
        name, start, count = block
        one, two = computed(block, memories[0])[0], computed((tied[name], start, count), memories[1])[0]
        return f"{tied[name]} and {name}", one == two

    pairs = each(ranges(specs, tied, BLOCK), same, lambda: (memory(), memory()), count) if tied else ()
    if apart := {names for names, equal in pairs if not equal}:
        raise MismatchError("the module ties tensors that the weights hold apart:", sorted(apart))
    try:
        bad = _Writer(specs, computed, memory, count).write({name: targets[name] for name in specs if name not in tied})
    finally:
        _changed(targets, specs)
    if bad:
        raise NonFiniteError("the module now holds NaN or Inf:", sorted(bad))
    named = [name for name in specs if name.endswith(VARIANCES) and specs[name].numel] if weights.mass else []
    if below := [name for name in named if bool((targets[name].memory < 0).any())]:
        raise negative(below)


def _shared(weights: Weights, targets: Mapping[str, Target]) -> list[str]:
    """The arrays among the sources that lie in the memory of the targets, each as a line of an error."""
    inside = [source for source in weights.mentioned if isinstance(source, ArraySource)]
    arrays = [(source, *place) for source in inside for place in source.addresses()]
    if not arrays:  # files: nothing to look up for each candidate of a search
        return []
    storages = [t.memory.untyped_storage() for t in targets.values() if t.memory.device.type == "cpu"]
    places = sorted({(s.data_ptr(), s.data_ptr() + s.nbytes()) for s in storages})
    reach = [0, *accumulate((last for _, last in places), max)]  # the end of the first k
    return [f"{name} of {source.text}" for source, name, a, b in arrays if reach[bisect_left(places, (b, 0))] > a]


Computed = Callable[..., tuple[memoryview, int]]  # (block, memory, out) -> bytes of the elements, flags


class _Writer:
    """Sets tensors. Contiguous ones are computed in place, block by block; others one after the other, in a copy."""

    def __init__(self, specs: Mapping[str, Spec], computed: Computed, memory: Callable[[], memoryview], threads: int):
        self.specs, self.computed, self.memory, self.threads = specs, computed, memory, threads

    def write(self, targets: Mapping[str, Target]) -> set[str]:
        """Compute and set all tensors; returns the names of those that are not finite."""
        import torch

        straight = {name: target.memory.view(-1) for name, target in targets.items() if _is_straight(target)}
        bad = self._blocks(straight)
        for name, target in targets.items():
            if name not in straight:
                whole = torch.empty(self.specs[name].shape, dtype=target.tensor.dtype)
                bad |= self._blocks({name: whole.view(-1)})
                _set(target, whole)
        return bad

    def _blocks(self, flat: "Mapping[str, torch.Tensor]") -> set[str]:
        """Compute and set tensors with one axis, block by block; returns the names of those that are not finite."""
        import torch

        bytes_of = {n: _bytes_of(t) for n, t in flat.items() if t.device.type == "cpu"}

        def write(block: Range, memory: memoryview) -> tuple[str, int]:
            name, start, count = block
            if name in bytes_of:  # the kernel writes into the parameter itself
                bits = BITS[self.specs[name].dtype]
                place = slice(bits * start // 8, bits * (start + count) // 8)
                return name, self.computed(block, memory, bytes_of[name][place])[1]
            out, flags = self.computed(block, memory)
            target = flat[name][start : start + count]
            with _writable(target):
                target.copy_(torch.frombuffer(out, dtype=target.dtype, count=count))
            return name, flags

        written = each(ranges(self.specs, flat, BLOCK), write, self.memory, self.threads)
        return {name for name, flags in written if flags}


def _bytes_of(tensor: "torch.Tensor") -> memoryview:
    """The memory of a contiguous tensor. (After `numpy()`, torch would not let it be resized, which FSDP1 does.)"""
    place = (ctypes.c_ubyte * tensor.nbytes).from_address(tensor.data_ptr()) if tensor.nbytes else bytearray()
    return memoryview(place).cast("B")


def _is_straight(target: Target) -> bool:
    """Whether all elements lie one after the other in the memory of this process, as they are."""
    memory = target.memory
    return not target.is_sharded and memory.is_contiguous() and not memory.is_conj() and not memory.is_neg()


def _set(target: Target, whole: "torch.Tensor") -> None:
    """Copy a whole tensor into a target. A DTensor gets the shard of this process."""
    if target.is_sharded:
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = target.tensor.device_mesh, target.tensor.placements  # type: ignore[attr-defined]
        whole = distribute_tensor(whole, mesh, placements, src_data_rank=None).to_local()
    with _writable(target.memory):
        target.memory.copy_(whole)


def _writable(tensor: "torch.Tensor") -> AbstractContextManager[object]:
    """A context in which a tensor may be written to: outside every graph, in inference mode if it was made there."""
    import torch

    stack = ExitStack()
    stack.enter_context(torch.inference_mode(tensor.is_inference()))
    stack.enter_context(torch.no_grad())
    return stack


def _changed(targets: Mapping[str, Target], written: Iterable[str]) -> None:
    """Tell torch of writes that it cannot see, so that it refuses a graph which needs the old values.

    Two parameters over one memory count their versions apart, so those that were set by another name are told, too.
    """
    import torch

    place = {name: target.memory.untyped_storage().data_ptr() for name, target in targets.items()}
    changed = {place[name] for name in written}
    for name, target in targets.items():
        for counted in (target.tensor, target.memory)[: 1 + target.is_sharded]:
            if place[name] in changed and not counted.is_inference():  # those are in no graph
                torch.autograd.graph.increment_version(counted)
