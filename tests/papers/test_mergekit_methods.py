"""The peer's methods (mergekit 0.1.5) and what they are in ours, in float32 on tiny random Llamas.

Both compute in their own order, so they may differ by rounding: counted in ulps of the largest number of a tensor's
inputs. Where a method ranks magnitudes, an element on the threshold may fall on the other side; the weights of the
norms are 1 plus a few steps of float32, so that many are equal and mergekit picks among them.
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


CASES = {  # mergekit's method (and variant), its configuration, our recipe, the share that may differ beyond rounding
    "slerp": ({"models": ["ft1", "ft2"], "base_model": "ft1", "parameters": {"t": 0.3}}, "slerp(ft1, ft2, t=0.3)", 0),
    "karcher": ({"models": THREE}, 'karcher(ft1, ft2, ft3, zero="tol")', 0),
    "model_stock": ({"models": THREE} | BASE, f"model_stock({MODELS}, floor=0.000001)", 0),
    "model_stock rows": (
        {"models": THREE, "parameters": {"filter_wise": True}} | BASE,
        f'model_stock({MODELS}, scope="row", floor=0.000001)', 0,
    ),
    "nuslerp": ({"models": weighted(0.3, 0.9)}, "nuslerp(ft1, ft2, weights=(0.3, 0.9))", 0),
    "nuslerp base": (
        {"models": weighted(0.3, 0.9)} | BASE, "base + nuslerp(ft1 - base, ft2 - base, weights=(0.3, 0.9))", 0,
    ),
    "nuslerp rows": (
        {"models": weighted(0.3, 0.9), "parameters": {"nuslerp_flatten": False}} | BASE,
        'base + nuslerp(ft1 - base, ft2 - base, weights=(0.3, 0.9), scope="row")', 0,
    ),
    "nuslerp columns": (
        {"models": weighted(3, 1), "parameters": {"nuslerp_flatten": False, "nuslerp_row_wise": True}} | BASE,
        'base + nuslerp(ft1 - base, ft2 - base, weights=(3, 1), scope="column")', 0,
    ),
    "multislerp": ({"models": weighted(1, 2, 3)}, "multislerp(ft1, ft2, ft3, weights=(1, 2, 3))", 0),
    "multislerp base": (
        {"models": weighted(0.5, 0.05, 0.002), "parameters": {"normalize_weights": False}} | BASE,
        f'base + multislerp({TAUS}, weights=(0.5, 0.05, 0.002), normalize="none")', 0,
    ),
    "nearswap": (
        {"models": ["ft1"], "parameters": {"t": 0.001}} | BASE, "nearswap(base, ft1, t=0.001, floor=0.000001)", 0,
    ),
    "arcee_fusion": ({"models": ["ft1"]} | BASE, "arcee_fusion(base, ft1)", 2e-4),
    "sce": ({"models": THREE} | BASE, f'base + sce({TAUS}, floor=0.000001, tie="plus")', 0),
    "sce select": (
        {"models": THREE, "parameters": {"select_topk": 0.3}} | BASE,
        f'base + sce({TAUS}, select=0.3, floor=0.000001, tie="plus")', 2e-4,
    ),
    "ram": ({"models": THREE, "parameters": {"epsilon": 1e-4}} | BASE, f"base + ram({TAUS}, epsilon=0.0001)", 2e-4),
    "ramplus_tl": (
        {"models": THREE, "parameters": {"epsilon": 1e-4, "r": 0.5, "alpha": 3}} | BASE,
        f'base + ramplus({TAUS}, epsilon=0.0001, r=0.5, alpha=3, scope="tensor")', 2e-4,
    ),
    "ties": (
        {"models": THREE, "parameters": {"weight": 1, "density": 0.3}} | BASE,
        f'base + ties({TAUS}, density=0.3, scope="tensor")', 2e-4,
    ),
    "ties weights": (
        {"models": weighted(0.5, 1, -0.25, density=0.3), "parameters": {"rescale": True}} | BASE,
        "base + elect(" + ", ".join(
            f'{w}*trim(ft{k} - base, density=0.3, scope="tensor", ties="first", least=1, rescale="l1")'
            for k, w in enumerate((0.5, 1, -0.25), 1)
        ) + ', weights=(0.5, 1, -0.25), tie="plus")', 4e-4,
    ),
    "breadcrumbs": (
        {"models": weighted(0.7, density=0.4, gamma=0.02)} | BASE,
        "base + 0.7*breadcrumbs(ft1 - base, density=0.4, gamma=0.02)", 2e-4,
    ),
    "breadcrumbs spare": (
        {"models": weighted(0.7, density=0.9, gamma=0.2), "parameters": {"rescale": True}} | BASE,
        "base + 0.7*breadcrumbs(ft1 - base, density=0.9, gamma=0.2, "
        'outliers="spare", ties="first", rescale="l1")', 2e-4,
    ),
}  # fmt: skip


# In float32 these are mergekit's rounding: angles of 1e-4 between norms, of which acos sees some and not others; a
# tangent that is 0; divergences of 1e-6, 3 % wrong. So it computes them in float64.
DOUBLE = ("karcher", "multislerp", "multislerp base", "arcee_fusion")


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
    config, recipe, strays = CASES[case]
    models = write_models(tmp_path, 3, 3, torch.float32)
    names = [name for name in models if name in recipe]
    taskvec("merge", recipe, *(f"{n}={tmp_path / n}" for n in names), "-o", tmp_path / "ours")
    ours = load_file(tmp_path / "ours" / "model.safetensors")
    peers = theirs(tmp_path, case.split()[0], config, "float64" if case in DOUBLE else "float32")
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
