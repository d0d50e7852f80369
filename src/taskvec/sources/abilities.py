"""What a source can do beyond `Source`: abilities with names, which a class states by inheriting from them.

Every source has the members of `Source`. Some can do more: a checkpoint lies in a file that a kernel reads by itself,
an adapter changes beside a model, a method must measure first. Each such ability is a class in this file, its docstring
says what it promises, and `isinstance(source, OnDisk)` asks for it. A source without an ability needs none of its
members, and the functions at the end say what then holds in their place.

The abilities are plain classes, neither protocols nor abstract base classes, because some of them are asked for once
for each of 100,000 tensors. In Python 3.11 `isinstance` takes 20 ns for a plain class, 170 ns for one of abc.ABC, and
6 to 11 us for a protocol that is checked at run time, which looks every member up. The type checker asks for what is
marked with `abstractmethod` in a plain class as well, and tests/sources/test_contract.py asks every kind of source.
"""

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from taskvec.errors import MassError, RecipeError, SourceChanged
from taskvec.places.local import located
from taskvec.places.place import Place, Readable, WithFolder
from taskvec.sources.cost import Cost
from taskvec.sources.source import Source, Spec
from taskvec.sources.text import quoted

NOTHING: Mapping[str, Any] = MappingProxyType({})


# ---- what a source is made of ---------------------------------------------------------------------
class Leaf:
    """It has numbers of its own, in files or in memory, and is made from no other source."""

    metadata: Mapping[str, str] = NOTHING  # what the header of its file says beside the tensors
    statistic: str = ""  # the kind of statistics of a model that it holds in place of weights, such as "fisher"
    cost: Cost = Cost()  # the memory that it takes beside that of its headers


class FromFiles(Leaf):
    """It was loaded, and `open_source(uri, revision)` loads it again. `text` is the call of `load` that does.

    Two of them are equal if they are of one class and have the same `identity`.

    A pickle holds its uri, revision, path and fingerprint, and no numbers. To unpickle it is to open it again, at the
    same path, or if nothing is there at what the uri names. The fingerprint must still be the same.
    """

    files: Mapping[str, Readable]  # the files that hold its tensors, by their names

    def __init__(self, place: Place, name: str, uri: str, revision: str | None):
        """The file of this name in a place, or the place as a whole for "". uri: as it was given."""
        self.place, self.uri, self.revision = place, uri, revision
        # Where its configuration and its tokenizer lie on this machine, and the file or the folder that was named.
        self.folder = place.folder if isinstance(place, WithFolder) else None
        self.path = self.folder / name if self.folder else None

    @property
    @abstractmethod
    def identity(self) -> tuple[object, ...]:
        """What tells its numbers from others: the addresses and stamps of its files, and what else they depend on."""

    def stamp(self) -> str:
        """See `Source`: what the places said of the files when they were opened."""
        return repr(self.identity)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.identity == other.identity

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.identity)

    @property
    def text(self) -> str:
        """As a recipe writes it."""
        revision = f", revision={quoted(self.revision)}" if self.revision else ""
        return f"load({quoted(self.uri)}{revision})"

    @property
    def codes(self) -> tuple[str, ...] | None:
        """A line for each quantised tensor; None where that must be worked out from `specs` (quantised.py)."""
        return None

    @classmethod
    @abstractmethod
    def opened(cls, place: Place, name: str, uri: str, revision: str | None) -> Source:
        """The source of this kind in a place."""

    def __reduce__(self: Any) -> Any:
        beside = self.beside if isinstance(self, Adapts) else None
        at = str(self.path.absolute()) if self.path else ""
        return _again, (type(self), at, self.uri, self.revision, beside, self.fingerprint)

    def __repr__(self) -> str:
        return self.text


class Composite:
    """It is a call over expressions, of a method or of a view: `name(*args, **params)`, which a recipe writes so."""

    args: tuple[Any, ...]  # the expressions that it is given (Weights)

    @property
    @abstractmethod
    def leaves(self) -> tuple[Source, ...]:
        """Every file and array that it reads, each once, in order of mention."""

    @property
    @abstractmethod
    def stored(self) -> Mapping[str, Spec]:
        """`specs` with the dtypes that an output has unless another one is asked for."""

    @property
    @abstractmethod
    def tensors(self) -> Mapping[str, tuple[int, str]] | None:
        """Of a view: for each tensor which argument it is from, and the name that it has there. None for a method."""

    @property
    @abstractmethod
    def verbatim(self) -> bool:
        """Whether every tensor is one of a file, bit for bit."""

    @property
    @abstractmethod
    def folder(self) -> Path | None:
        """Where the configuration and the tokenizer of the result lie."""

    @property
    @abstractmethod
    def config(self) -> Mapping[str, Any]:
        """Entries of config.json that are other than in `folder`."""

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """The tokenizer that goes with the result where it is another one than that in `folder`, else None."""

    @property
    @abstractmethod
    def knobs(self) -> frozenset[str]:
        """Names in arguments and parameters that have no value yet."""

    @property
    @abstractmethod
    def methods(self) -> Mapping[str, str]:
        """The user's own methods in the call: their names, each with the digest of its code."""

    @property
    @abstractmethod
    def cost(self) -> Cost:
        """The memory that the call alone takes: what its arguments take they say for themselves."""

    @abstractmethod
    def written(self, names: Mapping[Source, str]) -> str:
        """The call as a recipe writes it, with these names for its sources."""

    @abstractmethod
    def bind(self, values: Mapping[str, Any]) -> Any:
        """The same call with knobs replaced by numbers, as an expression (Weights)."""

    @abstractmethod
    def placed(self, model: Source | None) -> Source:
        """The same call beside a model that names every tensor, or beside none."""

    @abstractmethod
    def unfit(self, beyond: Iterable[str] = ()) -> Iterator[str]:
        """What is wrong with patterns in the call, a line each; `beyond`: names of the expression around it."""

    @abstractmethod
    def astray(self) -> Iterator[str]:
        """The statistics in the call that are of another model than the one they stand beside, a line each."""


# ---- how its tensors are read ---------------------------------------------------------------------
class OnDisk:
    """Its elements lie in a file as they are, so that a kernel may read them itself."""

    @abstractmethod
    def segment(self, name: str, start: int) -> tuple[int, int]:
        """(file descriptor, offset) of element `start` of a tensor; the elements behind it follow, in the bytes that
        `readinto` would fill in."""


class Lowers:
    """Its elements can be computed by operations of the kernel, as a part of the program that adds them up."""

    @abstractmethod
    def lowered(self, program: Any, name: str) -> int | None:
        """Add the operations for a tensor to a program (algebra/program.py) and return a reference to their result,
        which has the bits that `readinto` gives. None where there are no such operations for this tensor."""

    @abstractmethod
    def lowered_bytes(self, name: str, n: int) -> int | None:
        """Bytes of scratch memory that these operations need for n elements, or None."""


class LooksThrough:
    """Its tensors are sums of tensors of other sources, which are read there in its place."""

    @abstractmethod
    def origin(self, name: str) -> dict[tuple[Source, str], Fraction]:
        """What is summed for a tensor: (source, its tensor) -> number. Itself where it has to make the tensor."""


class Measured:
    """It must read data before it can compute: `prepare` (algebra/derived.py) measures what it has to know."""

    @property
    @abstractmethod
    def passes(self) -> int:
        """Passes over the data before the one that computes, those of its arguments included."""

    @property
    @abstractmethod
    def unmeasured(self) -> int:
        """Elements that it has still to read before it can compute."""


class Adapts:
    """An adapter: it takes another form beside the model that it is added to (algebra/fitting.py)."""

    beside: Source | None  # the model that told it which way round tensors are stored, if it was asked

    @abstractmethod
    def fitted(self, model: Source) -> Source:
        """The form in which it is added to a model: itself if nothing changes."""

    @abstractmethod
    def objections(self, model: Source | None, as_term: bool = True) -> Sequence[str]:
        """What speaks against adding it to a model, or to none. `as_term`: whether it is added as it is, and not within
        a view or a method."""

    @abstractmethod
    def remarks(self, model: Source | None) -> Sequence[str]:
        """What a user should know about the sum with a model, or with none."""


def _again(
    kind: type[FromFiles], at: str, uri: str, revision: str | None, beside: Source | None, fingerprint: str
) -> Source:
    """What was pickled, opened again. Raises FormatError where it is no longer there, SourceChanged if it is another.

    beside: the model that had told an adapter which way round its tensors are stored.
    """
    place, name = located(at) if os.path.lexists(at) else located(uri, revision)
    source = kind.opened(place, name, uri, revision)
    if beside is not None and isinstance(source, Adapts):
        source = source.fitted(beside)
    if source.fingerprint != fingerprint:
        raise SourceChanged(
            f"{source.text} is not what it was when it was pickled: its fingerprint was {fingerprint[:16]}, and is "
            f"{source.fingerprint[:16]} now"
        )
    return source


ABILITIES = (Leaf, FromFiles, Composite, OnDisk, Lowers, LooksThrough, Measured, Adapts)


# ---- what holds for every source ------------------------------------------------------------------
def require_source(given: object) -> None:
    """Raise RecipeError for an object that lacks members of `Source`, with their names. A wrapper may pass them on."""
    if isinstance(given, (Leaf, Composite)):
        return
    if missing := sorted(name for name in _REQUIRED - {*dir(given)} if not hasattr(given, name)):
        raise RecipeError(
            f"{type(given).__name__} is no source, for it has no {', '.join(missing)}: taskvec.Source says what each is"
        )


_REQUIRED = {name for name in vars(Source) if not name.startswith("_")}


def leaves_of(source: Source) -> tuple[Source, ...]:
    """The files and arrays that a source reads: itself, or what a call was given."""
    return source.leaves if isinstance(source, Composite) else (source,)


def folder_of(source: Source | None) -> Path | None:
    """Where the configuration and the tokenizer of a source lie, if it has a place on the disk."""
    return source.folder if isinstance(source, (FromFiles, Composite)) else None


def metadata_of(source: Source | None) -> Mapping[str, str]:
    """What the header of a source's file says beside the tensors."""
    return source.metadata if isinstance(source, Leaf) else NOTHING


def cost_of(source: Source) -> Cost:
    """The memory that a source alone takes."""
    return source.cost if isinstance(source, (Leaf, Composite)) else Cost()


def stored_of(source: Source | None) -> Mapping[str, Spec]:
    """The tensors of a source with the dtypes that an output has which is like it."""
    if source is None:
        return NOTHING
    return source.stored if isinstance(source, Composite) else source.specs


def statistic_of(source: Source) -> str:
    """The kind of statistics that a source holds instead of weights, or ""."""
    if isinstance(source, (Leaf, Composite)):
        return source.statistic if isinstance(source, Leaf) else ""
    return str(getattr(source, "statistic", "") or "")  # of your own class, which need not be a Leaf to say so


def refuse_statistics(sources: Iterable[Source]) -> None:
    """Raise MassError that names the sources which hold statistics: what is summed are weights."""
    if lines := [
        f"{s.text} holds {statistic_of(s)} statistics: only a method takes them" for s in sources if statistic_of(s)
    ]:
        raise MassError("statistics are no weights:", lines)


def written(source: Source, names: Mapping[Source, str]) -> str:
    """A source as a recipe writes it."""
    return source.written(names) if isinstance(source, Composite) else names.get(source, source.text)
