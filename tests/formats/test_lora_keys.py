"""The names in an adapter's file: every spelling that has one meaning is read, every other is named in an error."""

import re

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import FormatError
from taskvec.formats.lora_keys import module_of, tensor_of

rng = np.random.default_rng(0)
PARTS = [f"model.layers.{k}.{part}" for k in range(2) for part in ("self_attn.q_proj", "mlp.up_proj")]
FACTORS = {
    f"base_model.model.{part}.lora_{side}.weight": rng.standard_normal(shape).astype("f4")
    for part in PARTS
    for side, shape in (("A", (2, 6)), ("B", (5, 2)))
}
SPELLINGS = {
    "torch.compile": lambda k: f"_orig_mod.{k}",
    "torch.compile of the base": lambda k: k.replace("base_model.model.", "base_model.model._orig_mod."),
    "DDP": lambda k: f"module.{k}",
    "DDP of torch.compile": lambda k: f"module._orig_mod.{k}",
    "FSDP": lambda k: k.replace(".mlp", "._fsdp_wrapped_module.mlp"),
    "FSDP, whole": lambda k: f"_fsdp_wrapped_module.{k}",
    "checkpointing": lambda k: k.replace("layers.0", "layers.0._checkpoint_wrapped_module"),
    "DeepSpeed": lambda k: f"_forward_module.{k}",
    "the adapter's name": lambda k: re.sub(r"lora_([AB])", r"lora_\1.default", k),
    "no prefix": lambda k: k.removeprefix("base_model.model."),
    "no .weight": lambda k: k.removesuffix(".weight"),
    "the wrapped layer's": lambda k: k.replace(".lora_", ".base_layer.lora_"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_other_programs_write_is_the_same_adapter(tmp_path, build, spelling):
    plain = tv.load(build.lora(tmp_path / "plain", FACTORS))
    other = tv.load(build.lora(tmp_path / "other", {SPELLINGS[spelling](k): v for k, v in FACTORS.items()}))
    assert set(other) == set(plain) == {f"{part}.weight" for part in PARTS}
    assert all(np.array_equal(other[name], plain[name]) for name in plain)


P = "base_model.model.w."
SQUARE, ONES = np.ones((2, 2), "f4"), {f"{P}lora_{side}.weight": np.ones((2, 2), "f4") for side in "AB"}
REFUSED = {
    "a factor twice": (ONES | {f"{P}lora_A": SQUARE}, "are the same factor of one module"),
    "twice under a wrapper": (ONES | {f"module.{P}lora_A.weight": SQUARE}, "are the same factor of one module"),
    "two adapters": (
        {f"{P}lora_{s}.{n}.weight": SQUARE for s in "AB" for n in ("default", "math")},
        "the file holds several adapters ('default', 'math')",
    ),
    "two adapters on one another": (
        ONES | {f"{P}base_layer.lora_{s}.weight": SQUARE for s in "AB"}, "adapters on top of one another lie nested"
    ),
    "another rank": ({k: np.ones((64, 64), "f4") for k in ONES}, "have the rank 64, and adapter_config.json says 2"),
    "no rows": ({k: np.ones((0, 2), "f4") for k in ONES}, "a shard that was not gathered"),
    "one axis": ({k: np.ones(4, "f4") for k in ONES}, "a shard that was not gathered"),
    "a convolution": ({k: np.ones((2, 2, 1, 1), "f4") for k in ONES}, "a convolution's factor: merge it into a model"),
    "a whole tensor": (ONES | {"base_model.model.head.weight": SQUARE}, "is no lora_A or lora_B but a whole"),
    "a bias of a factor": (ONES | {f"{P}lora_B.bias": np.ones(2, "f4")}, "a bias of a factor (lora_bias)"),
    "DoRA": (ONES | {f"{P}lora_magnitude_vector": np.ones(2, "f4")}, "the norms of DoRA"),
    "nothing": ({}, "it holds no factors at all"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_one_meaning_is_named(tmp_path, build, kind):
    content, says = REFUSED[kind]
    folder = build.lora(tmp_path / "lora", content)
    with pytest.raises(FormatError, match=re.escape(says)):
        tv.load(folder)


def test_everything_is_said_at_once_and_how_to_merge_it(tmp_path, build):
    content = ONES | {"a.lora_A": SQUARE, "b.weight": SQUARE, "c.lora_A": np.ones((2, 2, 1), "f4")}
    with pytest.raises(FormatError) as error:
        tv.load(build.lora(tmp_path / "lora", content))
    assert len(error.value.problems) == 4 and "merge_and_unload()" in error.value.problems[-1]


# ---- parameters that are no module's weight ------------------------------------------------------
def test_the_tensor_of_a_parameter_is_the_parameter():
    assert tensor_of("l.0.mlp.gate", ["mlp.gate.weight"], [], {}) == "l.0.mlp.gate.weight"
    assert tensor_of("l.0.mlp.gate", ["gate.scores"], None, {}) == "l.0.mlp.gate.scores"
    assert tensor_of("l.0.q_proj", ["mlp.gate.scores"], ["q_proj"], {}) == "l.0.q_proj.weight"
    assert tensor_of("l.0.mlp.gate", ["gate.scores", "gate.weight"], [], {}) is None  # which of both?
    assert tensor_of("l.0.mlp.gate", ["gate.scores"], ["gate"], {}) is None
    assert tensor_of("l.0.mlp.experts.base_layer", ["experts.down_proj"], [], {}) is None  # nested


def test_factors_of_stacked_experts_are_no_matrix(tmp_path, build):
    content = {f"{P}lora_A.weight": np.ones((8, 3), "f4"), f"{P}lora_B.weight": np.ones((5, 8), "f4")}
    folder = build.lora(tmp_path / "lora", content, target_parameters=["w.down_proj"], target_modules=[])
    with pytest.raises(FormatError, match=r"8 = 4 x 2 rows, those of 4 experts.*merge it into a model first"):
        tv.load(folder)


def test_the_module_is_what_stands_behind_the_prefix():
    assert module_of("base_model.model.base_model.model.w") == "base_model.model.w"
    assert module_of("llm.base_model.model.layers.0.q") == "llm.layers.0.q"  # an adapter of a part of the model
    assert module_of("module.layers.0.q") == "module.layers.0.q"  # may be the model's own name


def test_a_rank_of_a_pattern_counts_as_the_rank(tmp_path, build):
    folder = build.lora(tmp_path / "lora", FACTORS, r=7, rank_pattern={"q_proj": 2, r".*\.up_proj": 2}, lora_alpha=6)
    name = f"{PARTS[0]}.weight"
    a, b = (FACTORS[f"base_model.model.{PARTS[0]}.lora_{side}.weight"] for side in "AB")
    assert np.allclose(tv.load(folder)[name], 3 * b @ a, rtol=1e-5)
