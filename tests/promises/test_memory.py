"""The memory that a plan promises: never exceeded by the real process, and not several times what it needs."""

import json
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import taskvec as tv
from taskvec.saving.plan import PROGRAM

SHAPE, MODELS = (1024, 1536), 12
RECIPES = {
    "sum": "base + {sum}",
    "ties": "base + ties({vectors})",
    "ties tensor": 'base + ties({vectors}, scope="tensor")',
    "ties first": "base + elect({trims})",
    "breadcrumbs": "base + elect({bands})",
    "dare": "base + dare_ties({vectors})",
    "della": "base + della_ties({vectors})",
    "consensus": "base + consensus({vectors})",
    "slerp": "multislerp({models})",
    "sce": "base + sce({vectors})",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory, build):
    folder = tmp_path_factory.mktemp("memory")
    for k, name in enumerate(["base", *(f"m{k}" for k in range(MODELS))]):
        rng = np.random.default_rng(k)
        content = {f"l.{n}.w": rng.standard_normal(SHAPE).astype(ml_dtypes.bfloat16) for n in range(2)}
        header = {n: {"dtype": "BF16", "shape": list(SHAPE)} for n in content}
        at = 0
        for entry in header.values():
            entry["data_offsets"] = [at, at := at + 2 * SHAPE[0] * SHAPE[1]]
        build.raw(folder / f"{name}.safetensors", header, b"".join(x.tobytes() for x in content.values()))
    return folder


def recipe(name, count):
    names = [f"m{k}" for k in range(count)]
    vectors = [f"{m} - base" for m in names]
    return RECIPES[name].format(
        models=", ".join(names),
        vectors=", ".join(vectors),
        sum=" + ".join(f"0.1*({v})" for v in vectors),
        trims=", ".join(f'trim({v}, density=0.3, ties="first")' for v in vectors),
        bands=", ".join(f"breadcrumbs({v})" for v in vectors),
    )


def measured(folder, *words):
    """The most anonymous memory that the command was seen to own, in bytes."""
    process = subprocess.Popen([sys.executable, "-m", "taskvec", *words], cwd=folder, stderr=subprocess.PIPE, text=True)
    peak, status = 0, Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            lines = status.read_text().splitlines()
        except OSError:
            break
        peak = max(peak, next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0))
        time.sleep(0.002)
    assert process.wait() == 0, process.stderr.read()
    return peak


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("count", [2, MODELS])
@pytest.mark.parametrize("name", RECIPES)
def test_a_plan_promises_what_the_process_needs_and_not_several_times_that(name, count, models):
    text = recipe(name, count)
    given = [f"{n}={n}.safetensors" for n in ["base", *(f"m{k}" for k in range(count))] if n in text]
    words = [text, *given, "--threads", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "taskvec", "plan", *words, "--json"], cwd=models, capture_output=True, check=True
    )
    promise = json.loads(done.stdout)["peak_memory_bytes"]
    peak = measured(models, "merge", *words, "-o", "out", "--overwrite", "--no-fsync", "-q")
    assert peak <= promise
    assert promise <= 3 * peak + PROGRAM + (64 << 20)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    "text", ["base + 0.5*lora + ties(lora, tuned - base)", "base + elect(trim(lora, density=0.5))"]
)
def test_the_factors_of_an_adapter_are_in_memory_once_however_many_calls_it_stands_in(text, build, tmp_path):
    """134 MB of factors in float32, which were promised, but not needed, once more for every call."""
    wide, rank = 2 << 20, 16
    factors = {"w.lora_A.weight": np.ones((rank, wide), "f4"), "w.lora_B.weight": np.ones((1, rank), "f4")}
    build.lora(tmp_path / "lora", factors, r=rank)
    for name in ("base", "tuned"):
        build.model(tmp_path / name, {"w.weight": np.ones((1, wide), ml_dtypes.bfloat16)})
    words = [text, *(f"{n}={n}" for n in ("base", "tuned", "lora") if n in text), "--threads", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "taskvec", "plan", *words, "--json"], cwd=tmp_path, capture_output=True, check=True
    )
    promise, held = json.loads(done.stdout)["peak_memory_bytes"], 4 * wide * rank
    peak = measured(tmp_path, "merge", *words, "-o", "out", "--no-fsync", "-q")
    assert held < peak <= promise < PROGRAM + 2 * held


def test_ties_of_64_models_fits_in_a_gigabyte(models):
    base, tuned = (tv.load(models / f"{n}.safetensors") for n in ("base", "m0"))
    vectors = [tv.load(models / "m1.safetensors") * k + (1 - k) * tuned - base for k in range(64)]
    assert tv.plan(base + tv.ties(*vectors), ram="1GB").peak < 10**9


def test_the_texts_in_headers_count(tmp_path, build):
    tensor = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    plans = []
    for size in (10, 10_000_000):
        path = build.raw(tmp_path / f"{size}.safetensors", {"__metadata__": {"text": "x" * size}, **tensor}, bytes(4))
        plans.append(tv.plan(tv.load(path)).peak)
    assert plans[1] - plans[0] > 40_000_000


def test_the_rows_of_a_resized_vocabulary_take_no_memory(models, build, tmp_path):
    build.model(tmp_path / "m", build.tensors(0, {"model.embed_tokens.weight": (8, 2)}))
    small, large = (tv.plan(tv.resize_vocab(tv.load(tmp_path / "m"), n), ram="10GB") for n in (16, 300_300_300))
    assert large.bytes_out > 10**9
    bookkeeping = 200 * (large.bytes_out >> 18)  # of the pieces of the output
    blocks = large.threads * large.cost.block - small.threads * small.cost.block
    assert large.peak - small.peak <= bookkeeping + blocks + (1 << 20)
    with pytest.raises(tv.TaskvecError, match="at most"):
        tv.resize_vocab(tv.load(tmp_path / "m"), 10**20)
