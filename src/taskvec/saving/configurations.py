"""The differences between two config.json that change what is computed with the same tensors.

Two kinds of differences do not count: entries that have no influence on results (versions, dtypes, names, dropout), and
different ways in which versions of transformers write the same thing. transformers itself is not needed. Those of its
defaults that have turned out to matter are written down here.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from taskvec.sources.text import fits_any
from taskvec.views.settings import OF_TEXT

Entries = Mapping[str, Any]

# Keys of config.json, at any depth, that change what is computed with the same tensors.
COMPUTES = (
    "model_type", "*attention_heads", "*num_key_value_heads", "n_head", "n_heads", "num_heads", "num_kv_heads",
    "head_dim", "hidden_act", "*activation", "*activation_function", "*_act", "dense_act_fn", "feed_forward_proj",
    "eps", "*_eps", "*_epsilon", "tie_word_embeddings", "attention_window", "sliding_window*", "local_attention",
    "window_size", "layer_types", "no_rope_layers", "global_attn_every_n_layers", "attention_type", "attention_layers",
    "query_pre_attn_scalar", "*_multiplier", "logits_scaling", "logit_scale*", "*soft*cap*", "scale_emb",
    "scale_embedding", "scale_depth", "dim_model_base", "*routed_scaling_factor", "router_scaling_factor",
    "route_scale", "num_experts_per_tok*", "norm_topk_prob", "scoring_func", "topk_method", "n_group", "topk_group",
    "moe_topk", "moe_top_k", "moe_k", "index_topk", "swiglu_*", "clip_qkv", "use_qk_norm", "use_parallel_residual",
    "parallel_attn", "alibi", "alibi_bias_max", "softmax_scale", "position_embedding_type", "is_decoder", "causal",
    "use_bidirectional_attention", "do_layer_norm_before", "do_stable_layer_norm", "normalize_before",
    "apply_residual_connection_post_layernorm", "scale_attn_*", "attn_scale", "attn_temperature_tuning", "floor_scale",
    "vision_feature_layer", "vision_feature_select_strategy", "add_cross_attention", "full_attn_idxs",
    "sliding_window_pattern", "attention_chunk_size", "mlp_only_layers", "pooling_mode*", "time_step_limit",
    "time_step_min", "chunk_size", "token_dropout", "relative_attention_max_distance", "rotary_dim", "rope_interleave",
    "num_kv_shared_layers", "activation_sparsity_pattern",
)  # fmt: skip
OF_LOCAL = ("rope_local_base_freq", "local_rope_theta")  # the theta of layers with a sliding window
ROPE = ("rope_theta", "rotary_emb_base", "global_rope_theta", "rope_scaling", "rope_parameters", "rotary_pct",
        "partial_rotary_factor", *OF_LOCAL)  # fmt: skip
THETAS = ("rope_theta", "rotary_emb_base", "global_rope_theta")
THETA = 10_000.0  # the default of the architectures in WITH_THETA
WITH_THETA = ("llama", "mistral", "mixtral", "qwen2", "gemma", "gemma2", "phi", "phi3", "stablelm", "olmo", "gpt_neox")
# transformers 5 writes for these that the embeddings are tied, even if the model has a head of its own.
UNTOLD_TIES = ("t5", "mt5", "umt5")
TANH = "gelu_pytorch_tanh"
SAME_ACTIVATION = {"swish": "silu", "gelu_python": "gelu"}  # two names of one function
# If one of these keys is null, nothing is cut off. If the key is missing, some default may apply.
CUTS = ("sliding_window", "*soft*cap*", "clip_qkv", "attention_chunk_size", "swiglu_limit")
ROPELESS = ("llama4_text", "smollm3")  # by default every fourth layer of these has no rotation
AS_MANY = ("llama", "phi", "phi3", "olmo")  # by default these have as many heads for keys and values as for queries


def differing(ours: Entries, theirs: Entries, within: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, our value, their value) for every difference between two configurations that changes the computation.

    A key that only one of them has is no difference, since the default of the other is not known here. If one of them
    keeps the entries of the text model in an inner table and the other does not, the text models are compared.

    within: what stands before the keys, such as "vision_config.".
    """
    ours, theirs = _level(ours, theirs), _level(theirs, ours)
    for key in ours.keys() & theirs.keys():
        if isinstance(ours[key], dict) and isinstance(theirs[key], dict) and key not in ROPE and key.endswith("config"):
            yield from sorted(differing(ours[key], theirs[key], f"{within}{key}."))
    a, b = plainly(ours), plainly(theirs)
    for key in sorted(a.keys() & b.keys()):
        if a[key] != b[key]:
            yield f"{within}{key}", a[key], b[key]


def _level(table: Entries, other: Entries) -> Entries:
    """The table together with the entries of its inner table for the text model, if the other table has no such inner
    table."""
    inner: Entries = next((table[k] for k in OF_TEXT if isinstance(table.get(k), dict) and k not in other), {})
    kind = {"model_type": table["model_type"]} if "model_type" in table else {}
    return {**table, **inner, **kind}


def plainly(table: Entries) -> dict[str, Any]:
    """The entries of a table that change the computation, in one form for all versions of transformers."""
    entries = {key: _unlimited(value) for key, value in table.items() if fits_any(key, COMPUTES) and value is not None}
    entries |= {key: "none" for key, value in table.items() if fits_any(key, CUTS) and value is None}
    heads, width = table.get("num_attention_heads"), table.get("hidden_size")
    if table.get("model_type") in AS_MANY and type(heads) is int and type(width) is int and heads > 0:
        entries = {"num_key_value_heads": heads, "head_dim": width // heads} | entries
    if not table.get("use_sliding_window", not str(table.get("model_type")).startswith("qwen")):
        entries["sliding_window"] = "none"
    kinds = entries.get("layer_types")
    if isinstance(kinds, list) and "sliding_attention" not in kinds:
        entries.pop("sliding_window", None)
    if not entries.get("no_rope_layers") and ("no_rope_layers" in entries or table.get("model_type") in ROPELESS):
        entries |= _rotated(table)
    if table.get("model_type") in UNTOLD_TIES:
        entries.pop("tie_word_embeddings", None)
    entries |= {key: SAME_ACTIVATION.get(str(value), value) for key, value in entries.items() if "act" in key}
    if table.get("model_type") == "gemma":  # gelu means its tanh approximation here; hidden_activation has no effect
        entries.pop("hidden_activation", None)
        entries["hidden_act"] = TANH if entries.get("hidden_act", "gelu") == "gelu" else entries["hidden_act"]
    elif "hidden_activation" in entries:  # in Gemma 2 and 3, where hidden_act then has no effect
        entries.pop("hidden_act", None)
    return entries | rope(table)


def _unlimited(value: Any) -> Any:
    """The value, with infinity as a number: transformers 5 writes it as {"__float__": "Infinity"}."""
    if isinstance(value, list):
        return [_unlimited(v) for v in value]
    tagged = value.get("__float__") if isinstance(value, dict) and len(value) == 1 else value
    return float(tagged) if tagged in ("Infinity", "-Infinity") else value


def _rotated(table: Entries) -> dict[str, Any]:
    """The list that an empty or missing `no_rope_layers` stands for: 1 for each layer with a rotation, 0 for each
    without."""
    count, every = table.get("num_hidden_layers"), table.get("no_rope_layer_interval", 4)
    if type(count) is not int or type(every) is not int or every < 1:
        return {}
    return {"no_rope_layers": [int((layer + 1) % every != 0) for layer in range(count)]}


def rope(table: Entries) -> dict[str, Any]:
    """The rotary position embedding of a configuration, in one form: theta, and whatever deviates from the default."""
    if not any(table.get(key) is not None for key in ROPE):
        return {"rope_theta": THETA, "rope_scaling": "none"} if table.get("model_type") in WITH_THETA else {}
    given = table.get("rope_parameters")
    inner = {k: v for k, v in given.items() if isinstance(v, dict)} if isinstance(given, dict) else {}
    rotations: dict[str, Any] = {}
    if inner:
        for kind, entries in inner.items():
            rotations |= {_rope_key(kind, key): value for key, value in _rotation(entries, {}).items()}
    else:
        older = table.get("rope_scaling")
        rotations = _rotation(given if isinstance(given, dict) else older if isinstance(older, dict) else {}, table)
        for key in OF_LOCAL:
            if table.get(key) is not None:
                rotations["rope_theta of sliding_attention"] = _number(table[key])
    return rotations


def _rope_key(kind: str, key: str) -> str:
    return f"{key} of {kind}" if kind != "full_attention" else key


def _rotation(entries: Entries, table: Entries) -> dict[str, Any]:
    """One rotation: its own entries, and those of the whole table beside them. Entries that are not given, and have no
    default that is known here, are left out."""
    kind = entries.get("rope_type", entries.get("type", "default"))
    default = THETA if table.get("model_type") in WITH_THETA else None
    theta = next((t[k] for t in (entries, table) for k in THETAS if t.get(k) is not None), default)
    part = entries.get("partial_rotary_factor", table.get("partial_rotary_factor", table.get("rotary_pct")))
    rotation = {"rope_theta": _number(theta), "partial_rotary_factor": _number(part), "rope_scaling": "none"}
    rotation["mrope_section"] = _number(entries.get("mrope_section"))  # of Qwen, with the type mrope or default
    if kind not in (None, "default", "mrope"):
        within = {"original_max_position_embeddings": table.get("original_max_position_embeddings")} | dict(entries)
        rest = {k: _number(v) for k, v in sorted(within.items()) if v is not None and k not in ("type", *ROPE)}
        rotation["rope_scaling"] = {**rest, "rope_type": kind}
    return {key: value for key, value in rotation.items() if value is not None}


def _number(value: Any) -> Any:
    """The value with integers as floats, so that 10000 and 10000.0 are one text, too."""
    if isinstance(value, list):
        return [_number(v) for v in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
