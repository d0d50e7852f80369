"""`stats`: statistics of a model on data, as a file of tensors: Fisher information, or Gram matrices of inputs.

The user writes a function that gets the model's path and returns `(module, batches)`:

    def reviews(path):
        tokenizer = AutoTokenizer.from_pretrained(path)
        module = AutoModelForSequenceClassification.from_pretrained(path).eval()
        return module, [tokenizer(few, padding=True, return_tensors="pt") for few in batched(TEXTS, 16)]

    def stories(path):
        tokenizer = AutoTokenizer.from_pretrained(path)
        module = AutoModelForCausalLM.from_pretrained(path).eval()
        return module, [tokenizer(few, padding=True, return_tensors="pt") for few in batched(TEXTS, 4)]

- The module is in eval mode and has the model's weights under the model's names; both are checked. Parameters that are
  not the model's, such as a head made on the spot, must be frozen.
- The batches are dicts. Every tensor in a batch has the examples along its first dimension. The module is called with
  all entries except `targets`.
- The logits, (examples, classes) or (examples, positions, classes), are the `.logits` of what the module returns, or
  what it returns. If they are something else, the function returns a third value, a function `logits(module, batch)`.
- `targets`, (examples,) or (examples, positions), are needed for labels="given". targets[i, t] is the class that
  logits[i, t] predict, which is the next token for a causal language model, or -100 to leave the position out.
- In a Fisher information, positions count if their target is not -100; without targets, if `attention_mask`, (examples,
  positions), is not 0; without both, all count.
- In a Gram matrix, the rows of a layer's input count if the mask is not 0 there. An input whose leading shape is not
  that of the mask counts whole.

Merge methods read the files (methods/statistics.py). They cannot be used as weights.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskvec.algebra.program import alone, evaluate
from taskvec.algebra.weights import SHOWN, Weights
from taskvec.errors import (
    MismatchError,
    MissingExtra,
    NonFiniteError,
    NotEnoughSpace,
    OutputError,
    RecipeError,
    TaskvecError,
)
from taskvec.formats import open_source
from taskvec.formats.sink import Safetensors, Sink, laid_out
from taskvec.live.collect import Collected, Data, Fisher, Gram, inputs_of, is_transposed, linear_layers, users_code
from taskvec.methods.core.lift import code_digest
from taskvec.numbers.dtypes import BITS, parse_dtype
from taskvec.places.local import Folder, existing_parent, free_bytes
from taskvec.recipes.userfile import function_in
from taskvec.saving import lineage
from taskvec.saving.outputs import Destination
from taskvec.saving.plan import PIECE, readable
from taskvec.saving.staging import finished_before, one_file
from taskvec.sources.abilities import statistic_of
from taskvec.sources.in_memory import ArraySource
from taskvec.sources.source import Spec
from taskvec.version import __version__

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

KINDS, LABELS = ("fisher", "gram"), ("exact", "sampled", "given")
Progress = Callable[[int, int], None]  # examples done, examples in all (0 if `examples` is not given)


@dataclass(frozen=True, slots=True)
class Statistics:
    """The result of `stats`: the file that it wrote, and what is in it."""

    path: Path
    kind: str
    base: str  # the fingerprint of the model
    fingerprint: str
    examples: int
    tensors: int
    unreached: tuple[str, ...]  # weights of the model that no example used
    bytes_out: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {name: getattr(self, name) for name in self.__slots__} | {"path": str(self.path)}

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.kind} statistics of {self.tensors} tensors over {self.examples} examples\n"
            f"{readable(self.bytes_out)} in {self.seconds:.2f} s; fingerprint {self.fingerprint[:16]}"
        )


def stats(
    model: str | os.PathLike[str],
    data: str | Callable[..., Any],
    out: str | os.PathLike[str],
    *,
    kind: str,
    examples: int | None = None,
    labels: str = "exact",
    seed: int = 0,
    dtype: str = "float32",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Statistics:
    """Compute statistics of a model on data, and write them to `out`, one .safetensors file (extra `torch`).

    kind="fisher" is the diagonal of the Fisher information, F = E_x E_{y ~ p(y|x)} (d log p(y|x) / d theta)^2, for
    every parameter that requires a gradient (Matena & Raffel, NeurIPS 2022, arXiv 2111.09832). It is computed example
    by example and averaged over examples, in float32 (float64 for parameters of float64). For a sequence, log p(y|x) is
    the sum over its positions, each given those before it in the data. It needs memory for one F and one gradient
    beside the model.

    kind="gram" is G = X^T X, (in, in), of the inputs of every nn.Linear and transformers' Conv1D, under the name of the
    layer's weight (RegMean: Jin et al., ICLR 2023, arXiv 2212.09849), summed over examples and positions. Products are
    computed in float32 (float64 for inputs of float64) and summed in float64, in 8 in^2 bytes of memory for each layer.
    Layers whose weight has a second name (tied to an embedding), and layers that no example reached, are left out.

    data: a function, or "FILE.py:function"; `help("taskvec.live.stats")` says what it returns.
    examples: the largest number of examples that are used.
    labels: for a Fisher information. "exact" takes the expectation over all classes, with one forward pass and a
        backward pass for each class; it is not possible for sequences. "sampled" draws one y for each example, with
        `seed`, and needs one backward pass. "given" takes the `targets` of the data (the empirical Fisher).

    The result is deterministic: a draw depends on the seed, the example and the position. Nothing is written before all
    statistics are computed. Raises RecipeError for arguments that cannot be used, MismatchError for a module that is
    not the model, NonFiniteError and OutputError.
    """
    began = time.perf_counter()
    encoding = _require_arguments(kind, labels, examples, dtype)
    place = Destination.of(out, overwrite)
    target = place.target
    if not place.alone:
        raise OutputError(f"{os.fspath(out)}: statistics are one file, call it NAME.safetensors")
    weights = _model(model)
    (source,) = weights.terms
    place = replace(place, sources=(source.path,))  # type: ignore[attr-defined]
    finished_before(place)  # clears what a killed run has left
    place.require_writable()
    given, digest = _given(data, str(source.path))  # type: ignore[attr-defined]
    parameters = _parameters(given.module, weights)
    layers = _layers(given.module, weights) if kind == "gram" else {}
    _require_space(target, BITS[encoding] // 8 * sum(_sizes(parameters, layers, kind)))
    collected: Collected = Gram(given, layers) if kind == "gram" else Fisher(given, parameters, labels, seed)
    with closing(collected):
        count = _seen(given, collected, examples, progress)
    arrays, unreached = collected.results(count)
    about = {"examples": str(count), "data": digest}
    if kind == "fisher":
        about |= {"labels": labels, "norm": repr(_norm(arrays))}
        about |= {"seed": str(seed)} if labels == "sampled" else {}
    elif turned := [name for name in arrays if is_transposed(layers[name])]:
        about["transposed"] = json.dumps(turned)
    source.require_unchanged()
    fingerprint, size = _stored(place, arrays, encoding, _begun(kind, weights, about))
    return Statistics(
        target, kind, source.fingerprint, fingerprint, count, len(arrays), tuple(unreached), size,
        time.perf_counter() - began,
    )  # fmt: skip


# ---- before any work -----------------------------------------------------------------------------
def _require_arguments(kind: str, labels: str, examples: int | None, dtype: str) -> str:
    """The dtype to write. Raises RecipeError for arguments that cannot be used."""
    for name, value, known in (("kind", kind, KINDS), ("labels", labels, LABELS)):
        if value not in known:
            raise RecipeError(f"{name} is one of {', '.join(known)}, not {value!r}")
    if kind == "gram" and labels != "exact":
        raise RecipeError("Gram matrices are of inputs and use no labels: leave labels out")
    if examples is not None and examples < 1:
        raise RecipeError(f"examples must be at least 1, not {examples}")
    return parse_dtype(dtype)


def _model(uri: str | os.PathLike[str]) -> Weights:
    """The model in a file or folder. Raises RecipeError for a task vector or statistics."""
    weights = Weights({open_source(uri): 1})
    (source,) = weights.terms
    if not source.mass:
        what = f"{statistic_of(source)} statistics" if statistic_of(source) else "a task vector"
        raise RecipeError(f"{source.text} is {what}: statistics are of a model")
    return weights


def _given(data: str | Callable[..., Any], path: str) -> tuple[Data, str]:
    """What the user's function returns for the model's path, and the digest of its code. Raises TaskvecError for
    anything but a module in eval mode and batches."""
    try:
        import torch
    except ImportError:
        raise MissingExtra("stats", "torch") from None
    function, digest = function_in(data) if isinstance(data, str) else (data, code_digest(data))
    name = function.__name__
    with users_code(f"the function {name}"):
        returned = function(path)
    if not (isinstance(returned, tuple) and len(returned) in (2, 3) and isinstance(returned[0], torch.nn.Module)):
        is_tuple = isinstance(returned, tuple)
        what = f"({', '.join(type(x).__name__ for x in returned)})" if is_tuple else type(returned).__name__
        raise TaskvecError(f"{name} returned {what}, not (module, batches) or (module, batches, logits)")
    given = Data(*returned)
    if isinstance(given.batches, Mapping | torch.Tensor) or not hasattr(given.batches, "__iter__"):
        raise TaskvecError(f"{name} returned a {type(given.batches).__name__} where batches belong, a list of dicts")
    if given.logits is not None and not callable(given.logits):
        raise TaskvecError(
            f"{name} returned a {type(given.logits).__name__} where a function logits(module, batch) belongs"
        )
    if any(part.training for part in given.module.modules()):
        raise TaskvecError(f"{name} returned a module in training mode, which is random: call its eval()")
    return given, digest


def _parameters(module: "torch.nn.Module", weights: Weights) -> "dict[str, torch.nn.Parameter]":
    """The model's parameters that require a gradient. Raises MismatchError for a module that is not the model."""
    named = dict(module.named_parameters(remove_duplicate=False))
    known = {id(p) for name, p in named.items() if name in weights.specs}
    text, problems = weights.text(), []
    for name, p in named.items():
        spec = weights.specs.get(name)
        if spec is None:
            if p.requires_grad and id(p) not in known:
                problems.append(f"{name} is in the module, not in {text}")
        elif spec.shape != tuple(p.shape):
            problems.append(f"{name} is {list(p.shape)} in the module, {list(spec.shape)} in {text}")
        elif not _holds(p, weights.read(name)):
            problems.append(f"{name} has other values in the module than in {text}")
    if not known:
        problems.append(f"no parameter of the module has the name of a tensor of {text}")
    if problems:
        raise MismatchError(
            "the module is not the model: load the model's weights, under their names, and freeze what is not its own "
            "(requires_grad_(False)):",
            problems[:SHOWN],
        )
    return {name: p for name, p in named.items() if name in weights.specs and p.requires_grad}


def _holds(parameter: "torch.nn.Parameter", values: "NDArray[Any]") -> bool:
    """Whether a parameter has these values, in its dtype."""
    import torch

    return torch.equal(torch.from_numpy(values).to(parameter.dtype), parameter.detach().cpu())


def _layers(module: "torch.nn.Module", weights: Weights) -> "dict[str, torch.nn.Module]":
    """The model's linear layers, by the names of their weights. Layers whose weight has another name are left out."""
    names: dict[int, list[str]] = {}
    for name, p in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    layers = linear_layers(module)
    return {n: m for n, m in layers.items() if n in weights.specs and len(names[id(m.weight)]) == 1}


def _sizes(
    parameters: "Mapping[str, torch.nn.Parameter]", layers: "Mapping[str, torch.nn.Module]", kind: str
) -> list[int]:
    """The number of elements of each tensor that may be written. Raises TaskvecError if there is no such tensor."""
    sizes = [inputs_of(m) ** 2 for m in layers.values()] if kind == "gram" else [p.numel() for p in parameters.values()]
    if not sizes:
        lack = "linear layer with a weight of its own" if kind == "gram" else "parameter that requires a gradient"
        raise TaskvecError(f"the module has no {lack} among the model's")
    return sizes


def _require_space(target: Path, need: int) -> None:
    """Raise NotEnoughSpace if the disk has fewer free bytes than needed."""
    parent = existing_parent(target.parent)
    if (free := free_bytes(parent)) < need:
        raise NotEnoughSpace(f"{target} needs {readable(need)}, the disk of {parent} has {readable(free)} left")


# ---- the pass, and the file ----------------------------------------------------------------------
def _seen(given: Data, collected: Collected, examples: int | None, progress: Progress | None) -> int:
    """Let `collected` see the data, up to `examples` examples, and count them. Raises TaskvecError for no examples."""
    count = 0
    with users_code("the model or the data"):
        for batch, size in given.pieces(examples):
            collected.see(batch, size)
            count += size
            if progress:
                progress(count, examples or 0)
    if not count:
        raise TaskvecError("the data function gave no examples")
    return count


def _norm(arrays: "Mapping[str, NDArray[Any]]") -> float:
    """The Euclidean norm of all tensors together."""
    import numpy as np

    return math.sqrt(math.fsum(float(np.square(x, dtype=np.float64).sum()) for x in arrays.values()))


def _begun(kind: str, weights: Weights, about: Mapping[str, str]) -> dict[str, Any]:
    """The record of the file, to which `lineage.completed` adds the tensors and the fingerprint."""
    (source,) = weights.terms
    return {
        "taskvec": __version__,
        "mass": 0,
        "statistic": kind,
        "recipe": f"{kind} statistics of model",
        "base": source.fingerprint,
        **lineage.origins({"model": source}),
        **about,
    }


def _stored(
    place: Destination, arrays: "Mapping[str, NDArray[Any]]", dtype: str, entry: Mapping[str, Any]
) -> tuple[str, int]:
    """Write the file, whole and durable or not at all; returns its fingerprint and its size."""
    specs = {name: Spec(x.shape, dtype) for name, x in arrays.items()}
    layout = laid_out(place.target.name, specs, _metadata(lineage.longest(entry, specs, nonfinite=False)))
    with one_file(place) as path, closing(Safetensors(Folder(path.parent), [layout], durable=True)) as sink:
        digests = _encoded(arrays, dtype, sink)
        record = lineage.completed(entry, specs, sink.fingerprint(), digests)
        sink.finish(_metadata(record))
    return record["fingerprint"], layout.size


def _encoded(arrays: "Mapping[str, NDArray[Any]]", dtype: str, sink: Sink) -> dict[str, str]:
    """Write every tensor in this dtype; returns their digests. Raises NonFiniteError, which names the tensors that are
    not finite in it."""
    kinds = {"float32": "F32", "float64": "F64"}
    source = ArraySource("statistics", arrays, {n: Spec(x.shape, kinds[x.dtype.name]) for n, x in arrays.items()}, 0)
    step, bad, digests = PIECE * 8 // BITS[dtype], [], {}
    out, scratch = memoryview(bytearray(PIECE)), memoryview(bytearray(8 * step))
    for name, array in arrays.items():
        flags, pieces = 0, []
        for start in range(0, array.size, step):
            count = min(step, array.size - start)
            piece = out[: count * BITS[dtype] // 8]
            flags |= evaluate(alone(source, name), start, count, dtype, piece, scratch)
            pieces += lineage.pieces(piece)
            sink.write(name, start, piece)
        digests[name] = lineage.digest(pieces)
        bad += [name] if flags else []
    if bad:
        raise NonFiniteError(f"the statistics would not be finite in {dtype}; nothing was written:", bad[:SHOWN])
    return digests


def _metadata(record: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of the file: single entries of its record, and the whole record as JSON."""
    own = ("mass", "statistic", "base", "examples", "data", "labels", "seed", "norm", "transposed")
    plain = {f"taskvec.{key}": str(record[key]) for key in own if key in record}
    whole = {lineage.IN_FILE: json.dumps(record, separators=(",", ":"))}
    return {"format": "pt", "taskvec.version": str(record["taskvec"]), **plain, **whole}
