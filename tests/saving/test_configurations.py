"""What two config.json say differently of what is computed, and what is no difference, whoever wrote them."""

import json
import math
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from transformers import AutoConfig

from taskvec.saving.configurations import differing

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "vocab_size": 99,
}
LLAMA = SIZES | {"model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5}
# config.json as the hub has them, written by older versions of transformers.
HUB = {
    "llama 2": LLAMA | {"rope_scaling": None, "torch_dtype": "float16", "pretraining_tp": 1},
    "llama 3.1": LLAMA | {
        "num_key_value_heads": 2, "rope_theta": 500000.0, "rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
    },
    "mistral": LLAMA | {"model_type": "mistral", "num_key_value_heads": 2, "rope_theta": 1e4, "sliding_window": 4096},
    "qwen 2.5": LLAMA | {
        "model_type": "qwen2", "num_key_value_heads": 2, "rope_theta": 1e6, "sliding_window": 32768,
        "use_sliding_window": False, "max_window_layers": 28, "tie_word_embeddings": True,
    },
    "gemma": LLAMA | {"model_type": "gemma", "hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh",
                      "head_dim": 16},
    "gemma 2": LLAMA | {
        "model_type": "gemma2", "hidden_activation": "gelu_pytorch_tanh", "head_dim": 16, "rope_theta": 1e4,
        "query_pre_attn_scalar": 256, "sliding_window": 4096, "final_logit_softcapping": 30.0,
    },
    "gemma 3": SIZES | {
        "model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", "head_dim": 16, "rope_theta": 1000000,
        "rope_local_base_freq": 10000, "rope_scaling": None, "sliding_window": 512, "sliding_window_pattern": 6,
    },
    "gemma 3 with pictures": {
        "model_type": "gemma3", "text_config": SIZES | {
            "model_type": "gemma3_text", "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
        }, "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 64, "num_attention_heads": 4},
    },
    "phi 3": LLAMA | {
        "model_type": "phi3", "num_key_value_heads": 4, "original_max_position_embeddings": 4096, "pad_token_id": 0,
        "rope_scaling": {"short_factor": [1.0] * 8, "long_factor": [1.1] * 8, "type": "longrope"},
    },
    "pythia": SIZES | {"model_type": "gpt_neox", "rotary_emb_base": 10000, "rotary_pct": 0.25, "hidden_act": "gelu"},
    "gpt 2": {"model_type": "gpt2", "activation_function": "gelu_new", "n_embd": 64, "n_head": 4, "n_layer": 2},
    "deepseek 3": LLAMA | {
        "model_type": "deepseek_v3", "num_key_value_heads": 4, "rope_theta": 10000, "routed_scaling_factor": 2.5,
        "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "type": "yarn",
                         "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096},
    },
    "stablelm": LLAMA | {"model_type": "stablelm", "partial_rotary_factor": 0.25, "rope_theta": 10000},
    "qwen 2.5 with pictures": LLAMA | {
        "model_type": "qwen2_5_vl", "num_key_value_heads": 2, "rope_theta": 1e6, "use_sliding_window": False,
        "sliding_window": 32768, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": {"depth": 2, "num_heads": 2, "hidden_size": 64, "window_size": 112},
    },
    "modernbert": SIZES | {
        "model_type": "modernbert", "global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "local_attention": 128,
        "hidden_activation": "gelu", "norm_eps": 1e-5, "global_attn_every_n_layers": 3,
    },
    "gpt oss": LLAMA | {
        "model_type": "gpt_oss", "num_key_value_heads": 2, "head_dim": 16, "swiglu_limit": 7.0, "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 2, "rope_theta": 150000, "num_experts_per_tok": 2,
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 32,
                         "beta_slow": 1, "truncate": False},
    },
    "llama 4": {"model_type": "llama4", "text_config": LLAMA | {"model_type": "llama4_text", "no_rope_layers": []}},
    "mamba 2": {"model_type": "mamba2", "hidden_size": 64, "num_heads": 8, "head_dim": 16, "time_step_rank": "auto",
                "time_step_limit": [0.0, math.inf]},
    "bart": {"model_type": "bart", "encoder_attention_heads": 4, "decoder_attention_heads": 4, "d_model": 64,
             "scale_embedding": True, "normalize_before": False},
    "bert": SIZES | {"model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12},
    "clip": {"model_type": "clip", "text_config": {"hidden_act": "quick_gelu"}, "vision_config": {"image_size": 64}},
}  # fmt: skip


@pytest.mark.parametrize("name", HUB)
def test_a_fine_tune_that_a_newer_transformers_wrote_says_the_same(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(HUB[name]))
    AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path / "new")
    new = json.loads((tmp_path / "new/config.json").read_text())
    assert new != HUB[name] and list(differing(HUB[name], new)) == []


IDLE = {
    "transformers_version": "5.0", "torch_dtype": "float32", "dtype": "float32", "_name_or_path": "x",
    "use_cache": False,
    "architectures": ["LlamaForSequenceClassification"], "attention_dropout": 0.1, "initializer_range": 0.5,
    "id2label": {"0": "a"}, "max_position_embeddings": 9, "pad_token_id": 3, "unsloth_version": "1",
    "_attn_implementation": "eager", "attention_bias": False, "mlp_bias": False, "rope_scaling": None,
    "num_key_value_heads": 4, "head_dim": 16, "rope_theta": 10000,
}  # fmt: skip


@pytest.mark.parametrize("key", IDLE)
def test_an_entry_that_changes_no_result_is_no_difference(key):
    assert list(differing(LLAMA, LLAMA | {key: IDLE[key]})) == []


GEMMA, MAMBA = SIZES | {"model_type": "gemma"}, SIZES | {"model_type": "mamba2"}
LLAMA_4, QWEN = SIZES | {"model_type": "llama4_text"}, LLAMA | {"model_type": "qwen2"}
ALIKE = {
    "Gemma's gelu is the approximation": (GEMMA | {"hidden_act": "gelu"}, GEMMA | {"hidden_act": "gelu_pytorch_tanh"}),
    "Gemma's other key is not read": (
        GEMMA | {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": None},
        GEMMA | {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"},
    ),
    "Infinity has two forms": (
        MAMBA | {"time_step_limit": [0.0, math.inf]}, MAMBA | {"time_step_limit": [0, {"__float__": "Infinity"}]},
    ),
    "the rank is one of shapes": (MAMBA | {"time_step_rank": "auto"}, MAMBA | {"time_step_rank": 4}),
    "an empty list is the usual one": (LLAMA_4 | {"no_rope_layers": []}, LLAMA_4 | {"no_rope_layers": [1, 1, 1, 0]}),
    "a window that is not used": (
        QWEN | {"sliding_window": 4096, "use_sliding_window": False}, QWEN | {"sliding_window": None},
    ),
}  # fmt: skip
APART = {
    "hidden_act": (GEMMA | {"hidden_act": "relu"}, GEMMA | {"hidden_act": "gelu"}),
    "time_step_limit": (MAMBA | {"time_step_limit": [0.0, math.inf]}, MAMBA | {"time_step_limit": [0.0, 0.1]}),
    "no_rope_layers": (LLAMA_4, LLAMA_4 | {"no_rope_layers": [1, 1, 1, 1]}),
    "sliding_window": (
        QWEN | {"sliding_window": 4096, "use_sliding_window": True}, QWEN | {"sliding_window": None},
    ),
    "final_logit_softcapping": (
        LLAMA | {"final_logit_softcapping": None}, LLAMA | {"final_logit_softcapping": 30.0},
    ),
    "layer_types": (LLAMA | {"layer_types": ["a", "a"]}, LLAMA | {"layer_types": ["a", "b"]}),
    "encoder_attention_heads": ({"encoder_attention_heads": 8}, {"encoder_attention_heads": 4}),
    "do_stable_layer_norm": ({"do_stable_layer_norm": True}, {"do_stable_layer_norm": False}),
    "scale_embedding": ({"scale_embedding": True}, {"scale_embedding": False}),
    "local_attention": ({"local_attention": 128}, {"local_attention": 64}),
}  # fmt: skip


TOLD = {
    "qwen 2.5 with pictures": {"rope_theta": 1e4, "rms_norm_eps": 1e-6, "num_key_value_heads": 4},
    "modernbert": {"global_rope_theta": 1e4, "local_rope_theta": 2e4, "local_attention": 64},
    "gpt oss": {"swiglu_limit": 5.0, "sliding_window": 64, "rope_theta": 1e4},
    "mamba 2": {"time_step_limit": [0.0, 0.1]},
    "bart": {"encoder_attention_heads": 2, "scale_embedding": False},
    "mistral": {"sliding_window": None, "rope_theta": 1e6},
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, changes in TOLD.items() for key in changes])
def test_a_difference_is_told_through_the_forms_of_two_versions(tmp_path, name, key):
    (tmp_path / "config.json").write_text(json.dumps(HUB[name] | {key: TOLD[name][key]}))
    AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path / "new")
    assert list(differing(HUB[name], json.loads((tmp_path / "new/config.json").read_text())))


@pytest.mark.parametrize("case", ALIKE)
def test_what_transformers_computes_alike_is_no_difference(case):
    assert list(differing(*ALIKE[case])) == []


@pytest.mark.parametrize("key", APART)
def test_what_it_computes_otherwise_is(key):
    assert [name for name, _, _ in differing(*APART[key])] == [key]


ACTIVE = {
    "rope_theta": 500000.0, "hidden_act": "gelu", "rms_norm_eps": 1e-6, "num_attention_heads": 8,
    "num_key_value_heads": 2, "model_type": "mistral", "rope_scaling": {"type": "linear", "factor": 2.0},
    "head_dim": 8,
}  # fmt: skip


@pytest.mark.parametrize("key", ACTIVE)
def test_an_entry_that_changes_results_is(key):
    assert key in [name for name, _, _ in differing(LLAMA, LLAMA | {key: ACTIVE[key]})]
    inner = {"text_config": LLAMA}, {"text_config": LLAMA | {key: ACTIVE[key]}}
    assert f"text_config.{key}" in [name for name, _, _ in differing(*inner)]


@pytest.mark.parametrize(
    ("key", "one", "two"),
    [("tie_word_embeddings", True, False), ("sliding_window", 4096, 1024), ("final_logit_softcapping", 30.0, 50.0),
     ("layer_types", ["a", "b"], ["b", "a"]), ("num_experts_per_tok", 2, 4), ("routed_scaling_factor", 1.0, 2.5),
     ("layer_norm_epsilon", 1e-5, 1e-6), ("query_pre_attn_scalar", 256, 128), ("no_rope_layers", [0, 1], [1, 1])],
)  # fmt: skip
def test_so_is_one_that_both_have(key, one, two):
    assert list(differing(LLAMA | {key: one}, LLAMA | {key: two})) == [(key, one, two)]
    assert list(differing(LLAMA | {key: one}, LLAMA)) == []
