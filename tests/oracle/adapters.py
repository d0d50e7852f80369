"""LoRAs: made and merged by PEFT on transformers' models, written by hand for plain tensors.

Each gives a folder, and name -> (delta, bound): scale * B @ A in float64 from the numbers in the file, and how far a
sum of r products in float32 may be from it, (r + 2) u |scale| |B| @ |A|.
"""

import copy
import json

import numpy as np
from models import KINDS, live, write

U32 = 2.0**-24
TARGETS = {
    "llama": (
        ["q_proj", "v_proj"],
        ["down_proj"],
        ["q_proj", "k_proj", "up_proj", "lm_head"],
        ["embed_tokens", "o_proj"],
    ),
    "mixtral": (["q_proj", "v_proj"], ["o_proj", "k_proj"]),
    "gpt2": (["c_attn"], ["c_attn", "c_proj"], ["c_fc", "wte"]),
    "bert": (["query", "value"], ["dense"]),
    "t5": (["q", "v"], ["wi", "wo"], ["q", "k", "o"]),
    "vit": (["q_proj", "v_proj"], ["query", "value"], ["dense"], ["fc1", "fc2"]),
}


def by_peft(kind, rng, folder):
    """An adapter that PEFT makes and saves; its deltas are PEFT's own, of a model in float64."""
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    model = copy.deepcopy(live(kind)).double()
    ends = {name.split(".")[-1] for name, _ in model.named_modules()}
    choices = [t for t in TARGETS[kind] if set(t) <= ends]
    targets = choices[rng.integers(len(choices))]
    rank, more = int(rng.integers(1, 6)), {}
    if rng.random() < 0.3:
        more["rank_pattern"] = {targets[0]: int(rng.integers(1, 9))}
    if rng.random() < 0.3:
        more["alpha_pattern"] = {targets[-1]: int(rng.integers(1, 33))}
    if rng.random() < 0.2:
        more["layers_to_transform"] = [1]
    config = LoraConfig(
        r=rank, lora_alpha=int(rng.integers(1, 33)), target_modules=targets, use_rslora=bool(rng.random() < 0.3),
        fan_in_fan_out=kind == "gpt2", **more,
    )  # fmt: skip
    tuned = get_peft_model(model, config)
    size = float(10.0 ** -rng.integers(1, 4))
    stored = (torch.float32, torch.float32, torch.bfloat16, torch.float16)[rng.integers(4)]
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if "lora_" in name:
                drawn = torch.from_numpy(rng.standard_normal(tuple(value.shape)) * size)
                value.copy_(drawn.to(stored).double())
    state = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    tuned.peft_config["default"].save_pretrained(folder)
    write(folder / "adapter_model.safetensors", {n: numpy_of(v.to(stored)) for n, v in state.items()})
    deltas, everything = {}, dict(tuned.named_modules())
    for path, layer in everything.items():
        if hasattr(layer, "get_delta_weight") and ("default" in layer.lora_A or "default" in layer.lora_embedding_A):
            delta = layer.get_delta_weight("default").detach().numpy()
            embedding = "default" in layer.lora_embedding_A
            b = (layer.lora_embedding_B if embedding else layer.lora_B)["default"]
            a = (layer.lora_embedding_A if embedding else layer.lora_A)["default"]
            b, a = (m if embedding else m.weight for m in (b, a))
            size = np.abs(b.detach().numpy()) @ np.abs(a.detach().numpy())
            size = size if size.shape == delta.shape and not (embedding or config.fan_in_fan_out) else size.T
            name = path.removeprefix("base_model.model.") + ".weight"
            deltas[name] = delta, (a.shape[0] + 2) * U32 * abs(layer.scaling["default"]) * size
    return deltas


def numpy_of(tensor):
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(KINDS["BF16"])
    return tensor.contiguous().numpy()


def by_hand(shapes, rng, folder):
    """An adapter in PEFT's layout for some of the matrices."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [n for n, s in shapes.items() if len(s) == 2 and n.endswith(".weight") and min(s) > 0]
    names = [n for n in names if rng.random() < 0.6] or names[:1]
    rank, alpha = int(rng.integers(1, 5)), float(rng.integers(1, 20)) / 2
    rslora, dtype = bool(rng.random() < 0.3), ("F32", "F32", "BF16", "F16")[rng.integers(4)]
    content, deltas = {}, {}
    size = float(10.0 ** -rng.integers(1, 4))
    for name in names:
        rows, cols = shapes[name]
        a, b = ((rng.standard_normal(s) * size).astype(KINDS[dtype]) for s in ((rank, cols), (rows, rank)))
        module = f"base_model.model.{name.removesuffix('.weight')}"
        content |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
        a, b, scale = a.astype(np.float64), b.astype(np.float64), alpha / (rank**0.5 if rslora else rank)
        deltas[name] = scale * b @ a, (rank + 2) * U32 * scale * np.abs(b) @ np.abs(a)
    write(folder / "adapter_model.safetensors", content)
    modules = sorted({n.removesuffix(".weight").split(".")[-1] for n in names})
    config = {
        "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "use_rslora": rslora, "bias": "none",
        "fan_in_fan_out": False, "target_modules": modules, "base_model_name_or_path": None, "task_type": None,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return deltas
