"""The bench: what an experiment works with. It has the base, the tasks and the vectors of a suite, and judges models.

1. Every score is written into the journal `scores.jsonl`, a line for each model, task and split. It is computed once:
   an experiment that needs the same score again, or that was killed and is run again, finds it there.
2. A line names the model as a recipe, with the fingerprint of each source, so anybody can make the model again. Hits
   and misses are a text of 0 and 1, one for each example, in the order of evals/order.py.
3. Coefficients are chosen by `search` on validation examples (`choose`). Test examples are judged for what was chosen.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from taskvec.algebra.weights import Weights
from taskvec.errors import DataError, FormatError, OutputError, RecipeError, TaskvecError, did_you_mean, retold
from taskvec.evals import SPLITS, Numbers, means
from taskvec.evals.evaluator import Judges
from taskvec.evals.order import digest
from taskvec.evals.suite import Suite as Tasks
from taskvec.evals.suite import suite_from as tasks_from
from taskvec.evals.task import HasProbabilities
from taskvec.lab.data import Prepared, prepared
from taskvec.lab.models import base_folder
from taskvec.lab.suite import Suite
from taskvec.lab.vectors import Drawn, Training, Vectors
from taskvec.places.local import replace_text, stated
from taskvec.recipes.recipe import load
from taskvec.searching.search import search
from taskvec.searching.stores import store_of

FORMAT = 1  # of the journal
Tell = Callable[[str, float | None], None]  # what is being done, and the share of the work that is behind it
Grid = str | Sequence[float]
first = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Choice:
    """Coefficients that were chosen on validation examples, and what every candidate scored there."""

    knobs: Mapping[str, float]  # all 0 if no candidate keeps the constraints
    model: Weights  # the recipe with these; the base if no candidate keeps the constraints
    how: str  # the rule, in words
    trials: tuple[
        tuple[Mapping[str, float], Mapping[str, float]], ...
    ]  # (knobs, {metric: mean on validation examples})

    @property
    def value(self) -> float:
        """The one coefficient."""
        (value,) = self.knobs.values()
        return value

    @property
    def curve(self) -> list[tuple[float, Mapping[str, float]]]:
        """(coefficient, metrics), from the smallest coefficient on, of the one knob."""
        points = [(value, metrics) for knobs, metrics in self.trials for (value,) in [tuple(knobs.values())]]
        return sorted(points, key=first)


class Bench:
    """A suite at work, in a folder of results and a cache."""

    def __init__(
        self, suite: Suite, seeds: Sequence[int], folder: Path, cache: Path, tell: Tell = lambda text, share: None
    ):
        """Fetches and prepares the data, and opens the base. Raises DataError, FormatError, RecipeError."""
        self.suite, self.seeds, self.folder, self.cache, self._tell = suite, tuple(seeds), folder, cache, tell
        self.home = base_folder(suite, cache)
        self.base = load(str(self.home)).named("base")
        self.data = _all_prepared(suite, cache, tell)
        self.tasks = _tasks(suite, self.home, self.data, cache)
        for task in self.tasks.tasks.values():
            task.ready()  # every head is made now, while the module still holds the base
        self.vectors = Vectors(suite, self.base, self.tasks, self.data, cache, _training_told(tell))
        self.judged = 0  # models judged on a task in this run
        self._store = store_of(folder / "scores.jsonl")
        self._known = self._read()

    def tell(self, text: str, share: float | None = None) -> None:
        """Say what is being done, and the share of the experiment that is behind it."""
        self._tell(text, share)

    def told(self, tell: Tell) -> None:
        """Say it to somebody else from now on."""
        self._tell = tell

    # ---- vectors
    def vector(self, task: str, seed: int, objective: str = "labels", **changes: Any) -> Weights:
        """The vector of a task. changes: of the suite's recipe (rate=1e-4), and `until`."""
        return self.joint([task], seed, objective, **changes)

    def joint(self, tasks: Sequence[str], seed: int, objective: str = "labels", **changes: Any) -> Weights:
        """The vector of several tasks that are trained together."""
        until = changes.pop("until", 1.0)
        usual = self.suite.training
        other = {name: value for name, value in changes.items() if value != getattr(usual, name)}
        named = other | ({"until": until} if until != 1 else {})
        variant = "".join(f"_{name}_{v:g}" if isinstance(v, float) else f"_{name}_{v}" for name, v in named.items())
        return self.vectors.get(Training(tuple(tasks), seed, replace(usual, **other), objective, until, variant))

    def drawn(self, drawn: Drawn, seed: int) -> Weights:
        """The vector of a training set that is drawn out of several tasks."""
        return self.vectors.get(Training(drawn.tasks, seed, self.suite.training, drawn=drawn))

    # ---- scores
    def scores(self, weights: Weights, tasks: Sequence[str], split: str, share: float = 1.0) -> dict[str, Numbers]:
        """Metric -> the scores of a model on these tasks, from the journal or judged now.

        share: judge on the first examples alone, which are a fair sample of all (evals/order.py).
        """
        scores: dict[str, Numbers] = {}
        for name in tasks:
            scores |= self._scores(weights, name, split, share)
        return scores

    def means(self, weights: Weights, tasks: Sequence[str], split: str) -> dict[str, float]:
        """Metric -> the mean score."""
        return means(self.scores(weights, tasks, split))

    def ensemble(
        self, models: Sequence[Weights], tasks: Sequence[str], split: str, share: float = 1.0
    ) -> dict[str, Numbers]:
        """Metric -> hits and misses of several models whose probabilities of the classes are averaged.

        Raises RecipeError for a task that has no probabilities.
        """
        scores: dict[str, Numbers] = {}
        for name in tasks:
            task = self.tasks.tasks[name]
            if not isinstance(task, HasProbabilities):
                raise RecipeError(f"{name} gives no probabilities of classes, so that an ensemble cannot average them")
            scores |= self._noted(models, name, split, share, partial(_ensemble, task, models, split, share))
        return scores

    def _scores(self, weights: Weights, name: str, split: str, share: float) -> Mapping[str, Numbers]:
        judge = replace(self.tasks, tasks={name: self.tasks.tasks[name]}, stop=share)
        return self._noted([weights], name, split, share, lambda: judge(weights, split))

    def _noted(
        self, models: Sequence[Weights], name: str, split: str, share: float, judged: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Numbers]:
        """What `judged` gives for one model or an ensemble: from the journal, or measured now and noted."""
        texts = [weights.text(weights.names()) for weights in models]
        named = {word for text in texts for word in re.findall(r"\w+", text)}  # a source that cancelled is not named
        names = {told: source for weights in models for source, told in weights.names().items()}
        sources = {told: source.fingerprint for told, source in names.items() if told in named}
        about: dict[str, Any] = {
            "model": texts[0] if len(texts) == 1 else f"ensemble of {'; '.join(texts)}", "sources": sources,
            "task": name, "split": split, **({"share": share} if share < 1 else {}),
        }  # fmt: skip
        key = digest(json.dumps([about, self.identity(name, split)], sort_keys=True))
        if key not in self._known:
            scores = {metric: _plain(values) for metric, values in judged().items()}
            self._known[key] = scores
            with self._store.locked():
                self._store.append({"key": key, **about, "scores": {m: _written(v) for m, v in scores.items()}})
            self.judged += 1
        return self._known[key]

    def identity(self, name: str, split: str) -> list[object]:
        """What decides the scores of a model on a task, beside the model."""
        (base,) = self.base.terms
        spec = self.suite.specs[name]
        settings = {**self.suite.evaluator, **spec.evaluator}
        shown = [self.data[spec.head_of or name].digests["train"]] if self.suite.kind_of(name) == "prototypes" else []
        return [base.fingerprint, self.data[name].digests[split], spec.descriptions, settings, *shown]

    def _read(self) -> dict[str, Mapping[str, Numbers]]:
        """The journal of an earlier run. Raises DataError if it was begun with other data, or is no such journal."""
        with stated(self.folder, OutputError):
            self.folder.mkdir(parents=True, exist_ok=True)
        first = {
            "lab": FORMAT, "suite": self.suite.name, "model": dict(self.suite.model),
            "tasks": {name: digest(json.dumps(data.digests)) for name, data in self.data.items()},
        }  # fmt: skip
        with self._store.locked():
            lines = self._store.lines()
            if not lines:
                self._store.append(first)
                return {}
        if not isinstance(lines[0], dict) or lines[0].get("lab") != FORMAT:
            raise DataError(f"{self.folder / 'scores.jsonl'} is no journal of the lab: take another folder (-o)")
        if lines[0] != first:
            raise DataError(
                f"{self.folder} holds results of other data or another suite: take another folder (-o). It differs in:",
                _differing(lines[0], first),
            )
        try:
            return {line["key"]: {m: _reread(v) for m, v in line["scores"].items()} for line in lines[1:]}
        except (KeyError, TypeError, ValueError, AttributeError):
            where = self.folder / "scores.jsonl"
            raise DataError(f"{where} has a line that is no score: remove it, or take another folder (-o)") from None

    # ---- choosing
    def judge(self, tasks: Sequence[str]) -> "Judge":
        """An evaluator of these tasks, for `search`, whose scores are in the journal."""
        return Judge(self, tuple(tasks))

    def choose(
        self,
        family: Weights,
        tasks: "Sequence[str] | Judges",
        grid: "Grid | Mapping[str, Grid]",
        objective: str = 'mean("*")',
        constraints: Sequence[str] = (),
        rule: str = "best",
        minimise: bool = False,
    ) -> Choice:
        """The knobs of a family of models, chosen on validation examples by `search`.

        tasks: those that count, or an evaluator that is made of them.
        grid: the values of the one knob `lam`, or of each knob by its name.
        """
        grids = dict(grid) if isinstance(grid, Mapping) else {"lam": grid}
        result = search(
            family, tasks if callable(tasks) else self.judge(tasks),
            {name: g if isinstance(g, str) else [*g] for name, g in grids.items()},
            objective=objective, constraints=constraints, rule=rule, minimise=minimise,
            references={"base": self.base}, test=False,
        )  # fmt: skip
        trials = tuple((dict(trial.knobs), dict(trial.metrics)) for trial in result.trials)
        knobs = dict(result.chosen.knobs) if result.chosen else dict.fromkeys(grids, 0.0)
        return Choice(knobs, result.weights, result.how, trials)


@dataclass(frozen=True, slots=True)
class Judge:
    """Some tasks of a bench, as an evaluator."""

    bench: Bench
    names: tuple[str, ...]
    shuffled = True

    @property
    def text(self) -> str:
        """How results name it."""
        return f"{self.bench.suite.name}: {', '.join(self.names)}"

    def examples(self, split: str) -> Mapping[str, Sequence[Any]]:
        """What identifies each example."""
        return self._tasks.examples(split)

    @property
    def falling(self) -> list[str]:
        """The metrics of which less is better."""
        return self._tasks.falling

    @property
    def _tasks(self) -> Tasks:
        tasks = self.bench.tasks
        return replace(tasks, tasks={name: tasks.tasks[name] for name in self.names})

    def __call__(self, weights: Weights, split: str) -> dict[str, Numbers]:
        """From the journal, or judged now."""
        return self.bench.scores(weights, self.names, split)


# ---- making it ready -------------------------------------------------------------------------------
def _all_prepared(suite: Suite, cache: Path, tell: Tell) -> dict[str, Prepared]:
    """The data of every task. Raises DataError, which names all data that cannot be had."""
    found, problems = {}, []
    for name in suite.specs:
        tell(f"data of {name}", None)
        try:
            found[name] = prepared(suite, name, cache)
        except (DataError, FormatError) as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise DataError(f"the suite {suite.name} lacks data:", problems)
    return found


def _tasks(suite: Suite, home: Path, data: Mapping[str, Prepared], cache: Path) -> Tasks:
    """The tasks, opened from a file of tasks that is written into the cache (evals/suite.py), and that anybody can give
    to `taskvec search --evaluate`."""
    table = {
        "model": str(home.resolve()),
        **suite.evaluator,
        "tasks": {
            name: {
                **{split: str(data[name].file(split).resolve()) for split in SPLITS},
                **_head(suite, name, data),
                **spec.evaluator,
            }
            for name, spec in suite.specs.items()
        },
    }
    text = json.dumps(table, indent=1, ensure_ascii=False)
    path = cache / "tasks" / f"{suite.name}-{digest(text)[:16]}.yml"
    with stated(path, DataError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, text)  # JSON is YAML
    try:
        return tasks_from(str(path))
    except TaskvecError as error:  # of settings that the user wrote into the suite
        raise retold(error, str(error).replace(str(path), str(suite.path))) from None


def _ensemble(
    task: HasProbabilities, models: Sequence[Weights], split: str, share: float
) -> dict[str, Sequence[float]]:
    """Hits and misses of the mean of the models' probabilities."""
    total = sum(task.probabilities(weights, split, 0.0, share) for weights in models)
    hits = total.argmax(-1) == task.wanted(split, 0.0, share)
    return {task.name: hits.astype(float)}  # type: ignore[attr-defined]


def _head(suite: Suite, name: str, data: Mapping[str, Prepared]) -> dict[str, Any]:
    """The keys of a task's head: descriptions of the classes, or labelled pictures of its own or of another task."""
    spec = suite.specs[name]
    if suite.kind_of(name) == "prototypes":
        train = data[spec.head_of or name].file("train")
        return {"classes": [*spec.descriptions], "train": str(train.resolve())}
    return {"prompts": spec.descriptions} if spec.descriptions else {}


def _training_told(tell: Tell) -> Callable[[str, int, int], None]:
    return lambda name, done, total: tell(f"training {name}, step {done} of {total}", None)


# ---- the journal -----------------------------------------------------------------------------------
def _plain(values: Any) -> Numbers:
    """Scores as lists of numbers; hits as 0 and 1."""
    if not hasattr(values, "__len__"):
        return float(values)
    return [int(v) if v in (0, 1) else float(v) for v in values]


def _written(values: Numbers) -> "str | Numbers":
    """As the journal has them: hits and misses as a text of 0 and 1."""
    if isinstance(values, list) and all(v in (0, 1) for v in values):
        return "".join(str(int(v)) for v in values)
    return values


def _reread(values: "str | Numbers") -> Numbers:
    return [*map(int, values)] if isinstance(values, str) else values


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    problems = [key for key in ("suite", "model") if before.get(key) != now[key]]
    older = before.get("tasks", {})
    problems += [f"the data of {name}" for name, what in now["tasks"].items() if older.get(name, what) != what]
    problems += [f"the task {name}" for name in older.keys() ^ now["tasks"].keys()]
    return problems


def require_tasks(suite: Suite, experiment: str, names: Sequence[str]) -> None:
    """Raise RecipeError for names that are no tasks of a suite, each with the nearest one."""
    unknown = [f"{name}{did_you_mean(name, suite.specs)}" for name in names if name not in suite.specs]
    require(not unknown, f"{experiment}: no task is called {', '.join(unknown)}")


def require(condition: object, problem: str) -> None:
    """Raise RecipeError with this problem unless the condition holds: for what an experiment needs of a suite."""
    if not condition:
        raise RecipeError(problem)
