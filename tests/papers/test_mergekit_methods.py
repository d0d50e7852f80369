"""The peer's methods where its semantics are ours (mergekit 0.1.5), in float32 on tiny random Llamas.

Both compute in their own order, so they may differ by rounding: counted in ulps of the largest number of a tensor's
inputs. Where a method ranks magnitudes, an element on the threshold may fall on the other side.
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
CASES = {  # mergekit's configuration, our recipe, the share of elements that may differ by more than rounding
    "slerp": ({"models": ["ft1", "ft2"], "base_model": "ft1", "parameters": {"t": 0.3}}, "slerp(ft1, ft2, t=0.3)", 0),
    "karcher": ({"models": ["ft1", "ft2", "ft3"]}, "karcher(ft1, ft2, ft3)", 0),
    "model_stock": ({"models": ["ft1", "ft2", "ft3"], "base_model": "base"}, "model_stock(base, ft1, ft2, ft3)", 0),
    "ties": (
        {"models": ["ft1", "ft2", "ft3"], "base_model": "base", "parameters": {"weight": 1, "density": 0.3}},
        f'base + ties({TAUS}, density=0.3, scope="tensor")', 2e-4,
    ),
    "breadcrumbs": (
        {"models": ["ft1"], "base_model": "base", "parameters": {"weight": 0.7, "density": 0.4, "gamma": 0.02}},
        "base + 0.7*breadcrumbs(ft1 - base, density=0.4, gamma=0.02)", 2e-4,
    ),
}  # fmt: skip


def theirs(home: Path, method: str, config: dict[str, object]) -> Tensors:
    entries = [{"model": f"./{name}"} for name in config["models"]]  # type: ignore[attr-defined]
    whole = config | {"merge_method": method, "models": entries, "dtype": "float32"}
    if "base_model" in whole:
        whole["base_model"] = f"./{whole['base_model']}"
    (home / "config.yaml").write_text(json.dumps(whole))
    options = ["--quiet", "--no-copy-tokenizer", "--no-write-model-card"]
    subprocess.run([mergekit(), "config.yaml", "theirs", *options], cwd=home, check=True, capture_output=True)
    return load_file(home / "theirs" / "model.safetensors")


@pytest.mark.parametrize("method", CASES)
def test_a_method_is_mergekit_s_up_to_rounding(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, recipe, strays = CASES[method]
    models = write_models(tmp_path, 3, 3, torch.float32)
    names = [name for name in models if name in recipe]
    taskvec("merge", recipe, *(f"{n}={tmp_path / n}" for n in names), "-o", tmp_path / "ours")
    ours, peers = load_file(tmp_path / "ours" / "model.safetensors"), theirs(tmp_path, method, config)
    assert ours.keys() == peers.keys()
    worst, apart, total = 0.0, 0, 0
    for name, x in ours.items():
        largest = max(float(model[name].abs().max()) for model in models.values())
        ulps = (x.double() - peers[name].double()).abs() / (largest * 2.0**-23)
        apart += int((ulps > 4).sum())
        worst, total = max(worst, float(ulps[ulps <= 4].max())), total + x.numel()
        assert (ulps > 4).sum() <= max(2 * (strays > 0), strays * x.numel()), name
    with capsys.disabled():
        print(f"\n{method}: at most {worst:.2f} ulp of the largest input, {apart} of {total} on the other side")
