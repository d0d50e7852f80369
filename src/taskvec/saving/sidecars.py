"""The files beside the weights in the folder of an output: index, configuration, tokenizer and model card."""

import filecmp
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any

from taskvec.algebra.derived import Derived
from taskvec.errors import TaskvecError
from taskvec.escapes import fenced, in_markdown, in_shell
from taskvec.formats import checkpoint
from taskvec.notes import note
from taskvec.places.json_files import read_json
from taskvec.places.local import stated, write_text
from taskvec.saving.copying import Beside, copy
from taskvec.saving.copying import survey as beside
from taskvec.saving.outputs import RECORD
from taskvec.saving.plan import Plan, weights_stem
from taskvec.sources.abilities import folder_of
from taskvec.sources.quantised import codes
from taskvec.views.settings import merged, read_table
from taskvec.views.tokens import TEMPLATES, TOKENIZER

# The files that are copied from the model that the output is like, and from no other model.
COPIED = (
    *TOKENIZER, "config.json", "generation_config.json", "model_index.json", "*processor_config.json",
    "scheduler_config.json", "params.json", "normalizer.json", "modules.json", "sentence_*_config.json",
    "config_sentence_transformers.json", "LICENSE*", "NOTICE*",
)  # fmt: skip
# Folders that are copied whole: chat templates, code for generation, a module of sentence-transformers (MODULES too).
FOLDERS = (TEMPLATES, "custom_generate", "1_Pooling")
MODULES = ("[0-9]_*", "[0-9][0-9]_*")
CODES = ("F8", "F6", "F4", "U8", "I8", "U16", "I16", "U32", "I32")  # dtypes that may hold codes of quantised numbers
TORCH_NAMES = {
    "F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}  # fmt: skip


def survey(plan: Plan) -> tuple[Beside, ...]:
    """The files that are copied beside the weights of a model. Notes tell which files cannot be copied, and which ones
    the copied files need and do not have."""
    source = folder_of(plan.like)
    if not plan.kind or source is None:
        return ()
    tokenizer = _tokenizer_of(plan)
    patterns = [p for p in COPIED if not (tokenizer and p in TOKENIZER)]
    folders = [p for p in FOLDERS if not (tokenizer and p == TEMPLATES)] + _module_folders(source)
    files, left = _survey(source, patterns, folders)
    if tokenizer:
        more_files, more_left = _survey(tokenizer.folder, tokenizer.copied, [TEMPLATES])
        files, left = files + more_files, left + more_left
    for sentence in [
        *(f"{sentence}: it does not go along with the output" for sentence in left),
        *_lacking(source, files),
        *_unmerged(plan, source, files),
        *_renamed_files(plan),
        *_unquantised(plan, source),
    ]:
        note(sentence)
    return tuple(files)


def _survey(source: Path, patterns: Sequence[str], folders: Sequence[str]) -> tuple[list[Beside], list[str]]:
    """The survey of copying.py. If a configuration names a Python file, all Python files of the folder are copied,
    since they may import one another."""
    return beside(source, [*patterns, *(["*.py"] if modules_named(source) else [])], folders)


def _modules(folder: Path) -> list[dict[str, Any]]:
    """The modules of a sentence-transformers model, as modules.json lists them."""
    with suppress(TaskvecError):
        modules = read_json(folder / "modules.json")
        return [entry for entry in modules if isinstance(entry, dict)] if isinstance(modules, list) else []
    return []


def _module_folders(folder: Path) -> list[str]:
    """Patterns of the folders of a sentence-transformers model's modules; none for any other model."""
    if not (folder / "modules.json").is_file():
        return []
    named = [str(module.get("path") or "") for module in _modules(folder)]
    return [*MODULES, *(escape(name) for name in named if name and name == Path(name).name)]


def _tokenizer_of(plan: Plan) -> Any:
    return plan.like.tokenizer if isinstance(plan.like, Derived) else None


def modules_named(folder: Path) -> dict[str, str]:
    """The Python files that the configurations of a folder name: each file -> the configuration that names it.

    They are named in `auto_map` and, for sentence-transformers, in modules.json. Code in another repository,
    `org/name--file.Class`, does not count.
    """
    files: dict[str, str] = {}
    with stated(folder):
        names = sorted(p.name for p in folder.glob("*config*.json"))
    for name in names:
        files |= {f"{text.partition('.')[0]}.py": name for text in _auto_maps(read_table(folder / name))}
    for module in _modules(folder):
        head, _, last = str(module.get("type", "")).rpartition(".")
        if head and last and not head.startswith("sentence_transformers"):
            files[f"{head.rpartition('.')[2]}.py"] = "modules.json"
    return files


def _auto_maps(value: Any) -> Iterator[str]:
    """The classes, as `file.Class`, that stand in an `auto_map` at any depth of a configuration."""
    if isinstance(value, dict):
        for key, inner in value.items():
            texts = inner.values() if key == "auto_map" and isinstance(inner, dict) else ()
            listed = inner if key == "auto_map" and isinstance(inner, list) else ()
            for text in [*texts, *listed]:
                parts = text if isinstance(text, list) else [text]
                yield from (p for p in parts if isinstance(p, str) and "." in p and "--" not in p)
            yield from _auto_maps(inner)


def _lacking(source: Path, files: Sequence[Beside]) -> Iterator[str]:
    """A sentence for everything that the configurations name and the output will not have."""
    names = {file.name for file in files}
    for name, where in modules_named(source).items():
        if name not in names:
            yield f"{source / where} names {name}, which is not in the folder: a loader will not find it"
    for module in _modules(source):
        path = str(module.get("path") or "")
        bare = str(module.get("type")).endswith(".Normalize")  # such a module has no configuration, and no folder
        if path and not bare and not any(name.startswith(f"{path}/") for name in names):
            yield f"{source / 'modules.json'} names {path}, which does not go along: a loader will not find it"


def _unmerged(plan: Plan, source: Path, files: Sequence[Beside]) -> Iterator[str]:
    """A sentence for all weights of further modules (such as 2_Dense) that differ between the models. They are copied
    from one model and not merged."""
    for file in files:
        if "/" not in file.name or not file.name.endswith((".safetensors", ".bin")):
            continue
        for leaf in plan.weights.mentioned:
            folder = folder_of(leaf)
            other = folder / file.name if folder and folder != source else None
            if other and other.is_file() and not filecmp.cmp(file.path, other, shallow=False):
                yield (
                    f"{file.name} is copied from {source} as it is; that of {folder} differs and is not merged with it"
                )


def _renamed_files(plan: Plan) -> Iterator[str]:
    """A sentence if the weights are of a variant, such as fp16, and in several files: their names do not have it."""
    stem = weights_stem(plan.like)
    if not plan.shards[0].filename.startswith(stem):
        yield f"the weights are named {plan.shards[0].filename}, ..., without the variant that {stem} names"


def _unquantised(plan: Plan, source: Path) -> Iterator[str]:
    """A sentence if config.json calls the weights quantised, and those of the output are not."""
    table = read_table(source / "config.json")
    if plain(plan) and without_quantisation(table) != table:
        yield (
            f"{source / 'config.json'} has a quantization_config, which is left out of the output: the weights "
            "are plain numbers, which loaders would take for codes"
        )


def plain(plan: Plan) -> bool:
    """Whether no matrix of the output holds codes of quantised numbers, such as 8-bit floats or packed integers."""
    packed = any(s.dtype.startswith(CODES) for s in plan.specs.values() if len(s.shape) > 1)
    return not packed and not any(codes(plan.specs))


def without_quantisation(table: Any) -> Any:
    """The same JSON without `quantization_config`, in inner configurations too."""
    if not isinstance(table, dict):
        return table
    return {k: without_quantisation(v) for k, v in table.items() if k != "quantization_config"}


def write(folder: Path, plan: Plan, entry: Mapping[str, Any], durable: bool) -> None:
    """Write all files beside the weights, except the index and the record."""
    if plan.kind and (source := folder_of(plan.like)):
        copy(plan.beside, folder, durable)
        made, tokenizer = plan.like if isinstance(plan.like, Derived) else None, _tokenizer_of(plan)
        if tokenizer:
            tokenizer.write(folder, durable)
        for name in ("config.json", "generation_config.json"):
            copied = read_table(folder / name)
            table = tokenizer.renumbered(copied, source, name) if tokenizer and copied else copied
            if name == "config.json":
                table = with_dtype(merged(table, made.config if made else {}), plan)
                table = without_quantisation(table) if plain(plan) else table
            if copied and table != copied:
                write_text(folder / name, json.dumps(table, indent=2) + "\n", durable)
        if template := entry.get("chat_template"):
            _set_chat_template(folder, template, durable)
    write_text(folder / "README.md", card(entry, plan), durable)


def _set_chat_template(folder: Path, template: str, durable: bool) -> None:
    """Write a chat template into a file of its own, where today's loaders look first, and into the tokenizer's
    configuration, for older loaders."""
    write_text(folder / "chat_template.jinja", template, durable)
    path = folder / "tokenizer_config.json"
    if table := read_table(path):
        write_text(path, json.dumps(table | {"chat_template": template}, indent=2, ensure_ascii=False) + "\n", durable)


def with_dtype(table: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The table of a config.json with the dtype of the output's weights, if it names a dtype and these weights have
    only one."""
    dtypes = {spec.dtype for spec in plan.specs.values() if spec.arithmetic}
    named: dict[str, Any] = _renamed(table, TORCH_NAMES[dtypes.pop()]) if len(dtypes) == 1 else table
    return named


def _renamed(value: Any, name: str) -> Any:
    """The same JSON with every dtype replaced by `name`, in inner configurations (text_config, vision_config) too."""
    if not isinstance(value, dict):
        return value
    keys = {"dtype", "torch_dtype"}
    return {k: name if k in keys and v in TORCH_NAMES.values() else _renamed(v, name) for k, v in value.items()}


def write_index(folder: Path, plan: Plan, durable: bool) -> None:
    """Write the index, which says in which file each tensor is. An output of one file needs none."""
    if len(plan.shards) < 2:
        return
    name = re.sub(r"-\d{5}-of-\d{5}$", "", plan.shards[0].filename.removesuffix(".safetensors")) + checkpoint.INDEX
    table = {tensor: shard.filename for shard in plan.shards for tensor in shard.specs}
    size = sum(spec.nbytes for spec in plan.specs.values())
    entry = {"metadata": {"total_size": size}, "weight_map": dict(sorted(table.items()))}
    write_text(folder / name, json.dumps(entry, indent=2) + "\n", durable)


def card(entry: Mapping[str, Any], plan: Plan) -> str:
    """The README.md of an output: what it is, what it was made from, and how to make it again.

    Texts from recipes and paths are escaped: they cannot end the code block in which they stand, and they cannot become
    commands when somebody pastes the line into a shell.
    """
    kind = "model" if plan.kind else "task vector"
    inputs = entry["inputs"].items()
    rows = [
        f"| {name} | {in_markdown(about.get('uri', '(in memory)'))} | {about['mass']} | `{about['fingerprint'][:16]}` |"
        for name, about in inputs
    ]
    words = [in_shell(entry["recipe"]), *(in_shell(f"{name}={about.get('uri', '...')}") for name, about in inputs)]
    before = "-o OUT -- " if entry["recipe"].startswith("-") else ""  # a recipe that begins with a minus is no option
    after = "" if before else " -o OUT"
    library = [f"library_name: {_library(folder_of(plan.like))}"] if plan.kind else []
    return "\n".join(
        ["---", *library, "tags:", "- taskvec", "- merge", "---", "", f"# A {kind} made by task arithmetic", "",
         *fenced(entry["recipe"]), "", "| name | source | mass | fingerprint |", "|---|---|---|---|", *rows, "",
         "Mass 1 is a model, mass 0 a task vector (a difference of models). Digests of every tensor are in",
         f"`{RECORD}`; `taskvec verify` recomputes them. taskvec {entry['taskvec']}:", "",
         *fenced(f"$ taskvec merge {before}{' '.join(words)}{after}", "console"), ""]
    )  # fmt: skip


def _library(folder: Path | None) -> str:
    """The name of the library that loads such a folder."""
    if folder and (folder / "modules.json").is_file():
        return "sentence-transformers"
    return "diffusers" if folder and "_class_name" in read_table(folder / "config.json") else "transformers"
