"""Ordinary models are loaded, compared and merged without a word: no guard takes them for what it is there for."""

import warnings

import pytest
import torch
import transformers as hf

import taskvec as tv
from taskvec.sources.quantised import codes
from taskvec.sources.source import Spec

SMALL = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64,
}  # fmt: skip
PICTURES = {"image_size": 16, "patch_size": 8}
SIZES = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "image_size": 16, "patch_size": 2}
MODELS = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL, num_key_value_heads=1)),
    "llama, tied": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL, tie_word_embeddings=True)),
    "gemma": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**SMALL, head_dim=8, num_key_value_heads=1)),
    "experts": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**SMALL, num_local_experts=2, num_key_value_heads=1)),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**SMALL)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=64)),
    "gpt-neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SMALL)),
    "t5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, vocab_size=64)),
    "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**SMALL, **PICTURES)),
    "clip": lambda: hf.CLIPModel(
        hf.CLIPConfig(text_config=SMALL, vision_config={**SMALL, **PICTURES}, projection_dim=8)
    ),
    "swin 2, with logit scales": lambda: hf.Swinv2Model(hf.Swinv2Config(**SIZES)),
    "beit, with layer scales": lambda: hf.BeitModel(hf.BeitConfig(**SMALL, **PICTURES, layer_scale_init_value=0.1)),
    "convnext": lambda: hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)),
    "resnet, with BatchNorm": lambda: hf.ResNetModel(
        hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ),
    "mimi, with codebooks": lambda: hf.MimiModel(
        hf.MimiConfig(
            **{k: v for k, v in SMALL.items() if k != "vocab_size"}, num_filters=4, head_dim=8, codebook_size=16,
            codebook_dim=8, vector_quantization_hidden_dimension=8, upsample_groups=16,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_an_ordinary_model_is_merged_without_a_word(tmp_path, kind):
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "tuned")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        base, tuned = tv.load(tmp_path / "base"), tv.load(tmp_path / "tuned")
        tv.save(base + 0.5 * (tuned - base), tmp_path / "out")
        tv.save(tuned - base, tmp_path / "tau")
        tv.save(base + tv.ties(tuned - base, 0.5 * (tuned - base)), tmp_path / "ties")
        tv.compare([tuned], base=base)
    merged = type(model).from_pretrained(tmp_path / "out")
    assert merged.state_dict().keys() == model.state_dict().keys()
    name = next(name for name, spec in base.specs.items() if spec.arithmetic)
    assert torch.allclose(torch.tensor(tv.load(tmp_path / "out")[name]), torch.tensor((base[name] + tuned[name]) / 2))


@pytest.mark.parametrize("kind", MODELS)
def test_the_same_in_float8_is_plain(kind):
    state = MODELS[kind]().state_dict()
    floats = {n: t.is_floating_point() for n, t in state.items()}
    for matrices in (False, True):  # everything, or what is usual: vectors stay as they are
        eight = {
            n: f and (t.ndim > 1 or not matrices) for (n, t), f in zip(state.items(), floats.values(), strict=True)
        }
        kinds = {n: "F8_E4M3" if eight[n] else "BF16" if f else "I64" for n, f in floats.items()}
        assert not [*codes({n: Spec(tuple(t.shape), kinds[n]) for n, t in state.items()})]
