"""Which way round a weight is stored: what PEFT merges, for models with both kinds of layers."""

import json
import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

import taskvec as tv
from taskvec.errors import MismatchError
from taskvec.formats.orientation import decide
from taskvec.recipes.recipe import written
from taskvec.sources.source import Spec


class Encoder(torch.nn.Module):
    """Linear, square attention and a wider dense layer, as in BERT."""

    def __init__(self, d):
        super().__init__()
        self.query, self.dense = torch.nn.Linear(d, d), torch.nn.Linear(d, 2 * d)


class Decoder(torch.nn.Module):
    """Conv1D, a square projection and a wider c_attn, as in GPT-2."""

    def __init__(self, d):
        super().__init__()
        self.c_attn, self.c_proj = Conv1D(3 * d, d), Conv1D(d, d)


class Mixed(torch.nn.Module):
    def __init__(self, d=8):
        super().__init__()
        self.encoder = torch.nn.ModuleList(Encoder(d) for _ in range(2))
        self.decoder = torch.nn.ModuleList(Decoder(d) for _ in range(2))
        self.lm_head = torch.nn.Linear(d, 12, bias=False)

    def forward(self, x):
        return self.lm_head(x)


@pytest.fixture
def trained(tmp_path):
    """trained(targets) -> (base, adapter, what PEFT makes of both)."""

    def make(*targets):
        torch.manual_seed(0)
        model = Mixed()
        (tmp_path / "base").mkdir(exist_ok=True)
        save_file(model.state_dict(), tmp_path / "base/model.safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = get_peft_model(
                model, LoraConfig(r=2, lora_alpha=6, target_modules=list(targets), init_lora_weights=False)
            )
            adapted.save_pretrained(tmp_path / "adapter")
            merged = adapted.merge_and_unload().state_dict()
        return tv.load(tmp_path / "base"), tv.load(tmp_path / "adapter"), merged

    return make


TARGETS = [
    ("query", "c_proj"), ("c_proj", "lm_head"), ("c_attn", "lm_head"), ("query", "c_attn", "c_proj"), ("query",),
    ("c_proj",), ("c_attn", "c_proj"), ("query", "dense", "c_attn", "c_proj", "lm_head"),
]  # fmt: skip


@pytest.mark.parametrize("targets", TARGETS, ids="-".join)
def test_base_plus_adapter_is_what_peft_merges_in_a_model_of_both_kinds(trained, targets):
    base, adapter, merged = trained(*targets)
    for total in (base + adapter, adapter + base, 2 * adapter + base - adapter, base + (base + adapter - base)):
        for name, expected in merged.items():
            assert np.allclose(total[name], expected.numpy(), rtol=1e-5, atol=1e-5), name


def test_without_its_base_a_square_weight_of_a_mixed_adapter_is_refused(trained):
    base, adapter, merged = trained("query", "c_proj")
    with pytest.raises(
        MismatchError, match=r"whether .* must be transposed cannot be told.*Add the adapter to its base"
    ):
        adapter["encoder.0.query.weight"]
    with pytest.raises(MismatchError, match="cannot be told"):
        tv.plan(base + tv.trim(adapter, density=0.5))
    delta = base + adapter - base  # the way out that the message names
    assert delta.mass == 0 and delta != adapter
    trimmed = base + tv.trim(delta, density=1)
    assert all(np.allclose(trimmed[n], merged[n].numpy(), rtol=1e-5, atol=1e-5) for n in merged)


def test_an_adapter_of_one_kind_needs_no_base(trained):
    base, adapter, merged = trained("c_attn", "c_proj")
    name = "decoder.0.c_proj.weight"
    assert np.allclose(adapter[name], merged[name].numpy() - base[name], atol=1e-5)
    assert base + adapter - base == adapter


def test_a_stored_difference_shows_the_kinds_as_a_model_does(trained, tmp_path):
    base, adapter, merged = trained("query", "c_proj")
    tv.save(tv.from_arrays({n: base[n] * 0 for n in base}, "zero", mass=0), tmp_path / "zero")
    vector = tv.load(tmp_path / "zero") + adapter
    name = "encoder.0.query.weight"
    assert vector.mass == 0 and np.allclose(vector[name], merged[name].numpy() - base[name], atol=1e-5)


def test_what_is_turned_is_written_as_it_was_read_and_saved_right(trained, tmp_path):
    base, adapter, merged = trained("query", "c_proj")
    recipe = str(base + adapter)
    saved = tv.save(base + adapter, tmp_path / "out")
    assert saved.recipe == "base + adapter" and "adapter" in recipe
    saved = tv.load(tmp_path / "out")
    assert all(np.allclose(saved[n], merged[n].numpy(), rtol=1e-5, atol=1e-5) for n in merged)


TURNED = (
    "{} - base", "0.5*({} - base)", "trim({} - base, density=0.5)", "rename({} - base, {{'*.weight': '*.w'}})",
    "layers(0, 1, outside=0)*({} - base)", "base + trim(layers(0, 1, outside=0)*({} - base))", "0*base + {} - base",
)  # fmt: skip


@pytest.mark.parametrize("form", TURNED)
def test_the_text_of_a_vector_that_its_base_turned_still_says_so(trained, tmp_path, form):
    base, adapter, _ = trained("query", "c_proj")
    total = tv.parse(form.format("base + lora"), base=base, lora=adapter)
    pasted, kept = tv.parse(str(total)), tv.parse(written(total))
    assert pasted == kept == total
    for k, weights in enumerate((total, pasted, kept)):
        tv.save(weights, tmp_path / f"{k}.safetensors")
    read = [tv.load(tmp_path / f"{k}.safetensors") for k in range(3)]
    assert len(read[0]) and all(np.array_equal(read[0][n], r[n]) for r in read for n in read[0])


def test_a_wrong_flag_that_the_base_put_right_is_not_in_the_text_again(tmp_path, build):
    """Here the adapter alone is no error: it would be another vector."""
    build.model(tmp_path / "base", {"c_fc.weight": np.zeros((2, 6), "f4")})
    factors = {"c_fc.lora_A.weight": np.ones((1, 2), "f4"), "c_fc.lora_B.weight": np.arange(6, dtype="f4")[:, None]}
    build.lora(tmp_path / "lora", factors, r=1, lora_alpha=1)
    base, lora = tv.load(tmp_path / "base"), tv.load(tmp_path / "lora")
    for vector in (base + lora - base, tv.trim(base + lora - base, density=1)):
        pasted = tv.parse(str(vector))
        assert pasted == vector and pasted["c_fc.weight"].shape == (2, 6)


def test_a_vector_that_no_base_turned_keeps_the_tensors_of_the_base(trained, tmp_path):
    base, adapter, _ = trained("c_attn", "c_proj")
    vector = base + adapter - base
    assert tv.parse(str(vector)).keys() == vector.keys() == base.keys() and len(adapter) < len(base)
    assert str(base + adapter).count("load(") == 2 and str(adapter - 0.5 * adapter).count("load(") == 1


def test_only_square_weights_are_called_square(trained):
    _, adapter, _ = trained("c_attn", "lm_head")
    with pytest.raises(MismatchError, match=r"whether decoder\.0\.c_attn.*there is no model beside it whose shapes"):
        adapter["lm_head.weight"]
    _, adapter, _ = trained("query", "c_proj")
    with pytest.raises(MismatchError, match="they are square"):
        adapter["encoder.0.query.weight"]


# ---- the rule itself ------------------------------------------------------------------------------
def spec(*shape):
    return Spec(shape, "F32")


GPT = {
    "h.0.attn.c_attn.weight": spec(4, 12), "h.0.attn.c_proj.weight": spec(4, 4), "lm_head.weight": spec(9, 4),
    "h.0.mlp.c_fc.weight": spec(4, 16),
}  # fmt: skip
NANO = {name: spec(*reversed(s.shape)) if "c_" in name else s for name, s in GPT.items()}  # Linear of the same names
PAIR = {"h.0.attn.c_proj.weight": (4, 4), "lm_head.weight": (9, 4)}


@pytest.mark.parametrize(("model", "turned"), [(GPT, True), (NANO, False)])
def test_wider_layers_show_the_kind_of_a_square_one_beside_them(model, turned):
    decision = decide(PAIR, False, model)
    assert decision.turned == {"h.0.attn.c_proj.weight": turned, "lm_head.weight": False} and not decision.undecided


def test_a_bias_shows_the_kind_of_its_weight():
    model = {"a.q.weight": spec(4, 4), "a.up.weight": spec(4, 8), "a.up.bias": spec(8), "a.k.weight": spec(4, 4)}
    pairs = {"a.q.weight": (4, 4), "a.k.weight": (4, 4)}
    assert decide(pairs, True, model).turned == {"a.q.weight": True, "a.k.weight": True}
    contradicted = decide(pairs, False, model)  # the flag says Linear, the block Conv1D, the names nothing
    assert set(contradicted.undecided) == set(pairs)


def test_where_nothing_shows_it_a_mixed_adapter_is_undecided_and_a_plain_one_is_not():
    square = {"a.c_proj.weight": spec(4, 4), "head.weight": spec(9, 4)}
    assert decide({"a.c_proj.weight": (4, 4), "head.weight": (9, 4)}, False, square).undecided == ("a.c_proj.weight",)
    assert decide({"a.c_proj.weight": (4, 4)}, False, square) == ({"a.c_proj.weight": False}, ())
    assert decide({"a.c_fc.weight": (8, 4), "head.weight": (9, 4)}, False, None).undecided == ("a.c_fc.weight",)
    qwen = {f"h.0.{part}.weight": (4, 4) for part in ("attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.c_proj")}
    assert decide(qwen, False, None) == (dict.fromkeys(qwen, False), ())  # Linear, whatever they are called
    llama = {f"l.{k}.{part}.weight": (4, 4) for k in range(2) for part in ("q_proj", "o_proj")}
    assert decide(llama, False, {name: spec(4, 4) for name in llama}) == (dict.fromkeys(llama, False), ())


def test_a_wrong_flag_of_another_program_is_known_by_shapes_that_are_not_square(tmp_path, build):
    build.model(tmp_path / "base", {"c_fc.weight": np.zeros((2, 6), "f4")})
    factors = {"c_fc.lora_A.weight": np.ones((1, 2), "f4"), "c_fc.lora_B.weight": np.arange(6, dtype="f4")[:, None]}
    build.lora(tmp_path / "lora", factors, r=1, lora_alpha=1)
    assert json.loads((tmp_path / "lora/adapter_config.json").read_text())["fan_in_fan_out"] is False
    total = tv.load(tmp_path / "base") + tv.load(tmp_path / "lora")
    assert np.array_equal(total["c_fc.weight"], np.tile(np.arange(6, dtype="f4"), (2, 1)))
