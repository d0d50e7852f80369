"""Merges that weigh the models by statistics of their data: the arguments are the models, then the statistics of each.

fisher   Fisher-weighted averaging: every entry is weighted by its Fisher information
regmean  RegMean: every linear layer is the least-squares solution for the inputs of all models

`stats` (live/stats.py) makes the files of statistics. They hold float32 tensors under the names of the weights that
they are about. The methods are pure functions of n arrays of models and then n arrays of statistics. Where a file has
no tensor for a weight, the statistic is zeros (fisher) or an array of size 0 (regmean).
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taskvec.errors import FormatError, MismatchError, RecipeError, TaskvecError
from taskvec.methods.core.call import METHOD_TILE
from taskvec.methods.core.lift import Lifted
from taskvec.methods.core.measurement import Measurement
from taskvec.methods.core.method import MODELS, Range, Told
from taskvec.methods.core.passes import Progress, one_by_one
from taskvec.methods.core.roles import Scope
from taskvec.sources.abilities import metadata_of
from taskvec.sources.source import Source, Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

NORM, TRANSPOSED = "taskvec.norm", "taskvec.transposed"  # keys of a file's metadata
ANY_SIZE = Range(0, math.inf)


def fisher(
    *arrays: "NDArray[Any]",
    weights: Sequence[float] = (),
    floor: float = 1e-6,
    floors: str = "first",
    norm: str = "model",
    norms: Sequence[float],
) -> "NDArray[Any]":
    """sum_t c_t F_t theta_t / sum_t c_t F_t in every entry: `fisher(a, b, stats_a, stats_b)`.

    Merging Models with Fisher-Weighted Averaging (Matena & Raffel, NeurIPS 2022, arXiv 2111.09832). F_t is the diagonal
    Fisher information of model t on its own data, which `taskvec stats MODEL --kind fisher` computes.

    arrays: n models and then n files of statistics, float32, of one shape. Sums are computed in float64.
    weights: c_t, 1 each unless given. Raises RecipeError if they add up to 0.
    norm: "model" divides c_t by ||F_t|| over the whole model, so that no model wins by the scale of its loss. "none"
        does not.
    floor, floors: the floor raises small F. floors="first" raises those of the first model alone, which so decides
        where no model is sure; "all" raises those of all models.

    The defaults are those of the authors' code. norm="none", floors="all" and a small floor give the equation as it
    stands; then equal F give the mean. A tensor that no file names has F = 0, and so by default the values of the first
    model. Where the denominator is 0 the result is the mean by weights.
    """
    import numpy as np

    n = len(arrays) // 2
    c = _shares(weights, n)
    top, bottom = np.zeros(arrays[0].shape), np.zeros(arrays[0].shape)
    mean = _mean(c, arrays[:n])
    for k, (model, statistic) in enumerate(zip(arrays[:n], arrays[n:], strict=True)):
        f = statistic.astype(np.float64)
        if k == 0 or floors == "all":
            np.maximum(f, floor, out=f)
        f *= c[k] / norms[k]
        bottom += f
        f *= model
        top += f
    return np.asarray(np.divide(top, bottom, out=mean, where=bottom > 0, casting="same_kind"))


def regmean(
    *arrays: "NDArray[Any]", alpha: float = 0.9, weights: Sequence[float] = (), transposed: bool
) -> "NDArray[Any]":
    """W = (sum_t c_t G_t)^-1 sum_t c_t G_t W_t for linear layers, and the mean for the rest: `regmean(a, b, g_a, g_b)`.

    RegMean, Dataless Knowledge Fusion by Merging Weights (Jin et al., ICLR 2023, arXiv 2212.09849): the outputs of W
    are as near as can be to those of each model on its own data. G_t = X_t^T X_t, with X_t the inputs of the layer,
    which `taskvec stats MODEL --kind gram` computes.

    arrays: n models and then n files of statistics, float32, whole tensors. W is (out, in), or (in, out) where the file
        says that a layer stores it so, and G is (in, in). Solved in float64, with of the order of in^2 (in + n out)
        operations.
    alpha: off-diagonal entries of G are multiplied by it; .9 is the authors' example. 1 is least squares: for linear
        models, each trained to optimality, the result is then the one trained on the union of their data.
    weights: c_t, 1 each unless given. Raises RecipeError if they add up to 0.

    Tensors that no file names (biases, norms, embeddings) are averaged by weights. A model whose file lacks a tensor
    that another file has counts as having seen nothing there.

    Deviation: G is a sum over the data, as in the paper, and the authors' code divides it by its number of rows
    (weights can do that). Where the data do not determine W (the sum of G is singular to the accuracy of float32, or
    inputs are always 0) it stays as near to the mean as can be, each input measured by its own size; the authors' code
    inverts regardless.
    """
    import numpy as np

    n = len(arrays) // 2
    c = _shares(weights, n)
    models, grams = arrays[:n], arrays[n:]
    mean = _mean(c, models)
    informed = [k for k in range(n) if grams[k].size]
    if not informed:
        return mean
    side = len(grams[informed[0]])
    # W = mean + X^T, where (sum_t c_t G_t) X = sum_t c_t G_t (W_t - mean)^T: `total` X = `right`, (in, out).
    total, right = np.zeros((side, side)), np.zeros((side, mean.size // side))
    for k in informed:
        g = c[k] * grams[k].astype(np.float64)
        diagonal = g.diagonal().copy()
        g *= alpha
        np.fill_diagonal(g, diagonal)
        total += g
        difference = np.subtract(models[k], mean, dtype=np.float64)
        right += g @ (difference if transposed else difference.T)
    del g, difference
    if not math.isfinite(float(total.sum() + right.sum())):
        return np.full_like(mean, np.nan)
    change = _solved(total, right)
    return np.asarray(mean + (change if transposed else change.T), np.float32)


def _shares(weights: Sequence[float], n: int) -> list[float]:
    """The weights, one for each model, divided by their sum."""
    weights = list(weights) or [1.0] * n
    if not sum(weights):
        raise RecipeError("weights must not all be 0: they say how much each model counts")
    return [c / sum(weights) for c in weights]


def _mean(shares: Sequence[float], models: "Sequence[NDArray[Any]]") -> "NDArray[Any]":
    """sum_t c_t theta_t, summed in float64 and rounded once. Where all models agree it has their bits."""
    import numpy as np

    total = np.zeros(models[0].shape)
    for c, model in zip(shares, models, strict=True):
        total += np.multiply(model, c, dtype=np.float64)
    return total.astype(np.float32)


def _solved(total: "NDArray[Any]", right: "NDArray[Any]") -> "NDArray[Any]":
    """The solution X of total X = right, and the smallest one if there are many. Both arguments are overwritten.

    Inputs are first scaled so that the diagonal of `total` is 1."""
    import numpy as np

    sizes = np.sqrt(total.diagonal())
    unused = ~(sizes > 0)
    sizes[unused] = 1
    total /= sizes
    total /= sizes[:, None]
    total[unused, unused] = 1
    right /= sizes[:, None]
    least = len(total) * float(np.finfo(np.float32).eps)  # smaller eigenvalues may be 0 but for the rounding of G
    try:
        pivots = np.linalg.cholesky(total).diagonal() ** 2
        if pivots.min() > least:
            solution = np.linalg.solve(total, right)
        else:
            raise np.linalg.LinAlgError
    except np.linalg.LinAlgError:
        try:
            values, axes = np.linalg.eigh(total)
        except np.linalg.LinAlgError as error:
            raise TaskvecError(f"regmean: a Gram matrix has no eigenvalues: {error}") from None
        axes = axes[:, values > least * values[-1]]
        solution = axes @ ((axes.T @ right) / values[values > least * values[-1], None])
    solution /= sizes[:, None]
    return np.asarray(solution)


# ---- what the files of statistics say ------------------------------------------------------------
def _norms(m: Measurement, threads: int, progress: Progress) -> Told:
    """What `fisher` is told: ||F_t|| over all tensors, or 1 with norm="none"."""
    n = len(m.statistics)
    norms = (1.0,) * n if m.params["norm"] == "none" else tuple(_norm(m, k) or 1.0 for k in range(n))
    return {name: {"norms": norms} for name in m.names}


def _norm(m: Measurement, k: int) -> float:
    """||F_k||, from the metadata of the file, or computed here for arrays in memory. Raises FormatError."""
    (source,) = m.statistics[k].terms
    if text := metadata_of(source).get(NORM):
        try:
            norm = float(text)
        except ValueError:
            norm = math.nan
        if not (math.isfinite(norm) and norm >= 0):
            raise FormatError(f"{source.text}: {NORM} is {text!r}, not a length")
        return norm
    import numpy as np

    row, squares = np.empty(METHOD_TILE, np.float32), []
    for name, spec in source.specs.items():
        for start in range(0, spec.numel, METHOD_TILE):
            part = row[: spec.numel - start]
            m.values(m.sums(name)[len(m.statistics) + k], start, part)
            squares.append(float(np.square(part, dtype=np.float64).sum()))
    return math.sqrt(math.fsum(squares))


def _layouts(m: Measurement, threads: int, progress: Progress) -> Told:
    """What `regmean` is told: which weights are stored (in, out). Raises MismatchError where the files differ in it."""
    layouts: dict[str, set[bool]] = {name: set() for name in m.names}
    for source in (source for a in m.statistics for source in a.terms):
        transposed = transposed_in(source)
        for name in source.specs:
            layouts[name].add(name in transposed)
    mixed = [name for name, of_files in layouts.items() if len(of_files) > 1]
    if problems := [f"{name} is (in, out) for one, (out, in) for another" for name in mixed]:
        raise MismatchError("the Gram matrices are of different layers:", problems)
    return {name: {"transposed": True in of_files} for name, of_files in layouts.items()}


def transposed_in(source: Source) -> frozenset[str]:
    """The weights that a file of Gram matrices says are stored (in, out). Raises FormatError."""
    try:
        names = json.loads(metadata_of(source).get(TRANSPOSED, "[]"))
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return frozenset(names)
    except (ValueError, RecursionError):
        pass
    raise FormatError(f"{source.text}: {TRANSPOSED} is no list of names")


def _same_shape(source: Source, models: Mapping[str, Spec]) -> Iterator[str]:
    """`fits` of Fisher information, which has the shapes of the weights."""
    yield from _misfits(source, models, {name: spec.shape for name, spec in models.items()})


def _of_inputs(source: Source, models: Mapping[str, Spec]) -> Iterator[str]:
    """`fits` of Gram matrices, (in, in) for a weight (out, in)."""
    transposed = transposed_in(source)
    sides = {name: spec.shape[0 if name in transposed else 1] for name, spec in models.items() if len(spec.shape) == 2}
    yield from _misfits(source, models, {name: (side, side) for name, side in sides.items()})


def _misfits(source: Source, models: Mapping[str, Spec], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Problems with the tensors of a file that the models do not have, or that have another shape than in `shapes`."""
    for name, spec in source.specs.items():
        if name not in models:
            yield f"{name} is in {source.text}, not in the models"
        elif not (spec.arithmetic and models[name].arithmetic and spec.shape == shapes.get(name)):
            yield f"{name} is {spec} in {source.text}, {models[name]} in the models"


METHODS = (
    Lifted(
        fisher, local=True, takes=MODELS, least=2, statistics="fisher", fits=_same_shape, measure=one_by_one(_norms),
        copies=2, scope=Scope.MODEL, ranges={"weights": ANY_SIZE, "floor": ANY_SIZE},
        choices={"floors": ("first", "all"), "norm": ("model", "none")},
    ),
    Lifted(
        regmean, takes=MODELS, least=2, statistics="gram", fits=_of_inputs, measure=one_by_one(_layouts), copies=12,
        scope=Scope.MODEL, ranges={"weights": ANY_SIZE, "alpha": Range(0, 1)},
    ),
)  # fmt: skip
