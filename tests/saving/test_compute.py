"""A block is a function of the plan and the block: whoever computes it, where, when and in whatever order."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from blake3 import blake3

import taskvec as tv
from taskvec.saving import lineage
from taskvec.saving.compute import Worker
from taskvec.saving.plan import PIECE

SHAPES = {"l.0.weight": (900, 1000), "l.1.weight": (300, 1000), "norm.w": (1000,)}
RECIPES = {
    "sum": "base + 0.4*(a - base) + 0.3*(b - base)",
    "adapter": "base + 0.5*lora",
    "measured over the whole model": 'base + ties(a - base, b - base, density=0.3, scope="model")',
    "measured tensor by tensor": 'base + ties(a - base, b - base, density=0.3, scope="tensor")',
    "drawn": "base + dare_ties(a - base, b - base, drop=0.4, seed=7)",
    "drawn twice": 'base + dare(a - base, drop=0.4, rescale="l1")',
    "whole tensors": "base + iso_c(a - base, b - base)",
    "coefficients by measured angles": "slerp(a, b, t=0.3)",
}
PROCESS = """
import json, sys
import taskvec as tv
from taskvec.saving.compute import Worker

recipe, given, share, workers, out = json.loads(sys.argv[1])
plan = tv.plan(tv.parse(recipe, **given), threads=2)
worker = Worker(plan)
memory = worker.memory()
with open(out, "r+b") as file:
    for block in [*plan.blocks()][share::workers]:
        done, data = worker.compute(block, memory)
        file.seek(block.offset - plan.shards[0].header_size)
        file.write(data)
        print(json.dumps([block.index, block.name, [piece.hex() for piece in done.pieces], done.flags]))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory, build):
    folder = tmp_path_factory.mktemp("world")
    for k, name in enumerate(["base", "a", "b"]):
        build.model(folder / name, build.tensors(k, SHAPES))
    rng = np.random.default_rng(9)
    factors = {"l.0.lora_A.weight": (2, 1000), "l.0.lora_B.weight": (900, 2)}
    build.lora(folder / "lora", {n: rng.standard_normal(s).astype("f4") for n, s in factors.items()}, r=2)
    return folder


def given(world, recipe):
    return {n: str(world / n) for n in ("base", "a", "b", "lora") if re.search(rf"\b{n}\b", recipe)}


@pytest.mark.parametrize("kind", RECIPES)
def test_two_processes_that_plan_for_themselves_make_the_bytes_of_one(kind, world, tmp_path):
    recipe = RECIPES[kind]
    weights = tv.parse(recipe, **given(world, recipe))
    tv.save(weights, tmp_path / "one", threads=2)
    todo = tv.plan(weights, threads=2)
    size = sum(spec.nbytes for spec in todo.specs.values())
    out = tmp_path / "two"
    out.write_bytes(bytes(size))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, json.dumps([recipe, given(world, recipe), share, 2, str(out)])],
            stdout=subprocess.PIPE, text=True,
        )
        for share in range(2)
    ]  # fmt: skip
    done = [[json.loads(line) for line in process.communicate()[0].splitlines()] for process in running]
    assert [process.returncode for process in running] == [0, 0] and min(map(len, done)) > 0
    whole = (tmp_path / "one/model.safetensors").read_bytes()
    assert whole[-size:] == out.read_bytes()
    digests = {name: [] for name in todo.specs}
    for _, name, pieces, flags in sorted(done[0] + done[1]):
        digests[name] += map(bytes.fromhex, pieces)
        assert flags == 0
    record = lineage.read(tmp_path / "one")["tensors"]
    assert {n: lineage.digest(found) for n, found in digests.items()} == {n: t["digest"] for n, t in record.items()}


def test_a_block_does_not_depend_on_the_blocks_before_it(world):
    recipe = RECIPES["drawn twice"]
    todo = tv.plan(tv.parse(recipe, **given(world, recipe)), threads=1)
    blocks, found = [*todo.blocks()], []
    assert len(blocks) > len(todo.specs)
    for order in (blocks, blocks[::-1], blocks[1:] + blocks):
        worker, computed = Worker(todo), {}
        memory = worker.memory()
        for block in order:
            done, data = worker.compute(block, memory)
            assert done.pieces == tuple(blake3(data[at : at + PIECE]).digest() for at in range(0, len(data), PIECE))
            computed[block.index] = done, bytes(data)
        found.append([computed[block.index] for block in blocks])
    assert found[0] == found[1] == found[2]
    for name, spec in todo.specs.items():
        data = b"".join(data for block, (_, data) in zip(blocks, found[0], strict=True) if block.name == name)
        assert np.array_equal(np.frombuffer(data, np.float32).reshape(spec.shape), todo.weights[name])


def test_what_is_not_finite_is_flagged_in_its_block_alone():
    values = np.ones((3, 300, 1000), "f4")
    values[1, 2, 3] = np.nan
    todo = tv.plan(tv.from_arrays({f"{k}.w": x for k, x in enumerate(values)}) * 1, threads=1)
    worker = Worker(todo)
    flags = {block.name: worker.compute(block, worker.memory())[0].flags for block in todo.blocks()}
    assert flags["1.w"] and not flags["0.w"] and not flags["2.w"]
