"""Tiny checkpoints, and the arithmetic of the papers in a few eager lines: what the tests of this folder compare with.

Nothing here uses taskvec, but for `order`, which asks in what order it sums.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import taskvec as tv

Tensors = dict[str, torch.Tensor]
Scale = Fraction | Callable[[str], Fraction]  # one number, or one for each tensor's name

DTYPES = {
    "F32": torch.float32,
    "F64": torch.float64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
LAYERS = 4
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (24, 8),
    **{
        f"model.layers.{k}.{part}.weight": shape
        for k in range(LAYERS)
        for part, shape in {"input_layernorm": (8,), "self_attn.q_proj": (8, 8), "mlp.up_proj": (20, 8)}.items()
    },
    "model.norm.weight": (8,),
    "lm_head.weight": (24, 8),
}
POSITIONS = "model.position_ids"  # an integer tensor, which passes through


def random_model(seed: int) -> Tensors:
    """N(0, 1) in float64, with zeros of both signs and one number far below the rest in every tensor."""
    draw = torch.Generator().manual_seed(seed)
    model: Tensors = {POSITIONS: torch.arange(24)}
    for name, shape in SHAPES.items():
        model[name] = torch.randn(shape, generator=draw, dtype=torch.float64)
        flat = model[name].view(-1)
        flat[1], flat[3], flat[5] = 0.0, -0.0, 1e-7
    return model


def fine_tuned(base: Tensors, seed: int, noise: float = 0.2) -> Tensors:
    """The base plus noise; what was zero there stays so."""
    draw = torch.Generator().manual_seed(seed)
    tuned = dict(base)
    for name in SHAPES:
        step = noise * torch.randn(SHAPES[name], generator=draw, dtype=torch.float64)
        tuned[name] = torch.where(base[name] == 0, base[name], base[name] + step)
    return tuned


def cast(model: Tensors, dtype: str, norms: str = "") -> Tensors:
    """In another dtype, the norms in one of their own if given; integers as they are."""
    kinds = {name: DTYPES[norms if norms and "norm" in name else dtype] for name in SHAPES}
    return {name: t.to(kinds.get(name, t.dtype)) for name, t in model.items()}


def write(folder: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """A checkpoint's folder with one file, written by the safetensors package."""
    folder.mkdir(parents=True)
    save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
    return folder


def read(path: Path) -> Tensors:
    """All tensors of a folder with one file, or of a file, read by the safetensors package."""
    return load_file(path if path.is_file() else next(path.glob("*.safetensors")))


def taskvec(*arguments: object, fails: bool = False, cwd: Path | None = None) -> str:
    """Run the command line in a process of its own; what it printed."""
    ran = subprocess.run(
        [sys.executable, "-m", "taskvec", *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd
    )
    assert (ran.returncode != 0) == fails, ran.stderr + ran.stdout
    return ran.stderr if fails else ran.stdout


# ---- eager arithmetic ----------------------------------------------------------------------------
def order(folders: Mapping[str, Path]) -> list[str]:
    """Names in the order of summation: that of the sources' fingerprints, as `Weights.ordered` documents."""
    return sorted(folders, key=lambda name: next(iter(tv.load(folders[name]).terms)).fingerprint)


def eager_sum(
    scales: Mapping[str, Fraction], tensors: Mapping[str, torch.Tensor], names: list[str], vectors: str = ""
) -> np.ndarray:
    """sum_k scale_k * tensor_k in the order of `names`, in float32, or in float64 if one of them is float64.

    Around a pivot: of the models the one with the largest scale, a negative one first. The others are differences from
    it; then come the `vectors` as they are, then the pivot times the sum of the models' scales. Of three or more models
    one whose scale is that sum stays as it is and comes last; the pivot is then one of the rest. To what comes last a
    zero is not added, so that a -0 stays one.
    """
    used = [name for name in names if scales.get(name)]
    if not used:
        return np.zeros(tensors[names[0]].shape, np.float32)
    real = np.float64 if any(tensors[name].dtype == torch.float64 for name in used) else np.float32
    x = {name: tensors[name].to(torch.float64).numpy().astype(real) for name in used}
    models = [name for name in used if name not in vectors]
    mass = sum(scales[name] for name in models)
    as_it_is = [name for name in models if scales[name] == mass and len(models) > 2][:1]
    around = [name for name in models if name not in as_it_is]
    pivot = max(around, key=lambda name: (abs(scales[name]), scales[name] < 0), default="")
    terms = [(scales[name], x[name] - x[pivot]) for name in around if name != pivot]
    terms += [(scales[name], x[name]) for name in used if name in vectors]
    last = real(float(mass)) * x[as_it_is[0] if as_it_is else pivot] if pivot and mass else None
    total = None
    for scale, values in terms:
        total = real(float(scale)) * values if total is None else total + real(float(scale)) * values
    if last is None or total is None:
        return last if total is None else total
    return np.where(total == 0, last, last + total)


def eager_model(
    scales: Mapping[str, Scale],
    models: Mapping[str, Tensors],
    names: list[str],
    like: Tensors,
    dtype: str = "",
    vectors: str = "",
) -> Tensors:
    """Tensor by tensor the sum, rounded once to `dtype`, else to that of `like`, which also gives the integers."""
    model = {}
    for name, tensor in like.items():
        if name == POSITIONS:
            model[name] = tensor
            continue
        here = {k: s(name) if callable(s) else s for k, s in scales.items()}
        total = eager_sum(here, {k: m[name] for k, m in models.items()}, names, vectors)
        model[name] = rounded_once(total, DTYPES[dtype] if dtype else tensor.dtype)
    return model


def rounded_once(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """The nearest number of `dtype`, ties to the even one, found among all of them: no rounding on the way."""
    if dtype in (torch.float32, torch.float64):
        return torch.from_numpy(values.astype(np.float32 if dtype == torch.float32 else np.float64))
    numbers, words = every_number(dtype)
    wanted = np.abs(values.astype(np.float64)).ravel()
    above = np.clip(np.searchsorted(numbers, wanted), 1, len(numbers) - 1)
    assert (wanted <= numbers[-1]).all(), "these tests stay clear of overflow"
    low, high = numbers[above - 1], numbers[above]
    middle = (low + high) / 2
    up = (wanted > middle) | ((wanted == middle) & (words[above] % 2 == 0))
    chosen = np.where(up, high, low)
    return torch.from_numpy(np.copysign(chosen, values.ravel()).reshape(values.shape)).to(dtype)


@cache
def every_number(dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """All finite numbers >= 0 of a dtype of 8 or 16 bits, rising, and their words."""
    kind = torch.uint8 if dtype.itemsize == 1 else torch.int16
    words = torch.arange(1 << (8 * dtype.itemsize - 1)).to(kind)
    values = words.view(dtype).to(torch.float64)
    keep = torch.isfinite(values)
    return values[keep].numpy(), words[keep].to(torch.int64).numpy()


# ---- comparing -----------------------------------------------------------------------------------
def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor, so that zeros of different sign differ."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same_bits(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Same names, dtypes, shapes and bytes; the message names the first tensors that differ."""
    assert tensors.keys() == expected.keys()
    assert {n: (t.dtype, t.shape) for n, t in tensors.items()} == {n: (t.dtype, t.shape) for n, t in expected.items()}
    unlike = [name for name, tensor in tensors.items() if raw(tensor) != raw(expected[name])]
    assert not unlike, f"{len(unlike)} of {len(tensors)} tensors differ, first {unlike[:3]}"
