"""`load_into`: from an expression into a live torch module, in place (the `torch` extra)."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from taskvec.blocks import arena, fill, sums
from taskvec.derived import prepare
from taskvec.dtypes import BITS, CODES, LONG_NAMES
from taskvec.errors import MismatchError, MissingExtra, NonFiniteError
from taskvec.executors import default_threads, each
from taskvec.planning import arena_bytes
from taskvec.source import Spec
from taskvec.weights import Weights

if TYPE_CHECKING:
    import torch

BLOCK = 1 << 20  # bytes of a parameter that are computed at once


def load_into(module: "torch.nn.Module", weights: Weights, *, threads: int | None = None) -> None:
    """Set the parameters and buffers of a live torch module to the expression, in place and in the module's dtypes.

    Always computed from the sources, so nothing drifts however often the coefficients change. Names must be those of
    `module.state_dict()` or of buffers that it leaves out; of tied parameters one name is enough, and two must agree.
    Raises MismatchError, which lists every difference, before anything is touched, also where the weights are arrays
    over the module's own memory; and NonFiniteError after (the module then holds what was computed).
    """
    try:
        import torch
    except ImportError:
        raise MissingExtra("load_into", "torch") from None
    weights.kind()
    weights = weights.placed
    targets, kinds = fit(module, weights), _kinds(torch)
    if shared := _shared(weights, targets):
        raise MismatchError("arrays lie in the module's own memory, which is to be set from them (copy them):", shared)
    specs = {name: Spec(spec.shape, kinds[targets[name].dtype]) for name, spec in weights.specs.items()}
    twins = _twins(specs, targets)
    flat = {n: targets[n].view(-1) if targets[n].is_contiguous() else targets[n].flatten() for n in specs}
    memory_of = {n: t.view(torch.uint8).numpy().data for n, t in flat.items() if t.device.type == "cpu" and t.numel()}
    linear, count = sums(weights, specs), threads or default_threads(busy=True)  # sources are mostly in the page cache
    prepare([weights], count)
    parts = {name: its.parts for name, its in linear.items() if specs[name].arithmetic}
    room = arena_bytes(parts, specs, BLOCK)

    def computed(name: str, block: Block, memory: memoryview, out: memoryview | None = None) -> tuple[memoryview, int]:
        return fill(memory, name, specs[name], block.start, block.count, linear, weights.reference, out)

    def same(block: Block, memory: memoryview) -> tuple[str, bool]:
        """Whether two names of one parameter have the same values."""
        one, _ = computed(block.name, block, memory[:room])
        two, _ = computed(twins[block.name], block, memory[room:])
        return f"{twins[block.name]} and {block.name}", one == two

    def write(block: Block, memory: memoryview) -> tuple[str, int]:
        if block.name in memory_of:  # computed where it is to be
            first, last = (at * BITS[specs[block.name].dtype] // 8 for at in (block.start, block.start + block.count))
            return block.name, computed(block.name, block, memory, memory_of[block.name][first:last])[1]
        out, flags = computed(block.name, block, memory)
        target = flat[block.name][block.start : block.start + block.count]
        with torch.no_grad():
            target.copy_(torch.frombuffer(out, dtype=target.dtype, count=block.count))
        return block.name, flags

    pairs = each(_blocks(specs, twins), same, partial(arena, 2 * room), count) if twins else ()
    if apart := {names for names, equal in pairs if not equal}:
        raise MismatchError("the module ties tensors that the weights hold apart:", sorted(apart))
    own = [name for name in specs if name not in twins]
    bad = {name for name, flags in each(_blocks(specs, own), write, partial(arena, room), count) if flags}
    with torch.no_grad():
        for name in own:
            if not targets[name].is_contiguous():
                targets[name].copy_(flat[name].view(targets[name].shape))
    if bad:
        raise NonFiniteError("the module now holds NaN or Inf:", sorted(bad))


def fit(module: "torch.nn.Module", weights: Weights) -> "dict[str, torch.Tensor]":
    """The parameters and buffers of a module by name. Raises MismatchError with all that keeps the weights out."""
    import torch

    everything = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    targets: dict[str, torch.Tensor] = {name: tensor.detach() for name, tensor in everything}
    if problems := _differences(weights, targets, set(module.state_dict()), _kinds(torch)):
        raise MismatchError("the weights do not fit the module:", problems)
    return targets


def _shared(weights: Weights, targets: "Mapping[str, torch.Tensor]") -> list[str]:
    """The arrays below the weights that lie in memory of the targets."""
    arrays = [(source, *place) for source in weights.mentioned for place in getattr(source, "addresses", tuple)()]
    if not arrays:  # files: nothing to look up for each candidate of a search
        return []
    storages = [t.untyped_storage() for t in targets.values() if t.device.type == "cpu"]
    held = sorted({(s.data_ptr(), s.data_ptr() + s.nbytes()) for s in storages})
    reach = [0, *accumulate((last for _, last in held), max)]  # the end of the first k
    return [f"{name} of {source.text}" for source, name, a, b in arrays if reach[bisect_left(held, (b, 0))] > a]


@dataclass(frozen=True, slots=True)
class Block:
    """Elements start .. start+count of one parameter."""

    name: str
    start: int
    count: int


def _blocks(specs: Mapping[str, Spec], names: Iterable[str]) -> list[Block]:
    found = []
    for name in names:
        step = BLOCK * 8 // BITS[specs[name].dtype]
        size = specs[name].numel
        found += [Block(name, start, min(step, size - start)) for start in range(0, size, step)]
    return found


def _twins(specs: Mapping[str, Spec], targets: "Mapping[str, torch.Tensor]") -> dict[str, str]:
    """Name -> the first name of the same memory, for tied parameters whose names the weights hold both."""
    first: dict[object, str] = {}
    found = {}
    for name, spec in specs.items():
        tensor = targets[name]
        key = (tensor.data_ptr(), tensor.shape, tensor.stride()) if spec.numel else name
        if first.setdefault(key, name) != name:
            found[name] = first[key]
    return found


def _kinds(torch: Any) -> dict[Any, str]:
    """torch's dtypes by their safetensors names."""
    found = {getattr(torch, long): short for long, short in LONG_NAMES.items()}
    sizes = (8, 16, 32, 64)
    found |= {
        getattr(torch, f"{long}{n}"): f"{short}{n}" for n in sizes for long, short in (("int", "I"), ("uint", "U"))
    }
    return found | {torch.bool: "BOOL", torch.complex64: "C64"}


def _differences(
    weights: Weights, targets: "Mapping[str, torch.Tensor]", wanted: set[str], kinds: Mapping[Any, str]
) -> list[str]:
    """Names, shapes and dtypes that keep the weights from being the module's."""
    if meta := [name for name, tensor in targets.items() if tensor.is_meta]:
        return [f"{name} is on the meta device: it has no memory to write to" for name in meta]
    given = {(t.data_ptr(), tuple(t.shape)) for name, t in targets.items() if name in weights.specs}
    problems = [f"{name} is not in the module" for name in weights.specs if name not in targets]
    for name, tensor in targets.items():
        spec = weights.specs.get(name)
        kind = kinds.get(tensor.dtype)
        if spec is None:
            if name in wanted and (tensor.data_ptr(), tuple(tensor.shape)) not in given:
                problems.append(f"{name} is in the module, not in the weights")
        elif spec.shape != tuple(tensor.shape):
            problems.append(f"{name} is {list(tensor.shape)} in the module, {list(spec.shape)} in the weights")
        elif kind != spec.dtype and not (spec.arithmetic and kind in CODES):
            problems.append(f"{name} is {tensor.dtype} in the module, {spec.dtype} in the weights")
    return problems
