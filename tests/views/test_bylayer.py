"""What config.json says of single layers, after layers have moved. Whether transformers agrees: papers/."""

import math

import pytest

from taskvec.views.bylayer import Origin, explicit, moved


@pytest.mark.parametrize(
    ("table", "picks", "entries"),
    [
        ({"sliding_window_pattern": 2}, [1, 2], {"layer_types": ["full_attention", "sliding_attention"]}),
        ({"sliding_window_pattern": "LG"}, [1, 2], {"layer_types": ["full_attention", "sliding_attention"]}),
        ({"first_k_dense_replace": 2}, [0, 2, 3], {"first_k_dense_replace": 1}),
        ({"first_k_dense_replace": 0}, [2, 3], {"first_k_dense_replace": 0}),
        ({"mlp_only_layers": [1, 3], "decoder_sparse_step": 1}, [3, 0, 1], {"mlp_only_layers": [0, 2]}),
        ({"mlp_only_layers": [], "decoder_sparse_step": 2}, [1, 2], {"mlp_only_layers": [1], "decoder_sparse_step": 1}),
        ({"hybrid_override_pattern": "M-*M"}, [2, 2, 0], {"hybrid_override_pattern": "**M"}),
        ({"attention_types": [[["global", "local"], 2]]}, [1, 1], {"attention_types": [[["local", "local"], 1]]}),
        ({"per_layer_config": {"3": {"head_dim": 8}}}, [3, 0], {"per_layer_config": {"0": {"head_dim": 8}}}),
        ({"use_sliding_window": False, "max_window_layers": 4}, [1, 2], {}),
        ({"attn_layer_period": 2, "attn_layer_offset": 1}, [2, 3, 0, 1], {}),
        ({"moe_layer_freq": 1, "layer_norm_eps": 1e-5, "num_adapter_layers": 3}, [3, 1], {}),
        ({"scale_depth": 1.4}, [0, 1, 2, 3, 1, 2, 3, 0, 1], {"scale_depth": 1.4 * math.sqrt(9 / 4)}),
        ({"num_kv_shared_layers": 0}, [3, 1], {}),
    ],
)
def test_each_way_to_name_layers_is_rewritten_in_its_own(table, picks, entries):
    result, problems = moved([Origin(table, 4, layer) for layer in picks], table)
    assert (result, problems) == (entries, [])


@pytest.mark.parametrize(
    ("table", "picks", "problem"),
    [
        ({"first_k_dense_replace": 1}, [0, 1, 0], "layer 2 of the output is one of these behind others"),
        ({"attn_layer_period": 2}, [1, 2], "period of 2, and layer 0 of the output stood elsewhere in it, as layer 1"),
        ({"num_kv_shared_layers": 1}, [0, 1, 2], "binds each layer to its number or to the depth"),
        ({"model_type": "diffllama"}, [1, 2], "what a layer computes depends on its number"),
        ({"model_type": "gemma4_text"}, [0, 1], "the last layer of a gemma4_text must be one of full_attention"),
    ],
)
def test_what_cannot_be_said_is_named(table, picks, problem):
    (line,) = moved([Origin(table, 4, layer) for layer in picks], table)[1]
    assert problem in line


def test_models_that_say_the_same_in_other_words_can_stand_on_one_another():
    old, new = {"num_hidden_layers": 2}, {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
    result, problems = moved([Origin(t, 2, k) for t in (old, new) for k in range(2)], old)
    assert result == {"layer_types": ["full_attention"] * 4} and not problems
    windows = {"layer_types": ["sliding_attention", "full_attention"]}
    assert moved([Origin(t, 2, k) for t in ({"sliding_window": 4}, windows) for k in range(2)], {})[1]


def test_a_configuration_that_says_nothing_by_layer_gets_nothing():
    assert explicit({"model_type": "llama", "num_hidden_layers": 4, "rope_theta": 1e4}, 4) == {}
    assert moved([Origin({"model_type": "llama"}, 4, k) for k in (3, 1)], {}) == ({}, [])
