"""Combinations by the angles and norms of a span: coefficients from a Gram matrix."""

import itertools

import numpy as np
from bounds import Undecided


def gram(vals):
    """The Gram matrix in float64, and how far one of the float32 arrays may be from it."""
    n = len(vals)
    g, off = np.zeros((n, n)), np.zeros((n, n))
    for i, j in itertools.product(range(n), repeat=2):
        x, y = vals[i], vals[j]
        g[i, j] = (x.v * y.v).sum()
        off[i, j] = (np.abs(x.v) * y.e + np.abs(y.v) * x.e + x.e * y.e).sum() + 2.0**-48 * np.abs(x.v * y.v).sum()
    return np.array([g, off])


def sensitive(fn, g, off):
    """fn(g), and twice what its entries change by, to first order, where g is off by as much as it may be."""
    c = np.asarray(fn(g), np.float64)
    change = 2.0**-48 * np.abs(c)
    n = len(g)
    for i in range(n):
        for j in range(i, n):
            if off[i, j]:
                step = np.zeros_like(g)
                step[i, j] = step[j, i] = off[i, j]
                sides = [np.asarray(fn(g + s * step), np.float64) for s in (-1, 1)]
                change = change + 2 * np.max(np.abs(np.array(sides) - c), axis=0)
    return c, change


def _norms(g):
    return np.sqrt(np.maximum(np.diag(g), 0))


def _shares(params, n):
    w = np.array([float(x) for x in params.get("weights") or (1,) * n])
    return w / w.sum()


def slerp(g, params):
    t, (a, b) = float(params.get("t", 0.5)), _norms(g)
    if a == b == 0:
        return [1 - t, t]
    if not a * b:
        raise Undecided  # no angle: it is refused
    cosine = np.clip(g[0, 1] / (a * b), -1, 1)
    if abs(cosine) > 0.9995:
        return [1 - t, t]
    angle = np.arccos(cosine)
    return [np.sin((1 - t) * angle) / np.sin(angle), np.sin(t * angle) / np.sin(angle)]


def nuslerp(g, params):
    first, second = params.get("weights") or (1, 1)
    t = float(second) / float(first + second)
    a, b = np.maximum(1e-7, _norms(g))
    cosine = np.clip(g[0, 1] / (a * b), -1, 1)
    if abs(cosine) > 1 - 2.0**-25:
        return [1 - t, t]
    angle = np.arccos(cosine)
    return [np.sin((1 - t) * angle) / np.sin(angle), np.sin(t * angle) / np.sin(angle)]


def multislerp(g, params):
    n, sizes = len(g), _norms(g)
    w = _shares(params, n)
    if n == 1 or not sizes.any():
        return [1.0] if n == 1 else w
    scaled = w / (sizes + 1e-8)
    return (w @ sizes) * scaled / _far(np.sqrt(max(0.0, scaled @ g @ scaled)))


def _far(length):
    """The length of a sum of unit vectors, if it is one."""
    if length < 1e-4:
        raise Undecided
    return length


def stock(g, params):
    n, sizes = len(g), _norms(g)
    pairs = [
        np.clip(g[i, j] / (sizes[i] * sizes[j]), -1, 1) if sizes[i] * sizes[j] else 0.0
        for i, j in itertools.combinations(range(n), 2)
    ]
    cosine = np.mean(pairs)
    below = 1 + (n - 1) * cosine
    return [0.0 if abs(below) < 1e-6 else n * cosine / below / n] * n


def metagpt(g, params):
    squares = np.diag(g)
    return squares / squares.sum() if squares.sum() else np.zeros(len(g))


def norm_matched(g, params):
    if not _norms(g).any():
        return [0.0] * len(g)
    return [_norms(g).mean() / (_far(np.sqrt(max(0.0, g.sum())) / _norms(g).sum()) * _norms(g).sum())] * len(g)


def karcher(g, params):
    """In coordinates of the span, where the vectors are columns of a root of the Gram matrix."""
    sizes = _norms(g)
    live = sizes > 0
    if not live.any():
        return np.zeros(len(g))
    unit = g[np.ix_(live, live)] / np.outer(sizes[live], sizes[live])
    values, vectors = np.linalg.eigh(unit)
    points = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T  # symmetric: row k is the direction of vector k
    c = np.full(live.sum(), 1 / live.sum())
    c = c / _far(np.sqrt(max(0.0, c @ unit @ c)))
    for _ in range(10):
        m = c @ points
        step = np.zeros(len(c))
        for k, p in enumerate(points):
            cosine = np.clip(m @ p, -1, 1)
            angle = np.arccos(cosine)
            factor = angle / np.sin(angle) if angle > 1e-9 and np.sin(angle) else 1.0
            step += factor * (np.eye(len(c))[k] - cosine * c) / len(c)
        length = np.sqrt(max(0.0, step @ unit @ step))
        if length < 1e-5:
            break
        c = np.cos(length) * c + np.sin(length) / length * step
    found = np.zeros(len(g))
    found[live] = sizes[live].mean() * c / sizes[live]
    return found


def geometric_median(g, params):
    n = len(g)
    c = np.full(n, 1 / n)
    for _ in range(int(params.get("max_iter", 100))):
        away = np.array([np.sqrt(max(0.0, (c - e) @ g @ (c - e))) for e in np.eye(n)])
        if not away.max():
            break
        pull = 1 / np.maximum(away, 1e-6 * away.max())
        c, before = pull / pull.sum(), c
        if np.abs(c - before).max() < 1e-7:
            break
    return c


METHODS = {
    "slerp": slerp,
    "nuslerp": nuslerp,
    "multislerp": multislerp,
    "stock": stock,
    "metagpt": metagpt,
    "norm_matched": norm_matched,
    "karcher": karcher,
    "geometric_median": geometric_median,
}
# Iterations end where a step is this short: one of them may be made here and not there.
LAST_STEP = {"karcher": 2e-5, "geometric_median": 2e-7}  # fmt: skip
DEFAULT_SCOPE = {"metagpt": "model", "norm_matched": "model"}
