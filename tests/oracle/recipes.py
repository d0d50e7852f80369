"""Random expressions as data: what they say as a recipe's text, and what a macro stands for."""

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction

LAYER = re.compile(r"^(?:(.*?)\.)?(\d+)(?:\.|$)")


def layer_of(name):
    """ "model.layers.3.mlp.up" -> ("model.layers", 3): the first number in a name."""
    found = LAYER.match(name)
    return (found[1] or "", int(found[2])) if found else None


# ---- what an expression is -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Leaf:
    """A source, by the name that the recipe gives it."""

    name: str

    def __str__(self):
        return self.name


@dataclass(frozen=True)
class Sum:
    """sum of coefficient * factors * child. terms: (Fraction, factors, child); a factor is ("only", "*.mlp.*"), ..."""

    terms: tuple

    def __str__(self):
        return " + ".join("*".join([number(c), *map(factor, fs), f"({child})"]) for c, fs, child in self.terms)


@dataclass(frozen=True)
class Call:
    """A method: its arguments, and its parameters as pairs."""

    method: str
    args: tuple
    params: tuple = ()

    def __str__(self):
        return f"{self.method}({', '.join([*map(str, self.args), *(f'{k}={written(v)}' for k, v in self.params)])})"


@dataclass(frozen=True)
class View:
    """The same numbers under other names. params: those of the kind."""

    kind: str
    args: tuple
    params: tuple = ()

    def __str__(self):
        inside = ", ".join(map(str, self.args))
        if self.kind == "rename":
            return f"rename({inside}, {json.dumps(dict(self.params))})"
        return f"{self.kind}({', '.join([inside, *map(written, self.params)])})"


@dataclass(frozen=True)
class Macro:
    """A name for an expression: `ties(a, b)` stands for `elect(trim(a), trim(b))`."""

    text: str
    meaning: object

    def __str__(self):
        return self.text


class Knob(Fraction):
    """A number that the recipe leaves open, under a name."""

    name: str


def knob(name, value):
    found = Knob(value)
    found.name = name
    return found


def number(c):
    """A rational, as a recipe writes it: 3, -0.25, (1/3), or the name of a knob."""
    if isinstance(c, Knob):
        return c.name
    c = Fraction(c)
    if c.denominator == 1:
        return str(c.numerator)
    short = f"{float(c):.10g}"
    return short if Fraction(short) == c and "e" not in short else f"({c.numerator}/{c.denominator})"


def written(value):
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(number, value))}{',' * (len(value) == 1)})"
    return number(value)


def factor(parts):
    kind, *rest = parts
    if kind == "per":
        return f"per({{{', '.join(f'{json.dumps(p)}: {number(c)}' for p, c in rest)}}})"
    if kind == "layers":
        points, outside = rest
        return f"layers({', '.join(map(number, points))}, outside={number(outside)})"
    return f"{kind}({', '.join(map(json.dumps, rest))})"


def leaves(node):
    """Names of the sources, in the order of the text."""
    if isinstance(node, Leaf):
        return [node.name]
    inner = (
        [node.meaning]
        if isinstance(node, Macro)
        else [t[2] for t in node.terms]
        if isinstance(node, Sum)
        else node.args
    )
    return [name for child in inner for name in leaves(child)]


# ---- random ones ---------------------------------------------------------------------------------------------------
class Writer:
    """Draws expressions over a world: its base, its models, and its vectors in the form that each has there.

    vectors: name -> node of mass 0. names: all tensors of the base, floats: those with arithmetic.
    """

    def __init__(self, rng, base, models, vectors, names, floats):
        self.rng, self.base, self.models, self.vectors = rng, base, models, vectors
        self.names, self.floats = names, floats

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def chance(self, p):
        return self.rng.random() < p

    def rational(self, low=-2, high=2):
        """Few digits, thirds among them, never 0."""
        d = int(self.pick(1, 2, 4, 5, 10, 3, 7, 20, 100))
        n = int(self.rng.integers(low * d, high * d + 1))
        return Fraction(n or 1, d)

    def pattern(self):
        """Fits at least one tensor with arithmetic."""
        name = self.pick(*self.floats)
        parts = name.split(".")
        if self.chance(0.3):
            return name
        if self.chance(0.4) and len(parts) > 1:
            return f"*{parts[-2]}.{parts[-1]}"
        if layer_of(name) and self.chance(0.5):
            return name.replace(f".{layer_of(name)[1]}.", ".[0-9].", 1)
        return f"{parts[0]}*"

    def factors(self):
        """Mostly none, else a filter or a gradient."""
        if self.chance(0.65):
            return ()
        kind = self.pick("only", "without", "per", "layers")
        if kind == "layers":
            points = tuple(self.rational(0, 2) for _ in range(self.rng.integers(1, 4)))
            return (("layers", points, self.rational(0, 1)),)
        if kind == "per":
            table = {self.pattern(): self.rational() for _ in range(self.rng.integers(1, 3))} | {"*": self.rational()}
            rows = [p for k, p in enumerate(table) if self.is_reached(p, [*table][:k])]
            return (("per", *((p, table[p]) for p in rows)),)
        return ((kind, *dict.fromkeys(self.pattern() for _ in range(self.rng.integers(1, 3)))),)

    def is_reached(self, pattern, before):
        """Whether a row of `per` counts for a tensor; the one for the rest always may stand there."""
        free = [n for n in self.floats if not any(fnmatchcase(n, p) for p in before)]
        return pattern == "*" or any(fnmatchcase(n, pattern) for n in free)

    def vector(self, depth=2):
        """An expression of mass 0."""
        if depth <= 0 or self.chance(0.35):
            return self.pick(*self.vectors)
        if self.chance(0.25):
            return Sum(
                tuple((self.rational(), self.factors(), self.vector(depth - 1)) for _ in range(self.pick(1, 2, 3)))
            )
        return self.method(depth)

    def method(self, depth):
        """A call of a method of vectors."""
        name = self.pick(
            "trim", "trim", "breadcrumbs", "dare", "della", "random_like", "elect", "elect", "ties", "dare_ties",
            "unified", "magmax", "consensus", "ram", "sce", "nearswap", "freeze_conflicts", "slerp", "nuslerp",
            "multislerp", "stock", "metagpt", "norm_matched", "lines", "della_ties", "ramplus", "karcher",
            "geometric_median", "low_rank", "iso_c",
        )  # fmt: skip
        make = getattr(self, f"_{name}", None)
        if make:
            return make(depth)
        args = tuple(self.vector(depth - 1) for _ in range(self.rng.integers(2, 4)))
        return Call(name, args, tuple(self.parameters(name, len(args)).items()))

    def parameters(self, name, n):
        found = {}
        if name in ("elect",):
            found = {
                "reduce": self.pick("mean", "sum"),
                "vote": self.pick("sum", "count"),
                "tie": self.pick("none", "plus"),
            }
            if found["reduce"] == "mean" and self.chance(0.4):
                found["weights"] = tuple(Fraction(int(self.rng.integers(1, 9)), 4) for _ in range(n))
        elif name == "consensus":
            found = {
                "k": int(self.rng.integers(1, n + 1)),
                "lam": self.pick(Fraction(1, 5), Fraction(3, 5), Fraction(1)),
            }
        elif name in ("magmax", "unified"):
            found = {"tie": self.pick("first", "last") if name == "magmax" else self.pick("none", "minus")}
        elif name == "ram":
            found = {"epsilon": self.pick(Fraction(1, 10**5), Fraction(1, 10**4), Fraction(0))}
        elif name == "ramplus":
            found = {"r": self.pick(Fraction(1, 10), Fraction(1, 2)), "alpha": self.pick(Fraction(1, 5), Fraction(1))}
            found |= {"epsilon": self.pick(Fraction(1, 10**5), Fraction(0)), "scope": self.pick("model", "tensor")}
        elif name == "karcher":
            found = {"scope": self.pick("tensor", "model")}
        elif name == "geometric_median":
            found = {"scope": self.pick("tensor", "model"), "max_iter": self.pick(1, 3, 100)}
        elif name == "sce":
            found = {"tie": self.pick("none", "plus")}
        elif name in ("stock", "metagpt", "norm_matched"):
            found = {"scope": self.pick("tensor", "model")}
        elif name == "multislerp":
            found = {"scope": self.pick("tensor", "model")}
            if self.chance(0.5):
                found["weights"] = tuple(Fraction(int(self.rng.integers(1, 9)), 4) for _ in range(n))
        return {k: v for k, v in found.items() if self.chance(0.7)}

    def density(self):
        return self.pick(Fraction(1, 5), Fraction(1, 2), Fraction(9, 10), Fraction(1, 100), Fraction(1, 3), Fraction(1))

    def seed(self):
        return int(self.rng.integers(0, 1000))

    def _trim(self, depth):
        params = {
            "density": self.density(), "scope": self.pick("model", "tensor"), "ties": self.pick("all", "all", "first"),
            "rescale": self.pick("none", "none", "l1"), "least": self.pick(0, 0, 1, 3),
        }  # fmt: skip
        return Call("trim", (self.vector(depth - 1),), tuple(params.items()))

    def _breadcrumbs(self, depth):
        gammas = Fraction(1, 100), Fraction(1, 10), Fraction(0), Fraction(1, 2)
        params = {
            "density": self.density(), "gamma": self.pick(*gammas),
            "scope": self.pick("tensor", "model"), "outliers": self.pick("all", "spare"),
            "ties": self.pick("all", "all", "first"), "rescale": self.pick("none", "none", "l1"),
        }  # fmt: skip
        return Call("breadcrumbs", (self.vector(depth - 1),), tuple(params.items()))

    def _dare(self, depth):
        params = {
            "drop": self.pick(Fraction(1, 2), Fraction(9, 10), Fraction(0), Fraction(1, 3)), "seed": self.seed(),
            "rescale": self.pick("expected", "l1", "none"),
        }  # fmt: skip
        return Call("dare", (self.vector(depth - 1),), tuple(params.items()))

    def _della(self, depth):
        params = {
            "density": self.pick(Fraction(1, 2), Fraction(7, 10), Fraction(3, 10)),
            "epsilon": self.pick(Fraction(14, 100), Fraction(1, 2), Fraction(0)), "seed": self.seed(),
            "rescale": self.pick("expected", "l1", "none"),
        }  # fmt: skip
        return Call("della", (self.vector(depth - 1),), tuple(params.items()))

    def _low_rank(self, depth):
        return Call("low_rank", (self.vector(depth - 1),), (("rank", self.pick(1, 2, 4)),))

    def _random_like(self, depth):
        return Call("random_like", (self.vector(depth - 1),), (("seed", self.seed()),))

    def _pair(self, name, depth, params):
        return Call(name, (self.vector(depth - 1), self.vector(depth - 1)), tuple(params.items()))

    def _nearswap(self, depth):
        return self._pair("nearswap", depth, {"t": self.pick(Fraction(1, 10**4), Fraction(1, 10**5), Fraction(1, 100))})

    def _freeze_conflicts(self, depth):
        limits = {
            "cosine": self.pick(Fraction(0), Fraction(-1, 2), Fraction(1, 20)),
            "conflict": self.pick(1, Fraction(1, 2)),
        }
        return self._pair("freeze_conflicts", depth, limits | {"scope": self.pick("layer", "tensor")})

    def _slerp(self, depth):
        t = self.pick(Fraction(1, 2), Fraction(1, 10), Fraction(1), Fraction(2, 3))
        return Call("slerp", (self.pick(*self.vectors), self.pick(*self.vectors)), (("t", t), ("scope", "model")))

    def _nuslerp(self, depth):
        weights = tuple(Fraction(int(self.rng.integers(1, 9)), 4) for _ in range(2))
        return Call("nuslerp", (self.pick(*self.vectors), self.pick(*self.vectors)), (("weights", weights),))

    def _lines(self, depth):
        inner, alpha, beta = self.vector(depth - 1), Fraction(1, 10), self.pick(Fraction(9, 10), Fraction(1, 2))
        gradient = ("layers", (alpha, alpha + beta), alpha)
        return Macro(f"lines({inner}, alpha={number(alpha)}, beta={number(beta)})", Sum(((1, (gradient,), inner),)))

    def _many(self, depth):
        return tuple(self.vector(depth - 1) for _ in range(self.rng.integers(2, 4)))

    def _elected(self, name, args, each, given):
        how = {"reduce": self.pick("mean", "sum"), "vote": self.pick("sum", "count")}
        inside = ", ".join([*map(str, args), *(f"{k}={written(v)}" for k, v in (given | how).items())])
        return Macro(f"{name}({inside})", Call("elect", tuple(each), tuple(how.items())))

    def _ties(self, depth):
        args, given = self._many(depth), {"density": self.density(), "scope": self.pick("model", "tensor")}
        return self._elected("ties", args, [Call("trim", (a,), tuple(given.items())) for a in args], given)

    def _dare_ties(self, depth):
        args, drop, seed = self._many(depth), self.pick(Fraction(1, 2), Fraction(4, 5)), self.seed()
        each = [Call("dare", (a,), (("drop", drop), ("seed", seed + k))) for k, a in enumerate(args)]
        return self._elected("dare_ties", args, each, {"drop": drop, "seed": seed})

    def _della_ties(self, depth):
        args, density, seed = self._many(depth), self.pick(Fraction(1, 2), Fraction(7, 10)), self.seed()
        each = [Call("della", (a,), (("density", density), ("seed", seed + k))) for k, a in enumerate(args)]
        return self._elected("della_ties", args, each, {"density": density, "seed": seed})

    # ---- whole expressions
    def with_knob(self, node):
        """The same sum, one of its numbers left open."""
        terms = list(node.terms)
        k = int(self.rng.integers(len(terms)))
        terms[k] = (knob("lam", terms[k][0]), *terms[k][1:])
        return Sum(tuple(terms))

    def verb(self, uris, models):
        """A verb of the command line, and the expression that it stands for. uris: of each vector; models: by name."""
        base, scale, taus = self.base, self.rational(0, 2), self.vectors
        kind, ground = self.pick("diff", "negate", "add", "add", "analogy"), models["base"]
        if kind == "diff" and self.models:
            m = self.models[0]
            return ["diff", models[m.name], ground], Sum(((1, (), m), (-1, (), base)))
        if kind == "negate":
            tau = self.pick(*taus)
            return ["negate", ground, uris[tau], "--scale", scale], Sum(((1, (), base), (-scale, (), tau)))
        if kind == "analogy":
            a, b, c = (self.pick(*taus) for _ in range(3))
            given = ["analogy", ground, "--a", uris[a], "--b", uris[b], "--c", uris[c], "--scale", scale]
            return given, Sum(((1, (), base), (scale, (), Sum(((1, (), c), (1, (), b), (-1, (), a))))))
        given = ["add", ground, *(uris[tau] for tau in taus)]
        if len(taus) > 1 and self.chance(0.4):
            return given, Sum(((1, (), base), (1, (), Call("norm_matched", tuple(taus)))))
        return [*given, "--scale", scale], Sum(((1, (), base), *((scale, (), tau) for tau in taus)))

    def model(self):
        """An expression of mass 1."""
        kind = self.pick(
            "linear", "linear", "method", "method", "method", "average", "fusion", "analogy", "patch", "method"
        )
        if kind == "average" and len(self.models) > 1:
            return self.average()
        if kind == "fusion" and self.models:
            return self.fusion()
        if kind == "patch" and self.models:
            patterns, m = tuple(dict.fromkeys(self.pattern() for _ in range(2))), self.pick(*self.models)
            step = Sum(((1, (), m), (-1, (), self.base)))
            inside = ", ".join([str(self.base), str(m), *map(json.dumps, patterns)])
            return Macro(f"patch({inside})", Sum(((1, (), self.base), (1, (("only", *patterns),), step))))
        if kind == "analogy" and len(self.models) > 1:
            a, b = self.models[:2]
            return Sum(((1, (), a), (self.rational(), (), Sum(((1, (), b), (-1, (), self.base))))))
        taus = [self.vector(0) for _ in range(self.rng.integers(1, 4))] if kind == "linear" else [self.method(2)]
        return Sum(((1, (), self.base), *((self.rational(), self.factors(), tau) for tau in taus)))

    def average(self):
        models = [self.base, *self.models] if self.chance(0.5) else self.models
        shares = [Fraction(int(self.rng.integers(1, 8))) for _ in models]
        return Sum(tuple((s / sum(shares), (), m) for s, m in zip(shares, models, strict=True)))

    def fusion(self):
        """Methods of models."""
        m, name = self.pick(*self.models), self.pick("nearswap", "slerp", "nuslerp", "multislerp", "model_stock")
        if name == "model_stock" and len(self.models) > 1:
            taus = tuple(Sum(((1, (), x), (-1, (), self.base))) for x in self.models)
            text = f"model_stock({', '.join(map(str, [self.base, *self.models]))})"
            return Macro(text, Sum(((1, (), self.base), (1, (), Call("stock", taus)))))
        if name == "slerp":
            return Call("slerp", (self.base, m), (("t", self.pick(Fraction(1, 2), Fraction(1, 5))), ("scope", "model")))
        if name == "nuslerp":
            return Call("nuslerp", (self.base, m), (("weights", (Fraction(1), Fraction(3))),))
        if name == "multislerp" and len(self.models) > 1:
            return Call("multislerp", (self.base, *self.models))
        return Call("nearswap", (self.base, m), (("t", self.pick(Fraction(1, 10**4), Fraction(1, 10**3))),))

    def viewed(self, node, stacks):
        """Perhaps under other names, or in other layers. stacks: how many layers each has."""
        kind = self.pick("rename", "select", "join", "take_layers", "stack")
        if kind == "rename":
            name = self.pick(*self.floats)
            first = name.split(".")[0]
            table = ((f"{first}.*", f"renamed.{first}.*"),)
            return View("rename", (node,), table if "." in name else ((name, f"new_{name}"),))
        if kind == "select":
            return View("select", (node,), (self.pattern(), self.pattern()))
        if kind == "join":
            first = self.floats[0].split(".")[0]
            inside, outside = (
                [n for n in self.names if n.startswith(first)],
                [n for n in self.names if not n.startswith(first)],
            )
            if inside and outside:
                tail = tuple(outside)
                return View("join", (View("select", (node,), (f"{first}*",)), View("select", (node,), tail)))
        if len(stacks) == 1 and (count := next(iter(stacks.values()))) > 1:
            start = int(self.rng.integers(0, count - 1))
            stop = int(self.rng.integers(start + 1, count + 1))
            part = View("take_layers", (node,), (start, stop))
            return part if kind == "take_layers" else View("stack", (node, part))
        return node
