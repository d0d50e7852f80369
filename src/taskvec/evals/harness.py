"""Tasks of lm-evaluation-harness judge a candidate through the API of the harness (extra `harness`)."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from typing import Any, ClassVar

from taskvec.algebra.weights import Weights
from taskvec.errors import FormatError, MissingExtra, RecipeError
from taskvec.evals.evaluator import SPLITS
from taskvec.evals.order import digest, fair_order
from taskvec.evals.task import Task, within


@dataclass
class Harness(Task):
    """A metric of a task of the harness, with a number for each document.

    task: the name of the task in the harness, such as arc_easy. tasks: a folder with task files of your own.
    metric: a metric that the harness logs for each document; by default the first. If the task has several filters, it
        is "METRIC,FILTER", as in the results of the harness.
    shots: the number of worked examples in the prompt.

    The harness has one set of documents for evaluation. They are dealt out to validation and test by their digests,
    `share` of them to validation, and at most `limit` to a split. Their order is that of order.py, with the right
    answers as classes.
    """

    task: str = ""
    metric: str = ""
    tasks: str = ""
    shots: int | None = None
    batch: int = 8
    kind: ClassVar[str] = "harness"
    module: ClassVar[str] = "causal"
    unused: ClassVar[Sequence[str]] = ("data", "validation", "test", "text_column", "label_column")

    def check(self, name: str) -> None:
        """Raise RecipeError if no task is named, or for numbers that cannot be used."""
        if not self.task:
            raise RecipeError(f"{name}: say which task of the harness it is (task: arc_easy)")
        self.check_sizes(name)

    def identities(self, split: str) -> Sequence[str]:
        """The digests of the documents of a split."""
        return [identity for identity, _ in self._dealt[split]]

    def labelled(self, split: str) -> Sequence[str]:
        """The same, since a document has its answer in it."""
        return self.identities(split)

    def scores(self, weights: Weights, split: str, start: float, stop: float) -> Mapping[str, Any]:
        """{"": the metric for each document}. Raises RecipeError for a metric that there is not."""
        dealt = self._dealt[split][within(len(self._dealt[split]), start, stop)]
        samples = self._evaluated(weights, sorted(place for _, place in dealt))
        return {"": self._numbers(samples, [place for _, place in dealt])}

    def _numbers(self, samples: Sequence[Mapping[str, Any]], places: Sequence[int]) -> list[float]:
        """The metric of the documents at `places`, out of what the harness logged: a sample for each document and
        filter."""
        metric, _, filtered = (self.metric or str(next(iter(samples[0]["metrics"])))).partition(",")
        filters = dict.fromkeys(sample.get("filter", "none") for sample in samples)
        if filtered not in filters and (filtered or len(filters) > 1):
            listed = ", ".join(f'"{metric},{name}"' for name in filters)
            raise RecipeError(f"{self.name}: {self.task} has several filters, so metric is one of {listed}")
        chosen = {s["doc_id"]: s for s in samples if not filtered or s.get("filter", "none") == filtered}
        if any(not isinstance(s.get(metric), int | float | bool) for s in chosen.values()):
            known = ", ".join(m for m in samples[0]["metrics"] if isinstance(samples[0].get(m), int | float))
            raise RecipeError(
                f"{self.name}: {self.task} has no number {metric} for a document; it has {known or 'none'}"
            )
        return [float(chosen[place][metric]) for place in places]

    def _evaluated(self, weights: Weights, places: list[int]) -> list[dict[str, Any]]:
        """What the harness logs of the documents at `places`."""
        lm_eval = _harness()
        from lm_eval.models.huggingface import HFLM

        module = self.live.take(weights)
        model = HFLM(pretrained=module, tokenizer=self.live.tokenizer, batch_size=self.batch, device=self.device)
        with redirect_stderr(StringIO()):  # hides a progress bar for every step of every candidate
            results = lm_eval.simple_evaluate(
                model=model, tasks=[self.task], num_fewshot=self.shots, samples={self.task: places}, log_samples=True,
                bootstrap_iters=0, task_manager=self._manager,
            )  # fmt: skip
        samples: list[dict[str, Any]] = results["samples"][self.task]
        return samples

    @cached_property
    def _manager(self) -> Any:
        """The harness's manager of tasks. Raises RecipeError if it does not know the task."""
        _harness()
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(self.root / self.tasks) if self.tasks else None)
        if self.task not in manager.all_subtasks:
            raise RecipeError(f"{self.name}: the harness has no task {self.task} (a group is none; name its tasks)")
        return manager

    @cached_property
    def _dealt(self) -> dict[str, list[tuple[str, int]]]:
        """Split -> (digest, place) of its documents, in their order. Raises FormatError."""
        manager = self._manager
        try:
            task = manager.load([self.task])["tasks"][self.task]
            documents = [digest(json.dumps(doc, sort_keys=True, default=str)) for doc in task.eval_docs]
            targets = [_target(task, doc) for doc in task.eval_docs]
        except Exception as error:
            raise FormatError(f"{self.name}: {self.task} cannot be read: {type(error).__name__}: {error}") from None
        first = {identity: place for place, identity in reversed([*enumerate(documents)])}
        sizes = Counter(targets[place] for place in first.values())
        sides = {split: [d for d in first.items() if self.dealt(d[0], split)] for split in SPLITS}
        if empty := [split for split, dealt in sides.items() if not dealt]:
            raise FormatError(f"{self.name}: {len(first)} documents leave none for {' and '.join(empty)}")
        return {
            split: self._ordered(self._ordered(dealt, targets, sizes)[: self.limit], targets)
            for split, dealt in sides.items()
        }

    def _ordered(
        self, dealt: list[tuple[str, int]], targets: Sequence[str], sizes: Mapping[str, int] | None = None
    ) -> list[tuple[str, int]]:
        """Documents in the order of order.py. sizes: the number of documents with each answer, if these are not all."""
        order = fair_order([identity for identity, _ in dealt], [targets[place] for _, place in dealt], sizes)
        return [dealt[k] for k in order]


def _target(task: Any, doc: Any) -> str:
    """The right answer of a document as text; "" if the task cannot tell it."""
    try:
        return str(task.doc_to_target(doc))
    except Exception:  # of the task's own templates and functions
        return ""


def _harness() -> Any:
    try:
        import lm_eval
    except ImportError:
        raise MissingExtra("an evaluator of harness tasks", "harness") from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return lm_eval
