"""The examples of a suite's tasks, written once into the cache as files that every evaluator can read.

Each task gets a folder with train.jsonl, validation.jsonl and test.jsonl. The folder's name is a digest of where the
examples came from and how they were split, so other data never lie under a name that is known already. The digest of
the examples themselves is part of the name of every vector that is trained on them (vectors.py).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from taskvec.errors import DataError
from taskvec.evals.order import digest
from taskvec.evals.texts import read
from taskvec.lab.image_readers import IMAGE_READERS
from taskvec.lab.image_readers import folder as pictures_of
from taskvec.lab.packages import fetched, package_named
from taskvec.lab.readers import READERS, Pool, Text, key
from taskvec.lab.splits import SEED, SHARES, describe, split
from taskvec.lab.suite import Suite, TaskSpec
from taskvec.places.local import stated
from taskvec.places.moving import whole_folder

ALL_READERS = {**READERS, **IMAGE_READERS}
SPLITS = ("train", "validation", "test")
FORMAT = 1  # of the rules by which examples are read and split


@dataclass(frozen=True, slots=True)
class Prepared:
    """The examples of a task. digests: split -> a digest of its texts and labels, in order."""

    name: str
    folder: Path
    digests: Mapping[str, str]
    about: str  # where they are from, how many there are, and how they were drawn

    def file(self, split: str) -> Path:
        """The examples of a split, {"text": ..., "label": ...} a line."""
        return self.folder / f"{split}.jsonl"


def prepared(suite: Suite, name: str, cache: Path) -> Prepared:
    """The examples of a task: from the cache, or read, split and written into it.

    Raises DataError for data that cannot be had, for a split without examples, and for a class without any.
    """
    spec = suite.specs[name]
    source = _source(suite, spec)
    identity = digest(json.dumps([FORMAT, SEED, SHARES, asdict(suite.splits), source, sorted(spec.labels)]))
    folder = cache / "data" / f"{name}-{identity[:16]}"
    if not folder.is_dir():
        splits = _splits(suite, spec, cache)
        _require_classes(name, spec, splits)
        _write(folder, splits, f"{_from(spec)}; {describe(splits)}")
    with stated(folder, DataError):
        about = (folder / "about.txt").read_text(encoding="utf-8")
        digests = {part: digest((folder / f"{part}.jsonl").read_text(encoding="utf-8")) for part in SPLITS}
    return Prepared(name, folder, digests, about)


def _source(suite: Suite, spec: TaskSpec) -> list[Any]:
    """What decides the examples: the pinned archive, or the bytes of the user's files."""
    if "package" in spec.data:
        package = package_named(str(spec.data["package"]))
        return [package.name, package.version, package.sha256, spec.data["part"]]
    files = [part for part in spec.data if part != "labels"]
    return [[part, digest(_read_text(_path(suite, spec, part)))] for part in files]


def _path(suite: Suite, spec: TaskSpec, part: str) -> Path:
    return suite.path.parent / str(spec.data[part])


def _read_text(path: Path) -> str:
    """What a user's file holds; of a folder of pictures, the names and contents of all files."""
    with stated(path, DataError):
        if path.is_dir():
            files = sorted(file for file in path.glob("*/*") if file.is_file())
            return "".join(
                f"{file.relative_to(path)} {hashlib.sha256(file.read_bytes()).hexdigest()} " for file in files
            )
        return path.read_text(encoding="utf-8", errors="surrogateescape")


def _from(spec: TaskSpec) -> str:
    if "package" not in spec.data:
        return ", ".join(f"{part}: {place}" for part, place in spec.data.items() if part != "labels")
    package = package_named(str(spec.data["package"]))
    return f"{package.name} {package.version}, {spec.data['part']} (licence of the data: {package.licence})"


def _splits(suite: Suite, spec: TaskSpec, cache: Path) -> dict[str, list[Text]]:
    if "package" in spec.data:
        package = package_named(str(spec.data["package"]))
        if package.name not in ALL_READERS:
            raise DataError(f"{package.name} holds no examples; those that do: {', '.join(ALL_READERS)}")
        pool = ALL_READERS[package.name](fetched(package, cache), str(spec.data["part"]))
        known = spec.labels  # a package may have more classes than a task
        return split(Pool(_of(pool.examples, known), _of(pool.test, known)), suite.splits)
    if "file" in spec.data:
        return split(Pool(_chosen(spec, _own(_path(suite, spec, "file"))), []), suite.splits)
    given = {part: _chosen(spec, _own(_path(suite, spec, part))) for part in SPLITS}
    _require_apart(given)
    return {part: texts[: getattr(suite.splits, part)] for part, texts in given.items()}


def _of(examples: Sequence[Text], known: Sequence[str]) -> list[Text]:
    return [e for e in examples if not known or e.label in known]


def _chosen(spec: TaskSpec, examples: Sequence[Text]) -> list[Text]:
    """The examples of the labels that a task names; without such labels all, so that others are told of as an error."""
    return _of(examples, [*map(str, spec.data.get("labels") or ())])


def _own(path: Path) -> list[Text]:
    if path.is_dir():
        return pictures_of(path)
    return [Text(e.text, e.label, key(e.text)) for e in read(path)]


def _require_apart(given: Mapping[str, Sequence[Text]]) -> None:
    """Raise DataError if a text is in two of the user's splits."""
    seen: dict[str, str] = {}
    problems = []
    for part, texts in given.items():
        for text in texts:
            if (other := seen.setdefault(text.group, part)) != part:
                problems.append(f"{text.text[:60]!r} is in {other} and in {part}")
    if problems:
        raise DataError("examples that train or validate may not test:", problems[:20])


def _require_classes(name: str, spec: TaskSpec, splits: Mapping[str, Sequence[Text]]) -> None:
    problems = [f"{part} has no examples" for part, texts in splits.items() if not texts]
    for part, texts in splits.items():
        counts = Counter(text.label for text in texts)
        if spec.descriptions:
            problems += [f"{part} has no example of the class {c}" for c in spec.labels if texts and not counts[c]]
            problems += [f"{part} has the label {c}, which is no class" for c in counts if c not in spec.descriptions]
    if problems:
        raise DataError(f"{name} cannot be used with these data:", problems)


def _write(folder: Path, splits: Mapping[str, Sequence[Text]], about: str) -> None:
    with stated(folder, DataError), whole_folder(folder) as whole:
        for part, texts in splits.items():
            lines = [json.dumps({"text": t.text, "label": t.label}, ensure_ascii=False) + "\n" for t in texts]
            (whole / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
        (whole / "about.txt").write_text(about, encoding="utf-8")
