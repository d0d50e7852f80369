"""Recipes: the text of an expression, in a strict subset of Python. `parse(str(w)) == w`.

    skills = 0.4*(math - base) + 0.4*(code - base)     # assignments, one on each line; comments
    base + only("model.layers.*.mlp.*")*skills         # the last line is the expression

A recipe may hold numbers, names, `+ - * /`, parentheses, and calls of the functions in FUNCTIONS. Everything else is
refused. The text is parsed and never executed. A name without a value is a knob.
"""

import ast
import operator
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from textwrap import dedent
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from taskvec import methods, views
from taskvec.algebra.coefficients import Coefficient, knob
from taskvec.algebra.weights import Weights
from taskvec.errors import RecipeError, TaskvecError, UnknownName, did_you_mean
from taskvec.formats import open_source
from taskvec.lazy import Lazy
from taskvec.numbers.rationals import Number, exact

if TYPE_CHECKING:
    from taskvec.methods.core.lift import Lifted

LONGEST, DEEPEST = 100_000, 150  # characters of a recipe; levels of nesting, enough for the deepest expressions
LONGEST_VALUE = 20_000  # characters of a coefficient that is assigned to a name, with all names in it replaced


def load(uri: str | os.PathLike[str], *, revision: str | None = None) -> Weights:
    """Open a checkpoint as Weights: mass 1 for a model, 0 for a stored task vector or a LoRA. Reads headers only.

    uri: a .safetensors file, a folder (one file, or shards with an index), the folder of a PEFT adapter, or `org/name`
        on the Hugging Face hub (extra `hub`).
    revision: a branch, tag or commit on the hub.

    Raises FormatError.
    """
    if not isinstance(revision, str | None):
        raise TypeError("revision must be a text")
    return Weights({open_source(uri, revision): 1})


FUNCTIONS: Mapping[str, Callable[..., Any]] = Lazy(
    {
        "taskvec.recipes.recipe": ("load",),
        "taskvec.algebra.coefficients": ("only", "without", "per", "layers"),
        "taskvec.algebra.layerwise": ("layerwise",),
        "taskvec.views.permuted": ("permute",),
        **methods.MODULES,
        **views.MODULES,
    }
)
OPERATORS: Mapping[type, tuple[str, Callable[[Any, Any], Any]]] = MappingProxyType(
    {
        ast.Add: ("+", operator.add),
        ast.Sub: ("-", operator.sub),
        ast.Mult: ("*", operator.mul),
        ast.Div: ("/", operator.truediv),
    }
)
Value = Weights | Coefficient
Scope = Mapping[str, "Value | Lifted"]


def parse(text: str, /, **names: "Weights | Coefficient | Number | str | Lifted") -> Weights:
    """The expression that `text` stands for. The text is parsed, never executed.

    names: a value for each name in the text: Weights, a number, a uri to load, or a method of your own to call
        (`method`).

    A name without a value becomes a knob (`weights.knobs`), which gets its value later: `weights.bind(lam=0.3)`. Raises
    RecipeError, with line and column, before it loads anything that the text does not name.
    """
    if not isinstance(text, str):
        raise RecipeError(f"a recipe is a text, not {type(text).__name__}")
    tree = _tree(text)
    given = {name: _given(name, value) for name, value in names.items()}
    scope: dict[str, Value | Lifted] = dict(given)
    *assignments, last = tree.body
    for line in assignments:
        if not (isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name)):
            raise _error("only `name = expression` may stand above the last line", line)
        name = line.targets[0].id
        if name in FUNCTIONS:
            raise _error(f"{name} is a function's name and cannot be assigned", line)
        if name in scope:
            raise _error(f"{name} has a value already", line)
        scope[name] = value = _value(line.value, scope)
        if isinstance(value, Coefficient) and len(str(value)) > LONGEST_VALUE:
            raise _error(f"{name} is longer than {LONGEST_VALUE} characters when it is written out", line)
    if not isinstance(last, ast.Expr):
        raise _error("the last line must be an expression, the model to make", last)
    result = _value(last.value, scope)
    _require_used(tree, given)
    if not isinstance(result, Weights):
        knobs = f": say which model a name is ({_paths(result.knobs)})" if result.knobs else ""
        raise RecipeError(f"the recipe is a number, not a model{knobs}")
    return result


def written(weights: Weights) -> str:
    """The text of a recipe file: a line for each source, then the expression. `parse` reads it back."""
    names = weights.names(FUNCTIONS)
    return "\n".join([*(f"{name} = {source.text}" for source, name in names.items()), weights.text(names)]) + "\n"


def replaced(weights: Weights, given: "Mapping[str, Weights | str]") -> Weights:
    """The same recipe with other models in the place of some names (`weights.names()`), such as those of another seed.

    Raises RecipeError for a name that the recipe does not have.
    """
    names = weights.names(FUNCTIONS)
    if unknown := sorted(given.keys() - names.values()):
        raise RecipeError(f"the recipe has no {', '.join(unknown)}; it has {', '.join(names.values())}")
    text = weights.text(names)
    used = {node.id for node in ast.walk(_tree(text)) if isinstance(node, ast.Name)}
    own = {name: Weights({source: 1}).named(name) for source, name in names.items()}
    return parse(text, **{name: value for name, value in {**own, **given}.items() if name in used})


def _tree(text: str) -> ast.Module:
    if len(text) > LONGEST:
        raise RecipeError(f"a recipe of {len(text)} characters is longer than {LONGEST}")
    try:
        tree = ast.parse(dedent(text).strip())
    except SyntaxError as error:
        raise RecipeError(
            f"the recipe is no expression: {error.msg} (line {error.lineno}, column {error.offset})"
        ) from None
    except (RecursionError, MemoryError, ValueError) as error:
        raise RecipeError(f"the recipe cannot be read: {error or 'it is nested too deeply'}") from None
    body = tree.body
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and len(body) > 1:
        tree.body = body[1:] if isinstance(body[0].value.value, str) else body  # a docstring at the top
    if not tree.body:
        raise RecipeError("the recipe is empty")
    return tree


def _given(name: str, value: Any) -> "Value | Lifted":
    if not name.isidentifier() or name in FUNCTIONS:
        raise RecipeError(f"{name!r} cannot be a name in a recipe")
    if isinstance(value, Weights):
        return value.named(name)
    if isinstance(value, Coefficient):
        return value
    if isinstance(value, str | os.PathLike):
        return load(value).named(name)
    if not isinstance(value, Number):
        from taskvec.methods.core.lift import Lifted

        if isinstance(value, Lifted):
            return value
    return Coefficient.of(value)


def _require_used(tree: ast.Module, given: Scope) -> None:
    """Raise UnknownName for a name that was given and is not used: it must be misspelt there or in the recipe."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = {node.id for node in nodes} - FUNCTIONS.keys()
    assigned = {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
    for name in sorted(key for key, value in given.items() if key not in used and isinstance(value, Value)):
        raise UnknownName(
            f"{name} was given, and the recipe does not use it{did_you_mean(name, used - assigned - given.keys())}"
        )


def _value(node: ast.expr, scope: Scope, depth: int = 0) -> Value:
    if depth > DEEPEST:
        raise _error("nested too deeply", node)
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return Coefficient.of(_at(node, exact, number))
        case ast.Name(id=name):
            if name in FUNCTIONS:
                raise _error(f"{name} is a function: call it, {name}(...)", node)
            value = scope[name] if name in scope else knob(name)
            if not isinstance(value, Value):
                raise _error(f"{name} is a method: call it, {name}(...)", node)
            return value
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, scope, depth + 1)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _value(inner, scope, depth + 1)
        case ast.BinOp():
            return _sum(node, scope, depth)
        case ast.Call():
            return _call(node, scope, depth)
    raise _error(
        f"{_what(node)} has no place in a recipe: use numbers, names, + - * / and {', '.join(FUNCTIONS)}", node
    )


def _sum(node: ast.BinOp, scope: Scope, depth: int) -> Value:
    """The value of a chain such as a + b - c. It is computed from the left without recursion, so that sums may be long
    although nesting is bounded."""
    chain: list[ast.BinOp] = []
    left: ast.expr = node
    while isinstance(left, ast.BinOp):
        chain.append(left)
        left = left.left
    total = _value(left, scope, depth + 1)
    for step in reversed(chain):
        if type(step.op) not in OPERATORS:
            raise _error(f"{_what(step.op)} has no place in a recipe: use + - * /", step)
        total = _apply(step, total, _value(step.right, scope, depth + 1), scope)
    return total


def _apply(node: ast.BinOp, left: Value, right: Value, scope: Scope) -> Value:
    sign, apply = OPERATORS[type(node.op)]
    both = isinstance(left, Weights), isinstance(right, Weights)
    if sign in "+-" and both[0] != both[1]:
        number = left if both[1] else right
        assert isinstance(number, Coefficient)
        if not number.knobs:
            raise _error("a model and a number cannot be added", node)
        unknown = ", ".join(n + did_you_mean(n, scope) for n in sorted(number.knobs))
        raise _error(f"no model is named {unknown}: say which it is ({_paths(number.knobs)})", node, UnknownName)
    if sign == "*" and all(both):
        raise _error("two models cannot be multiplied; a coefficient is a number", node)
    if sign == "/" and both[1]:
        raise _error("one cannot divide by a model", node)
    return _at(node, apply, left, right)  # type: ignore[no-any-return]


def _call(node: ast.Call, scope: Scope, depth: int) -> Value:
    if not isinstance(node.func, ast.Name):
        if isinstance(node.func, ast.Constant):
            raise _error(f"{node.func.value!r} cannot be called: write {node.func.value!r}*(...)", node)
        raise _error(f"{_what(node.func)} cannot be called: only a function can, as in ties(a, b)", node)
    name = node.func.id
    own = {key: value for key, value in scope.items() if not isinstance(value, Value)}
    known = [*FUNCTIONS, *own]
    if name not in known:
        near = did_you_mean(name, known) or f"; functions are {', '.join(known)}"
        raise _error(f"no function is named {name}{near}", node, UnknownName)
    if any(keyword.arg is None for keyword in node.keywords):
        raise _error("** has no place in a recipe", node)
    _require_once([k.arg for k in node.keywords], f"{name} is given", node)
    arguments = [_argument(a, scope, depth + 1) for a in node.args]
    keywords = {str(k.arg): _argument(k.value, scope, depth + 1) for k in node.keywords}
    try:
        return _at(node, own.get(name) or FUNCTIONS[name], *arguments, **keywords)  # type: ignore[no-any-return]
    except TypeError as error:
        raise _error(str(error), node) from None


def _require_once(keys: Sequence[Any], what: str, node: ast.expr) -> None:
    """Raise RecipeError for a key that is there twice, because one of its two values would be ignored."""
    if twice := [str(key) for key, count in Counter(keys).items() if count > 1]:
        raise _error(f"{what} {', '.join(twice)} twice", node)


def _argument(node: ast.expr, scope: Scope, depth: int) -> Any:
    """An argument of a function: an expression, a text, a tuple of these, or a table from texts to these."""
    match node:
        case ast.Tuple(elts=elements):
            return tuple(_argument(e, scope, depth + 1) for e in elements)
        case ast.Constant(value=str() as text):
            return text
        case ast.Dict(keys=keys, values=values):
            if not all(isinstance(k, ast.Constant) and isinstance(k.value, str) for k in keys):
                raise _error("the keys of a table must be texts", node)
            _require_once([k.value for k in keys], "the table has", node)  # type: ignore[union-attr]
            return {k.value: _argument(v, scope, depth + 1) for k, v in zip(keys, values, strict=True)}  # type: ignore[union-attr]
    return _value(node, scope, depth)


def _at(node: ast.expr, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function. If it raises a RecipeError, the error says where in the text the call is."""
    try:
        return function(*args, **kwargs)
    except RecipeError as error:
        raise _error(str(error), node, type(error)) from None
    except OverflowError:
        raise _error("a number is too large", node) from None


def _error(message: str, node: ast.AST, kind: type[TaskvecError] = RecipeError) -> TaskvecError:
    line, column = getattr(node, "lineno", None), getattr(node, "col_offset", 0)
    return kind(f"{message} (line {line}, column {column + 1})" if line else message)


def _what(node: ast.AST) -> str:
    names = {
        "Attribute": "an attribute (a dot)", "Subscript": "an index", "Constant": "this constant", "Pow": "**",
        "FloorDiv": "//", "Mod": "%", "MatMult": "@", "Lambda": "lambda", "Compare": "a comparison", "Dict": "a table",
    }  # fmt: skip
    return names.get(type(node).__name__, type(node).__name__)


def _paths(names: Iterable[str]) -> str:
    return " ".join(f"{name}=PATH" for name in sorted(names))
