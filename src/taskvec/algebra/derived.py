"""Calls of methods and views, such as `ties(a, b)` and `rename(m, {...})`, as sources.

The result of a call adds and scales like a checkpoint. It prints as the call, and its elements are computed when they
are asked for. This module has what methods and views have in common.
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
from taskvec.sources.abilities import Composite, Measured, folder_of
from taskvec.sources.cost import Cost
from taskvec.sources.source import Source, Spec
from taskvec.sources.text import quoted

DEEPEST = 25  # calls within one another: functions that walk through them recurse as deep
MOST_CALLS = 1000  # calls in the text of an expression, in which a shared call is written more than once
STRETCH = 1 << 27  # elements: tensors are measured and then computed in groups of at most this size
Names = Collection[str]  # names of tensors
Parameter = Coefficient | str | tuple["Coefficient | str", ...] | dict[str, Any]  # the dict is a table of parameters


class Derived(Composite, Measured):
    """The call `name(*args, **params)`. A subclass says what its tensors are (`specs`, `stored`, `readinto`).

    params: every parameter in the order of the signature, with the value that was given or else the default.
    defaults: the default values. A parameter that has its default is left out of the text.
    """

    own_passes = 0  # passes over the data before the one that computes
    alike = True  # whether the arguments have the same names and shapes
    args: tuple[Weights, ...]
    busy = True  # whether it computes in Python, too, and not in kernels alone

    def __init__(
        self, name: str, args: tuple[Weights, ...], params: Mapping[str, Parameter], defaults: Mapping[str, Any]
    ):
        self.name, self.args, self.params, self.defaults = name, args, dict(params), defaults
        inner = [source for a in args for source in a.terms if isinstance(source, Derived)]
        self.nesting: int = 1 + max((source.nesting for source in inner), default=0)
        self.in_text: int = 1 + sum(source.in_text for source in inner)  # how many calls its text has
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
        """Two calls are equal if these are: the name, the arguments and the parameters."""
        return self.name, self.args, tuple(sorted(self.params.items(), key=lambda item: item[0]))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Derived) and self.same() == other.same()

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.args))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> Any:
        """A pickle, and so a copy, holds what the call is given, and nothing that it has computed or measured."""
        return type(self), (self.name, self.args, self.params, dict(self.defaults))

    # ---- what it is
    @property
    def specs(self) -> Mapping[str, Spec]:
        """Name -> Spec, with the dtypes in which the tensors are computed."""
        raise NotImplementedError

    @property
    def stored(self) -> Mapping[str, Spec]:
        """`specs` with the dtypes that an output has unless another one is asked for."""
        raise NotImplementedError

    @property
    def tensors(self) -> Mapping[str, tuple[int, str]] | None:
        """Of a view: for each tensor which argument it is from, and the name that it has there. None for a method."""
        return None

    @property
    def verbatim(self) -> bool:
        """Whether every tensor is one of a file, bit for bit. Only views can say so."""
        return False

    @property
    def leaves(self) -> tuple[Source, ...]:
        """Every file or array below, in order of mention."""
        return tuple(dict.fromkeys(leaf for a in self.args for leaf in a.mentioned))

    @cached_property
    def mass(self) -> int:
        """The mass of its first argument, which all its arguments share."""
        return self.args[0].kind()

    @property
    def base(self) -> str | None:
        """The fingerprint of the model that all arguments are relative to; None if there are several or none."""
        bases = {None if self.mass else base_of(a) for a in self.args}
        return bases.pop() if len(bases) == 1 else None

    @property
    def partial(self) -> bool:
        """Whether every source of every argument is partial."""
        return all(source.partial for a in self.args for source in a.summed)

    @property
    def folder(self) -> Path | None:
        """The folder of the first model, in which the configuration and the tokenizer lie."""
        return next((f for leaf in self.leaves if leaf.mass and (f := folder_of(leaf))), None)

    def settled(self) -> "tuple[dict[str, Any], dict[str, Sequence[str]]]":
        """(entries, problems): the entries of config.json that are other than in `folder`; and for each stack of layers
        what config.json would have to say of its layers and cannot (views/bylayer.py).

        Where several calls among the arguments have the same entry, that of the first one counts.
        """
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
        return next((tokenizer for inner in self.inner() if (tokenizer := inner.tokenizer)), None)

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
        """The user's own methods in here: name -> digest of their code."""
        return {k: v for s in self.inner() for k, v in s.methods.items()}

    def bind(self, values: Mapping[str, Any]) -> Weights:
        """The same call with numbers in place of knobs."""

        def bound(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: bound(v) for key, v in value.items()}
            if isinstance(value, tuple):
                return tuple(map(bound, value))
            return value if isinstance(value, str) else value.bind(values)

        args = [a.bind(**{k: v for k, v in values.items() if k in a.knobs}) for a in self.args]
        return self.rebuilt(tuple(args), {k: bound(p) for k, p in self.params.items()})

    def placed(self, model: Source | None) -> "Derived":
        """The same call, told which model, or task vector that names every tensor, it is added to.

        An adapter names only some tensors, so that it does not say how many entries or layers its model has. None:
        there is no such model. The call itself is returned if nothing in it needs to know.
        """
        args = tuple(a.placed_in(model) for a in self.args)
        if all(new is old for new, old in zip(args, self.args, strict=True)):
            return self
        (call,) = self.rebuilt(args, self.params).terms
        assert isinstance(call, Derived)
        return call

    def written(self, names: Mapping[Source, str]) -> str:
        """The call as a recipe writes it, with these names for its sources."""
        parts = [a.text(names) for a in self.args]
        for key, value in self.params.items():
            if value != as_parameter(self.defaults.get(key)):
                parts.append(f"{key}={parameter_text(value)}")
        return f"{self.name}({', '.join(parts)})"

    @cached_property
    def text(self) -> str:
        """The call as a recipe writes it, with every source written out."""
        return self.written({})

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE3 of the call's name, its parameters, and the coefficients and fingerprints in its arguments."""
        from blake3 import blake3

        args = [[[str(c), s.fingerprint] for s, c in a.ordered()] for a in self.args]
        params = {k: parameter_text(v) for k, v in self.params.items()}
        return blake3(json.dumps([self.name, self.methods, params, args]).encode()).hexdigest()

    def stamp(self) -> str | None:
        """The call and the stamps of all that it reads. None if one of these, or code of the user, has no stamp."""
        stamps = [self.fingerprint, *self.proofs(), *(leaf.stamp() for leaf in self.leaves)]
        return None if None in stamps else repr(stamps)

    def calls(self) -> "tuple[Derived, ...]":
        """This call and all calls within it, each once."""
        calls: dict[Derived, None] = {self: None}
        for call in (waiting := [self]):
            new = [inner for inner in call.inner() if inner not in calls]
            calls |= dict.fromkeys(new)
            waiting += new
        return tuple(calls)

    def proofs(self) -> tuple[str | None, ...]:
        """For each call of the user's own code in here a text that changes when the code does (methods/core/proof.py);
        None if there is no such text."""
        return tuple(proof for call in self.calls() for proof in call.own_proof())

    def own_proof(self) -> tuple[str | None, ...]:
        """`proofs` of this call alone: () if it runs no code of the user."""
        return ()

    def require_unchanged(self) -> None:
        """Raise SourceChanged if a file or an array that it reads has changed."""
        for leaf in self.leaves:
            leaf.require_unchanged()
        for call in self.calls():
            call.require_beside_unchanged()

    def require_beside_unchanged(self) -> None:
        """Raise SourceChanged if a file that this call alone has read beside the weights has changed."""

    def astray(self) -> Iterator[str]:
        """A line for each source of statistics in here that stands beside another model than its own."""
        for inner in self.inner():
            yield from inner.astray()

    def unfit(self, beyond: Iterable[str] = ()) -> Iterator[str]:
        """What is wrong with the patterns in here, a line each (`Weights.unfit`)."""
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
        """Passes over the data before the one that computes, including those of its arguments."""
        return self.own_passes + max((s.passes for s in self.inner()), default=0)

    @property
    def unmeasured(self) -> int:
        """The number of elements that `prepare` has yet to read."""
        return sum(s.unmeasured for s in self.inner())

    @property
    def cost(self) -> Cost:
        """The memory that this call alone takes, for the whole run and while it measures."""
        return Cost()

    def cost_of(self, name: str) -> Cost:
        """The memory that a thread takes for this call alone while it computes a range of one tensor."""
        raise NotImplementedError

    def prepare(
        self, threads: int, progress: Callable[[int], None] = lambda size: None, names: Names | None = None
    ) -> None:
        """Measure what must be known before anything is computed, the arguments first. What is known is not measured
        again. names: the tensors for which it must be known at least; None for all."""
        prepare(self.args, threads, progress, None if names is None or names else ())

    @property
    def kin(self) -> Hashable:
        """A key: calls with equal keys are measured together (`prepare_all`)."""
        return self

    @classmethod
    def prepare_all(
        cls, calls: Sequence[Any], threads: int, progress: Callable[[int], None], names: Names | None
    ) -> None:
        """`prepare` for calls of equal `kin`."""
        for call in calls:
            call.prepare(threads, progress, names)

    def reads(self, name: str) -> int:
        """Bytes of files that are read for one tensor, in all passes."""
        return (1 + self.own_passes) * sum(reads(a, name) for a in self.args)

    # ---- values
    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Fill `out` with elements of `name` from flat index `start` on."""
        raise NotImplementedError


def base_of(weights: Weights) -> str | None:
    """The fingerprint of the model that a task vector is relative to: the model that is subtracted, or, where none is,
    the base that all its vectors have. None if that is not one model."""
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
    """Let every call in the expressions measure what it must know before it computes.

    names: the tensors for which it must be known at least; None for all.
    progress: is called with the number of elements of each part that was read.
    """
    wanted: dict[Derived, dict[str, None]] = {s: {} for a in args for s in a.terms if isinstance(s, Derived)}
    for a in args:
        for name in names or ():
            for source, inner in a.parts(name) if name in a.specs else ():  # views are looked through
                if isinstance(source, Derived):
                    wanted.setdefault(source, {})[inner] = None
    together: dict[tuple[Hashable, tuple[str, ...] | None], list[Derived]] = {}
    for call, inner_names in wanted.items():
        together.setdefault((call.kin, None if names is None else (*inner_names,)), []).append(call)
    for calls in together.values():
        needed = None if names is None else wanted[calls[0]]  # a dict, because `in` is asked for every tensor
        calls[0].prepare_all(calls, threads, progress, needed)


def as_parameter(value: Any) -> Parameter | None:
    """A default value in the form that given parameters have: numbers as Coefficients. None stays None."""
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
    """Bytes of files that an expression reads for one tensor. Adapters, which are held in memory, do not count."""
    total = 0
    for source, inner in weights.parts(name):
        if isinstance(source, Derived):
            total += source.reads(inner)
        elif not source.partial:
            total += source.specs[inner].nbytes
    return total
