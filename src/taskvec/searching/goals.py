"""Objectives and constraints of a search: arithmetic on metrics, written as text. They are parsed and never executed.

    mean("*")                                 # of all metrics
    worst(r8, movie, tweets)
    mean(r8/0.92, movie/0.83)                 # normalised accuracy, by known references
    normalised("*", own)                      # the mean of metric / own.metric over the metrics
    control >= 0.95*base.control              # a constraint, against a reference model
    ppl <= base.ppl + 0.5

A name is a metric, and `base.ppl` is a metric of a reference model. A text is a metric whose name is not a Python name;
where a function takes several metrics, a text is a pattern (`"r8.*"`). The functions are mean, worst (the least), best
(the greatest) and normalised.
"""

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from taskvec.errors import RecipeError, did_you_mean

Table = Mapping[str, Mapping[str, float]]  # model ("" is the candidate) -> its metrics
OPERATORS: Mapping[type, Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
COMPARISONS: Mapping[type, Callable[[float, float], bool]] = {
    ast.GtE: operator.ge, ast.LtE: operator.le, ast.Gt: operator.gt, ast.Lt: operator.lt,
}  # fmt: skip
FUNCTIONS: Mapping[str, Callable[[list[float]], float]] = {
    "mean": lambda values: math.fsum(values) / len(values), "worst": min, "best": max,
}  # fmt: skip
SPECIAL = "normalised"


@dataclass(frozen=True, slots=True)
class Goal:
    """An objective, or a constraint if its text is a comparison."""

    text: str
    tree: ast.expr

    @property
    def constrains(self) -> bool:
        """Whether it is a comparison, that is, a constraint."""
        return isinstance(self.tree, ast.Compare)

    def references(self) -> Iterator[str]:
        """The names of the reference models in it."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.value, ast.Name):
                yield node.value.id
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == SPECIAL:
                yield from (a.id for a in node.args[1:] if isinstance(a, ast.Name))

    def value(self, table: Table) -> float:
        """Its value for a candidate. Raises RecipeError for an unknown metric and for a division by zero."""
        return _number(self, self.tree, table)

    def holds(self, table: Table) -> bool:
        """Whether the comparison is true; a NaN makes it false."""
        assert isinstance(self.tree, ast.Compare)
        return COMPARISONS[type(self.tree.ops[0])](*self._sides(table))

    def broken(self, table: Table) -> float:
        """By how much the comparison is not true; 0 if it is."""
        assert isinstance(self.tree, ast.Compare)
        return 0.0 if self.holds(table) else abs(operator.sub(*self._sides(table))) or math.ulp(0.0)

    def _sides(self, table: Table) -> tuple[float, float]:
        assert isinstance(self.tree, ast.Compare)
        return _number(self, self.tree.left, table), _number(self, self.tree.comparators[0], table)


def objective(text: str) -> Goal:
    """The objective that a text stands for: a number to be made large or small. Raises RecipeError."""
    goal = _parsed(text)
    if goal.constrains:
        raise RecipeError(f'{text!r} is a constraint; an objective is a number, such as mean("*")')
    return goal


def constraint(text: str) -> Goal:
    """The constraint that a text stands for: a comparison. Raises RecipeError."""
    goal = _parsed(text)
    if not goal.constrains:
        raise RecipeError(f"{text!r} is no constraint: compare with <= or >=, as in ppl <= base.ppl + 0.5")
    return goal


def _parsed(text: str) -> Goal:
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RecipeError(f"{text!r} cannot be read: {getattr(error, 'msg', None) or error}") from None
    goal = Goal(text.strip(), tree)
    try:
        _check(goal, tree, top=True)
    except RecursionError:
        raise RecipeError(f"{text!r:.60} is nested too deeply") from None
    return goal


def _check(goal: Goal, node: ast.AST, top: bool = False) -> None:
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]) if top and type(op) in COMPARISONS:
            _check(goal, left)
            _check(goal, right)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            _check(goal, left)
            _check(goal, right)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=inner):
            _check(goal, inner)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS and args:
            for arg in args:
                _check(goal, arg)
        case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str()), ast.Name()], keywords=[]) if (
            name == SPECIAL
        ):
            pass
        case ast.Constant(value=int() | float() | str() as value) if not isinstance(value, bool):
            pass
        case (
            ast.Name()
            | ast.Attribute(value=ast.Name())
            | ast.Subscript(value=ast.Name(), slice=ast.Constant(value=str()))
        ):
            pass
        case _:
            what = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
            raise RecipeError(
                f"{goal.text!r}: {what!r} has no place here: use metrics, numbers, + - * /, one comparison, "
                f'{", ".join(FUNCTIONS)}, {SPECIAL}("pattern", model)'
            )


def _number(goal: Goal, node: ast.expr, table: Table) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.UnaryOp(op=op, operand=inner):
            value = _number(goal, inner, table)
            return -value if isinstance(op, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _number(goal, left, table), _number(goal, right, table)
            if isinstance(op, ast.Div) and b == 0:
                raise RecipeError(f"{goal.text!r}: {ast.unparse(right)} is 0, and one cannot divide by it")
            return OPERATORS[type(op)](a, b)
        case ast.Call(func=ast.Name(id=name), args=args) if name == SPECIAL:
            pattern, model = args[0].value, args[1].id  # type: ignore[attr-defined]
            names = _matching(goal, pattern, table[""])
            return FUNCTIONS["mean"]([_ratio(goal, n, model, table) for n in names])
        case ast.Call(func=ast.Name(id=name), args=args):
            return FUNCTIONS[name]([value for arg in args for value in _several(goal, arg, table)])
    (value,) = [_metric(goal, *_named(node), table)]
    return value


def _ratio(goal: Goal, name: str, model: str, table: Table) -> float:
    below = _metric(goal, model, name, table)
    if below == 0:
        raise RecipeError(f"{goal.text!r}: {model}.{name} is 0, and one cannot divide by it")
    return table[""][name] / below


def _several(goal: Goal, node: ast.expr, table: Table) -> list[float]:
    """The values that an argument of a function stands for: a pattern may stand for several."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [table[""][name] for name in _matching(goal, node.value, table[""])]
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        model, pattern = _named(node)
        return [table[model][n] for n in _matching(goal, pattern, _model(goal, model, table))]
    return [_number(goal, node, table)]


def _named(node: ast.expr) -> tuple[str, str]:
    """(model, metric) that a name, an attribute, an index or a text stands for."""
    match node:
        case ast.Name(id=name):
            return "", name
        case ast.Constant(value=str() as name):
            return "", name
        case ast.Attribute(value=ast.Name(id=model), attr=name):
            return model, name
        case ast.Subscript(value=ast.Name(id=model), slice=ast.Constant(value=str() as name)):
            return model, name
    raise AssertionError(ast.dump(node))


def _model(goal: Goal, model: str, table: Table) -> Mapping[str, float]:
    if model not in table:
        known = ", ".join(name for name in table if name)
        raise RecipeError(f"{goal.text!r}: no model is called {model}; there is {known or 'none'}")
    return table[model]


def _metric(goal: Goal, model: str, name: str, table: Table) -> float:
    metrics = _model(goal, model, table)
    if name not in metrics:
        hint = did_you_mean(name, metrics)
        raise RecipeError(f"{goal.text!r}: no metric is called {name}{hint}; there is {', '.join(metrics)}")
    return metrics[name]


def _matching(goal: Goal, pattern: Any, metrics: Mapping[str, float]) -> list[str]:
    matches = [name for name in metrics if fnmatchcase(name, pattern)]
    if not matches:
        raise RecipeError(f"{goal.text!r}: no metric fits {pattern!r}; there is {', '.join(metrics)}")
    return matches
