"""What methods and views have in common: a call over expressions that is itself a source.

It adds and scales like a checkpoint, prints as the call that it is, and computes when its elements are asked for.
"""

import json
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from taskvec.algebra.coefficients import Coefficient
from taskvec.algebra.idle_patterns import unfit
from taskvec.algebra.weights import Weights
from taskvec.errors import RecipeError
from taskvec.sources.abilities import Composite, Measured, folder_of, resident_of
from taskvec.sources.source import Source, Spec
from taskvec.sources.text import quoted

DEEPEST, MOST_CALLS = 25, 1000  # calls within one another, which all that walks through them recurses into; in all
STRETCH = 1 << 27  # elements at most of the tensors that are measured and then computed, before others are
Names = Collection[str]  # of tensors
Parameter = Coefficient | str | tuple["Coefficient | str", ...] | dict[str, Any]  # a table of parameters


class Derived(Composite, Measured):
    """The call `name(*args, **params)`. A subclass says what its tensors are (`specs`, `stored`, `readinto`).

    params: what was given or else the default, in the order of the signature. defaults: what need not be written.
    """

    own_passes = 0  # passes over the data before the one that computes
    alike = True  # whether the arguments have the same names and shapes
    args: tuple[Weights, ...]
    busy = True  # whether Python has work to do between the kernels

    def __init__(
        self, name: str, args: tuple[Weights, ...], params: Mapping[str, Parameter], defaults: Mapping[str, Any]
    ):
        self.name, self.args, self.params, self.defaults = name, args, dict(params), defaults
        inner = [source for a in args for source in a.terms if isinstance(source, Derived)]
        self.nesting: int = 1 + max((source.nesting for source in inner), default=0)
        self.in_text: int = 1 + sum(
            source.in_text for source in inner
        )  # calls in the text, which repeats what is shared
        if self.nesting > DEEPEST or self.in_text > MOST_CALLS:
            deep = f"within one another {self.nesting} deep (at most {DEEPEST})"
            many = f"{self.in_text} times in the expression when it is written out (at most {MOST_CALLS})"
            raise RecipeError(
                f"calls of methods and views stand {deep if self.nesting > DEEPEST else many}, the last is {name}: "
                "save a part of it with `taskvec merge`, and load that instead"
            )

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        raise NotImplementedError

    def same(self) -> tuple[Any, ...]:
        """What two equal calls share."""
        return self.name, self.args, tuple(sorted(self.params.items(), key=lambda item: item[0]))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Derived) and self.same() == other.same()

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.args))

    def __hash__(self) -> int:
        return self._hash

    def __copy__(self) -> "Derived":
        found = object.__new__(type(self))
        found.__dict__ |= self.__dict__
        return found

    def __reduce__(self) -> Any:
        """A pickle holds what the call is given, and nothing that it has computed or measured."""
        return type(self), (self.name, self.args, self.params, dict(self.defaults))

    # ---- what it is
    @property
    def specs(self) -> Mapping[str, Spec]:
        """The tensors, with the dtypes in which they are computed."""
        raise NotImplementedError

    @property
    def stored(self) -> Mapping[str, Spec]:
        """The same with the dtypes that an output has unless another is asked for."""
        raise NotImplementedError

    @property
    def tensors(self) -> Mapping[str, tuple[int, str]] | None:
        """Of a view: for each tensor which argument it is from, and the name that it has there."""
        return None

    @property
    def verbatim(self) -> bool:
        """Whether every tensor is one of a file, bit for bit: only views know."""
        return False

    @property
    def leaves(self) -> tuple[Source, ...]:
        """Every file or array below, in order of mention."""
        return tuple(dict.fromkeys(leaf for a in self.args for leaf in a.mentioned))

    @cached_property
    def mass(self) -> int:
        """That of its arguments, which is one."""
        return self.args[0].kind()

    @property
    def base(self) -> str | None:
        """The model that all arguments are relative to, if it is one."""
        bases = {None if self.mass else base_of(a) for a in self.args}
        return bases.pop() if len(bases) == 1 else None

    @property
    def partial(self) -> bool:
        """Whether every argument is."""
        return all(source.partial for a in self.args for source in a.summed)

    @property
    def folder(self) -> Path | None:
        """Where the configuration and the tokenizer lie: with the first model."""
        return next((f for leaf in self.leaves if leaf.mass and (f := folder_of(leaf))), None)

    def settled(self) -> "tuple[dict[str, Any], dict[str, Sequence[str]]]":
        """Entries of config.json that are other than in `folder`; and, by stacks of layers, what it would have to say
        of their layers and cannot (views/bylayer.py). The first call among the arguments has the last word."""
        entries: dict[str, Any] = {}
        problems: dict[str, Sequence[str]] = {}
        for inner in reversed(list(self.inner())):
            more, wrong = inner.settled()
            entries, problems = entries | more, problems | wrong
        return entries, problems

    @property
    def config(self) -> dict[str, Any]:
        """Entries of config.json that are other than in `folder`."""
        return self.settled()[0]

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that goes with the result (views/tokens.py), where it is another than that in `folder`."""
        return next((found for inner in self.inner() if (found := inner.tokenizer)), None)

    @cached_property
    def knobs(self) -> frozenset[str]:
        """Names in arguments and parameters that have no value yet."""
        return frozenset().union(*(a.knobs for a in self.args), *(c.knobs for c in self.coefficients()))

    def coefficients(self) -> Iterator[Coefficient]:
        """Every number among the parameters."""
        for value in self.params.values():
            yield from _coefficients(value)

    @property
    def methods(self) -> dict[str, str]:
        """The user's own methods in here: name -> digest of its code."""
        return {k: v for s in self.inner() for k, v in s.methods.items()}

    def bind(self, values: Mapping[str, Any]) -> Weights:
        """The same call with knobs replaced."""

        def bound(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: bound(v) for key, v in value.items()}
            if isinstance(value, tuple):
                return tuple(map(bound, value))
            return value if isinstance(value, str) else value.bind(values)

        args = [a.bind(**{k: v for k, v in values.items() if k in a.knobs}) for a in self.args]
        return self.rebuilt(tuple(args), {k: bound(p) for k, p in self.params.items()})

    def placed(self, model: Source | None) -> "Derived":
        """The same call beside or within a model, or task vector, that names every tensor: an adapter names only some,
        and neither the number of the model's entries nor that of its layers can be told from it. None: there is no such
        model. Itself where nothing in it needs to know."""
        args = tuple(a.placed_in(model) for a in self.args)
        if all(new is old for new, old in zip(args, self.args, strict=True)):
            return self
        (found,) = self.rebuilt(args, self.params).terms
        assert isinstance(found, Derived)
        return found

    def written(self, names: Mapping[Source, str]) -> str:
        """The call as a recipe writes it; parameters that have their default are left out."""
        parts = [a.text(names) for a in self.args]
        for key, value in self.params.items():
            if value != as_parameter(self.defaults.get(key)):
                parts.append(f"{key}={parameter_text(value)}")
        return f"{self.name}({', '.join(parts)})"

    @cached_property
    def text(self) -> str:
        """The call, its sources as they write themselves."""
        return self.written({})

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE3 of the call, its parameters and its arguments' coefficients and fingerprints."""
        from blake3 import blake3

        args = [[[str(c), s.fingerprint] for s, c in a.ordered()] for a in self.args]
        params = {k: parameter_text(v) for k, v in self.params.items()}
        return blake3(json.dumps([self.name, self.methods, params, args]).encode()).hexdigest()

    def stamp(self) -> str | None:
        """The call and the stamps of all that it reads; None if one of them, or the user's own code, has none."""
        found = [self.fingerprint, *self.proofs(), *(leaf.stamp() for leaf in self.leaves)]
        return None if None in found else repr(found)

    def calls(self) -> "tuple[Derived, ...]":
        """This one and all within it, each once."""
        found: dict[Derived, None] = {self: None}
        for call in (waiting := [self]):
            new = [inner for inner in call.inner() if inner not in found]
            found |= dict.fromkeys(new)
            waiting += new
        return tuple(found)

    def proofs(self) -> tuple[str | None, ...]:
        """For each call of the user's own code in here what says that it is the same code (methods/proof.py)."""
        return tuple(proof for call in self.calls() for proof in call.own_proof())

    def own_proof(self) -> tuple[str | None, ...]:
        """That of this call alone; nothing where it runs no code but ours."""
        return ()

    def require_unchanged(self) -> None:
        """Raise SourceChanged if something that it reads has changed."""
        for leaf in self.leaves:
            leaf.require_unchanged()
        for call in self.calls():
            call.require_beside_unchanged()

    def require_beside_unchanged(self) -> None:
        """Raise SourceChanged if what this call alone has read beside the weights is no longer the same."""

    def astray(self) -> Iterator[str]:
        """Statistics in here that are of another model than the one they stand beside."""
        for inner in self.inner():
            yield from inner.astray()

    def unfit(self, beyond: Iterable[str] = ()) -> Iterator[str]:
        """What is wrong with patterns in here (`Weights.unfit`)."""
        names = dict.fromkeys([*self.specs, *beyond])
        yield from unfit(self.coefficients(), names)
        for a in self.args:
            yield from a.unfit(names)

    # ---- what it costs
    def inner(self) -> Iterator["Derived"]:
        """The calls among the arguments."""
        yield from {s: None for a in self.args for s in a.terms if isinstance(s, Derived)}

    @property
    def passes(self) -> int:
        """Passes over the data before the one that computes, those of its arguments included."""
        return self.own_passes + max((s.passes for s in self.inner()), default=0)

    @property
    def unmeasured(self) -> int:
        """Elements that `prepare` has still to read."""
        return sum(s.unmeasured for s in self.inner())

    @property
    def resident(self) -> int:
        """Bytes held beside the blocks."""
        return sum(resident_of(s) for a in self.args for s in a.terms)

    def prepare(
        self, threads: int, progress: Callable[[int], None] = lambda size: None, names: Names | None = None
    ) -> None:
        """Measure what must be known before, arguments first; once. `names`: at least for these tensors, if any."""
        prepare(self.args, threads, progress, None if names is None or names else ())

    @property
    def kin(self) -> Hashable:
        """Calls with equal ones are measured together (`prepare_all`)."""
        return self

    @classmethod
    def prepare_all(
        cls, calls: Sequence[Any], threads: int, progress: Callable[[int], None], names: Names | None
    ) -> None:
        """`prepare` for calls of one kin."""
        for call in calls:
            call.prepare(threads, progress, names)

    def scratch(self, name: str) -> int:
        """Bytes that a thread holds while it computes a range of one tensor, without what the calls below hold."""
        raise NotImplementedError

    def below(self, name: str) -> Iterator[tuple[Source, str]]:
        """(source, its tensor) for all that is summed in the arguments for one tensor."""
        for a in self.args:
            if name in a.specs:
                yield from a.parts(name)

    @property
    def measuring(self) -> int:
        """Bytes that a thread holds while a call measures, beside the tables that `scratch` counts."""
        return max((s.measuring for s in self.inner()), default=0)

    def reads(self, name: str) -> int:
        """Bytes of files that are read for one tensor, in all passes."""
        return (1 + self.own_passes) * sum(reads(a, name) for a in self.args)

    # ---- values
    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Fill `out` with elements of `name` from flat index `start` on."""
        raise NotImplementedError


def base_of(weights: Weights) -> str | None:
    """The fingerprint of the model that a task vector is relative to: the one subtracted, or its vectors' own."""
    subtracted = [s for s, c in weights.terms.items() if s.mass and (c.constant or 0) < 0]
    if len(subtracted) == 1:
        return subtracted[0].fingerprint
    bases = {s.base for s in weights.terms}
    return bases.pop() if len(bases) == 1 and not subtracted else None


def prepare(
    args: Sequence[Weights],
    threads: int,
    progress: Callable[[int], None] = lambda size: None,
    names: Names | None = None,
) -> None:
    """Let every call in the expressions measure what it must know beforehand: at least for the tensors `names`, or
    for all. `progress` gets the elements of each part."""
    wanted: dict[Derived, dict[str, None]] = {s: {} for a in args for s in a.terms if isinstance(s, Derived)}
    for a in args:
        for name in names or ():
            for source, inner in a.parts(name) if name in a.specs else ():  # views are looked through
                if isinstance(source, Derived):
                    wanted.setdefault(source, {})[inner] = None
    together: dict[tuple[Hashable, tuple[str, ...] | None], list[Derived]] = {}
    for call, its in wanted.items():
        together.setdefault((call.kin, None if names is None else (*its,)), []).append(call)
    for calls in together.values():
        of = None if names is None else wanted[calls[0]]  # a dict: whether it has a name is asked for every tensor
        calls[0].prepare_all(calls, threads, progress, of)


def as_parameter(value: Any) -> Parameter | None:
    """A default as it compares with what was given."""
    if isinstance(value, tuple):
        return tuple(map(Coefficient.of, value))
    return value if isinstance(value, str) or value is None else Coefficient.of(value)


def _coefficients(value: Any) -> Iterator[Coefficient]:
    if isinstance(value, Coefficient):
        yield value
    elif isinstance(value, tuple | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _coefficients(inner)


def parameter_text(value: Any) -> str:
    """A parameter as a recipe writes it."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{quoted(key)}: {parameter_text(v)}' for key, v in value.items())}}}"
    if isinstance(value, tuple):
        return f"({', '.join(map(parameter_text, value))}{',' * (len(value) == 1)})"
    return quoted(value) if isinstance(value, str) else str(value)


def reads(weights: Weights, name: str) -> int:
    """Bytes of files that an expression reads for one tensor."""
    total = 0
    for source, inner in weights.parts(name):
        if isinstance(source, Derived):
            total += source.reads(inner)
        elif not source.partial:
            total += source.specs[inner].nbytes
    return total


def held(parts: Iterable[tuple[Source, str]]) -> int:
    """Bytes that the calls in a sum, and those below them, hold for one tensor, each thread its own. A call that stands
    in several places has its memory once."""
    waiting = dict.fromkeys((source, name) for source, name in parts if isinstance(source, Derived))
    found: dict[tuple[Derived, str], None] = {}
    while waiting:
        source, name = waiting.popitem()[0]
        found[source, name] = None
        inner = dict.fromkeys((below, its) for below, its in source.below(name) if isinstance(below, Derived))
        waiting |= {part: None for part in inner if part not in found}
    return sum(source.scratch(name) for source, name in found)
