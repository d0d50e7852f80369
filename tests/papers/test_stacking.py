"""Frankenmerges, heads and vocabularies as transformers loads them: against modules put together by hand."""

import json
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import taskvec as tv

VOCAB, LAYERS = 50, 4
INPUT = torch.arange(24).reshape(2, 12) % 40


def llama(tied=False, **other):
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=LAYERS, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=tied, **other,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def qwen():
    config = Qwen2Config(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=LAYERS, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
        layer_types=["full_attention", "sliding_attention"] * 2, use_sliding_window=True, sliding_window=4,
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=LAYERS, n_head=2, n_positions=64))


def write(folder, make, seed=0, **options):
    torch.manual_seed(seed)
    module = make(**options).to(torch.bfloat16).eval()
    with torch.no_grad():  # norms and biases other than 1 and 0
        for tensor in module.parameters():
            tensor.add_(0.05 * torch.randn_like(tensor))
    return reloaded(module, folder)


def reloaded(module, folder):
    """As transformers saves and loads it: buffers that are computed are so again."""
    module.save_pretrained(folder)
    return loaded(folder)


def logits(module):
    with torch.no_grad():
        return module.eval()(INPUT).logits


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


PARTS = [(0, 3), (1, 4), (2, 3)]


@pytest.mark.parametrize(("make", "layers"), [(llama, "model.layers"), (qwen, "model.layers"), (gpt2, "transformer.h")])
def test_a_model_piled_on_itself_loads_and_computes_what_the_module_with_those_layers_does(tmp_path, make, layers):
    module = write(tmp_path / "m", make)
    m = tv.load(tmp_path / "m")
    tv.save(tv.stack(*(tv.take_layers(m, *part) for part in PARTS)), tmp_path / "deep")
    deep = loaded(tmp_path / "deep")
    whole = [layer for a, b in PARTS for layer in range(a, b)]
    assert deep.dtype == torch.bfloat16 and deep.config.num_hidden_layers == len(whole)
    old = module.get_submodule(layers)
    new = deep.get_submodule(layers)
    assert len(new) == len(whole)
    for k, layer in enumerate(whole):
        one, two = old[layer].state_dict(), new[k].state_dict()
        assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)
    by_hand = type(module)(type(deep.config).from_dict(deep.config.to_dict())).to(torch.bfloat16)
    state = {n: t for n, t in module.state_dict().items() if not n.startswith(layers)}
    for k, layer in enumerate(whole):
        state |= {f"{layers}.{k}.{n}": t for n, t in old[layer].state_dict().items()}
    by_hand.load_state_dict(state)
    assert torch.equal(logits(reloaded(by_hand, tmp_path / "eager")), logits(deep))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("deep", "eager"))
    assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)
    if make is qwen:
        kinds = module.config.layer_types
        assert deep.config.layer_types == [kinds[layer] for layer in whole]
    assert (tmp_path / "deep/generation_config.json").is_file()


def test_the_first_layers_of_a_model_are_a_model(tmp_path):
    module = write(tmp_path / "m", llama)
    tv.save(tv.take_layers(tv.load(tmp_path / "m"), 0, 2), tmp_path / "out")
    module.model.layers = module.model.layers[:2]
    module.config.num_hidden_layers = 2
    assert torch.equal(logits(loaded(tmp_path / "out")), logits(module))


def test_two_models_in_turn_have_the_embedding_of_the_first_and_the_head_of_the_last(tmp_path):
    a, b = (write(tmp_path / name, llama, seed) for seed, name in enumerate("ab"))
    tv.save(tv.stack(tv.load(tmp_path / "a"), tv.load(tmp_path / "b")), tmp_path / "out")
    module = loaded(tmp_path / "out")
    by_hand = llama()
    by_hand.model.embed_tokens, by_hand.model.norm, by_hand.lm_head = a.model.embed_tokens, b.model.norm, b.lm_head
    by_hand.model.layers = torch.nn.ModuleList([*a.model.layers, *b.model.layers])
    by_hand.config.num_hidden_layers = 2 * LAYERS
    assert torch.equal(logits(module), logits(reloaded(by_hand.to(torch.bfloat16), tmp_path / "eager")))


def test_an_untied_model_loads_and_its_head_can_differ(tmp_path):
    module = write(tmp_path / "tied", llama, tied=True)
    tied = tv.load(tmp_path / "tied")
    tv.save(tv.untie(tied), tmp_path / "untied")
    untied = loaded(tmp_path / "untied")
    assert untied.config.tie_word_embeddings is False
    assert untied.lm_head.weight.data_ptr() != untied.model.embed_tokens.weight.data_ptr()
    assert torch.equal(logits(untied), logits(module))
    other = write(tmp_path / "other", llama, 1)
    half = 0.5 * tv.untie(tied) + 0.5 * tv.load(tmp_path / "other")
    tv.save(half, tmp_path / "half")
    mean = 0.5 * module.lm_head.weight.float() + 0.5 * other.lm_head.weight.float()
    assert torch.equal(loaded(tmp_path / "half").lm_head.weight, mean.bfloat16())
    tv.save(tv.tie(tv.load(tmp_path / "untied")), tmp_path / "again")
    again = loaded(tmp_path / "again")
    assert again.config.tie_word_embeddings and torch.equal(logits(again), logits(module))
    assert "lm_head.weight" not in load_file(tmp_path / "again/model.safetensors")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("size", [41, 64])
def test_a_resized_model_loads_and_the_other_tokens_have_the_same_logits(tmp_path, size, tied):
    module = write(tmp_path / "m", llama, tied=tied)
    tv.save(tv.resize_vocab(tv.load(tmp_path / "m"), size, fill="mean"), tmp_path / "out")
    resized = loaded(tmp_path / "out")
    assert resized.config.vocab_size == size and resized.lm_head.weight.shape == (size, 16)
    n = min(size, VOCAB)
    assert torch.equal(resized.lm_head.weight[:n], module.lm_head.weight[:n])
    torch.testing.assert_close(logits(resized)[..., :n], logits(module)[..., :n])


def test_a_live_module_is_set_to_a_view(tmp_path):
    module = write(tmp_path / "m", llama)
    module.config.num_hidden_layers = 2
    small = LlamaForCausalLM(module.config).to(torch.bfloat16)
    tv.load_into(small, tv.take_layers(tv.load(tmp_path / "m"), 1, 3))
    for k in range(2):
        for name, tensor in small.model.layers[k].state_dict().items():
            assert torch.equal(tensor, module.model.layers[k + 1].state_dict()[name])


def test_entries_of_models_with_several_parts_are_set_where_they_stand(tmp_path):
    tensors = {f"model.language_model.layers.{k}.w": torch.full((2,), float(k)) for k in range(3)}
    tensors |= {f"model.visual.blocks.{k}.w": torch.full((2,), float(k)) for k in range(3)}
    tensors |= {"model.language_model.embed_tokens.weight": torch.ones(4, 2)}
    from safetensors.torch import save_file

    (tmp_path / "m").mkdir()
    save_file(tensors, tmp_path / "m/model.safetensors")
    text = {"num_hidden_layers": 3, "vocab_size": 4, "layer_types": ["a", "b", "c"], "bos_token_id": [0, 1, 2]}
    config = {
        "text_config": text,
        "vision_config": {"depth": 3, "kinds": [7, 8, 9]}, "architectures": ["x", "y", "z"],
    }  # fmt: skip
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    m = tv.load(tmp_path / "m")
    less = tv.take_layers(tv.pad_vocab(m, 3), 1, 3, stack="model.language_model.layers")
    tv.save(tv.take_layers(tv.untie(less), 0, 1, stack="model.visual.blocks"), tmp_path / "out")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written == {
        "text_config": text | {"num_hidden_layers": 2, "vocab_size": 6, "layer_types": ["b", "c"]},
        "vision_config": {"depth": 1, "kinds": [7]}, "architectures": ["x", "y", "z"], "tie_word_embeddings": False,
    }  # fmt: skip
