"""Bases of many architectures, and what fine-tuning makes of them; files written and read without taskvec.

Architectures are tiny random models of transformers, saved once a session, and plain tensors with odd shapes: none,
empty, with one, three and four axes, integers and booleans.
"""

import json
import struct
from functools import cache

import ml_dtypes
import numpy as np

KINDS = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16), "I64": np.dtype(np.int64), "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8), "BOOL": np.dtype(np.bool_),
}  # fmt: skip
NAMES = {kind: name for name, kind in KINDS.items()}
FLOATS = ("F32", "F64", "F16", "BF16")


# ---- files ---------------------------------------------------------------------------------------------------------
def write(path, tensors):
    """A safetensors file."""
    header, offset = {}, 0
    for name, a in tensors.items():
        header[name] = {"dtype": NAMES[a.dtype], "shape": list(a.shape), "data_offsets": [offset, offset + a.nbytes]}
        offset += a.nbytes
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in tensors.values()))


def read(place):
    """Name -> array, of a file or of all files of a folder."""
    if place.is_dir():
        return {n: a for file in sorted(place.glob("*.safetensors")) for n, a in read(file).items()}
    raw = place.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header, found = json.loads(raw[8 : 8 + size]), {}
    for name, spec in header.items():
        if name != "__metadata__":
            first, last = (8 + size + at for at in spec["data_offsets"])
            found[name] = np.frombuffer(raw[first:last], KINDS[spec["dtype"]]).reshape(spec["shape"])
    return found


def save(folder, tensors, config, shards=1):
    """A model's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        write(folder / "model.safetensors", tensors)
        return folder
    names = list(tensors)
    files = {f"model-{k + 1:05d}-of-{shards:05d}.safetensors": names[k::shards] for k in range(shards)}
    for file, part in files.items():
        write(folder / file, {n: tensors[n] for n in part})
    table = {n: file for file, part in files.items() for n in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return folder


# ---- architectures -------------------------------------------------------------------------------------------------
ARCHITECTURES = ("llama", "gpt2", "bert", "t5", "vit", "mixtral", "plain", "plain", "plain", "exact")


@cache
def live(kind):
    """A tiny random model of transformers, in float32."""
    import torch
    import transformers as tf

    torch.manual_seed(7)
    small = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 37}
    wide = {"intermediate_size": 24, "max_position_embeddings": 32}
    if kind == "llama":
        return tf.LlamaForCausalLM(
            tf.LlamaConfig(**small, **wide, num_key_value_heads=1, tie_word_embeddings=False, attention_bias=True)
        )
    if kind == "mixtral":
        return tf.MixtralForCausalLM(
            tf.MixtralConfig(**small, **wide, num_key_value_heads=1, num_local_experts=3, tie_word_embeddings=False)
        )
    if kind == "gpt2":
        return tf.GPT2LMHeadModel(
            tf.GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=37, n_positions=32, tie_word_embeddings=False)
        )
    if kind == "bert":
        return tf.BertModel(tf.BertConfig(**small, **wide))
    if kind == "vit":
        return tf.ViTModel(tf.ViTConfig(**(small | wide), image_size=8, patch_size=4))
    assert kind == "t5"
    return tf.T5ForConditionalGeneration(
        tf.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, vocab_size=37, tie_word_embeddings=False)
    )


@cache
def saved(kind, folder):
    """(tensors, config) as transformers saves them."""
    model = live(kind)
    model.save_pretrained(folder / kind)
    return read(folder / kind), json.loads((folder / kind / "config.json").read_text())


def plain(rng):
    """Odd tensors: (name -> float64 array, name -> what is no float)."""
    count = int(rng.integers(2, 5))
    shapes = {
        "embed.weight": (11, 6),
        "norm.weight": (6,),
        "scale": (),
        "nothing": (0, 3),
        "kernel.weight": (3, 2, 2, 2),
    }
    for k in range(count):
        rows, cols = (int(x) for x in rng.integers(1, 30, 2))
        shapes |= {f"layers.{k}.lin.weight": (rows, cols), f"layers.{k}.lin.bias": (rows,)}
    shapes |= {"cube": (2, 3, 4), "thin": (1, 1), "empty": (0,)}
    if rng.random() < 0.04:
        shapes["layers.0.wide.weight"] = (307, 701)  # more than a tile of the kernel, an odd width
    kept = [n for n in shapes if n.startswith("layers") or rng.random() < 0.8]
    floats = {n: rng.standard_normal(shapes[n]) * 10.0 ** rng.integers(-3, 1) for n in kept}
    others = {}
    if rng.random() < 0.6:
        others["layers.0.ids"] = rng.integers(-9, 9, (4,)).astype(np.int64)
        others["mask"] = rng.random((2, 3)) < 0.5
        others["count"] = np.asarray(int(rng.integers(0, 5)), np.int32)
    return {n: np.asarray(a, np.float64) for n, a in floats.items()}, others


def base_of(kind, rng, folder):
    """(name -> float64 array, others, config) before any dtype."""
    if kind in ("plain", "exact"):
        floats, others = plain(rng)
        if kind == "exact":  # multiples of 2**-6: sums and differences have no rounding, and many are equal
            floats = {n: np.round(np.clip(a, -3, 3) * 64) / 64 for n, a in floats.items()}
        return floats, others, {"model_type": "none", "architectures": ["None"]}
    tensors, config = saved(kind, folder)
    floats = {n: a.astype(np.float64) for n, a in tensors.items() if a.dtype.kind == "f"}
    return floats, {n: a for n, a in tensors.items() if n not in floats}, config


# ---- fine-tuning ---------------------------------------------------------------------------------------------------
def dtypes_of(names, rng, like=None):
    """Name -> dtype: one for all, or mixed."""
    if like and rng.random() < 0.7:
        return like
    if rng.random() < 0.25:
        return {n: FLOATS[rng.integers(4)] for n in names}
    return dict.fromkeys(names, FLOATS[rng.choice(4, p=[0.4, 0.1, 0.2, 0.3])])


def cast(floats, dtypes):
    return {n: a.astype(KINDS[dtypes[n]]) for n, a in floats.items()}


def tuned(base, rng, exact=False):
    """base: name -> float64 array as stored. Some tensors frozen, some entries untouched, steps of 1e-2 to 1e-6."""
    found = {}
    for name, a in base.items():
        if rng.random() < 0.25:
            found[name] = a.copy()
            continue
        moved = rng.random(a.shape) < rng.choice([1, 0.5, 0.1])
        if exact:
            step = rng.integers(-3, 4, a.shape) * 2.0**-8
        else:
            size = np.sqrt(np.mean(a**2)) if a.size else 0
            step = rng.standard_normal(a.shape) * size * 10.0 ** -rng.integers(2, 7)
        found[name] = np.asarray(a + np.where(moved, step, 0))
    return found
