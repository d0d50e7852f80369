"""`permute`: the units of a model in another order, and the file that holds the order.

1. Permuting is linear: `permute(b - base, p)` is `permute(b, p) - permute(base, p)`. So a sum is permuted by permuting
   each of its sources, and the views here are views of single sources.
2. A view moves elements as they are stored, so they keep their bits, whatever their dtype is.
3. A tensor of n rows is read as (n, length). `rows` (n) says which row of the source each row is. If a further axis is
   permuted, too, `inner` (length) says which element of that row each element is.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

from taskvec.algebra.derived import Derived, Parameter, reads
from taskvec.algebra.weights import Weights
from taskvec.errors import FormatError, MismatchError, RecipeError
from taskvec.formats import open_source
from taskvec.numbers.dtypes import BITS
from taskvec.sources.abilities import LooksThrough, metadata_of, stored_of
from taskvec.sources.cost import Cost
from taskvec.sources.in_memory import ArraySource
from taskvec.sources.source import Source, Spec
from taskvec.views.symmetries import Group, fitting, is_axis

if TYPE_CHECKING:
    from numpy.typing import NDArray

KIND, STATISTIC, AXES, DIGEST = "permutation", "taskvec.statistic", "taskvec.axes", "taskvec.digest"
SLAB = 256 << 10  # bytes of rows that are gathered at once
NARROW, WHOLE = 512, 1 << 20  # bytes: a tensor with rows below NARROW is read whole if it has at most WHOLE


def permute(weights: Weights, permutations: "Weights | str | os.PathLike[str]") -> Weights:
    """The units of a model in another order: unit i of the result is unit p[i] of the model.

    >>> 0.5 * a + 0.5 * permute(b, "perm.safetensors")

    permutations: what `taskvec align` wrote (a path, or `load(path)`), or `match(...).permutations`. They name the axes
        that they permute. A tensor that they do not name stays as it is.

    The network computes the same function, up to the rounding of sums that are taken in another order, and every
    element keeps its bits. Before any data of the model are read, it raises RecipeError if the second argument holds no
    permutations, FormatError if they are damaged, and MismatchError if they do not fit the model.
    """
    if isinstance(permutations, str | os.PathLike):
        permutations = Weights({open_source(permutations): 1})
    if not isinstance(weights, Weights) or not isinstance(permutations, Weights):
        raise RecipeError("permute takes a model or a task vector, and permutations")
    stored = stored_in(permutations)
    if problems := [p for s in weights.summed for p in _misfits(stored, s)]:
        raise MismatchError("the permutations do not fit the model:", problems)
    mentioned = {**weights.mentioned, **permutations.mentioned}
    moved = {source: Permuted(source, permutations, stored) for source in weights.summed}
    return Weights({moved[s]: c for s, c in weights.terms.items()}, mentioned, moved.values())


@dataclass(frozen=True, slots=True)
class Stored:
    """Permutations as they are stored: the groups, and for each group the order of its units, (units,) in int64."""

    groups: Mapping[str, Group]
    orders: "Mapping[str, NDArray[Any]]"
    digest: str

    @property
    def axes(self) -> dict[str, list[tuple[int, str, int]]]:
        """For each tensor its axes that are permuted: (axis, group, parts)."""
        axes: dict[str, list[tuple[int, str, int]]] = {}
        for g, group in self.groups.items():
            for name, axis, parts in group.axes:
                axes.setdefault(name, []).append((axis, g, parts))
        return axes


class Permuted(Derived, LooksThrough):
    """A view of one source with its units in another order."""

    alike = False

    def __init__(self, source: Source, permutations: Weights, stored: Stored):
        super().__init__("permute", (Weights({source: 1}), permutations), {}, {})
        self.source, self.permutations = source, stored
        self._moves: dict[str, tuple[NDArray[Any] | None, NDArray[Any] | None]] = {}

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same view of other sources."""
        return permute(*args)

    def __reduce__(self) -> Any:
        return _unpickled, (self.source, self.args[1])

    # ---- what it is
    @property
    def specs(self) -> Mapping[str, Spec]:
        """The tensors of the source, with the same shapes and dtypes."""
        return self.source.specs

    @property
    def stored(self) -> Mapping[str, Spec]:
        """The tensors as the source stores them."""
        return stored_of(self.source)

    @property
    def base(self) -> str | None:
        """None: a permuted vector is relative to its base in the same order, whose fingerprint is not known."""
        return None

    @property
    def partial(self) -> bool:
        """Whether the source names only some tensors."""
        return self.source.partial

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE3 of the source's fingerprint and of all elements of the permutations."""
        from blake3 import blake3

        axes = {name: group.axes for name, group in self.permutations.groups.items()}
        return blake3(json.dumps([KIND, axes, self.permutations.digest, self.source.fingerprint]).encode()).hexdigest()

    @cached_property
    def _axes(self) -> dict[str, list[tuple[int, str, int]]]:
        return {name: axes for name, axes in self.permutations.axes.items() if name in self.specs}

    def origin(self, name: str) -> dict[tuple[Source, str], Fraction]:
        """What is summed for a tensor: a permuted one is this view's own, another one is read in the source."""
        return {(self, name): Fraction(1)} if name in self._axes else self.args[0].parts(name)

    # ---- what it costs
    @property
    def cost(self) -> Cost:
        """The memory of `rows` and `inner` for every tensor."""
        sizes = [self.specs[name] for name in self._axes]
        return Cost(once=sum(8 * (s.shape[0] + s.numel // max(1, s.shape[0])) for s in sizes))

    def cost_of(self, name: str) -> Cost:
        """The memory of two slabs of rows, and of a small tensor that is read whole."""
        spec = self.specs[name]
        row = spec.nbytes // max(1, spec.shape[0])
        return Cost(computing=2 * max(SLAB, row) + WHOLE)

    def reads(self, name: str) -> int:
        """Bytes that the source reads. A small tensor that is read whole for each block of the output counts once."""
        return reads(self.args[0], name)

    # ---- values
    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Elements from `start` on, gathered a slab of rows at a time."""
        if name not in self._axes:
            self.source.readinto(name, start, out)
            return
        import numpy as np

        spec = self.specs[name]
        rows, inner = self._moves.get(name) or self._moves.setdefault(name, self._orders(name))
        kind = np.dtype(f"u{BITS[spec.dtype] // 8}")
        result, length = np.frombuffer(out, kind), spec.numel // spec.shape[0]
        last, step = -(-(start + result.size) // length), max(1, SLAB // (length * kind.itemsize))
        for first in range(start // length, last, step):
            wanted = np.arange(first, min(first + step, last))
            slab = self._rows(name, wanted if rows is None else rows[wanted], length, kind)
            flat = (slab if inner is None else np.take(slab, inner, axis=1)).reshape(-1)
            skip, at = max(0, start - first * length), max(0, first * length - start)
            piece = flat[skip:][: result.size - at]
            result[at : at + piece.size] = piece

    def _rows(self, name: str, wanted: "NDArray[Any]", length: int, kind: Any) -> "NDArray[Any]":
        """The rows `wanted` of the source as they are stored, (wanted, length). Neighbours are read together."""
        import numpy as np

        spec = self.specs[name]
        if length * kind.itemsize < NARROW and spec.nbytes <= WHOLE:
            whole = np.empty((spec.shape[0], length), kind)
            self.source.readinto(name, 0, whole.reshape(-1).view(np.uint8).data)
            return np.asarray(whole[wanted])
        slab = np.empty((wanted.size, length), kind)
        runs = np.flatnonzero(np.diff(wanted, prepend=-2) != 1).tolist()
        for at, end in zip(runs, [*runs[1:], wanted.size], strict=True):
            view = slab[at:end].reshape(-1).view(np.uint8).data
            self.source.readinto(name, int(wanted[at]) * length, view)
        return slab

    def _orders(self, name: str) -> "tuple[NDArray[Any] | None, NDArray[Any] | None]":
        """`rows` and `inner` of a tensor: see above. None stands for the order as it is."""
        import numpy as np

        shape = self.specs[name].shape
        rows: NDArray[Any] | None = None
        inner: NDArray[Any] | None = None
        for axis, group, parts in self._axes[name]:
            order = expanded(self.permutations.orders[group], shape[axis], parts)
            if axis == 0:
                rows = order
            else:
                before = np.arange(self.specs[name].numel // shape[0]) if inner is None else inner
                inner = np.take(before.reshape(shape[1:]), order, axis=axis - 1).reshape(-1)
        return rows, inner


def _unpickled(source: Source, permutations: Weights) -> Permuted:
    return Permuted(source, permutations, stored_in(permutations))


def expanded(order: "NDArray[Any]", length: int, parts: int) -> "NDArray[Any]":
    """The order of the indices of an axis, (length,), from the order of its units, which is the same in each part."""
    import numpy as np

    width = length // parts // order.size
    within = (order[:, None] * width + np.arange(width)).reshape(-1)  # in one part
    return np.asarray((np.arange(parts)[:, None] * (length // parts) + within).reshape(-1))


def _misfits(stored: Stored, source: Source) -> list[str]:
    """The reasons why a source cannot be permuted in this way."""
    problems, seen = [], set()
    for name, group in stored.groups.items():
        missing = [n for n, _, _ in group.axes if n not in source.specs]
        if not source.partial:
            problems += [f"{n} is not in {source.text}" for n in missing]
        axes = [axis for axis in group.axes if axis[0] in source.specs]
        problems += [f"{p} in {source.text}" for p in fitting(name, group.units, axes, source.specs)]
        problems += [f"{n} is {source.specs[n]}: no whole bytes" for n, _, _ in axes if BITS[source.specs[n].dtype] % 8]
        problems += [f"axis {axis} of {n} is permuted twice" for n, axis, _ in axes if (n, axis) in seen]
        seen |= {(n, axis) for n, axis, _ in axes}
    return list(dict.fromkeys(problems))


# ---- as they are stored --------------------------------------------------------------------------
class InMemory(ArraySource):
    """Permutations in memory, as a source."""

    def __init__(self, arrays: "Mapping[str, NDArray[Any]]", metadata: Mapping[str, str]):
        super().__init__(KIND, arrays, {n: Spec(a.shape, "I64") for n, a in arrays.items()}, 0)
        self.metadata, self.base = dict(metadata), metadata.get("taskvec.base")


def in_memory(
    groups: Mapping[str, Group], orders: "Mapping[str, NDArray[Any]]", metadata: Mapping[str, str] | None = None
) -> Weights:
    """Permutations in memory, for `permute`. orders: for each group (units,), unit i of the result is unit orders[i].

    The metadata are those of a file of permutations: the axes of each group, a digest, and what `metadata` adds.
    """
    import numpy as np

    arrays = {name: np.ascontiguousarray(orders[name], np.int64) for name in groups}
    own = {STATISTIC: KIND, "taskvec.mass": "0", AXES: json.dumps({n: g.axes for n, g in groups.items()})}
    return Weights({InMemory(arrays, {**(metadata or {}), **own, DIGEST: _digest(arrays)}): 1})


def stored_in(weights: Weights) -> Stored:
    """Permutations, read and checked. Raises RecipeError if `weights` hold none, FormatError if they are damaged."""
    import numpy as np

    ((source, coefficient),) = weights.terms.items() if len(weights.terms) == 1 else ((None, None),)
    metadata = metadata_of(source)
    if source is None or coefficient != 1 or metadata.get(STATISTIC) != KIND:
        raise RecipeError(f"{weights} holds no permutations: `taskvec align A B -o FILE` writes them")
    axes = _axes_in(metadata, source)
    problems = [f"{name} is {spec}, no list of I64 or I32" for name, spec in source.specs.items()
                if spec.dtype not in ("I64", "I32") or len(spec.shape) != 1]  # fmt: skip
    orders = {}
    for name in () if problems else axes:
        kind = np.int64 if source.specs[name].dtype == "I64" else np.int32
        orders[name] = np.frombuffer(bytes_of(source, name), kind).astype(np.int64)
        if not np.array_equal(np.sort(orders[name]), np.arange(orders[name].size)):
            problems.append(f"{name} is no permutation: it must name each of 0 ... {orders[name].size - 1} once")
    if not problems and metadata.get(DIGEST, digest := _digest(orders)) != digest:
        problems.append(f"the digest of the permutations is not the one in its metadata ({DIGEST})")
    if problems:
        raise FormatError(f"{source.text} holds damaged permutations; `taskvec align` writes them again:", problems)
    return Stored({n: Group(orders[n].size, axes[n]) for n in axes}, orders, _digest(orders))


def _axes_in(metadata: Mapping[str, str], source: Source) -> dict[str, tuple[tuple[str, int, int], ...]]:
    """For each group (tensor, axis, parts) of all its axes, as the metadata say. Raises FormatError."""
    try:
        table = json.loads(metadata.get(AXES, ""))
        valid = isinstance(table, dict) and all(
            isinstance(axes, list) and axes and all(is_axis(a) for a in axes) for axes in table.values()
        )
    except (ValueError, RecursionError):
        valid = False
    if not valid or table.keys() != source.specs.keys():
        raise FormatError(f"{source.text} does not say which axes its permutations are of ({AXES})")
    return {name: tuple((a[0], a[1], a[2] if len(a) == 3 else 1) for a in axes) for name, axes in table.items()}


def bytes_of(source: Source, name: str) -> bytearray:
    """All bytes of one tensor."""
    content = bytearray(source.specs[name].nbytes)
    source.readinto(name, 0, memoryview(content))
    return content


def _digest(orders: "Mapping[str, NDArray[Any]]") -> str:
    """BLAKE3 of the names, sizes and elements of all orders."""
    from blake3 import blake3

    state = blake3()
    for name in sorted(orders):
        state.update(json.dumps([name, orders[name].size]).encode())
        state.update(orders[name].astype("<i8").tobytes())
    return state.hexdigest()
