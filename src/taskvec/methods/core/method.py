"""What a merge method is, as data: a pure function of arrays, what it may be given, and what it costs."""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from taskvec.algebra.coefficients import Coefficient
from taskvec.algebra.derived import Parameter
from taskvec.algebra.program import Program
from taskvec.algebra.weights import Weights
from taskvec.errors import MassError, RecipeError, did_you_mean
from taskvec.methods.core.roles import Rows, Scale, Scope, Setting
from taskvec.numbers.rationals import as_float
from taskvec.sources.abilities import statistic_of
from taskvec.sources.source import Source, Spec

VECTORS, ALIKE, MODELS = "task vectors", "models or task vectors", "models"
Told = Mapping[str, Mapping[str, Any]]  # tensor -> the measured parameters with which the function is called
Measure = Callable[[Sequence[Any], int, Callable[[int], None]], list[Told]]  # (measurements, threads, progress)
Fits = Callable[[Source, Mapping[str, Spec]], Iterator[str]]
Lower = Callable[[Program, list[int], str, Mapping[str, Any]], int]
Passes = int | Callable[[Mapping[str, Parameter]], int]
Check = Callable[[Mapping[str, Any], int], str]  # (parameters, number of arguments) -> what is wrong with them, or ""


@dataclass(frozen=True, slots=True)
class Range:
    """The interval in which the number of a parameter must lie; with `whole` it must be a whole number."""

    low: float
    high: float
    open_below: bool = False
    whole: bool = False

    def __contains__(self, value: float) -> bool:
        if self.whole and not float(value).is_integer():
            return False
        return (self.low < value if self.open_below else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        interval = f"{'(' if self.open_below else '['}{self.low:g}, {self.high:g}]"
        return f"{interval} and be a whole number" if self.whole else interval


@dataclass(frozen=True, eq=False)
class Method:
    """`fn`, a pure function of float32 arrays, and what must be known to apply it.

    What `fn` is given:
    local: any range of elements, as flat arrays. Otherwise it is given whole tensors in their shape.
    rows: any run of whole rows, as matrices; the value says what a row is.
    keyed: also `name` and `start`, the tensor and the position of the first element, which seed what it draws.
    combines: no arrays, but their Gram matrix, as its first parameter. It returns the coefficients of a linear
        combination of the arrays.
    takes, least, most: of which kind the arguments of a call are, and how many there may be.
    statistics: the kind of statistics that it needs. The arguments are then n models and after them the statistics of
        each. `fits` says why a file of statistics cannot belong to models with the given specs.

    What it is told beside the arrays:
    ranges, choices: what its parameters may be. check: (parameters, number of arguments) -> what is wrong with values
        that each lie in their range, or "".
    measure: measures further parameters, in `passes` over the data (which may depend on the parameters). It measures
        several calls at once, which may share what they read; passes.py has `one_by_one` for those that do not.
    scope: what is measured together. With Scope.ROW an elementwise `fn` is given whole rows.
    entries: the name of the parameter that says how many entries the whole model has; 0 if that is not known.
    scale: how what is kept of a tensor is multiplied, so that its magnitude stays.
    by_tile: whether measured values are arrays with a number for each tile.

    How it is computed, and in what memory:
    lower: the same bits as operations of the kernels, for local methods: (program, arguments, tensor, what `fn` is
        told) -> a reference to the result. Its arguments are then read once, and stay in the cache meanwhile.
    thresholds: how many magnitudes of a given rank `measure` looks for, each with tables of its own in every thread.
    copies: float32 copies of its largest argument, statistics included, that `fn` holds beside arguments and result.
    workspace: (shape, number of arguments) -> bytes that an `fn` of whole tensors holds beside its arguments and its
        result; by default one more tensor in float32.
    source: the digest of the code of a user's own method; "" for those of taskvec.
    """

    fn: Callable[..., Any]
    local: bool = False
    lower: Lower | None = None
    keyed: bool = False
    rows: Rows | Setting[Rows] | None = None
    combines: bool = False
    measure: Measure | None = None
    passes: Passes = 0
    scope: Scope | Setting[Scope] = Scope.TENSOR
    entries: str = ""
    scale: Scale | None = None
    by_tile: bool | Setting[bool] = False
    thresholds: int = 0
    takes: str = VECTORS
    least: int = 1
    most: int | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    statistics: str = ""
    fits: Fits | None = None
    check: Check | None = None
    copies: int = 0
    source: str = ""
    workspace: Callable[[tuple[int, ...], int], int] | None = None

    @property
    def name(self) -> str:
        """The name of the method in recipes."""
        return self.fn.__name__

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.fn.__doc__

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The parameters that a caller may give, with their default values."""
        parameters = inspect.signature(self.fn).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}

    @cached_property
    def texts(self) -> dict[str, tuple[str, ...]]:
        """The parameters that are texts, and the texts that each may be."""
        settings = (self.scope, self.rows, self.by_tile, self.scale.on if self.scale else None)
        return {**self.choices, **{s.parameter: tuple(s.meanings) for s in settings if isinstance(s, Setting)}}

    @cached_property
    def first(self) -> str:
        """The name of the first parameter of `fn`, which is the Gram matrix if the method combines."""
        return next(iter(inspect.signature(self.fn).parameters))

    def require_arguments(self, args: Sequence[Any]) -> None:
        """Raise RecipeError or MassError for arguments that the method cannot take."""
        if wrong := [type(a).__name__ for a in args if not isinstance(a, Weights)]:
            raise RecipeError(f"{self.name} works on {self.takes}, not on {', '.join(wrong)}; parameters have names")
        if self.statistics:
            args = self._models_among(args)
        if len(args) < self.least or (self.most is not None and len(args) > self.most):
            many = f"exactly {self.least}" if self.most == self.least else f"at least {self.least}"
            raise RecipeError(f"{self.name} takes {many} {self.takes}, not {len(args)}")
        if any(a.knobs for a in args):
            return  # the masses are known once they are bound
        masses = [a.kind() for a in args]
        if self.takes is MODELS and not all(masses):
            raise MassError(
                f"{self.name} works on models (mass 1), and argument {masses.index(0) + 1} is a task vector: "
                "add its base"
            )
        if self.takes is VECTORS and any(masses):
            raise MassError(
                f"{self.name} works on task vectors (mass 0), and argument {masses.index(1) + 1} is a model: "
                "subtract its base"
            )
        if len(set(masses)) > 1:
            raise MassError(f"{self.name} works on models or on task vectors, not on both: their masses are {masses}")

    def _models_among(self, args: Sequence[Weights]) -> Sequence[Weights]:
        """The first half of the arguments, the models. Raises RecipeError if the second half are not statistics of the
        kind that is needed."""
        kind, half = self.statistics, len(args) // 2
        call = f"{self.name}(a, b, {kind}_a, {kind}_b)"
        if len(args) % 2:
            raise RecipeError(f"{self.name} takes models and then the statistics of each, {call}: not {len(args)}")
        for k, a in enumerate(args[half:], half + 1):
            kinds = [statistic_of(s) for s, c in a.terms.items() if c == 1] if len(a.summed) == 1 else []
            if kinds != [kind]:
                what = f"{kinds[0]} statistics" if kinds and kinds[0] else a.text()
                raise RecipeError(
                    f"{self.name} takes models and then the {kind} statistics of each, {call}: argument {k} of "
                    f"{len(args)} is {what} (`taskvec stats MODEL --kind {kind}` makes them)"
                )
        return args[:half]

    def given(self, params: Mapping[str, Any], count: int) -> dict[str, Parameter]:
        """All parameters of a call with `count` arguments. Raises RecipeError for those that the method cannot take."""
        require_known(self.name, params, self.defaults)
        count = count // 2 if self.statistics else count
        return {key: self._parameter(key, value, count) for key, value in (self.defaults | dict(params)).items()}

    def _parameter(self, key: str, value: Any, count: int) -> Parameter:
        if isinstance(self.defaults[key], tuple):
            if not isinstance(value, tuple | list) or len(value) not in (0, count):
                raise RecipeError(f"{self.name}: {key} is one number an argument, {count} in parentheses, not {value}")
            return tuple(self._number(key, v) for v in value)
        if isinstance(self.defaults[key], str):
            if value not in self.texts[key]:
                raise RecipeError(f"{self.name}: {key} is one of {', '.join(self.texts[key])}, not {value!r}")
            return str(value)
        return self._number(key, value)

    def _number(self, key: str, value: Any) -> Coefficient:
        if isinstance(value, str | tuple | Weights):
            raise RecipeError(f"{self.name}: {key} is a number, not {type(value).__name__}")
        number = Coefficient.of(value)
        if number.constant is not None:
            self.require(key, as_float(number.constant))
        return number

    def require(self, key: str, value: float, where: str = "") -> float:
        """The value, if it lies in its range."""
        if key in self.ranges and value not in self.ranges[key]:
            raise RecipeError(f"{self.name}: {key} must lie in {self.ranges[key]}, not {value:g}{where}")
        return value


def require_known(call: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise RecipeError for a parameter that a method does not have, and name the most similar one."""
    if unknown := sorted(set(given) - set(known)):
        hint = did_you_mean(unknown[0], known)
        raise RecipeError(f"{call} has no parameter {unknown[0]}{hint}; it has {', '.join(known) or 'none'}")
