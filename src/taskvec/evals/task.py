"""What all kinds of tasks share: where their examples come from, their order, and the live module that judges them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from taskvec.algebra.weights import Weights
from taskvec.errors import RecipeError
from taskvec.evals.module import Live
from taskvec.evals.order import fair_order
from taskvec.evals.texts import Data, Example

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
LiveOf = Callable[..., Live]  # (folder, kind, dtype, device[, class]) -> the one live module for these


@runtime_checkable
class InModule(Protocol):
    """A task that is judged in a live module, by which coefficients can be learned. Tasks of one model share it."""

    live: Live


@runtime_checkable
class Predicts(Protocol):
    """A task that gives the label which a model predicts for each example."""

    def predictions(self, weights: Weights, split: str, start: float, stop: float) -> Any:
        """The number of a class for each example of a part of a split: see `Task.part`."""


@runtime_checkable
class HasProbabilities(Protocol):
    """A task that gives the probability of each class for each example: an ensemble averages them."""

    def probabilities(self, weights: Weights, split: str, start: float, stop: float) -> Any:
        """(n, classes), from one share of the examples to another."""

    def wanted(self, split: str, start: float, stop: float) -> Sequence[int]:
        """The number of each example's own class, (n,)."""


@dataclass
class Task(Data):
    """A task of a suite, as its file describes it. The fields are the keys of the file; `open` makes it ready.

    A task NAME gives scores by suffix: "" stands for the metric NAME, "loss" for NAME_loss.
    """

    model: str = ""
    dtype: str = "auto"
    device: str = "cpu"
    batch: int = 32
    name: str = field(default="", init=False)
    root: Path = field(default=Path(), init=False)
    kind: ClassVar[str] = ""
    module: ClassVar[str] = ""  # the kind of live module that judges it (module.py), "" for none
    told: ClassVar[Sequence[str]] = ("",)  # the suffixes of the metrics that its examples are told for
    falling: ClassVar[bool] = False  # whether less is better
    unused: ClassVar[Sequence[str]] = ()  # the fields that are no keys of this kind, since they would have no effect

    def open(self, name: str, root: Path, live_of: LiveOf) -> None:
        """Check the settings and get the live module. root: the folder that paths are relative to. Raises
        RecipeError for settings that do not go together."""
        self.settle(name, root)
        self.live = self.opened(live_of, self.module)

    def settle(self, name: str, root: Path) -> None:
        """Check the settings that all tasks with a live module have. Raises RecipeError."""
        self.name, self.root = name, root
        self.check(name)
        if self.batch < 1:
            raise RecipeError(f"{name}: batch is at least 1, not {self.batch}")
        if self.dtype not in DTYPES:
            raise RecipeError(f"{name}: dtype is one of {', '.join(DTYPES)}, not {self.dtype}")

    def opened(self, live_of: LiveOf, kind: str) -> Live:
        """The live module of a kind for this task's model. Raises RecipeError if no model is given."""
        if not self.model:
            raise RecipeError(f"{self.name}: say whose architecture and tokenizer it has (model: FOLDER)")
        return live_of(self.root / self.model, kind, self.dtype, self.device)

    def listed(self, split: str) -> list[Example]:
        """The examples of a split, read once, in an order in which the first ones are a fair sample (order.py)."""
        kept: dict[str, list[Example]] = self.__dict__.setdefault("_kept", {})
        if split not in kept:
            examples = self.examples(split, self.root)
            order = fair_order([e.identity for e in examples], [e.label for e in examples])
            kept[split] = [examples[k] for k in order]
        return kept[split]

    def part(self, split: str, start: float, stop: float) -> list[Example]:
        """The examples of a split from the share `start` to the share `stop`: see `within`."""
        listed = self.listed(split)
        return listed[within(len(listed), start, stop)]

    def identities(self, split: str) -> Sequence[str] | None:
        """The digest of each example of a split; None if the examples cannot be told."""
        return [e.identity for e in self.listed(split)]

    def labelled(self, split: str) -> Sequence[str]:
        """The digest of each example of a split, with its label if it has one; nothing if they cannot be told."""
        return [f"{e.identity} {e.label}".strip() for e in self.listed(split)]

    def texts(self, split: str) -> "Sequence[str | frozenset[str]] | None":
        """The digest of each example's text, or the digests of all documents that it is made of."""
        return self.identities(split)

    def beside(self) -> Sequence[str]:
        """Digests of the files beside its examples on which its scores depend."""
        return ()

    def ready(self) -> None:
        """Make what depends on the model in the file, while the live module still has that model's weights."""

    def loss(self, model: Callable[..., Any], step: int, labels: bool) -> Any:
        """A scalar tensor to learn by, on the step's batch of validation examples (`loss_of`)."""
        examples = self.listed("validation")
        return self.loss_of(model, [examples[k] for k in batch_of(len(examples), self.batch, step)], labels)

    def loss_of(self, model: Callable[..., Any], examples: Sequence[Example], labels: bool) -> Any:
        """The mean loss of `model`, called like the module, on these examples, as a scalar tensor with a gradient.

        labels: by what the examples are labelled as; else by the entropy of what the model says. Raises RecipeError for
        a kind of task that has no such loss.
        """
        raise RecipeError(
            f"{self.name}: nothing can be learned from {self.kind}, only from classification and perplexity"
        )

    def once(self, weights: Weights, part: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """What `make()` returns, which is kept for the last weights and part: scores and predictions both need it."""
        last = self.__dict__.get("_last")
        if last is None or last[0] is not weights or last[1] != part:
            self._last = last = weights, part, make()
        return last[2]

    def scores(self, weights: Weights, split: str, start: float, stop: float) -> Mapping[str, Any]:
        """Suffix -> the scores of a model on a part of a split: see `part`."""
        raise NotImplementedError


def batch_of(count: int, size: int, step: int) -> list[int]:
    """The places of a step's batch, at most `size` of `count`. Each epoch has an order drawn by its number."""
    import numpy as np

    batches = -(-count // size)  # of an epoch
    order = np.random.default_rng(step // batches).permutation(count)
    places: list[int] = order[(step % batches) * size :][:size].tolist()
    return places


def within(count: int, start: float, stop: float) -> slice:
    """The places from the share `start` to the share `stop` of `count`. Neighbouring parts share no place."""
    return slice(round(start * count), round(stop * count))
