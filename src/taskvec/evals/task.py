"""What all kinds of tasks share: where their examples come from, in which order, and which live module judges them."""

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
LiveOf = Callable[..., Live]  # folder, kind, dtype, device[, class] -> the one module there is of these


@runtime_checkable
class InModule(Protocol):
    """A task that is judged in a live module. Tasks of one model share the module; one can learn from them."""

    live: Live


@runtime_checkable
class Predicts(Protocol):
    """A task that gives the label which a model predicts for each example."""

    def predictions(self, weights: Weights, split: str, start: float, stop: float) -> Any:
        """The place of a class for each example, from one share of them to another."""


@dataclass
class Task(Data):
    """A task of a suite, as its file describes it; `open` makes it ready.

    Fields are the keys of the file. Scores are by suffix: "" is the task's own name, "loss" is NAME_loss.
    """

    model: str = ""
    dtype: str = "auto"
    device: str = "cpu"
    batch: int = 32
    name: str = field(default="", init=False)
    root: Path = field(default=Path(), init=False)
    kind: ClassVar[str] = ""
    module: ClassVar[str] = ""  # which kind of module it is judged in (module.py), "" for none
    told: ClassVar[Sequence[str]] = (
        "",
    )  # the suffixes of the metrics that have a score an example, or are of them all

    falling: ClassVar[bool] = False  # whether less is better

    def open(self, name: str, root: Path, live_of: LiveOf) -> None:
        """`root`: the folder that paths are relative to. Raises RecipeError for settings that do not go together."""
        self.settle(name, root)
        self.live = self.opened(live_of, self.module)

    def settle(self, name: str, root: Path) -> None:
        """Check the settings that tasks of a live module share."""
        self.name, self.root = name, root
        self.check(name)
        if self.batch < 1:
            raise RecipeError(f"{name}: batch is at least 1, not {self.batch}")
        if self.dtype not in DTYPES:
            raise RecipeError(f"{name}: dtype is one of {', '.join(DTYPES)}, not {self.dtype}")

    def opened(self, live_of: LiveOf, kind: str) -> Live:
        """The live module of a kind."""
        if not self.model:
            raise RecipeError(f"{self.name}: say whose architecture and tokenizer it has (model: FOLDER)")
        return live_of(self.root / self.model, kind, self.dtype, self.device)

    def listed(self, split: str) -> list[Example]:
        """The examples of a split, read once, in an order of which every beginning is a fair sample (order.py)."""
        kept: dict[str, list[Example]] = self.__dict__.setdefault("_kept", {})
        if split not in kept:
            found = self.examples(split, self.root)
            order = fair_order([e.identity for e in found], [e.label for e in found])
            kept[split] = [found[k] for k in order]
        return kept[split]

    def part(self, split: str, start: float, stop: float) -> list[Example]:
        """The examples of a split from one share of them to another."""
        listed = self.listed(split)
        return listed[within(len(listed), start, stop)]

    def identities(self, split: str) -> Sequence[str] | None:
        """What each example is recognised by; None if it cannot be told."""
        return [e.identity for e in self.listed(split)]

    def texts(self, split: str) -> "Sequence[str | frozenset[str]] | None":
        """The text of each example, by its digest, or those of all documents that an example is made of."""
        return self.identities(split)

    def ready(self) -> None:
        """What must be made of the file's own model, before its module is another one."""

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

    def once(self, weights: Weights, asked: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """What `make` gives: made once for the same weights, of which scores are asked for and then predictions."""
        last = self.__dict__.get("_last")
        if last is None or last[0] is not weights or last[1] != asked:
            self._last = last = weights, asked, make()
        return last[2]

    def scores(self, weights: Weights, split: str, start: float, stop: float) -> Mapping[str, Any]:
        """By suffix, on the examples from one share of them to another."""
        raise NotImplementedError


def batch_of(count: int, size: int, step: int) -> list[int]:
    """The places of a step's batch: each epoch in an order of its own, the same every time."""
    import numpy as np

    each = -(-count // size)
    order = np.random.default_rng(step // each).permutation(count)
    found: list[int] = order[(step % each) * size :][:size].tolist()
    return found


def within(count: int, start: float, stop: float) -> slice:
    """The places from one share of so many to another: 0 to 0.25 and 0.25 to 1 are all, none twice."""
    return slice(round(start * count), round(stop * count))
