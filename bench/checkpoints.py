"""Synthetic Llama checkpoints: the shapes of real models and numbers that look like theirs, made in seconds.

A model is named by its size and its role: `1.1B/base`, `1.1B/ft1`, ... Weights are N(0, 0.02), norms are near 1, and a
fine-tune is its base plus N(0, 5e-4), all in bfloat16. One tile of random numbers serves every tensor, each starting at
another place in it, so the bytes cost no more than writing them. Seeds are fixed: every machine gets the same files.

Sizes marked `sparse` hold numbers only in the first HEAD bytes of each tensor; the rest is a hole, which reads as zeros
through the page cache like any other page, without a disk behind it. All else is dense.
"""

import json
import os
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("TASKVEC_CACHE", REPO / ".cache")) / "bench"

TILE = 16_777_213  # numbers in the tile: the largest prime below 2**24, so that no tensor's shape divides it
STD, TUNED_STD, NORM_STD = 0.02, 5e-4, 0.05
HEAD = 256 << 10  # bytes of each tensor that are not a hole, in sparse checkpoints
STEP = 128 << 10  # numbers a write: larger writes to a new file can be several times slower


@dataclass(frozen=True)
class Llama:
    """The shape of a Llama, and how its checkpoint is stored: in `shards` files, dense or sparse."""

    hidden: int
    layers: int
    ffn: int
    heads: int
    kv_heads: int
    vocab: int = 32_000
    shards: int = 1
    sparse: bool = False


SIZES = {
    "10M": Llama(128, 8, 344, 4, 4, shards=2),
    "100M": Llama(640, 12, 1728, 10, 10),
    "300M": Llama(1024, 21, 2816, 16, 4),
    "1.1B": Llama(2048, 22, 5632, 32, 4, shards=2),  # TinyLlama's shape: 1.10e9 numbers in 201 tensors
    "3B": Llama(3072, 28, 8192, 24, 8, shards=2, sparse=True),
    "8B": Llama(4096, 32, 14336, 32, 8, vocab=128_256, shards=4, sparse=True),  # Llama 3's shape
}

Shape = tuple[int, ...]


def tensors(m: Llama) -> dict[str, Shape]:
    """Every tensor of the model, in its own order, with its shape."""
    kv = m.hidden * m.kv_heads // m.heads
    layer: dict[str, Shape] = {
        "input_layernorm": (m.hidden,),
        "self_attn.q_proj": (m.hidden, m.hidden),
        "self_attn.k_proj": (kv, m.hidden),
        "self_attn.v_proj": (kv, m.hidden),
        "self_attn.o_proj": (m.hidden, m.hidden),
        "post_attention_layernorm": (m.hidden,),
        "mlp.gate_proj": (m.ffn, m.hidden),
        "mlp.up_proj": (m.ffn, m.hidden),
        "mlp.down_proj": (m.hidden, m.ffn),
    }
    layers = {f"model.layers.{i}.{name}": shape for i in range(m.layers) for name, shape in layer.items()}
    ends: dict[str, Shape] = {"model.norm": (m.hidden,), "lm_head": (m.vocab, m.hidden)}
    return {f"{k}.weight": v for k, v in ({"model.embed_tokens": (m.vocab, m.hidden)} | layers | ends).items()}


def numbers(m: Llama) -> int:
    """How many numbers the model has."""
    return sum(int(np.prod(shape)) for shape in tensors(m).values())


def config(m: Llama) -> dict[str, object]:
    """config.json, as transformers writes it for LlamaForCausalLM."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": m.hidden,
        "intermediate_size": m.ffn,
        "num_hidden_layers": m.layers,
        "num_attention_heads": m.heads,
        "num_key_value_heads": m.kv_heads,
        "head_dim": m.hidden // m.heads,
        "vocab_size": m.vocab,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


# --- numbers ------------------------------------------------------------------------------------------------------


def bf16(x: np.ndarray) -> np.ndarray:
    """float32 -> the bits of bfloat16, rounded to nearest even; finite numbers only."""
    bits = x.astype(np.float32, copy=False).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def fp32(bits: np.ndarray) -> np.ndarray:
    """The bits of bfloat16 -> float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def normal(std: float, size: int, *seed: int) -> np.ndarray:
    """`size` draws of N(0, std) in float32; the same for the same seed."""
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32) * np.float32(std)


@lru_cache(maxsize=1)
def tile(role: int) -> np.ndarray:
    """The tile of the base (role 0) or of fine-tune `role`, twice in a row so that a slice may run over its end."""
    base = bf16(normal(STD, TILE, 0))
    bits = base if role == 0 else bf16(fp32(base) + normal(TUNED_STD, TILE, role))
    return np.concatenate([bits, bits])


def norm(role: int, index: int, size: int) -> np.ndarray:
    """The weights of normalisation layer `index`: near 1, and too coarse in bfloat16 to move much by tuning."""
    base = bf16(1 + normal(NORM_STD, size, 0, index))
    return base if role == 0 else bf16(fp32(base) + normal(TUNED_STD, size, role, index))


# --- files --------------------------------------------------------------------------------------------------------


def shards(m: Llama) -> dict[str, list[str]]:
    """Shard file -> its tensors: the model's order cut into parts of about equal size, sorted by name within each."""
    if m.shards == 1:
        return {"model.safetensors": sorted(tensors(m))}
    parts: list[list[str]] = [[] for _ in range(m.shards)]
    done, total = 0, numbers(m)
    for name, shape in tensors(m).items():
        parts[min(done * m.shards // total, m.shards - 1)].append(name)
        done += int(np.prod(shape))
    return {f"model-{i + 1:05}-of-{m.shards:05}.safetensors": sorted(names) for i, names in enumerate(parts)}


def header(shapes: dict[str, Shape]) -> bytes:
    """The head of a safetensors file: the length of the JSON in 8 bytes, then the JSON, padded to 8."""
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + 2 * int(np.prod(shape))
        table[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_shard(path: Path, m: Llama, names: list[str], role: int) -> None:
    """One safetensors file with these tensors, in this order."""
    shapes = tensors(m)
    places = {name: i for i, name in enumerate(shapes)}
    with path.open("wb") as file:
        file.write(header({name: shapes[name] for name in names}))
        for name in names:
            size = int(np.prod(shapes[name]))
            keep = min(size, HEAD // 2) if m.sparse else size
            if len(shapes[name]) == 1:
                file.write(norm(role, places[name], size)[:keep].data)
            else:
                for at in range(0, keep, STEP):
                    start = (places[name] * 104_729 + at) % TILE
                    file.write(tile(role)[start : start + min(STEP, keep - at)].data)
            file.seek(2 * (size - keep), os.SEEK_CUR)
        file.truncate()


def write_model(folder: Path, m: Llama, role: int) -> None:
    """The whole checkpoint, in a hidden sibling first, so that a folder that is there is whole."""
    work = folder.with_name(f".{folder.name}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    files = shards(m)
    for file, names in files.items():
        write_shard(work / file, m, names, role)
    (work / "config.json").write_text(json.dumps(config(m), indent=2) + "\n")
    if m.shards > 1:
        index = {
            "metadata": {"total_size": 2 * numbers(m)},
            "weight_map": {name: file for file, names in files.items() for name in names},
        }
        (work / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    work.rename(folder)


def checkpoints(size: str, tuned: int) -> Path:
    """Make what is missing of `base` and `ft1` ... `ft<tuned>` at this size; the folder that holds them."""
    m, home = SIZES[size], CACHE / size
    for role in range(tuned + 1):
        folder = home / ("base" if role == 0 else f"ft{role}")
        if not folder.exists():
            print(f"making {size}/{folder.name}", flush=True)
            write_model(folder, m, role)
    return home


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in order of name."""
    return sorted(folder.glob("*.safetensors"))


def weight_bytes(folder: Path) -> int:
    """Bytes in those files, holes counted."""
    return sum(file.stat().st_size for file in weight_files(folder))
