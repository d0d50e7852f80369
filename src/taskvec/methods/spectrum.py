"""Spectrum: methods that work on whole matrices, by their singular values and vectors.

low_rank  truncated SVD (Eckart & Young; TSV-Compress)
iso_c     Iso-C: the sum with a flat spectrum
tsv_m     Task Singular Vectors: the first directions of each vector, made orthonormal together
iso_cts   Iso-CTS: common directions of the sum, and the first ones of each vector outside these
knots     KnOTS-TIES: TIES in the left singular vectors of all vectors side by side
svc       Singular Value Calibration: smaller singular values along shared directions

The methods are pure functions of float32 arrays. core/singular.py says how singular values and vectors are computed;
those that are only rounding are left out, where the published codes keep whatever vectors LAPACK returns.

"Matrices" are tensors with two axes, also embeddings and heads; `only(...)` says which to take. A stack of matrices in
one tensor, such as fused experts (experts, out, in), is not a matrix here, and neither is a convolution. NaN or Inf in
a matrix make all of it NaN.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from taskvec.methods.consensus import elect
from taskvec.methods.core.blas import one_thread
from taskvec.methods.core.lift import Lifted
from taskvec.methods.core.method import Range
from taskvec.methods.core.singular import (
    BLOCK,
    FLOOR,
    Triplets,
    as_wide,
    blocks,
    left_vectors,
    product,
    singular,
    summed,
    without_left,
    without_right,
)
from taskvec.methods.sparsify import DENSITY, trim

if TYPE_CHECKING:
    from numpy.typing import NDArray

ANY_RANK = 10**9


def _whole(method: "Callable[..., NDArray[Any]]") -> "Callable[..., NDArray[Any]]":
    """The method with one BLAS thread, and with NaN for a matrix that has numbers that are not finite."""

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
    _, u = singular(as_wide(tau))
    return product(u[:, :kept] @ u[:, :kept].T, tau)


@_whole
def iso_c(*taus: "NDArray[Any]") -> "NDArray[Any]":
    """The sum of the vectors with a flat spectrum: mean(s) U V^T, where sum_t tau_t = U diag(s) V^T, matrix by matrix.

    Iso-C (Marczak et al., ICML 2025, arXiv 2502.04959). As in the authors' code the mean is over all min(m, n) singular
    values, and tensors that are no matrices, such as fused experts (experts, out, in), are averaged. Deviation:
    directions that are zero stay zero, and CLIP's text_projection, which the authors leave out, is merged.
    """
    if not _is_matrix(taus[0]):
        return _mean(taus)
    s, u = singular(*map(as_wide, taus))
    return product((u * (s.sum() / min(taus[0].shape) / s)) @ u.T, *taus)


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
    wide = [as_wide(tau) for tau in taus]
    kept = max(1, min(taus[0].shape) // len(taus))
    triplets = Triplets(wide[0].shape, kept * len(taus))
    for tau in wide:
        triplets.add(kept, tau)
    return triplets.orthogonal(triplets.s[: triplets.count], taus[0].shape)


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
    wide, full = [as_wide(tau) for tau in taus], min(taus[0].shape)
    own = min(full // len(taus), round((full - int(full * common)) / len(taus)))
    least = FLOOR * max(float(np.linalg.norm(tau)) for tau in taus)  # below this, differences of these are rounding
    triplets = Triplets(wide[0].shape, full)
    triplets.add(full - own * len(taus), *wide, least=least)
    u, v = triplets.u[:, : triplets.count], triplets.v[: triplets.count]
    for tau in wide if own else ():
        is_transposed = tau.shape != taus[0].shape  # then the left singular vectors of the matrix are right ones here
        triplets.add(own, without_right(v, tau) if is_transposed else without_left(u, tau), least=least)
    flat = np.full(triplets.count, triplets.s[: triplets.count].sum() / full)
    return triplets.orthogonal(flat, taus[0].shape)


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
    u, shape = left_vectors(*taus), taus[0].shape
    cuts = []
    for tau in taus:
        size = np.empty((u.shape[1], shape[1]), np.float32)
        for part in blocks(shape):
            np.abs(_aligned(u, tau, part), out=size[:, part])
        cuts.append(_threshold(size, density))
        del size
    merged = np.empty(shape, np.float32)
    for part in blocks(shape):
        kept = [_cut(_aligned(u, tau, part), cut) for tau, cut in zip(taus, cuts, strict=True)]
        merged[:, part] = u @ elect(*kept, reduce=reduce)
    return merged


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
    u = left_vectors(merged)
    total = np.zeros(u.shape[1])  # sum_t max(alpha, c_rt)
    for tau in taus:
        dots, squares = np.zeros(u.shape[1]), np.zeros(u.shape[1])
        for part in blocks(merged.shape):
            along, own = u.T @ summed((merged,), part), u.T @ summed((tau,), part)
            dots += np.einsum("ij,ij->i", along, own)
            squares += np.einsum("ij,ij->i", own, own)
        present = ~(squares <= FLOOR**2 * squares.max(initial=0))  # more than rounding along u_r
        total += np.maximum(alpha, np.divide(dots, squares, out=np.zeros_like(dots), where=present))
    change = u * (len(taus) / total - 1)  # U diag(g - 1)
    calibrated = np.empty(merged.shape, np.float32)
    for part in blocks(merged.shape):
        x = summed((merged,), part)
        calibrated[:, part] = x + change @ (u.T @ x)
    return calibrated


def _aligned(u: "NDArray[Any]", tau: "NDArray[Any]", part: slice) -> "NDArray[Any]":
    """Some columns of U^T tau, in float32. They have the same bits each time they are computed."""
    import numpy as np

    return np.ascontiguousarray(u.T @ tau[:, part], np.float32)


def _threshold(size: "NDArray[Any]", density: float) -> float:
    """The floor(density * d)-th largest of d magnitudes, or inf if that number is 0. Changes the order of `size`."""
    rank, flat = int(density * size.size), size.reshape(-1)
    if not rank:
        return float("inf")
    flat.partition(flat.size - rank)
    return float(flat[flat.size - rank])


def _is_matrix(tau: "NDArray[Any]") -> bool:
    return tau.ndim == 2 and tau.size > 0


def _mean(taus: "tuple[NDArray[Any], ...]") -> "NDArray[Any]":
    import numpy as np

    total = taus[0].astype(np.float64)
    for tau in taus[1:]:
        total += tau
    return np.asarray(total / len(taus), np.float32)


# ---- memory that a method holds beside its arguments and its result --------------------------------
def _bytes(squares: float, wholes: float) -> int:
    """Bytes of so many float64 numbers in small square matrices and in whole ones, and of six blocks."""
    return int(8 * (squares + wholes + 6 * BLOCK))


def _by_gram(shape: tuple[int, ...], count: int) -> int:
    """A Gram matrix of the smaller side and its decomposition."""
    return _bytes(6 * min(shape) ** 2, 0) if len(shape) == 2 else 0


def _by_triplets(shape: tuple[int, ...], count: int) -> int:
    """U, V, what one matrix has outside their span, and a Gram matrix and its decomposition."""
    return _bytes(7 * min(shape) ** 2, 2 * shape[0] * shape[1]) if len(shape) == 2 else 0


def _by_left(shape: tuple[int, ...], count: int) -> int:
    """U of `count` matrices side by side, magnitudes in their basis, and a Gram matrix and its decomposition."""
    if len(shape) != 2:
        return 0
    side = min(shape[0], count * shape[1])
    return _bytes(6 * side**2, (shape[0] + shape[1]) * side)


def _by_merge(shape: tuple[int, ...], count: int) -> int:
    """U of one matrix, U with its columns scaled, and a Gram matrix and its decomposition."""
    return _bytes(6 * min(shape) ** 2, 2 * shape[0] * min(shape)) if len(shape) == 2 else 0


METHODS = (
    Lifted(low_rank, most=1, ranges={"rank": Range(1, ANY_RANK, whole=True), "share": DENSITY}, workspace=_by_gram),
    Lifted(iso_c, workspace=_by_gram),
    Lifted(tsv_m, workspace=_by_triplets),
    Lifted(iso_cts, least=2, ranges={"common": Range(0, 1)}, workspace=_by_triplets),
    Lifted(knots, least=2, ranges={"density": DENSITY}, choices={"reduce": ("mean", "sum")}, workspace=_by_left),
    Lifted(svc, least=2, ranges={"alpha": Range(0, math.inf, open_below=True)}, workspace=_by_merge),
)
