"""What makes a pure function of arrays a function of Weights: `Lifted`, and `@method` for a function of your own."""

import inspect
from collections.abc import Callable, Mapping
from functools import reduce
from importlib import import_module
from typing import Any, overload

from taskvec.algebra.weights import Weights
from taskvec.errors import RecipeError
from taskvec.methods import FUNCTIONS
from taskvec.methods.core.applied import Applied
from taskvec.methods.core.method import ALIKE, VECTORS, Method, Range


class Lifted(Method):
    """A method that is called on Weights and returns Weights: one more source, of which nothing is computed yet.

    help() and editors show a method as they show a function, with the parameters and the docstring of `fn`.
    """

    @property
    def __signature__(self) -> inspect.Signature:
        own = inspect.signature(self.fn).parameters.values()
        first = [p.replace(annotation=p.empty) for p in own if p.kind is not p.KEYWORD_ONLY]
        if self.combines:  # `fn` takes the Gram matrix of the arguments in their place
            names = ("a", "b") if self.most == 2 else ("vectors" if self.takes is VECTORS else "models",)
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if self.most == 2 else inspect.Parameter.VAR_POSITIONAL
            first = [inspect.Parameter(name, kind) for name in names]
        return inspect.Signature([*first, *(p for p in own if p.name in self.defaults)])

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return f"{self.name}{self.__signature__}\n\n{inspect.cleandoc(self.fn.__doc__ or '')}"

    def __repr__(self) -> str:
        return self.name

    def __call__(self, *args: Weights, **params: Any) -> Weights:
        """One more source, as an expression. Raises RecipeError for arguments and parameters that the method cannot
        take, and MassError for models in the place of task vectors or the other way round."""
        return Applied.of(self, args, params)

    def __reduce__(self) -> Any:
        """A method is pickled as its module and its name there, with the digest of the code if it is a user's own."""
        home, name = self.fn.__module__, self.fn.__qualname__
        if self.source and _looked_up(home, name) is not self:
            raise TypeError(
                f"the method {self.name} cannot be pickled, for no module has it as {home}.{name}: put it into one "
                "that both processes import, or send the text, str(weights), and parse it with the method"
            )
        return _unpickled, (home, name if self.source else self.name, self.source)


def _looked_up(home: str, name: str) -> Any:
    """The object that a module has under a dotted name, or None."""
    try:
        return reduce(getattr, name.split("."), import_module(home))
    except (ImportError, AttributeError, ValueError):
        return None


def _unpickled(home: str, name: str, source: str) -> Lifted:
    """The method that was pickled, one of taskvec's or a user's. Raises RecipeError if its code differs here."""
    lifted = _looked_up(home, name) if source else FUNCTIONS[name]
    if not isinstance(lifted, Lifted) or lifted.source != source:
        raise RecipeError(f"the method {home}.{name} has other code here than where the weights were pickled")
    return lifted


@overload
def method(function: Callable[..., Any], /) -> Lifted: ...
@overload
def method(
    *,
    local: bool = False,
    keyed: bool = False,
    takes: str = ALIKE,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    choices: Mapping[str, tuple[str, ...]] | None = None,
) -> Callable[[Callable[..., Any]], Lifted]: ...
def method(
    function: Callable[..., Any] | None = None,
    /,
    *,
    local: bool = False,
    keyed: bool = False,
    takes: str = ALIKE,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    choices: Mapping[str, tuple[str, ...]] | None = None,
) -> Lifted | Callable[[Callable[..., Any]], Lifted]:
    """Turn a function of float32 arrays of one shape, which returns an array of that shape, into a function of Weights.

    >>> @method(local=True)
    ... def clip(tau, *, limit=0.01):
    ...     return np.clip(tau, -limit, limit)

    `@method` without arguments will do, too. Positional arguments of the function are expressions. Keyword-only
    arguments are parameters, and need defaults: a number (which may differ from tensor to tensor), a text out of
    `choices`, or `()` for a tuple with a number for each expression. `fn` of the result is the bare function.

    local: the function may be given any range of elements, as a flat array. Otherwise it sees whole tensors, and the
        plan counts their memory.
    keyed: the function also takes `name` and `start`, the tensor and the position of its first element, to seed what it
        draws (methods/core/draws.py).
    takes: what the expressions must be: "task vectors", "models", or "models or task vectors".
    ranges: {parameter: (low, high)}. choices: {parameter: its texts}.
    """

    def lift(fn: Callable[..., Any]) -> Lifted:
        parameters = inspect.signature(fn).parameters.values()
        count = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
        many = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        if not count and not many:
            raise RecipeError(f"{fn.__name__} takes no arrays: its positional arguments are expressions")
        told = {"name", "start"} if keyed else set()
        named = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in told]
        if bare := [p.name for p in named if p.default is p.empty]:
            raise RecipeError(f"{fn.__name__}: parameters need defaults: {', '.join(bare)}")
        if texts := [p.name for p in parameters if isinstance(p.default, str) and p.name not in (choices or {})]:
            raise RecipeError(f"{fn.__name__}: parameters that are texts need choices: {', '.join(texts)}")
        limits = {key: Range(low, high) for key, (low, high) in (ranges or {}).items()}
        return Lifted(
            fn, local, keyed=keyed, takes=takes, least=max(1, count), most=None if many else count, ranges=limits,
            choices=choices or {}, source=code_digest(fn),
        )  # fmt: skip

    return lift if function is None else lift(function)


def code_digest(fn: Callable[..., Any]) -> str:
    """BLAKE3 of a function's source, or of its compiled code where there is no source."""
    from blake3 import blake3

    try:
        code = inspect.getsource(fn)
    except (OSError, TypeError):
        code = repr((fn.__code__.co_code, fn.__code__.co_consts, fn.__code__.co_names))
    return blake3(code.encode()).hexdigest()
