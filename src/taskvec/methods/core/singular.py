"""Singular values and vectors of large matrices, from Gram matrices that are summed in blocks.

For X = U diag(s) V^T:

1. X is seen as (m, n) with m <= n, transposed if need be (`as_wide`).
2. The Gram matrix X X^T, (m, m), is summed in float64, block by block of BLOCK elements (`_gram`).
3. Its eigenvectors are U, and the roots of its eigenvalues are s (`_eigen`). A singular value below FLOOR times the
   largest is rounding and its vectors are arbitrary, so it is left out. r values remain: U is (m, r).
4. V^T, (r, n), is diag(1/s) U^T X, which is computed block by block where it is needed.

The signs of singular vectors are arbitrary, so they must cancel in every result.

This takes 1/1.7 of the time of an SVD, is nearer to the exact result than an SVD in float32, and holds only blocks of
the matrix in float64. It squares the condition number, but it has 53 bits, and the rounding of the matrix itself to 24
bits leaves more open in every direction that counts.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 1 << 20  # elements of a matrix that are held in float64 at once; fixed, so that the bits are the same
FLOOR = 1e-6  # singular values below this share of the largest are rounding


class Triplets:
    """Singular values and vectors of several matrices side by side: u (m, r), s (r,) and v (r, n), float64.

    `count` of the r directions are in use."""

    def __init__(self, shape: tuple[int, ...], most: int):
        import numpy as np

        self.u, self.s, self.v, self.count = np.empty((shape[0], most)), np.empty(most), np.empty((most, shape[1])), 0

    def add(self, kept: int, *parts: "NDArray[Any]", least: float = 0) -> None:
        """Append the first `kept` directions of the sum of `parts`: fewer if its rank is less, and only those whose
        singular value is above `least`."""
        s, u = singular(*parts)
        s = s[s > least]
        new = slice(self.count, self.count + min(kept, s.size))
        self.count = new.stop
        self.s[new], self.u[:, new] = s[:kept], u[:, : min(kept, s.size)]
        for part in blocks(parts[0].shape):
            self.v[new, part] = (self.u[:, new].T @ summed(parts, part)) / self.s[new, None]

    def orthogonal(self, s: "NDArray[Any]", shape: tuple[int, ...]) -> "NDArray[Any]":
        """U' diag(s) V' in float32: U' is the nearest matrix to u with orthonormal columns, and V' the nearest one to v
        with orthonormal rows."""
        import numpy as np

        u, v = self.u[:, : self.count], self.v[: self.count]
        left = (u @ _inverse_root(u.T @ u) * s) @ _inverse_root(v @ v.T)
        merged = np.empty(shape, np.float32)
        out = as_wide(merged)
        for part in blocks(out.shape):
            out[:, part] = left @ v[:, part]
        return merged


def singular(*parts: "NDArray[Any]") -> "tuple[NDArray[Any], NDArray[Any]]":
    """(s, U) of the sum of matrices (m, n) with m <= n, the largest singular value first."""
    return _eigen(_gram(*parts))


def _gram(*parts: "NDArray[Any]") -> "NDArray[Any]":
    """X X^T of the sum X."""
    import numpy as np

    total = np.zeros((parts[0].shape[0],) * 2)
    for part in blocks(parts[0].shape):
        x = summed(parts, part)
        total += x @ x.T
    return total


def _eigen(gram: "NDArray[Any]") -> "tuple[NDArray[Any], NDArray[Any]]":
    """(the square roots of the eigenvalues that are more than rounding, their vectors), the largest first."""
    import numpy as np

    squares, vectors = np.linalg.eigh(gram)
    s = np.sqrt(np.maximum(squares, 0))[::-1]
    live = int((s > FLOOR * s[:1]).sum())
    return s[:live], vectors[:, ::-1][:, :live]


def without_left(u: "NDArray[Any]", tau: "NDArray[Any]") -> "NDArray[Any]":
    """tau - U U^T tau, in float64."""
    import numpy as np

    outside = np.empty(tau.shape)
    for part in blocks(tau.shape):
        x = summed((tau,), part)
        outside[:, part] = x - u @ (u.T @ x)
    return outside


def without_right(v: "NDArray[Any]", tau: "NDArray[Any]") -> "NDArray[Any]":
    """tau - tau V^T V, in float64."""
    import numpy as np

    outside, inside = np.empty(tau.shape), np.zeros((len(tau), len(v)))
    for part in blocks(tau.shape):
        inside += summed((tau,), part) @ v[:, part].T
    for part in blocks(tau.shape):
        outside[:, part] = summed((tau,), part) - inside @ v[:, part]
    return outside


def _inverse_root(gram: "NDArray[Any]") -> "NDArray[Any]":
    """G^(-1/2) within the span of G, and 0 outside."""
    s, q = _eigen(gram)
    inverse: NDArray[Any] = (q / s) @ q.T
    return inverse


def left_vectors(*taus: "NDArray[Any]") -> "NDArray[Any]":
    """U of matrices side by side, [tau_1 ... tau_T]: (m, r) float64."""
    import numpy as np

    rows, columns = taus[0].shape[0], sum(tau.shape[1] for tau in taus)
    if rows <= columns:
        gram = _gram(taus[0])
        for tau in taus[1:]:
            gram += _gram(tau)
        return _eigen(gram)[1]
    total = np.zeros((columns, columns))
    for part in blocks((columns, rows)):
        x = np.concatenate([tau[part] for tau in taus], axis=1, dtype=np.float64)
        total += x.T @ x
    s, v = _eigen(total)
    u = np.empty((rows, s.size))
    for part in blocks((columns, rows)):
        u[part] = np.concatenate([tau[part] for tau in taus], axis=1, dtype=np.float64) @ (v / s)
    return u


# ---- blocks --------------------------------------------------------------------------------------
def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Ranges of the second axis that make blocks of BLOCK elements."""
    step = max(1, BLOCK // shape[0])
    return (slice(at, min(at + step, shape[1])) for at in range(0, shape[1], step))


def summed(parts: "tuple[NDArray[Any], ...]", part: slice) -> "NDArray[Any]":
    """Some columns of the sum, in float64."""
    import numpy as np

    total = parts[0][:, part].astype(np.float64)
    for other in parts[1:]:
        total += other[:, part]
    return total


def product(left: "NDArray[Any]", *taus: "NDArray[Any]") -> "NDArray[Any]":
    """left @ X in float32, X the sum of the matrices, seen as (m, n) with m <= n. The result has their own shape."""
    import numpy as np

    product, wide = np.empty(taus[0].shape, np.float32), tuple(map(as_wide, taus))
    out = as_wide(product)
    for part in blocks(out.shape):
        out[:, part] = left @ summed(wide, part)
    return product


def as_wide(tau: "NDArray[Any]") -> "NDArray[Any]":
    """A view of the matrix, transposed if it has more rows than columns."""
    return tau if tau.shape[0] <= tau.shape[1] else tau.T
