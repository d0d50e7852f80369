"""A live module takes on any weights with its names, with or without a head, and refuses all others."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
)

import taskvec as tv
from evals.tiny import (
    MOOD,
    PROMPTS,
    TINY,
    WRITTEN,
    described,
    embed,
    made,
    model,
)
from taskvec.errors import FormatError, MismatchError, NonFiniteError
from taskvec.evals.suite import suite_from

HEADED = {
    "lm": None,
    "classifier": None,
    "masked": lambda: BertForMaskedLM(BertConfig(vocab_size=42, max_position_embeddings=32, **TINY)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=42, n_positions=32, n_embd=16, n_layer=2, n_head=2)),
}


@pytest.mark.parametrize("kind", HEADED)
def test_texts_are_embedded_by_the_body_of_a_model_that_has_a_head(home, tmp_path, kind):
    make = HEADED[kind]
    for seed, name in enumerate(("base", "tuned")):
        if make:
            made(make, seed, home / f"{kind}-{name}")
    text = f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}".replace("encoder-base", f"{kind}-base")
    suite, w = suite_from(described(home, text, "headed.yml")), model(home, kind)
    hits = suite(w, "test")["mood"]
    tv.save(w, tmp_path / "out")
    net, task = AutoModel.from_pretrained(tmp_path / "out").eval(), suite.tasks["mood"]
    texts = [e.text for e in task.listed("test")]
    with torch.no_grad():
        ours, theirs = task._embedded(task.live.module, task._ids(texts)), embed(home, net, texts)
        base = AutoModel.from_pretrained(home / f"{kind}-base").eval()
        rows = torch.stack([embed(home, base, texts).mean(0) for texts in PROMPTS.values()])
        best = (theirs @ torch.nn.functional.normalize(rows, dim=-1).T).argmax(1)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert hits.tolist() == [float([*PROMPTS][k] == e.label) for k, e in zip(best, task.listed("test"), strict=True)]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: t.pop("model.norm.weight"), "model.norm.weight is in the module, not in the weights"),
        (lambda t: t.update({"model.extra.weight": np.ones(2, np.float32)}), "model.extra.weight is not in the module"),
        (lambda t: t.update({"v_head.weight": np.ones(2, np.float32)}), "v_head.weight is not in the module"),
        (lambda t: t.update({"norm.weight": np.ones(16, np.float32)}), "norm.weight is not in the module"),
    ],
)
def test_beside_a_body_only_its_own_head_may_stand(home, change, what):
    text = f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}".replace("encoder-base", "lm-base")
    suite, tensors = suite_from(described(home, text, "headed.yml")), load_file(home / "lm-base" / "model.safetensors")
    del tensors["lm_head.weight"]
    assert len(suite(tv.from_arrays(tensors), "test")["mood"])  # a head may be missing: nothing of it is looked at
    change(tensors)
    with pytest.raises(MismatchError, match=f"- {what}"):
        suite(tv.from_arrays(tensors), "test")


def test_tasks_of_one_model_share_one_module_that_is_loaded_once(home, monkeypatch):
    from taskvec.evals import module

    loaded = []
    monkeypatch.setattr(module, "load_into", lambda m, w: (loaded.append(id(m)), tv.load_into(m, w)))
    suite = suite_from(
        described(
            home,
            f"""
            model: encoder-base
            tasks:
              one: {{kind: classification, data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}
              two: {{kind: classification, data: all.jsonl, head: head.safetensors, classes: [bad, good]}}
            """,
        )
    )
    suite(model(home, "encoder"), "validation")
    suite(model(home, "encoder", 0.7), "validation")
    assert len(loaded) == 2 and len({*loaded}) == 1


def test_logits_that_are_no_numbers_are_no_answers(home):
    """The highest of several NaN would be the first class, and the likeliest token the first one."""
    zero_shot = f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}"
    written = f"{WRITTEN} judge: 'judge.py:early', tokens: 2}}}}"
    for text, kind, norm in (
        (zero_shot, "encoder", "encoder.layer.1.output.LayerNorm.weight"), (written, "lm", "model.norm.weight"),
    ):  # fmt: skip
        tensors = load_file(home / f"{kind}-base" / "model.safetensors")
        tensors[norm] = np.full_like(tensors[norm], 3e38)  # a number, but not what is computed with it
        with pytest.raises(NonFiniteError, match="logits"):
            suite_from(described(home, text, "nan.yml"))(tv.from_arrays(tensors), "validation")


def test_what_sees_the_tokens_to_come_has_no_perplexity(home):
    config = BertConfig(vocab_size=42, max_position_embeddings=32, **TINY)
    for decoder in (True, False):
        config.is_decoder = decoder
        made(lambda: BertForMaskedLM(config), 0, home / "masked-lm")
        suite = suite_from(
            described(home, "tasks: {a: {kind: perplexity, model: masked-lm, data: story.txt, window: 8}}")
        )
        if decoder:
            assert suite(tv.load(home / "masked-lm"), "test")["a"] > 1
        else:
            with pytest.raises(FormatError, match="masked-lm is no causal language model: a BertLMHeadModel sees"):
                suite(tv.load(home / "masked-lm"), "test")


def test_a_folder_without_a_tokenizer_is_stated(home):
    """transformers would make one that knows no word."""
    shutil.copytree(home / "encoder-base", home / "wordless")
    for file in (home / "wordless").glob("tokenizer*"):
        file.unlink()
    text = f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}".replace("encoder-base", "wordless")
    with pytest.raises(FormatError, match="wordless has no tokenizer"):
        suite_from(described(home, text, "wordless.yml"))(model(home, "encoder"), "test")
