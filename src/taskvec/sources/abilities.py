"""What some sources can do beyond what `Source` asks of all: abilities, which a class has by inheriting from them.

For example, a checkpoint lies in a file that a kernel can read by itself, an adapter changes beside a model, and a
method must measure before it computes. Each ability is a class in this file. Its docstring says what it promises, and
`isinstance(source, OnDisk)` asks for it. A source without an ability needs none of its members; the functions at the
end of the file say what holds for it instead.

The abilities are plain classes, neither protocols nor abstract base classes, because some are asked for once for each
of 100,000 tensors. In Python 3.11 `isinstance` takes 20 ns for a plain class, 170 ns for one of abc.ABC, and 6 to 11 us
for a protocol that is checked at run time, which looks up every member. The type checker demands what `abstractmethod`
marks in plain classes, too, and tests/sources/test_contract.py asks it of every kind of source.
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
    """A source with numbers of its own, in files or in memory: it is not made from other sources.

    A class of your own that inherits from Leaf may set these attributes (docs/sources.md).
    """

    metadata: Mapping[str, str] = NOTHING  # texts in the header of its file, beside the tensors
    statistic: str = ""  # the kind of statistics of a model that it holds in place of weights, such as "fisher"
    cost: Cost = Cost()  # the memory that it takes, apart from its headers


class FromFiles(Leaf):
    """A source that was loaded: `open_source(uri, revision)` loads it again, and `text` is the call of `load` for it.

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
        """The call of `load` that a recipe writes for it."""
        revision = f", revision={quoted(self.revision)}" if self.revision else ""
        return f"load({quoted(self.uri)}{revision})"

    @property
    def codes(self) -> tuple[str, ...] | None:
        """A line for each quantised tensor; None if that must be worked out from `specs` (quantised.py)."""
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
    """The result of a method or of a view: a call `name(*args, **params)`, as a recipe writes it."""

    args: tuple[Any, ...]  # the expressions that it is given (Weights)

    @property
    @abstractmethod
    def leaves(self) -> tuple[Source, ...]:
        """Every file and array that the call reads, each once, in order of mention."""

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
        """The folder in which the configuration and the tokenizer of the result lie."""

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
        """Names in the arguments and parameters that have no value yet."""

    @property
    @abstractmethod
    def methods(self) -> Mapping[str, str]:
        """The user's own methods in the call: their names, each with the digest of its code."""

    @property
    @abstractmethod
    def cost(self) -> Cost:
        """The memory that the call takes, without that of its arguments."""

    @abstractmethod
    def written(self, names: Mapping[Source, str]) -> str:
        """The call as a recipe writes it, with these names for its sources."""

    @abstractmethod
    def bind(self, values: Mapping[str, Any]) -> Any:
        """The same call with numbers in place of knobs, as an expression (Weights)."""

    @abstractmethod
    def placed(self, model: Source | None) -> Source:
        """The same call, told which model that names every tensor it is added to; None if there is none."""

    @abstractmethod
    def unfit(self, beyond: Iterable[str] = ()) -> Iterator[str]:
        """What is wrong with the patterns in the call, a line each. beyond: names of the expression around it."""

    @abstractmethod
    def astray(self) -> Iterator[str]:
        """A line for each source of statistics in the call that stands beside another model than its own."""


# ---- how its tensors are read ---------------------------------------------------------------------
class OnDisk:
    """A source whose elements lie in a file as they are, so that a kernel may read them itself."""

    @abstractmethod
    def segment(self, name: str, start: int) -> tuple[int, int]:
        """(file descriptor, offset) of element `start` of a tensor. From there on the file has the bytes that
        `readinto` would give."""


class Lowers:
    """A source whose elements the kernel can compute, by operations in the program that sums them."""

    @abstractmethod
    def lowered(self, program: Any, name: str) -> int | None:
        """Add the operations for a tensor to a program (algebra/program.py), and return a reference to their result,
        which has the bits that `readinto` gives. None if there are no such operations for this tensor."""

    @abstractmethod
    def lowered_bytes(self, name: str, n: int) -> int | None:
        """Bytes of scratch memory that these operations need for n elements. None if there are no such operations."""


class LooksThrough:
    """A source whose tensors are sums of tensors of other sources. These are read in its place."""

    @abstractmethod
    def origin(self, name: str) -> dict[tuple[Source, str], Fraction]:
        """A tensor as a sum: (source, the name of its tensor) -> the number in front of it. A tensor that this source
        must compute itself is once itself."""


class Measured:
    """A source that must read data before it can compute: `prepare` (algebra/derived.py) measures what it must know."""

    @property
    @abstractmethod
    def passes(self) -> int:
        """Passes over the data before the one that computes, including those of its arguments."""

    @property
    @abstractmethod
    def unmeasured(self) -> int:
        """The number of elements that it has yet to read before it can compute."""


class Adapts:
    """An adapter, which takes another form beside the model that it is added to (algebra/fitting.py)."""

    beside: Source | None  # the model that it was fitted to, which tells whether its matrices are stored transposed

    @abstractmethod
    def fitted(self, model: Source) -> Source:
        """The form in which it is added to a model. It returns itself if nothing changes."""

    @abstractmethod
    def objections(self, model: Source | None, as_term: bool = True) -> Sequence[str]:
        """Reasons why it cannot be added to a model, or used without one, a line each.

        as_term: whether it is added as it is, and not within a view or a method.
        """

    @abstractmethod
    def remarks(self, model: Source | None) -> Sequence[str]:
        """What a user should know about the sum with a model, or about its use without one, a line each."""


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
    """Raise RecipeError that names the members of `Source` which an object lacks. A wrapper may have `__getattr__`."""
    if isinstance(given, (Leaf, Composite)):
        return
    if missing := sorted(name for name in _REQUIRED - {*dir(given)} if not hasattr(given, name)):
        raise RecipeError(
            f"{type(given).__name__} is no source, for it has no {', '.join(missing)}: taskvec.Source says what each is"
        )


_REQUIRED = {name for name in vars(Source) if not name.startswith("_")}


def leaves_of(source: Source) -> tuple[Source, ...]:
    """The files and arrays that a source reads: those of the arguments of a call, else the source itself."""
    return source.leaves if isinstance(source, Composite) else (source,)


def folder_of(source: Source | None) -> Path | None:
    """The folder in which the configuration and the tokenizer of a source lie; None if it has none."""
    return source.folder if isinstance(source, (FromFiles, Composite)) else None


def metadata_of(source: Source | None) -> Mapping[str, str]:
    """The texts in the header of a source's file beside the tensors, or nothing."""
    return source.metadata if isinstance(source, Leaf) else NOTHING


def cost_of(source: Source) -> Cost:
    """The memory that a source takes, without that of sources it is made from; none if its class does not say."""
    return source.cost if isinstance(source, (Leaf, Composite)) else Cost()


def stored_of(source: Source | None) -> Mapping[str, Spec]:
    """Name -> Spec with the dtypes of an output that is like this source (`like` of `save`)."""
    if source is None:
        return NOTHING
    return source.stored if isinstance(source, Composite) else source.specs


def statistic_of(source: Source) -> str:
    """The kind of statistics that a source holds instead of weights, or ""."""
    if isinstance(source, (Leaf, Composite)):
        return source.statistic if isinstance(source, Leaf) else ""
    return str(getattr(source, "statistic", "") or "")  # a user's own class need not be a Leaf


def refuse_statistics(sources: Iterable[Source]) -> None:
    """Raise MassError that names the sources which hold statistics, because only weights can be summed."""
    if lines := [
        f"{s.text} holds {statistic_of(s)} statistics: only a method takes them" for s in sources if statistic_of(s)
    ]:
        raise MassError("statistics are no weights:", lines)


def written(source: Source, names: Mapping[Source, str]) -> str:
    """A source as a recipe writes it, with these names for the files and arrays in it."""
    return source.written(names) if isinstance(source, Composite) else names.get(source, source.text)
