"""A search trades one number for another: which two numbers to show, and which candidates are on their front.

A candidate is on the front if no other candidate beats it in both numbers. Which way is better follows from objectives
and constraints; where neither says it, there is no front.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from taskvec.errors import TaskvecError
from taskvec.evals import Numbers, means
from taskvec.report.svg import Point
from taskvec.searching.findings import Record
from taskvec.searching.goals import Goal, constraint, objective

MOST = 3  # pictures of one search


@dataclass(frozen=True, slots=True)
class Bound:
    """A constraint, read as a bound: a number of the candidate (`what`) must stay above or below another number."""

    text: str
    what: Goal
    metric: str | None  # the metric, if `what` is nothing but a metric
    up: bool  # whether `what` must be large
    value: float | None  # the bound; None where each candidate has another one


@dataclass(frozen=True, slots=True)
class Trade:
    """Two numbers of every candidate."""

    x: str
    y: str
    points: Mapping[int, Point]  # by the numbers of the trials
    front: tuple[Point, ...]  # the Pareto front, ordered by x; empty where nothing says which way is better
    base: Point | None  # the base's two numbers; None where it has none
    bound: Bound | None = None  # the bound of x


def bounds(record: Record) -> list[Bound]:
    """The constraints of a search as bounds, in their order."""
    all_bounds, references = [], {name: means(scores) for name, scores in record.validation.items()}
    for text in record.constraints:
        tree = constraint(text).tree
        assert isinstance(tree, ast.Compare)
        left, right, up = tree.left, tree.comparators[0], isinstance(tree.ops[0], ast.GtE | ast.Gt)
        if _own(right) and not _own(left):  # as in 0.5 <= accuracy
            left, right, up = right, left, not up
        value = None if _own(right) else objective(ast.unparse(right)).value({"": {}, **references})
        match left:
            case ast.Name(id=str() as name) | ast.Constant(value=str() as name):
                metric: str | None = name
            case _:
                metric = None
        all_bounds.append(Bound(text, objective(ast.unparse(left)), metric, up, value))
    return all_bounds


def trades(record: Record) -> list[Trade]:
    """The trades to show: the first objective against the other objectives. If there are no others, against what the
    constraints bound; and without constraints, against the metrics that it is not made of."""
    if not record.trials:
        return []
    y, up = record.objectives[0], not record.minimised
    if len(record.objectives) > 1:
        return [_trade(record, objective(y), objective(other), (up, True)) for other in record.objectives[1:][:MOST]]
    if record.constraints:
        return [_trade(record, b.what, objective(y), (b.up, up), b) for b in bounds(record)[:MOST]]
    metrics = [*record.trials[0].metrics]
    if rest := [name for name in metrics if name not in _used(objective(y).tree, metrics)]:
        return [_trade(record, objective(repr(name)), objective(y)) for name in rest[:MOST]]
    if len(metrics) != 2:
        return []
    x_goal, y_goal = (objective(repr(name)) for name in metrics)
    return [_trade(record, x_goal, y_goal)]


def base_value(record: Record, goal: Goal) -> float | None:
    """The value that a goal has for the base; None if it cannot be computed."""
    try:
        return goal.value(_table(record, record.base))
    except TaskvecError:  # a division by what the base scores
        return None


def undominated(points: Sequence[Point], up: tuple[bool, bool]) -> tuple[Point, ...]:
    """The points that no other point beats in both numbers, ordered by x. up: whether large is good, in x and in y."""
    a, b = (1 if u else -1 for u in up)
    front, best = [], float("-inf")
    for x, y in sorted(points, key=lambda p: (-a * p[0], -b * p[1])):
        if b * y > best:
            front.append((x, y))
            best = b * y
    return tuple(sorted(front))


def _trade(record: Record, x: Goal, y: Goal, up: tuple[bool, bool] | None = None, bound: Bound | None = None) -> Trade:
    tables = {t.number: _table(record, t.scores) for t in record.trials}
    points = {number: (x.value(table), y.value(table)) for number, table in tables.items()}
    # Candidates on the front may break the constraint on the axis x: the chart then shows what keeping it costs.
    free = {t.number for t in record.trials if not t.broken or (bound and [*t.broken] == [bound.text])}
    base = base_value(record, x), base_value(record, y)
    return Trade(
        _name(x), _name(y), points,
        undominated([p for n, p in points.items() if n in free], up) if up else (),
        None if base[0] is None or base[1] is None else (base[0], base[1]),
        bound,
    )  # fmt: skip


def _name(goal: Goal) -> str:
    return goal.tree.value if isinstance(goal.tree, ast.Constant) and isinstance(goal.tree.value, str) else goal.text


def _own(node: ast.AST) -> bool:
    """Whether an expression has a metric of the candidate, and not only of reference models."""
    match node:
        case ast.Name() | ast.Constant(value=str()):
            return True
        case ast.Attribute() | ast.Subscript():
            return False
        case ast.Call(args=args):
            return any(map(_own, args))
    return any(map(_own, ast.iter_child_nodes(node)))


def _used(node: ast.AST, metrics: Sequence[str]) -> set[str]:
    """The metrics that an objective is made of, also by patterns."""
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    patterns = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return {m for m in metrics if m in names or any(fnmatchcase(m, pattern) for pattern in patterns)}


def _table(record: Record, scores: Mapping[str, Numbers]) -> dict[str, Mapping[str, float]]:
    return {"": means(scores), **{name: means(s) for name, s in record.validation.items()}}
