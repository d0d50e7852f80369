"""A LoRA in PEFT's adapter layout, as a task vector.

The change of a weight (out, in) is scale * B @ A, where B is (out, rank) and A is (rank, in). It is computed for the
rows that are asked for, and is never in memory as a whole. The scale is lora_alpha / rank, or lora_alpha / sqrt(rank)
with rsLoRA; ranks and alphas may differ from module to module.
"""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from taskvec.errors import FormatError, TaskvecError
from taskvec.formats.adapter_config import Ranks, cannot_be_read, note_untargeted, read_config
from taskvec.formats.beside import Adapter, problems_of, remarks_on
from taskvec.formats.factors import CONFIG, PEFT, factors_in
from taskvec.formats.header import ENDING, Header, names_one_file, read_header
from taskvec.formats.lora_keys import Pair, Tensors, read_keys
from taskvec.formats.orientation import Decision, decide
from taskvec.notes import note
from taskvec.numbers import floats as floats_numpy
from taskvec.numbers import kernels
from taskvec.places.place import Place
from taskvec.sources.abilities import Adapts, FromFiles
from taskvec.sources.cost import Cost
from taskvec.sources.source import Source, Spec, fingerprint

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHTS = "adapter_model.safetensors"
_SHARD = re.compile(r"-\d+-of-\d+\.safetensors$")
_ONE_FILE = "load all of it with PEFT and save it in one file"
CACHED = ("fingerprint", "identity", "_form", "_hash")  # attributes that another form of an adapter does not share
PIECE = 256 << 10  # bytes of a factor that are read and decoded at once


def weights_at(place: Place, name: str) -> str | None:
    """The name of the file of factors that `name` stands for, beside the configuration of an adapter: the file itself,
    or for "" that of the place. None for what is no LoRA of PEFT's. Raises FormatError where it is not clear."""
    if name:
        return _lone_file(place, name)
    models = sorted(other for other in place.names() if ENDING in other and other != WEIGHTS)
    factors = [other for other in models if names_one_file(other) and _holds_factors(place, other)]
    models = [other for other in models if other not in factors and not other.startswith(f"{WEIGHTS}.")]
    if place.holds(WEIGHTS):
        factors.insert(0, WEIGHTS)
    if models and factors:
        raise FormatError(
            f"{place.uri()} holds a LoRA ({factors[0]}) and a model ({models[0]}): name the one you mean, "
            f"{place.uri(factors[0])} or {place.uri(models[0])}"
        )
    if len(factors) > 1 and factors[0] != WEIGHTS:
        if any(map(_SHARD.search, factors)):
            raise FormatError(f"{place.uri()} holds an adapter in parts: {_ONE_FILE}", factors)
        raise FormatError(f"{place.uri()} holds several files of factors: name the one you mean", factors)
    if factors or models:
        return factors[0] if factors else None
    pickled = next((other for other in place.names() if other.startswith("adapter_model.")), None)
    saved = f"; {pickled} cannot be read: load the adapter with PEFT and save_pretrained it" if pickled else ""
    raise FormatError(f"{place.uri()} has {CONFIG} and no {WEIGHTS}{saved}")


def _lone_file(place: Place, name: str) -> str | None:
    """The name itself if that file holds factors and its folder would not be read as that adapter."""
    if not names_one_file(name) or not _holds_factors(place, name):
        return None
    if _SHARD.search(name):
        raise FormatError(f"{place.uri(name)} is a part of an adapter: {_ONE_FILE}")
    try:
        alone = weights_at(place, "") == name
    except FormatError:  # the folder holds other things, too, and naming the file is the answer
        return name
    if alone:
        raise FormatError(
            f"{place.uri(name)} holds the factors of a LoRA, and {CONFIG} in its folder says how they are scaled: "
            f"give the folder, {place.uri()}"
        )
    return name


def _holds_factors(place: Place, name: str) -> bool:
    adapter = factors_in(read_header(place.open(name)).specs)
    return adapter is not None and adapter.dialect is PEFT and not adapter.unmerged


@dataclass(frozen=True, slots=True)
class Factors:
    """delta = scale * left @ right, both float32 in memory, of shapes (rows, rank) and (rank, cols)."""

    left: "NDArray[Any]"
    right: "NDArray[Any]"
    scale: float


class Lora(FromFiles, Adapts):
    """An adapter as a source of mass 0. Tensors that it does not name are zero."""

    mass, partial, base = 0, True, None

    def __init__(self, place: Place, name: str, uri: str, revision: str | None, factors: str):
        """Read the configuration and the header of the file `factors`, which lies beside it; the other arguments are
        those of `FromFiles`. Raises FormatError for what is not a plain LoRA."""
        super().__init__(place, name, uri, revision)
        self._config_file = place.open(CONFIG)
        self.config = read_config(self._config_file, place.uri(name))
        self._file = place.open(factors)
        self.files = {factors: self._file}
        self._header = read_header(self._file)
        self.metadata = dict(self._header.metadata)
        tensors = _tensors(self._header, self.config, place.uri(name))
        self.copies: Mapping[str, str] = tensors.copies
        self._flag = bool(self.config.get("fan_in_fan_out"))
        self._become(tensors.pairs, self._decide(tensors.pairs, None).undecided)
        self.cost = Cost(once=sum(4 * self._header.specs[n].numel for p in self._pairs.values() for n in (p.a, p.b)))
        self._fits: dict[Source, Lora] = {}
        self.beside: Source | None = None  # the model that told which way round tensors are stored, if it was asked

    def _become(self, pairs: Mapping[str, Pair], undecided: tuple[str, ...]) -> None:
        """Take these pairs, of which nothing was read yet."""
        self._pairs, self._undecided = pairs, undecided
        self.specs = {name: _spec(pair, self._header.specs) for name, pair in pairs.items()}
        self._factors: dict[str, Factors] = {}
        self._locks = {name: threading.Lock() for name in pairs}
        self._zeros: set[str] = set()

    @classmethod
    def opened(cls, place: Place, name: str, uri: str, revision: str | None) -> "Lora":
        """See `FromFiles`."""
        if factors := weights_at(place, name):
            return cls(place, name, uri, revision, factors)
        raise FormatError(f"{place.uri(name)} is no LoRA any more")

    # ---- beside a model
    def fitted(self, model: Source) -> "Lora":
        """The same adapter in the form in which it is added to `model`, whose tensors show which way round each weight
        is stored (orientation.py). Mostly the configuration is right about that, and this object itself is returned.
        """
        if (known := self._fits.get(model)) is not None:
            return known
        try:
            decision = self._decide(self._pairs, model.specs)
        except TaskvecError:  # the tensors of the model cannot be known: whoever asks for them gets this error
            return self
        turned = {n: replace(p, transposed=p.embedding or decision.turned[n]) for n, p in self._pairs.items()}
        fit = self
        if turned != self._pairs or decision.undecided != self._undecided:
            fit = object.__new__(Lora)
            fit.__dict__ |= {key: value for key, value in self.__dict__.items() if key not in CACHED}
            fit._become(turned, decision.undecided)
            fit._fits, fit.beside = {}, model
        if len(self._fits) > 8:
            self._fits.clear()
        self._fits[model] = fit
        return fit

    def _decide(self, pairs: Mapping[str, Pair], model: Mapping[str, Spec] | None) -> Decision:
        shapes = {n: (self._rows(p.b), self._columns(p.a)) for n, p in pairs.items() if not p.embedding}
        decision = decide(shapes, self._flag, model)
        return Decision(dict.fromkeys(pairs, True) | decision.turned, decision.undecided)

    def _rows(self, key: str) -> int:
        return self._header.specs[key].shape[0]

    def _columns(self, key: str) -> int:
        return self._header.specs[key].shape[1]

    def objections(self, model: Source | None, as_term: bool = True) -> list[str]:
        """See `Adapts`: a sentence for each objection."""
        return problems_of(self._adapter, model, as_term)

    def remarks(self, model: Source | None) -> list[str]:
        """See `Adapts`: a sentence for each remark."""
        return remarks_on(self._adapter, model)

    @property
    def _adapter(self) -> Adapter:
        return Adapter(self.text, self.config, self.specs, self._undecided, self.copies, self._header, self._file)

    # ---- values
    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Fill `out` with float32 elements of scale * B @ A from flat index `start` on."""
        f = self._factors.get(name)
        if f is None:
            with self._locks[name]:  # one thread reads them, the others wait for what it has read
                f = self._factors.get(name) or self._factors.setdefault(name, self._load(name))
        rank, cols = f.right.shape
        kernels.lowrank(out, f.left, f.right, start, len(out) // 4, cols, rank, f.scale)

    def _load(self, name: str) -> Factors:
        pair = self._pairs[name]
        a, b = self._matrix(pair.a, pair.transposed), self._matrix(pair.b, pair.transposed)
        if not (a.any() and b.any()):
            self._zeros.add(name)
            if len(self._zeros) == len(self._pairs):
                note(
                    f"{self.text} changes nothing: B @ A is zero, for in every module A or B is zero (was it trained?)"
                )
        left, right = (a, b) if pair.transposed else (b, a)
        return Factors(left, right, pair.scale)

    def _matrix(self, key: str, transposed: bool) -> "NDArray[Any]":
        """A factor (rows, cols), or its transpose, in float32. It is read and decoded piece by piece, so that it is in
        memory only once."""
        import numpy as np

        spec, at = self._header.specs[key], self._header.offsets[key]
        rows, cols = spec.shape
        factor = np.empty((cols, rows) if transposed else (rows, cols), np.float32)
        target, width = factor.T if transposed else factor, kernels.itemsize(spec.dtype)
        most = PIECE // width
        high, wide = max(1, most // cols), min(cols, most)  # whole rows, or a part of one
        for row in range(0, rows, high):
            for col in range(0, cols, wide):
                part = target[row : row + high, col : col + wide]
                raw = self._file.read(at + (row * cols + col) * width, part.size * width)
                part[:] = floats_numpy.decode(raw, spec.dtype, part.size).reshape(part.shape)
        return factor

    @cached_property
    def fingerprint(self) -> str:
        """See `source.fingerprint`, over the factors and their scales."""
        scales = sorted((name, pair.scale, pair.transposed) for name, pair in self._pairs.items())
        named = {json.dumps(["lora", *scales]): Spec((), "F32")} | dict(self._header.specs)
        file, offsets = self._file, self._header.offsets

        def readinto(name: str, start: int, out: memoryview) -> None:
            if name in offsets:
                file.readinto(offsets[name] + start * kernels.itemsize(named[name].dtype), out)

        return fingerprint(named, readinto)

    def require_unchanged(self) -> None:
        """Raise SourceChanged if the factors or their configuration are no longer those that were opened."""
        self._file.require_unchanged()
        self._config_file.require_unchanged()

    @cached_property
    def identity(self) -> tuple[object, ...]:
        """See `FromFiles`: the file of factors, the configuration as it was read, and the form beside a model."""
        return self._file.address, self._file.stamp, self._form, self._undecided, repr(self.config)

    @cached_property
    def _form(self) -> str:
        """What the configuration, and the model it stands beside, make of the factors."""
        return hashlib.sha256(repr(sorted(self._pairs.items())).encode()).hexdigest()


def _tensors(header: Header, config: Mapping[str, Any], where: str) -> Tensors:
    """What the tensors of the file are. Raises FormatError that names all that are no factors of a matrix."""
    ranks = Ranks(config)
    try:
        tensors = read_keys(header.specs, config, ranks)
    except ValueError as error:
        raise FormatError(f"{where}: {CONFIG}: {error}") from None
    if not tensors.pairs and not tensors.problems:
        tensors.problems.append("it holds no factors at all")
    if tensors.problems:
        raise cannot_be_read(where, tensors.problems)
    ranks.note_doubts(where)
    note_untargeted(where, config, tensors.pairs)
    return tensors


def _spec(pair: Pair, specs: Mapping[str, Spec]) -> Spec:
    out, into = specs[pair.b].shape[0], specs[pair.a].shape[1]
    return Spec((into, out) if pair.transposed else (out, into), "F32")
