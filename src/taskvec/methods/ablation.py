"""`ablate` edits a model so that it can no longer write given directions (Arditi et al., NeurIPS 2024).

Every matrix W that writes to the residual stream, whose width is d, loses its part along k directions:

1. The directions (k, d) are made orthonormal in float64: R, with rows r_1 ... r_k (`orthonormal`).
2. Rows of W may be vectors of the stream, (tokens, d), as in an embedding. Then W - W R^T R is computed row by row,
   while W is read (`readinto`).
3. Otherwise the columns are: W (d, in), as in a Linear, or a bias (d,). Then W - R^T (R W) needs the components R W,
   (k, in), which a pass over the data computes before (`prepare`).

This is a source of its own kind rather than a method of core/, since its two arguments have different tensors.
"""

import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

from taskvec.algebra.derived import Derived, Names, Parameter, reads
from taskvec.algebra.program import evaluate, scratch_bytes
from taskvec.algebra.weights import Weights
from taskvec.errors import MismatchError, RecipeError
from taskvec.executors.threads import each
from taskvec.numbers.dtypes import BITS, accumulator
from taskvec.sources.abilities import LooksThrough, stored_of
from taskvec.sources.cost import Cost
from taskvec.sources.positions import BIASES, HEADS, by_token, layer_of
from taskvec.sources.source import Source, Spec
from taskvec.sources.text import matches

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The tensors that write to the residual stream, and which of their axes is the stream's: axis 0 of a Linear (out, in),
# axis 1 of an embedding and of GPT-2's matrices (in, out).
WRITERS = (
    ("*embed_tokens.weight", 1), ("*.self_attn.o_proj.weight", 0), ("*.self_attn.o_proj.bias", 0),
    ("*.mlp.down_proj.weight", 0), ("*.mlp.down_proj.bias", 0),
    ("*word_embeddings.weight", 1), ("*position_embeddings.weight", 1), ("*token_type_embeddings.weight", 1),
    ("*.output.dense.weight", 0), ("*.output.dense.bias", 0),
    ("*wte.weight", 1), ("*wpe.weight", 1), ("*.c_proj.weight", 1), ("*.c_proj.bias", 0),
)  # fmt: skip
# Norms between a layer's output and the stream (Gemma 2 and 3, OLMo 2, GLM-4), which scale what the matrices write.
BETWEEN = ("*.post_feedforward_layernorm.weight", "*.post_self_attn_layernorm.weight", "*.post_mlp_layernorm.weight")
SLAB = 1 << 16  # elements that a thread projects at once, or one row; fixed, so that no sum depends on the blocks
DEPENDENT = (
    1e-6  # a unit vector with less than this outside the span of others is dependent: less is float32's rounding
)


def ablate(model: Weights, directions: Weights, *, patterns: str = "") -> Weights:
    """W - r r^T W for every matrix that writes to the residual stream: the model can no longer write the direction r.

    Weight orthogonalisation (Arditi et al., NeurIPS 2024, arXiv 2406.11717, section 2.4). Afterwards r^T W = 0, up to
    the rounding of the output's dtype. As in the paper this changes embeddings, positions, the output matrices of
    attention and MLP, and output biases; all other tensors keep their bits. Ablating twice is ablating once, and the
    ablation of a sum is the sum of the ablations, both up to rounding.

    model: a model or a task vector. Computed in float64 and rounded to float32 (not at all for float64 models).
    directions: `load("refusal.safetensors")`, one tensor (k, d) or (d,), of any length and at any angle. They are
        orthonormalised in float64 (Gram-Schmidt, twice).
    patterns: names of the tensors to change in place of those in WRITERS, as patterns that are separated by spaces. A
        pattern may end in @0 or @1, which says which axis is that of the stream; otherwise it is the axis of size d,
        the first one if both are.

    A model that normalises after it has added (BERT) can still write r with its norms, which stay as they are. A model
    that normalises what it adds (Gemma 2, OLMo 2) can, too, and is refused unless `patterns` are given. Raises
    MismatchError for tensors whose axis is not d long, and RecipeError if no tensor fits or if the directions are zero,
    not finite or dependent.
    """
    if not isinstance(model, Weights) or not isinstance(directions, Weights):
        raise RecipeError("ablate takes a model or a task vector, and directions")
    if not isinstance(patterns, str):
        raise RecipeError(f"ablate: patterns is a text such as {WRITERS[1][0]!r}, not {type(patterns).__name__}")
    source = Ablated(model, directions, patterns)
    return Weights({source: 1}, {**model.mentioned, **directions.mentioned})


class Ablated(Derived, LooksThrough):
    """One call of `ablate`."""

    alike = False

    def __init__(self, model: Weights, directions: Weights, patterns: str):
        super().__init__("ablate", (model, directions), {"patterns": patterns}, {"patterns": ""})
        self.tensor, self.size = _direction(directions)
        self.axes = _axes(model, patterns, self.size)
        self.own_passes = int(bool(self._columns))
        self._lock, self._of_thread = threading.RLock(), threading.local()
        self._unit: NDArray[Any] | None = None
        self._parts: dict[str, NDArray[Any]] = {}

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same edit of other sources."""
        return ablate(*args, patterns=str(params["patterns"]))

    def __reduce__(self) -> Any:
        return Ablated, (*self.args, str(self.params["patterns"]))

    # ---- what it is
    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        """Those of the model. What is edited is float32, or float64 where a source is; so is all of a sum of models."""
        model = self.args[0]
        plain = [*model.terms.values()] == [1]
        return {
            name: spec if not spec.arithmetic or (plain and name not in self.axes)
            else Spec(spec.shape, accumulator(*(s.specs[name].dtype for s in model.summed if name in s.specs)))
            for name, spec in model.specs.items()
        }  # fmt: skip

    @cached_property
    def stored(self) -> Mapping[str, Spec]:
        """Names, shapes and dtypes as the first model among the sources has them in its file."""
        donor = self.args[0].reference
        return stored_of(donor)

    @property
    def base(self) -> str | None:
        """None, since nobody has the model that is the base of an edited vector."""
        return None

    @property
    def partial(self) -> bool:
        """Whether the model names only some of the tensors."""
        return all(source.partial for source in self.args[0].summed)

    def origin(self, name: str) -> dict[tuple[Source, str], Fraction]:
        """A tensor that is not edited is the model's own."""
        return {(self, name): Fraction(1)} if name in self.axes else self.args[0].parts(name)

    # ---- what it costs
    @property
    def _columns(self) -> list[str]:
        """The tensors whose columns are vectors of the stream. Their components are measured before."""
        return [name for name, axis in self.axes.items() if axis == 0]

    @property
    def _count(self) -> int:
        return self.args[1].specs[self.tensor].numel // self.size

    @property
    def cost(self) -> Cost:
        """The directions, three times while they are made orthogonal, and the components along them."""
        widths = [self.specs[name].numel // self.size for name in self._columns]
        return Cost(once=8 * self._count * (3 * self.size + sum(widths)))

    @property
    def unmeasured(self) -> int:
        """Elements that `prepare` has still to read."""
        left = sum(self.specs[n].numel for n in self._columns if n not in self._parts)
        return left + super().unmeasured

    def cost_of(self, name: str) -> Cost:
        """A slab four times: as it is summed, in float64, edited, and one product."""
        n = max(SLAB, self._length(name))
        return Cost(computing=4 * 8 * n + scratch_bytes(self.args[0].parts(name), n))

    def reads(self, name: str) -> int:
        """How often a tensor is read: once, and once before if its components are measured."""
        return reads(self.args[0], name) * (1 + (self.axes.get(name) == 0))

    # ---- what is measured before
    def prepare(
        self, threads: int, progress: Callable[[int], None] = lambda size: None, names: Names | None = None
    ) -> None:
        """Compute the orthonormal directions R, and R W for every matrix whose columns are vectors of the stream."""
        super().prepare(threads, progress, names)
        with self._lock:
            if self._unit is None:
                self._unit = orthonormal(self.args[1].read(self.tensor).reshape(-1, self.size))
            todo = [name for name in self._columns if name not in self._parts]
            for name, parts in each(todo, self._components, dict, min(threads, len(todo))) if todo else ():
                self._parts[name] = parts
                progress(self.specs[name].numel)

    def _components(self, name: str, memory: dict[str, Any]) -> "tuple[str, NDArray[Any]]":
        """(name, R W): k x columns in float64, summed row after row; `memory` is a thread's."""
        import numpy as np

        assert self._unit is not None
        spec = self.specs[name]
        components = np.zeros((len(self._unit), spec.numel // self.size))
        for first, rows in self._slabs(name, 0, spec.shape[0], memory):
            part = self._unit[:, first : first + len(rows)]
            for k, r in enumerate(part):
                components[k] += np.add.reduce(r[:, None] * rows, axis=0)
        return name, components

    # ---- values
    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Elements from `start` on of W without its part along the directions."""
        import numpy as np

        if name not in self.axes:
            self._unedited(name, start, out)
            return
        self.prepare(1)
        assert self._unit is not None
        spec = self.specs[name]
        result = np.frombuffer(out, np.float64 if spec.dtype == "F64" else np.float32)
        length = self._length(name)
        last = -(-(start + result.size) // length)
        for first, rows in self._slabs(name, start // length, last, self._of_thread.__dict__):
            edited = rows.copy()
            for k, r in enumerate(self._unit):
                if self.axes[name]:
                    edited -= np.add.reduce(rows * r, axis=1)[:, None] * r
                else:
                    edited -= r[first : first + len(rows), None] * self._parts[name][k]
            flat = edited.reshape(-1)
            skip, at = max(0, start - first * length), max(0, first * length - start)
            piece = flat[skip:][: result.size - at]
            result[at : at + piece.size] = piece

    def _unedited(self, name: str, start: int, out: memoryview) -> None:
        """A tensor that passes through, for a caller that asks this source for it. (An expression asks `origin`.)"""
        spec, linear = self.specs[name], self.args[0].linear(name)
        if not spec.arithmetic:
            source = self.args[0].reference
            assert source is not None
            source.readinto(name, start, out)
            return
        n = len(out) * 8 // BITS[spec.dtype]
        evaluate(linear, start, n, spec.dtype, out, memoryview(bytearray(scratch_bytes(linear.parts, n))))

    def _length(self, name: str) -> int:
        """Elements of a row. A vector is one column."""
        shape = self.specs[name].shape
        return shape[1] if len(shape) > 1 else 1

    def _slabs(self, name: str, first: int, last: int, memory: dict[str, Any]) -> "Iterator[tuple[int, NDArray[Any]]]":
        """The unedited matrix in slabs: (the first row, some rows from it on in float64)."""
        import numpy as np

        spec, length, linear = self.specs[name], self._length(name), self.args[0].linear(name)
        step = max(1, SLAB // length)
        need = scratch_bytes(linear.parts, step * length)
        if len(memory.get("scratch", b"")) < need:
            memory["scratch"] = memoryview(bytearray(need))
        for row in range(first, last, step):
            count = min(step, last - row) * length
            values = np.zeros(count, np.float64 if spec.dtype == "F64" else np.float32)
            if linear:
                evaluate(linear, row * length, count, spec.dtype, values, memory["scratch"])
            yield row, values.astype(np.float64).reshape(-1, length)


def orthonormal(directions: "NDArray[Any]") -> "NDArray[Any]":
    """An orthonormal basis of the span of the rows, (k, d) -> (k, d) float64, by Gram-Schmidt.

    Raises RecipeError for rows that are zero, not finite or dependent."""
    import numpy as np

    basis: list[NDArray[Any]] = []
    for k, row in enumerate(directions.astype(np.float64)):
        size = float(np.abs(row).max())
        if not math.isfinite(size) or not size:
            raise RecipeError(f"ablate: direction {k + 1} is {'not finite' if size else 'zero'}")
        row = row / size
        row /= math.sqrt(np.add.reduce(row * row))
        for _ in range(2):  # the second time takes out what rounding has put back
            for other in basis:
                row = row - np.add.reduce(row * other) * other
            rest = math.sqrt(np.add.reduce(row * row))
            if rest < DEPENDENT:
                raise RecipeError(f"ablate: direction {k + 1} lies in the span of those before it: leave it out")
            row /= rest
        basis.append(row)
    return np.stack(basis)


def _direction(directions: Weights) -> tuple[str, int]:
    """(the name of the only tensor, the length d of a direction). Raises RecipeError for anything else."""
    specs = {name: spec for name, spec in directions.specs.items() if spec.arithmetic}
    if len(specs) != 1:
        raise RecipeError(f"ablate: the directions are one tensor, (k, d) or (d,), and there are {len(specs)}")
    ((name, spec),) = specs.items()
    if len(spec.shape) not in (1, 2) or not spec.numel:
        raise RecipeError(f"ablate: directions have shape (k, d) or (d,), and {name} is {list(spec.shape)}")
    return name, spec.shape[-1]


def _axes(model: Weights, patterns: str, size: int) -> dict[str, int]:
    """Tensor -> its axis that is the stream's, for all tensors that are edited. Raises MismatchError and RecipeError
    with every problem at once."""
    table = _table(patterns) if patterns else WRITERS
    axes: dict[str, int] = {}
    problems = []
    for name, spec in model.specs.items():
        pattern, axis = next((entry for entry in table if matches(entry[0], name)), ("", None))
        if not pattern:
            continue
        shape = spec.shape
        axis = (0 if size in shape[:1] else len(shape) - 1) if axis is None else axis
        if not spec.arithmetic or len(shape) not in (1, 2) or axis >= len(shape) or shape[axis] != size:
            problems.append(f"{name} is {spec}, and its axis {axis} should be {size} long, as the directions are")
        axes[name] = axis
    if problems:
        raise MismatchError("ablate: the directions do not fit what they are to be taken out of:", problems)
    idle = [pattern for pattern, _ in table if not any(matches(pattern, name) for name in model.specs)]
    if not axes or (patterns and idle):
        raise RecipeError("ablate: no tensor fits (say with patterns= what writes to the residual stream):", idle)
    if not patterns and (problems := _gaps(model, axes)):
        raise RecipeError(
            "ablate: it is not clear what writes to the residual stream; say it with patterns=:", problems
        )
    return axes


def _table(patterns: str) -> tuple[tuple[str, int | None], ...]:
    """The patterns with their axes, None where no axis is given: "*.up.weight@1 *.down.weight" -> (("*.up.weight", 1),
    ("*.down.weight", None))."""
    entries = [re.fullmatch(r"(.+?)(?:@([01]))?", word) for word in patterns.split()]
    return tuple((m[1], int(m[2]) if m[2] else None) for m in entries if m)


def _gaps(model: Weights, edited: Mapping[str, int]) -> list[str]:
    """Why the edit may leave a way to write the directions: layers in which the known names do not fit both attention
    and MLP, embeddings that are not edited, and norms behind what is edited."""
    if all(source.partial for source in model.summed):
        return []
    embeddings = (name for name in model.specs if by_token(name) and name not in (*HEADS, *BIASES, *edited))
    problems = [f"{name} is an embedding, and none of the known names fits it" for name in embeddings]
    norms = (name for name in model.specs if any(matches(pattern, name) for pattern in BETWEEN))
    problems += [f"{name} scales what its layer writes, and can turn it towards the direction again" for name in norms]
    counts: dict[tuple[str, int], int] = {}
    for name, spec in model.specs.items():
        if (layer := layer_of(name)) and len(spec.shape) == 2:
            counts[layer] = counts.get(layer, 0) + (name in edited)
    return problems + [f"{stack}.{k}: {n} of its matrices fit, not 2" for (stack, k), n in counts.items() if n != 2]
