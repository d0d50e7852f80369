"""A safetensors checkpoint: one file, a Hugging Face folder, or shards with an index."""

from functools import cached_property
from pathlib import Path

from taskvec.errors import FormatError
from taskvec.formats.header import Header, metadata_size, names_one_file, read_header
from taskvec.numbers.dtypes import BITS
from taskvec.places.json_files import read_json
from taskvec.places.local import File, stated
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


def sniff(path: Path) -> bool:
    """A .safetensors file, an index of shards, or a folder that has one of them."""
    return names_one_file(path) or path.name.endswith(INDEX) or (path.is_dir() and any(path.glob("*.safetensors*")))


def open_source(path: Path, uri: str, revision: str | None = None) -> "Checkpoint":
    """Read and check the headers. Raises FormatError."""
    return Checkpoint(path, uri, revision)


class Checkpoint(FromFiles, OnDisk):
    """Tensors in safetensors files. Equal to any other that was opened on the same unchanged files."""

    def __init__(self, path: Path, uri: str, revision: str | None = None):
        self.path, self.uri, self.revision = path, uri, revision
        found = _files(path)
        self.folder = path if path.is_dir() else path.parent
        headers = {name: read_header(file) for name, file in found.items()}
        _require_index(path, headers)
        self.files = found
        self._identity = tuple((str(f.path.resolve()), f.stamp) for f in found.values())  # wherever we go from here
        self._at = {
            tensor: (found[name], header.offsets[tensor], BITS[spec.dtype])
            for name, header in headers.items()
            for tensor, spec in header.specs.items()
        }
        self.specs: dict[str, Spec] = {n: spec for h in headers.values() for n, spec in h.specs.items()}
        self.metadata = next((dict(h.metadata) for h in headers.values()), {})
        self.cost = Cost(once=sum(metadata_size(h.metadata) for h in headers.values()))
        self.statistic = self.metadata.get("taskvec.statistic", "")
        self.mass = 0 if self.statistic or self.metadata.get("taskvec.mass") == "0" else 1
        self.base = self.metadata.get("taskvec.base")
        # A vector that was made of adapters alone: what it does not name is zero, as in an adapter.
        self.partial = not self.mass and not self.statistic and self.metadata.get("taskvec.partial") == "1"

    @classmethod
    def opened(cls, path: Path, uri: str, revision: str | None) -> "Checkpoint":
        """See `FromFiles`."""
        return cls(path, uri, revision)

    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Fill `out` with elements of `name` from flat index `start` on."""
        file, offset, bits = self._at[name]
        file.readinto(offset + start * bits // 8, out)

    def segment(self, name: str, start: int) -> tuple[int, int]:
        """Where those elements lie: (file descriptor, offset), for a kernel that reads them itself."""
        file, offset, bits = self._at[name]
        return file.fd(), offset + start * bits // 8

    @cached_property
    def quantised(self) -> str:
        """How the model's configuration says that its weights are quantised, "" if it does not."""
        return _quantised(self.folder)

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """The tensors that are quantised, a line each that says why."""
        return tuple(codes(self.specs, self.quantised))

    @cached_property
    def fingerprint(self) -> str:
        """See `source.fingerprint`."""
        return fingerprint(self.specs, self.readinto)

    def require_unchanged(self) -> None:
        """Raise SourceChanged if a file is no longer the one that was opened."""
        for file in self.files.values():
            file.require_unchanged()

    def stamp(self) -> str:
        """The files and what the system said of them when they were opened."""
        return repr(self._identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checkpoint) and self._identity == other._identity

    @cached_property
    def _hash(self) -> int:
        return hash(self._identity)

    def __hash__(self) -> int:
        return self._hash


def _files(path: Path) -> dict[str, File]:
    """File name -> File, in the order of the index or alone. Raises FormatError if it is not clear which are meant."""
    if path.is_file():
        return _shards(path) if path.name.endswith(INDEX) else {path.name: File(path)}
    with stated(path):
        files = sorted(p.name for p in path.iterdir() if names_one_file(p) or p.name.endswith(INDEX))
    indexes = [name for name in files if name.endswith(INDEX)]
    whole = [name for name in (MODEL, VECTOR) if name in files]
    if len(indexes) + len(whole) > 1:
        raise FormatError(f"{path} holds {' and '.join(indexes + whole)}: name the one you mean")
    if indexes:
        return _shards(path / indexes[0])
    if whole:
        return {whole[0]: File(path / whole[0])}
    if len(files) == 1:
        return {files[0]: File(path / files[0])}
    raise FormatError(f"{path} holds {len(files)} safetensors files and no index: name the one you mean", files[:50])


def _quantised(folder: Path) -> str:
    """The quant_method of config.json, of a configuration within it (text_config), or of another tool's file."""
    for name, keys in CONFIGURATIONS.items():
        try:
            table = read_json(folder / name)
        except FormatError:  # there is none, or it is not JSON: then it says nothing
            continue
        for inner in [table, *table.values()] if isinstance(table, dict) else []:
            for found in (inner[key] for key in keys if isinstance(inner, dict) and inner.get(key)):
                method = found.get("quant_method") or found.get("quant_algo") if isinstance(found, dict) else None
                return str(method or "in a way that it does not name")
    return ""


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = read_json(index, once=True)
    except FormatError as error:
        raise FormatError(f"{index} is no index of shards: {error}") from None
    table = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(v, str) for v in table.values()):
        raise FormatError(f"{index} is no index of shards: it needs a weight_map of tensor names to file names")
    return table


def _shards(index: Path) -> dict[str, File]:
    names = sorted(set(_weight_map(index).values()))
    problems = [
        f"{name!r} is not a file name within the folder"
        for name in names
        if name != Path(name).name or name in ("", "..")
    ]
    problems = problems or [f"{name} is missing" for name in names if not (index.parent / name).is_file()]
    if problems:
        raise FormatError(f"{index} points to files that cannot be read:", problems[:50])
    return {name: File(index.parent / name) for name in names}


def _require_index(path: Path, headers: dict[str, Header]) -> None:
    """The index and the shards must name the same tensors in the same files."""
    folder = path if path.is_dir() else path.parent
    index = path if path.name.endswith(INDEX) else next(iter(folder.glob(f"*{INDEX}")), None)
    if index is None or (path.is_file() and path != index):
        return
    table = _weight_map(index)
    here = [(tensor, name) for name, header in headers.items() for tensor in header.specs]
    listed = set(table.items())
    problems = [f"{tensor} is not in {name}, where the index puts it" for tensor, name in sorted(listed - set(here))]
    problems += [f"{tensor} in {name} is not in the index" for tensor, name in here if (tensor, name) not in listed]
    if problems:
        raise FormatError(f"{index} does not fit its shards:", problems[:50])
