"""How the configurations of architectures whose layers differ say so, and what they mean if they do not say it.

The tables follow transformers 5, and models on the hub that bring their own code. views/bylayer.py uses them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"

# ---- lists with one value a layer, and lists of numbers of layers --------------------------------------------------
# Patterns of keys whose lists have nothing to do with layers, and of keys whose lists hold the numbers of layers.
NOT_BY_LAYER = ("architectures", "*_token_id", "*_token_ids", "*_token_index", "*_words_ids", "auto_map")
NUMBERS = (
    "mlp_only_layers", "moe_layers", "cross_attention_layers", "rope_scaling_layers", "*full_attn_idxs",
    "*attn_layer_ind*", "*hybrid_layer_ids", "*local_layer_ids", "*window_block_ind*", "*global_attn_indexes",
)  # fmt: skip

# ---- counts of layers at the beginning -----------------------------------------------------------------------------
LEADING = ("first_k_dense_replace", "num_dense_layers", "max_window_layers")
# Architectures whose loaders take `mlp_layer_types`, with the number of dense layers that they begin with by default.
DENSE: Mapping[str, int] = MappingProxyType(
    {
        "axk1": 1, "axk2": 1, "bailing_hybrid": 2, "beam": 3, "deepseek_v32": 3, "dots3_note_text": 1,
        "ernie4_5_vl_moe_text": 1, "exaone_moe": 1, "glm4_moe_lite": 1, "glm5_next_text": 3, "glm_moe_dsa": 3,
        "hy_v3": 1, "hy_v4": 1, "hy_v4_vl_text": 1, "kimi_linear": 1, "laguna": 1, "mimo_v2_flash": 1,
        "mistral_large4_text": 1, "step3p5": 3, "unlimited_ocr_text": 1,
    }
)  # fmt: skip

# ---- periods -------------------------------------------------------------------------------------------------------
# Key -> what the last layer of each period is, and what the others are.
PERIODS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "sliding_window_pattern": (FULL, SLIDING), "_sliding_window_pattern": (FULL, SLIDING),
        "full_attention_interval": (FULL, LINEAR), "layer_group_size": (FULL, LINEAR),
        "global_attn_every_n_layers": (FULL, SLIDING),
    }
)  # fmt: skip
# Architectures whose last layer gets full attention from a loader, whatever the configuration says.
ENDING_FULL = (
    "gemma4_text", "gemma4_unified_text", "embedding_gemma2_text", "diffusion_gemma_text",
)  # fmt: skip
# Architecture -> keys that it needs, with the values that it takes if the configuration lacks them.
UNSAID: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "jamba": {"attn_layer_period": 8, "expert_layer_period": 2},
        "recurrent_gemma": {"block_types": ["recurrent", "recurrent", "attention"]},
        "gemma3n_text": {"hidden_size_per_layer_input": 256},
        "sapiens2": {"num_last_full_attention_layers": 8},
    }
)
# Architectures in which `global_attn_every_n_layers` means the first layer of each period, not the last.
FIRST_OF_PERIOD = ("modernbert", "modernbert-decoder")
LETTERS = {"L": SLIDING, "G": FULL}  # of EXAONE's sliding_window_pattern: "LLLG"
_EVERY_2ND, _EVERY_4TH = (SLIDING, FULL), (*[SLIDING] * 3, FULL)
_EVERY_5TH, _EVERY_6TH = (*[SLIDING] * 4, FULL), (*[SLIDING] * 5, FULL)
_LINEAR_4, _HYBRID_6 = (*[LINEAR] * 3, FULL), (*["hybrid_sliding"] * 5, "hybrid")
# Architecture -> the period of `layer_types` where config.json says nothing of it.
OWN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "gemma2": _EVERY_2ND, "vaultgemma": _EVERY_2ND, "gpt_oss": _EVERY_2ND, "t5_gemma_module": _EVERY_2ND,
        "cohere2": _EVERY_4TH, "olmo3": _EVERY_4TH, "exaone4": _EVERY_4TH, "exaone_moe": _EVERY_4TH,
        "afmoe": _EVERY_4TH, "gemma3n_text": _EVERY_5TH, "kolibri1": _EVERY_5TH, "gemma3": _EVERY_6TH,
        "gemma3_text": _EVERY_6TH, "t5gemma2_text": _EVERY_6TH, "t5gemma2_decoder": _EVERY_6TH,
        "gemma4_text": _EVERY_6TH, "gemma4_unified_text": _EVERY_6TH, "embedding_gemma2_text": _EVERY_6TH,
        "diffusion_gemma_text": _EVERY_6TH, "qwen3_next": _LINEAR_4, "qwen3_5_text": _LINEAR_4,
        "qwen3_5_moe_text": _LINEAR_4, "olmo_hybrid": _LINEAR_4, "bailing_hybrid": (*[LINEAR] * 5, FULL),
        "cwm": (FULL, *[SLIDING] * 3), "granite_swa": (FULL, *[SLIDING] * 3), "granitemoe_swa": (FULL, *[SLIDING] * 3),
        "modernbert": (FULL, SLIDING, SLIDING), "modernbert-decoder": (FULL, SLIDING, SLIDING),
        "ultrabert": (SLIDING, SLIDING, FULL), "minimax": (FULL, LINEAR), "inkling_text": _HYBRID_6,
        "inkling2_text": _HYBRID_6, "inkling2_loop_text": _HYBRID_6,
        "lara_mini": (LINEAR, SLIDING, LINEAR, FULL, SLIDING),
        "glm5_next_text": (*[LINEAR] * 3, "indexed_attention"), "qwen4_exp_text": (*[LINEAR] * 3, "indexed_attention"),
    }
)  # fmt: skip
STEP = "decoder_sparse_step"
WITHOUT_ROPE = {"smollm3": 4, "llama4_text": 4, "mistral_large4_text": 4}  # the default of `no_rope_layer_interval`
# A key that fits a pattern of both may hold a period that no table above knows: `attn_layer_period`, `moe_layer_freq`.
OF_PERIODS = ("*interval*", "*period*", "*pattern*", "*every*", "*_freq", "*frequency", "*_step")
OF_LAYERS = ("*layer*", "*att*", "*sparse*", "*moe*", "*rope*", "*window*", "*global*", "*expert*", "*dense*")

# Keys of periods that have no effect if there is a list: key -> the list.
SAID_BY: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(PERIODS, "layer_types")
    | {
        "no_rope_layer_interval": "no_rope_layers",
        "interleave_moe_layer_step": "moe_layers",
        "_block_types": "block_types",
    }
)

# ---- what holds only if the layers stand as they did -------------------------------------------------------------
# Keys that make a layer depend on its number, unless their value is 0 or false.
BOUND = (
    "num_kv_shared_layers", "hidden_size_per_layer_input", "scale_attn_by_inverse_layer_idx", "kv_source_layers",
    "num_last_full_attention_layers",
)  # fmt: skip
# Architectures in which a layer depends on its number: in any case (None), or unless this list names the layers' kinds.
BY_NUMBER: Mapping[str, str | None] = MappingProxyType(
    {
        "diffllama": None, "minimax": None, "dory": None,
        "beam": "layer_types", "zamba": "layers_block_type", "kimi_linear": "layer_types",
        "mimo_v2_flash": "layer_types", "flint": "layer_types", "dots3_note_text": None,
        "deepseek_v4": "layer_types", "lfm3": "layer_types", "lfm3_vl_vision": "layer_types",
        "cohere2_moe": "layer_types", "neomme": "layer_types", "muse_glimmer_text": "layer_types",
        "muse_spark_text": "layer_types", "muse_glimmer_vision": "layer_types", "muse_spark_vision": "layer_types",
        "hy_v4": "indexer_types", "hy_v4_vl_text": "indexer_types",
    }
)  # fmt: skip
# Keys and architectures of both tables that do not matter if the layers are the first ones of a model, since they keep
# their numbers.
FROM_THE_START = (
    "scale_attn_by_inverse_layer_idx", "diffllama", "kimi_linear", "mimo_v2_flash", "dots3_note_text", "deepseek_v4",
    "hy_v4", "hy_v4_vl_text",
)  # fmt: skip
