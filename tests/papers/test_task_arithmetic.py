"""The paper's operations (Ilharco et al. 2023, arXiv 2212.04089, sections 2 to 5, and the special cases that others
named) through taskvec, against eager lines: bit for bit, since the arithmetic is documented to the last rounding.

An expression collapses to {model: coefficient}, coefficients exact rationals. Each is rounded to the accumulator
(float32; float64 if a source is), terms are summed in the order of the sources' fingerprints, every operation rounded
on its own, and the sum is rounded once to the output's dtype.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from paper_builders import (
    DTYPES,
    LAYERS,
    Tensors,
    assert_same_bits,
    eager_model,
    eager_sum,
    fine_tuned,
    order,
    random_model,
    raw,
    read,
    rounded_once,
    taskvec,
    write,
)

import taskvec as tv

Q = Fraction
NAMES = ("base", "a", "b", "c")

# What the papers write -> the coefficients that it comes to.
OPERATIONS: dict[str, tuple[str, dict[str, Fraction]]] = {
    "negation": ("base - 0.7*(a - base)", {"base": Q("1.7"), "a": Q("-0.7")}),
    "addition of two tasks": (
        "base + 0.4*((a - base) + (b - base))",
        {"base": Q("0.2"), "a": Q("0.4"), "b": Q("0.4")},
    ),
    "addition of three tasks": (
        "base + 0.3*(a - base) + 0.4*(b - base) + 0.4*(c - base)",
        {"base": Q("-0.1"), "a": Q("0.3"), "b": Q("0.4"), "c": Q("0.4")},
    ),
    "learning and forgetting": (
        "base + 0.6*(a - base) - 0.3*(b - base)",
        {"base": Q("0.7"), "a": Q("0.6"), "b": Q("-0.3")},
    ),
    "analogy": (
        "base + 0.8*((c - base) + ((b - base) - (a - base)))",
        {"base": Q("0.2"), "c": Q("0.8"), "b": Q("0.8"), "a": Q("-0.8")},
    ),
    "analogy with a coefficient each": (
        "base + 1.1*(c - base) + 0.5*((b - base) - (a - base))",
        {"base": Q("-0.1"), "c": Q("1.1"), "b": Q("0.5"), "a": Q("-0.5")},
    ),
    "interpolation, WiSE-FT": ("(1 - 0.3)*base + 0.3*a", {"base": Q("0.7"), "a": Q("0.3")}),
    "uniform soup": ("(a + b + c)/3", {"a": Q(1, 3), "b": Q(1, 3), "c": Q(1, 3)}),
    "extrapolation, ExPO": ("a + 0.3*(a - base)", {"a": Q("1.3"), "base": Q("-0.3")}),
}
# Dtypes of base, a, b, c; and of the base's norms where they have one of their own.
MIXTURES: dict[str, tuple[tuple[str, str, str, str], str | None]] = {
    **{dtype: ((dtype,) * 4, None) for dtype in DTYPES},
    "BF16 with F32 norms": (("BF16",) * 4, "F32"),
    "BF16 base, wider tunes": (("BF16", "F32", "F16", "BF16"), None),
    "F32 base, F64 among the tunes": (("F32", "F64", "F32", "BF16"), None),
    "F8 base, other tunes": (("F8_E4M3", "BF16", "F8_E5M2", "F16"), None),
}


def models_of(mixture: str) -> dict[str, Tensors]:
    dtypes, norms = MIXTURES[mixture]
    first = random_model(1, "F64")
    base = {n: t if t.dtype == torch.int64 else t.to(DTYPES[_dtype(n, dtypes[0], norms)]) for n, t in first.items()}
    tuned = {
        k: {n: t if t.dtype == torch.int64 else t.to(DTYPES[_dtype(n, d, norms)]) for n, t in fine.items()}
        for k, d, fine in zip("abc", dtypes[1:], (fine_tuned(first, seed, 0.2) for seed in (2, 3, 4)), strict=True)
    }
    return {"base": base, **tuned}


def _dtype(name: str, dtype: str, norms: str | None) -> str:
    return norms if norms and "norm" in name else dtype


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, Tensors], dict[str, Path]]]:
    """The four models of a mixture, and where they lie; each mixture is written once."""
    home, made = tmp_path_factory.mktemp("models"), {}

    def get(mixture: str) -> tuple[dict[str, Tensors], dict[str, Path]]:
        if mixture not in made:
            models = models_of(mixture)
            made[mixture] = models, {k: write(home / str(len(made)) / k, m) for k, m in models.items()}
        return made[mixture]

    return get


def used(recipe: str, folders: dict[str, Path]) -> dict[str, Path]:
    return {name: path for name, path in folders.items() if name in recipe}


def expected(recipe: str, scales: dict[str, Fraction], models: dict[str, Tensors], folders: dict[str, Path]) -> Tensors:
    """The eager result in the dtypes of the first model that the recipe names and keeps."""
    first = min(scales, key=recipe.index)
    names = order({k: folders[k] for k in scales})
    return eager_model(scales, {"base": models[first]} | {k: models[k] for k in scales}, names) if first != "base" and "base" not in scales else _like(first, scales, models, names)  # fmt: skip # noqa: E501


def _like(first: str, scales: dict[str, Fraction], models: dict[str, Tensors], names: list[str]) -> Tensors:
    found = {}
    for name, tensor in models[first].items():
        if tensor.dtype == torch.int64:
            found[name] = tensor
        else:
            total = eager_sum(scales, {k: models[k][name] for k in scales}, names)
            found[name] = rounded_once(total, tensor.dtype)
    return found
