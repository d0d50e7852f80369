"""What the tests of interoperation share: small models of transformers, an eager merge, and comparisons bit by bit."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

Tensors = Mapping[str, torch.Tensor]
VOCAB = 96
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}


def taskvec(*arguments: object, env: Mapping[str, str] | None = None, fails: bool = False) -> str:
    """Run the command line in a process of its own. Returns what it printed."""
    ran = subprocess.run(
        [sys.executable, "-m", "taskvec", *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, **(env or {})},
    )  # fmt: skip
    assert (ran.returncode != 0) == fails, ran.stderr + ran.stdout
    return ran.stderr if fails else ran.stdout


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same_bits(tensors: Tensors, expected: Tensors) -> None:
    assert tensors.keys() == expected.keys()
    unlike = [n for n, t in tensors.items() if t.dtype != expected[n].dtype or t.shape != expected[n].shape]
    unlike += [n for n, t in tensors.items() if n not in unlike and raw(t) != raw(expected[n])]
    assert not unlike, f"{len(unlike)} of {len(tensors)} tensors differ, first {unlike[:3]}"


def eager_merge(base: Tensors, tuned: Tensors, scale: float) -> dict[str, torch.Tensor]:
    """base + scale * (tuned - base) in float32 (float64 where the base is), in the base's dtypes. scale < 0.5, so that
    the base is the pivot."""
    assert scale < 0.5
    merged = {}
    for name, tensor in base.items():
        if not tensor.is_floating_point():
            merged[name] = tensor
            continue
        real = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        wide = tensor.to(real)
        merged[name] = (wide + scale * (tuned[name].to(real) - wide)).to(tensor.dtype)
    return merged


def llama(tied: bool) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=88, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def bert() -> PreTrainedModel:
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    return BertModel(config)


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2, n_positions=64))


Maker = Callable[[], PreTrainedModel]
MODELS: dict[str, tuple[Maker, type]] = {
    "Llama": (lambda: llama(False), AutoModelForCausalLM),
    "Llama, tied": (lambda: llama(True), AutoModelForCausalLM),
    "BERT": (bert, AutoModel),
    "GPT-2, tied": (gpt2, AutoModelForCausalLM),
}
INPUT = torch.arange(3, 3 + 24).reshape(2, 12) % VOCAB


def write_models(
    home: Path, make: Maker, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """`base` and `tuned`, which is the base plus noise, saved by transformers."""
    torch.manual_seed(1)
    base, tuned = make().to(dtype).eval(), make().to(dtype).eval()
    tuned.load_state_dict(base.state_dict())
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    base.save_pretrained(home / "base")
    tuned.save_pretrained(home / "tuned")
    return base, tuned


def pair(home: Path) -> list[str]:
    return [f"base={home / 'base'}", f"tuned={home / 'tuned'}"]


def output_of(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        output = model(INPUT)
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def assert_loads_as(path: Path, loader: type, expected: Tensors, base: Path) -> PreTrainedModel:
    """from_pretrained finds every weight, they are the expected ones, and the model computes what the base's class
    computes with them."""
    loaded, report = loader.from_pretrained(path, dtype="auto", output_loading_info=True)
    assert not any(report.values()), report
    assert_same_bits(loaded.state_dict(), expected)
    eager = loader.from_pretrained(base, dtype="auto")
    eager.load_state_dict(expected)
    torch.testing.assert_close(output_of(loaded.eval()), output_of(eager.eval()))
    return loaded
