"""Tiny models of random weights, and files of examples, which the tests of tasks share."""

import textwrap

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

import taskvec as tv

WORDS = [f"w{k}" for k in range(40)]
RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice(WORDS, RNG.integers(3, 9))) for _ in range(60)]
LABELS = ["good" if RNG.random() < 0.5 else "bad" for _ in TEXTS]
MOOD = "model: encoder-base\ntasks:\n  mood: {kind: classification,"
TEXTS_OF = "tasks: {a: {kind: classification, model: encoder-base,"
HEADS_OF = f"{TEXTS_OF} data: all.jsonl, head: head.safetensors,"
PPL = "tasks: {a: {kind: perplexity, model: lm-base,"
WRITTEN = "tasks: {a: {kind: generation, model: lm-base, data: prompts.txt,"
PROMPTS = {"bad": ["w1 w2", "w3"], "good": ["w30 w31", "w32 w5 w6"]}
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def made(make, seed, folder):
    """A model of random weights in a folder."""
    torch.manual_seed(seed)
    model = make()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.4)
    model.save_pretrained(folder)
    tokenizer(folder)


def tokenizer(folder):
    model = Tokenizer(WordLevel({w: k for k, w in enumerate(["[UNK]", "</s>", *WORDS])}, unk_token="[UNK]"))
    model.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=model, unk_token="[UNK]", eos_token="</s>").save_pretrained(folder)


def described(home, text, name="tasks.yml"):
    path = home / name
    path.write_text(textwrap.dedent(text))
    return str(path)


def model(home, kind, lam=0.5):
    base = tv.load(home / f"{kind}-base")
    return base + lam * (tv.load(home / f"{kind}-tuned") - base)


def eager(home, kind, auto, lam=0.5):
    """The same model by transformers and a dict."""
    base, tuned = (auto.from_pretrained(home / f"{kind}-{n}").eval() for n in ("base", "tuned"))
    other = tuned.state_dict()
    base.load_state_dict(
        {n: p + lam * (other[n] - p) if p.is_floating_point() else p for n, p in base.state_dict().items()}
    )
    return base


def embed(home, net, texts):
    ids = AutoTokenizer.from_pretrained(home / "encoder-base")
    rows = [net(input_ids=torch.tensor([ids(t)["input_ids"]])).last_hidden_state[0].mean(0) for t in texts]
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1)
