"""What models that are summed say differently beside their weights: configurations, tokenizers, chat templates.

Only tensors are summed. All other files of an output are those of one model, the donor, so that what another model
says in them is lost; and where two models compute differently with the same weights, the sum may do neither well.
Every such difference becomes a sentence; what config.json says of the computation is compared in configurations.py.
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
# View -> the keys of which it makes sure that they fit.
SETTLED = {
    "tie": ("tie_word_embeddings",), "untie": ("tie_word_embeddings",), "stack": OF_LAYERS, "take_layers": OF_LAYERS,
}  # fmt: skip
# Keys of a processor's configuration that change what a model is given.
PREPARES = (
    "do_*", "image_mean", "image_std", "size", "crop_size", "resample", "rescale_factor", "min_pixels", "max_pixels",
    "patch_size", "merge_size", "sampling_rate", "feature_size", "n_fft", "hop_length",
)  # fmt: skip
# Keys of generation_config.json that are said elsewhere, or change no text: how fast it comes, and what is told of it.
NOT_OF_GENERATION = (
    "*version*", "_*", "*_token_id", "use_cache", "output_*", "return_dict*", "max_length", "*cache*", "*compile*",
    "prefill_chunk_size", "*assistant*", "*lookup*", "*lookbehind", "max_matching_ngram_size", "speculation_type",
    "use_mtp", "low_memory", "trust_remote_code", "architectures", "model_type", "dtype", "torch_dtype",
)  # fmt: skip
# What `generate` of transformers does where generation_config.json says nothing.
GENERATES = {
    "do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "min_length": 0,
    "num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "early_stopping": False, "length_penalty": 1.0,
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "diversity_penalty": 0.0, "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "renormalize_logits": False,
    "remove_invalid_values": False, "token_healing": False, "guidance_scale": 1.0,
}  # fmt: skip


def disagreements(weights: Weights, donor: Source | None, *, lost: bool = True, template: bool = True) -> list[str]:
    """A sentence for each kind of difference between the donor and each other source of an expression.

    lost: whether to tell what the other sources' files have and the donor's have not, which is no news to one who named
    the donor; template: whether to tell it of chat templates. Sources without a folder say nothing.
    """
    folder = folder_of(donor)
    if donor is None or folder is None:
        return []
    home = _name(next((leaf for leaf in leaves_of(donor) if folder_of(leaf) == folder), donor))
    made = {key for call in _calls(weights) for key in SETTLED.get(call.name, ())}
    changes, tokenizer = (donor.config, donor.tokenizer) if isinstance(donor, Derived) else ({}, None)
    aligned = any(s.tokenizer for s in _calls(weights))
    found: list[str] = []
    for leaf in weights.mentioned:
        other = folder_of(leaf)
        if other is None or other == folder or not (leaf.mass or leaf.partial):
            continue
        name = _name(leaf)
        if leaf.mass:
            found += _computed(_configured(folder, changes), _configured(other, {}), home, name, made)
            found += _prepared(folder, other, home, name)
        if not aligned:
            found += _vocabularies(folder, other, home, name)
        if lost and aligned:
            found += _lost_aligned(folder, other, home, name, tokenizer or Tokenizer(folder), template)
        elif lost:
            found += _lost(folder, other, home, name, leaf.partial, template)
    return found


def _name(source: Source) -> str:
    return source.uri if isinstance(source, FromFiles) else source.text


def _calls(weights: Weights) -> Iterator[Derived]:
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


# ---- preparation -----------------------------------------------------------------------------------------------------
def _prepared(ours: Path, theirs: Path, home: str, name: str) -> Iterator[str]:
    """What processors say of pictures and sound, and what sentence-transformers says of pooling."""
    for file in ("preprocessor_config.json", "1_Pooling/config.json"):
        a, b = _preparation(ours, file), _preparation(theirs, file)
        known = [k for k in sorted(a.keys() & b.keys()) if fits_any(k, (*PREPARES, "pooling_mode*"))]
        keys = [k for k in known if a[k] != b[k] and not (_is_edge(a[k], b[k]) or _is_edge(b[k], a[k]))]
        if pairs := [f"{key} {_short(b[key])}, not {_short(a[key])}" for key in keys]:
            yield f"{file} of {name} differs from that of {home}, which the output has: {_listed(pairs)}"


def _preparation(folder: Path, file: str) -> Entries:
    """A file's table, or the one that transformers 5 writes into processor_config.json instead."""
    if (folder / file).is_file() or file != "preprocessor_config.json":
        return read_table(folder / file)
    both = read_table(folder / "processor_config.json")
    return next((t for k in ("image_processor", "feature_extractor") if isinstance(t := both.get(k), dict)), {})


def _is_edge(number: Any, sizes: Any) -> bool:
    """Whether a number is how older versions wrote {"shortest_edge": number} or {"height": number, "width": number}."""
    return type(number) is int and isinstance(sizes, dict) and set(map(str, sizes.values())) == {str(number)}


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
    found += [*(_template(ours, theirs) if template else ()), *_generation(ours, theirs)]
    if found:
        way = f"copy them from {name}" if partial else f"--like {name} takes all files of that"
        yield f"{name} has {_listed(found)}; the output has the files of {home} ({way})"


def _lost_aligned(
    ours: Path, theirs: Path, home: str, name: str, tokenizer: Tokenizer, template: bool
) -> Iterator[str]:
    """The same where vocabularies were aligned: ids are other ones then, so that tokens are compared by their texts."""
    found = []
    endings = _ending(ours), _ending(theirs)
    with suppress(FormatError):  # a vocabulary that is not read here
        table = tokenizer.renumbered(endings[0], ours, "config.json") if all(endings) else {}
        ids = {number: token for token, number in tokenizer.table().ids.items()} if table else {}
        a = {ids[n] for n in _numbers(table) if n in ids}
        ids = {number: token for token, number in read(theirs).ids.items()} if a else {}
        b = {ids[n] for n in _numbers(endings[1]) if n in ids}
        if b - a and a:
            new, old = (", ".join(map(_short, sorted(tokens))) for tokens in (b - a, a))
            found.append(f"the end token{'s' * (len(b - a) > 1)} {new}, not {old}")
    found += [*(_template(tokenizer.folder, theirs) if template else ()), *_generation(ours, theirs)]
    if found:
        yield (
            f"{name} has {_listed(found)}, which the output has not: its settings are those of the first model of the "
            f"sum, {home}, its chat template is that of the first one in align_vocab (chat_template in a mergekit file "
            "sets another)"
        )


def _template(ours: Path, theirs: Path) -> Iterator[str]:
    """The chat template."""
    one, two = template_of(ours), template_of(theirs)
    if two and one != two:
        yield "another chat template" if one else "a chat template"


def _generation(ours: Path, theirs: Path) -> Iterator[str]:
    """The settings of generation_config.json."""
    g, h = (read_table(folder / "generation_config.json") for folder in (ours, theirs))
    g = GENERATES | {key: value for key, value in g.items() if value is not None}
    keys = [k for k, v in h.items() if v not in (None, []) and g.get(k) != v and not fits_any(k, NOT_OF_GENERATION)]
    yield from (f"{key} {_short(h[key])} in generation_config.json" for key in keys)


def _eos(folder: Path, partial: bool) -> set[int]:
    """The ids of the tokens at which generation ends."""
    return _numbers(_ending(folder, partial))


def _ending(folder: Path, partial: bool = False) -> Entries:
    """The entry eos_token_id that counts: that of generation_config.json before that of config.json."""
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


def _ids(found: set[int]) -> str:
    return _short(sorted(found) if len(found) > 1 else next(iter(found)))
