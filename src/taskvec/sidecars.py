"""What lies beside the weights in a checkpoint's folder: index, configuration, tokenizer, model card, record."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from taskvec import lineage
from taskvec.derived import Derived
from taskvec.escapes import fenced, in_markdown, in_shell
from taskvec.formats import checkpoint, open_source
from taskvec.planning import Plan
from taskvec.storage import write_text
from taskvec.views.settings import merged, read_table
from taskvec.views.tokens import TOKENIZER

# Copied from the model that the output is like; everything else in its folder is left alone.
COPIED = (
    *TOKENIZER, "config.json", "generation_config.json", "model_index.json", "preprocessor_config.json",
    "processor_config.json", "video_preprocessor_config.json", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "1_Pooling", "LICENSE*", "NOTICE*",
)  # fmt: skip
TORCH_NAMES = {
    "F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}  # fmt: skip


def write(folder: Path, plan: Plan, entry: Mapping[str, Any], durable: bool) -> None:
    """Everything but the weights, their index and the record."""
    if plan.kind and (source := getattr(plan.like, "folder", None)):
        made = plan.like if isinstance(plan.like, Derived) else None
        tokenizer = made.tokenizer if made else None
        copy(source, folder, [pattern for pattern in COPIED if not (tokenizer and pattern in TOKENIZER)])
        if tokenizer:
            tokenizer.write(folder, durable)
        for name in ("config.json", "generation_config.json"):
            table = read_table(folder / name)
            found = tokenizer.renumbered(table, source, name) if tokenizer and table else table
            if name == "config.json":
                found = with_dtype(merged(found, made.config if made else {}), plan)
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


def copy(source: Path, folder: Path, patterns: Iterable[str]) -> None:
    """The side files of a model's folder."""
    for pattern in patterns:
        for found in sorted(source.glob(pattern)):
            if found.is_dir():
                shutil.copytree(found, folder / found.name, dirs_exist_ok=True)
            else:
                shutil.copyfile(found, folder / found.name)


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
    name = ("model" if plan.kind else "task_vector") + checkpoint.INDEX
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
    library = ["library_name: transformers"] if plan.kind else []
    return "\n".join(
        ["---", *library, "tags:", "- taskvec", "- merge", "---", "", f"# A {kind} made by task arithmetic", "",
         *fenced(entry["recipe"]), "", "| name | source | mass | fingerprint |", "|---|---|---|---|", *rows, "",
         "Mass 1 is a model, mass 0 a task vector (a difference of models). Digests of every tensor are in",
         f"`{lineage.RECORD}`; `taskvec verify` recomputes them. taskvec {entry['taskvec']}:", "",
         *fenced(f"$ taskvec merge {before}{' '.join(words)}{after}", "console"), ""]
    )  # fmt: skip


def fingerprint_of(folder: Path, plan: Plan) -> str:
    """The fingerprint of the weights that were written, read back from disk."""
    alone = folder / plan.shards[0].filename if len(plan.shards) == 1 else folder
    return open_source(alone).fingerprint
