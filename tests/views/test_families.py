"""Families whose symmetries are known: which one a model's names choose, and what is said of names that choose none."""

import json

import pytest

from taskvec.errors import FormatError, MismatchError
from taskvec.sources.source import Spec
from taskvec.views.families import SHIPPED, symmetry_of
from taskvec.views.symmetries import groups

ATTENTION, MLP = ("q", "k", "v", "o"), {"gate": (24, 8), "up": (24, 8), "down": (8, 24)}
LLAMA = {
    "model.embed_tokens.weight": (16, 8), "model.norm.weight": (8,), "lm_head.weight": (16, 8),
    **{f"model.layers.0.self_attn.{p}_proj.weight": (8, 8) for p in ATTENTION},
    **{f"model.layers.0.mlp.{p}_proj.weight": shape for p, shape in MLP.items()},
    **{f"model.layers.0.{p}_layernorm.weight": (8,) for p in ("input", "post_attention")},
}  # fmt: skip
GPT2 = {
    "wte.weight": (16, 8), "wpe.weight": (9, 8), "ln_f.weight": (8,), "h.0.ln_1.weight": (8,), "h.0.ln_2.weight": (8,),
    "h.0.attn.c_attn.weight": (8, 24), "h.0.attn.c_attn.bias": (24,), "h.0.attn.c_proj.weight": (8, 8),
    "h.0.mlp.c_fc.weight": (8, 32), "h.0.mlp.c_proj.weight": (32, 8),
}  # fmt: skip


def specs(shapes):
    return {name: Spec(shape, "F32") for name, shape in shapes.items()}


def test_the_names_of_a_model_s_tensors_choose_its_family():
    assert symmetry_of(specs(LLAMA)).name == "llama" and symmetry_of(specs(GPT2)).name == "gpt2"
    assert symmetry_of(specs({"fc1.weight": (3, 2), "fc2.weight": (4, 3)})).name == "stack"


def test_a_family_is_had_by_its_name_and_other_texts_are_files(tmp_path):
    assert [symmetry_of(specs(LLAMA), s.name) for s in SHIPPED] == [*SHIPPED]
    (tmp_path / "own.json").write_text(json.dumps({"g": [["w", 0]]}))
    assert [r.name for r in symmetry_of(specs(LLAMA), tmp_path / "own.json").rules] == ["g"]
    with pytest.raises(FormatError, match=r"nowhere\.json"):
        symmetry_of(specs(LLAMA), tmp_path / "nowhere.json")


def test_one_tensor_that_nobody_knows_or_a_missing_rule_makes_no_family():
    with pytest.raises(MismatchError, match=r"(?s)nearest of llama, bert, gpt2 is llama.*mlp\.expert\.w"):
        symmetry_of(specs(LLAMA | {"model.layers.0.mlp.expert.w": (8, 8)}))
    with pytest.raises(MismatchError, match="any of their layers"):
        symmetry_of(specs({name: shape for name, shape in LLAMA.items() if ".mlp." not in name}))


@pytest.mark.parametrize(("shapes", "queries"), [(LLAMA, 1), (GPT2, 3)], ids=["llama", "gpt2"])
def test_units_of_a_layer_and_of_the_residual_stream_are_those_of_the_shapes(shapes, queries):
    permuted = groups(symmetry_of(specs(shapes)), specs(shapes), {}, 4, True)
    units = {name.rsplit(".", 1)[-1]: group.units for name, group in permuted.items()}
    assert units == {"mlp": 32 if shapes is GPT2 else 24, "heads": 4, "residual": 8}
    heads = next(group for name, group in permuted.items() if name.endswith("heads"))
    assert max(parts for _, _, parts in heads.axes) == queries
