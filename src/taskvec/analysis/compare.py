"""`compare`: norms, cosines and sign conflicts of task vectors, computed in one pass over their sources.

1. Every tensor is cut into blocks of BLOCK elements. Threads compute for each block and each pair of vectors the dot
   product, the number of entries that are nonzero in both, and the number of these that differ in sign (`Pairs`).
2. The sums of blocks are added to those of tensors, layers and the whole model, exactly rounded, so the result does not
   depend on the order. Norms, cosines and shares are computed from these sums.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count as count_from
from typing import Any

from taskvec.algebra.program import Linear, scratch_bytes
from taskvec.algebra.weights import Weights
from taskvec.errors import MismatchError, RecipeError
from taskvec.executors.threads import default_threads, each
from taskvec.methods.core.pairs import pair_sums, pairs_of, square
from taskvec.recipes.recipe import load
from taskvec.sources.abilities import FromFiles
from taskvec.sources.positions import layer_of

BLOCK = 256 << 10  # elements that a thread holds of every vector
OUTSIDE = "(outside the layers)"  # takes the place of a layer for tensors outside the layers


@dataclass(frozen=True, slots=True)
class Pairs:
    """Sums over a set of entries, for n vectors: each field is n x n, row by row."""

    dot: tuple[tuple[float, ...], ...]  # sum of x_i * x_j, float64
    both: tuple[tuple[int, ...], ...]  # entries where both are nonzero
    against: tuple[tuple[int, ...], ...]  # those of them where the signs differ
    base_square: float  # sum of squares of the base's weights; nan without a base

    @property
    def norms(self) -> list[float]:
        """The Euclidean norms ||x_i||."""
        return [math.sqrt(self.dot[k][k]) for k in range(len(self.dot))]

    @property
    def cosine(self) -> list[list[float]]:
        """x_i . x_j / (||x_i|| ||x_j||); nan if a vector is zero."""
        size = self.norms
        return [
            [d / (size[i] * size[j]) if size[i] * size[j] else math.nan for j, d in enumerate(row)]
            for i, row in enumerate(self.dot)
        ]

    @property
    def sign_conflict(self) -> list[list[float]]:
        """The share of the entries nonzero in both that differ in sign; nan if there are none."""
        rows = zip(self.against, self.both, strict=True)
        return [[a / b if b else math.nan for a, b in zip(x, y, strict=True)] for x, y in rows]

    @property
    def relative(self) -> list[float]:
        """||x_i|| / ||base||; nan without a base."""
        base = math.sqrt(self.base_square)
        return [n / base if base else math.nan for n in self.norms]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The measures of n vectors: for each tensor, each layer and the whole model."""

    names: tuple[str, ...]
    tensors: Mapping[str, Pairs]

    @property
    def whole(self) -> Pairs:
        """The measures over all tensors."""
        return added(list(self.tensors.values()))

    @property
    def layers(self) -> dict[str, Pairs]:
        """The measures of each layer, in the order of the model, and of all tensors outside the layers together."""
        groups: dict[str, list[Pairs]] = {}
        for name, pairs in self.tensors.items():
            place = layer_of(name)
            groups.setdefault(f"{place[0]}.{place[1]}".lstrip(".") if place else OUTSIDE, []).append(pairs)
        return {layer: added(group) for layer, group in groups.items()}

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: nan becomes null."""
        return {
            "names": list(self.names),
            "whole": _table(self.whole),
            "layers": {k: _table(v) for k, v in self.layers.items()},
        }


def _table(pairs: Pairs) -> dict[str, Any]:
    """The measures for `--json`."""

    def plain(value: Any) -> Any:
        return [plain(v) for v in value] if isinstance(value, list) else None if math.isnan(value) else value

    names = ("norms", "relative", "cosine", "sign_conflict")
    return {name: plain(getattr(pairs, name)) for name in names}


def added(parts: Sequence[Pairs]) -> Pairs:
    """The sums over all parts, exactly rounded, so that their order does not matter."""
    n = range(len(parts[0].dot))
    return Pairs(
        tuple(tuple(math.fsum(p.dot[i][j] for p in parts) for j in n) for i in n),
        tuple(tuple(sum(p.both[i][j] for p in parts) for j in n) for i in n),
        tuple(tuple(sum(p.against[i][j] for p in parts) for j in n) for i in n),
        math.fsum(p.base_square for p in parts),
    )


def compare(
    vectors: "Mapping[str, Weights] | Sequence[Weights | str | os.PathLike[str]]",
    *,
    base: "Weights | str | os.PathLike[str] | None" = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Norms, cosines and sign conflicts of task vectors, in one pass over their sources.

    vectors: {name: Weights}, or a list of Weights or of paths and names on the hub.
    base: is subtracted from vectors that are models; `relative` is relative to its norm.

    Only floating-point tensors count. Raises RecipeError if there are no vectors, MismatchError for tensors that do not
    fit together, and MassError.
    """
    base = base if base is None or isinstance(base, Weights) else load(base)
    named = _named(vectors)
    taus = [w - base if base is not None and w.kind() == 1 else w for w in named.values()]
    if not taus:
        raise RecipeError("there is nothing to compare: name at least one model or task vector")
    taus = [w.placed_in(base.reference if base is not None else None) for w in taus]
    everything = sum([base, *taus], Weights({})) if base is not None else sum(taus, Weights({}))
    specs = {name: spec for name, spec in everything.specs.items() if spec.arithmetic}
    if not specs:
        raise MismatchError("no tensor is floating point: there is nothing to compare")
    columns = taus if base is None else [*taus, base]
    sums = {name: [w.linear(name, everything.places[name]) for w in columns] for name in specs}
    read = [dict.fromkeys(part for linear in of_tensor for part in linear.parts) for of_tensor in sums.values()]
    size = max(scratch_bytes(parts, BLOCK, len(columns)) for parts in read)
    blocks = [(name, start) for name, spec in specs.items() for start in range(0, spec.numel, BLOCK)]
    measures: dict[str, list[Pairs]] = {name: [] for name in specs}
    total, done = sum(spec.numel for spec in specs.values()), 0

    def work(block: tuple[str, int], scratch: memoryview) -> tuple[str, int, Pairs]:
        name, start = block
        count = min(BLOCK, specs[name].numel - start)
        return name, count, _pairs(sums[name], start, count, scratch, has_base=base is not None)

    def memory() -> memoryview:
        return memoryview(bytearray(size))

    for name, count, pairs in each(blocks, work, memory, threads or default_threads()):
        measures[name].append(pairs)
        done += count
        if progress:
            progress(done, total)
    return Comparison(tuple(named), {name: added(parts) for name, parts in measures.items() if parts})


def _named(vectors: "Mapping[str, Weights] | Sequence[Weights | str | os.PathLike[str]]") -> dict[str, Weights]:
    """The vectors, each with a name of its own: that of its file or folder, or its text."""
    if isinstance(vectors, Mapping):
        return dict(vectors)
    named: dict[str, Weights] = {}
    for given in vectors:
        weights = given if isinstance(given, Weights) else load(given)
        source = next(iter(weights.mentioned), None) if len(weights.mentioned) == 1 else None
        name = source.path.name if isinstance(source, FromFiles) and source.path else str(weights)
        numbered = (f"{name}_{k}" for k in count_from(len(named) + 1))
        named[name if name not in named else next(n for n in numbered if n not in named)] = weights
    return named


def _pairs(vectors: Sequence[Linear], start: int, count: int, scratch: memoryview, has_base: bool) -> Pairs:
    """The measures of a range of elements. vectors: the vectors, with the base behind them if there is one."""
    n = len(vectors) - has_base
    sums = pair_sums([*pairs_of(n), *([(n, n)] if has_base else [])], vectors, start, count, scratch)
    rows = square(sums, n)
    return Pairs(
        dot=tuple(tuple(pair.dot for pair in row) for row in rows),
        both=tuple(tuple(pair.both for pair in row) for row in rows),
        against=tuple(tuple(pair.against for pair in row) for row in rows),
        base_square=sums[n, n].dot if has_base else math.nan,
    )
