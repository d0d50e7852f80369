"""Spectrum: methods that see a matrix as a whole, by its singular values and vectors. Pure functions of float32 arrays.

U and s come from the eigenvectors of the Gram matrix of the smaller side, in float64. This takes 1/1.7 of the time of
an SVD, is nearer to the exact result than an SVD in float32, and holds only blocks of the matrix in float64. It squares
the condition number, in 53 bits, but the 24 bits of the matrix itself leave more open in every direction that counts. A
singular value below FLOOR of the largest is rounding, and its vectors are arbitrary, so it is left out; the published
codes keep whatever vectors LAPACK returns. The signs of singular vectors cancel in every result.

"Matrices" are tensors with two dimensions, also embeddings and heads: `only(...)` says which to take. A stack of
matrices in one tensor, as fused experts (experts, out, in) are, is none, and neither is a convolution. NaN or Inf in a
matrix make all of it NaN.
"""

import math
from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any

from taskvec.methods.consensus import elect
from taskvec.methods.core.blas import one_thread
from taskvec.methods.core.lift import Lifted
from taskvec.methods.core.method import Range
from taskvec.methods.sparsify import DENSITY, trim

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 1 << 20  # elements of a matrix that are held in float64 at once: fixed, so that the bits are
FLOOR = 1e-6  # of the largest singular value: below it there is rounding only
ANY_RANK = 10**9


def _whole(method: "Callable[..., NDArray[Any]]") -> "Callable[..., NDArray[Any]]":
    """One BLAS thread, and NaN for a matrix with numbers that are not finite."""

    @wraps(method)
    def checked(*taus: "NDArray[Any]", **parameters: Any) -> "NDArray[Any]":
        import numpy as np

        if taus[0].ndim == 2 and not all(np.isfinite(tau).all() for tau in taus):
            return np.full_like(taus[0], np.nan)
        with one_thread():
            return method(*taus, **parameters)

    return checked


@_whole
def low_rank(tau: "NDArray[Any]", *, rank: float = ANY_RANK, share: float = 1) -> "NDArray[Any]":
    """The best approximation of each matrix by one of lower rank: U_r U_r^T tau, with its first r singular directions.

    Eckart & Young 1936; for task vectors TSV-Compress (Gargiulo et al., CVPR 2025, arXiv 2412.00081). r is at most
    `rank`, a whole number, and at most the `share` of min(m, n), rounded and at least 1. Other tensors, such as fused
    experts (experts, out, in), and matrices whose rank cannot be more than r pass through unchanged.
    """
    if not _is_matrix(tau):
        return tau
    kept = min(int(rank), max(1, round(share * min(tau.shape))))
    if kept >= min(tau.shape):
        return tau
    _, u = _spectrum(_wide(tau))
    return _product(u[:, :kept] @ u[:, :kept].T, tau)


@_whole
def iso_c(*taus: "NDArray[Any]") -> "NDArray[Any]":
    """The sum of the vectors with a flat spectrum: mean(s) U V^T, where sum_t tau_t = U diag(s) V^T, matrix by matrix.

    Iso-C (Marczak et al., ICML 2025, arXiv 2502.04959). As in the authors' code the mean is over all min(m, n) singular
    values, and tensors that are no matrices, such as fused experts (experts, out, in), are averaged. Deviation:
    directions that are zero stay zero, and CLIP's text_projection, which the authors leave out, is merged.
    """
    if not _is_matrix(taus[0]):
        return _mean(taus)
    s, u = _spectrum(*map(_wide, taus))
    return _product((u * (s.sum() / min(taus[0].shape) / s)) @ u.T, *taus)


@_whole
def tsv_m(*taus: "NDArray[Any]") -> "NDArray[Any]":
    """U' diag(s) V', from the first min(m, n)/T singular directions of each of the T vectors side by side.

    Task Singular Vectors (Gargiulo et al., CVPR 2025, arXiv 2412.00081): U' and V' are the nearest matrices with
    orthonormal columns and rows, X (X^T X)^(-1/2). As in the authors' code, the number of directions for each vector is
    rounded down, and tensors that are no matrices, such as fused experts (experts, out, in), are averaged. Deviation:
    each vector has at least one direction; directions that vectors have in common, up to rounding, are shared and not
    completed by arbitrary ones; CLIP's text_projection, which the authors leave out, is merged.
    """
    if not _is_matrix(taus[0]):
        return _mean(taus)
    wide = [_wide(tau) for tau in taus]
    kept = max(1, min(taus[0].shape) // len(taus))
    found = _Triplets(wide[0].shape, kept * len(taus))
    for tau in wide:
        found.add(kept, tau)
    return found.orthogonal(found.s[: found.count], taus[0].shape)


@_whole
def iso_cts(*taus: "NDArray[Any]", common: float = 0.8) -> "NDArray[Any]":
    """Iso-C whose last directions are replaced by the first ones of what each vector has outside the common directions.

    Iso-CTS (Marczak et al., ICML 2025, arXiv 2502.04959). Of R = min(m, n) directions the first k = R - T d of the
    sum's are common, U_k. Each of the T vectors adds the first d of tau_t - U_k U_k^T tau_t, with d = round((R -
    floor(common R)) / T). All U and all V are made orthonormal as in `tsv_m`, and every singular value is the mean. As
    in the authors' code, common=0.8, and tensors that are no matrices are averaged. Deviation: d is at most R/T rounded
    down (theirs may ask for more than there is); zero and shared directions are treated as in `iso_c` and `tsv_m`.
    """
    import numpy as np

    if not _is_matrix(taus[0]):
        return _mean(taus)
    wide, full = [_wide(tau) for tau in taus], min(taus[0].shape)
    own = min(full // len(taus), round((full - int(full * common)) / len(taus)))
    least = FLOOR * max(float(np.linalg.norm(tau)) for tau in taus)  # what differences of these leave to rounding
    found = _Triplets(wide[0].shape, full)
    found.add(full - own * len(taus), *wide, least=least)
    u, v = found.u[:, : found.count], found.v[: found.count]
    for tau in wide if own else ():
        is_turned = tau.shape != taus[0].shape  # then what is left in the matrix is right here
        found.add(own, _without_right(v, tau) if is_turned else _without_left(u, tau), least=least)
    flat = np.full(found.count, found.s[: found.count].sum() / full)
    return found.orthogonal(flat, taus[0].shape)


@_whole
def knots(*taus: "NDArray[Any]", density: float = 0.2, reduce: str = "mean") -> "NDArray[Any]":
    """U merged(U^T tau_1, ..., U^T tau_T): TIES in the left singular vectors U of [tau_1 ... tau_T] side by side.

    KnOTS-TIES (Stoica et al., ICLR 2025, arXiv 2410.19735): [tau_1 ... tau_T] = U S [V_1 ... V_T]. The aligned S V_t
    are U^T tau_t. TIES keeps the largest `density` of each (20 %, as in the authors' code), elects signs by sum, and
    takes the mean (or sum) of those that agree. A plain mean in these coordinates would be the mean of the vectors.
    Deviation: the threshold is that of a matrix, not of the whole model; biases and norms are not made part of
    matrices, and tensors that are no matrices, such as fused experts (experts, out, in), are merged by TIES as they
    are; ranks are those of `trim`, ties those of `elect`.
    """
    import numpy as np

    if not _is_matrix(taus[0]):
        return elect(*(_cut(tau, _threshold(np.abs(tau), density)) for tau in taus), reduce=reduce)
    u, shape = _left(*taus), taus[0].shape
    cuts = []
    for tau in taus:
        size = np.empty((u.shape[1], shape[1]), np.float32)
        for part in _ranges(shape):
            np.abs(_aligned(u, tau, part), out=size[:, part])
        cuts.append(_threshold(size, density))
        del size
    found = np.empty(shape, np.float32)
    for part in _ranges(shape):
        kept = [_cut(_aligned(u, tau, part), cut) for tau, cut in zip(taus, cuts, strict=True)]
        found[:, part] = u @ elect(*kept, reduce=reduce)
    return found


def _cut(tau: "NDArray[Any]", threshold: float) -> "NDArray[Any]":
    return trim(tau, threshold=threshold, quota=math.inf, ratio=1)


@_whole
def svc(merged: "NDArray[Any]", *taus: "NDArray[Any]", alpha: float = 0.1) -> "NDArray[Any]":
    """`merged` with singular values s_r g_r: less along directions that several of the merged vectors have in common.

    Singular Value Calibration (Li et al., ICML 2026, arXiv 2602.05536): g_r = T / sum_t max(alpha, c_rt) with c_rt =
    <u_r^T merged, u_r^T tau_t> / ||u_r^T tau_t||^2, u_r the left singular vectors of `merged`. This may be the result
    of any method: `svc(ties(a, b), a, b)`. With alpha=1 nothing grows; the paper has 1/T, and fusion_bench, whose
    reading of the equations this is, 0.1. Tensors that are no matrices, such as fused experts, are those of `merged`.
    Deviation: c is 0 where tau_t has nothing but rounding along u_r; the authors' code clips the mean of c_rt over t
    instead of each c_rt, and leaves directions alone in which one is negative.
    """
    import numpy as np

    if not _is_matrix(merged):
        return merged
    u = _left(merged)
    counted = np.zeros(u.shape[1])
    for tau in taus:
        dots, squares = np.zeros(u.shape[1]), np.zeros(u.shape[1])
        for part in _ranges(merged.shape):
            whole, own = u.T @ _summed((merged,), part), u.T @ _summed((tau,), part)
            dots += np.einsum("ij,ij->i", whole, own)
            squares += np.einsum("ij,ij->i", own, own)
        heard = ~(squares <= FLOOR**2 * squares.max(initial=0))
        counted += np.maximum(alpha, np.divide(dots, squares, out=np.zeros_like(dots), where=heard))
    more = u * (len(taus) / counted - 1)
    found = np.empty(merged.shape, np.float32)
    for part in _ranges(merged.shape):
        x = _summed((merged,), part)
        found[:, part] = x + more @ (u.T @ x)
    return found


# ---- singular directions -------------------------------------------------------------------------
class _Triplets:
    """Singular directions of several matrices side by side. u: (m, r), s: (r,), v: (r, n), float64; `count` in use."""

    def __init__(self, shape: tuple[int, ...], most: int):
        import numpy as np

        self.u, self.s, self.v, self.count = np.empty((shape[0], most)), np.empty(most), np.empty((most, shape[1])), 0

    def add(self, kept: int, *parts: "NDArray[Any]", least: float = 0) -> None:
        """The first `kept` of the sum of `parts`, fewer if its rank is less; those above `least`."""
        s, u = _spectrum(*parts)
        s = s[s > least]
        new = slice(self.count, self.count + min(kept, s.size))
        self.count = new.stop
        self.s[new], self.u[:, new] = s[:kept], u[:, : min(kept, s.size)]
        for part in _ranges(parts[0].shape):
            self.v[new, part] = (self.u[:, new].T @ _summed(parts, part)) / self.s[new, None]

    def orthogonal(self, s: "NDArray[Any]", shape: tuple[int, ...]) -> "NDArray[Any]":
        """U' diag(s) V' in float32, with the nearest U' of orthonormal columns and V' of orthonormal rows."""
        import numpy as np

        u, v = self.u[:, : self.count], self.v[: self.count]
        left = (u @ _inverse_root(u.T @ u) * s) @ _inverse_root(v @ v.T)
        found = np.empty(shape, np.float32)
        out = _wide(found)
        for part in _ranges(out.shape):
            out[:, part] = left @ v[:, part]
        return found


def _spectrum(*parts: "NDArray[Any]") -> "tuple[NDArray[Any], NDArray[Any]]":
    """(s, U) of the sum of matrices that have no more rows than columns, the largest singular value first."""
    return _eigen(_gram(*parts))


def _gram(*parts: "NDArray[Any]") -> "NDArray[Any]":
    """X X^T of the sum X."""
    import numpy as np

    total = np.zeros((parts[0].shape[0],) * 2)
    for part in _ranges(parts[0].shape):
        x = _summed(parts, part)
        total += x @ x.T
    return total


def _eigen(gram: "NDArray[Any]") -> "tuple[NDArray[Any], NDArray[Any]]":
    """The square roots of the eigenvalues that are more than rounding, and their vectors, the largest first."""
    import numpy as np

    squares, vectors = np.linalg.eigh(gram)
    s = np.sqrt(np.maximum(squares, 0))[::-1]
    live = int((s > FLOOR * s[:1]).sum())
    return s[:live], vectors[:, ::-1][:, :live]


def _without_left(u: "NDArray[Any]", tau: "NDArray[Any]") -> "NDArray[Any]":
    """tau - U U^T tau, in float64."""
    import numpy as np

    outside = np.empty(tau.shape)
    for part in _ranges(tau.shape):
        x = _summed((tau,), part)
        outside[:, part] = x - u @ (u.T @ x)
    return outside


def _without_right(v: "NDArray[Any]", tau: "NDArray[Any]") -> "NDArray[Any]":
    """tau - tau V^T V, in float64."""
    import numpy as np

    outside, inside = np.empty(tau.shape), np.zeros((len(tau), len(v)))
    for part in _ranges(tau.shape):
        inside += _summed((tau,), part) @ v[:, part].T
    for part in _ranges(tau.shape):
        outside[:, part] = _summed((tau,), part) - inside @ v[:, part]
    return outside


def _inverse_root(gram: "NDArray[Any]") -> "NDArray[Any]":
    """G^(-1/2), within the span of G."""
    s, q = _eigen(gram)
    inverse: NDArray[Any] = (q / s) @ q.T
    return inverse


def _left(*taus: "NDArray[Any]") -> "NDArray[Any]":
    """U of matrices side by side, [tau_1 ... tau_T]: (m, r) float64."""
    import numpy as np

    rows, columns = taus[0].shape[0], sum(tau.shape[1] for tau in taus)
    if rows <= columns:
        gram = _gram(taus[0])
        for tau in taus[1:]:
            gram += _gram(tau)
        return _eigen(gram)[1]
    total = np.zeros((columns, columns))
    for part in _ranges((columns, rows)):
        x = np.concatenate([tau[part] for tau in taus], axis=1, dtype=np.float64)
        total += x.T @ x
    s, v = _eigen(total)
    u = np.empty((rows, s.size))
    for part in _ranges((columns, rows)):
        u[part] = np.concatenate([tau[part] for tau in taus], axis=1, dtype=np.float64) @ (v / s)
    return u


def _aligned(u: "NDArray[Any]", tau: "NDArray[Any]", part: slice) -> "NDArray[Any]":
    """Columns of U^T tau, in float32: the same bits whenever they are asked for."""
    import numpy as np

    return np.ascontiguousarray(u.T @ tau[:, part], np.float32)


def _threshold(size: "NDArray[Any]", density: float) -> float:
    """The floor(density * d)-th largest of d magnitudes, which are put into another order."""
    rank, flat = int(density * size.size), size.reshape(-1)
    if not rank:
        return float("inf")
    flat.partition(flat.size - rank)
    return float(flat[flat.size - rank])


# ---- blocks --------------------------------------------------------------------------------------
def _ranges(shape: tuple[int, ...]) -> Iterator[slice]:
    """Ranges of the second axis that make blocks of BLOCK elements."""
    step = max(1, BLOCK // shape[0])
    return (slice(at, min(at + step, shape[1])) for at in range(0, shape[1], step))


def _summed(parts: "tuple[NDArray[Any], ...]", part: slice) -> "NDArray[Any]":
    """Some columns of the sum, in float64."""
    import numpy as np

    total = parts[0][:, part].astype(np.float64)
    for other in parts[1:]:
        total += other[:, part]
    return total


def _product(left: "NDArray[Any]", *taus: "NDArray[Any]") -> "NDArray[Any]":
    """The smaller side of the sum of matrices multiplied with `left`, in float32."""
    import numpy as np

    found, wide = np.empty(taus[0].shape, np.float32), tuple(map(_wide, taus))
    out = _wide(found)
    for part in _ranges(out.shape):
        out[:, part] = left @ _summed(wide, part)
    return found


def _wide(tau: "NDArray[Any]") -> "NDArray[Any]":
    """The same matrix, seen so that it has no more rows than columns."""
    return tau if tau.shape[0] <= tau.shape[1] else tau.T


def _is_matrix(tau: "NDArray[Any]") -> bool:
    return tau.ndim == 2 and tau.size > 0


def _mean(taus: "tuple[NDArray[Any], ...]") -> "NDArray[Any]":
    import numpy as np

    total = taus[0].astype(np.float64)
    for tau in taus[1:]:
        total += tau
    return np.asarray(total / len(taus), np.float32)


# ---- memory: float64 numbers held at once, beside the blocks --------------------------------------
def _room(squares: float, wholes: float) -> int:
    return int(8 * (squares + wholes + 6 * BLOCK))


def _by_gram(shape: tuple[int, ...], count: int) -> int:
    """One Gram matrix of the smaller side and what its decomposition takes."""
    return _room(6 * min(shape) ** 2, 0) if len(shape) == 2 else 0


def _by_triplets(shape: tuple[int, ...], count: int) -> int:
    """U, V, a matrix outside, and a Gram matrix and its decomposition."""
    return _room(7 * min(shape) ** 2, 2 * shape[0] * shape[1]) if len(shape) == 2 else 0


def _by_left(shape: tuple[int, ...], count: int) -> int:
    """U of `count` matrices side by side, magnitudes in their basis, and a Gram matrix and its decomposition."""
    if len(shape) != 2:
        return 0
    side = min(shape[0], count * shape[1])
    return _room(6 * side**2, (shape[0] + shape[1]) * side)


def _by_merge(shape: tuple[int, ...], count: int) -> int:
    """U of one matrix, U by its new lengths, and a Gram matrix and its decomposition."""
    return _room(6 * min(shape) ** 2, 2 * shape[0] * min(shape)) if len(shape) == 2 else 0


METHODS = (
    Lifted(low_rank, most=1, ranges={"rank": Range(1, ANY_RANK, whole=True), "share": DENSITY}, workspace=_by_gram),
    Lifted(iso_c, workspace=_by_gram),
    Lifted(tsv_m, workspace=_by_triplets),
    Lifted(iso_cts, least=2, ranges={"common": Range(0, 1)}, workspace=_by_triplets),
    Lifted(knots, least=2, ranges={"density": DENSITY}, choices={"reduce": ("mean", "sum")}, workspace=_by_left),
    Lifted(svc, least=2, ranges={"alpha": Range(0, math.inf, open_below=True)}, workspace=_by_merge),
)
