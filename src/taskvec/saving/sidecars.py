"""What lies beside the weights in a checkpoint's folder: index, configuration, tokenizer, model card, record."""

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
from taskvec.saving import lineage
from taskvec.saving.copying import Beside, copy
from taskvec.saving.copying import survey as beside
from taskvec.saving.plan import Plan, weights_stem
from taskvec.sources.abilities import folder_of
from taskvec.sources.quantised import codes
from taskvec.views.settings import merged, read_table
from taskvec.views.tokens import TEMPLATES, TOKENIZER

# Copied from the model that the output is like; everything else in its folder is left alone.
COPIED = (
    *TOKENIZER, "config.json", "generation_config.json", "model_index.json", "*processor_config.json",
    "scheduler_config.json", "params.json", "normalizer.json", "modules.json", "sentence_*_config.json",
    "config_sentence_transformers.json", "LICENSE*", "NOTICE*",
)  # fmt: skip
# Whole folders: chat templates, a way to generate, and the modules of sentence-transformers, which modules.json names.
FOLDERS = (TEMPLATES, "custom_generate", "1_Pooling")
MODULES = ("[0-9]_*", "[0-9][0-9]_*")
CODES = ("F8", "F6", "F4", "U8", "I8", "U16", "I16", "U32", "I32")  # dtypes in which quantised numbers are stored
TORCH_NAMES = {
    "F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}  # fmt: skip


def survey(plan: Plan) -> tuple[Beside, ...]:
    """The files that go along with the weights of a model; notes what they need and what cannot go along."""
    source = folder_of(plan.like)
    if not plan.kind or source is None:
        return ()
    tokenizer = _tokenizer_of(plan)
    patterns = [p for p in COPIED if not (tokenizer and p in TOKENIZER)]
    folders = [p for p in FOLDERS if not (tokenizer and p == TEMPLATES)] + _module_folders(source)
    found, left = _survey(source, patterns, folders)
    if tokenizer:
        more, also = _survey(tokenizer.folder, tokenizer.copied, [TEMPLATES])
        found, left = [*found, *more], [*left, *also]
    left = [f"{sentence}: it does not go along with the output" for sentence in left]
    for sentence in [
        *left,
        *_lacking(source, found),
        *_unmerged(plan, source, found),
        *_renamed_files(plan),
        *_unquantised(plan, source),
    ]:
        note(sentence)
    return tuple(found)


def _survey(source: Path, patterns: Sequence[str], folders: Sequence[str]) -> tuple[list[Beside], list[str]]:
    """With the code that a configuration names: all modules of the folder then, since these import one another."""
    return beside(source, [*patterns, *(["*.py"] if modules_named(source) else [])], folders)


def _modules(folder: Path) -> list[dict[str, Any]]:
    """What modules.json lists."""
    with suppress(TaskvecError):
        found = read_json(folder / "modules.json")
        return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    return []


def _module_folders(folder: Path) -> list[str]:
    """The folders of a sentence-transformers model, by patterns; none of any other."""
    if not (folder / "modules.json").is_file():
        return []
    named = [str(module.get("path") or "") for module in _modules(folder)]
    return [*MODULES, *(escape(name) for name in named if name and name == Path(name).name)]


def _tokenizer_of(plan: Plan) -> Any:
    return plan.like.tokenizer if isinstance(plan.like, Derived) else None


def modules_named(folder: Path) -> dict[str, str]:
    """Python files of a folder that its configurations name (`auto_map`, sentence-transformers' own modules): each with
    the configuration that does. Code in another repository, `org/name--file.Class`, is none of them."""
    found: dict[str, str] = {}
    with stated(folder):
        names = sorted(p.name for p in folder.glob("*config*.json"))
    for name in names:
        found |= {f"{text.partition('.')[0]}.py": name for text in _auto_maps(read_table(folder / name))}
    for module in _modules(folder):
        head, _, last = str(module.get("type", "")).rpartition(".")
        if head and last and not head.startswith("sentence_transformers"):
            found[f"{head.rpartition('.')[2]}.py"] = "modules.json"
    return found


def _auto_maps(value: Any) -> Iterator[str]:
    """The classes under `auto_map`, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            texts = inner.values() if key == "auto_map" and isinstance(inner, dict) else ()
            listed = inner if key == "auto_map" and isinstance(inner, list) else ()
            for text in [*texts, *listed]:
                parts = text if isinstance(text, list) else [text]
                yield from (p for p in parts if isinstance(p, str) and "." in p and "--" not in p)
            yield from _auto_maps(inner)


def _lacking(source: Path, found: Sequence[Beside]) -> Iterator[str]:
    """What the configurations name and the output will not have."""
    names = {one.name for one in found}
    for name, where in modules_named(source).items():
        if name not in names:
            yield f"{source / where} names {name}, which is not in the folder: a loader will not find it"
    for module in _modules(source):
        path = str(module.get("path") or "")
        bare = str(module.get("type")).endswith(".Normalize")  # which has no configuration, and no folder
        if path and not bare and not any(name.startswith(f"{path}/") for name in names):
            yield f"{source / 'modules.json'} names {path}, which does not go along: a loader will not find it"


def _unmerged(plan: Plan, source: Path, found: Sequence[Beside]) -> Iterator[str]:
    """Weights of further modules (2_Dense) are those of one model, though the others' may differ."""
    for one in found:
        if "/" not in one.name or not one.name.endswith((".safetensors", ".bin")):
            continue
        for leaf in plan.weights.mentioned:
            folder = folder_of(leaf)
            other = folder / one.name if folder and folder != source else None
            if other and other.is_file() and not filecmp.cmp(one.path, other, shallow=False):
                yield f"{one.name} is copied from {source} as it is; that of {folder} differs and is not merged with it"


def _renamed_files(plan: Plan) -> Iterator[str]:
    """A variant in several files."""
    stem = weights_stem(plan.like)
    if not plan.shards[0].filename.startswith(stem):
        yield f"the weights are named {plan.shards[0].filename}, ..., without the variant that {stem} names"


def _unquantised(plan: Plan, source: Path) -> Iterator[str]:
    """A config.json that calls plain numbers quantised."""
    table = read_table(source / "config.json")
    if plain(plan) and without_quantisation(table) != table:
        yield (
            f"{source / 'config.json'} has a quantization_config, which is left out of the output: the weights "
            "are plain numbers, which loaders would take for codes"
        )


def plain(plan: Plan) -> bool:
    """Whether no matrix holds codes of quantised numbers (8-bit floats, packed integers)."""
    packed = any(s.dtype.startswith(CODES) for s in plan.specs.values() if len(s.shape) > 1)
    return not packed and not any(codes(plan.specs))


def without_quantisation(table: Any) -> Any:
    """The same JSON without any quantization_config, also of inner configurations."""
    if not isinstance(table, dict):
        return table
    return {k: without_quantisation(v) for k, v in table.items() if k != "quantization_config"}


def write(folder: Path, plan: Plan, entry: Mapping[str, Any], durable: bool) -> None:
    """Everything but the weights, their index and the record."""
    if plan.kind and (source := folder_of(plan.like)):
        copy(plan.beside, folder, durable)
        made, tokenizer = plan.like if isinstance(plan.like, Derived) else None, _tokenizer_of(plan)
        if tokenizer:
            tokenizer.write(folder, durable)
        for name in ("config.json", "generation_config.json"):
            table = read_table(folder / name)
            found = tokenizer.renumbered(table, source, name) if tokenizer and table else table
            if name == "config.json":
                found = with_dtype(merged(found, made.config if made else {}), plan)
                found = without_quantisation(found) if plain(plan) else found
            if table and found != table:
                write_text(folder / name, json.dumps(found, indent=2) + "\n", durable)
        if template := entry.get("chat_template"):
            _set_chat_template(folder, template, durable)
    write_text(folder / "README.md", card(entry, plan), durable)


def _set_chat_template(folder: Path, template: str, durable: bool) -> None:
    """In a file of its own, where today's loaders look first, and in the tokenizer's configuration, for older ones."""
    write_text(folder / "chat_template.jinja", template, durable)
    where = folder / "tokenizer_config.json"
    if table := read_table(where):
        write_text(where, json.dumps(table | {"chat_template": template}, indent=2, ensure_ascii=False) + "\n", durable)


def with_dtype(table: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Let config.json name the dtype that the weights have, where it names one and they have one."""
    kinds = {spec.dtype for spec in plan.specs.values() if spec.arithmetic}
    found: dict[str, Any] = _renamed(table, TORCH_NAMES[kinds.pop()]) if len(kinds) == 1 else table
    return found


def _renamed(value: Any, name: str) -> Any:
    """The same JSON with every dtype, also of inner configurations (text_config, vision_config), replaced by `name`."""
    if not isinstance(value, dict):
        return value
    named = {"dtype", "torch_dtype"}
    return {k: name if k in named and v in TORCH_NAMES.values() else _renamed(v, name) for k, v in value.items()}


def write_index(folder: Path, plan: Plan, durable: bool) -> None:
    """Where each tensor is, for an output of several files; nothing for one."""
    if len(plan.shards) < 2:
        return
    name = re.sub(r"-\d{5}-of-\d{5}$", "", plan.shards[0].filename.removesuffix(".safetensors")) + checkpoint.INDEX
    table = {tensor: shard.filename for shard in plan.shards for tensor in shard.specs}
    size = sum(spec.nbytes for spec in plan.specs.values())
    entry = {"metadata": {"total_size": size}, "weight_map": dict(sorted(table.items()))}
    write_text(folder / name, json.dumps(entry, indent=2) + "\n", durable)


def card(entry: Mapping[str, Any], plan: Plan) -> str:
    """The README.md of an output: what it is, of what, and how to make it again. What comes from recipes and paths can
    neither end the code that it stands in, nor become commands when the line for the shell is pasted."""
    kind = "model" if plan.kind else "task vector"
    inputs = entry["inputs"].items()
    rows = [
        f"| {name} | {in_markdown(found.get('uri', '(in memory)'))} | {found['mass']} | `{found['fingerprint'][:16]}` |"
        for name, found in inputs
    ]
    words = [in_shell(entry["recipe"]), *(in_shell(f"{name}={found.get('uri', '...')}") for name, found in inputs)]
    before = "-o OUT -- " if entry["recipe"].startswith("-") else ""  # a recipe that begins with a minus is no option
    after = "" if before else " -o OUT"
    library = [f"library_name: {_library(folder_of(plan.like))}"] if plan.kind else []
    return "\n".join(
        ["---", *library, "tags:", "- taskvec", "- merge", "---", "", f"# A {kind} made by task arithmetic", "",
         *fenced(entry["recipe"]), "", "| name | source | mass | fingerprint |", "|---|---|---|---|", *rows, "",
         "Mass 1 is a model, mass 0 a task vector (a difference of models). Digests of every tensor are in",
         f"`{lineage.RECORD}`; `taskvec verify` recomputes them. taskvec {entry['taskvec']}:", "",
         *fenced(f"$ taskvec merge {before}{' '.join(words)}{after}", "console"), ""]
    )  # fmt: skip


def _library(folder: Path | None) -> str:
    """Which one loads such a folder."""
    if folder and (folder / "modules.json").is_file():
        return "sentence-transformers"
    return "diffusers" if folder and "_class_name" in read_table(folder / "config.json") else "transformers"
