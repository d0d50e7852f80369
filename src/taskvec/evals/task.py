"""What the kinds of tasks share: where their examples are, and which live module judges them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from taskvec.errors import RecipeError
from taskvec.evals.module import Live
from taskvec.evals.texts import Data, Example
from taskvec.weights import Weights

LiveOf = Callable[..., Live]  # folder, kind, dtype, device[, class] -> the one module there is of these


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

    def open(self, name: str, root: Path, live_of: LiveOf) -> None:
        """`root`: the folder that paths are relative to. Raises RecipeError for settings that do not go together."""
        self.name, self.root = name, root
        self.check(name)
        if self.batch < 1:
            raise RecipeError(f"{name}: batch is at least 1, not {self.batch}")
        self.live = self.opened(live_of, self.module)

    def opened(self, live_of: LiveOf, kind: str) -> Live:
        """The live module of a kind."""
        if not self.model:
            raise RecipeError(f"{self.name}: say whose architecture and tokenizer it has (model: FOLDER)")
        return live_of(self.root / self.model, kind, self.dtype, self.device)

    def listed(self, split: str) -> list[Example]:
        """The examples of a split, read once."""
        kept: dict[str, list[Example]] = self.__dict__.setdefault("_kept", {})
        if split not in kept:
            kept[split] = self.examples(split, self.root)
        return kept[split]

    def identities(self, split: str) -> Sequence[str] | None:
        """What each example is recognised by; None if it cannot be told."""
        return [e.identity for e in self.listed(split)]

    def scores(self, weights: Weights, split: str, start: float, stop: float) -> Mapping[str, Any]:
        """By suffix, on the examples from one share of them to another."""
        raise NotImplementedError


def within(count: int, start: float, stop: float) -> slice:
    """The places from one share of so many to another: 0 to 0.25 and 0.25 to 1 are all, none twice."""
    return slice(round(start * count), round(stop * count))
