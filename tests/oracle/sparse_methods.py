"""From one vector to a sparser one, and random ones: see bounds.py for what a bound is."""

import math

import numpy as np
from bounds import U32, Val, either, exactly, times

from taskvec.methods.core import draws


def _flat(args):
    """All entries of first arguments, the tensors by name, as one Val; and the cuts between them."""
    names = sorted(args)
    vals = [args[n][0] for n in names]
    cuts = np.cumsum([v.v.size for v in vals])[:-1] if vals else []
    return names, Val(*(np.concatenate([getattr(v, k).ravel() for v in vals] or [np.zeros(0)]) for k in "ve")), cuts


def _rank(values, rank):
    """The rank-th largest."""
    return np.partition(values, len(values) - rank)[len(values) - rank]


def _bounds(val, rank, zeros):
    """From where to where the magnitude of a rank may lie, of these and so many zeros."""
    if rank <= 0:
        return np.inf, np.inf
    if rank > val.v.size:
        return 0.0, 0.0
    return tuple(_rank(s, rank) for s in val.size)


def _within(val, rank, zeros, ties):
    """(surely, possibly) among the `rank` largest magnitudes."""
    lo, hi = val.size
    least, most = _bounds(val, rank, zeros)
    sure, maybe = lo >= most, hi >= least
    if ties == "first" and rank > 0:
        sure = lo > most
        near = maybe & ~sure
        if least == most and not val.e[near].any():  # all that are equal to it are known: the first of them
            quota = rank - int(sure.sum())
            chosen = np.zeros_like(sure)
            chosen[np.flatnonzero(near)[:quota]] = True
            return sure | chosen, sure | chosen
    elif least != most:
        sure = lo > most
    return sure, maybe


def _sieve(args, params, entries, ranks):
    scope = params.get("scope", "model" if ranks is _trim_ranks else "tensor")
    groups = [args] if scope == "model" else [{n: v} for n, v in args.items()]
    found = {}
    for group in groups:
        names, val, cuts = _flat(group)
        size = max(val.v.size, entries if scope == "model" else 0)
        kept, gone = ranks(size, params)
        ties = params.get("ties", "all")
        low = _within(val, kept, size - val.v.size, ties)
        high = _within(val, gone, size - val.v.size, ties)
        sure, maybe = low[0] & ~high[1], low[1] & ~high[0]
        for name, s, m in zip(names, np.split(sure, cuts), np.split(maybe, cuts), strict=True):
            tau = group[name][0]
            s, m = s.reshape(tau.v.shape), m.reshape(tau.v.shape)
            found[name] = _rescaled(tau, s, m) if params.get("rescale") == "l1" else either(s, m, tau)
    return found


def _rescaled(tau, sure, maybe):
    """What is kept, times sum |tau| / sum |kept|."""
    kept, (lo, hi) = either(sure, maybe, tau), tau.size
    num = lo.sum(), hi.sum()
    den = lo[sure].sum(), hi[maybe].sum()
    ratios = [n / d if n >= 1e-7 and d >= 1e-7 else 1.0 for n in num for d in den]
    if min(den) < 1e-7 <= max(den) or min(num) < 1e-7 <= max(num):
        ratios.append(1.0)
    return times(kept, min(ratios) * (1 - 1e-12), max(ratios) * (1 + 1e-12))


def _trim_ranks(size, params):
    return min(size, max(int(params.get("least", 0)), math.floor(float(params.get("density", 0.2)) * size))), 0


def _crumbs_ranks(size, params):
    kept = math.floor(float(params.get("density", 0.1)) * size)
    gone = math.floor(float(params.get("gamma", 0.01)) * size)
    if params.get("outliers") == "spare":
        gone = min(gone, size - kept)
    return min(size, kept + gone), gone


def trim(args, params, entries):
    return _sieve(args, params, entries, _trim_ranks)


def breadcrumbs(args, params, entries):
    return _sieve(args, params, entries, _crumbs_ranks)


def _words(seed, name, n, stream):
    """The 32 random bits of each entry: their upper halves in one stream, the lower in the next."""
    halves = [
        draws.words(seed, name, 0, (n + 1) // 2, stream + k).view(np.uint16)[:n].astype(np.uint64) for k in (0, 1)
    ]
    return halves[0] << np.uint64(16) | halves[1]


def dare(args, params, entries):
    drop, seed, found = float(params.get("drop", 0.5)), int(params.get("seed", 0)), {}
    for name, (tau,) in args.items():
        stays = (_words(seed, name, tau.v.size, draws.DROPS) >= math.ceil(drop * 2**32)).reshape(tau.v.shape)
        kept, how = either(stays, stays, tau), params.get("rescale", "expected")
        if how == "l1":
            found[name] = _rescaled(tau, stays, stays)
        else:
            found[name] = times(kept, 1 / (1 - drop), 1 / (1 - drop)) if how == "expected" and drop else kept
    return found


def della(args, params, entries):
    density, epsilon = float(params.get("density", 0.7)), float(params.get("epsilon", 0.14))
    seed, found = int(params.get("seed", 0)), {}
    for name, (tau,) in args.items():
        shape = tau.v.shape
        width = max(1, shape[-1]) if shape else 1
        drawn = _words(seed, name, tau.v.size, draws.PRUNES).reshape(-1, width) / 2.0**32
        sizes = [s.reshape(-1, width) for s in tau.size]
        ranks = np.array([_ranks(lo, hi) for lo, hi in zip(*sizes, strict=True)]).reshape(-1, 2, width)
        p = density - epsilon / 2 + epsilon * ranks / (width - 1) if width > 1 else np.full(ranks.shape, density)
        low, high = (p[:, k].reshape(shape) for k in (0, 1))
        drawn = drawn.reshape(shape)
        sure, maybe = drawn < low * (1 - 2 * U32), drawn < high * (1 + 2 * U32)
        how = params.get("rescale", "expected")
        if how == "l1":
            found[name] = _rescaled(tau, sure, maybe)
        elif how == "none":
            found[name] = either(sure, maybe, tau)
        else:
            found[name] = either(sure, maybe, times(tau, (1 - 2 * U32) / high, (1 + 2 * U32) / low))
    return found


def _ranks(lo, hi):
    """The least and the greatest mean rank of each magnitude in a row, equal ones having the mean of theirs."""
    by_hi, by_lo = np.sort(hi), np.sort(lo)
    surely_below = np.searchsorted(by_hi, lo, "left")
    maybe_not_above = np.searchsorted(by_lo, hi, "right")
    if np.array_equal(lo, hi):
        mean = (surely_below + maybe_not_above - 1) / 2
        return mean, mean
    return surely_below, maybe_not_above - 1


def random_like(args, params, entries):
    seed, found = int(params.get("seed", 0)), {}
    for name, (tau,) in args.items():
        drawn = draws.normal(seed, name, 0, tau.v.size).astype(np.float64).reshape(tau.v.shape)
        low, high = (np.sqrt((s**2).sum()) for s in tau.size)
        size = np.sqrt((drawn**2).sum())
        ratio = (low / size, high / size) if size else (0.0, 0.0)
        found[name] = times(exactly(drawn), ratio[0] * (1 - U32), ratio[1] * (1 + U32))
    return found
