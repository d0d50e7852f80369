"""Methods beside mergekit 0.1.5's where precision decides, on tiny random Llamas.

A tuned model here is 10 %, 1 % and 0.1 % of a base away, and the weights of the norms are 1 plus a few steps of
float32. In float32 karcher, multislerp and arcee_fusion of such models are mergekit's rounding: angles of 1e-4, of
which acos sees some and not others; a tangent that is 0; divergences of 1e-6, 3 % wrong. So mergekit computes them in
float64 here, and then they are ours. Norms that small are where model_stock's floor shows, and values that few where
ties do: there mergekit picks among equal magnitudes, we take the first.
Differences are counted in ulps of the largest number of a tensor's inputs.
"""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from paper_builders import Tensors, taskvec
from safetensors.torch import load_file
from test_mergekit import mergekit, write_models

pytestmark = pytest.mark.slow

TAUS = "ft1 - base, ft2 - base, ft3 - base"
THREE, BASE = ["ft1", "ft2", "ft3"], {"base_model": "base"}
MODELS = "base, ft1, ft2, ft3"


def weighted(*weights: float, **more: float) -> dict[str, dict[str, float]]:
    """ft1, ft2, ... with a weight each."""
    return {f"ft{k}": {"weight": w} | more for k, w in enumerate(weights, 1)}


CASES = {  # mergekit's method (and variant), its dtype and configuration, our recipe, the share that equals may move
    "karcher": ("float64", {"models": THREE}, 'karcher(ft1, ft2, ft3, zero="tol")', 0),
    "multislerp": ("float64", {"models": weighted(1, 2, 3)}, "multislerp(ft1, ft2, ft3, weights=(1, 2, 3))", 0),
    "multislerp base": (
        "float64", {"models": weighted(0.5, 0.05, 0.002), "parameters": {"normalize_weights": False}} | BASE,
        f'base + multislerp({TAUS}, weights=(0.5, 0.05, 0.002), normalize="none")', 0,
    ),
    "arcee_fusion": ("float64", {"models": ["ft1"]} | BASE, "arcee_fusion(base, ft1)", 2e-4),
    "arcee_fusion near": ("float64", {"models": ["ft3"]} | BASE, "arcee_fusion(base, ft3)", 2e-4),
    "model_stock": ("float32", {"models": THREE} | BASE, f"model_stock({MODELS}, floor=0.000001)", 0),
    "model_stock rows": (
        "float32", {"models": THREE, "parameters": {"filter_wise": True}} | BASE,
        f'model_stock({MODELS}, scope="row", floor=0.000001)', 0,
    ),
    "ties": (
        "float32", {"models": weighted(0.5, 1, -0.25, density=0.3), "parameters": {"rescale": True}} | BASE,
        "base + elect(" + ", ".join(
            f'{w}*trim(ft{k} - base, density=0.3, scope="tensor", ties="first", least=1, rescale="l1")'
            for k, w in enumerate((0.5, 1, -0.25), 1)
        ) + ', weights=(0.5, 1, -0.25), tie="plus")', 4e-4,
    ),
    "breadcrumbs": (
        "float32", {"models": weighted(0.7, density=0.9, gamma=0.2), "parameters": {"rescale": True}} | BASE,
        "base + 0.7*breadcrumbs(ft1 - base, density=0.9, gamma=0.2, "
        'outliers="spare", ties="first", rescale="l1")', 2e-4,
    ),
}  # fmt: skip


def theirs(home: Path, method: str, config: dict[str, object], dtype: str) -> Tensors:
    given = config["models"]
    parameters = given if isinstance(given, dict) else {name: {} for name in given}  # type: ignore[attr-defined]
    entries = [{"model": f"./{name}", "parameters": own} for name, own in parameters.items()]
    whole = config | {"merge_method": method, "models": entries, "dtype": dtype, "out_dtype": "float32"}
    if "base_model" in whole:
        whole["base_model"] = f"./{whole['base_model']}"
    (home / "config.yaml").write_text(json.dumps(whole))
    options = ["--quiet", "--no-copy-tokenizer", "--no-write-model-card"]
    subprocess.run([mergekit(), "config.yaml", "theirs", *options], cwd=home, check=True, capture_output=True)
    return load_file(home / "theirs" / "model.safetensors")


@pytest.mark.parametrize("case", CASES)
def test_a_method_is_mergekit_s_up_to_rounding(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dtype, config, recipe, strays = CASES[case]
    models = write_models(tmp_path, 3, 3, torch.float32)
    names = [name for name in models if name in recipe]
    taskvec("merge", recipe, *(f"{n}={tmp_path / n}" for n in names), "-o", tmp_path / "ours")
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    peers = theirs(tmp_path, case.split()[0], config, dtype)
    assert ours.keys() == peers.keys()
    worst, apart, total = 0.0, 0, 0
    for name, x in ours.items():
        largest = max(float(model[name].abs().max()) for model in models.values())
        ulps = (x.double() - peers[name].double()).abs() / (largest * 2.0**-23)
        apart += int((ulps > 4).sum())
        worst, total = max(worst, float(ulps[ulps <= 4].max())), total + x.numel()
        assert (ulps > 4).sum() <= max(8 * (strays > 0), strays * x.numel()), name
    with capsys.disabled():
        print(f"\n{case}: at most {worst:.2f} ulp of the largest input, {apart} of {total} on the other side")
