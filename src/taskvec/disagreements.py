"""What models that are summed say differently beside their weights: configurations, tokenizers, chat templates.

Only tensors are summed. All other files of an output are those of one model, the donor, so that what another model
says in them is lost; and where two models compute differently with the same weights, the sum may do neither well.
Every such difference becomes a sentence. Entries without influence on results (versions, dtypes, names, dropout) and
the ways in which versions of transformers write the same thing are no differences.
"""

import filecmp
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from taskvec.derived import Derived
from taskvec.errors import FormatError, TaskvecError
from taskvec.json_files import read_text
from taskvec.source import Source, leaves_of
from taskvec.views.settings import merged, read_table
from taskvec.views.tokens import read, template_of
from taskvec.weights import Weights

Entries = Mapping[str, Any]
SHOWN = 5  # differences that a sentence names

# Keys of config.json, at any depth, that change what is computed with the same tensors.
COMPUTES = (
    "model_type", "num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "num_heads", "num_kv_heads",
    "head_dim", "hidden_act", "hidden_activation", "activation_function", "activation", "*_hidden_act", "*_eps",
    "*_epsilon", "tie_word_embeddings", "attention_window", "sliding_window*", "layer_types", "no_rope_layers",
    "query_pre_attn_scalar", "*_multiplier", "logits_scaling", "logit_scale*", "*logit_softcapping", "scale_emb",
    "scale_depth", "dim_model_base", "routed_scaling_factor", "num_experts_per_tok", "norm_topk_prob", "scoring_func",
    "topk_method", "n_group", "topk_group", "clip_qkv", "use_qk_norm", "use_parallel_residual", "parallel_attn",
    "alibi", "position_embedding_type", "is_decoder", "use_bidirectional_attention", "do_layer_norm_before",
    "scale_attn_*", "vision_feature_layer", "vision_feature_select_strategy", "add_cross_attention", "full_attn_idxs",
    "sliding_window_pattern", "attention_chunk_size", "mlp_only_layers", "pooling_mode*", "time_step_*", "chunk_size",
)  # fmt: skip
OF_LAYERS = (
    "layer_types", "no_rope_layers", "mlp_only_layers", "full_attn_idxs", "sliding_window_pattern", "scale_depth",
)  # fmt: skip
# View -> the keys of which it makes sure that they fit.
SETTLED = {
    "tie": ("tie_word_embeddings",), "untie": ("tie_word_embeddings",), "stack": OF_LAYERS, "take_layers": OF_LAYERS,
}  # fmt: skip
ROPE = ("rope_theta", "rotary_emb_base", "rope_scaling", "rope_parameters", "rope_local_base_freq", "rotary_pct",
        "partial_rotary_factor")  # fmt: skip
THETA = 10_000.0  # where these architectures say nothing of it
WITH_THETA = ("llama", "mistral", "mixtral", "qwen2", "gemma", "gemma2", "phi", "phi3", "stablelm", "olmo", "gpt_neox")
UNTOLD_TIES = (
    "t5",
    "mt5",
    "umt5",
)  # transformers 5 writes that they are tied, also where they have a head of their own
SAME_ACTIVATION = {"swish": "silu", "gelu_python": "gelu"}  # two names of one function
AS_MANY = ("llama", "phi", "phi3", "olmo")  # which have as many heads for keys and values, if they say nothing of it
# Keys of a processor's configuration that change what a model is given.
PREPARES = (
    "do_*", "image_mean", "image_std", "size", "crop_size", "resample", "rescale_factor", "min_pixels", "max_pixels",
    "patch_size", "merge_size", "sampling_rate", "feature_size", "n_fft", "hop_length",
)  # fmt: skip
# Keys of generation_config.json that are said elsewhere, or say nothing.
NOT_OF_GENERATION = ("*version*", "_*", "*_token_id", "use_cache", "output_*", "return_dict*", "max_length")


def disagreements(weights: Weights, donor: Source | None, *, lost: bool = True, template: bool = True) -> list[str]:
    """A sentence for each kind of difference between the donor and each other source of an expression.

    lost: whether to tell what the other sources' files have and the donor's have not, which is no news to one who named
    the donor; template: whether to tell it of chat templates. Sources without a folder say nothing.
    """
    folder = getattr(donor, "folder", None)
    if donor is None or folder is None:
        return []
    home = _name(next((leaf for leaf in leaves_of(donor) if getattr(leaf, "folder", None) == folder), donor))
    made = {key for call in _calls(weights) for key in SETTLED.get(call.name, ())}
    changes = donor.config if isinstance(donor, Derived) else {}
    aligned = any(s.tokenizer for s in _calls(weights))
    found: list[str] = []
    for leaf in weights.mentioned:
        other = getattr(leaf, "folder", None)
        if other is None or other == folder or not (leaf.mass or leaf.partial):
            continue
        name = _name(leaf)
        if leaf.mass:
            found += _computed(_configured(folder, changes), _configured(other, {}), home, name, made)
            found += _prepared(folder, other, home, name)
        if not aligned:
            found += _vocabularies(folder, other, home, name)
        if lost and not aligned:
            found += _lost(folder, other, home, name, leaf.partial, template)
    return found


def _name(source: Source) -> str:
    return str(getattr(source, "uri", source.text))


def _calls(weights: Weights) -> Iterator[Derived]:
    todo = [s for s in weights.terms if isinstance(s, Derived)]
    known: set[Derived] = set()
    while todo:
        call = todo.pop()
        if call not in known:
            known.add(call)
            yield call
            todo += call.inner()


def _fits(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _listed(pairs: Sequence[str]) -> str:
    more = f", and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
    return ", ".join(pairs[:SHOWN]) + more


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---- config.json -----------------------------------------------------------------------------------------------------
def _configured(folder: Path, changes: Entries) -> Entries:
    return merged(read_table(folder / "config.json"), changes)


def _computed(ours: Entries, theirs: Entries, home: str, name: str, made: set[str]) -> Iterator[str]:
    """What config.json says of the computation."""
    pairs = [
        f"{key} {_short(b)}, not {_short(a)}" for key, a, b in differing(ours, theirs) if key.split(".")[-1] not in made
    ]
    if pairs:
        yield (
            f"{name} computes otherwise than {home}, whose config.json the output has: {_listed(pairs)}; their weights "
            "are summed all the same"
        )


def differing(ours: Entries, theirs: Entries, within: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, our value, their value) of what two configurations say differently of the computation.

    A key that one of them lacks is no difference, since its default is not known here.
    """
    for key in ours.keys() & theirs.keys():
        if isinstance(ours[key], dict) and isinstance(theirs[key], dict) and key not in ROPE and key.endswith("config"):
            yield from sorted(differing(ours[key], theirs[key], f"{within}{key}."))
    a, b = plainly(ours), plainly(theirs)
    for key in sorted(a.keys() & b.keys()):
        if a[key] != b[key]:
            yield f"{within}{key}", a[key], b[key]


def plainly(table: Entries) -> dict[str, Any]:
    """What a table says of the computation, the same for all versions of transformers that wrote it."""
    found = {key: value for key, value in table.items() if _fits(key, COMPUTES) and value is not None}
    heads, width = table.get("num_attention_heads"), table.get("hidden_size")
    if table.get("model_type") in AS_MANY and type(heads) is int and type(width) is int and heads > 0:
        found = {"num_key_value_heads": heads, "head_dim": width // heads} | found
    if table.get("use_sliding_window") is False or "layer_types" in table:
        found.pop("sliding_window", None)
    kinds = found.get("layer_types")
    if not isinstance(kinds, list) or len({str(kind) for kind in kinds}) <= 1:
        found.pop("layer_types", None)
    if table.get("model_type") in UNTOLD_TIES:
        found.pop("tie_word_embeddings", None)
    found |= {key: SAME_ACTIVATION.get(str(value), value) for key, value in found.items() if "act" in key}
    if "hidden_activation" in found:  # Gemma's hidden_act has no effect beside it
        found.pop("hidden_act", None)
    return found | rope(table)


def rope(table: Entries) -> dict[str, Any]:
    """The rotation of positions, as entries of one form: theta, and what else is not as always."""
    if not any(table.get(key) is not None for key in ROPE):
        return {"rope_theta": THETA, "rope_scaling": "none"} if table.get("model_type") in WITH_THETA else {}
    given = table.get("rope_parameters")
    inner = {k: v for k, v in given.items() if isinstance(v, dict)} if isinstance(given, dict) else {}
    found: dict[str, Any] = {}
    if inner:
        for kind, entries in inner.items():
            found |= {_rope_key(kind, key): value for key, value in _turned(entries, {}).items()}
    else:
        older = table.get("rope_scaling")
        found = _turned(given if isinstance(given, dict) else older if isinstance(older, dict) else {}, table)
        if table.get("rope_local_base_freq") is not None:
            found["rope_theta of sliding_attention"] = _number(table["rope_local_base_freq"])
    return found


def _rope_key(kind: str, key: str) -> str:
    return f"{key} of {kind}" if kind != "full_attention" else key


def _turned(entries: Entries, table: Entries) -> dict[str, Any]:
    """One rotation; what is not said, and has no default that is known here, is left out."""
    kind = entries.get("rope_type", entries.get("type", "default"))
    always = THETA if table.get("model_type") in WITH_THETA else None
    theta = entries.get("rope_theta", table.get("rope_theta", table.get("rotary_emb_base", always)))
    part = entries.get("partial_rotary_factor", table.get("partial_rotary_factor", table.get("rotary_pct")))
    found = {"rope_theta": _number(theta), "partial_rotary_factor": _number(part), "rope_scaling": "none"}
    if kind not in (None, "default"):
        within = {"original_max_position_embeddings": table.get("original_max_position_embeddings")} | dict(entries)
        rest = {k: _number(v) for k, v in sorted(within.items()) if v is not None and k not in ("type", *ROPE)}
        found["rope_scaling"] = {**rest, "rope_type": kind}
    return {key: value for key, value in found.items() if value is not None}


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(v) for v in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


# ---- preparation -----------------------------------------------------------------------------------------------------
def _prepared(ours: Path, theirs: Path, home: str, name: str) -> Iterator[str]:
    """What processors say of pictures and sound, and what sentence-transformers says of pooling."""
    for file in ("preprocessor_config.json", "1_Pooling/config.json"):
        a, b = read_table(ours / file), read_table(theirs / file)
        keys = [k for k in sorted(a.keys() & b.keys()) if _fits(k, (*PREPARES, "pooling_mode*")) and a[k] != b[k]]
        if pairs := [f"{key} {_short(b[key])}, not {_short(a[key])}" for key in keys]:
            yield f"{file} of {name} differs from that of {home}, which the output has: {_listed(pairs)}"


# ---- tokenizers ------------------------------------------------------------------------------------------------------
def _vocabularies(ours: Path, theirs: Path, home: str, name: str) -> Iterator[str]:
    """Tokens with other ids, and tokens that the output's tokenizer has not."""
    if same_vocabulary(ours / "tokenizer.json", theirs / "tokenizer.json"):
        return
    try:
        a, b = read(ours), read(theirs)
    except FormatError:
        yield from _other_models(ours, theirs, home, name)
        return
    moved = [f"{_short(t)} {b.ids[t]}, not {n}" for t, n in a.ids.items() if t in b.ids and b.ids[t] != n]
    if moved:
        yield (
            f"{len(moved)} tokens have other ids in {name} than in {home}, whose tokenizer the output has ("
            f"{_listed(moved)}): the rows of their embeddings belong to other tokens; align_vocab brings them together"
        )
    new = [_short(t) for t in b.ids if t not in a.ids]
    if new and not moved:
        yield (
            f"{len(new)} tokens of {name} are not in the tokenizer of {home}, which the output has ({_listed(new)}): "
            "align_vocab adds them"
        )


def _other_models(ours: Path, theirs: Path, home: str, name: str) -> Iterator[str]:
    """Vocabularies that are not read here: equal or not."""
    for file in ("tokenizer.model", "tekken.json", "spiece.model", "sentencepiece.bpe.model"):
        a, b = ours / file, theirs / file
        if a.is_file() and b.is_file() and not filecmp.cmp(a, b, shallow=False):
            yield f"{file} of {name} differs from that of {home}, which the output has: ids may name other tokens"


def same_vocabulary(a: Path, b: Path) -> bool:
    """Whether two tokenizer.json have the same vocabulary for certain, told without reading all of it as JSON, for
    which large ones need ten times their size of memory. False also where that cannot be told."""
    with suppress(TaskvecError, OSError, ValueError, RecursionError):
        if a.stat().st_size == b.stat().st_size and filecmp.cmp(a, b, shallow=False):
            return True
        one, two = _parts(read_text(a)), _parts(read_text(b))
        return one is not None and one == two
    return False


def _parts(text: str) -> tuple[Any, str] | None:
    """The added tokens and the text of the vocabulary, of a tokenizer.json as the library tokenizers writes it."""
    head, model, tail = text.partition('\n  "model": {')
    begin = tail.find('\n    "vocab": ')
    ends = [at for end in ("\n    }", "\n    ]") if (at := tail.find(end, begin + 1)) > 0]
    if not model or begin < 0 or not ends:
        return None
    added = json.loads(head.rstrip().rstrip(",") + "}").get("added_tokens")
    ids = {e["content"]: e["id"] for e in added or [] if isinstance(e, dict)}
    return ids, tail[begin : min(ends)]


# ---- what only the other model has -----------------------------------------------------------------------------------
def _lost(ours: Path, theirs: Path, home: str, name: str, partial: bool, template: bool) -> Iterator[str]:
    """How generation ends, is sampled and is asked for."""
    found = []
    a, b = (_eos(folder, partial) for folder in (ours, theirs))
    if b - a and a:
        found.append(f"eos_token_id {_ids(b)}, not {_ids(a)}")
    one, two = template_of(ours), template_of(theirs)
    if two and one != two and template:
        found.append("another chat template" if one else "a chat template")
    g, h = (read_table(folder / "generation_config.json") for folder in (ours, theirs))
    keys = [k for k, v in h.items() if v is not None and g.get(k) != v and not _fits(k, NOT_OF_GENERATION)]
    found += [f"{key} {_short(h[key])} in generation_config.json" for key in keys]
    if found:
        way = f"copy them from {name}" if partial else f"--like {name} takes all files of that"
        yield f"{name} has {_listed(found)}; the output has the files of {home} ({way})"


def _eos(folder: Path, partial: bool) -> set[int]:
    """The ids of the tokens at which generation ends."""
    for file in ("generation_config.json", "config.json"):
        table = read_table(folder / file)
        inner = table.get("text_config")
        value = table.get("eos_token_id", inner.get("eos_token_id") if isinstance(inner, dict) else None)
        if value is not None and not (partial and file == "config.json"):
            return {v for v in (value if isinstance(value, list) else [value]) if type(v) is int}
    return set()


def _ids(found: set[int]) -> str:
    return _short(sorted(found) if len(found) > 1 else next(iter(found)))
