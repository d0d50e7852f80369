"""`load_into` sets a live module of transformers to what loading the saved folder gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import taskvec as tv
from promises.other_libraries import MODELS, assert_same_bits, llama, output_of, write_models


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_loading_into_a_module_is_loading_the_saved_folder(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    make, loader = MODELS[name]
    write_models(tmp_path, make, dtype)
    weights = tv.parse("base + 0.3*(tuned - base)", base=tmp_path / "base", tuned=tmp_path / "tuned")
    tv.save(weights, tmp_path / "out")
    live = loader.from_pretrained(tmp_path / "base", dtype="auto").eval()
    tv.load_into(live, weights)
    loaded = loader.from_pretrained(tmp_path / "out", dtype="auto").eval()
    assert_same_bits(live.state_dict(), loaded.state_dict())
    torch.testing.assert_close(output_of(live), output_of(loaded), rtol=0, atol=0)


def test_loading_into_a_module_changes_its_parameters_in_place_and_keeps_them_tied(tmp_path: Path) -> None:
    write_models(tmp_path, lambda: llama(True))
    base, tuned = tv.load(tmp_path / "base"), tv.load(tmp_path / "tuned")
    live = llama(True)
    before = dict(live.named_parameters())
    places = {name: parameter.data_ptr() for name, parameter in before.items()}
    tv.load_into(live, base + 0.5 * (tuned - base))
    assert all(before[name] is parameter for name, parameter in live.named_parameters())
    assert places == {name: parameter.data_ptr() for name, parameter in live.named_parameters()}
    assert live.lm_head.weight is live.model.embed_tokens.weight
    embedding = (base + 0.5 * (tuned - base))["model.embed_tokens.weight"]
    assert np.array_equal(live.lm_head.weight.detach().numpy(), embedding)


def test_loading_into_a_module_again_and_again_does_not_drift(tmp_path: Path) -> None:
    write_models(tmp_path, lambda: llama(True), torch.bfloat16)
    base, tuned = tv.load(tmp_path / "base"), tv.load(tmp_path / "tuned")
    live = llama(True).bfloat16()
    for scale in (0.9, -3.3, 0.1, 0):
        tv.load_into(live, base + scale * (tuned - base))
    untouched = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype="auto")
    assert_same_bits(live.state_dict(), untouched.state_dict())


def test_loading_into_a_module_converts_to_the_module_s_dtype(tmp_path: Path) -> None:
    write_models(tmp_path, lambda: llama(False), torch.bfloat16)
    base, tuned = tv.load(tmp_path / "base"), tv.load(tmp_path / "tuned")
    live = llama(False).float()
    tv.load_into(live, base + 0.3 * (tuned - base))
    for name, tensor in live.state_dict().items():
        assert np.array_equal(tensor.numpy(), (base + 0.3 * (tuned - base))[name]), name
