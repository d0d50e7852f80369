"""Tasks of lm-evaluation-harness judge a candidate through the harness's own API (extra `harness`)."""

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
    """A metric of a harness task, a number a document, of the live module.

    task: its name there (arc_easy). metric: one that it logs for each document, the first unless given. tasks: a folder
    with task files of your own. The harness has one set of documents for evaluating; they are dealt out to validation
    and test by their digests, `share` to validation, `limit` a split, in an order of which every beginning is a fair
    sample (order.py), with targets for classes. shots: worked examples in the prompt.
    """

    task: str = ""
    metric: str = ""
    tasks: str = ""
    shots: int | None = None
    batch: int = 8
    kind: ClassVar[str] = "harness"
    module: ClassVar[str] = "causal"

    def check(self, name: str) -> None:
        """It brings its own data."""
        if not self.task:
            raise RecipeError(f"{name}: say which task of the harness it is (task: arc_easy)")
        if self.data or self.validation or self.test or not 0 < self.share < 1:
            raise RecipeError(f"{name}: the harness has the data; share is between 0 and 1")

    def identities(self, split: str) -> Sequence[str]:
        """Digests of documents."""
        return [identity for identity, _ in self._dealt[split]]

    def scores(self, weights: Weights, split: str, start: float, stop: float) -> Mapping[str, Any]:
        """{"": the metric, a number a document}."""
        dealt = self._dealt[split][within(len(self._dealt[split]), start, stop)]
        samples = self._evaluated(weights, sorted(place for _, place in dealt))  # as the harness numbers them
        by_place = {sample["doc_id"]: sample for sample in samples}
        metric = self.metric or next(iter(samples[0]["metrics"]))
        if any(not isinstance(s.get(metric), int | float | bool) for s in samples):
            known = ", ".join(m for m in samples[0]["metrics"] if isinstance(samples[0].get(m), int | float))
            raise RecipeError(
                f"{self.name}: {self.task} has no number {metric} for a document; it has {known or 'none'}"
            )
        return {"": [float(by_place[place][metric]) for _, place in dealt]}

    def _evaluated(self, weights: Weights, places: list[int]) -> list[dict[str, Any]]:
        """What the harness logs of each document."""
        lm_eval = _harness()
        from lm_eval.models.huggingface import HFLM

        module = self.live.take(weights)
        model = HFLM(pretrained=module, tokenizer=self.live.tokenizer, batch_size=self.batch, device=self.device)
        with redirect_stderr(StringIO()):  # a bar for every step of every candidate
            found = lm_eval.simple_evaluate(
                model=model, tasks=[self.task], num_fewshot=self.shots, samples={self.task: places}, log_samples=True,
                bootstrap_iters=0, task_manager=self._manager,
            )  # fmt: skip
        samples: list[dict[str, Any]] = found["samples"][self.task]
        return samples

    @cached_property
    def _manager(self) -> Any:
        _harness()
        from lm_eval.tasks import TaskManager

        found = TaskManager(include_path=str(self.root / self.tasks) if self.tasks else None)
        if self.task not in found.all_subtasks:
            raise RecipeError(f"{self.name}: the harness has no task {self.task} (a group is none; name its tasks)")
        return found

    @cached_property
    def _dealt(self) -> dict[str, list[tuple[str, int]]]:
        """Split -> (digest, place) of its documents."""
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
        order = fair_order([identity for identity, _ in dealt], [targets[place] for _, place in dealt], sizes)
        return [dealt[k] for k in order]


def _target(task: Any, doc: Any) -> str:
    """What the right answer is, as a class; "" for a task that cannot tell."""
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
