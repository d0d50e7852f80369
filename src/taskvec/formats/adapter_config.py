"""Reads adapter_config.json of a LoRA and checks every key that could make a weight change by more than scale * B @ A.

1. A key that is known to change the function is refused, with the reason.
2. A key that is known to change nothing is in HARMLESS.
3. An unknown key is refused unless it is switched off (null, false, 0 or empty). A newer PEFT writes a key for each of
   its features, and most of them are off.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from taskvec.errors import FormatError
from taskvec.formats.factors import CONFIG
from taskvec.formats.patterns import Patterns
from taskvec.notes import note
from taskvec.places.json_files import json_in
from taskvec.places.place import Readable

ATTENTION = ".base_layer.out_proj"  # in the name of the second pair of a torch.nn.MultiheadAttention
MERGE = "merge it into a model first"
HOW = (
    "to merge it into a model first, in Python: peft.PeftModel.from_pretrained(base, adapter).merge_and_unload()"
    ".save_pretrained(out); then out - base is its task vector"
)
SHOWN = 5  # examples in a message
LONGEST = 20_000_000  # bytes of a configuration
MOST_LAYERS = 100_000  # of a model with repeated layers
READ = ("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out", "bias",
        "init_lora_weights", "target_parameters", "layer_replication", "modules_to_save")  # fmt: skip
# Which model and modules, how it was trained and with what; numbers for features that have a switch of their own.
HARMLESS = (
    "auto_mapping", "base_model_name_or_path", "base_model_class", "parent_library", "revision", "inference_mode",
    "task_type", "peft_version", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "lora_dropout", "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "qalora_group_size", "runtime_config", "velora_config", "ensure_weight_tying", "merge_weights", "modules_to_tie",
    "target_modules_to_tie", "lora_dtype", "lorap_lr_ratio", "lorap_emb_lr", "unsloth_fixed", "model_type",
    "library_name",
)  # fmt: skip
CHANGES_THE_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")  # kinds of init_lora_weights
LEAVES_THE_BASE = ("gaussian", "eva", "orthogonal", "mica", "true", "false", "kaiming")
VARIANTS = {
    "use_dora": f"DoRA rescales the base's columns, which is no sum of weights: {MERGE}",
    "trainable_token_indices": "trainable_token_indices: rows of the embedding were trained, too, which the factors do "
    f"not hold: {MERGE}",
    **{
        key: f"{key} makes it more than B @ A: {MERGE}"
        for key in ("alora_invocation_tokens", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config",
                    "lora_bias", "arrow_config", "enable_lora", "use_merged_linear")
    },
}  # fmt: skip


def read_config(file: Readable, where: str) -> dict[str, Any]:
    """The table in a file. Raises FormatError about `where`, with every problem that the table has alone."""
    config = json_in(file, LONGEST, once=True)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        what = f"{kind!r}: {MERGE} ({HOW})" if kind else "missing" if isinstance(config, dict) else "not there"
        raise FormatError(f"{where} is no LoRA: peft_type must be LORA, and in {CONFIG} it is {what}")
    problems = [*_numbers(config), *_features(config)]
    if problems:
        raise cannot_be_read(where, problems)
    return config


def cannot_be_read(where: str, problems: list[str]) -> FormatError:
    """The error about an adapter that is no plain LoRA: its problems, and how to merge it if a problem says so."""
    more = [HOW] if any(MERGE in problem for problem in problems) else []
    return FormatError(f"{where} cannot be read as a task vector:", problems[:50] + more)


def _numbers(config: Mapping[str, Any]) -> list[str]:
    """What is wrong with r, lora_alpha and the tables of exceptions."""
    rank, alpha = config.get("r"), config.get("lora_alpha")
    problems = []
    if type(rank) is not int or rank < 1 or not (is_number(rank) and is_number(alpha)):
        problems.append(f"r and lora_alpha must be numbers, not {rank!r} and {alpha!r}"[:300])
    elif alpha == 0:
        problems.append(
            "lora_alpha is 0, so that the adapter changes nothing: its scale is lora_alpha / r. "
            f"Write into {CONFIG} what it was trained with (often r or 2 * r)"
        )
    for key, kind in (("rank_pattern", "whole"), ("alpha_pattern", "positive")):
        table = config.get(key) or {}
        if not isinstance(table, dict) or not all(is_number(v) and v > 0 for v in table.values()):
            problems.append(f"{key} must map patterns to positive numbers")
        elif kind == "whole" and not all(type(v) is int for v in table.values()):
            problems.append(f"{key} must map patterns to whole numbers")
        else:
            problems += _bad_patterns(key, table)
    return problems


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number which a float can hold."""
    try:
        return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(float(value))
    except OverflowError:
        return False


def _bad_patterns(key: str, table: Mapping[str, Any]) -> list[str]:
    problems = []
    for pattern in table:
        try:
            Patterns({pattern: 0})
        except ValueError as error:
            problems.append(f"{key}: {pattern[:200]!r} is no regular expression that can be used here: {error}")
    return problems


def _features(config: Mapping[str, Any]) -> list[str]:
    """The features that make the adapter more, or something else, than B @ A: a sentence for each."""
    problems = [reason for key, reason in VARIANTS.items() if config.get(key)]
    if config.get("bias", "none") not in ("none", None, False):
        problems.append(f"bias={config['bias']!r} holds biases, not differences of them: {MERGE}")
    if config.get("modules_to_save"):
        problems.append(f"modules_to_save={config['modules_to_save']} holds whole weights: {MERGE}")
    init = str(config.get("init_lora_weights", True)).lower()
    if init.startswith(CHANGES_THE_BASE):
        problems.append(f"init_lora_weights={init!r} took a part out of the base: convert it to a plain LoRA first")
    elif init.partition("_")[0] not in LEAVES_THE_BASE and config["init_lora_weights"]:
        problems.append(_unknown("init_lora_weights", config["init_lora_weights"]))
    problems += [f"{key} must be true or false" for key in ("use_rslora", "fan_in_fan_out") if _no_switch(config, key)]
    if (ranges := config.get("layer_replication")) and not _are_ranges(ranges):
        problems.append("layer_replication must be a list of [first, last + 1] pairs")
    if (targets := config.get("target_parameters")) and not _are_texts(targets):
        problems.append("target_parameters must be a list of names")
    known = {*READ, *VARIANTS, *HARMLESS}
    return problems + [_unknown(key, value) for key, value in config.items() if value and key not in known]


def _unknown(key: str, value: Any) -> str:
    return (
        f"{key}={str(value)[:100]!r} is unknown here and may change what the adapter computes: {MERGE}, or remove the "
        f"key from {CONFIG} if it changes nothing"
    )


def _no_switch(config: Mapping[str, Any], key: str) -> bool:
    return not isinstance(config.get(key, False), bool | None)


def _are_ranges(value: Any) -> bool:
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(v) is int for v in pair) and 0 <= pair[0] < pair[1]
        for pair in value
    ):
        return False
    return bool(sum(stop - start for start, stop in value) <= MOST_LAYERS)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


class Ranks:
    """The rank and the scale that the configuration gives to a module."""

    def __init__(self, config: Mapping[str, Any]):
        self._rank, self._alpha = config["r"], config["lora_alpha"]
        self._rooted = bool(config.get("use_rslora"))
        self._patterns = {key: Patterns(config.get(key) or {}) for key in ("rank_pattern", "alpha_pattern")}

    def of(self, module: str) -> tuple[int, float]:
        """(rank, scale): lora_alpha / r, or / sqrt(r) with rsLoRA, with the patterns' values where one fits.

        Raises ValueError if the patterns take too long to match.
        """
        rank: int = self._patterns["rank_pattern"].find(module, self._rank)
        alpha = self._patterns["alpha_pattern"].find(module, self._alpha)
        return rank, float(alpha / (math.sqrt(rank) if self._rooted else rank))

    def note_doubts(self, where: str) -> None:
        """Say which patterns no module takes, and for which modules the order of the patterns decides."""
        for key, patterns in self._patterns.items():
            if unused := sorted(patterns.unused):
                note(
                    f"{where}: {key} has patterns that no module of the adapter takes (none fits, or another fits "
                    f"first): {_quoted(unused)}"
                )
            if key == "alpha_pattern" and patterns.contested:  # a wrong rank would have been an error
                note(
                    f"{where}: {key} has several patterns with different values for {_quoted(patterns.contested)}; the "
                    "first counts, as when PEFT loads it, but PEFT sorts them when it saves, and it may have been "
                    "trained with another"
                )


def note_untargeted(where: str, config: Mapping[str, Any], tensors: Iterable[str]) -> None:
    """Note the factors of modules that the configuration does not name. PEFT leaves them out; here they are added."""
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not targets or config.get("target_parameters"):
        return
    if config.get("ensure_weight_tying"):  # the head is targeted with its embedding
        return
    ends = {target for target in targets if isinstance(target, str)}
    astray = [name.removesuffix(".weight") for name in tensors if not _is_named(name.removesuffix(".weight"), ends)]
    if astray:
        note(
            f"{where}: target_modules does not name {_quoted(astray)}, whose factors are in the file: they are added "
            "here, and PEFT leaves them out"
        )


def _is_named(module: str, ends: Collection[str]) -> bool:
    """Whether a module's name, or its end from a dot on, is among `ends`."""
    parts = module.split(".")
    return any(".".join(parts[k:]) in ends for k in range(len(parts))) or ATTENTION in module


def listed(texts: Sequence[str]) -> str:
    """The first of these texts, and how many more there are."""
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def _quoted(texts: Iterable[str]) -> str:
    return listed([repr(text) for text in texts])
