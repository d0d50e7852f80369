"""The vocabulary of a folder's tokenizer, read with the standard library alone, and the union of several.

A token is a text with an id, the row of the embedding that it has.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from taskvec.errors import FormatError
from taskvec.places.json_files import read_json, read_text
from taskvec.places.local import stated, write_text
from taskvec.views.settings import read_table

# The files of a tokenizer; those of WORDS hold the vocabulary in older forms, beside tokenizer.json.
WORDS = (
    "vocab*", "merges.txt", "added_tokens.json", "*.model", "*.tiktoken", "tekken.json", "*.spm", "*.vocab",
    "bpe.codes", "*.bpe", "dict*.txt",
)  # fmt: skip
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "chat_template*", *WORDS)
TEMPLATES = "additional_chat_templates"  # a folder
IDS = ("*_token_id", "*_token_ids", "*_token_index")  # keys of config.json and generation_config.json that name tokens
HIGHEST = 2**31 - 1
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
FAR = 1000  # how much less likely than any other are the pieces that a Unigram model is given


@dataclass(frozen=True, slots=True)
class Table:
    """ids: token -> id. added: those of them that the tokenizer finds in the text before all else, as it lists them."""

    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]

    @property
    def size(self) -> int:
        """One more than the greatest id."""
        return max(self.ids.values(), default=-1) + 1

    def below(self, rows: int) -> "Table":
        """Without the tokens whose id is `rows` or more."""
        ids = {token: number for token, number in self.ids.items() if number < rows}
        return Table(ids, {token: entry for token, entry in self.added.items() if token in ids})

    def joined(self, other: "Table") -> "Table":
        """With the tokens of another, which get the next ids in the order of theirs."""
        new = sorted((t for t in other.ids if t not in self.ids), key=other.ids.__getitem__)
        ids = {**self.ids, **{token: number for number, token in enumerate(new, self.size)}}
        more = {t: {**entry, "id": ids[t]} for t, entry in other.added.items() if t not in self.ids}
        return Table(ids, {**self.added, **more})


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """That of `folder`, with the tokens of others added, and `extra` ones that none of them has.

    rows: how many rows its model has, if that is known: to a union it lends no token that has no row.
    """

    folder: Path
    others: tuple["Tokenizer", ...] = ()
    extra: tuple[str, ...] = ()
    rows: int = HIGHEST

    def table(self, reader: Callable[[Path], Table] | None = None) -> Table:
        """Every token; `reader` is `read` or remembers what that read. Raises FormatError for what cannot be read."""
        found = (reader or read)(self.folder)
        for other in self.others:
            found = found.joined(other.table(reader).below(other.rows))
        new = {token: k for k, token in enumerate(self.extra) if token not in found.ids}
        return found.joined(Table(new, {token: {**ADDED, "content": token} for token in new})) if new else found

    @property
    def nbytes(self) -> int:
        """Bytes of the files that are read for the table."""
        own = sum(p.stat().st_size for p in files_of(self.folder) if p.suffix in (".json", ".txt"))
        return own + sum(other.nbytes for other in self.others)

    @property
    def grown(self) -> bool:
        """Whether there are more tokens than in the files."""
        return bool(self.others or self.extra) and len(self.table().ids) > len(read(self.folder).ids)

    @property
    def copied(self) -> tuple[str, ...]:
        """The files that go along as they are, by patterns; where it has grown, not those that would contradict it."""
        return tuple(p for p in TOKENIZER if p not in WORDS) if self.grown else TOKENIZER

    def write(self, target: Path, durable: bool) -> None:
        """Where there are more tokens than in the files, write a tokenizer.json that has them too."""
        if self.grown:
            document = extended(json_of(self.folder / "tokenizer.json"), self.table(), self.folder)
            write_text(target / "tokenizer.json", json.dumps(document, ensure_ascii=False) + "\n", durable)

    def renumbered(self, settings: Mapping[str, Any], folder: Path, filename: str) -> dict[str, Any]:
        """A table of config.json or the like, of `folder`, with the ids of tokens as they are here.

        An id keeps naming the same token. Where there is no such token here, the entry is that of this folder's file.
        """
        if folder == self.folder:
            return dict(settings)
        tokens = {number: token for token, number in read(folder).ids.items()}
        return _renumbered(settings, tokens, self.table().ids, read_table(self.folder / filename))


def _renumbered(
    settings: Mapping[str, Any], tokens: Mapping[int, str], ids: Mapping[str, int], own: Mapping[str, Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        inner = own.get(key)
        if isinstance(value, dict):
            found[key] = _renumbered(value, tokens, ids, inner if isinstance(inner, dict) else {})
        elif any(fnmatchcase(key, pattern) for pattern in IDS):
            old = value if isinstance(value, list) else [value]
            new = [ids.get(tokens[v]) if isinstance(v, int) and v in tokens else v for v in old]
            lost = any(n is None and v is not None for v, n in zip(old, new, strict=True))
            found[key] = inner if lost else new if isinstance(value, list) else new[0]
        else:
            found[key] = value
    return found


# ---- reading -------------------------------------------------------------------------------------
def files_of(folder: Path) -> list[Path]:
    """The files of a tokenizer, in the order of their names."""
    return sorted({path for pattern in TOKENIZER for path in folder.glob(pattern)})


def read(folder: Path) -> Table:
    """The vocabulary of the tokenizer in a folder: tokenizer.json, else vocab.json or vocab.txt. Raises FormatError."""
    if (path := folder / "tokenizer.json").is_file():
        document = json_of(path)
        model, added = document.get("model"), document.get("added_tokens") or []
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocabulary, list):  # of a Unigram model
            if not all(map(_is_piece, vocabulary)):
                raise FormatError(f"{path} is no vocabulary: its list must give every piece (a text) a score, a number")
            vocabulary = {piece: k for k, (piece, _) in enumerate(vocabulary)}
        if not isinstance(added, list) or not all(isinstance(e, dict) and type(e.get("content")) is str for e in added):
            raise FormatError(f"{path} is no vocabulary: added_tokens must be a list of tables, each with its content")
        entries = {e["content"]: e for e in added}
        return _checked(path, vocabulary, {token: e.get("id") for token, e in entries.items()}, entries)
    extra = json_of(folder / "added_tokens.json") if (folder / "added_tokens.json").is_file() else {}
    if (path := folder / "vocab.json").is_file():
        return _checked(path, json_of(path), extra, {})
    if (path := folder / "vocab.txt").is_file():
        with stated(path):
            lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
        words = [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
        return _checked(path, {word: k for k, word in enumerate(words)}, extra, {})
    only = [p.name for p in files_of(folder) if p.suffix in (".model", ".tiktoken")]
    has = f"has its vocabulary only in {only[0]}" if only else "has no tokenizer"
    raise FormatError(
        f"{folder} {has}: a tokenizer.json is needed (transformers makes it: "
        "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER))"
    )


def _is_piece(entry: Any) -> bool:
    """Whether this is [text, score]."""
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and isinstance(entry[1], int | float)
        and not isinstance(entry[1], bool)
    )


def _checked(path: Path, vocabulary: Any, extra: Any, added: Mapping[Any, Mapping[str, Any]]) -> Table:
    tables = [vocabulary, extra]
    if not all(
        isinstance(table, dict)
        and all(isinstance(t, str) and type(n) is int and 0 <= n <= HIGHEST for t, n in table.items())
        for table in tables
    ):
        raise FormatError(f"{path} is no vocabulary: it must give every token (a text) an id, a whole number")
    if not vocabulary and not extra:
        raise FormatError(f"{path} is no vocabulary: it has no tokens")
    ids = {**extra, **vocabulary}  # a token that is in both has the id of the vocabulary
    return Table(ids, {token: {**entry, "id": ids[token]} for token, entry in added.items()})


def json_of(path: Path) -> dict[str, Any]:
    """The table that a JSON file holds. Raises FormatError."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise FormatError(f"{path} holds no table")
    return found


def template_of(folder: Path) -> str | None:
    """The chat template that lies in a model's folder, if it has one. Raises FormatError for one that is no text."""
    if (alone := folder / "chat_template.jinja").is_file():
        return read_text(alone).strip() or None
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = read_table(folder / name).get("chat_template")
        if isinstance(found, list):
            found = {e.get("name"): e.get("template") for e in found if isinstance(e, dict)}.get("default")
        if isinstance(found, str) and found.strip():
            return found.strip()
    return None


# ---- writing -------------------------------------------------------------------------------------
def extended(document: dict[str, Any], table: Table, folder: Path) -> dict[str, Any]:
    """A tokenizer.json with all tokens of a table, in place.

    Every one gets a place in the model's vocabulary, where its id can be said. So a BPE model, which makes tokens by
    merging, goes on cutting text as before; a Unigram model, for which they are far too unlikely, does where it had
    tokens for the text. Added tokens of the others are found in the text as they were there.
    """
    model = document["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = dict(sorted({**table.ids, **model["vocab"]}.items(), key=lambda item: item[1]))
    else:
        pieces: list[list[Any]] = model["vocab"]
        more = sorted((n, token) for token, n in table.ids.items() if n >= len(pieces))
        if [n for n, _ in more] != [*range(len(pieces), table.size)]:
            raise FormatError(f"{folder / 'tokenizer.json'} has gaps between its ids: no tokens can be added to it")
        least = min((score for _, score in pieces), default=0.0) - FAR
        model["vocab"] = [*pieces, *([token, least] for _, token in more)]
    known = {entry["content"] for entry in document.get("added_tokens") or []}
    new = [dict(entry) for token, entry in table.added.items() if token not in known]
    document["added_tokens"] = [*(document.get("added_tokens") or []), *sorted(new, key=lambda e: e["id"])]
    return document
