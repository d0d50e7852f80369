"""A second opinion: every construct of a recipe computed from its definition, in float64, with a bound for each entry.

Written from the papers' formulas and from the docstrings; nothing of taskvec computes here, but for the random words of
`dare`, `della` and `random_like`, whose distribution is tested elsewhere. What a bound is, and where it
comes from, is told in bounds.py.
"""

import math
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from fractions import Fraction

import numpy as np
import spans
import sparse_methods as sparse
import spectra
import votes
from bounds import SLACK, Val, as_long, exactly, rounded, total

from recipes import Leaf, Macro, Sum, View, layer_of

METHODS = {
    "ramplus": votes.ramplus,
    "low_rank": spectra.low_rank,
    "iso_c": spectra.iso_c,
    "trim": sparse.trim,
    "breadcrumbs": sparse.breadcrumbs,
    "dare": sparse.dare,
    "della": sparse.della,
    "random_like": sparse.random_like,
    "elect": votes.elect,
    "unified": votes.unified,
    "magmax": votes.magmax,
    "consensus": votes.consensus,
    "ram": votes.ram,
    "sce": votes.sce,
    "nearswap": votes.nearswap,
    "freeze_conflicts": votes.freeze_conflicts,
}


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
        if call.method in spans.METHODS:
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
        grams = {name: spans.gram(vals) for name, vals in args.items()}
        if params.get("scope", spans.DEFAULT_SCOPE.get(call.method, "tensor")) == "model":
            whole = [sum(g[k] for g in grams.values()) for k in (0, 1)]
            grams = dict.fromkeys(grams, whole)
        found = {}
        for name, vals in args.items():
            c, off = spans.sensitive(lambda g: spans.METHODS[call.method](g, params), *grams[name])
            off = off + spans.LAST_STEP.get(call.method, 0) * np.abs(c).max(initial=0)
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
