"""A second opinion: every construct of a recipe computed from its definition, in float64, with a bound for each entry.

A value is a pair (v, e): the exact result is v, and what taskvec computes in float32 lies within v - e .. v + e. The
bounds follow from the arithmetic that docs/numbers.md states, step by step (u = 2**-24, or 2**-53 in float64):

1. A sum of n summands c x, each rounded, is off by at most (n + 2) u sum |c x|. Around a pivot the summands are the
   differences, so where nobody moved e = 0 and the bits must be those of the pivot. Any of the pivots that the rules
   allow counts.
2. A single difference of numbers whose exact difference is a float32 has e = 0.
3. A method passes e on. Where it decides (a threshold, a sign, a vote), an entry within e of the decision may go
   either way: its value is the interval from one outcome to the other. With e = 0 there is one outcome, ties included.

Written from the papers' formulas and from the docstrings; nothing of taskvec computes here, but for the random words of
`dare`, `della` and `random_like`, whose distribution is tested elsewhere.
"""

import itertools
import math
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from fractions import Fraction

import numpy as np
from recipes import Leaf, Macro, Sum, View, layer_of

from taskvec.methods import draws

U32, U64 = 2.0**-24, 2.0**-53
SLACK = 1 + 2.0**-8  # for products of several roundings, which the bounds write as sums
LEAST = 2.0**-149


class Undecided(Exception):
    """Directions cancel out, or nearly so: there is no result, or rounding decides it."""


@dataclass(frozen=True)
class Val:
    """The exact values, and how far float32 may be from them."""

    v: np.ndarray
    e: np.ndarray

    @property
    def lo(self):
        return self.v - self.e

    @property
    def hi(self):
        return self.v + self.e

    @property
    def size(self):
        """Bounds of the magnitudes: (at least, at most)."""
        return np.maximum(np.abs(self.v) - self.e, 0), np.abs(self.v) + self.e


def exactly(v):
    v = np.asarray(v, np.float64)
    return Val(v, np.zeros(v.shape))


def between(lo, hi):
    """Everything from lo to hi."""
    return Val((lo + hi) / 2, np.where(lo == hi, 0, (hi - lo) / 2 * SLACK))


def either(sure, maybe, val):
    """val where it is sure, 0 where it may not be, and what lies between them elsewhere."""
    unsure = maybe & ~sure
    v = np.where(sure, val.v, np.where(unsure, val.v / 2, 0))
    return Val(v, np.where(sure, val.e, np.where(unsure, np.abs(val.v) / 2 + val.e, 0)))


def rounded(val):
    """The same once it stands in a float32 array."""
    with np.errstate(over="ignore"):
        inexact = (val.e > 0) | (val.v.astype(np.float32).astype(np.float64) != val.v)
    return Val(val.v, val.e + np.where(inexact, U32 * np.abs(val.v), 0))


@dataclass
class Source:
    """A file as the oracle sees it: name -> Val, dtypes as stored; tensors that are no floats by themselves."""

    mass: int
    values: dict
    dtypes: dict
    others: dict = field(default_factory=dict)
    partial: bool = False

    @property
    def shapes(self):
        return {n: v.v.shape for n, v in self.values.items()} | {n: a.shape for n, a in self.others.items()}


class Oracle:
    """Evaluates expressions over sources."""

    def __init__(self, sources, model_names):
        self.sources, self.model_names, self._results = sources, list(model_names), {}

    # ---- what an expression is made of
    def partial(self, node):
        """Whether an expression names only some tensors of a model: adapters alone."""
        if isinstance(node, Leaf):
            return self.sources[node.name].partial
        return all(self.partial(child) for child in children(node))

    def mass(self, node):
        if isinstance(node, Leaf):
            return self.sources[node.name].mass
        if isinstance(node, Sum):
            return sum(Fraction(c) * self.mass(child) for c, factors, child in node.terms if not factors)
        return self.mass(children(node)[0])

    def shapes(self, node):
        """Name -> shape, in the order of the file."""
        if isinstance(node, Leaf):
            return self.sources[node.name].shapes
        if isinstance(node, View):
            return {new: self.shapes(node.args[k])[old] for new, (k, old) in self.moved(node).items()}
        whole = [child for child in children(node) if not self.partial(child)]
        found = {}
        for child in whole[:1] or children(node):
            found |= self.shapes(child)
        return found

    def moved(self, view):
        """New name -> (argument, its name)."""
        every = [[*self.shapes(a)] for a in view.args]
        first = every[0]
        if view.kind == "rename":
            return {replaced(dict(view.params), name): (0, name) for name in first}
        if view.kind == "select":
            return {n: (0, n) for n in first if any(fnmatchcase(n, p) for p in view.params)}
        if view.kind == "join":
            return {n: (k, n) for k, names in enumerate(every) for n in names}
        if view.kind == "take_layers":
            start, stop = view.params
            return {renumbered(n, -start): (0, n) for n in first if not layer_of(n) or start <= layer_of(n)[1] < stop}
        assert view.kind == "stack"
        found, offset = {}, 0
        for k, names in enumerate(every):
            for n in names:
                if layer_of(n):
                    found[renumbered(n, offset)] = (k, n)
                elif k == (0 if "embed" in n or "wte" in n or "wpe" in n else len(every) - 1):
                    found[n] = (k, n)
            offset += 1 + max(layer_of(n)[1] for n in names if layer_of(n))
        return found

    def numbers(self, node, name, depths=None):
        """(leaf or call, its tensor) -> coefficient, for one tensor: what the expression sums."""
        if isinstance(node, View):
            k, old = self.moved(node)[name]
            return self.numbers(node.args[k], old)
        if isinstance(node, Macro):
            return self.numbers(node.meaning, name, depths)
        if not isinstance(node, Sum):
            return {(node, name): Fraction(1)} if name in self.shapes(node) else {}
        if depths is None:
            depths = depth_of(self.model_names if self.partial(node) else self.shapes(node))
        found = {}
        for c, factors, child in node.terms:
            number = math.prod((factor_at(f, name, depths) for f in factors), start=Fraction(c))
            if number and name in self.shapes(child):
                for key, inner in self.numbers(child, name, depths).items():
                    found[key] = found.get(key, 0) + number * inner
        return {key: number for key, number in found.items() if number}

    # ---- values
    def value(self, node, name, wide=False):
        """One tensor of an expression, as a sum is computed; `wide` in float64."""
        numbers = self.numbers(node, name)
        if not numbers:
            return exactly(np.zeros(self.shapes(node)[name]))
        terms = [(c, self.operand(*key), bool(self.mass(key[0]))) for key, c in numbers.items()]
        return total(terms, wide or self.has_doubles(numbers))

    def has_doubles(self, numbers):
        return any(isinstance(k, Leaf) and self.sources[k.name].dtypes[n] == "F64" for k, n in numbers)

    def operand(self, node, name):
        if isinstance(node, Leaf):
            return self.sources[node.name].values[name]
        return self.results(node)[name]

    def argument(self, node, name):
        """What a method sees: float32 arrays; zeros of what an adapter does not name."""
        if name not in self.shapes(node):
            return None
        return rounded(self.value(node, name))

    def results(self, call):
        """Name -> Val of a method's call, which is a float32 array."""
        if call not in self._results:
            self._results[call] = self._computed(call)
        return self._results[call]

    def _computed(self, call):
        shapes = {n: s for n, s in self.shapes(call).items() if self.floating(call, n)}
        args = {}
        for name, shape in shapes.items():
            zero = exactly(np.zeros(shape))
            args[name] = [zero if (v := self.argument(a, name)) is None else v for a in call.args]
        params = dict(call.params)
        if call.method in COMBINED:
            return self._combined(call, args, params)
        entries = sum(math.prod(self._whole[n]) for n in self._whole) if self.partial(call) else 0
        return METHODS[call.method](args, params, entries)

    @property
    def _whole(self):
        return {n: s for n, s in self.model_shapes.items() if n in self.model_floats}

    model_shapes, model_floats = {}, ()  # of the model that adapters stand beside

    def floating(self, node, name):
        if isinstance(node, Leaf):
            return name in self.sources[node.name].values
        if isinstance(node, View):
            k, old = self.moved(node)[name]
            return self.floating(node.args[k], old)
        return next(self.floating(child, name) for child in children(node) if name in self.shapes(child))

    def _combined(self, call, args, params):
        """Methods that give coefficients from the Gram matrix of their arguments."""
        grams = {name: gram(vals) for name, vals in args.items()}
        if params.get("scope", DEFAULT_SCOPE.get(call.method, "tensor")) == "model":
            whole = [sum(g[k] for g in grams.values()) for k in (0, 1)]
            grams = dict.fromkeys(grams, whole)
        found = {}
        for name, vals in args.items():
            c, off = sensitive(lambda g: COMBINED[call.method](g, params), *grams[name])
            off = off + LAST_STEP.get(call.method, 0) * np.abs(c).max(initial=0)
            numbers = {}
            for number, node in zip(c, call.args, strict=True):
                for key, inner in self.numbers(node, name).items():
                    numbers[key] = numbers.get(key, 0) + np.longdouble(number) * as_long(inner)
            terms = [(n, self.operand(*key), bool(self.mass(key[0]))) for key, n in numbers.items()]
            made = total(terms, False) if terms else exactly(np.zeros(vals[0].v.shape))
            # The coefficients are float64, but their sum, of which the pivot's product is made, is rounded, too.
            more = sum(o * (np.abs(x.v) + x.e) for o, x in zip(off, vals, strict=True))
            found[name] = rounded(Val(made.v, made.e * SLACK + more))
        return found


def children(node):
    if isinstance(node, Sum):
        return [child for *_, child in node.terms]
    if isinstance(node, Macro):
        return [node.meaning]
    return [*node.args]


def as_long(number):
    number = Fraction(number)
    return np.longdouble(number.numerator) / np.longdouble(number.denominator)


# ---- names and coefficients ----------------------------------------------------------------------------------------
def renumbered(name, by):
    at = layer_of(name)
    if not at:
        return name
    before = f"{at[0]}." if at[0] else ""
    rest = name[len(before) :].partition(".")
    return f"{before}{at[1] + by}{rest[1]}{rest[2]}"


def replaced(table, name):
    for old, new in table.items():
        before, star, after = old.partition("*")
        if name == old or (star and name.startswith(before) and name.endswith(after) and len(name) >= len(old) - 1):
            return new.replace("*", name[len(before) : len(name) - len(after)]) if star else new
    return name


def depth_of(names):
    """Name -> l / (L - 1) within its stack, None outside of the layers."""
    places = {n: layer_of(n) for n in names}
    last = {}
    for at in places.values():
        if at:
            last[at[0]] = max(at[1], last.get(at[0], 0))
    return {n: Fraction(at[1], last[at[0]] or 1) if at else None for n, at in places.items()}


def factor_at(factor, name, depths):
    kind, *rest = factor
    if kind in ("only", "without"):
        return Fraction(any(fnmatchcase(name, p) for p in rest) == (kind == "only"))
    if kind == "per":
        return next((c for p, c in rest if fnmatchcase(name, p)), Fraction(0))
    points, outside = rest
    if (depth := depths[name]) is None:
        return outside
    at = depth * (len(points) - 1)
    k = min(int(at), max(0, len(points) - 2))
    return points[k] if len(points) == 1 else points[k] + (at - k) * (points[k + 1] - points[k])


# ---- sums ----------------------------------------------------------------------------------------------------------
def total(terms, wide=False):
    """sum c x around a pivot. terms: (c, Val, whether it is a point). See the top of this file, and docs/numbers.md."""
    u = U64 if wide else U32
    numbers = [(as_long(c) if isinstance(c, Fraction | int) else c, x, point, c) for c, x, point in terms]
    given = sum(abs(float(c)) * x.e for c, x, *_ in numbers)
    points = [t for t in numbers if t[2]]
    vectors = [t for t in numbers if not t[2]]
    v = sum(c * x.v.astype(np.longdouble) for c, x, *_ in vectors)
    if points:
        first = points[0][1].v.astype(np.longdouble)
        v = v + sum(c * (x.v - first) for c, x, *_ in points) + _mass(points) * first
    if len(points) < 2:
        e = small([(c, x.v) for c, x, *_ in numbers], u)
    else:
        e = np.max([_around(p, a, points, vectors, v, u) for p, a in _pivots(points)], axis=0)
    return Val(np.asarray(v, np.float64), e * SLACK + given * SLACK)


def _mass(points):
    """What the numbers of points add up to; of floats, whose sum is rounded, 0 or 1 if it is that."""
    mass = sum(t[3] for t in points)
    if isinstance(mass, Fraction | int):
        return as_long(mass)
    return next((np.longdouble(whole) for whole in (0, 1) if abs(mass - whole) < 2.0**-48), mass)


def _pivots(points):
    """The (pivot, point that is added as it is) that the rules allow."""
    mass = sum(t[3] for t in points)
    near = (lambda c: c == mass) if isinstance(mass, Fraction | int) else (lambda c: abs(c - mass) < 1e-9)
    aparts = [t for t in points if near(t[3])] if len(points) > 2 else []
    floats = not isinstance(mass, Fraction | int)
    for apart in aparts + [None] * (floats or not aparts):
        around = [t for t in points if t is not apart]
        largest = max(abs(t[0]) for t in around)
        for pivot in around:
            if abs(pivot[0]) >= largest * (1 - 1e-9):
                yield pivot, apart


def _around(pivot, apart, points, vectors, v, u):
    around = [t for t in points if t is not apart and t is not pivot]
    base = pivot[1].v.astype(np.longdouble)
    summands = [(c, x.v - base) for c, x, *_ in around] + [(c, x.v) for c, x, *_ in vectors]
    e = small(summands, u)
    moved = sum(abs(c * d) for c, d in summands) > 0
    mass = _mass(points) if apart is None else apart[0]
    last = pivot[1].v if apart is None else apart[1].v
    if not mass:
        return e
    scaled = 0 if abs(mass) == 1 else 2 * u * np.abs(mass * last)
    return np.asarray(e + np.where(moved, u * np.abs(v), 0) + scaled, np.float64)


def small(summands, u):
    """How far a sum of products is off, each product and each addition rounded."""
    whole = np.asarray(sum(abs(c * x) for c, x in summands), np.float64)
    if len(summands) == 1 and abs(summands[0][0]) == 1:
        exact = np.asarray(summands[0][1])
        kind = np.float64 if u == U64 else np.float32
        with np.errstate(over="ignore"):
            return np.where(exact.astype(kind).astype(np.longdouble) == exact, 0, u * whole)
    return np.where(whole > 0, (len(summands) + 2) * (u * whole + LEAST), 0)


# ---- the whole of an output ----------------------------------------------------------------------------------------
PRECISION = {"F64": (53, -1022, 1023), "F32": (24, -126, 127), "F16": (11, -14, 15), "BF16": (8, -126, 127)}


def nearest(x, dtype):
    """Float64 numbers rounded once, to nearest even, to a dtype."""
    bits, low, _ = PRECISION[dtype]
    if dtype == "F64":
        return x
    _, power = np.frexp(x)
    step = np.maximum(power - 1, low) - (bits - 1)
    return np.ldexp(np.rint(np.ldexp(x, -step)), step)


# ---- one vector to a sparser one -----------------------------------------------------------------------------------
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


def times(val, low, high):
    middle, half = (low + high) / 2, (high - low) / 2
    v = val.v * middle
    return Val(v, (val.e * high + np.abs(val.v) * half + 2 * U32 * np.abs(v)) * SLACK)


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
        p = density - epsilon / 2 + epsilon * ranks / max(1, width - 1)
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


# ---- several vectors to one, entry by entry -------------------------------------------------------------------------
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
    found = {}
    for name, vals in args.items():
        votes = _summed(vals)
        lows, highs = [], []
        for sign, possible in ((1, votes.hi > 0), (-1, votes.lo < 0)):
            ends = [np.max([np.zeros(votes.v.shape), *(sign * x.v + d * x.e for x in vals)], axis=0) for d in (-1, 1)]
            lows.append(np.where(possible, np.min([sign * x for x in ends], axis=0), np.inf))
            highs.append(np.where(possible, np.max([sign * x for x in ends], axis=0), -np.inf))
        nobody = (votes.lo <= 0) & (votes.hi >= 0)
        lows.append(np.where(nobody, 0.0, np.inf))
        highs.append(np.where(nobody, 0.0, -np.inf))
        found[name] = between(np.min(lows, axis=0), np.max(highs, axis=0))
    return found


def magmax(args, params, entries):
    found = {}
    for name, vals in args.items():
        sizes = [x.size for x in vals]
        possible = [
            ~np.any(
                [np.zeros(vals[0].v.shape, bool)]
                + [sizes[j][0] >= sizes[k][1] for j in range(k)]
                + [sizes[j][0] > sizes[k][1] for j in range(k + 1, len(vals))],
                axis=0,
            )
            for k in range(len(vals))
        ]
        lo = np.min([np.where(p, x.lo, np.inf) for p, x in zip(possible, vals, strict=True)], axis=0)
        hi = np.max([np.where(p, x.hi, -np.inf) for p, x in zip(possible, vals, strict=True)], axis=0)
        found[name] = between(lo, hi)
    return found


def consensus(args, params, entries):
    k, lam, found = float(params.get("k", 2)), float(params.get("lam", 0.6)), {}
    for name, vals in args.items():
        whole = _summed(vals)
        least = most = 0
        for x in vals:
            lo, hi = x.size
            other = np.abs(whole.v - x.v)
            off = whole.e + x.e + 3 * U32 * other
            off = np.where((whole.e == 0) & (x.e == 0) & (other == 0), 0, off)
            least = least + (lo >= lam * (other + off) * (1 + 2 * U32))
            most = most + (hi >= lam * np.maximum(other - off, 0) * (1 - 2 * U32))
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
            assert sum(lows) > 0, "whether a vector is zero must be known"
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


# ---- singular values: how far they and their vectors turn is bounded by the gaps (Davis & Kahan 1970; Li 1995) -------
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


METHODS = {
    "ramplus": ramplus, "low_rank": low_rank, "iso_c": iso_c,
    "trim": trim, "breadcrumbs": breadcrumbs, "dare": dare, "della": della, "random_like": random_like,
    "elect": elect, "unified": unified, "magmax": magmax, "consensus": consensus, "ram": ram, "sce": sce,
    "nearswap": nearswap, "freeze_conflicts": freeze_conflicts,
}  # fmt: skip


# ---- combinations by angles and norms ------------------------------------------------------------------------------
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


COMBINED = {
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
