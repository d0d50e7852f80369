"""The symmetries of known families of models, by the names of their tensors, and the choice among them (SHIPPED)."""

import os
from collections.abc import Iterable, Mapping

from taskvec.errors import MismatchError
from taskvec.sources.source import Spec
from taskvec.views.symmetries import LAYER, Axis, Rule, Symmetry, fits_any, from_json, stack


def _rows(*modules: str) -> tuple[Axis, ...]:
    """The rows of the modules' matrices and biases."""
    return tuple(Axis(f"{m}.{leaf}", 0) for m in modules for leaf in ("weight", "bias"))


def _columns(*modules: str) -> tuple[Axis, ...]:
    """The columns of the modules' matrices."""
    return tuple(Axis(f"{m}.weight", 1) for m in modules)


_QKV = tuple(f"{LAYER}.self_attn.{p}_proj" for p in "qkv")
_UP = tuple(f"{LAYER}.mlp.{p}_proj" for p in ("gate", "up"))
LLAMA = Symmetry(
    "llama",
    (
        Rule(f"{LAYER}.mlp", (*_rows(*_UP), *_columns(f"{LAYER}.mlp.down_proj"))),
        Rule(
            f"{LAYER}.heads",
            (*_rows(*_QKV), *_columns(f"{LAYER}.self_attn.o_proj")),
            units=("num_key_value_heads", "num_attention_heads"),
            shared=tuple(f"{LAYER}.self_attn.{p}_norm.weight" for p in "qk"),
        ),
        Rule(
            "residual",
            (
                *_columns("*embed_tokens", *_QKV, *_UP, "lm_head", "score"),
                *_rows(f"{LAYER}.self_attn.o_proj", f"{LAYER}.mlp.down_proj"),
                *_rows(f"{LAYER}.*layernorm", "norm", "*.norm"),
            ),
            aside=(
                *(f"{m}.bias" for m in (*_QKV, *_UP, "lm_head")), f"{LAYER}.self_attn.[qk]_norm.weight", "*.inv_freq",
            ),
            optional=True,
        ),
    ),
    fixed=(
        "*embed_tokens.weight", f"{LAYER}.*layernorm.*", "norm.*", "*.norm.*", "lm_head.*", "score.*", "*.inv_freq",
        f"{LAYER}.self_attn.o_proj.bias", f"{LAYER}.mlp.down_proj.bias",
    ),
)  # fmt: skip

_SELF = tuple(f"{LAYER}.attention.self.{p}" for p in ("query", "key", "value"))
_TABLES = tuple(f"*embeddings.{p}_embeddings" for p in ("word", "position", "token_type"))
# These read the residual stream, and the head reads them: it is the embedding, so they have the units of the stream.
_MLM = ("*predictions.transform.dense", "lm_head.dense")
BERT = Symmetry(
    "bert",
    (
        Rule(f"{LAYER}.mlp", (*_rows(f"{LAYER}.intermediate.dense"), *_columns(f"{LAYER}.output.dense"))),
        Rule(
            f"{LAYER}.heads",
            (*_rows(*_SELF), *_columns(f"{LAYER}.attention.output.dense")),
            units=("num_attention_heads",),
        ),
        Rule(
            "residual",
            (
                *_columns(*_TABLES, *_SELF, f"{LAYER}.intermediate.dense", "*pooler.dense", *_MLM),
                *_columns("*predictions.decoder", "lm_head.decoder"),
                *_rows(f"{LAYER}.attention.output.dense", f"{LAYER}.output.dense", *_MLM),
                *_rows("*LayerNorm", "lm_head.layer_norm"),
            ),
            aside=(
                *(f"{m}.bias" for m in (*_SELF, f"{LAYER}.intermediate.dense", "*pooler.dense", "*decoder")),
                "*embeddings.*_ids", "*predictions.bias", "lm_head.bias", "cls.seq_relationship.*",
            ),
            optional=True,
        ),
    ),
    fixed=(
        "*embeddings.*", f"{LAYER}.*LayerNorm.*", f"{LAYER}.*output.dense.bias", "*pooler.*", "cls.*", "lm_head.*",
        "classifier.*", "qa_outputs.*",
    ),
)  # fmt: skip

GPT2 = Symmetry(  # its matrices are (in, out)
    "gpt2",
    (
        Rule(
            f"{LAYER}.mlp",
            (
                Axis(f"{LAYER}.mlp.c_fc.weight", 1), Axis(f"{LAYER}.mlp.c_fc.bias", 0),
                Axis(f"{LAYER}.mlp.c_proj.weight", 0),
            ),
        ),
        Rule(
            f"{LAYER}.heads",
            (
                Axis(f"{LAYER}.attn.c_attn.weight", 1, 3), Axis(f"{LAYER}.attn.c_attn.bias", 0, 3),
                Axis(f"{LAYER}.attn.c_proj.weight", 0),
            ),
            units=("n_head", "num_attention_heads"),
        ),
        Rule(
            "residual",
            (
                *_columns("*wte", "*wpe", f"{LAYER}.attn.c_proj", f"{LAYER}.mlp.c_proj", "lm_head", "score"),
                Axis(f"{LAYER}.attn.c_attn.weight", 0), Axis(f"{LAYER}.mlp.c_fc.weight", 0),
                *(Axis(f"{LAYER}.{m}.c_proj.bias", 0) for m in ("attn", "mlp")),
                *_rows(f"{LAYER}.ln_1", f"{LAYER}.ln_2", "*ln_f"),
            ),
            aside=tuple(f"{LAYER}.{p}" for p in ("attn.c_attn.bias", "mlp.c_fc.bias", "attn.bias", "attn.masked_bias")),
            optional=True,
        ),
    ),
    fixed=(
        "*wte.weight", "*wpe.weight", f"{LAYER}.ln_[12].*", "*ln_f.*", f"{LAYER}.*.c_proj.bias", f"{LAYER}.attn.bias",
        f"{LAYER}.attn.masked_bias", "lm_head.weight", "score.weight",
    ),
)  # fmt: skip
SHIPPED = (LLAMA, BERT, GPT2)


# ---- choosing ------------------------------------------------------------------------------------
def symmetry_of(specs: Mapping[str, Spec], wanted: "str | os.PathLike[str] | None" = None) -> Symmetry:
    """The symmetry named `wanted`, or in the JSON file `wanted`, or else the first that knows every tensor. Raises
    FormatError for a file that cannot be read, and MismatchError if no symmetry knows every tensor."""
    if wanted is not None:
        named = next((s for s in SHIPPED if s.name == wanted), None)
        return named or from_json(wanted)
    if known := next((s for s in SHIPPED if _knows(s, specs)), None) or stack(specs):
        return known
    strangers = {s.name: [n for n in specs if not _is_known(s, n)] for s in SHIPPED}
    nearest = min(strangers, key=lambda name: len(strangers[name]))
    raise MismatchError(
        f"no symmetry is known for tensors of these names: they are no plain stack of linear layers, and the nearest "
        f"of {', '.join(strangers)} is {nearest}. Say which axes move together in a JSON file (spec). {nearest} does "
        f"not know:",
        strangers[nearest][:20] or ["any of their layers"],
    )


def _knows(symmetry: Symmetry, specs: Iterable[str]) -> bool:
    """Whether every rule has tensors and every tensor is known to a rule: an unknown tensor may break a symmetry."""
    needed = [rule for rule in symmetry.rules if not rule.optional]
    fit = all(any(fits_any(rule.patterns, n) for n in specs) for rule in needed)
    return fit and all(_is_known(symmetry, n) for n in specs)


def _is_known(symmetry: Symmetry, name: str) -> bool:
    rules = [rule for rule in symmetry.rules if not rule.optional]
    return fits_any([*symmetry.fixed, *(p for r in rules for p in (*r.patterns, *r.shared))], name)
