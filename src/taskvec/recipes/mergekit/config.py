"""A mergekit configuration as values. Every key is checked, and one error lists all problems, each with its place."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from taskvec.errors import did_you_mean

Settings = Mapping[str, Any]  # parameter -> what the file says: a scalar, a gradient, or conditions
Problems = list[str]
Part = TypeVar("Part")

TOP = (
    "merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype", "tokenizer_source",
    "tokenizer", "chat_template", "name", "random_seed",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reference:
    """A model as mergekit names it: `path@revision+lora@revision`."""

    path: str
    revision: str | None = None
    lora: "Reference | None" = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.path}{revision}{f'+{self.lora}' if self.lora else ''}"


@dataclass(frozen=True, slots=True)
class Input:
    """One model of a merge with its own parameters. layers (first, last): only the layers first <= l < last of it."""

    model: Reference
    parameters: Settings = field(default_factory=dict)
    layers: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Slice:
    """Inputs that are merged with one another. The layers of the output are those of the slices, one after another."""

    inputs: tuple[Input, ...]
    parameters: Settings = field(default_factory=dict)
    base: Reference | None = None


@dataclass(frozen=True, slots=True)
class Module:
    """A part of a model that has several stacks of layers, such as its text decoder or its vision tower."""

    slices: tuple[Slice, ...]
    parameters: Settings = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Token:
    """Where the embedding of one token comes from: a model, a token of a model, or zero.

    force: whether models that have an embedding of the token take this one instead.
    """

    model: Reference | None = None
    token: str | int | None = None
    zero: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """The tokenizer of the output: "union", "base", or a model's."""

    source: "str | Reference"
    tokens: Mapping[str, Token] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """One document of a file. `modules` has one entry, named "", if the file has `models` or `slices`."""

    method: str
    modules: Mapping[str, Module]
    base: Reference | None = None
    parameters: Settings = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    name: str | None = None
    seed: int | None = None

    @property
    def references(self) -> list[Reference]:
        """Every model once, the base first, then in order of mention."""
        models = [self.base] if self.base else []
        for module in self.modules.values():
            for part in module.slices:
                models += [part.base] if part.base else []
                models += [entry.model for entry in part.inputs]
        return list(dict.fromkeys(models))


def config(document: Any, problems: Problems) -> Config | None:
    """The configuration that a document of the file holds. None if it has problems, which are added to `problems`."""
    if not isinstance(document, Mapping):
        problems.append(f"a configuration is a table of keys, not {_kind(document)}")
        return None
    count = len(problems)
    _require_known(document, TOP, "", problems)
    method = document.get("merge_method")
    if not isinstance(method, str):
        problems.append("merge_method is missing" if method is None else f"merge_method is a name, not {method!r}")
    given = [key for key in ("models", "slices", "modules") if document.get(key)]
    if len(given) != 1:
        problems.append(f"exactly one of models, slices and modules must be there, not {' and '.join(given) or 'none'}")
    modules: dict[str, Module] = {}
    if document.get("modules"):
        for name, entry in _table(document["modules"], "modules", problems).items():
            where = f"modules.{name}"
            table = _known(entry, ("models", "slices", "parameters"), where, problems)
            modules[str(name)] = Module(_slices(table, where + ".", problems), _settings(table, where, problems))
    else:
        modules[""] = Module(_slices(document, "", problems))
    configuration = Config(
        method=str(method),
        modules=modules,
        base=_reference(document["base_model"], "base_model", problems) if document.get("base_model") else None,
        parameters=_settings(document, "", problems),
        dtype=_text(document, "dtype", problems),
        out_dtype=_text(document, "out_dtype", problems),
        tokenizer=_tokenizer(document, problems),
        chat_template=_text(document, "chat_template", problems),
        name=_text(document, "name", problems),
        seed=_seed(document, problems),
    )
    return configuration if len(problems) == count else None


# ---- parts of it -------------------------------------------------------------------------------------------------
def _slices(table: Mapping[str, Any], where: str, problems: Problems) -> tuple[Slice, ...]:
    if table.get("models"):
        return (Slice(_each(table["models"], where + "models", _model, problems)),)
    return _each(table.get("slices") or [], where + "slices", _slice, problems)


def _model(value: Any, where: str, problems: Problems) -> Input | None:
    table = _known(value, ("model", "parameters"), where, problems)
    if (model := _required(table, "model", where, problems)) is None:
        return None
    return Input(_reference(model, f"{where}.model", problems), _settings(table, where, problems))


def _slice(value: Any, where: str, problems: Problems) -> Slice | None:
    known = ("sources", "base_model", "residual_weight", "parameters")
    table = _known(value, known, where, problems)
    if table.get("residual_weight") is not None:
        problems.append(f"{where}.residual_weight has no effect in mergekit: leave it out")
    given = _required(table, "sources", where, problems)
    if given == []:
        problems.append(f"{where}.sources is empty: a slice needs at least one model")
    inputs = _each(given or [], f"{where}.sources", _source, problems)
    lengths = {entry.layers[1] - entry.layers[0] for entry in inputs if entry.layers}
    if len(lengths) > 1:
        problems.append(f"{where}: its sources have different numbers of layers: {sorted(lengths)}")
    base = _reference(table["base_model"], f"{where}.base_model", problems) if table.get("base_model") else None
    return Slice(inputs, _settings(table, where, problems), base)


def _source(value: Any, where: str, problems: Problems) -> Input | None:
    table = _known(value, ("model", "layer_range", "parameters"), where, problems)
    model, layers = _required(table, "model", where, problems), _required(table, "layer_range", where, problems)
    if model is None or layers is None:
        return None
    if not (isinstance(layers, list) and len(layers) == 2 and all(type(x) is int for x in layers)):
        problems.append(f"{where}.layer_range is [first, last + 1], two whole numbers, not {layers!r}")
        return None
    if not 0 <= layers[0] < layers[1]:
        problems.append(
            f"{where}.layer_range {layers} has no layers: the first must be less than the second, from 0 on"
        )
        return None
    settings = _settings(table, where, problems)
    return Input(_reference(model, f"{where}.model", problems), settings, (layers[0], layers[1]))


def _reference(value: Any, where: str, problems: Problems) -> Reference:
    """`path@revision+lora@revision`, or the same as a table."""
    if isinstance(value, str):
        model, plus, adapter = value.partition("+")
        if adapter.count("+") or (plus and not adapter):
            problems.append(f"{where}: {value!r} is no model: write path@revision+lora@revision")
        return _path(model, where, problems, _path(adapter, where, problems) if adapter else None)
    table = _known(value, ("model", "lora", "override_architecture"), where, problems)
    if table.get("override_architecture"):
        problems.append(f"{where}.override_architecture has no use here: tensors are merged by their names")
    lora = table.get("lora")
    of_lora = _path(lora, f"{where}.lora", problems) if lora else None
    return _path(_required(table, "model", where, problems), f"{where}.model", problems, of_lora)


def _path(value: Any, where: str, problems: Problems, lora: Reference | None = None) -> Reference:
    path: Any
    revision: Any
    if isinstance(value, Mapping):
        table = _known(value, ("path", "revision"), where, problems)
        path, revision = _required(table, "path", where, problems), table.get("revision")
    else:
        path, _, revision = str(value or "").partition("@")
    if not isinstance(path, str) or not path or "@" in str(revision or ""):
        problems.append(f"{where}: {value!r} is no model: write path@revision")
    return Reference(str(path), str(revision) if revision else None, lora)


def _tokenizer(document: Mapping[str, Any], problems: Problems) -> Tokenizer | None:
    source, block = document.get("tokenizer_source"), document.get("tokenizer")
    if source is not None and block is not None:
        problems.append("tokenizer_source and tokenizer exclude one another: keep tokenizer")
    if block is None:
        return None if source is None else Tokenizer(_vocabulary(source, "tokenizer_source", problems))
    table = _known(block, ("source", "tokens", "pad_to_multiple_of"), "tokenizer", problems)
    pad = table.get("pad_to_multiple_of")
    if pad is not None and (type(pad) is not int or pad < 1):
        problems.append(f"tokenizer.pad_to_multiple_of is a whole number from 1 on, not {pad!r}")
    tokens = {
        str(token): _token(entry, f"tokenizer.tokens.{token}", problems)
        for token, entry in _table(table.get("tokens") or {}, "tokenizer.tokens", problems).items()
    }
    return Tokenizer(_vocabulary(table.get("source", "union"), "tokenizer.source", problems), tokens, pad)


def _vocabulary(value: Any, where: str, problems: Problems) -> str | Reference:
    return value if value in ("union", "base") else _reference(value, where, problems)


def _token(value: Any, where: str, problems: Problems) -> Token:
    table = _known(value, ("source", "force"), where, problems)
    force, source = table.get("force", False), table.get("source")
    if not isinstance(force, bool):
        problems.append(f"{where}.force is true or false, not {force!r}")
    if source is None:
        return Token(force=bool(force))
    if not (isinstance(source, Mapping) and "kind" in source):
        return Token(_reference(source, f"{where}.source", problems), force=bool(force))
    entry = _known(source, ("kind", "model", "token", "token_id"), f"{where}.source", problems)
    if entry.get("kind") == "zero":
        return Token(zero=True, force=bool(force))
    if entry.get("kind") != "model_token" or ("token" in entry) == ("token_id" in entry) or "model" not in entry:
        problems.append(f"{where}.source is {{kind: zero}} or {{kind: model_token, model, token or token_id}}")
        return Token()
    model = _reference(entry["model"], f"{where}.source.model", problems)
    return Token(model, entry.get("token", entry.get("token_id")), force=bool(force))


# ---- checks ------------------------------------------------------------------------------------------------------
def _each(
    value: Any, where: str, read: Callable[[Any, str, Problems], Part | None], problems: Problems
) -> tuple[Part, ...]:
    if not isinstance(value, list):
        problems.append(f"{where} is a list, not {_kind(value)}")
        return ()
    parts = (read(entry, f"{where}[{k}]", problems) for k, entry in enumerate(value))
    return tuple(part for part in parts if part is not None)


def _settings(table: Mapping[str, Any], where: str, problems: Problems) -> Settings:
    return _table(table.get("parameters") or {}, f"{where}.parameters".lstrip("."), problems)


def _table(value: Any, where: str, problems: Problems) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    problems.append(f"{where} is a table of keys, not {_kind(value)}")
    return {}


def _known(value: Any, known: Iterable[str], where: str, problems: Problems) -> Mapping[str, Any]:
    table = _table(value, where, problems)
    _require_known(table, known, where + ".", problems)
    return table


def _require_known(table: Mapping[str, Any], known: Iterable[str], where: str, problems: Problems) -> None:
    keys = list(known)
    problems += [
        f"{where}{key} is no key of mergekit's{did_you_mean(str(key), keys)}" for key in table if key not in keys
    ]


def _required(table: Mapping[str, Any], key: str, where: str, problems: Problems) -> Any:
    if table.get(key) is None:
        problems.append(f"{where}.{key} is missing")
    return table.get(key)


def _text(table: Mapping[str, Any], key: str, problems: Problems) -> str | None:
    value = table.get(key)
    if value is not None and not isinstance(value, str):
        problems.append(f"{key} is a text, not {value!r}")
        return None
    return value


def _seed(table: Mapping[str, Any], problems: Problems) -> int | None:
    value = table.get("random_seed")
    if value is not None and type(value) is not int:
        problems.append(f"random_seed is a whole number, not {value!r}")
        return None
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None else "a list" if isinstance(value, list) else repr(value)
