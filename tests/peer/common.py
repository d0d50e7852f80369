"""What mergekit's own tests expect of `tests.common`: tiny models, and a merge that is checked. Here the merge is ours.

Its source package leaves that module out; this one is written anew. Runs under mergekit's Python, calls ours (TASKVEC).
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import (
    CLIPVisionConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 16, "num_hidden_layers": 2}


def make_picollama(path: Any, vocab_size: int = 64) -> str:
    return saved(LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **SMALL)), path)


def make_picogranite(path: Any, vocab_size: int = 64) -> str:
    return saved(GraniteForCausalLM(GraniteConfig(vocab_size=vocab_size, **SMALL)), path)


def make_gpt2size(path: Any, vocab_size: int = 64) -> str:
    return saved(GPT2LMHeadModel(GPT2Config(n_ctx=128, n_embd=32, n_head=4, n_layer=12, vocab_size=vocab_size)), path)


def make_picoLlaVa(path: Any) -> str:  # noqa: N802 - the name that the tests import
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=2, image_size=28, patch_size=14
    )
    text = LlamaConfig(vocab_size=64, **SMALL)
    return saved(LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text)), path)


def saved(model: Any, path: Any) -> str:
    model.save_pretrained(path, safe_serialization=True)
    return str(path)


def merge(config: Any, out: str, options: Any = None, **_: Any) -> None:
    """`taskvec merge` on the configuration; what it refuses is a ValueError with its message, as mergekit raises it."""
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "config.yml"
        file.write_text(config.to_yaml())
        if getattr(options, "unsafe_truncate_embeddings", False):
            raise NotImplementedError("an option that we do not have")
        done = subprocess.run(
            [os.environ["TASKVEC"], "merge", str(file), "-o", str(out)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise ValueError(done.stderr)


def run_and_check_merge(
    config: Any, validate: Callable[[str], None] | None = None, check_nan: bool = True, **_: Any
) -> None:
    """Merge, and look at the result: a configuration, every tensor that it asks for, all of them finite."""
    with tempfile.TemporaryDirectory() as home:
        out = str(Path(home) / "merged")
        merge(config, out)
        assert json.loads((Path(out) / "config.json").read_text())["model_type"]
        given = str(config.base_model or config.referenced_models()[0])
        with (
            safe_open(Path(out) / "model.safetensors", "pt") as file,
            safe_open(Path(given) / "model.safetensors", "pt") as before,
        ):
            assert set(before.keys()) <= set(file.keys())
            for name in file.keys():  # noqa: SIM118 - no mapping
                assert not check_nan or bool(torch.isfinite(file.get_tensor(name).float()).all()), name
        if validate:
            validate(out)
