"""The chat template of an output: one that mergekit knows by name, a text, or the one that most of the models have."""

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from taskvec.algebra.weights import Weights
from taskvec.errors import did_you_mean
from taskvec.recipes.mergekit.config import Problems
from taskvec.sources.abilities import folder_of
from taskvec.views.tokens import template_of

_TURNS = "{% for message in messages %}"
_END = "{% endfor %}"

# They render exactly what mergekit's templates do, because users tried their merges with those. So nothing follows the
# last message of Alpaca, a newline follows each message of Llama 3, and the parts of EXAONE are indented.
TEMPLATES: Mapping[str, str] = MappingProxyType(
    {
        "chatml": _TURNS + "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
        + _END + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        "alpaca": "{% set ns = namespace(system='') %}" + _TURNS + "{% if message['role'] == 'system' %}"
        "{% set ns.system = message['content'] | trim %}{% endif %}" + _END + "{{ ns.system + '\\n\\n' }}"
        "{% set titles = {'user': 'Instruction', 'assistant': 'Response', 'user_context': 'Input'} %}"
        + _TURNS + "{% if message['role'] in titles %}"
        "{{ '### ' + titles[message['role']] + ':\\n' + message['content'] | trim }}"
        "{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endif %}"
        + _END + "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}"
        "{{ '### Response:\\n' }}{% endif %}",
        "llama3": _TURNS + "{% if loop.first %}{{ bos_token }}{% endif %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' "
        "+ message['content'] | trim + '<|eot_id|>\\n' }}"
        + _END + "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
        "mistral": "{% set system = messages[0]['content'] + '\\n\\n' if messages[0]['role'] == 'system' else '' %}"
        "{% set turns = messages[1:] if messages[0]['role'] == 'system' else messages %}{{ bos_token }}"
        "{% for message in turns %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('after the system message, if any, user and assistant must alternate') }}{% endif %}"
        "{% if message['role'] == 'user' %}"
        "{{ ' [INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
        "{% else %}{{ raise_exception('a message is of the user or the assistant, the first also of the system') }}"
        "{% endif %}" + _END,
        "exaone": _TURNS + "{% if loop.first and message['role'] != 'system' %}"
        "{{ '        [|system|][|endofturn|]\\n\\n' }}{% endif %}"
        "{{ '    [|' + message['role'] + '|]' + message['content'] + '\\n' }}"
        "{{ '        \\n\\n' if message['role'] == 'user' else '        [|endofturn|]\\n\\n' }}"
        + _END + "{% if add_generation_prompt %}{{ '    [|assistant|]\\n' }}{% endif %}",
    }
)  # fmt: skip


def chat_template(wanted: str | None, models: Iterable[Weights], problems: Problems) -> str | None:
    """The template that the file asks for: a name in TEMPLATES, a text, or "auto", the most frequent of the models."""
    if not wanted:
        return None
    if wanted == "auto":
        folders = [folder for m in models for leaf in m.mentioned if (folder := folder_of(leaf))]
        templates = [template for folder in folders if (template := template_of(folder))]
        return Counter(templates).most_common(1)[0][0] if templates else None
    if wanted in TEMPLATES:
        return TEMPLATES[wanted]
    if "{" not in wanted:
        names = ("auto", *TEMPLATES)
        problems.append(
            f"no chat_template is named {wanted}{did_you_mean(wanted, names)}: use one of {', '.join(names)}, or Jinja"
        )
    return wanted
