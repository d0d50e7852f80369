"""The folder of tiny models and their data, made once for all tests of tasks."""

import json

import pytest


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """base and tuned encoders, classifiers and language models, and data in every format."""
    import numpy as np
    from safetensors.numpy import save_file
    from transformers import BertConfig, BertForSequenceClassification, BertModel, LlamaConfig, LlamaForCausalLM

    from evals.tiny import LABELS, RNG, TEXTS, TINY, made

    root = tmp_path_factory.mktemp("suite")
    tiny = TINY
    bert = BertConfig(vocab_size=42, max_position_embeddings=32, **tiny)
    llama = LlamaConfig(vocab_size=42, num_key_value_heads=1, max_position_embeddings=64, eos_token_id=1, **tiny)
    two = BertConfig(vocab_size=42, max_position_embeddings=32, id2label={0: "bad", 1: "good"}, **tiny)
    for kind, make in {
        "encoder": lambda: BertModel(bert, add_pooling_layer=False),
        "classifier": lambda: BertForSequenceClassification(two),
        "lm": lambda: LlamaForCausalLM(llama),
    }.items():
        for seed, name in enumerate(("base", "tuned")):
            made(make, seed, root / f"{kind}-{name}")
    rows = [{"text": t, "label": y} for t, y in zip(TEXTS, LABELS, strict=True)]
    (root / "all.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (root / "val.tsv").write_text("label\ttext\n" + "".join(f"{r['label']}\t{r['text']}\n" for r in rows[:30]))
    (root / "test.csv").write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows[30:]))
    (root / "long.jsonl").write_text(
        "".join(json.dumps({"text": "w1 " * k, "label": "x"}) + "\n" for k in range(70, 80))
    )
    (root / "prompts.txt").write_text("\n".join(TEXTS))
    (root / "story.txt").write_text("\n\n".join(TEXTS))
    save_file({"weight": np.float32(RNG.normal(size=(2, 16))), "bias": np.float32([0.3, 0])}, root / "head.safetensors")
    (root / "judge.py").write_text(
        "def early(texts):\n"
        "    return [sum(w in ('w1', 'w2', 'w3') for w in t.split()) / max(1, len(t.split())) for t in texts]\n"
        "def wrong(texts):\n    return [0.0]\n"
    )
    return root
