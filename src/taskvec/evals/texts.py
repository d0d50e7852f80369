"""Examples (labelled texts, prompts, documents) are read from files and dealt to the two splits."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskvec.errors import FormatError, MismatchError, RecipeError
from taskvec.evals.order import digest, fair_order, position
from taskvec.places.json_files import read_small

SHARE = 0.5  # the default share of a file's examples that are validation examples
LONGEST = 10**8  # characters of a field
MOST = 2**32  # bytes of a file


@dataclass(frozen=True, slots=True)
class Example:
    """A text, and its label if it has one. parts: the digests of the documents, if it is a window over several."""

    text: str
    label: str = ""
    parts: frozenset[str] = frozenset()

    @property
    def identity(self) -> str:
        """A digest of the text: the same text is the same example, whatever its label and wherever it stands."""
        return digest(self.text)


@dataclass
class Data:
    """Where the examples of the splits are: one file for both (`data`), or one for each (`validation` and `test`).

    share: the examples of `data` are dealt out by their digests, this share of them to validation. So the split of a
        text depends on the text alone: equal texts are in one split, and a text stays in its split if the file grows.
    limit: the largest number of examples of a split. They are drawn by their digests with a fixed seed, and every class
        keeps its share of the file.
    """

    data: str = ""
    validation: str = ""
    test: str = ""
    share: float = SHARE
    limit: int | None = None
    text_column: str = "text"
    label_column: str = "label"

    def check(self, name: str) -> None:
        """Raise RecipeError for a task that does not say where its examples are."""
        if bool(self.data) == bool(self.validation or self.test) or bool(self.validation) != bool(self.test):
            raise RecipeError(f"{name}: give `data`, which is dealt out, or both `validation` and `test`")
        self.check_sizes(name)

    def check_sizes(self, name: str) -> None:
        """Raise RecipeError for a share or a limit that cannot be used."""
        if not 0 < self.share < 1:
            raise RecipeError(f"{name}: share is between 0 and 1, not {self.share}")
        if self.limit is not None and self.limit < 1:
            raise RecipeError(f"{name}: limit is at least 1, not {self.limit}")

    def examples(self, split: str, root: Path) -> list[Example]:
        """The examples of a split, each text once. Paths are relative to `root`. Raises FormatError."""
        path = self.place(split, root)
        in_file = {e.identity: e for e in read(path, self.text_column, self.label_column)}
        chosen = [e for identity, e in in_file.items() if self.dealt(identity, split)]
        if not chosen:
            raise FormatError(f"{path} has no examples for {split}")
        return self.limited(chosen, [e.label for e in in_file.values()])

    def limited(self, examples: list[Example], classes: Sequence[str] = ()) -> list[Example]:
        """At most `limit` of a split's examples. classes: those of all examples in the file, whose shares are kept."""
        if self.limit is None or len(examples) <= self.limit:
            return examples
        order = fair_order([e.identity for e in examples], [e.label for e in examples], Counter(classes))
        return [examples[k] for k in order[: self.limit]]

    def place(self, split: str, root: Path) -> Path:
        """The file with a split's examples, which may be the file of both splits."""
        return root / (self.data or (self.validation if split == "validation" else self.test))

    def dealt(self, identity: str, split: str) -> bool:
        """Whether an example in the file of a split is in the split. In a file for both, its digest decides."""
        separate = bool(self.validation and self.test)
        return separate or (position(identity) < self.share) == (split == "validation")


# ---- files ---------------------------------------------------------------------------------------
def read(path: Path, text: str = "text", label: str = "label") -> Iterator[Example]:
    """The examples of a file, by its suffix: .jsonl (an object in each line), .csv and .tsv (with a header), .txt (a
    text in each line). text, label: the names of the columns. Raises FormatError."""
    content = _content(path)
    rows = ROWS.get(path.suffix)
    if rows is None:
        raise FormatError(f"{path}: examples come in files {', '.join(ROWS)}, not {path.suffix or 'without a suffix'}")
    for number, row in rows(path, content, text):
        if not isinstance(row.get(text), str):
            known = ", ".join(map(str, row)) or "none"
            raise FormatError(f"{path}, line {number}: no text under {text!r}; there is {known}")
        yield Example(row[text], "" if row.get(label) is None else str(row[label]))


def _content(path: Path) -> str:
    r"""The text of a file, in which every line ends in \n. Raises FormatError."""
    try:
        content = read_small(path, MOST)
    except ValueError as error:  # a null character in its name
        raise FormatError(f"{str(path)!r} cannot be read: {error}") from None
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is no UTF-8 text: {error}") from None


# Each of these gives the rows of a file with the numbers of their lines. Lines end in \n alone: a text may have other
# characters at which str.splitlines would cut it, such as U+2028 or a form feed.
def _jsonl(path: Path, content: str, _: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("it is no object")
            except (ValueError, RecursionError) as error:
                raise FormatError(f"{path}, line {number}: no JSON ({error})") from None
            yield number, row


def _table(delimiter: str) -> Any:
    def rows(path: Path, content: str, _: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
        csv.field_size_limit(LONGEST)
        reader = csv.DictReader(io.StringIO(content, newline="\n"), delimiter=delimiter)
        try:
            for row in reader:
                if None in row:  # DictReader puts what is too much there
                    raise FormatError(
                        f"{path}, line {reader.line_num}: more fields than columns, which are "
                        f'{", ".join(reader.fieldnames or ())}: put a text that has a {delimiter!r} in "quotes"'
                    )
                yield reader.line_num, row
        except csv.Error as error:
            raise FormatError(f"{path}, line {reader.line_num}: {error}") from None

    return rows


def _lines(path: Path, content: str, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield number, {text: line.strip()}


ROWS: Mapping[str, Any] = {".jsonl": _jsonl, ".csv": _table(","), ".tsv": _table("\t"), ".txt": _lines}


def paragraphs(path: Path, text: str = "text") -> list[Example]:
    """The documents of a file: paragraphs of a text file, which empty lines divide, or examples of another format."""
    if path.suffix != ".txt":
        return [*read(path, text)]
    content = _content(path)
    return [Example(part.strip()) for part in content.split("\n\n") if part.strip()]


def places(labels: Sequence[str], classes: Sequence[str], name: str) -> list[int]:
    """The number of the class that each label names, by its name or its number. Raises MismatchError for others."""
    by_name = {c: k for k, c in enumerate(classes)}
    by_name |= {str(k): k for k in range(len(classes)) if str(k) not in by_name}
    if unknown := sorted({label for label in labels if label not in by_name}):
        listed = [label or "an example without a label (label_column says where it is)" for label in unknown[:20]]
        raise MismatchError(f"{name}: labels that are no class ({', '.join(classes)}):", listed)
    return [by_name[label] for label in labels]
