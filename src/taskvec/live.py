"""`load_into`: from an expression into a live torch module, in place (the `torch` extra)."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from taskvec.blocks import arena, fill, scales
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
    `module.state_dict()` or of buffers that it leaves out; of tied parameters one name is enough. Raises MismatchError,
    which lists every difference, before anything is touched, and NonFiniteError after (the module then holds what was
    computed).
    """
    try:
        import torch
    except ImportError:
        raise MissingExtra("load_into", "torch") from None
    weights.kind()
    everything = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    targets: dict[str, torch.Tensor] = {name: tensor.detach() for name, tensor in everything}
    kinds = _kinds(torch)
    if problems := _differences(weights, targets, set(module.state_dict()), kinds):
        raise MismatchError("the weights do not fit the module:", problems)
    specs = {name: Spec(spec.shape, kinds[targets[name].dtype]) for name, spec in weights.specs.items()}
    flat = {n: targets[n].view(-1) if targets[n].is_contiguous() else targets[n].flatten() for n in specs}
    terms = scales(weights, specs)

    def work(item: tuple[str, int, int], memory: memoryview) -> tuple[str, int]:
        name, start, count = item
        out, flags = fill(memory, name, specs[name], start, count, terms, weights.reference)
        with torch.no_grad():
            flat[name][start : start + count].copy_(torch.frombuffer(out, dtype=flat[name].dtype, count=count))
        return name, flags

    items = [
        (name, start, min(step, spec.numel - start))
        for name, spec in specs.items()
        for step in [BLOCK * 8 // BITS[spec.dtype]]
        for start in range(0, spec.numel, step)
    ]
    scratch = partial(arena, arena_bytes(weights, specs, BLOCK))
    bad = {name for name, flags in each(items, work, scratch, threads or default_threads()) if flags}
    with torch.no_grad():
        for name in specs:
            if not targets[name].is_contiguous():
                targets[name].copy_(flat[name].view(targets[name].shape))
    if bad:
        raise NonFiniteError("the module now holds NaN or Inf:", sorted(bad))


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
