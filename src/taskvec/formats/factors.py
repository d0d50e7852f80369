"""Recognises adapters by the names of their tensors, whatever the file and its folder are called.

The file of an adapter holds factors whose product, or another function of them, is the change of a weight. Factors
cannot be summed one by one: the product of two averages is not the average of two products. So such a file is never
taken for a model. It is read as an adapter if its configuration is known, and otherwise refused with a way out.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

CONFIG = "adapter_config.json"
_TO_PEFT = (
    "convert it to PEFT's layout (many load it with diffusers or the program that made it and call save_pretrained), "
    "or merge it into a model with that program first"
)
_MERGE = "merge it into a model with the program that made it; that model minus its base is a task vector"


@dataclass(frozen=True, slots=True)
class Dialect:
    """A way to name the tensors of an adapter.

    parts: a regular expression for the telling part of a name, between dots. what: the kind of adapter that it is a
    sign of. way: what a user can do with one. paired: the part has two forms, one for each factor, and is a sign of an
    adapter only if a layer has both.
    """

    parts: str
    what: str
    way: str = _MERGE
    paired: bool = False


PEFT = Dialect(
    r"lora_(?:embedding_)?[AB]", "a LoRA in PEFT's layout (lora_A, lora_B)",
    f"{CONFIG}, which says how its factors are scaled, must lie beside it", paired=True,
)  # fmt: skip
DIALECTS = (
    PEFT,
    Dialect(r"lora_[ab]", "a LoRA in MLX's layout (lora_a, lora_b)", _TO_PEFT, paired=True),
    Dialect(r"(?:\w+_)?lora_(?:up|down)", "a LoRA in kohya's layout (lora_up, lora_down)", _TO_PEFT, paired=True),
    Dialect(
        r"(?:\w+_)?lora\.(?:up|down)", "a LoRA in diffusers' older layout (lora.up, lora.down)", _TO_PEFT, paired=True
    ),
    Dialect(r"lora_linear_layer\.(?:up|down)", "a LoRA in diffusers' oldest layout", _TO_PEFT, paired=True),
    Dialect(r"lora_(?:E|ranknum)", "an AdaLoRA"),
    Dialect(r"lora_magnitude_vector|dora_scale", "a DoRA"),
    Dialect(r"hada_[wt][12](?:_[ab])?", "a LoHa (products of factors, multiplied element by element)"),
    Dialect(r"lokr_[wt][12](?:_[ab])?", "a LoKr (Kronecker products of factors)"),
    Dialect(r"oft_(?:blocks|diag|R|r|s)|boft_[Rs]|hra_u", "an orthogonal adapter (OFT), which rotates weights"),
    Dialect(r"ia3_l|on_input", "an (IA)3 adapter, which scales activations"),
    Dialect(r"p?vera_(?:lambda_[bd]|A|B)|randlora_(?:lambda|gamma|A|B)", "a VeRA or RandLoRA, with shared factors"),
    Dialect(
        r"(?:fourierft|waveft)_spectrum|vblora_(?:logits_[AB]|vector_bank)|c3a_kernel|shira_weight|unilora_\w+|"
        r"tinylora_\w+",
        "an adapter with shared or transformed coefficients (FourierFT, VB-LoRA, C3A, SHiRA, ...)",
    ),
    Dialect(
        r"hira_[AB]|gralora_[AB]|delora_[AB]|delora_lambda|miss_block|bone_block|road_(?:theta|alpha)|lily_[AB]|"
        r"glora_\w+|adamss_\w+|psoft_\w+|osf_\w+|frod_\w+|deft_\w+|peanut_\w+|poly_lora_[AB]",
        "an adapter of another kind than a LoRA (HiRA, GraLoRA, DeLoRA, MiSS, RoAd, ...)",
    ),
    Dialect(r"trainable_tokens_(?:delta|original)", "rows of an embedding that were trained (trainable tokens)"),
)
# Signs of an adapter only if a file holds nothing else, since a model may have a parameter of such a name.
ALONE = (
    Dialect(r"diff|diff_b|set_weight|w_norm|b_norm", "differences of whole weights (LyCORIS' full and norm)"),
    Dialect(r"prompt_embeddings|adaption_prompt|adaption_gate", "a soft prompt"),
)
_BESIDE = r"alpha|scale|lora_mid|base_layer|rank"  # parts of names that stand beside factors and prove nothing


def _expression(parts: Iterable[str]) -> "re.Pattern[str]":
    return re.compile(rf"(?:^|\.)(?:{'|'.join(parts)})(?=\.|$)", re.MULTILINE)


_ANY = _expression(d.parts for d in DIALECTS)


@dataclass(frozen=True, slots=True)
class Factored:
    """What is known of a file with factors. example: the name of a factor. unmerged: the weights that the factors
    change are in the file, too. from_peft: it is then the state of a model of PEFT's whose adapter was not merged."""

    dialect: Dialect
    example: str
    unmerged: bool = False
    from_peft: bool = False


def factors_in(names: Collection[str]) -> Factored | None:
    """What the factors among the tensors of a file are. None if there are none, which means that it is a model.

    A file with factors and with the weights that they change (`unmerged`) is the state of a model whose adapter was not
    merged, or a model that has such factors as parameters of its own.
    """
    if not _ANY.search("\n".join(names)):
        return _alone(names)
    kinds = [(dialect, _expression([dialect.parts])) for dialect in DIALECTS]
    counts: Counter[Dialect] = Counter()
    example: dict[Dialect, str] = {}
    stems: dict[tuple[Dialect, str], set[str]] = {}
    marked = [name for name in names if _ANY.search(name)]
    for name in marked:
        for dialect, expression in kinds:
            if not (part := expression.search(name)):
                continue
            if dialect.paired:
                stem = name[: part.start()]
                sides = stems.setdefault((dialect, stem), set())
                sides.add(part[0][-1])  # A or B, u(p) or (dow)n
                if len(sides) < 2:
                    example.setdefault(dialect, name)
                    continue
            example.setdefault(dialect, name)
            counts[dialect] += 1
            break
    if not counts and len(marked) < len(names):
        return None
    if not counts:  # nothing but halves of pairs, such as a shard
        return Factored(next(iter(example)), marked[0])
    known = set(names)
    holders = {stem for (dialect, stem), sides in stems.items() if len(sides) > 1}
    unmerged = any(f"{stem}.weight" in known or f"{stem}.base_layer.weight" in known for stem in holders)
    dialect = next(d for d in reversed(DIALECTS) if counts[d])  # a DoRA has lora_A, too: the special one says more
    from_peft = unmerged and any("base_model.model." in name or ".default." in name for name in names)
    return Factored(dialect, example[dialect], unmerged, from_peft)


def _alone(names: Collection[str]) -> Factored | None:
    for dialect in ALONE:
        expression, beside = _expression([dialect.parts]), _expression([_BESIDE])
        marked = [name for name in names if expression.search(name)]
        if marked and all(expression.search(name) or beside.search(name) for name in names):
            return Factored(dialect, marked[0])
    return None
