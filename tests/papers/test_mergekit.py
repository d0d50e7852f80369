"""The peer's task_arithmetic and linear (mergekit 0.1.5, in a venv of its own), on tiny random Llamas.

mergekit rounds base + (w1*(m1 - base) + w2*(m2 - base) + ...) at every step; we collapse to
(1 - w1 - w2)*base + w1*m1 + w2*m2 first. Both are right to about one unit in the last place of what goes into the sum,
not of what is left of it: where terms cancel to almost nothing, nearly all digits of both results are rounding errors.
So an ulp is counted here at the magnitude of the largest operand of the two sums (base, tuned models, their products
with the coefficients), and the share of numbers within one ulp of the result itself is printed beside it.
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
    found = {}
    for k in range(tuned + 1):
        model, name = LlamaForCausalLM(config).to(dtype), f"ft{k}" if k else "base"
        model.load_state_dict(base.state_dict())
        with torch.no_grad():
            for parameter in model.parameters() if k else []:
                parameter += 10.0**-k * parameter.std().nan_to_num(0).clamp(min=1e-3) * torch.randn_like(parameter)
        model.save_pretrained(home / name)
        found[name] = load_file(home / name / "model.safetensors")
    return found


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


# ---- ulps ----------------------------------------------------------------------------------------
@dataclass
class Agreement:
    """Over all numbers of a merge: how many, how many are equal, how far apart in ulps of operands and of results."""

    numbers: int = 0
    equal: int = 0
    operand_ulps: float = 0.0
    within_one_ulp: int = 0
    result_ulps: int = 0

    def __str__(self) -> str:
        return (
            f"{self.numbers} numbers, {self.equal / self.numbers:.4%} equal; at most {self.operand_ulps:g} ulp of the "
            f"largest operand; {self.within_one_ulp / self.numbers:.4%} within one plain ulp, at most {self.result_ulps}"
        )


def ulp(magnitude: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The distance between neighbours of a dtype at a magnitude."""
    return torch.exp2(torch.floor(torch.log2(magnitude.double().clamp(min=1e-30))) - MANTISSA[dtype])


def place(values: torch.Tensor) -> torch.Tensor:
    """The place of each number on the line of all of its dtype: neighbours differ by 1, both zeros are 0."""
    words = values.view(torch.int32 if values.dtype == torch.float32 else torch.int16).long()
    sign = 1 << (8 * values.dtype.itemsize - 1)
    return torch.where(words < 0, -(words + sign), words)


def agreement(ours: Tensors, theirs: Tensors, models: dict[str, Tensors], weights: list[float]) -> Agreement:
    assert ours.keys() == theirs.keys()
    found = Agreement()
    for name, x in ours.items():
        y = theirs[name]
        assert (x.dtype, x.shape) == (y.dtype, y.shape), name
        tuned = [models[f"ft{k}"][name].double() for k in range(1, len(weights) + 1)]
        operands = [models["base"][name].double() * max(1, abs(1 - sum(weights)))]
        operands += [m * max(1, abs(w)) for m, w in zip(tuned, weights, strict=True)]
        largest = torch.stack(operands).abs().amax(0)
        apart = (x.double() - y.double()).abs()
        steps = (place(x) - place(y)).abs()
        found.numbers += x.numel()
        found.equal += int((steps == 0).sum())
        found.operand_ulps = max(found.operand_ulps, float((apart / ulp(largest, x.dtype)).max()))
        found.within_one_ulp += int((steps <= 1).sum())
        found.result_ulps = max(found.result_ulps, int(steps.max()))
    return found


WEIGHTS = ([0.4], [-0.7], [0.6, 0.3], [1.0, -0.35], [0.3, 0.4, 0.4], [0.5, -0.25, 0.8])


@pytest.mark.parametrize("out_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["task_arithmetic", "linear"])
@pytest.mark.parametrize("seed", range(len(WEIGHTS)), ids=lambda seed: f"weights {WEIGHTS[seed]}")
def test_a_merge_is_mergekit_s_to_one_ulp_of_the_largest_operand(
    seed: int, method: str, out_dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, dtype = WEIGHTS[seed], torch.float32 if out_dtype == "float32" else torch.bfloat16
    models = write_models(tmp_path, seed, len(weights), dtype)
    theirs = merged_by_mergekit(tmp_path, method, weights, out_dtype)
    ours = merged_by_taskvec(tmp_path, method, weights, out_dtype)
    found = agreement(ours, theirs, models, weights)
    with capsys.disabled():
        print(f"\n{method} {weights} {out_dtype}: {found}")
    assert found.operand_ulps <= 1
    assert found.equal < found.numbers * 1.01
    base = models["base"]
    assert any(not torch.equal(ours[name], base[name]) for name in ours), "the merge must not be the base"
