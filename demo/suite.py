"""One live module that takes on any weights, and the texts by which these are judged."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import data
import encoder
import splits
import torch
from tasks import Task
from torch import Tensor

import taskvec as tv

VECTORS = Path(__file__).resolve().parent / "vectors"
Scores = dict[str, float]  # task name -> accuracy


@dataclass(frozen=True)
class Suite:
    """The base, its task vectors, and per task a frozen head, validation texts and test texts. Keys are task names."""

    model: torch.nn.Module
    base: tv.Weights
    vectors: dict[str, tv.Weights]
    tasks: dict[str, Task]
    heads: dict[str, Tensor]
    validation: dict[str, encoder.Texts]
    test: dict[str, encoder.Texts]

    def scores(self, weights: tv.Weights, texts: dict[str, encoder.Texts], names: Iterable[str]) -> Scores:
        """Accuracy of these weights on the named tasks, the module being changed in place."""
        tv.load_into(self.model, weights)
        return {name: encoder.accuracy(self.model, self.heads[name], texts[name]) for name in names}

    def judge(self, names: Iterable[str]) -> "Judge":
        """An evaluator of these tasks, for `tv.search`."""
        return Judge(self, tuple(names))

    def hits(self, weights: tv.Weights, name: str) -> Tensor:
        """(n,) booleans: which test texts of one task these weights get right. Paired comparisons need them."""
        tv.load_into(self.model, weights)
        return encoder.correct(self.model, self.heads[name], self.test[name])


@dataclass(frozen=True)
class Judge:
    """Weights and a split in; for each task out which of its texts are put in their own class."""

    suite: Suite
    names: tuple[str, ...]

    @property
    def text(self) -> str:
        """How a journal names it."""
        return f"the demo's {', '.join(self.names)}"

    def texts(self, split: str) -> dict[str, encoder.Texts]:
        """By task."""
        everything = self.suite.validation if split == "validation" else self.suite.test
        return {name: everything[name] for name in self.names}

    def examples(self, split: str) -> dict[str, list[str]]:
        """A text is identified by its tokens."""
        return {name: [" ".join(map(str, ids)) for ids in t.ids] for name, t in self.texts(split).items()}

    def __call__(self, weights: tv.Weights, split: str) -> dict[str, Tensor]:
        """The module is changed in place."""
        tv.load_into(self.suite.model, weights)
        heads = self.suite.heads
        return {n: encoder.correct(self.suite.model, heads[n], t) for n, t in self.texts(split).items()}


def load(validation: int, test: int) -> Suite:
    """The suite over the tasks that have both their data and their vector, with so many texts of each."""
    tasks = {t.name: t for t in data.available() if (VECTORS / t.name).is_dir()}
    if len(tasks) < data.ENOUGH:
        raise data.DataError(f"only {len(tasks)} tasks have a vector in demo/vectors: run `make demo-vectors`")
    texts = {name: splits.load(task) for name, task in tasks.items()}
    model = encoder.load(encoder.base_folder())
    return Suite(
        model=model,
        base=tv.load(encoder.base_folder()),
        vectors={name: tv.load(VECTORS / name) for name in tasks},
        tasks=tasks,
        heads={name: encoder.zero_shot_head(model, task) for name, task in tasks.items()},
        validation={name: encoder.prepare(s["validation"][:validation]) for name, s in texts.items()},
        test={name: encoder.prepare(s["test"][:test]) for name, s in texts.items()},
    )
