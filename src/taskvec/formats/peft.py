"""A LoRA in PEFT's adapter layout, as a task vector: scale * B @ A by rows, never expanded whole.

Scale is lora_alpha / r, or lora_alpha / sqrt(r) with rsLoRA; ranks and alphas may differ from module to module.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from taskvec import kernels, kernels_numpy
from taskvec.coefficients import quoted
from taskvec.errors import FormatError
from taskvec.formats.header import read_header
from taskvec.source import Spec, fingerprint
from taskvec.storage import File, stated

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
CHANGES_THE_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")  # kinds of init_lora_weights
VARIANTS = ("alora_invocation_tokens", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "lora_bias")
_KEY = re.compile(r"^(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.weight)?$")


def sniff(path: Path) -> bool:
    """A folder with adapter_config.json."""
    return (path / CONFIG).is_file()


def open_source(path: Path, uri: str, revision: str | None = None) -> "Lora":
    """Read the configuration and the factors' headers. Raises FormatError for what is not a plain LoRA."""
    return Lora(path, uri, revision)


@dataclass(frozen=True, slots=True)
class Factors:
    """delta = scale * left @ right, both float32 in memory, of shapes (rows, rank) and (rank, cols)."""

    left: bytes
    right: bytes
    rank: int
    cols: int
    scale: float


@dataclass(frozen=True, slots=True)
class Pair:
    """Where the factors of one tensor stand: the names of A (rank, in) and B (out, rank), and how to join them."""

    a: str
    b: str
    rank: int
    scale: float
    transposed: bool  # the weight is stored (in, out): delta = (B @ A).T


class Lora:
    """An adapter as a source of mass 0. Tensors that it does not name are zero."""

    mass, partial, base = 0, True, None

    def __init__(self, path: Path, uri: str, revision: str | None = None):
        self.path, self.uri, self.revision, self.folder = path, uri, revision, path
        self.config = _config(path)
        if not (path / WEIGHTS).is_file():
            raise FormatError(f"{path} has {CONFIG} and no {WEIGHTS}")
        self.files = {WEIGHTS: File(path / WEIGHTS)}
        self._header = read_header(self.files[WEIGHTS])
        self.metadata = dict(self._header.metadata)
        self._pairs = _pairs(self._header.specs, self.config, path)
        self.specs = {name: _spec(pair, self._header.specs) for name, pair in self._pairs.items()}
        self.resident = sum(4 * self._header.specs[n].numel for p in self._pairs.values() for n in (p.a, p.b))
        self._factors: dict[str, Factors] = {}
        self._identity = str(path.resolve()), self.files[WEIGHTS].stamp  # wherever we go from here

    @property
    def text(self) -> str:
        """As a recipe writes it."""
        revision = f", revision={quoted(self.revision)}" if self.revision else ""
        return f"load({quoted(self.uri)}{revision})"

    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Fill `out` with float32 elements of scale * B @ A from flat index `start` on."""
        f = self._factors.get(name) or self._factors.setdefault(name, self._load(name))
        kernels.lowrank(out, f.left, f.right, start, len(out) // 4, f.cols, f.rank, f.scale)

    def _load(self, name: str) -> Factors:
        import numpy as np

        pair = self._pairs[name]
        a, b = self._matrix(pair.a), self._matrix(pair.b)
        left, right = (a.T, b.T) if pair.transposed else (b, a)
        return Factors(
            np.ascontiguousarray(left).tobytes(),
            np.ascontiguousarray(right).tobytes(),
            pair.rank,
            right.shape[1],
            pair.scale,
        )

    def _matrix(self, key: str) -> Any:
        import numpy as np

        spec = self._header.specs[key]
        raw = self.files[WEIGHTS].read(self._header.offsets[key], spec.nbytes)
        return np.asarray(kernels_numpy.decode(raw, spec.dtype, spec.numel), np.float32).reshape(spec.shape)

    @cached_property
    def fingerprint(self) -> str:
        """See `source.fingerprint`, over the factors and their scales."""
        scales = sorted((name, pair.scale, pair.transposed) for name, pair in self._pairs.items())
        named = {json.dumps(["lora", *scales]): Spec((), "F32")} | dict(self._header.specs)
        file, offsets = self.files[WEIGHTS], self._header.offsets

        def readinto(name: str, start: int, out: memoryview) -> None:
            if name in offsets:
                file.readinto(offsets[name] + start * kernels.itemsize(named[name].dtype), out)

        return fingerprint(named, readinto)

    def require_unchanged(self) -> None:
        """Raise SourceChanged if the file is no longer the one that was opened."""
        self.files[WEIGHTS].require_unchanged()

    def stamp(self) -> str:
        """The factors' file, what the system said of it when it was opened, and the configuration that was read."""
        return repr((*self._identity, self.config))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lora) and self.stamp() == other.stamp()

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        return self.text


def _config(path: Path) -> dict[str, Any]:
    try:
        with stated(path / CONFIG):
            config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path / CONFIG} is not JSON: {error}") from None
    problems = []
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise FormatError(f"{path} is no LoRA: peft_type must be LORA")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        problems.append(f"r and lora_alpha must be numbers, not {rank!r} and {alpha!r}")
    problems += [
        p for table in ("rank_pattern", "alpha_pattern") for p in _bad_patterns(table, config.get(table) or {})
    ]
    if config.get("use_dora"):
        problems.append("DoRA rescales the base's columns, which is no sum of weights: merge it into a model first")
    if config.get("bias", "none") != "none":
        problems.append(f"bias={config['bias']!r} holds biases, not differences of them: merge it into a model first")
    if config.get("modules_to_save"):
        problems.append(f"modules_to_save={config['modules_to_save']} holds whole weights: merge it into a model first")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(CHANGES_THE_BASE):
        problems.append(f"init_lora_weights={init!r} took a part out of the base: convert it to a plain LoRA first")
    problems += [f"{key} makes it more than B @ A: merge it into a model first" for key in VARIANTS if config.get(key)]
    if problems:
        raise FormatError(f"{path} cannot be read as a task vector:", problems)
    return config


def _bad_patterns(table: str, patterns: Any) -> list[str]:
    if not isinstance(patterns, dict) or not all(isinstance(v, int | float) and v > 0 for v in patterns.values()):
        return [f"{table} must map patterns to positive numbers"]
    found = []
    for pattern in patterns:
        try:
            re.compile(_whole(pattern))
        except re.error as error:
            found.append(f"{table}: {pattern!r} is no regular expression: {error}")
    return found


def _pairs(specs: Mapping[str, Spec], config: Mapping[str, Any], path: Path) -> dict[str, Pair]:
    """Name of the base's tensor -> its factors. Raises FormatError for tensors that are no factors of matrices."""
    sides: dict[tuple[str, bool], dict[str, str]] = {}
    problems = []
    for key, spec in specs.items():
        found = _KEY.match(key)
        if not found:
            problems.append(f"{key} is no lora_A or lora_B")
        elif len(spec.shape) != 2 or not spec.arithmetic:
            problems.append(f"{key} is {spec}: only matrices can be multiplied")
        else:
            sides.setdefault((found["module"], bool(found["embedding"])), {})[found["side"]] = key
    pairs = {}
    for (module, embedding), keys in sides.items():
        if keys.keys() != {"A", "B"}:
            problems.append(f"{module} has only lora_{next(iter(keys))}")
            continue
        rank = specs[keys["A"]].shape[0]
        if specs[keys["B"]].shape[1] != rank:
            problems.append(f"{module}: A is {list(specs[keys['A']].shape)}, B is {list(specs[keys['B']].shape)}")
            continue
        name = module.removeprefix(PREFIX)
        scale = _scale(name, config)
        pairs[f"{name}.weight"] = Pair(
            keys["A"], keys["B"], rank, scale, embedding or bool(config.get("fan_in_fan_out"))
        )
    if problems:
        raise FormatError(f"{path} cannot be read as a task vector:", problems[:50])
    return pairs


def _scale(module: str, config: Mapping[str, Any]) -> float:
    """lora_alpha / r, or / sqrt(r) with rsLoRA, with the patterns' values where one fits (as PEFT looks them up)."""

    def value(table: str, default: Any) -> Any:
        patterns = config.get(table) or {}
        return next((v for p, v in patterns.items() if re.match(_whole(p), module)), default)

    rank, alpha = value("rank_pattern", config["r"]), value("alpha_pattern", config["lora_alpha"])
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _whole(pattern: str) -> str:
    """A pattern of the configuration as PEFT fits it: the end of a module's name, from a dot on."""
    return rf"(?:.*\.)?(?:{pattern})$"


def _spec(pair: Pair, specs: Mapping[str, Spec]) -> Spec:
    out, into = specs[pair.b].shape[0], specs[pair.a].shape[1]
    return Spec((into, out) if pair.transposed else (out, into), "F32")
