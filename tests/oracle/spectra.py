"""Methods that see a matrix as a whole: its singular values and vectors.

How far these turn is bounded by the gaps between the values (Davis & Kahan 1970; Li 1995). Where a gap is too small for
the numbers that a matrix is made of, anything is right.
"""

import numpy as np
from bounds import U32, U64, Val

SAFE = 2.0**10  # for the dimensions that the bounds of LAPACK's eigenvalues have
ANYTHING = 1e30


def low_rank(args, params, entries):
    rank, found = int(params.get("rank", 10**9)), {}
    for name, (tau,) in args.items():
        if tau.v.ndim != 2 or rank >= min(tau.v.shape) or not tau.v.any():
            found[name] = tau
            continue
        u, s, v = np.linalg.svd(tau.v, full_matrices=False)
        made = (u[:, :rank] * s[:rank]) @ v[:rank]
        off, gap = np.linalg.norm(tau.e), s[rank - 1] - s[rank]
        turned = SAFE * U64 * s[0] ** 2 / (s[rank - 1] ** 2 - s[rank] ** 2) if gap > 0 else np.inf
        bound = off + s[0] * (turned + 2 * off / gap) if gap > 4 * off and turned < 0.1 else ANYTHING
        if s[rank] < 1e-5 * s[0]:  # what is left out is at most rounding, whatever its directions
            bound = min(bound, off + 2 * np.linalg.norm(s[rank:]) + 1e-6 * s[0] * (s[rank - 1] < 1e-5 * s[0]))
        found[name] = Val(made, bound + 2 * U32 * np.abs(made))
    return found


def iso_c(args, params, entries):
    found = {}
    for name, vals in args.items():
        whole = Val(sum(x.v for x in vals), sum(x.e for x in vals))
        if whole.v.ndim != 2 or not whole.v.size:
            n = len(vals)
            found[name] = Val(whole.v / n, whole.e / n + 2 * U32 * np.abs(whole.v) / n)
            continue
        u, s, v = np.linalg.svd(whole.v, full_matrices=False)
        off, live = np.linalg.norm(whole.e), s > 1e-6 * s[:1]
        if not s[0] > 4 * off:
            found[name] = Val(np.zeros(whole.v.shape), np.full(whole.v.shape, ANYTHING if s[0] or off else 0.0))
            continue
        made = s.sum() / s.size * (u[:, live] @ v[live])
        least, rest = s[live].min(), s[~live].max(initial=0)
        clear = least > 1e-5 * s[0] + 4 * off and rest + off < 1e-7 * s[0]
        turned = 4 * off / least + SAFE * U64 * (s[0] / least) ** 2
        more = s.sum() / s.size * turned + off if clear and turned < 0.1 else ANYTHING
        found[name] = Val(made, more + 2 * U32 * np.abs(made))
    return found
