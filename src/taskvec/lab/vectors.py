"""The task vectors of a suite: trained when they are first asked for, and kept in the cache.

A vector's file is named by what it was made of: the base, the examples, the heads' descriptions, the recipe, the seed
and the objective. So several experiments and suites share vectors, and a vector is never taken for another one: other
examples or another recipe are another name. Beside it lies a file NAME.json that says all this to people.
"""

import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from taskvec.algebra.arrays import from_arrays
from taskvec.algebra.weights import Weights
from taskvec.errors import DataError, TaskvecError
from taskvec.evals.order import digest
from taskvec.evals.suite import Suite as Tasks
from taskvec.evals.texts import Example, read
from taskvec.lab.data import Prepared
from taskvec.lab.suite import Recipe, Suite
from taskvec.lab.training import fine_tune
from taskvec.places.local import stated
from taskvec.recipes.recipe import load
from taskvec.saving.save import save

FORMAT = 1  # of the rules of training.py: a change there that gives other vectors counts it up


@dataclass(frozen=True, slots=True)
class Drawn:
    """A training set that is made up of examples of several tasks: of each class of a task so many.

    These are the first training examples of the class, which stand in a random order (splits.py). So a larger set of
    the same cells has all examples of a smaller one.
    """

    name: str  # what recipes call the vector, before its seed
    cells: tuple[tuple[str, str, int], ...]  # (task, class, how many)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the examples are of."""
        return tuple(dict.fromkeys(task for task, _, _ in self.cells))

    def of(self, task: str, examples: Sequence[Example]) -> list[Example]:
        """The examples of a task that are taken. Raises DataError for a class that has too few."""
        chosen, problems = [], []
        for name, label, count in self.cells:
            if name == task:
                of_class = [e for e in examples if e.label == label]
                chosen += of_class[:count]
                if len(of_class) < count:
                    problems.append(f"{task} has {len(of_class)} training examples of {label}, and {count} are wanted")
        if problems:
            raise DataError(f"the training set {self.name} is too large for its data:", problems)
        return chosen


@dataclass(frozen=True, slots=True)
class Training:
    """One training: of which tasks (several are trained jointly), with which seed, on what, with which recipe."""

    tasks: tuple[str, ...]
    seed: int
    recipe: Recipe
    objective: str = "labels"
    until: float = 1.0  # the share of the steps after which the vector is taken
    variant: str = ""  # in words, what differs from the suite's recipe
    drawn: Drawn | None = None  # without it all training examples of the tasks

    @property
    def name(self) -> str:
        """What recipes call it: movie_0, movie_0_ascent, joint_0, movie_0_until_0_25, skewed_0."""
        what = self.drawn.name if self.drawn else self.tasks[0] if len(self.tasks) == 1 else "joint"
        more = "" if self.objective == "labels" else f"_{self.objective}"
        return re.sub(r"\W", "_", f"{what}_{self.seed}{more}{self.variant}")


class Vectors:
    """The vectors of a suite, by their trainings."""

    def __init__(
        self,
        suite: Suite,
        base: Weights,
        tasks: Tasks,
        data: dict[str, Prepared],
        cache: Path,
        tell: Callable[[str, int, int], None] | None = None,
    ):
        """`tell`: is told of each training (its name, steps done, steps in all)."""
        self.suite, self.base, self.tasks, self.data, self.cache, self.tell = suite, base, tasks, data, cache, tell
        self.trained: list[str] = []  # what was not in the cache
        self._opened: dict[Path, Weights] = {}

    def get(self, training: Training) -> Weights:
        """The vector. Raises DataError for a cached one that is cut short."""
        path = self.path(training)
        if path not in self._opened:
            if not path.exists():
                self._train(training, path)
            try:
                self._opened[path] = load(str(path)).named(training.name)
            except TaskvecError as error:
                raise DataError(f"{path} is no vector that can be used; remove it to train it again: {error}") from None
        return self._opened[path]

    def path(self, training: Training) -> Path:
        """Where the vector lies, trained or not."""
        key = digest(json.dumps(self._identity(training), sort_keys=True))
        return self.cache / "vectors" / f"{training.name}-{key[:16]}.safetensors"

    def _identity(self, training: Training) -> dict[str, object]:
        """All that decides the numbers of a vector, but for the machine."""
        (base,) = self.base.terms
        names = training.tasks
        heads = [self.data[head].digests["train"] for name in names if (head := self.suite.specs[name].head_of)]
        return {
            "format": FORMAT,
            "base": base.fingerprint,
            "tasks": [
                [self.data[n].digests["train"], self.suite.specs[n].descriptions, self._evaluator(n)] for n in names
            ],
            "recipe": training.recipe.settings(),
            "seed": training.seed,
            "objective": training.objective,
            "until": training.until,
            **({"heads": heads} if heads else {}),
            **({"drawn": training.drawn.cells} if training.drawn else {}),
        }

    def examples(self, training: Training, task: str) -> Sequence[Example]:
        """The examples of a task that a training uses. Raises DataError for a class that has too few."""
        examples = [*read(self.data[task].file("train"))]
        return training.drawn.of(task, examples) if training.drawn else examples

    def _evaluator(self, name: str) -> dict[str, object]:
        """The keys of the suite and of this task, such as max_tokens and scale, on which the loss depends."""
        return {**self.suite.evaluator, **self.suite.specs[name].evaluator}

    def _train(self, training: Training, path: Path) -> None:
        import torch

        began = time.perf_counter()
        examples = [self.examples(training, name) for name in training.tasks]
        tasks = [self.tasks.tasks[name] for name in training.tasks]
        for task in tasks:
            task.ready()  # the head is made by the base
        live = tasks[0].live
        live.take(self.base)
        live.holds = None  # from here on nobody knows what the module holds
        tell = self.tell
        steps = (lambda done, total: tell(training.name, done, total)) if tell else None
        made = fine_tune(
            [*zip(tasks, examples, strict=True)],
            training.recipe,
            training.seed,
            training.objective,
            training.until,
            steps,
        )
        delta = from_arrays(made.deltas, training.name, mass=0, base=self.base)
        about = {
            "name": training.name, "tasks": {n: self.data[n].about for n in training.tasks}, "seed": training.seed,
            "objective": training.objective, "until": training.until, "recipe": asdict(training.recipe),
            "model": dict(self.suite.model), "losses": made.losses, "seconds": round(time.perf_counter() - began, 1),
            **({"drawn": training.drawn.cells} if training.drawn else {}),
            "torch": torch.__version__, "threads": torch.get_num_threads(),
        }  # fmt: skip
        with stated(path, DataError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                save(delta, Path(folder) / path.name, durable=False)
                (Path(folder) / "about.json").write_text(json.dumps(about, indent=1) + "\n")
                (Path(folder) / "about.json").replace(path.with_suffix(".json"))
                (Path(folder) / path.name).replace(path)  # last: a vector that is there is a whole one
        self.trained.append(training.name)
