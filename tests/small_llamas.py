"""Small Llamas in bfloat16 as folders, each with a tokenizer of its own, for the tests of views."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

import taskvec as tv
from taskvec.errors import TaskvecError

LAYERS, VOCAB, WIDTH = 4, 11, 6


CONFIG = {
    "model_type": "llama", "torch_dtype": "bfloat16", "num_hidden_layers": LAYERS, "vocab_size": VOCAB,
    "layer_types": ["full", "sliding", "full", "sliding"], "eos_token_id": [1, 2, 3, 4],
}  # fmt: skip


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def content(seed, layers=LAYERS, vocab=VOCAB, head=True):
    """A Llama's tensors in bfloat16, and positions that are not floating point."""
    noise = torch.Generator().manual_seed(seed)
    shapes = {EMBEDDING: (vocab, WIDTH), "model.norm.weight": (WIDTH,)} | ({HEAD: (vocab, WIDTH)} if head else {})
    for k in range(layers):
        shapes[f"model.layers.{k}.mlp.weight"] = (7, WIDTH)
        shapes[f"model.layers.{k}.norm.weight"] = (WIDTH,)
    found = {name: torch.randn(shape, generator=noise).bfloat16() for name, shape in shapes.items()}
    return found | {"model.positions": torch.arange(5)}


def write(folder, tensors, config=CONFIG):
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    words = [f"t{k}" for k in range(VOCAB - 2)]
    if folder.name == "code":  # another order, one word of its own, one less
        words = [*reversed(words[1:]), "own"]
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "WordLevel", "vocab": {w: k for k, w in enumerate(words)}}, "added_tokens": []})
    )
    return folder


def parsed(recipe, models):
    return tv.parse(recipe, **{name: w for name, w in models.items() if re.search(rf"\b{name}\b", recipe)})


def saved(w, folder, **options):
    tv.save(w, folder, **options)
    return load_file(folder / "model.safetensors")


def same(one, two):
    """Two dicts of tensors, bit for bit."""
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype and torch.equal(tensor, two[name]), name
    return True


def home(folder):
    """Folders base/, math/ and code/; code has the tokens in another order, one less and one of its own."""
    for seed, name in enumerate(("base", "math", "code")):
        write(folder / name, content(seed))
    return folder


def models(folder):
    return {name: tv.load(folder / name) for name in ("base", "math", "code")}


def refused(recipe, models, tmp_path, kind, message):
    """The recipe is refused in these words, and nothing is written."""
    with pytest.raises(TaskvecError) as found:
        tv.save(parsed(recipe, models), tmp_path / "out")
    assert isinstance(found.value, kind) and re.search(message, str(found.value), re.DOTALL), found.value
    assert not list(tmp_path.iterdir())
