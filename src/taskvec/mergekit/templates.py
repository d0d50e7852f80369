"""Chat templates: those that mergekit knows by name, one's own, or the one that most of the models have."""

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from taskvec.mergekit.config import Problems, nearest
from taskvec.views.tokens import template_of
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
        folders = [folder for m in models for leaf in m.mentioned if (folder := getattr(leaf, "folder", None))]
        found = [template for folder in folders if (template := template_of(folder))]
        return Counter(found).most_common(1)[0][0] if found else None
    if wanted in TEMPLATES:
        return TEMPLATES[wanted]
    if "{" not in wanted:
        names = ("auto", *TEMPLATES)
        problems.append(
            f"no chat_template is named {wanted}{nearest(wanted, names)}: use one of {', '.join(names)}, or Jinja"
        )
    return wanted
