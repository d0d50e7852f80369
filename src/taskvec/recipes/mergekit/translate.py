"""From a mergekit configuration to the expression that it stands for, and to the further arguments of `save`.

1. `read` reads the documents of a file as `Config` and checks that their methods and parameters exist.
2. `_Documents` loads the models that a document names. A model may be the result of another document of the file.
3. `_Translation` makes the expression of one document: for each slice of each module a call of the method, which
   METHODS has, on the layers of the models; the slices stacked; the modules joined.

Problems are collected, and one error lists all of them. An empty expression stands in for a part that has a problem.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskvec.algebra.coefficients import Coefficient
from taskvec.algebra.weights import Weights
from taskvec.errors import FormatError, MismatchError, RecipeError, TaskvecError, did_you_mean
from taskvec.places import yaml_files
from taskvec.recipes.mergekit.config import Config, Input, Module, Problems, Reference, Settings, Slice, config
from taskvec.recipes.mergekit.methods import IGNORED, METHODS, REQUIRED, SHARED, Call, Row
from taskvec.recipes.mergekit.modules import names_of
from taskvec.recipes.mergekit.parameters import Names, flag, number
from taskvec.recipes.mergekit.templates import chat_template
from taskvec.recipes.mergekit.vocabulary import prepared
from taskvec.recipes.recipe import FUNCTIONS, load
from taskvec.sources.positions import layer_of

# If the models differ in dtype, the output has the one with the largest number here.
WIDTH = {"F8_E4M3": 0, "F8_E5M2": 0, "F16": 1, "BF16": 2, "F32": 3, "F64": 4}


@dataclass(frozen=True, slots=True)
class Merge:
    """One document: its expression, and arguments of `save`. notes: settings of the file that have no effect."""

    weights: Weights
    dtype: str | None
    chat_template: str | None
    name: str | None
    notes: tuple[str, ...] = ()


def read(path: Path, names: Mapping[str, str] | None = None, seed: int | None = None) -> list[Merge]:
    """The documents of a mergekit file, translated. Raises RecipeError with every problem of the file.

    names: path in the file -> path or name on the hub to load in its place, for a file from another machine.
    seed: of DARE and DELLA, in place of the document's random_seed, which is 0 by default.
    """
    try:
        documents = yaml_files.documents(path)
    except FormatError as error:
        raise RecipeError(str(error).partition("\n")[0], error.problems) from None
    problems: Problems = []
    documents = [document for document in documents if document is not None]
    configs = [c for document in documents if (c := config(document, problems))]
    if not documents:
        problems.append("the file is empty")
    _require_known(configs, problems)
    _raise(path, problems)
    return _Documents(path, configs, names or {}, seed).merges()


def _raise(path: Path, problems: Problems) -> None:
    if problems:
        raise RecipeError(f"{path} cannot be merged as it is:", problems)


def _require_known(configs: Iterable[Config], problems: Problems) -> None:
    """Add a problem for each name that two documents have, each unknown method and each unknown parameter."""
    names: set[str | None] = set()
    for c in configs:
        if c.name in names:
            problems.append(f"two documents are named {c.name}" if c.name else "two documents have no name")
        names.add(c.name)
        row = METHODS.get(c.method)
        if row is None:
            problems.append(
                f"no method is named {c.method}{did_you_mean(c.method, METHODS)}; methods are {', '.join(METHODS)}"
            )
            continue
        known = {key for r in METHODS.values() for key in (*r.numbers, *r.flags)}
        for where, settings in _every_settings(c):
            problems += [
                f"{where}.{key} is no parameter{did_you_mean(str(key), known)}; {c.method} has {', '.join(_named(row))}"
                for key in settings
                if key not in known
            ]


def _named(row: Row) -> list[str]:
    return [*row.numbers, *row.flags] or ["none"]


def _idle(c: Config) -> Iterator[str]:
    """A line for each parameter that only other methods have. mergekit ignores these without a word."""
    row = METHODS[c.method]
    for where, settings in _every_settings(c):
        for key in settings.keys() - {*row.numbers, *row.flags}:
            yield f"{where}.{key} has no effect: {c.method} has {', '.join(_named(row))}"


def promoted(weights: Weights, models: Iterable[Weights]) -> str | None:
    """The dtype of the output if the file names none: the widest of the models' dtypes, or None if they all agree."""
    kinds: dict[str, set[str]] = {}  # tensor -> its dtypes in the models
    for source in [s for m in models for s in m.mentioned if s.mass]:
        for name, spec in source.specs.items():
            if spec.arithmetic:
                kinds.setdefault(name, set()).add(spec.dtype)
    if not weights.terms or all(len(dtypes) == 1 for dtypes in kinds.values()):
        return None
    return max({dtype for dtypes in kinds.values() for dtype in dtypes}, key=WIDTH.__getitem__)


def _every_settings(c: Config) -> Iterator[tuple[str, Settings]]:
    """Every block of parameters in a document, with its place in the file."""
    yield "parameters", c.parameters
    for name, module in c.modules.items():
        top = f"modules.{name}." if name else ""
        yield f"{top}parameters", module.parameters
        for k, part in enumerate(module.slices):
            yield f"{top}slices[{k}].parameters", part.parameters
            listed = part.inputs and part.inputs[0].layers is None
            inputs = f"{top}models" if listed else f"{top}slices[{k}].sources"
            yield from ((f"{inputs}[{j}].parameters", entry.parameters) for j, entry in enumerate(part.inputs))


class _Documents:
    """The documents of one file. A model that has the name of a document is the expression of that document."""

    def __init__(self, path: Path, configs: list[Config], names: Mapping[str, str], seed: int | None):
        self.path, self.names, self.seed = path, names, seed
        self.configs = {c.name: c for c in configs}
        self.made: dict[str | None, Merge] = {}
        self.under_way: list[str | None] = []  # the documents that are being translated, each needed by the one before
        self.problems: Problems = []
        self.opened: dict[Reference, Weights] = {}

    def merges(self) -> list[Merge]:
        merges = [self.merge(name) for name in self.configs]
        _raise(self.path, list(dict.fromkeys(self.problems)))
        return merges

    def merge(self, name: str | None) -> Merge:
        if name in self.under_way:
            circle = " -> ".join(str(n) for n in [*self.under_way, name])
            raise RecipeError(f"{self.path}: these documents are made of one another: {circle}")
        if name not in self.made:
            self.under_way.append(name)
            c = self.configs[name]
            weights = self._expression(c)
            template = chat_template(c.chat_template, map(self.open, c.references), self.problems)
            dtype = c.out_dtype or c.dtype or promoted(weights, [self.opened[r] for r in c.references])
            self.made[name] = Merge(weights, dtype, template, name, tuple(_idle(c)))
            self.under_way.pop()
        return self.made[name]

    def _expression(self, c: Config) -> Weights:
        opened = {reference: self.open(reference) for reference in c.references}
        if not all(m.terms for m in opened.values()):
            return Weights({})  # a model could not be loaded, which is among the problems already
        models = prepared(c, opened, self.problems)
        seed = self.seed if self.seed is not None else c.seed or 0
        return Weights({}) if self.problems else _Translation(c, models, seed, self.problems).weights()

    def open(self, reference: Reference) -> Weights:
        if reference not in self.opened:
            self.opened[reference] = self._load(reference)
        return self.opened[reference]

    def _load(self, reference: Reference) -> Weights:
        named = reference.path in self.configs
        model = self.merge(reference.path).weights if named else self._file(reference)
        return model + self._file(reference.lora) if reference.lora and model.terms else model

    def _file(self, reference: Reference) -> Weights:
        try:
            return load(self.names.get(reference.path, reference.path), revision=reference.revision)
        except TaskvecError as error:
            self.problems.append(str(error))
            return Weights({})


@dataclass(frozen=True, slots=True)
class _Translation:
    """The translation of one document, whose models are loaded. Its result is not used if there are problems."""

    config: Config
    models: Mapping[Reference, Weights]
    seed: int
    problems: Problems

    def weights(self) -> Weights:
        parts = {name: self._module(name, module) for name, module in self.config.modules.items()}
        if self.problems:
            return Weights({})
        if [*parts] in ([""], ["default"]):
            return next(iter(parts.values()))
        return self._tried("modules", FUNCTIONS["join"], *parts.values())

    def _module(self, name: str, module: Module) -> Weights:
        prefix, done, parts = f"modules.{name}." if name else "", 0, []
        for k, part in enumerate(module.slices):
            where = f"{prefix}slices[{k}]" if part.inputs[0].layers else f"{prefix}models"
            parts.append(self._slice(name, module, part, where, done))
            done += part.inputs[0].layers[1] - part.inputs[0].layers[0] if part.inputs[0].layers else 0
        if self.problems or len(parts) == 1:
            return parts[0]
        return self._tried(f"{prefix}slices", FUNCTIONS["stack"], *parts)

    def _slice(self, name: str, module: Module, part: Slice, where: str, done: int) -> Weights:
        """The method on the inputs of one slice. done: the number of layers of the output before this slice."""
        row, base = METHODS[self.config.method], part.base or self.config.base
        inputs = list(part.inputs)
        if base and not inputs[0].layers and base not in [entry.model for entry in inputs]:
            inputs.append(Input(base))  # as mergekit does
        if row.base == IGNORED:  # the order does not matter to the method, and the output has the files of the first
            inputs.sort(key=lambda entry: entry.model != base)
        if not self._counted(row, inputs, base, where):
            return Weights({})
        opened = [self._opened(entry, name, where) for entry in inputs]
        if self.problems:
            return Weights({})
        tuned = [k for k, entry in enumerate(inputs) if row.base == IGNORED or entry.model != base]
        ground = next((weights for k, weights in enumerate(opened) if k not in tuned), None)
        shared = [part.parameters, module.parameters, self.config.parameters]

        def value(key: str, default: float | None, k: int | None) -> Coefficient:
            own = [] if k is None else [inputs[k].parameters]
            first = done if k is None else (inputs[k].layers or (0,))[0]
            names = Names(_seen(opened[k or 0], first), _layers(opened[k or 0]) == 1)
            place = where if k is None else f"{where}: {inputs[k].model}"
            return number(key, [*own, *shared], names, default, place, self.problems)

        numbers = row.numbers.items()
        call = Call(
            base=ground,
            models=tuple(opened[k] for k in tuned),
            shared={key: value(key, default, None) for key, (scope, default) in numbers if scope == SHARED},
            own={
                key: tuple(value(key, default, k) for k in tuned)
                for key, (scope, default) in numbers
                if scope != SHARED
            },
            flags={key: flag(key, shared, default, where, self.problems) for key, default in row.flags.items()},
            seed=self.seed,
        )
        return Weights({}) if self.problems else self._tried(where, row.build, call)

    def _counted(self, row: Row, inputs: list[Input], base: Reference | None, where: str) -> bool:
        """Whether the method has the base that it needs, and a number of different inputs that it can work on."""
        method, named = self.config.method, [entry.model for entry in inputs]
        problems = [f"{where}: {m} is named twice" for m in dict.fromkeys(named) if named.count(m) > 1]
        if row.base == REQUIRED and base is None:
            problems.append(f"{where}: {method} needs a base_model")
        elif row.base != IGNORED and base is not None and base not in named:
            problems.append(f"{where}: the base {base} is not among the sources")
        if len(inputs) < row.least or (row.most is not None and len(inputs) > row.most):
            most = "" if row.most == row.least else " at least" if row.most is None else f" {row.least} to"
            count = row.least if row.most is None else row.most
            problems.append(f"{where}: {method} takes{most} {count} models, the base included, not {len(inputs)}")
        self.problems.extend(problems)
        return not problems

    def _opened(self, entry: Input, module: str, where: str) -> Weights:
        """A model, or the part of it that a module or a range of layers names."""
        model, place = self.models[entry.model], f"{where}: {entry.model}"
        if module not in ("", "default"):
            if not (names := names_of(module, model.specs)):
                self.problems.append(f"{place} has no module {module}")
                return model
            model = self._tried(place, FUNCTIONS["select"], model, *names)
        if entry.layers and entry.layers != (0, _layers(model)):
            model = self._tried(place, FUNCTIONS["take_layers"], model, *entry.layers)
        return model

    def _tried(self, where: str, build: Callable[..., Weights], *args: Any) -> Weights:
        """What `build` makes of the arguments, or an empty expression if it raises an error, which is a problem."""
        try:
            weights = build(*args)
            weights.specs  # noqa: B018 - raises MismatchError if tensors do not fit together
            return weights
        except TaskvecError as error:
            hint = ""
            if isinstance(error, MismatchError) and any("vocab" in problem for problem in error.problems):
                hint = "\n  give the file tokenizer: {source: base}, which brings the vocabularies together"
            self.problems.append(f"{where}: {error}{hint}")
            return Weights({})


def _layers(weights: Weights) -> int:
    """The number of layers of the longest stack."""
    return max((layer[1] + 1 for name in weights.specs if (layer := layer_of(name))), default=0)


def _seen(weights: Weights, first: int) -> dict[str, str]:
    """Tensor -> the name that it has if layers are numbered from `first` on."""
    seen = {}
    for name in weights.specs:
        stack, layer = layer_of(name) or ("", None)
        before = f"{stack}." if stack else ""
        seen[name] = name if layer is None else f"{before}{layer + first}{name.removeprefix(f'{before}{layer}')}"
    return seen
