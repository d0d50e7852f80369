"""Geometry: merges that are linear combinations of their arguments, with coefficients that follow from dot products.

A method here is a function of the Gram matrix G in place of the n arguments x_1 ... x_n, and returns n coefficients:

1. One pass over the data computes G, n x n, G_ij = <x_i, x_j> in float64: of each tensor (scope="tensor") or of the
   whole model (scope="model"). The norm of x_i is sqrt(G_ii), and that of sum_i c_i x_i is sqrt(c^T G c).
2. The function makes coefficients c_1 ... c_n of G. Vectors on the sphere are written as coefficients, too.
3. The merge is sum_i c_i x_i. It streams like a linear merge and is rounded once.

With scope="row" each row of a tensor, along its last axis, has a Gram matrix and coefficients of its own; with
scope="column" each column, along its first axis, has. A vector is one row, and one column. G_ij is then an array with a
number for each row or column, and the result is summed in float32.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from taskvec.errors import RecipeError
from taskvec.methods.core.lift import Lifted
from taskvec.methods.core.method import ALIKE, Range
from taskvec.methods.core.passes import one_by_one, told_grams
from taskvec.methods.core.roles import Scope, Setting

Gram = Sequence[Sequence[Any]]  # n x n floats; arrays for the scopes row and column
SCOPES = Setting("scope", {"tensor": Scope.TENSOR, "model": Scope.MODEL})
PARALLEL = 0.9995  # if |cosine| is above this, slerp takes the straight line in place of the arc
ONE = 1 - 2.0**-25  # cosines above this are 1 in float32
LOST = (
    1e-7  # a sum of unit vectors that is shorter than this has no correct digit in float64 (the root of its rounding)
)
SINGULAR = 1e-6  # below this denominator Model Stock's ratio says nothing


def slerp(gram: Gram, *, t: float = 0.5, scope: str = "tensor", zero: str = "refuse") -> list[float]:
    """sin((1-t) W)/sin(W) a + sin(t W)/sin(W) b, W the angle between a and b; a straight line if |cos W| > 0.9995.

    Spherical linear interpolation (Shoemake 1985). The defaults are those of mergekit and fusion_bench, but for zero
    tensors.

    a, b: two models or two task vectors. t: from 0, which gives a, to 1, which gives b.
    scope: "tensor" takes an angle for each tensor, "model" one for the whole model.
    zero: two zero tensors give zero. If only one of the two is zero there is no angle: "refuse" raises RecipeError;
        "one" lets a norm of at most 1e-8 count as 1, as mergekit does, so that a zero tensor is at right angles to all
        others.
    """
    a, b = math.sqrt(gram[0][0]), math.sqrt(gram[1][1])
    if zero == "one":
        a, b = (size if size > 1e-8 else 1.0 for size in (a, b))
    if not a and not b:
        return [1 - t, t]
    cosine = _clipped(gram[0][1] / (_nonzero(a) * _nonzero(b)))
    if abs(cosine) > PARALLEL:
        return [1 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


def nuslerp(gram: Gram, *, weights: tuple[float, ...] = (1, 1), scope: str = "tensor") -> list[Any]:
    """Slerp at t = w_2/(w_1 + w_2), with a straight line only where the vectors are parallel or opposite.

    NuSLERP, of mergekit. Norms below 1e-7 count as 1e-7, and a cosine that is +-1 in float32 makes a straight line. t
    is 0.5 if |w_1 + w_2| < 1e-6. For vectors from a base write `base + nuslerp(a - base, b - base)`.

    a, b: two models or two task vectors.
    weights: (w_1, w_2).
    scope: "tensor" is the default of mergekit, "row" its nuslerp_flatten=false, "column" its nuslerp_row_wise=true.
    """
    import numpy as np

    first, second = weights or (1, 1)
    t = 0.5 if abs(first + second) < 1e-6 else second / (first + second)
    sizes = np.maximum(1e-7, np.sqrt(gram[0][0])) * np.maximum(1e-7, np.sqrt(gram[1][1]))
    cosine = np.clip(gram[0][1] / sizes, -1, 1)
    line = np.abs(cosine) > ONE
    angle = np.arccos(np.where(line, 0, cosine))
    arc = np.sin((1 - t) * angle) / np.sin(angle), np.sin(t * angle) / np.sin(angle)
    return [np.where(line, 1 - t, arc[0]), np.where(line, t, arc[1])]


def multislerp(
    gram: Gram, *, weights: tuple[float, ...] = (), normalize: str = "sum", eps: float = 1e-8, scope: str = "tensor"
) -> list[float]:
    """The weighted mean of the directions, as long as the vectors are on weighted average.

    Multi-SLERP (goddard.blog/posts/multislerp-wow-what-a-cool-idea; mergekit): with u_i = x_i / (||x_i|| + eps), the
    result is m * sum w_i ||x_i||, m = sum w_i u_i / ||sum w_i u_i||. The original then takes a step on the sphere from
    m along sum w_i (u_i - <u_i, m> m). This sum is zero, so the step is left out here; mergekit computes it and gets
    its rounding.

    models: n models or n task vectors. One alone is its own mean.
    weights: n numbers, 1 each unless given. normalize="sum" divides them by their sum (RecipeError if that is 0),
        "none" takes them as they are.
    eps: where the directions cancel out (||sum w_i u_i|| < eps, or < 1e-7 sum |w_i|, where float64 has no digit of it
        left) two vectors give sum w_i x_i, and more than two raise RecipeError, unless all are zero.
    scope: "tensor" or "model", as in `slerp`.
    """
    n = len(gram)
    w = [float(x) for x in weights or [1] * n]
    if n == 1:
        return [1.0]
    if normalize == "sum":
        w = _shares("multislerp", w)
    sizes = [math.sqrt(gram[k][k]) for k in range(n)]
    if not any(sizes):
        return w  # zeros, whatever the coefficients
    scaled = [x / (size + eps) if size + eps else 0.0 for x, size in zip(w, sizes, strict=True)]
    length = _length(scaled, gram)
    if length < max(eps, LOST * math.fsum(map(abs, w))):
        if n == 2:
            return w
        raise RecipeError("multislerp: the weighted directions cancel out: take other weights")
    mean = math.fsum(x * size for x, size in zip(w, sizes, strict=True))
    return [mean * x / length for x in scaled]


def karcher(
    gram: Gram,
    *,
    weights: tuple[float, ...] = (),
    max_iter: float = 10,
    tol: float = 1e-5,
    scope: str = "tensor",
    zero: str = "exact",
) -> list[float]:
    """The Karcher mean of the directions, as long as the vectors are on average.

    m = argmin sum_i w_i angle(m, x_i / ||x_i||)^2 on the sphere. It is found by gradient steps in the tangent space,
    from the normalised mean until a step is shorter than `tol`. The result is m * sum w_i ||x_i||.

    models: n models or n task vectors.
    weights: n numbers, 1 each unless given; they are divided by their sum.
    max_iter, tol: the defaults are mergekit's.
    scope: "tensor" or "model", as in `slerp`.
    zero: with "exact" zero tensors do not count, and directions that cancel out raise RecipeError. "tol" is mergekit's
        way: a tensor no longer than `tol` has no direction but counts in the mean length, an angle below `tol` does not
        pull, and if the mean of the directions is shorter than `tol` the iteration begins at the first of them.
    """
    n, loose = len(gram), zero == "tol"
    sizes = [math.sqrt(gram[k][k]) for k in range(n)]
    shares = _shares("karcher", weights or [1] * n)
    live = [k for k, size in enumerate(sizes) if not size <= tol * loose and shares[k]]
    if not live:
        return [0.0] * n
    w = _shares("karcher", [shares[k] for k in live])
    unit = [[gram[i][j] / (sizes[i] * sizes[j]) for j in live] for i in live]
    mean = [float(not k) for k in range(len(live))] if loose and _length(w, unit) < tol else _normalised(w, unit)
    for _ in range(int(max_iter)):
        step = _log_mean(mean, unit, w, tol if loose else 0.0)
        length = _length(step, unit)
        if length < tol:
            break
        mean = _exp(mean, step, length)
    lengths = zip(shares, sizes, strict=True) if loose else zip(w, (sizes[k] for k in live), strict=True)
    scale = math.fsum(share * size for share, size in lengths)
    of_live = dict(zip(live, mean, strict=True))
    return [scale * of_live[k] / sizes[k] if k in of_live else 0.0 for k in range(n)]


def geometric_median(gram: Gram, *, max_iter: float = 100, tol: float = 1e-7, scope: str = "tensor") -> list[float]:
    """argmin_m sum_i ||m - x_i||: the point with the smallest sum of distances to the arguments.

    It is found by Weiszfeld's iteration from the mean, which stops when no coefficient moves by `tol` or more, or after
    `max_iter` steps. Distances are kept above 1e-6 of the largest one, so that an argument that lies on the median does
    no harm.

    models: n models or n task vectors.
    scope: "tensor" finds a median for each tensor, "model" one for the whole model.
    """
    n = len(gram)
    c = [1 / n] * n
    for _ in range(int(max_iter)):
        away = [math.sqrt(max(0.0, _square([x - (k == i) for k, x in enumerate(c)], gram))) for i in range(n)]
        if not max(away):
            break
        pull = [1 / max(d, 1e-6 * max(away)) for d in away]
        new = [p / sum(pull) for p in pull]
        moved = max(abs(x - y) for x, y in zip(c, new, strict=True))
        c = new
        if moved < tol:
            break
    return c


def stock(gram: Gram, *, scope: str = "tensor", floor: float = 0) -> list[Any]:
    """t * mean(tau_i), t = n cos / (1 + (n-1) cos), cos the mean cosine of all pairs: what Model Stock adds to a base.

    Model Stock (Jang et al., ECCV 2024, arXiv 2403.19522). `model_stock(base, a, b)` adds it to the base.

    taus: n task vectors, at least two. A zero vector has no cosine, and counts as 0.
    scope: "tensor", "model", or "row" for each row along the last axis (mergekit's filter_wise=true).
    floor: a product of two norms below this counts as this. mergekit's floor is 1e-6; the paper has none.

    Deviation: a denominator within 1e-6 of 0 gives t = 0, since opposing updates would be blown up.
    """
    import numpy as np

    n = len(gram)
    sizes = [np.sqrt(gram[k][k]) for k in range(n)]
    total: Any = 0.0
    for i, j in combinations(range(n), 2):
        product = np.maximum(sizes[i] * sizes[j], floor)
        total = total + np.clip(gram[i][j] / np.where(product == 0, 1, product), -1, 1)
    cosine = total / (n * (n - 1) / 2)
    below = 1 + (n - 1) * cosine
    t = np.where(np.abs(below) < SINGULAR, 0, n * cosine / np.where(np.abs(below) < SINGULAR, 1, below))
    return [t / n] * n


def metagpt(gram: Gram, *, scope: str = "model") -> list[float]:
    """sum_t lam_t tau_t with lam_t = ||tau_t||^2 / sum_k ||tau_k||^2: coefficients that need no data.

    MetaGPT (Zhou et al., 2024, arXiv 2406.11385).

    taus: n task vectors, at least two.
    scope: "model" takes norms over the whole model, as the paper does; "tensor" those of each tensor.
    """
    total = sum(gram[k][k] for k in range(len(gram)))
    return [gram[k][k] / total if total else 0.0 for k in range(len(gram))]


def norm_matched(gram: Gram, *, scope: str = "model") -> list[float]:
    """lam sum_t tau_t with lam = mean_t ||tau_t|| / ||sum_t tau_t||: the sum is as long as its vectors are on average.

    This rule needs no data, and `taskvec add` uses it for several vectors. For one vector lam is 1. For n vectors of
    one norm at right angles, which task vectors nearly are, lam is 1/sqrt(n): 0.35 for eight, within the 0.3 to 0.4
    that the literature takes for many (Yang et al., 2024). For n equal vectors it is 1/n. The rule is not from a paper;
    `demo/rules.py` measures it.

    taus: task vectors. Raises RecipeError if they cancel out.
    scope: "model" takes norms over the whole model, "tensor" those of each tensor.
    """
    norms = [math.sqrt(max(0.0, gram[k][k])) for k in range(len(gram))]
    whole = math.sqrt(max(0.0, math.fsum(x for row in gram for x in row)))
    if whole <= LOST * math.fsum(norms):
        if not any(norms):
            return [0.0] * len(gram)
        raise RecipeError("norm_matched: the vectors cancel out, so no factor gives their sum a length")
    return [math.fsum(norms) / len(norms) / whole] * len(gram)


# ---- on the sphere: a vector is its coefficients, and `unit` is the Gram matrix of unit vectors ---------------------
def _square(c: Sequence[float], gram: Gram) -> float:
    """||sum_i c_i x_i||^2."""
    return math.fsum(x * y * gram[i][j] for i, x in enumerate(c) for j, y in enumerate(c))


def _length(c: Sequence[float], gram: Gram) -> float:
    return math.sqrt(max(0.0, _square(c, gram)))


def _normalised(c: Sequence[float], gram: Gram) -> list[float]:
    """The vector at length 1. Raises RecipeError if it has no length."""
    size = _length(c, gram)
    if size < LOST:
        raise RecipeError("karcher: the directions cancel out, so they have no mean on the sphere: take other weights")
    return [x / size for x in c]


def _log_mean(mean: Sequence[float], unit: Gram, weights: Sequence[float], least: float) -> list[float]:
    """The gradient step: the weighted mean of the tangent vectors at `mean` that lead to the points.

    A point at an angle below `least` does not pull."""
    n = len(mean)
    step = [0.0] * n
    for i in range(n):
        cosine = _clipped(math.fsum(mean[j] * unit[j][i] for j in range(n)))
        angle = math.acos(cosine)
        if angle < least:
            continue
        factor = angle / math.sin(angle) if angle > 1e-9 and math.sin(angle) else 1.0
        for j in range(n):
            step[j] += weights[i] * factor * ((j == i) - cosine * mean[j])
    return step


def _exp(mean: Sequence[float], step: Sequence[float], length: float) -> list[float]:
    """The point that a tangent vector of this length at `mean` leads to."""
    return [math.cos(length) * m + math.sin(length) / length * s for m, s in zip(mean, step, strict=True)]


def _clipped(cosine: float) -> float:
    return min(1.0, max(-1.0, cosine))


def _shares(name: str, weights: Sequence[float]) -> list[float]:
    """The weights divided by their sum. Raises RecipeError if that is 0."""
    whole = math.fsum(weights)
    if not whole:
        raise RecipeError(f"{name}: the weights add up to 0, and cannot be divided by their sum: take other weights")
    return [x / whole for x in weights]


def _nonzero(size: float) -> float:
    if not size:
        raise RecipeError(
            'slerp: one of the two is zero, so there is no angle between them; with zero="one" it is a right angle'
        )
    return size


def _geometry(fn: object, scope: Setting[Scope] = SCOPES, **more: object) -> Lifted:
    return Lifted(fn, combines=True, measure=one_by_one(told_grams), passes=1, scope=scope, **more)  # type: ignore[arg-type]


POSITIVE = Range(0, math.inf)
STOCK = _geometry(
    stock, least=2, ranges={"floor": POSITIVE},
    scope=Setting("scope", {"tensor": Scope.TENSOR, "model": Scope.MODEL, "row": Scope.ROW}),
)  # fmt: skip
METHODS = (
    _geometry(
        slerp, takes=ALIKE, least=2, most=2, choices={"zero": ("refuse", "one")}, ranges={"t": Range(0, 1)}
    ),
    _geometry(
        karcher, takes=ALIKE, least=2, choices={"zero": ("exact", "tol")},
        ranges={"max_iter": Range(1, 10_000), "tol": POSITIVE, "weights": POSITIVE},
    ),
    _geometry(geometric_median, takes=ALIKE, least=2, ranges={"max_iter": Range(1, 10_000)}),
    STOCK,
    _geometry(metagpt, least=2),
    _geometry(norm_matched),
    _geometry(
        nuslerp, takes=ALIKE, least=2, most=2,
        scope=Setting("scope", {"tensor": Scope.TENSOR, "row": Scope.ROW, "column": Scope.COLUMN}),
    ),
    _geometry(
        multislerp, takes=ALIKE, choices={"normalize": ("sum", "none")}, ranges={"eps": POSITIVE}
    ),
)  # fmt: skip
