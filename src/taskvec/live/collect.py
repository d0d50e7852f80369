"""Statistics of a live module on data, batch by batch: squared gradients of log-probabilities, products of inputs.

`Data` is what the user's function gives. Whatever the user's code raises becomes a stated error (`users_code`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from taskvec.errors import RecipeError, TaskvecError
from taskvec.methods.core.draws import uniform

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Batch = Mapping[str, Any]
    Arrays = dict[str, NDArray[Any]]

TARGETS, MASK, IGNORED = "targets", "attention_mask", -100  # two keys of a batch; the target of a position to leave out


@dataclass(frozen=True, slots=True)
class Data:
    """What the user's function gave: a module, batches for it, and perhaps a function that gives the logits of one."""

    module: "torch.nn.Module"
    batches: Iterable[Any]
    logits: "Callable[[torch.nn.Module, Batch], Any] | None" = None

    def run(self, batch: "Batch") -> Any:
        """The logits of a batch: `.logits` of the module's output, or the output, or what the user's function gives."""
        inputs = {key: value for key, value in batch.items() if key != TARGETS}
        if self.logits:
            return self.logits(self.module, inputs)
        output = self.module(**inputs)
        return getattr(output, "logits", output)

    def pieces(self, most: int | None) -> "Iterator[tuple[Batch, int]]":
        """The batches, each with the number of its examples, up to `most` examples in all."""
        left = most
        for k, batch in enumerate(self.batches, 1):
            size = _size(batch, k)
            if left is not None and size > left:
                batch, size = _cut(batch, 0, left), left
            yield batch, size
            left = None if left is None else left - size
            if left == 0:
                return


def _size(batch: Any, k: int) -> int:
    """The number of examples in batch k: the first dimension of every tensor in it. Raises TaskvecError."""
    import torch

    if not isinstance(batch, Mapping):
        raise TaskvecError(f"batch {k} is a {type(batch).__name__}, not a dict of what the module is called with")
    sizes = {
        key: value.shape[0] if value.ndim else 0 for key, value in batch.items() if isinstance(value, torch.Tensor)
    }
    if len(set(sizes.values())) != 1:
        raise TaskvecError(f"the tensors of batch {k} must have the examples along their first dimension: {sizes}")
    return next(iter(sizes.values()))


def _cut(batch: "Batch", start: int, stop: int) -> "Batch":
    """The examples start <= k < stop of a batch."""
    import torch

    return {key: value[start:stop] if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Turns whatever the user's code raises within it into a TaskvecError, which says that `what` failed."""
    try:
        yield
    except TaskvecError:
        raise
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        raise TaskvecError(f"{what} failed: {type(error).__name__}: {text}") from error


class Collected(Protocol):
    """Statistics that grow batch by batch."""

    def see(self, batch: "Batch", size: int) -> None:
        """Take in one more batch, of `size` examples."""

    def results(self, examples: int) -> "tuple[Arrays, list[str]]":
        """The statistics over so many examples, by the names of weights, and the weights that no example reached."""

    def close(self) -> None:
        """Leave the module as it was."""


class Fisher:
    """The mean over examples of E_y (d log p(y|x) / d theta)^2, with y over all classes, sampled, or given.

    parameters: name -> parameter; one that the model has under several names is there under each of them.

    Examples are taken one at a time, since gradients of single examples are needed, and torch.func cannot vectorise
    over modules whose forward looks at its data, as those of transformers do.
    """

    def __init__(self, data: Data, parameters: "Mapping[str, torch.nn.Parameter]", labels: str, seed: int):
        import torch

        self.data, self.names, self.labels, self.seed, self.count = data, parameters, labels, seed, 0
        self.parameters = list({id(p): p for p in parameters.values()}.values())
        kinds = [torch.promote_types(p.dtype, torch.float32) for p in self.parameters]
        self.totals = [torch.zeros_like(p, dtype=k) for p, k in zip(self.parameters, kinds, strict=True)]
        self.reached: set[int] = set()

    def see(self, batch: "Batch", size: int) -> None:
        """Take in one more batch, example by example."""
        import torch

        with torch.enable_grad():
            for k in range(size):
                values = self._log_probabilities(_cut(batch, k, k + 1))
                for left, (log_p, share) in enumerate(values, 1 - len(values)):
                    self._add(torch.autograd.grad(log_p, self.parameters, None, left < 0, allow_unused=True), share)
                self.count += 1

    def _add(self, gradients: "Iterable[torch.Tensor | None]", share: float) -> None:
        """Add share * gradient^2 to every total. None stands for a parameter that the output does not depend on."""
        for parameter, total, g in zip(self.parameters, self.totals, gradients, strict=True):
            if g is not None:
                self.reached.add(id(parameter))
                g = g.to(total.dtype)
                total.addcmul_(g, g, value=share)

    def _log_probabilities(self, example: "Batch") -> "list[tuple[torch.Tensor, float]]":
        """For each y of one example log p(y|x), a scalar with a gradient, and the weight of its squared gradient."""
        import torch

        logits = self.data.run(example)
        if not isinstance(logits, torch.Tensor) or logits.ndim not in (2, 3) or len(logits) != 1:
            shape = list(logits.shape) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
            raise TaskvecError(
                f"the logits of one example are {shape}, not (1, classes) or (1, positions, classes): return a module "
                "that gives logits, or (module, batches, logits) with a function that does"
            )
        if logits.shape[-1] < 2:
            raise TaskvecError("the logits have one class: a Fisher information needs probabilities of at least two")
        if not logits.requires_grad:
            raise TaskvecError("the logits do not depend on a parameter that requires a gradient")
        rows, targets = self._counted(logits, example)
        log_p = torch.log_softmax(rows.to(torch.promote_types(rows.dtype, torch.float32)), -1)
        if self.labels == "exact" and logits.ndim == 3:
            raise RecipeError('labels="exact" is for one label an example; of a sequence take "sampled" or "given"')
        if not len(log_p):
            return []
        if self.labels == "exact":
            return list(zip(log_p[0], log_p[0].detach().exp().tolist(), strict=True))
        y = targets if self.labels == "given" else self._drawn(log_p.detach())
        return [(log_p.gather(-1, y.to(log_p.device)[:, None]).sum(), 1.0)]

    def _counted(self, logits: "torch.Tensor", example: "Batch") -> "tuple[torch.Tensor, torch.Tensor]":
        """The positions that count: their logits, (rows, classes), and their targets, (rows,), empty if there are none.

        Raises TaskvecError for targets or a mask that do not fit the logits.
        """
        import torch

        shape = logits.shape[:-1]
        targets, mask = example.get(TARGETS), example.get(MASK) if logits.ndim == 3 else None
        if self.labels == "given" and targets is None:
            raise TaskvecError(f'labels="given" needs {TARGETS!r} in every batch')
        if targets is not None and (not isinstance(targets, torch.Tensor) or targets.shape != shape):
            what = list(targets.shape) if isinstance(targets, torch.Tensor) else type(targets).__name__
            raise TaskvecError(f"{TARGETS} are {what}, where the logits are {list(logits.shape)}: one class each")
        if targets is not None:
            counts = targets != IGNORED
            if ((targets < 0) & counts).any() or (targets >= logits.shape[-1]).any():
                raise TaskvecError(f"{TARGETS} must lie in 0 .. {logits.shape[-1] - 1}, or be {IGNORED}")
        elif mask is not None:
            if mask.shape != shape:
                raise TaskvecError(
                    f"{MASK} is {list(mask.shape)}, the logits are {list(logits.shape)}: give {TARGETS}, {IGNORED} "
                    "where nothing is to be predicted"
                )
            counts = mask != 0
        else:
            counts = torch.ones(shape, dtype=torch.bool)
        chosen = targets[counts].long() if targets is not None else torch.empty(0)
        return logits[counts.to(logits.device)], chosen

    def _drawn(self, log_p: "torch.Tensor") -> "torch.Tensor":
        """A class for each row, drawn by its probability, (rows,). log_p: (rows, classes)."""
        import torch

        at = torch.from_numpy(uniform(self.seed, f"labels of example {self.count}", 0, len(log_p))).double()
        up_to = log_p.cpu().double().exp().cumsum(-1)
        y = torch.searchsorted(up_to, (at * up_to[:, -1])[:, None], right=True)
        return y[:, 0].clamp(max=log_p.shape[-1] - 1)

    def results(self, examples: int) -> "tuple[Arrays, list[str]]":
        """See `Collected.results`: the Fisher information of every parameter, under each of its names."""
        totals = {id(p): t.div_(examples).cpu().numpy() for p, t in zip(self.parameters, self.totals, strict=True)}
        arrays = {name: totals[id(p)] for name, p in self.names.items()}
        return arrays, [name for name, p in self.names.items() if id(p) not in self.reached]

    def close(self) -> None:
        """See `Collected.close`. Nothing was changed."""


class Gram:
    """G = X^T X, (in, in), of the inputs X, (rows, in), of linear layers. layers: name of the weight -> layer."""

    def __init__(self, data: Data, layers: "Mapping[str, torch.nn.Module]"):
        import torch

        self.data, self.layers = data, layers
        sides = {name: inputs_of(layer) for name, layer in layers.items()}
        self.totals = {name: torch.zeros(n, n, dtype=torch.float64) for name, n in sides.items()}
        self.reached: set[str] = set()
        self.mask: torch.Tensor | None = None
        self.hooks = [
            layer.register_forward_pre_hook(self._hook(name), with_kwargs=True) for name, layer in layers.items()
        ]

    def _hook(self, name: str) -> "Callable[..., None]":
        """A hook that adds the products of a layer's inputs whenever the layer is called."""
        import torch

        def hook(layer: "torch.nn.Module", args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            masked = self.mask is not None and x.shape[:-1] == self.mask.shape
            rows = x[self.mask.to(x.device) != 0] if masked else x.reshape(-1, x.shape[-1])  # type: ignore[union-attr]
            rows = rows.to(torch.promote_types(x.dtype, torch.float32))
            self.totals[name] += (rows.T @ rows).cpu()
            if len(rows):
                self.reached.add(name)

        return hook

    def see(self, batch: "Batch", size: int) -> None:
        """Take in one more batch, all examples at once."""
        import torch

        self.mask = batch.get(MASK)
        if self.mask is not None and (not isinstance(self.mask, torch.Tensor) or self.mask.ndim != 2):
            raise TaskvecError(f"{MASK} must be a tensor (examples, positions)")
        with torch.no_grad():
            self.data.run(batch)

    def results(self, examples: int) -> "tuple[Arrays, list[str]]":
        """See `Collected.results`: the sums G of the layers that an example reached."""
        arrays = {name: total.numpy() for name, total in self.totals.items() if name in self.reached}
        return arrays, [name for name in self.layers if name not in self.reached]

    def close(self) -> None:
        """See `Collected.close`. Removes the hooks."""
        for hook in self.hooks:
            hook.remove()


def inputs_of(layer: "torch.nn.Module") -> int:
    """The number of a linear layer's inputs."""
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    return weight.shape[0 if is_transposed(layer) else 1]


def is_transposed(layer: "torch.nn.Module") -> bool:
    """Whether a linear layer stores its weight (in, out), as transformers' Conv1D does."""
    import torch

    return not isinstance(layer, torch.nn.Linear)


def linear_layers(module: "torch.nn.Module") -> "dict[str, torch.nn.Module]":
    """Name of the weight -> layer, for every nn.Linear and Conv1D of transformers."""
    import sys

    import torch

    kinds: tuple[type[torch.nn.Module], ...] = (torch.nn.Linear,)
    if "transformers" in sys.modules:
        from transformers.pytorch_utils import Conv1D

        kinds += (Conv1D,)
    return {f"{name}.weight".lstrip("."): m for name, m in module.named_modules() if isinstance(m, kinds)}
