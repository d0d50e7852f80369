"""A LoRA beside a model: what PEFT computes from both, and what is said where a sum would not be that."""

import json
import re
import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

import taskvec as tv
from taskvec.errors import MismatchError
from taskvec.notes import Note

TINY = {
    "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 32
}  # fmt: skip
IDS = torch.arange(8)[None]


def logits(folder):
    with torch.no_grad():
        return LlamaForCausalLM.from_pretrained(folder).eval()(IDS).logits.numpy()


@pytest.fixture
def trained(tmp_path):
    """trained(targets, ...) -> (base, adapter, logits of the adapter as it runs, logits of what PEFT merges)."""

    def make(*targets, layers=1, tied=False, **config):
        torch.manual_seed(0)
        plain = LlamaForCausalLM(LlamaConfig(**TINY, num_hidden_layers=layers, tie_word_embeddings=tied))
        plain.save_pretrained(tmp_path / "base")
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            adapted = get_peft_model(plain.eval(), LoraConfig(r=2, lora_alpha=4, target_modules=[*targets], **config))
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(parameter, std=0.1)
            adapted.save_pretrained(tmp_path / "adapter")
            live = adapted.eval()(IDS).logits.numpy()
            merged = adapted.merge_and_unload()(IDS).logits.numpy()
        return tv.load(tmp_path / "base"), tv.load(tmp_path / "adapter"), live, merged

    return make


def close(computed, wanted):
    return np.allclose(computed, wanted, rtol=1e-4, atol=1e-4)


def told(action):
    """The notes of an action."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        action()
    return [str(w.message) for w in warned if w.category is Note]


# ---- repeated layers -----------------------------------------------------------------------------
@pytest.mark.parametrize("ranges", [[[0, 3], [1, 4]], [[0, 2], [1, 3]]], ids=["longer", "as long"])
def test_a_lora_of_repeated_layers_meets_only_a_model_with_these_layers(trained, tmp_path, ranges):
    base, adapter, live, _ = trained("q_proj", "up_proj", layers=4, layer_replication=ranges)
    with pytest.raises(MismatchError, match=r"layers are repeated.*write stack\(take_layers\(base, 0,"):
        tv.plan(base + adapter)
    with pytest.raises(MismatchError, match="layers are repeated"):
        tv.plan(base + 0.5 * tv.trim(adapter, density=0.5))
    stacked = tv.stack(*(tv.take_layers(base, a, b) for a, b in ranges))
    assert not told(lambda: tv.plan(stacked + 0.5 * tv.trim(adapter, density=0.5)))
    tv.save(stacked + adapter, tmp_path / "out")
    assert close(logits(tmp_path / "out"), live)
    tv.save(stacked, tmp_path / "stacked")  # in two steps
    tv.save(tv.load(tmp_path / "stacked") + adapter, tmp_path / "again")
    assert close(logits(tmp_path / "again"), live)
    wrong = tv.stack(*(tv.take_layers(base, a, b) for a, b in reversed(ranges)))
    if len(wrong.specs) == len(stacked.specs):
        with pytest.raises(MismatchError, match="layers are repeated"):
            tv.plan(wrong + adapter)


def test_alone_it_says_so_and_layers_in_their_order_are_not_repeated(trained):
    _, adapter, _, _ = trained("q_proj", layers=4, layer_replication=[[0, 2], [1, 3]])
    assert "its layers are those of that model" in "".join(told(lambda: tv.plan(0.5 * adapter)))
    base, adapter, _, _ = trained("q_proj", layers=4, layer_replication=[[0, 2], [2, 4]])
    assert not told(lambda: tv.plan(base + adapter))


# ---- tied embeddings -----------------------------------------------------------------------------
def test_a_lora_on_a_tied_embedding_says_that_it_changes_the_head_too_and_untie_runs_as_it_was_trained(
    trained, tmp_path
):
    base, adapter, live, merged = trained("embed_tokens", tied=True)
    (note,) = told(lambda: tv.save(base + adapter, tmp_path / "both"))
    assert "model.embed_tokens.weight" in note and "untie(base) + lora" in note
    assert close(logits(tmp_path / "both"), merged) and not close(merged, live)
    assert not told(lambda: tv.save(tv.untie(base) + adapter, tmp_path / "one"))
    assert close(logits(tmp_path / "one"), live)


def test_a_lora_on_the_head_of_a_tied_model_names_untie(trained, tmp_path):
    base, adapter, live, _ = trained("lm_head", tied=True)
    with pytest.raises(MismatchError, match=r"untie\(...\) adds it"):
        tv.plan(base + adapter)
    tv.save(tv.untie(base) + adapter, tmp_path / "out")
    assert close(logits(tmp_path / "out"), live)


def test_a_head_that_is_stored_and_not_used_is_not_changed_in_silence(trained, tmp_path):
    base, adapter, live, _ = trained("lm_head", tied=True)
    tensors = load_file(tmp_path / "base/model.safetensors")
    stored = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    save_file(stored, tmp_path / "base/model.safetensors", metadata={"format": "pt"})
    base = tv.load(tmp_path / "base")
    with pytest.raises(MismatchError, match=re.escape("untie(tie(base)) + lora")):
        tv.plan(base + adapter)
    tv.save(tv.untie(tv.tie(base)) + adapter, tmp_path / "out")
    assert close(logits(tmp_path / "out"), live)


def test_an_adapter_that_is_tied_itself_is_added_once_without_its_head(trained, tmp_path):
    base, adapter, live, _ = trained("embed_tokens", tied=True, ensure_weight_tying=True)
    assert not told(lambda: tv.save(base + tv.tie(adapter), tmp_path / "out"))
    assert close(logits(tmp_path / "out"), live)


# ---- copies of the base beside an embedding's factors -------------------------------------------
def test_an_embeddings_copy_in_the_file_is_the_base_or_an_error(trained, tmp_path):
    base, adapter, live, _ = trained("embed_tokens", "lm_head", "q_proj")
    assert len(load_file(tmp_path / "adapter/adapter_model.safetensors")) == 8  # six factors, two copies
    assert not told(lambda: tv.save(base + adapter, tmp_path / "out"))
    assert close(logits(tmp_path / "out"), live)
    tv.save(base, tmp_path / "half", dtype="bfloat16")  # the same model, rounded
    assert not told(lambda: tv.plan(tv.load(tmp_path / "half") + adapter))
    tensors = load_file(tmp_path / "base/model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    for name, changed in (("moved", embedding + 0.5), ("longer", torch.cat([embedding, embedding[:2]]))):
        (tmp_path / name).mkdir()
        save_file(tensors | {"model.embed_tokens.weight": changed}, tmp_path / name / "model.safetensors")
    (note,) = told(lambda: tv.plan(tv.load(tmp_path / "moved") + adapter))
    assert "was made from another base" in note and "model.embed_tokens.weight" in note
    with pytest.raises(MismatchError, match=r"is \[34, 16\] .* had \[32, 16\]"):
        tv.plan(tv.load(tmp_path / "longer") + adapter)


def test_a_resized_embedding_and_trained_tokens_are_refused_with_the_way_out(trained, tmp_path):
    trained("q_proj")
    for name, action, says in (
        ("tokens", {"trainable_token_indices": {"embed_tokens": [3, 5]}}, "trainable_token_indices"),
        ("resized", {}, "a whole tensor.*vocabulary was resized"),
    ):
        model = LlamaForCausalLM.from_pretrained(tmp_path / "base")
        if name == "resized":
            model.resize_token_embeddings(34)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], **action))
            adapted.save_pretrained(tmp_path / name, save_embedding_layers=name == "resized")
        with pytest.raises(tv.TaskvecError, match=f"(?s){says}.*merge it into a model first.*merge_and_unload"):
            tv.load(tmp_path / name)


# ---- torch.nn.MultiheadAttention -----------------------------------------------------------------
class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.fc = torch.nn.MultiheadAttention(8, 2), torch.nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(self.attn(x, x, x)[0])


def test_multihead_attention_is_refused_with_the_rename_that_mends_it(tmp_path):
    torch.manual_seed(0)
    model = Attention()
    save_file(model.state_dict(), tmp_path / "base.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(
            model, LoraConfig(r=2, lora_alpha=8, target_modules=["attn", "fc"], init_lora_weights=False)
        )
        adapted.save_pretrained(tmp_path / "lora")
        merged = adapted.merge_and_unload().state_dict()
    base, lora = tv.load(tmp_path / "base.safetensors"), tv.load(tmp_path / "lora")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        with pytest.raises(MismatchError, match=r"torch\.nn\.MultiheadAttention has other names") as error:
            tv.plan(base + lora)
    table = json.loads(re.search(r"rename\(lora, (\{.*?\})\)", str(error.value))[1])
    total = base + tv.rename(lora, table)
    notes = told(lambda: tv.plan(total))
    assert any("adds that change twice" in note for note in notes)
    for name in ("attn.in_proj_weight", "fc.weight"):
        assert np.allclose(total[name], merged[name].numpy(), atol=1e-5)
    once = total["attn.out_proj.weight"] - base["attn.out_proj.weight"]
    assert np.allclose(2 * once, merged["attn.out_proj.weight"].numpy() - base["attn.out_proj.weight"], atol=1e-5)


# ---- modules that the configuration does not name ------------------------------------------------
def test_factors_that_peft_would_leave_out_are_noted(trained, tmp_path):
    base, _, _, _ = trained("q_proj", "k_proj")
    config = tmp_path / "adapter/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"target_modules": ["q_proj"]}))
    with pytest.warns(Note, match="target_modules does not name 'model.layers.0.self_attn.k_proj'"):
        total = base + tv.load(tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
        merged = peft.merge_and_unload().state_dict()
    q, k = (f"model.layers.0.self_attn.{part}_proj.weight" for part in "qk")
    assert np.allclose(total[q], merged[q].numpy(), atol=1e-6) and np.array_equal(merged[k].numpy(), base[k])


# ---- names ----------------------------------------------------------------------------------------
def test_a_lora_of_another_prefix_fits_after_rename(trained, tmp_path):
    base, _, live, _ = trained("q_proj", "down_proj")
    file = tmp_path / "adapter/adapter_model.safetensors"
    save_file({k.replace(".model.layers", ".model.language_model.layers"): v for k, v in load_file(file).items()}, file)
    other = tv.load(tmp_path / "adapter")
    with pytest.raises(MismatchError):
        tv.plan(base + other)
    tv.save(base + tv.rename(other, {"model.language_model.*": "model.*"}), tmp_path / "out")
    assert close(logits(tmp_path / "out"), live)
