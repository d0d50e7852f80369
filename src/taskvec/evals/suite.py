"""A YAML file describes tasks, and all tasks of a file together are one evaluator: `--evaluate tasks.yml`.

    model: org/base                    # gives the architecture and the tokenizer; paths are relative to the file
    tasks:
      movie: {kind: classification, data: movie.jsonl, prompts: {negative: [a bad movie], positive: [a good movie]}}
      ppl:   {kind: perplexity, validation: a.txt, test: b.txt}

A key at the top of the file holds for all tasks whose kind has this key. Tasks with the same model share one live
module, and every candidate is loaded into it once, in place.
"""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from keyword import iskeyword
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from taskvec.algebra.weights import Weights
from taskvec.errors import FormatError, RecipeError, did_you_mean
from taskvec.evals.classification import Classification
from taskvec.evals.command import Command
from taskvec.evals.evaluator import SPLITS
from taskvec.evals.harness import Harness
from taskvec.evals.images import Images
from taskvec.evals.language import Generation, Perplexity
from taskvec.evals.module import Live
from taskvec.evals.order import digest
from taskvec.evals.prototypes import Prototypes
from taskvec.evals.task import InModule, Predicts, Task
from taskvec.places.fields import fits, unknown, wanted
from taskvec.places.yaml_files import document

KINDS: Mapping[str, type[Task]] = {
    kind.kind: kind for kind in (Classification, Images, Perplexity, Generation, Prototypes, Harness, Command)
}


@dataclass(frozen=True)
class Suite:
    """Several tasks that are judged together. Their metrics are NAME or NAME_suffix."""

    path: str
    tasks: Mapping[str, Task]
    start: float = 0.0  # each task uses its examples from this share
    stop: float = 1.0  # to this one
    shuffled: ClassVar[bool] = True  # the first examples of a task are a fair sample of all (order.py)

    @cached_property
    def text(self) -> str:
        """The file's name, with a digest of all that scores depend on: the file, the examples, their labels, and files
        of heads and judges. If one of them changes, it is another evaluator for a journal."""
        content = [Path(self.path).read_text(encoding="utf-8")]
        for split in SPLITS:
            content += [f"{name} {line}" for name, task in self.tasks.items() for line in task.labelled(split)]
        content += [f"{name} {line}" for name, task in self.tasks.items() for line in task.beside()]
        return f"{Path(self.path).name} ({digest(chr(10).join(content))[:12]})"

    @cached_property
    def untold(self) -> list[str]:
        """The names of the tasks that cannot tell which examples they use."""
        return [name for name, task in self.tasks.items() if task.identities("validation") is None]

    def examples(self, split: str) -> Mapping[str, Sequence[Any]]:
        """Metric -> an identity for each example (`Task.texts`), of the tasks that can tell their examples."""
        told = {name: task.texts(split) for name, task in self.tasks.items()}
        return {
            f"{name}_{suffix}" if suffix else name: texts
            for name, texts in told.items()
            if texts is not None
            for suffix in self.tasks[name].told
        }

    @property
    def falling(self) -> list[str]:
        """The metrics of which less is better."""
        tasks = [(name, task) for name, task in self.tasks.items() if task.falling]
        return [f"{name}_{suffix}" if suffix else name for name, task in tasks for suffix in task.told]

    def part(self, start: float, stop: float) -> "Suite | None":
        """The suite for a part of each task's examples; None if a task cannot be judged by parts."""
        return None if self.untold else replace(self, start=start, stop=stop)

    def __call__(self, weights: Weights, split: str) -> dict[str, Any]:
        """Metric -> the scores of a model, for the metrics of all tasks."""
        scores: dict[str, Any] = {}
        for task in self.tasks.values():
            task.ready()
        for name, task in self.tasks.items():
            for suffix, values in task.scores(weights, split, self.start, self.stop).items():
                metric = f"{name}_{suffix}" if suffix else name
                if metric in scores:
                    raise RecipeError(f"two tasks give the metric {metric}: rename {name}")
                scores[metric] = values
        return scores

    def learned(self, weights: Weights, labels: bool) -> "tuple[Any, Callable[[Callable[..., Any], int], Any]]":
        """What `learn` needs: the live module that all tasks share, and a function (model, step) that gives the sum of
        their losses (`Task.loss`). The module has the names of the weights. Raises RecipeError."""
        tasks = [*self.tasks.values()]
        modules = {id(task.live): task.live for task in tasks if isinstance(task, InModule)}
        if len(modules) != 1:
            raise RecipeError(
                f"{Path(self.path).name}: to learn, all tasks must share one model, and these have {len(modules)}"
            )
        for task in tasks:
            task.ready()
        (live,) = modules.values()
        live.holds = None  # learning sets the module to other weights
        return live.fitting(weights), lambda model, step: sum(task.loss(model, step, labels) for task in tasks)

    def predictions(self, weights: Weights, split: str) -> dict[str, Any]:
        """Task -> the number of the class that a model predicts for each example, (n,), for tasks with classes."""
        tasks = {name: task for name, task in self.tasks.items() if isinstance(task, Predicts)}
        for task in tasks.values():
            task.ready()
        return {name: task.predictions(weights, split, self.start, self.stop) for name, task in tasks.items()}


def suite_from(path: str) -> Suite:
    """The suite that a file describes. Models are loaded later, when they are first needed.

    Raises FormatError for a file that describes no tasks, and RecipeError, which lists all problems, for unknown keys
    and for values that cannot be used.
    """
    given: Any = document(Path(path))
    tasks = given.pop("tasks", None) if isinstance(given, dict) else None
    if not isinstance(tasks, dict) or not tasks:
        raise FormatError(f"{path}: a file of tasks has tasks: {{NAME: {{kind: ...}}}}")
    problems: list[str] = []
    made = {str(name): _task(str(name), about, given, problems) for name, about in tasks.items()}
    kinds = {type(task) for task in made.values() if task} if all(made.values()) else {*KINDS.values()}
    known = {key for kind in kinds for key in _keys(kind)} | {"kind"}
    problems += [unknown(key, known, "the file") for key in given if key not in known]
    if problems:
        raise RecipeError(f"{path} cannot be used:", problems)
    lives: dict[tuple[Path, str, str, str], Live] = {}

    def live_of(folder: Path, kind: str, dtype: str, device: str, make: type[Live] = Live) -> Live:
        return lives.setdefault((folder.resolve(), kind, dtype, device), make(folder, kind, dtype, device))

    opened = {name: task for name, task in made.items() if task}
    for name, task in opened.items():
        task.open(name, Path(path).parent, live_of)
    return Suite(path, opened)


def _task(name: str, about: Any, shared: Mapping[str, Any], problems: list[str]) -> Task | None:
    """The task that a table describes. None if it cannot be made; what is wrong is added to `problems`.

    about: the table of the task. shared: the keys at the top of the file.
    """
    if not name.isidentifier() or iskeyword(name):
        problems.append(f"{name!r} is no name for a metric: letters, digits and _, and no word of Python such as class")
        return None
    if not isinstance(about, dict):
        problems.append(f"{name}: a task is {{kind: ...}}, not {reprlib.repr(about)}")
        return None
    given = about.get("kind", shared.get("kind", ""))
    kind = KINDS.get(given) if isinstance(given, str) else None
    if kind is None:
        instead = f"not {reprlib.repr(given)}{did_you_mean(given, KINDS)}" if given else "and none is given"
        problems.append(f"{name}: kind is one of {', '.join(KINDS)}, {instead}")
        return None
    keys = _keys(kind)
    values = {key: value for key, value in {**shared, **about}.items() if key in keys}
    problems += [unknown(key, keys, name) for key in about if key not in keys and key != "kind"]
    wrong = [
        f"{name}: {key} is {wanted(keys[key])}, not {reprlib.repr(v)}"
        for key, v in values.items()
        if not fits(v, keys[key])
    ]
    problems += wrong
    return None if wrong else kind(**values)


def _keys(kind: type[Task]) -> dict[str, Any]:
    """The keys that a kind of task has in a file, with their types."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if field.init and field.name not in kind.unused}
