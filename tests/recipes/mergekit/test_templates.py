"""Chat templates by name render what mergekit's do; auto takes that of most models."""

import json

import jinja2
import pytest

from mergekit_files import LINEAR, written
from taskvec.recipes.mergekit import read
from taskvec.recipes.mergekit.templates import TEMPLATES


def test_a_chat_template_replaces_the_model_s(home, merge):
    (home / "math" / "tokenizer_config.json").write_text(json.dumps({"chat_template": "old"}))
    written(home, LINEAR + "chat_template: chatml\n")
    merge("config.yml", "-o", "out")
    assert "<|im_start|>" in (home / "out" / "chat_template.jinja").read_text()
    assert "<|im_start|>" in json.loads((home / "out" / "tokenizer_config.json").read_text())["chat_template"]


CHAT = [("user", " a\n"), ("assistant", "b"), ("user", "c")]


ALONE = [("user", "a")]


SYSTEM = ("system", " be kind ")


# (template, messages, what mergekit's template of that name renders with an answer asked for)
RENDERED = [
    ("chatml", ALONE, "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"),
    ("chatml", [SYSTEM, *ALONE],
     "<|im_start|>system\n be kind <|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"),
    ("alpaca", CHAT, "\n\n### Instruction:\na\n\n### Response:\nb\n\n### Instruction:\nc### Response:\n"),
    ("alpaca", [SYSTEM, *ALONE], "be kind\n\n### Instruction:\na### Response:\n"),
    ("alpaca", [("user_context", "x"), *CHAT[1:2]], "\n\n### Input:\nx\n\n### Response:\nb"),
    ("llama3", [SYSTEM, *ALONE],
     "<s><|start_header_id|>system<|end_header_id|>\n\nbe kind<|eot_id|>\n<|start_header_id|>user<|end_header_id|>\n\n"
     "a<|eot_id|>\n<|start_header_id|>assistant<|end_header_id|>\n\n"),
    ("mistral", CHAT, "<s> [INST]  a\n [/INST] b</s> [INST] c [/INST]"),
    ("mistral", [SYSTEM, *ALONE], "<s> [INST]  be kind \n\na [/INST]"),
    ("exaone", ALONE, "        [|system|][|endofturn|]\n\n    [|user|]a\n        \n\n    [|assistant|]\n"),
    ("exaone", [SYSTEM, *ALONE],
     "    [|system|] be kind \n        [|endofturn|]\n\n    [|user|]a\n        \n\n    [|assistant|]\n"),
]  # fmt: skip


def rendered(name, messages):
    from transformers.utils.chat_template_utils import _compile_jinja_template

    turns = [{"role": role, "content": content} for role, content in messages]
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    return _compile_jinja_template(TEMPLATES[name]).render(messages=turns, add_generation_prompt=True, **tokens)


@pytest.mark.parametrize(("name", "messages", "text"), RENDERED)
def test_a_named_template_renders_what_mergekit_s_does(name, messages, text):
    assert rendered(name, messages) == text


@pytest.mark.parametrize(
    "messages", [[SYSTEM, *CHAT[1:]], [CHAT[0], CHAT[0]], [("tool", "x")], [CHAT[0], ("tool", "x")]]
)
def test_mistral_s_refuses_turns_that_do_not_alternate(messages):
    with pytest.raises(jinja2.exceptions.TemplateError, match=r"alternate|of the user or the assistant"):
        rendered("mistral", messages)


def test_auto_takes_the_template_that_most_models_have(home):
    for name, template in (("base", "{{ a }}"), ("math", "{{ b }}"), ("code", "{{ b }}")):
        (home / name / "chat_template.jinja").write_text(template)
    text = LINEAR.replace("models:", "models:\n  - {model: base, parameters: {weight: 1}}") + "chat_template: auto\n"
    (document,) = read(written(home, text))
    assert document.chat_template == "{{ b }}"
