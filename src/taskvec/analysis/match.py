"""`match`: the order of one model's hidden units in which it is most like another model, from the weights alone.

This is the weight matching of Git Re-Basin (Ainsworth, Hayase & Srinivasa, ICLR 2023, arXiv 2209.04836). Two networks
that were trained from different initialisations have like units in different orders. Their mean makes sense only after
the units of one are put into the order of the other.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taskvec.algebra.weights import Weights
from taskvec.analysis.compare import compare
from taskvec.errors import MassError, MismatchError, MissingExtra, NonFiniteError, OutputError, RecipeError
from taskvec.formats.sink import Safetensors, laid_out
from taskvec.places.json_files import read_json
from taskvec.places.local import Folder
from taskvec.saving.outputs import Destination
from taskvec.saving.staging import one_file
from taskvec.sources.abilities import folder_of, metadata_of
from taskvec.views import families, symmetries
from taskvec.views.permuted import bytes_of, in_memory, permute
from taskvec.views.symmetries import Group, Symmetry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Orders = Mapping[str, NDArray[Any]]
    Gram = NDArray[Any]

SLAB = 1 << 22  # elements of a tensor that are held at once where the units are not its rows
WIDTH = 1 << 20  # elements of a slab that are multiplied at once, in float64
LEAST = 1e-12  # a gain that is a smaller share of the objective may be rounding and does not count


@dataclass(frozen=True, slots=True)
class Alignment:
    """The result of `match`."""

    symmetry: str  # the name of the rules that say which units there are
    units: Mapping[str, int]  # group -> the number of its units
    moved: Mapping[str, int]  # group -> the number of units that are in another place
    uncovered: tuple[str, ...]  # tensors that no rule permutes
    sweeps: int  # the number of sweeps over the groups
    settled: bool  # whether the last sweep gained nothing
    before: float  # the cosine of a and b, over the whole model
    after: float  # the cosine of a and permute(b, permutations)
    permutations: Weights  # what `permute` takes

    def save(self, uri: "str | os.PathLike[str]", *, overwrite: bool = False) -> None:
        """Write the permutations as a safetensors file, whole or not at all. Raises OutputError."""
        write(uri, self.permutations, overwrite)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "permutations"}
        return {key: dict(v) if isinstance(v, Mapping) else v for key, v in values.items()}

    def __str__(self) -> str:
        kept = f"; {len(self.uncovered)} tensors keep their order" if self.uncovered else ""
        end = "" if self.settled else " and not settled: allow it more sweeps"
        return (
            f"{sum(self.moved.values())} of {sum(self.units.values())} units moved in {len(self.units)} groups "
            f"({self.symmetry}){kept}\n"
            f"cosine {self.before:.4f} -> {self.after:.4f} after {self.sweeps} sweep{'s' * (self.sweeps != 1)}{end}"
        )


def match(
    a: Weights,
    b: Weights,
    *,
    spec: "str | os.PathLike[str] | None" = None,
    heads: int | None = None,
    residual: bool = False,
    seed: int = 0,
    sweeps: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> Alignment:
    """argmax over permutations pi of <vec(a), vec(pi(b))>: the order of b's units in which b is most like a.

    Git Re-Basin, algorithm 1, weight matching (Ainsworth et al., ICLR 2023, arXiv 2209.04836):
    1. A group is a set of units that move together. If all other groups stay as they are, the best order of one group
       is a linear assignment on A_ij = sum over its tensors of <unit i of a, unit j of pi(b)>, which is solved exactly.
    2. The groups are treated one after another, in an order that is drawn from `seed`, in at most `sweeps` sweeps (100,
       as in the authors' code), until a sweep gains nothing.
    3. The result is a local optimum, since finding the best is NP-hard from three layers on. `permute(b, match(a,
       b).permutations)` computes the same function as b.

    spec: the name of shipped rules (llama, bert, gpt2), or a JSON file (symmetries.from_json), which say what the
        groups are. Without it the rules are chosen by the names of the tensors; they must then know every tensor.
    heads: the number of attention heads (of keys) in the models, needed if no config.json says it.
    residual: permute the residual stream too, for models trained from different initialisations; exact for RMSNorm and
        LayerNorm.

    Beyond the paper: attention heads move as a whole, and with grouped queries those that share a key move together;
    within a head, and among the queries of one key, the order stays. A tensor that a group permutes on two axes follows
    and has no vote.

    Gram matrices are float64, n x n for the n units of one group at a time, and are summed tensor by tensor (by slabs
    of rows if the units are not its rows). The assignment takes up to n^3 steps. The same arguments give the same
    orders; a BLAS that rounds otherwise can change them only where two are equal to within its rounding. Needs the
    extra `align` (scipy). Raises RecipeError, MismatchError, MassError, NonFiniteError, FormatError.
    """
    import numpy as np

    if a.kind() != b.kind():
        raise MassError("one of the two is a model, the other a task vector: they have no units in common")
    if sweeps < 1:
        raise RecipeError(f"sweeps must be at least 1, not {sweeps}")
    specs = (a + b).specs
    symmetry = families.symmetry_of(specs, spec)
    groups = symmetries.groups(symmetry, specs, _config(symmetry, a, b), heads, residual)
    orders, done, settled = _settle(a, b, groups, seed, sweeps, progress)
    models = {"taskvec.base": _fingerprint(b), "taskvec.like": _fingerprint(a)}
    fingerprints = {key: value for key, value in models.items() if value}
    permutations = in_memory(groups, orders, {"format": "pt", **fingerprints})
    cosine = compare({"a": a, "b": b, "moved": permute(b, permutations)}).whole.cosine[0]
    covered = {n for group in groups.values() for n, _, _ in group.axes}
    return Alignment(
        symmetry.name, {n: g.units for n, g in groups.items()},
        {n: int((orders[n] != np.arange(g.units)).sum()) for n, g in groups.items()},
        tuple(n for n in specs if n not in covered), done, settled, cosine[1], cosine[2], permutations,
    )  # fmt: skip


def _settle(
    a: Weights,
    b: Weights,
    groups: Mapping[str, Group],
    seed: int,
    sweeps: int,
    progress: Callable[[int, int], None] | None,
) -> "tuple[Orders, int, bool]":
    """Coordinate descent: the order of every group's units, the number of sweeps, and whether the last gained nothing.

    A group is matched again only if a group that shares a tensor with it has moved since.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise MissingExtra("match", "align") from None
    import numpy as np

    orders = {name: np.arange(group.units) for name, group in groups.items()}
    sizes = {name: sum(8 * a.specs[n].numel for n, _, _ in group.axes) for name, group in groups.items()}
    random = np.random.default_rng(seed)
    stale = set(groups)  # the groups that must be matched, at first all
    done = 0
    while stale and done < sweeps:
        done += 1
        turn = [name for name in (list(groups)[k] for k in random.permutation(len(groups))) if name in stale]
        total, read = sum(map(sizes.__getitem__, turn)), 0
        for name in turn:
            stale.discard(name)
            gram = _gram(a, b, name, groups, orders)
            _, best = linear_sum_assignment(gram, maximize=True)
            index = np.arange(best.size)
            old, new = gram[index, orders[name]].sum(), gram[index, best].sum()
            if new - old > LEAST * np.abs(gram[index, best]).sum():
                orders[name] = best.astype(np.int64)
                stale |= _neighbours(name, groups)
            read += sizes[name]
            if progress:
                progress(read, total)
    return orders, done, not stale


def _fingerprint(weights: Weights) -> str | None:
    """The fingerprint of a model that is one source, None for any other expression."""
    ((source, c),) = weights.terms.items() if len(weights.terms) == 1 else ((None, None),)
    return source.fingerprint if source is not None and c == 1 and source.mass else None


def _config(symmetry: Symmetry, *models: Weights) -> dict[str, Any]:
    """The config.json of the first model that has one, {} if none has. Raises FormatError if one cannot be read, and
    MismatchError if another model has other numbers of units."""
    configs: list[tuple[str, dict[str, Any]]] = []
    for source in dict.fromkeys(s for m in models for s in m.mentioned if s.mass):
        folder = folder_of(source)
        path = folder / "config.json" if folder else None
        if path and path.is_file():
            table = read_json(path)
            if isinstance(table, dict):
                configs.append((source.text, table))
    keys = {key for rule in symmetry.rules if isinstance(rule.units, tuple) for key in rule.units}
    problems = [
        f"{key} is {table.get(key)} in {text}, {configs[0][1].get(key)} in {configs[0][0]}"
        for text, table in configs[1:]
        for key in sorted(keys)
        if table.get(key) != configs[0][1].get(key)
    ]
    if problems:
        raise MismatchError("the models have different numbers of heads:", problems)
    return configs[0][1] if configs else {}


def _neighbours(name: str, groups: Mapping[str, Group]) -> set[str]:
    """The other groups that share a tensor with a group."""
    mine = {n for n, _, _ in groups[name].axes}
    return {other for other, g in groups.items() if other != name and any(n in mine for n, _, _ in g.axes)}


def _gram(a: Weights, b: Weights, name: str, groups: Mapping[str, Group], orders: "Orders") -> "Gram":
    """A_ij, (units, units) in float64: the sum over the group's tensors of <unit i of a, unit j of b>, where b has the
    present orders of all other groups. Raises NonFiniteError."""
    import numpy as np

    group = groups[name]
    named = [n for n, _, _ in group.axes]
    near = _neighbours(name, groups)
    b = permute(b, in_memory({n: groups[n] for n in near}, orders)) if near else b
    total, bad = np.zeros((group.units, group.units)), []
    for tensor, axis, parts in group.axes:
        if named.count(tensor) > 1 or not a.specs[tensor].arithmetic:
            continue
        for rows in _slabs(a.specs[tensor].shape, axis):
            x, y = (_units(w.read(tensor, rows), axis, group.units, parts) for w in (a, b))
            if not (np.isfinite(x).all() and np.isfinite(y).all()):
                bad.append(tensor)
                break
            step = max(1, WIDTH // group.units)
            for at in range(0, x.shape[1], step):
                total += x[:, at : at + step].astype(np.float64) @ y[:, at : at + step].astype(np.float64).T
    if bad:
        raise NonFiniteError("units with NaN or Inf cannot be matched:", [f"{n} has NaN or Inf" for n in bad])
    return total


def _slabs(shape: Sequence[int], axis: int) -> Iterator[slice]:
    """Ranges of rows of about SLAB elements; a single range of all rows if the rows are the units."""
    row = 1
    for size in shape[1:]:
        row *= size
    step = shape[0] if axis == 0 else max(1, SLAB // row)
    for first in range(0, shape[0], step):
        yield slice(first, min(first + step, shape[0]))


def _units(array: "NDArray[Any]", axis: int, units: int, parts: int) -> "NDArray[Any]":
    """A tensor as (units, everything else), with a row for each unit."""
    import numpy as np

    front = np.moveaxis(array, axis, 0)
    blocks = front.reshape(parts, units, front.shape[0] // parts // units, -1)
    return blocks.transpose(1, 0, 2, 3).reshape(units, -1)


def write(uri: "str | os.PathLike[str]", permutations: Weights, overwrite: bool = False) -> None:
    """Write permutations as a safetensors file: a vector in I64 for each group, with its axes in the metadata. The file
    is written whole or not at all. Raises OutputError."""
    place = Destination.of(uri, overwrite)
    if not place.alone:
        raise OutputError(f"{place.target}: permutations are one file, give it a name that ends in .safetensors")
    source = next(iter(permutations.terms))
    metadata = metadata_of(source)
    layout = laid_out(place.target.name, source.specs, metadata)
    with one_file(place) as path, closing(Safetensors(Folder(path.parent), [layout], durable=True)) as sink:
        for name in source.specs:
            sink.write(name, 0, memoryview(bytes_of(source, name)))
        sink.finish(metadata)
