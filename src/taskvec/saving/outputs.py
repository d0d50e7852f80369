"""Where an output goes, and what it may replace there: only what taskvec wrote, or what is certainly a checkpoint."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from taskvec.errors import OutputError
from taskvec.formats.header import names_one_file
from taskvec.places.local import place_to_write, stated

RECORD = "taskvec.json"  # the record of an output, whose "files" are the files beside the weights
# The names of a checkpoint's files. Names that only look like these (my.model, tokenizer_training_data) are left out.
WEIGHTS = re.compile(
    r"(model|task_vector|pytorch_model|adapter_model|diffusion_pytorch_model)(\.\w+)?(-\d{5}-of-\d{5})?\.safetensors"
    r"(\.index(\.\w+)?\.json)?"
)
BESIDE = {
    "README.md", ".gitattributes", RECORD, "config.json", "generation_config.json", "adapter_config.json",
    "model_index.json", "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "source.spm", "target.spm",
    "chat_template.json", "chat_template.jinja", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt",
    "NOTICE.md", "1_Pooling/config.json",
}  # fmt: skip
TEMPLATES = re.compile(r"additional_chat_templates/[^/]+\.jinja")
LONGEST = 64 << 20  # bytes of an index or a record that are read to learn names
SHOWN = 20  # files that an error names


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an output goes.

    alone: whether it is one file and not a folder. sources: the files and folders that it is made from.
    """

    target: Path
    alone: bool
    overwrite: bool = False
    sources: tuple[Path, ...] = ()

    @classmethod
    def of(cls, uri: str | os.PathLike[str], overwrite: bool = False) -> "Destination":
        """The destination that a user names; one file if the name ends in .safetensors. Links are followed. Raises
        OutputError if this cannot be the name of an output."""
        target = place_to_write(uri)
        if target == _here():
            raise OutputError(
                f"{os.fspath(uri)!r} is the working directory, which is still needed and would be replaced: name a "
                "folder in it, or go to the folder above (cd ..)"
            )
        return cls(target, names_one_file(target), overwrite)

    @classmethod
    def of_file(cls, uri: str | os.PathLike[str], overwrite: bool = False) -> "Destination":
        """The destination of a single file, such as a page or a picture. If its name is a link, the link is replaced,
        not what it leads to. Raises OutputError."""
        path = Path(uri)
        return cls(place_to_write(path.parent) / path.name if path.name else place_to_write(uri), True, overwrite)

    def require_writable(self) -> None:
        """Raise OutputError if the output cannot be put here; to be asked before anything is written.

        What exists is replaced only with `overwrite`, and only if `require_replaceable` allows it. An empty folder is
        no obstacle.
        """
        target = self.target
        with stated(target, OutputError):
            if self.alone and target.is_dir():
                raise OutputError(f"{target} is a folder, the output is a file; remove it first")
            if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
                if not self.overwrite:
                    what = " and is not empty" if target.is_dir() else ""
                    raise OutputError(f"{target} exists{what}; --overwrite replaces it (in Python overwrite=True)")
                self.require_replaceable(target)
            above = next((p for p in target.parents if os.path.lexists(p)), None)
        if above is None or not above.is_dir():
            raise OutputError(f"{target} cannot be made: {above} is not a folder")
        if not os.access(above, os.W_OK | os.X_OK):
            raise OutputError(f"{target} cannot be made: no permission to write in {above}")

    def require_replaceable(self, older: Path) -> None:
        """Raise OutputError unless `older`, which is or was at the target, is something that this output may replace.

        A file may replace a file. A folder may replace a folder that holds a checkpoint and nothing else, and in which
        neither a source nor the working directory lies.
        """
        folder = older.is_dir() and not older.is_symlink()
        if folder == self.alone:
            raise OutputError(
                f"{self.target} is a {'folder' if folder else 'file'}, the output is not; remove it first"
            )
        if not folder:
            return
        folders = [s if s.is_dir() else s.parent for s in map(Path.resolve, self.sources)]
        inside = [str(f) for f in folders if self.target in f.parents]
        if inside or self.target in _here().parents:
            raise OutputError(
                f"{self.target} holds what is still needed ({', '.join(inside) or 'this folder'}): not replaced"
            )
        others = strangers(older)
        if not others and not any(WEIGHTS.fullmatch(path.name) for path in older.iterdir()):
            others = sorted(path.name for path in older.iterdir())  # without weights, it is no checkpoint
        if others:
            raise OutputError(
                f"{self.target} is no checkpoint, or not only that, so it is not replaced. Move away what is not part "
                "of one, or take another name; it holds:",
                [*others[:SHOWN], *([f"... and {len(others) - SHOWN} more"] if len(others) > SHOWN else [])],
            )


def _here() -> Path:
    """The working directory, or / if it has been removed."""
    try:
        return Path.cwd()
    except OSError:
        return Path("/")


def strangers(folder: Path) -> list[str]:
    """The names of what lies in a folder and is no part of a checkpoint. Names of folders end in a slash.

    A file is part of a checkpoint if it has the name of one, if an index of weights names it, or if the record of
    taskvec names it and it still holds the bytes that were written.
    """
    files = {str(p.relative_to(folder)): p for p in _below(folder)}
    written = _table(folder / RECORD, "files")
    indexes = [p for name, p in files.items() if WEIGHTS.fullmatch(name) and name.endswith(".json")]
    shards = {shard for index in indexes for shard in _table(index, "weight_map").values()}

    def known(name: str, path: Path) -> bool:
        if path.is_symlink():  # as all files are in the cache of the hub
            return name in BESIDE or bool(WEIGHTS.fullmatch(name))
        if not path.is_file():
            return False
        if name in BESIDE or name in shards or WEIGHTS.fullmatch(name) or TEMPLATES.fullmatch(name):
            return True
        return name in written and written[name] == digest_of(path)

    unknown = [name for name, path in files.items() if not known(name, path)]
    return sorted({name.split("/")[0] + "/" * ("/" in name or files[name].is_dir()) for name in unknown})


def digest_of(path: Path) -> str:
    """The BLAKE3 digest of a file."""
    from blake3 import blake3

    with path.open("rb") as file:
        state = blake3()
        while piece := file.read(1 << 20):
            state.update(piece)
    return state.hexdigest()


def _below(folder: Path) -> list[Path]:
    """Every file below a folder, and every empty folder. Links are not followed."""
    paths = []
    for entry in sorted(folder.iterdir()):
        inner = _below(entry) if entry.is_dir() and not entry.is_symlink() else []
        paths += inner or [entry]
    return paths


def _table(path: Path, key: str) -> dict[str, str]:
    """The entry `key` of a JSON file, which is a table of texts; an empty table if that cannot be read."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LONGEST:
            return {}
        table = json.loads(path.read_bytes()).get(key)
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return {k: v for k, v in table.items() if isinstance(v, str)} if isinstance(table, dict) else {}
