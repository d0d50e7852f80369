"""The script that one writes first: load everything, compute in float32 tensor by tensor, save everything.

python naive.py BASE FT1 FT2 OUT: base + 0.6*(ft1 - base) + 0.3*(ft2 - base), for checkpoints in bfloat16.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def load(folder: str) -> dict[str, torch.Tensor]:
    """All tensors of all shards."""
    return {k: v for file in sorted(Path(folder).glob("*.safetensors")) for k, v in load_file(file).items()}


def main(base_at: str, ft1_at: str, ft2_at: str, out: str) -> None:
    base, ft1, ft2 = load(base_at), load(ft1_at), load(ft2_at)
    merged = {}
    for name, tensor in base.items():
        b = tensor.float()
        merged[name] = (b + 0.6 * (ft1[name].float() - b) + 0.3 * (ft2[name].float() - b)).to(tensor.dtype)
    Path(out).mkdir(parents=True)
    save_file(merged, Path(out) / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main(*sys.argv[1:])
