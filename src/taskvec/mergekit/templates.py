"""Chat templates: those that mergekit knows by name, one's own, or the one that most of the models have."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from taskvec.errors import FormatError
from taskvec.mergekit.config import Problems, nearest
from taskvec.storage import stated
from taskvec.weights import Weights

_TURNS = "{% for message in messages %}"
_END = "{% endfor %}"

TEMPLATES: Mapping[str, str] = MappingProxyType(
    {
        "chatml": _TURNS + "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
        + _END + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        "alpaca": _TURNS + "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
        "{% elif message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
        "{% else %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}{% endif %}"
        + _END + "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}",
        "llama3": "{{ bos_token }}" + _TURNS + "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' "
        "+ message['content'] | trim + '<|eot_id|>' }}"
        + _END + "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
        "mistral": "{{ bos_token }}" + _TURNS
        + "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% else %}"
        "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}" + _END,
        "exaone": _TURNS + "{{ '[|' + message['role'] + '|]' + message['content'] }}"
        "{% if message['role'] == 'user' %}{{ '\\n' }}{% else %}{{ '[|endofturn|]\\n' }}{% endif %}"
        + _END + "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}",
    }
)  # fmt: skip


def chat_template(wanted: str | None, models: Iterable[Weights], problems: Problems) -> str | None:
    """The template that the file asks for: by name, written out, or "auto", the most frequent one of the models."""
    if not wanted:
        return None
    if wanted == "auto":
        found = [t for m in models for leaf in m.mentioned if (t := _template_of(getattr(leaf, "folder", None)))]
        return Counter(found).most_common(1)[0][0] if found else None
    if wanted in TEMPLATES:
        return TEMPLATES[wanted]
    if "{" not in wanted:
        names = ("auto", *TEMPLATES)
        problems.append(
            f"no chat_template is named {wanted}{nearest(wanted, names)}: use one of {', '.join(names)}, or Jinja"
        )
    return wanted


def _template_of(folder: Path | None) -> str | None:
    """The template that lies in a model's folder, if it has one."""
    if folder is None:
        return None
    if (alone := folder / "chat_template.jinja").is_file():
        try:
            with stated(alone):
                return alone.read_text(encoding="utf-8").strip() or None
        except UnicodeDecodeError as error:
            raise FormatError(f"{alone} is no UTF-8 text: {error}") from None
    try:
        table: Any = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        found = table.get("chat_template")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}.get("default")
    return found.strip() or None if isinstance(found, str) else None
