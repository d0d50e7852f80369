"""From several vectors to one, entry by entry: see bounds.py for what a bound is."""

import itertools

import numpy as np
from bounds import SLACK, U32, Undecided, Val, between, either

from recipes import layer_of


def _summed(vals):
    e = sum(x.e for x in vals) + len(vals) * U32 * sum(np.abs(x.v) for x in vals) * (len(vals) > 1)
    v = sum(x.v for x in vals)
    exact = all(not x.e.any() for x in vals)
    if exact and len(vals) == 2:  # one rounding, which changes no sign
        e = np.where(v.astype(np.float32) == v, 0, U32 * np.abs(v))
    elif exact:  # partial sums that are float32 numbers
        partial, off = vals[0].v, np.zeros(v.shape, bool)
        for x in vals[1:]:
            partial = partial + x.v
            off |= partial.astype(np.float32) != partial
        e = np.where(off, e, 0)
    return Val(v, e)


def elect(args, params, entries):
    return {name: _elected(vals, params) for name, vals in args.items()}


def _elected(vals, params, scales=None, least=0.0):
    """scales: what each agreeing entry is multiplied by and counts in the divisor, as (low, high)."""
    n = len(vals)
    if params.get("vote") == "count":
        low = sum(np.where(x.lo > 0, 1.0, np.where((x.lo == 0) & (x.hi == 0), 0.0, -1.0)) for x in vals)
        high = sum(np.where(x.hi < 0, -1.0, np.where((x.lo == 0) & (x.hi == 0), 0.0, 1.0)) for x in vals)
    else:
        votes = _summed(vals)
        low, high = votes.lo, votes.hi
    plus = params.get("tie") == "plus"
    up = high >= 0 if plus else high > 0
    down = low < 0
    nobody = (low <= 0) & (high >= 0) & (not plus)
    weights = scales or [(float(w), float(w)) for w in params.get("weights") or (1,) * n]
    lows, highs = [], []
    for sign, possible in ((1, up), (-1, down)):
        lo, hi = _agreeing(vals, sign, weights, scales is not None, params.get("reduce", "mean") == "mean", least)
        lows.append(np.where(possible, lo, np.inf))
        highs.append(np.where(possible, hi, -np.inf))
    lows.append(np.where(nobody, 0.0, np.inf))
    highs.append(np.where(nobody, 0.0, -np.inf))
    lo, hi = np.min(lows, axis=0), np.max(highs, axis=0)
    found = between(lo, hi)
    size = sum(np.abs(x.v) + x.e for x in vals)
    settled = (n == 1) | (np.sum([(x.v != 0) | (x.e > 0) for x in vals], axis=0) <= 1) & (not scales)
    more = np.where((found.v == 0) & (found.e == 0), 0, (n + 3) * U32 * np.maximum(np.abs(found.v), size * (n > 1)))
    return Val(found.v, found.e + np.where(settled & (found.e == 0), (U32 * np.abs(found.v)), more))


def _agreeing(vals, sign, weights, scaled, mean, least):
    """The least and the greatest mean (or sum) of what agrees with a sign."""
    outcomes_lo, outcomes_hi = [], []
    sures = [x.lo > 0 if sign > 0 else x.hi < 0 for x in vals]
    maybes = [x.hi > 0 if sign > 0 else x.lo < 0 for x in vals]
    shaky = [k for k in range(len(vals)) if (maybes[k] & ~sures[k]).any()]
    for chosen in itertools.product((False, True), repeat=len(shaky)):
        num_lo = num_hi = den_lo = den_hi = np.zeros(vals[0].v.shape)
        for k, x in enumerate(vals):
            yes = sures[k] | (maybes[k] & (dict(zip(shaky, chosen, strict=True)).get(k, False)))
            a, b = (np.maximum(x.lo, 0), x.hi) if sign > 0 else (x.lo, np.minimum(x.hi, 0))
            w = weights[k] if scaled else (1.0, 1.0)
            ends = [p * q for p in (a, b) for q in w]
            num_lo = num_lo + np.where(yes, np.min(ends, axis=0), 0)
            num_hi = num_hi + np.where(yes, np.max(ends, axis=0), 0)
            den_lo = den_lo + np.where(yes, weights[k][0], 0)
            den_hi = den_hi + np.where(yes, weights[k][1], 0)
        if mean and not scaled:
            den_lo, den_hi = (np.where(d == 0, 1.0, d) for d in (den_lo, den_hi))
        elif mean:
            den_lo, den_hi = np.maximum(den_lo, least), np.maximum(den_hi, least)
        else:
            den_lo = den_hi = np.ones(vals[0].v.shape)
        ends = [p / q for p in (num_lo, num_hi) for q in (den_lo, den_hi)]
        outcomes_lo.append(np.min(ends, axis=0))
        outcomes_hi.append(np.max(ends, axis=0))
    return np.min(outcomes_lo, axis=0), np.max(outcomes_hi, axis=0)


def unified(args, params, entries):
    found, minus = {}, params.get("tie") == "minus"
    for name, vals in args.items():
        votes = _summed(vals)
        lows, highs = [], []
        for sign, possible in ((1, votes.hi > 0), (-1, votes.lo <= 0 if minus else votes.lo < 0)):
            ends = [np.max([np.zeros(votes.v.shape), *(sign * x.v + d * x.e for x in vals)], axis=0) for d in (-1, 1)]
            lows.append(np.where(possible, np.min([sign * x for x in ends], axis=0), np.inf))
            highs.append(np.where(possible, np.max([sign * x for x in ends], axis=0), -np.inf))
        nobody = (votes.lo <= 0) & (votes.hi >= 0) & (not minus)
        lows.append(np.where(nobody, 0.0, np.inf))
        highs.append(np.where(nobody, 0.0, -np.inf))
        found[name] = between(np.min(lows, axis=0), np.max(highs, axis=0))
    return found


def magmax(args, params, entries):
    return {name: _largest(vals, params.get("tie") == "last") for name, vals in args.items()}


def _largest(vals, last):
    """What may have the largest magnitude; of equal ones the first, or the last."""
    sizes, n = [x.size for x in vals], len(vals)
    possible = []
    for k in range(n):
        before, after = range(k), range(k + 1, n)
        wins, yields = (before, after) if last else (after, before)
        beaten = [sizes[j][0] > sizes[k][1] for j in wins] + [sizes[j][0] >= sizes[k][1] for j in yields]
        possible.append(~np.any([np.zeros(vals[0].v.shape, bool), *beaten], axis=0))
    lo = np.min([np.where(p, x.lo, np.inf) for p, x in zip(possible, vals, strict=True)], axis=0)
    hi = np.max([np.where(p, x.hi, -np.inf) for p, x in zip(possible, vals, strict=True)], axis=0)
    return between(lo, hi)


def consensus(args, params, entries):
    k, lam, found = float(params.get("k", 2)), float(np.float32(float(params.get("lam", 0.6)))), {}
    counts = np.greater if params.get("tie") == "out" else np.greater_equal
    for name, vals in args.items():
        whole = _summed(vals)
        least = most = 0
        for x in vals:
            lo, hi = x.size
            rest = np.abs(whole.v - x.v)
            off = whole.e + x.e + U32 * rest * ((whole.v - x.v).astype(np.float32) != whole.v - x.v)
            ends = [lam * np.maximum(rest + d * off, 0) for d in (1, -1)]
            ends = [
                np.where(e.astype(np.float32) == e, e, e * (1 + d * 2 * U32))
                for e, d in zip(ends, (1, -1), strict=True)
            ]
            exact = (off == 0) & (x.e == 0) & (ends[0] == ends[1])
            least = least + np.where(exact, counts(lo, ends[0]), lo > ends[0])
            most = most + np.where(exact, counts(hi, ends[1]), hi >= ends[1])
        found[name] = either(least >= k, most >= k, whole)
    return found


def ram(args, params, entries):
    epsilon, found = float(np.float32(float(params.get("epsilon", 1e-5)))), {}
    for name, vals in args.items():
        sure, maybe = [x.size[0] > epsilon for x in vals], [x.size[1] > epsilon for x in vals]
        lo = sum(
            np.where(s, x.lo, np.where(m, np.minimum(x.lo, 0), 0)) for s, m, x in zip(sure, maybe, vals, strict=True)
        )
        hi = sum(
            np.where(s, x.hi, np.where(m, np.maximum(x.hi, 0), 0)) for s, m, x in zip(sure, maybe, vals, strict=True)
        )
        counts = [np.maximum(1, sum(m.astype(int) for m in mask)) for mask in (sure, maybe)]
        ends = [a / c for a in (lo, hi) for c in counts]
        made = between(np.min(ends, axis=0), np.max(ends, axis=0))
        size = sum(np.abs(x.v) for x in vals)
        found[name] = Val(made.v, made.e + (len(vals) + 2) * U32 * size)
    return found


def ramplus(args, params, entries):
    epsilon, found = float(np.float32(float(params.get("epsilon", 1e-5)))), {}
    r, alpha = float(params.get("r", 0.1)), float(params.get("alpha", 0.2))
    active = {n: [[x.size[k] > epsilon for x in vals] for k in (0, 1)] for n, vals in args.items()}
    counts = {n: [sum(m.astype(int) for m in mask) for mask in masks] for n, masks in active.items()}
    whole = params.get("scope", "model") == "model"

    def overlaps(name, k):
        """(least, greatest) numbers of entries of vector k that others have too, and have not."""
        sure, maybe = (active[name][at][k] for at in (0, 1))
        few, many = (counts[name][at] - m for at, m in ((0, sure), (1, maybe)))
        shared = (sure & (few >= 1)).sum(), (maybe & (many >= 1)).sum()
        return np.array([shared, ((sure & (many == 0)).sum(), (maybe & (few == 0)).sum())])

    for name, vals in args.items():
        boosts = []
        for k in range(len(vals)):
            (both_lo, both_hi), (one_lo, one_hi) = sum(overlaps(n, k) for n in (args if whole else [name]))
            ratios = [b / o if o else (np.inf if one_hi else 0) for b, o in ((both_lo, one_hi), (both_hi, one_lo))]
            boosts.append([1 + r * min(alpha, x) if one_hi else 1.0 for x in ratios])
        low, high = counts[name]
        lows, highs = [], []
        for k, (x, (least, most)) in enumerate(zip(vals, boosts, strict=True)):
            sure, maybe = (active[name][at][k] for at in (0, 1))
            alone, perhaps = sure & (high <= 1), maybe & (low - sure <= 0)
            least, most = np.where(alone, least, 1.0), np.where(perhaps, most, 1.0)
            ends = [e * b for e in (x.lo, x.hi) for b in (least, most)]
            lo, hi = np.min(ends, axis=0), np.max(ends, axis=0)
            lows.append(np.where(sure, lo, np.where(maybe, np.minimum(lo, 0), 0)))
            highs.append(np.where(sure, hi, np.where(maybe, np.maximum(hi, 0), 0)))
        ends = [sum(s) / np.maximum(1, c) for s in (lows, highs) for c in (low, high)]
        made = between(np.min(ends, axis=0), np.max(ends, axis=0))
        found[name] = Val(made.v, made.e + (len(vals) + 4) * U32 * (1 + r) * sum(np.abs(x.v) for x in vals))
    return found


def sce(args, params, entries):
    """With select=1: all entries take part."""
    found = {}
    for name, vals in args.items():
        squares = [[(s**2).sum() for s in x.size] for x in vals]
        lows, highs = ([s[k] for s in squares] for k in (0, 1))
        if sum(highs) == 0:
            shares = [(1 / len(vals),) * 2] * len(vals)
        else:
            if not sum(lows) > 0:  # whether a vector is zero decides its share
                raise Undecided
            shares = [(lo / sum(highs) * (1 - 4 * U32), hi / sum(lows) * (1 + 4 * U32)) for lo, hi in squares]
        found[name] = _elected(vals, {"tie": params.get("tie", "none")}, scales=shares, least=1e-6)
    return found


def nearswap(args, params, entries):
    t, found = float(np.float32(float(params.get("t", 0.0001)))), {}
    for name, (base, m) in args.items():
        step = np.clip(m.v - base.v, -t, t)
        v = base.v + step
        e = base.e + m.e + 4 * U32 * np.abs(step) + np.where(step != 0, U32 * np.abs(v), 0)
        found[name] = Val(v, e * SLACK)
    return found


def freeze_conflicts(args, params, entries):
    cosine, conflict = float(params.get("cosine", 0)), float(params.get("conflict", 1))
    groups, found = {}, {}
    for name in args:
        groups.setdefault((params.get("scope", "layer") == "layer" and layer_of(name)) or name, []).append(name)
    for names in groups.values():
        x, y = (Val(*(np.concatenate([getattr(args[n][k], f).ravel() for n in names]) for f in "ve")) for k in (0, 1))
        xx, yy, xy = (x.v @ x.v, y.v @ y.v, x.v @ y.v)
        off = np.abs(x.v) @ y.e + np.abs(y.v) @ x.e + x.e @ y.e + 1e-12 * np.sqrt(xx * yy)
        exact = not (x.e.any() or y.e.any())
        sure = maybe = True
        if xx and yy:
            size = np.sqrt(xx * yy)
            slack = (off / size + (x.e @ x.e) ** 0.5 / xx**0.5 + (y.e @ y.e) ** 0.5 / yy**0.5) * 2 + 1e-12
            c = xy / size
            sure, maybe = c > cosine + slack or (exact and xy == 0 == cosine), c > cosine - slack
            both = ((x.v != 0) & (y.v != 0)).sum()
            unsure = (((x.e > 0) & (np.abs(x.v) <= x.e)) | ((y.e > 0) & (np.abs(y.v) <= y.e))).sum()
            if both:
                against = (x.v * y.v < 0).sum()
                sure = sure and (against + unsure) / max(1, both - unsure) <= conflict
                maybe = maybe and max(0, against - unsure) / (both + unsure) <= conflict
        for n in names:
            tau = args[n][0]
            found[n] = either(np.full(tau.v.shape, bool(sure)), np.full(tau.v.shape, bool(maybe)), tau)
    return found
