"""A safetensors checkpoint: one file, a Hugging Face folder, or shards with an index."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import PurePosixPath

from taskvec.errors import FormatError
from taskvec.formats.header import Header, metadata_size, names_one_file, read_header
from taskvec.numbers.dtypes import BITS
from taskvec.places.json_files import json_in
from taskvec.places.place import Place, Readable, WithDescriptor
from taskvec.sources.abilities import FromFiles, OnDisk
from taskvec.sources.cost import Cost
from taskvec.sources.quantised import codes
from taskvec.sources.source import Spec, fingerprint

INDEX = ".safetensors.index.json"
MODEL = "model.safetensors"  # the name of a model's only file
CONFIGURATIONS = {  # files that say how a model is quantised -> the entries of them that do
    "config.json": ("quantization_config", "compression_config", "quantization"),
    "hf_quant_config.json": ("quantization",),
}
VECTOR = "task_vector.safetensors"  # the name of a task vector's, so that no loader takes it for a model
WeightMap = Mapping[str, str]  # of an index: tensor -> the name of its file


def sniff(place: Place, name: str) -> bool:
    """Whether `name` is a .safetensors file or an index of shards; for "", whether the place has one of them."""
    return any(names_one_file(other) or other.endswith(INDEX) for other in ([name] if name else place.names()))


def open_source(place: Place, name: str, uri: str, revision: str | None = None) -> "Checkpoint":
    """Read and check the headers. Raises FormatError."""
    chosen = name or _chosen(place)
    if chosen.endswith(INDEX):
        weight_map = _weight_map(place, chosen)
        files = _shards(place, chosen, weight_map)
        headers = {shard: read_header(file) for shard, file in files.items()}
        _require_same_tensors(place.uri(chosen), weight_map, headers)
    else:
        files = {chosen: place.open(chosen)}
        headers = {chosen: read_header(files[chosen])}
    on_disk = all(isinstance(file, WithDescriptor) for file in files.values())
    return (CheckpointOnDisk if on_disk else Checkpoint)(place, name, uri, revision, files, headers)


class Checkpoint(FromFiles):
    """Tensors in safetensors files. Equal to any other that was opened on the same unchanged files."""

    def __init__(
        self,
        place: Place,
        name: str,
        uri: str,
        revision: str | None,
        files: Mapping[str, Readable],
        headers: Mapping[str, Header],
    ):
        """files and headers: of each file of weights, by its name. The others: see `FromFiles`."""
        super().__init__(place, name, uri, revision)
        self.files = files
        self._at = {
            tensor: (files[filename], header.offsets[tensor], BITS[spec.dtype])
            for filename, header in headers.items()
            for tensor, spec in header.specs.items()
        }
        self.specs: dict[str, Spec] = {tensor: spec for h in headers.values() for tensor, spec in h.specs.items()}
        self.metadata = next((dict(h.metadata) for h in headers.values()), {})
        self.cost = Cost(once=sum(metadata_size(h.metadata) for h in headers.values()))
        self.statistic = self.metadata.get("taskvec.statistic", "")
        self.mass = 0 if self.statistic or self.metadata.get("taskvec.mass") == "0" else 1
        self.base = self.metadata.get("taskvec.base")
        # A vector that was made of adapters alone: what it does not name is zero, as in an adapter.
        self.partial = not self.mass and not self.statistic and self.metadata.get("taskvec.partial") == "1"

    @classmethod
    def opened(cls, place: Place, name: str, uri: str, revision: str | None) -> "Checkpoint":
        """See `FromFiles`."""
        return open_source(place, name, uri, revision)

    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Fill `out` with elements of `name` from flat index `start` on."""
        file, offset, bits = self._at[name]
        file.readinto(offset + start * bits // 8, out)

    @cached_property
    def quantised(self) -> str:
        """How the model's configuration says that its weights are quantised, "" if it does not."""
        return _quantised(self.place)

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """The tensors that are quantised, a line each that says why."""
        return tuple(codes(self.specs, self.quantised))

    @cached_property
    def fingerprint(self) -> str:
        """See `source.fingerprint`."""
        return fingerprint(self.specs, self.readinto)

    @cached_property
    def identity(self) -> tuple[object, ...]:
        """See `FromFiles`."""
        return tuple((file.address, file.stamp) for file in self.files.values())

    def require_unchanged(self) -> None:
        """Raise SourceChanged if a file is no longer the one that was opened."""
        for file in self.files.values():
            file.require_unchanged()


class CheckpointOnDisk(Checkpoint, OnDisk):
    """A checkpoint whose files have descriptors, so that kernels read them by themselves."""

    _at: dict[str, tuple[WithDescriptor, int, int]]  # type: ignore[assignment]  # `open_source` has asked them

    def segment(self, name: str, start: int) -> tuple[int, int]:
        """Where those elements lie: (file descriptor, offset)."""
        file, offset, bits = self._at[name]
        return file.fd(), offset + start * bits // 8


def _chosen(place: Place) -> str:
    """The file of weights or the index that a place as a whole stands for. Raises FormatError if that is not clear."""
    names = sorted(name for name in place.names() if names_one_file(name) or name.endswith(INDEX))
    indexes = [name for name in names if name.endswith(INDEX)]
    whole = [name for name in (MODEL, VECTOR) if name in names]
    if len(indexes) + len(whole) > 1:
        raise FormatError(f"{place.uri()} holds {' and '.join(indexes + whole)}: name the one you mean")
    for only in (indexes, whole, names):
        if len(only) == 1:
            return only[0]
    raise FormatError(
        f"{place.uri()} holds {len(names)} safetensors files and no index: name the one you mean", names[:50]
    )


def _quantised(place: Place) -> str:
    """The quant_method of config.json, of a configuration within it (text_config), or of another tool's file."""
    for name, keys in CONFIGURATIONS.items():
        try:
            table = json_in(place.open(name))
        except FormatError:  # there is none, or it is not JSON: then it says nothing
            continue
        for inner in [table, *table.values()] if isinstance(table, dict) else []:
            for scheme in (inner[key] for key in keys if isinstance(inner, dict) and inner.get(key)):
                method = scheme.get("quant_method") or scheme.get("quant_algo") if isinstance(scheme, dict) else None
                return str(method or "in a way that it does not name")
    return ""


def _weight_map(place: Place, index: str) -> WeightMap:
    what = f"{place.uri(index)} is no index of shards"
    try:
        content = json_in(place.open(index), once=True)
    except FormatError as error:
        raise FormatError(f"{what}: {error}") from None
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise FormatError(f"{what}: it needs a weight_map of tensor names to file names")
    return table


def _shards(place: Place, index: str, weight_map: WeightMap) -> dict[str, Readable]:
    names = sorted(set(weight_map.values()))
    problems = [
        f"{name!r} is not a file name within the folder"
        for name in names
        if name != PurePosixPath(name).name or name in ("", "..")
    ]
    problems = problems or [f"{name} is missing" for name in names if not place.holds(name)]
    if problems:
        raise FormatError(f"{place.uri(index)} points to files that cannot be read:", problems[:50])
    return {name: place.open(name) for name in names}


def _require_same_tensors(index: str, weight_map: WeightMap, headers: Mapping[str, Header]) -> None:
    """The index and the shards must name the same tensors in the same files. Raises FormatError."""
    listed = set(weight_map.items())
    present = [(tensor, name) for name, header in headers.items() for tensor in header.specs]
    problems = [f"{tensor} is not in {name}, where the index puts it" for tensor, name in sorted(listed - set(present))]
    problems += [f"{tensor} in {name} is not in the index" for tensor, name in present if (tensor, name) not in listed]
    if problems:
        raise FormatError(f"{index} does not fit its shards:", problems[:50])
