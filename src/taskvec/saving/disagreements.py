"""Differences between the configurations, tokenizers and chat templates of models that are summed.

Only tensors are summed. All other files of an output are copied from one model, the donor, so that what the other
models say in these files is lost. And if two models compute differently with the same weights, their sum may do well in
neither way. Every such difference becomes a sentence for the user. configurations.py compares the entries of
config.json that change the computation.
"""

import filecmp
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from taskvec.algebra.derived import Derived
from taskvec.algebra.weights import Weights
from taskvec.errors import FormatError, TaskvecError
from taskvec.places.json_files import read_text
from taskvec.saving.configurations import Entries, differing
from taskvec.sources.abilities import FromFiles, folder_of, leaves_of
from taskvec.sources.source import Source
from taskvec.sources.text import fits_any
from taskvec.views.settings import merged, read_table
from taskvec.views.tokens import Tokenizer, read, template_of

SHOWN = 5  # differences that a sentence names

OF_LAYERS = (
    "layer_types", "no_rope_layers", "mlp_only_layers", "full_attn_idxs", "sliding_window_pattern", "scale_depth",
)  # fmt: skip
# View -> the keys of config.json that the view itself sets, so that a difference in them does no harm.
SETTLED = {
    "tie": ("tie_word_embeddings",), "untie": ("tie_word_embeddings",), "stack": OF_LAYERS, "take_layers": OF_LAYERS,
}  # fmt: skip
# Keys of a processor's configuration that change the input of a model.
PREPARES = (
    "do_*", "image_mean", "image_std", "size", "crop_size", "resample", "rescale_factor", "min_pixels", "max_pixels",
    "patch_size", "merge_size", "sampling_rate", "feature_size", "n_fft", "hop_length",
)  # fmt: skip
# Keys of generation_config.json that are compared elsewhere, or do not change the text that a model generates.
NOT_OF_GENERATION = (
    "*version*", "_*", "*_token_id", "use_cache", "output_*", "return_dict*", "max_length", "*cache*", "*compile*",
    "prefill_chunk_size", "*assistant*", "*lookup*", "*lookbehind", "max_matching_ngram_size", "speculation_type",
    "use_mtp", "low_memory", "trust_remote_code", "architectures", "model_type", "dtype", "torch_dtype",
)  # fmt: skip
# The defaults of `generate` in transformers for keys that generation_config.json does not have.
GENERATES = {
    "do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "min_length": 0,
    "num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "early_stopping": False, "length_penalty": 1.0,
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "diversity_penalty": 0.0, "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "renormalize_logits": False,
    "remove_invalid_values": False, "token_healing": False, "guidance_scale": 1.0,
}  # fmt: skip


def disagreements(weights: Weights, donor: Source | None, *, lost: bool = True, template: bool = True) -> list[str]:
    """A sentence for each kind of difference between the donor and each other source of an expression.

    lost: whether to tell what the other sources' files have and the donor's have not. A user who has named the donor
    knows this. template: whether to tell it of chat templates too. Sources that are not in a folder have no such files.
    """
    folder = folder_of(donor)
    if donor is None or folder is None:
        return []
    home = _name(next((leaf for leaf in leaves_of(donor) if folder_of(leaf) == folder), donor))
    settled = {key for call in _calls(weights) for key in SETTLED.get(call.name, ())}
    changes, tokenizer = (donor.config, donor.tokenizer) if isinstance(donor, Derived) else ({}, None)
    aligned = any(s.tokenizer for s in _calls(weights))
    sentences: list[str] = []
    for leaf in weights.mentioned:
        other = folder_of(leaf)
        if other is None or other == folder or not (leaf.mass or leaf.partial):
            continue
        name = _name(leaf)
        if leaf.mass:
            sentences += _computed(_configured(folder, changes), _configured(other, {}), home, name, settled)
            sentences += _prepared(folder, other, home, name)
        if not aligned:
            sentences += _vocabularies(folder, other, home, name)
        if lost and aligned:
            sentences += _lost_aligned(folder, other, home, name, tokenizer or Tokenizer(folder), template)
        elif lost:
            sentences += _lost(folder, other, home, name, leaf.partial, template)
    return sentences


def _name(source: Source) -> str:
    return source.uri if isinstance(source, FromFiles) else source.text


def _calls(weights: Weights) -> Iterator[Derived]:
    """Every call of a method or a view in an expression, each once."""
    todo = [s for s in weights.terms if isinstance(s, Derived)]
    known: set[Derived] = set()
    while todo:
        call = todo.pop()
        if call not in known:
            known.add(call)
            yield call
            todo += call.inner()


def _listed(pairs: Sequence[str]) -> str:
    more = f", and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
    return ", ".join(pairs[:SHOWN]) + more


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ---- config.json -----------------------------------------------------------------------------------------------------
def _configured(folder: Path, changes: Entries) -> Entries:
    return merged(read_table(folder / "config.json"), changes)


def _computed(ours: Entries, theirs: Entries, home: str, name: str, settled: set[str]) -> Iterator[str]:
    """A sentence with the differences between two config.json that change the computation, without `settled` keys."""
    differences = [(key, a, b) for key, a, b in differing(ours, theirs) if key.split(".")[-1] not in settled]
    pairs = [f"{key} {_short(b)}, not {_short(a)}" for key, a, b in differences]
    if pairs:
        yield (
            f"{name} computes differently from {home}, whose config.json the output has: {_listed(pairs)}; their "
            "weights are summed all the same"
        )


# ---- preparation -----------------------------------------------------------------------------------------------------
def _prepared(ours: Path, theirs: Path, home: str, name: str) -> Iterator[str]:
    """A sentence with the differences in how pictures and sound are prepared, and one for how sentence-transformers
    pools tokens."""
    for file in ("preprocessor_config.json", "1_Pooling/config.json"):
        a, b = _preparation(ours, file), _preparation(theirs, file)
        known = [k for k in sorted(a.keys() & b.keys()) if fits_any(k, (*PREPARES, "pooling_mode*"))]
        keys = [k for k in known if a[k] != b[k] and not (_is_edge(a[k], b[k]) or _is_edge(b[k], a[k]))]
        if pairs := [f"{key} {_short(b[key])}, not {_short(a[key])}" for key in keys]:
            yield f"{file} of {name} differs from that of {home}, which the output has: {_listed(pairs)}"


def _preparation(folder: Path, file: str) -> Entries:
    """The table of a file; or the inner table of processor_config.json that transformers 5 writes instead of it."""
    if (folder / file).is_file() or file != "preprocessor_config.json":
        return read_table(folder / file)
    both = read_table(folder / "processor_config.json")
    return next((t for k in ("image_processor", "feature_extractor") if isinstance(t := both.get(k), dict)), {})


def _is_edge(number: Any, sizes: Any) -> bool:
    """Whether older versions wrote this number for {"shortest_edge": number} or {"height": number, "width": number}."""
    return type(number) is int and isinstance(sizes, dict) and set(map(str, sizes.values())) == {str(number)}


# ---- tokenizers ------------------------------------------------------------------------------------------------------
def _vocabularies(ours: Path, theirs: Path, home: str, name: str) -> Iterator[str]:
    """A sentence about tokens that have other ids, or else about tokens that the output's tokenizer lacks."""
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
    """A sentence for each vocabulary file that differs, of kinds that are not read here."""
    for file in ("tokenizer.model", "tekken.json", "spiece.model", "sentencepiece.bpe.model"):
        a, b = ours / file, theirs / file
        if a.is_file() and b.is_file() and not filecmp.cmp(a, b, shallow=False):
            yield f"{file} of {name} differs from that of {home}, which the output has: ids may name other tokens"


def same_vocabulary(a: Path, b: Path) -> bool:
    """Whether two tokenizer.json certainly have the same vocabulary. False if that cannot be told.

    Their texts are compared. To parse a large vocabulary as JSON would take ten times its size in memory.
    """
    with suppress(TaskvecError, OSError, ValueError, RecursionError):
        if a.stat().st_size == b.stat().st_size and filecmp.cmp(a, b, shallow=False):
            return True
        parts_of_a, parts_of_b = _parts(read_text(a)), _parts(read_text(b))
        return parts_of_a is not None and parts_of_a == parts_of_b
    return False


def _parts(text: str) -> tuple[Any, str] | None:
    """The ids of the added tokens, and the text of the vocabulary; None if the text of this tokenizer.json is not laid
    out as the library tokenizers writes it."""
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
    """A sentence about what only the other model has: end tokens, a chat template, settings of generation."""
    missing = []
    a, b = (_eos(folder, partial) for folder in (ours, theirs))
    if b - a and a:
        missing.append(f"eos_token_id {_ids(b)}, not {_ids(a)}")
    missing += [*(_template(ours, theirs) if template else ()), *_generation(ours, theirs)]
    if missing:
        way = f"copy them from {name}" if partial else f"--like {name} takes all files of that"
        yield f"{name} has {_listed(missing)}; the output has the files of {home} ({way})"


def _lost_aligned(
    ours: Path, theirs: Path, home: str, name: str, tokenizer: Tokenizer, template: bool
) -> Iterator[str]:
    """The same sentence for models whose vocabularies are aligned. Ids change then, so tokens are compared by their
    texts."""
    missing = []
    endings = _ending(ours), _ending(theirs)
    with suppress(FormatError):  # a vocabulary that is not read here
        table = tokenizer.renumbered(endings[0], ours, "config.json") if all(endings) else {}
        ids = {number: token for token, number in tokenizer.table().ids.items()} if table else {}
        a = {ids[n] for n in _numbers(table) if n in ids}
        ids = {number: token for token, number in read(theirs).ids.items()} if a else {}
        b = {ids[n] for n in _numbers(endings[1]) if n in ids}
        if b - a and a:
            new, old = (", ".join(map(_short, sorted(tokens))) for tokens in (b - a, a))
            missing.append(f"the end token{'s' * (len(b - a) > 1)} {new}, not {old}")
    missing += [*(_template(tokenizer.folder, theirs) if template else ()), *_generation(ours, theirs)]
    if missing:
        yield (
            f"{name} has {_listed(missing)}, which the output has not: its settings are those of {home}, the first "
            "model of the sum, and its chat template is that of the first model in align_vocab (chat_template in a "
            "mergekit file sets another)"
        )


def _template(ours: Path, theirs: Path) -> Iterator[str]:
    """A chat template of theirs that is not ours."""
    a, b = template_of(ours), template_of(theirs)
    if b and a != b:
        yield "another chat template" if a else "a chat template"


def _generation(ours: Path, theirs: Path) -> Iterator[str]:
    """The settings in their generation_config.json that differ from ours, or from the defaults."""
    a, b = (read_table(folder / "generation_config.json") for folder in (ours, theirs))
    a = GENERATES | {key: value for key, value in a.items() if value is not None}
    keys = [k for k, v in b.items() if v not in (None, []) and a.get(k) != v and not fits_any(k, NOT_OF_GENERATION)]
    yield from (f"{key} {_short(b[key])} in generation_config.json" for key in keys)


def _eos(folder: Path, partial: bool) -> set[int]:
    """The ids of the tokens at which generation ends."""
    return _numbers(_ending(folder, partial))


def _ending(folder: Path, partial: bool = False) -> Entries:
    """The entry eos_token_id: that of generation_config.json or, if there is none, that of config.json. Only the first
    is looked at for a partial source."""
    for file in ("generation_config.json", *(() if partial else ("config.json",))):
        table = read_table(folder / file)
        inner = table.get("text_config")
        value = table.get("eos_token_id", inner.get("eos_token_id") if isinstance(inner, dict) else None)
        if value is not None:
            return {"eos_token_id": value}
    return {}


def _numbers(ending: Entries) -> set[int]:
    value = ending.get("eos_token_id")
    return {v for v in (value if isinstance(value, list) else [value]) if type(v) is int}


def _ids(ids: set[int]) -> str:
    return _short(sorted(ids) if len(ids) > 1 else next(iter(ids)))
