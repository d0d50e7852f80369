"""The vocabulary of the tokenizer in a folder, and the union of several vocabularies.

A token is a text with an id, which is the number of its row in the embedding. The files are read with the standard
library alone.
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

# Patterns of the files of a tokenizer. Those in WORDS hold the vocabulary in older formats, beside tokenizer.json.
WORDS = (
    "vocab*", "merges.txt", "added_tokens.json", "*.model", "*.tiktoken", "tekken.json", "*.spm", "*.vocab",
    "bpe.codes", "*.bpe", "dict*.txt",
)  # fmt: skip
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "chat_template*", *WORDS)
TEMPLATES = "additional_chat_templates"  # a folder
IDS = ("*_token_id", "*_token_ids", "*_token_index")  # keys of config.json and generation_config.json that name tokens
HIGHEST = 2**31 - 1
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
FAR = 1000  # by how much the log-probability of pieces that a Unigram model is given is below all others


@dataclass(frozen=True, slots=True)
class Table:
    """A vocabulary. ids: token -> id.

    added: the added tokens among them, which the tokenizer finds in a text before it cuts the rest, with their entries
    in tokenizer.json.
    """

    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]

    @property
    def size(self) -> int:
        """The greatest id plus 1."""
        return max(self.ids.values(), default=-1) + 1

    def below(self, rows: int) -> "Table":
        """The vocabulary without the tokens whose id is `rows` or more."""
        ids = {token: number for token, number in self.ids.items() if number < rows}
        return Table(ids, {token: entry for token, entry in self.added.items() if token in ids})

    def joined(self, other: "Table") -> "Table":
        """The union with another vocabulary. New tokens get the next ids, in the order of their ids in the other."""
        new = sorted((t for t in other.ids if t not in self.ids), key=other.ids.__getitem__)
        ids = {**self.ids, **{token: number for number, token in enumerate(new, self.size)}}
        more = {t: {**entry, "id": ids[t]} for t, entry in other.added.items() if t not in self.ids}
        return Table(ids, {**self.added, **more})


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """The tokenizer in `folder`, with the tokens of `others` and the `extra` tokens added.

    rows: the number of rows of its model, if it is known. Tokens without a row are not part of a union.
    """

    folder: Path
    others: tuple["Tokenizer", ...] = ()
    extra: tuple[str, ...] = ()
    rows: int = HIGHEST

    def table(self, reader: Callable[[Path], Table] | None = None) -> Table:
        """The vocabulary with all tokens. reader: `read`, or a function that caches it. Raises FormatError."""
        table = (reader or read)(self.folder)
        for other in self.others:
            table = table.joined(other.table(reader).below(other.rows))
        new = {token: k for k, token in enumerate(self.extra) if token not in table.ids}
        return table.joined(Table(new, {token: {**ADDED, "content": token} for token in new})) if new else table

    @property
    def nbytes(self) -> int:
        """The size of the files that are read for the table."""
        own = sum(p.stat().st_size for p in files_of(self.folder) if p.suffix in (".json", ".txt"))
        return own + sum(other.nbytes for other in self.others)

    @property
    def grown(self) -> bool:
        """Whether there are more tokens than in the files of `folder`."""
        return bool(self.others or self.extra) and len(self.table().ids) > len(read(self.folder).ids)

    @property
    def copied(self) -> tuple[str, ...]:
        """Patterns of the files that are copied. If there are new tokens, files of WORDS, which lack them, are not."""
        return tuple(p for p in TOKENIZER if p not in WORDS) if self.grown else TOKENIZER

    def write(self, target: Path, durable: bool) -> None:
        """Write a tokenizer.json with all tokens, if there are more than in the files of `folder`."""
        if self.grown:
            document = extended(json_of(self.folder / "tokenizer.json"), self.table(), self.folder)
            write_text(target / "tokenizer.json", json.dumps(document, ensure_ascii=False) + "\n", durable)

    def renumbered(self, settings: Mapping[str, Any], folder: Path, filename: str) -> dict[str, Any]:
        """`settings`, which are the table of `filename` in another `folder`, with the ids that this tokenizer gives to
        their tokens. If it lacks a token, the entry is that of the file of the same name in its own folder."""
        if folder == self.folder:
            return dict(settings)
        tokens = {number: token for token, number in read(folder).ids.items()}
        return _renumbered(settings, tokens, self.table().ids, read_table(self.folder / filename))


def _renumbered(
    settings: Mapping[str, Any], tokens: Mapping[int, str], ids: Mapping[str, int], own: Mapping[str, Any]
) -> dict[str, Any]:
    """See `Tokenizer.renumbered`. tokens: id -> token, before. ids: token -> id, after. own: the folder's own table."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        inner = own.get(key)
        if isinstance(value, dict):
            result[key] = _renumbered(value, tokens, ids, inner if isinstance(inner, dict) else {})
        elif any(fnmatchcase(key, pattern) for pattern in IDS):
            old = value if isinstance(value, list) else [value]
            new = [ids.get(tokens[v]) if isinstance(v, int) and v in tokens else v for v in old]
            lost = any(n is None and v is not None for v, n in zip(old, new, strict=True))
            result[key] = inner if lost else new if isinstance(value, list) else new[0]
        else:
            result[key] = value
    return result


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
    """The table of a vocabulary and of the ids of extra tokens. Raises FormatError unless each gives texts an id."""
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
    table = read_json(path)
    if not isinstance(table, dict):
        raise FormatError(f"{path} holds no table")
    return table


def template_of(folder: Path) -> str | None:
    """The chat template in a model's folder, None if there is none. Raises FormatError if its file is no UTF-8 text."""
    if (alone := folder / "chat_template.jinja").is_file():
        return read_text(alone).strip() or None
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = read_table(folder / name).get("chat_template")
        if isinstance(template, list):
            template = {e.get("name"): e.get("template") for e in template if isinstance(e, dict)}.get("default")
        if isinstance(template, str) and template.strip():
            return template.strip()
    return None


# ---- writing -------------------------------------------------------------------------------------
def extended(document: dict[str, Any], table: Table, folder: Path) -> dict[str, Any]:
    """The content of a tokenizer.json, changed in place so that it has all tokens of a table. Raises FormatError.

    All tokens are put into the vocabulary of the model, since only there ids can be written. A BPE model makes tokens
    by its merges, so it cuts text as before. To a Unigram model the new pieces are far less likely than all others, so
    it cuts text as before if it had pieces for it. Added tokens of the others are added tokens here, too.
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
