"""The peer's task_arithmetic and linear (mergekit 0.1.5, in a venv of its own), on tiny random Llamas.

In float32 mergekit rounds base + (w1*(m1 - base) + w2*(m2 - base) + ...) at every step; we collapse to
(1 - w1 - w2)*base + w1*m1 + w2*m2 first and round that sum. Written as bfloat16, which nearly everybody does, the two
may differ by one unit in the last place where the float32 sums fall on two sides of a midpoint. With bfloat16 inputs
and a coefficient like 0.7 exact ties are common (5 steps of difference times 0.7 are 3.5), and float32 decides.
Where the terms cancel to almost nothing, nearly all digits that are left come from rounding the terms, so an ulp is
counted at the magnitude of the largest number in the sum (base, tuned models, their products with the coefficients, the
result) and not of what is left of it.
Written as float32 nothing hides the rounding of the steps: there both must lie within the classical forward error
bound of the exact sum. What was found, the share within one ulp of the result itself included, is printed.
"""

import json
import runpy
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from paper_builders import Tensors, taskvec
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

pytestmark = pytest.mark.slow

BENCH = Path(__file__).resolve().parents[2] / "bench"
U = 2.0**-24  # half an ulp of float32 at 1: the largest relative error of one rounding
SLACK = 1 + 1e-5  # for terms of second order, and for the float64 of the reference
MANTISSA = {torch.float32: 23, torch.bfloat16: 7}  # bits after the leading one


@cache
def mergekit() -> str:
    """The path of mergekit-yaml, installed by the benchmark's own function if it is not there; else skips."""
    sys.path.insert(0, str(BENCH))
    try:
        cases = runpy.run_path(str(BENCH / "cases.py"))
        cases["install_mergekit"]()
    except (subprocess.CalledProcessError, OSError) as error:
        pytest.skip(f"mergekit cannot be installed here: {error}")
    finally:
        sys.path.remove(str(BENCH))
    return str(cases["MERGEKIT"])


# ---- models --------------------------------------------------------------------------------------
def write_models(home: Path, seed: int, tuned: int, dtype: torch.dtype) -> dict[str, Tensors]:
    """`base` and `ft1` ... as Llamas of 270,000 numbers; a fine-tune is the base plus noise of its own size."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=800, hidden_size=96, intermediate_size=208, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    base = LlamaForCausalLM(config).to(dtype)
    models = {}
    for k in range(tuned + 1):
        model, name = LlamaForCausalLM(config).to(dtype), f"ft{k}" if k else "base"
        model.load_state_dict(base.state_dict())
        with torch.no_grad():
            for parameter in model.parameters() if k else []:
                parameter += 10.0**-k * parameter.std().nan_to_num(0).clamp(min=1e-3) * torch.randn_like(parameter)
        model.save_pretrained(home / name)
        models[name] = load_file(home / name / "model.safetensors")
    return models


def merged_by_mergekit(home: Path, method: str, weights: list[float], out_dtype: str) -> Tensors:
    entries = [{"model": f"./ft{k}", "parameters": {"weight": w}} for k, w in enumerate(weights, 1)]
    config = {"merge_method": method, "models": entries, "dtype": "float32", "out_dtype": out_dtype}
    if method == "task_arithmetic":
        config["base_model"] = "./base"
    (home / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    options = ["--quiet", "--no-copy-tokenizer", "--no-write-model-card"]
    subprocess.run([mergekit(), "config.yaml", "theirs", *options], cwd=home, check=True, capture_output=True)
    return load_file(home / "theirs" / "model.safetensors")


def merged_by_taskvec(home: Path, method: str, weights: list[float], out_dtype: str) -> Tensors:
    if method == "task_arithmetic":
        recipe = "base + " + " + ".join(f"{w}*(ft{k} - base)" for k, w in enumerate(weights, 1))
    else:
        total = " + ".join(f"{w}*ft{k}" for k, w in enumerate(weights, 1))
        recipe = f"({total})/({' + '.join(map(str, weights))})"
    names = [*(["base"] if "base" in recipe else []), *(f"ft{k}" for k in range(1, len(weights) + 1))]
    taskvec("merge", recipe, *(f"{n}={home / n}" for n in names), "-o", home / "ours", "--dtype", out_dtype)
    return load_file(home / "ours" / "model.safetensors")


# ---- how far apart -------------------------------------------------------------------------------
@dataclass
class Agreement:
    """Over all numbers of a merge: how many are equal, how far apart in ulps of the largest number, of the result."""

    numbers: int = 0
    equal: int = 0
    sum_ulps: float = 0.0
    within_one_ulp: int = 0
    result_ulps: int = 0

    def __str__(self) -> str:
        return (
            f"{self.numbers} numbers, {self.equal / self.numbers:.3%} equal, at most {self.sum_ulps:g} ulp of the "
            f"largest number; of the result {self.within_one_ulp / self.numbers:.3%} within 1 ulp, "
            f"at most {self.result_ulps}"
        )


def ulp(magnitude: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The distance between neighbours of a dtype at a magnitude."""
    return torch.exp2(torch.floor(torch.log2(magnitude.clamp(min=1e-30))) - MANTISSA[dtype])


def place(values: torch.Tensor) -> torch.Tensor:
    """The place of each number on the line of all of its dtype: neighbours differ by 1, both zeros are 0."""
    words = values.view(torch.int32 if values.dtype == torch.float32 else torch.int16).long()
    return torch.where(words < 0, -(words + (1 << (8 * values.dtype.itemsize - 1))), words)


def stacked(models: dict[str, Tensors], name: str) -> torch.Tensor:
    """One tensor of base, ft1, ... in float64, along a first axis."""
    return torch.stack([model[name].double() for model in models.values()])


def scales(method: str, weights: list[float]) -> torch.Tensor:
    """The coefficients of base, ft1, ... in float64."""
    if method == "linear":
        return torch.tensor([0, *(w / sum(weights) for w in weights)], dtype=torch.float64)
    return torch.tensor([1 - sum(weights), *weights], dtype=torch.float64)


def along(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


def agreement(ours: Tensors, theirs: Tensors, models: dict[str, Tensors], factors: torch.Tensor) -> Agreement:
    assert ours.keys() == theirs.keys()
    result = Agreement()
    for name, x in ours.items():
        y, inputs = theirs[name], stacked(models, name)
        assert (x.dtype, x.shape) == (y.dtype, y.shape), name
        operands = (inputs * along(factors.abs().clamp(min=1), inputs)).abs().amax(0)
        largest = torch.maximum(operands, torch.maximum(x.double().abs(), y.double().abs()))
        apart, steps = (x.double() - y.double()).abs(), (place(x) - place(y)).abs()
        result.numbers += x.numel()
        result.equal += int((steps == 0).sum())
        result.sum_ulps = max(result.sum_ulps, float((apart / ulp(largest, x.dtype)).max()))
        result.within_one_ulp += int((steps <= 1).sum())
        result.result_ulps = max(result.result_ulps, int(steps.max()))
    return result


def our_bound(inputs: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Of n terms: a rounding of each coefficient and of each product, n - 1 of the sum."""
    terms = int((factors != 0).sum())
    return (terms + 1) * U * (along(factors, inputs) * inputs).abs().sum(0)


def their_bound(inputs: torch.Tensor, method: str, weights: list[float]) -> torch.Tensor:
    """The same for mergekit's order of steps: differences first, or the division by the sum of weights last."""
    base, tuned = inputs[0], inputs[1:]
    w, n = along(torch.tensor(weights, dtype=torch.float64), tuned), len(weights)
    if method == "task_arithmetic":
        products = (w * (tuned - base)).abs().sum(0)
        return U * ((n + 3) * products + base.abs() + (base + (w * (tuned - base)).sum(0)).abs())
    total = w.sum().abs()
    divisor = 1 + (n + 1) * w.abs().sum() / total
    return U * ((n + 2) * (w * tuned).abs().sum(0) + divisor * (w * tuned).sum(0).abs()) / total


# ---- the tests -----------------------------------------------------------------------------------
WEIGHTS = ([0.4], [-0.7], [0.6, 0.3], [1.0, -0.35], [0.3, 0.4, 0.4], [0.5, -0.25, 0.8])
cases = [
    pytest.mark.parametrize("method", ["task_arithmetic", "linear"]),
    pytest.mark.parametrize("seed", range(len(WEIGHTS)), ids=lambda seed: str(WEIGHTS[seed])),
]


def both(home: Path, seed: int, method: str, dtype: torch.dtype) -> tuple[Tensors, Tensors, dict[str, Tensors]]:
    """Our merge, theirs, and the inputs, all in one dtype."""
    models, name = write_models(home, seed, len(WEIGHTS[seed]), dtype), str(dtype).removeprefix("torch.")
    theirs = merged_by_mergekit(home, method, WEIGHTS[seed], name)
    ours = merged_by_taskvec(home, method, WEIGHTS[seed], name)
    assert any(not torch.equal(ours[tensor], models["base"][tensor]) for tensor in ours), "nothing was merged"
    return ours, theirs, models


@cases[0]
@cases[1]
def test_in_bfloat16_a_merge_is_mergekit_s_to_one_ulp_of_the_largest_number(
    seed: int, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs, models = both(tmp_path, seed, method, torch.bfloat16)
    result = agreement(ours, theirs, models, scales(method, WEIGHTS[seed]))
    with capsys.disabled():
        print(f"\nbfloat16 {method} {WEIGHTS[seed]}: {result}")
    assert result.sum_ulps <= 1
    assert result.equal > 0.95 * result.numbers, "more than ties and midpoints went another way"
    assert result.within_one_ulp > 0.9999 * result.numbers


@cases[0]
@cases[1]
def test_in_float32_both_merges_are_the_exact_sum_within_the_error_bound_of_their_steps(
    seed: int, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs, models = both(tmp_path, seed, method, torch.float32)
    factors = scales(method, WEIGHTS[seed])
    errors = torch.zeros(2, dtype=torch.float64)
    for name in ours:
        inputs = stacked(models, name)
        exact = (along(factors, inputs) * inputs).sum(0)
        mine, peers = (ours[name].double() - exact).abs(), (theirs[name].double() - exact).abs()
        assert (mine <= SLACK * our_bound(inputs, factors)).all(), name
        assert (peers <= SLACK * their_bound(inputs, method, WEIGHTS[seed])).all(), name
        errors += torch.stack([mine.square().sum(), peers.square().sum()])
    result = agreement(ours, theirs, models, factors)
    with capsys.disabled():
        print(
            f"\nfloat32 {method} {WEIGHTS[seed]}: {result}; distance from the exact sum, ours to theirs: "
            f"{float((errors[0] / errors[1]).sqrt()):.2f}"
        )
    assert result.sum_ulps <= 4
