"""A YAML file describes tasks, and all tasks of a file together are one evaluator: `--evaluate tasks.yml`.

    model: org/base                    # whose architecture and tokenizer; paths are relative to the file
    tasks:
      movie: {kind: classification, data: movie.jsonl, prompts: {negative: [a bad movie], positive: [a good movie]}}
      ppl:   {kind: perplexity, validation: a.txt, test: b.txt}

A key of a task may also stand at the top; it then holds for all tasks that have such a key. There is one live module
for each architecture, and every candidate is loaded into it once, in place.
"""

import difflib
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from keyword import iskeyword
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from taskvec.algebra.weights import Weights
from taskvec.errors import FormatError, RecipeError
from taskvec.evals.classification import Classification
from taskvec.evals.command import Command
from taskvec.evals.evaluator import SPLITS
from taskvec.evals.harness import Harness
from taskvec.evals.images import Images
from taskvec.evals.language import Generation, Perplexity
from taskvec.evals.module import Live
from taskvec.evals.order import digest
from taskvec.evals.task import InModule, Predicts, Task
from taskvec.places.yaml_files import document

KINDS: Mapping[str, type[Task]] = {
    kind.kind: kind for kind in (Classification, Images, Perplexity, Generation, Harness, Command)
}


@dataclass(frozen=True)
class Suite:
    """Several tasks, judged together. Metrics are NAME or NAME_suffix."""

    path: str
    tasks: Mapping[str, Task]
    start: float = 0.0  # of each task's examples,
    stop: float = 1.0  # the share from and to which they are used
    shuffled: ClassVar[bool] = True  # every beginning of a task's examples is a fair sample of them (order.py)

    @cached_property
    def text(self) -> str:
        """The file's name, and a digest of the file and of all examples: others are another evaluator."""
        everything = [Path(self.path).read_text(encoding="utf-8")]
        for split in SPLITS:
            everything += [f"{name} {i}" for name, task in self.tasks.items() for i in task.identities(split) or ()]
        return f"{Path(self.path).name} ({digest(chr(10).join(everything))[:12]})"

    @cached_property
    def untold(self) -> list[str]:
        """Tasks that cannot tell which examples they use."""
        return [name for name, task in self.tasks.items() if task.identities("validation") is None]

    def examples(self, split: str) -> Mapping[str, Sequence[Any]]:
        """By metric, of tasks that can tell: for each example the text that it is, or the texts that it is made of."""
        told = {name: task.texts(split) for name, task in self.tasks.items()}
        return {
            f"{name}_{suffix}" if suffix else name: texts
            for name, texts in told.items()
            if texts is not None
            for suffix in self.tasks[name].told
        }

    @property
    def falling(self) -> list[str]:
        """Metrics of which less is better."""
        tasks = [(name, task) for name, task in self.tasks.items() if task.falling]
        return [f"{name}_{suffix}" if suffix else name for name, task in tasks for suffix in task.told]

    def part(self, start: float, stop: float) -> "Suite | None":
        """The suite on a share of each task's examples; None if a task cannot be judged by parts."""
        return None if self.untold else replace(self, start=start, stop=stop)

    def __call__(self, weights: Weights, split: str) -> dict[str, Any]:
        """All tasks, on the modules that they share."""
        found: dict[str, Any] = {}
        for task in self.tasks.values():
            task.ready()
        for name, task in self.tasks.items():
            for suffix, values in task.scores(weights, split, self.start, self.stop).items():
                metric = f"{name}_{suffix}" if suffix else name
                if metric in found:
                    raise RecipeError(f"two tasks give the metric {metric}: rename {name}")
                found[metric] = values
        return found

    def learned(self, weights: Weights, labels: bool) -> "tuple[Any, Callable[[Callable[..., Any], int], Any]]":
        """(the live module that all tasks share, by the names of the weights; the sum of their losses) for `learn`.

        Raises RecipeError.
        """
        tasks = [*self.tasks.values()]
        modules = {id(task.live): task.live for task in tasks if isinstance(task, InModule)}
        if len(modules) != 1:
            raise RecipeError(
                f"{Path(self.path).name}: to learn, all tasks must share one model, and these have {len(modules)}"
            )
        for task in tasks:
            task.ready()
        (live,) = modules.values()
        live.holds = None  # whoever learns sets the module himself
        return live.fitting(weights), lambda model, step: sum(task.loss(model, step, labels) for task in tasks)

    def predictions(self, weights: Weights, split: str) -> dict[str, Any]:
        """The classes that the model puts the examples of its classification tasks in."""
        tasks = {name: task for name, task in self.tasks.items() if isinstance(task, Predicts)}
        return {name: task.predictions(weights, split, self.start, self.stop) for name, task in tasks.items()}


def suite_from(path: str) -> Suite:
    """Read the file; nothing is loaded but its examples' files and, with prompts, the model for the heads.

    Raises FormatError, RecipeError with all misspelt keys at once.
    """
    given: Any = document(Path(path))
    tasks = given.pop("tasks", None) if isinstance(given, dict) else None
    if not isinstance(tasks, dict) or not tasks:
        raise FormatError(f"{path}: a file of tasks has tasks: {{NAME: {{kind: ...}}}}")
    problems: list[str] = []
    made = {str(name): _task(str(name), about, given, problems) for name, about in tasks.items()}
    kinds = {type(task) for task in made.values() if task} if all(made.values()) else {*KINDS.values()}
    known = {key for kind in kinds for key in _keys(kind)} | {"kind"}
    problems += [_unknown(key, known, "the file") for key in given if key not in known]
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
    """A task as it is described; None and a problem more where it cannot be read."""
    if not name.isidentifier() or iskeyword(name):
        problems.append(f"{name!r} is no name for a metric: letters, digits and _, and no word of Python such as class")
        return None
    if not isinstance(about, dict):
        problems.append(f"{name}: a task is {{kind: ...}}, not {reprlib.repr(about)}")
        return None
    given = about.get("kind", shared.get("kind", ""))
    kind = KINDS.get(given) if isinstance(given, str) else None
    if kind is None:
        said = f"not {reprlib.repr(given)}{_near(given, KINDS)}" if given else "and none is given"
        problems.append(f"{name}: kind is one of {', '.join(KINDS)}, {said}")
        return None
    keys = _keys(kind)
    found = {key: value for key, value in {**shared, **about}.items() if key in keys}
    problems += [_unknown(key, keys, name) for key in about if key not in keys and key != "kind"]
    wrong = [
        f"{name}: {key} is {_wanted(keys[key])}, not {reprlib.repr(v)}"
        for key, v in found.items()
        if not _fits(v, keys[key])
    ]
    problems += wrong
    return None if wrong else kind(**found)


def _keys(kind: type[Task]) -> dict[str, Any]:
    """The keys of a kind of task in a file, with their types."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _unknown(key: Any, known: Any, where: str) -> str:
    return f"{where}: no key {key}" + (_near(key, known) or f"; there is {', '.join(sorted(known))}")


def _near(given: Any, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(given), [*known], n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value of the file is of a field's type; whole numbers are numbers, true, .nan and .inf are not."""
    if wanted in (str, bool):
        return isinstance(value, wanted)
    if wanted in (int, float, int | None, float | None):
        whole = wanted in (int, int | None)
        missing = value is None and wanted in (int | None, float | None)
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        return missing or (number and abs(value) < math.inf)
    return isinstance(value, dict if "Mapping" in str(wanted) else list)


def _wanted(wanted: Any) -> str:
    names = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
    return names.get(
        wanted, "a number" if "None" in str(wanted) else "a table" if "Mapping" in str(wanted) else "a list"
    )
