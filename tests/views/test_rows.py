"""Rows of embeddings: where each comes from, however the blocks of an output cut them."""

import json

import numpy as np
import pytest
import torch

import taskvec as tv
from small_llamas import EMBEDDING, parsed, write


@pytest.mark.parametrize(
    "recipe", ['resize_vocab(a, 1900, fill="mean")', "align_vocab(a, b, c, b)", "align_vocab(a - c, b)"]
)
def test_rows_that_lie_across_blocks_are_whole(tmp_path, recipe):
    rng, models, order = np.random.default_rng(0), {}, {}
    words = [f"w{k}" for k in range(2000)]
    for name in "abc":
        order[name] = rng.permutation(words)[:1500].tolist()
        tensors = {EMBEDDING: torch.from_numpy(rng.standard_normal((1500, 333))).bfloat16()}
        folder = write(tmp_path / name, tensors)
        vocabulary = {w: k for k, w in enumerate(order[name])}
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocabulary}}))
        models[name] = tv.load(folder)
    w = parsed(recipe, models)
    outputs = []
    least = tv.plan(w, threads=3, ram="4GB", dtype="float32").peak
    for threads, ram in ((1, 4 << 30), (3, least - 1)):
        todo = tv.plan(w, threads=threads, ram=ram, dtype="float32")
        tv.save(w, tmp_path / f"out{threads}", threads=threads, ram=ram, dtype="float32")
        outputs.append((todo.block, tv.load(tmp_path / f"out{threads}")[EMBEDDING]))
    assert outputs[0][0] > outputs[1][0] and np.array_equal(outputs[0][1], outputs[1][1])
    assert np.array_equal(outputs[0][1], w[EMBEDDING])
