"""Geometry: merges that stay in the span of their arguments. Each is a function of the Gram matrix alone.

gram: n x n, <x_i, x_j> in float64, of one tensor (scope="tensor") or of the whole model (scope="model"). Each returns
the n coefficients of the result. So these methods stream like a linear merge, after one pass for the Gram matrix, and
are rounded once.
"""

import math
from collections.abc import Sequence

from taskvec.errors import RecipeError
from taskvec.methods.lift import ALIKE, Method, Range
from taskvec.methods.passes import grams

Gram = Sequence[Sequence[float]]
SCOPES = {"scope": ("tensor", "model")}
PARALLEL = 0.9995  # above this |cosine| an arc is a chord


def slerp(gram: Gram, *, t: float = 0.5, scope: str = "tensor") -> list[float]:
    """sin((1-t) W)/sin(W) x_1 + sin(t W)/sin(W) x_2, W the angle between them; a straight line if |cos W| > 0.9995.

    Shoemake 1985; defaults as mergekit and fusion_bench have them. Two zero tensors give zero.
    """
    a, b = math.sqrt(gram[0][0]), math.sqrt(gram[1][1])
    if not a and not b:
        return [1 - t, t]
    cosine = _clipped(gram[0][1] / (_nonzero(a) * _nonzero(b)))
    if abs(cosine) > PARALLEL:
        return [1 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


def karcher(gram: Gram, *, max_iter: float = 10, tol: float = 1e-5, scope: str = "tensor") -> list[float]:
    """The Karcher mean of the directions, as long as the lengths are on average.

    m = argmin sum_i angle(m, x_i / ||x_i||)^2 on the sphere, by gradient steps in the tangent space from the normalised
    mean until one is shorter than `tol`, then m * mean ||x_i||. Defaults as mergekit. Zero tensors do not count.
    """
    sizes = [math.sqrt(gram[k][k]) for k in range(len(gram))]
    live = [k for k, size in enumerate(sizes) if size]
    if not live:
        return [0.0] * len(gram)
    unit = [[gram[i][j] / (sizes[i] * sizes[j]) for j in live] for i in live]
    mean = _normalised([1.0] * len(live), unit)
    for _ in range(int(max_iter)):
        step = _log_mean(mean, unit)
        length = _length(step, unit)
        if length < tol:
            break
        mean = _exp(mean, step, length)
    scale = sum(sizes[k] for k in live) / len(live)
    found = dict(zip(live, mean, strict=True))
    return [scale * found.get(k, 0.0) / sizes[k] if sizes[k] else 0.0 for k in range(len(gram))]


def geometric_median(gram: Gram, *, max_iter: float = 100, tol: float = 1e-7, scope: str = "tensor") -> list[float]:
    """argmin_m sum_i ||m - x_i||, by Weiszfeld's iteration from the mean; stops when no coefficient moves by `tol`.

    Distances are kept above 1e-6 of the largest one, so that an argument on the median does no harm.
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


def stock(gram: Gram, *, scope: str = "tensor") -> list[float]:
    """t * mean(tau_i), t = N cos / (1 + (N-1) cos), with the mean cosine of all pairs: what Model Stock adds to a base.

    Model Stock (Jang et al., ECCV 2024, arXiv 2403.19522). A zero tau has no cosine and counts as 0.
    """
    n = len(gram)
    sizes = [math.sqrt(gram[k][k]) for k in range(n)]
    pairs = [(i, j) for i in range(n) for j in range(i)]
    cosines = [gram[i][j] / (sizes[i] * sizes[j]) if sizes[i] * sizes[j] else 0.0 for i, j in pairs]
    cosine = sum(cosines) / len(cosines)
    t = n * cosine / (1 + (n - 1) * cosine) if 1 + (n - 1) * cosine else 0.0
    return [t / n] * n


def metagpt(gram: Gram, *, scope: str = "model") -> list[float]:
    """lam_t tau_t with lam_t = ||tau_t||^2 / sum_k ||tau_k||^2: coefficients without data.

    MetaGPT (Zhou et al., 2024, arXiv 2406.11385), over the whole model.
    """
    total = sum(gram[k][k] for k in range(len(gram)))
    return [gram[k][k] / total if total else 0.0 for k in range(len(gram))]


# ---- on the sphere, in coordinates: a vector is its coefficients, `unit` the Gram matrix of unit vectors ------------
def _square(c: Sequence[float], gram: Gram) -> float:
    return math.fsum(x * y * gram[i][j] for i, x in enumerate(c) for j, y in enumerate(c))


def _length(c: Sequence[float], gram: Gram) -> float:
    return math.sqrt(max(0.0, _square(c, gram)))


def _normalised(c: Sequence[float], gram: Gram) -> list[float]:
    size = _length(c, gram)
    if size < 1e-12:
        raise RecipeError("the directions cancel out: they have no mean on the sphere")
    return [x / size for x in c]


def _log_mean(mean: Sequence[float], unit: Gram) -> list[float]:
    """The mean of the tangent vectors at `mean` that lead to each point."""
    n = len(mean)
    step = [0.0] * n
    for i in range(n):
        cosine = _clipped(math.fsum(mean[j] * unit[j][i] for j in range(n)))
        angle = math.acos(cosine)
        factor = angle / math.sin(angle) if angle > 1e-9 and math.sin(angle) else 1.0
        for j in range(n):
            step[j] += factor * ((j == i) - cosine * mean[j]) / n
    return step


def _exp(mean: Sequence[float], step: Sequence[float], length: float) -> list[float]:
    return [math.cos(length) * m + math.sin(length) / length * s for m, s in zip(mean, step, strict=True)]


def _clipped(cosine: float) -> float:
    return min(1.0, max(-1.0, cosine))


def _nonzero(size: float) -> float:
    if not size:
        raise RecipeError("slerp: one of the two is zero, so there is no angle between them")
    return size


def _geometry(fn: object, **more: object) -> Method:
    return Method(fn, combines=True, measure=grams, passes=1, **more)  # type: ignore[arg-type]


METHODS = (
    _geometry(slerp, takes=ALIKE, least=2, most=2, choices=SCOPES, ranges={"t": Range(0, 1)}),
    _geometry(karcher, takes=ALIKE, least=2, choices=SCOPES, ranges={"max_iter": Range(1, 10_000)}),
    _geometry(geometric_median, takes=ALIKE, least=2, choices=SCOPES, ranges={"max_iter": Range(1, 10_000)}),
    _geometry(stock, least=2, choices=SCOPES),
    _geometry(metagpt, least=2, choices=SCOPES),
)
