"""Layers taken and piled up, against dicts that are taken apart and put together by hand."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import taskvec as tv
from small_llamas import CONFIG, EMBEDDING, HEAD, LAYERS, content, parsed, refused, same, saved, write
from taskvec.errors import MassError, MismatchError, RecipeError
from taskvec.views.layers import before_the_layers


def cut(tensors, start, stop):
    kept = {}
    for name, tensor in tensors.items():
        at = re.match(r"model\.layers\.(\d+)\.(.*)", name)
        if not at:
            kept[name] = tensor
        elif start <= int(at[1]) < stop:
            kept[f"model.layers.{int(at[1]) - start}.{at[2]}"] = tensor
    return kept


def piled(*parts):
    pile, offset = {}, 0
    for part in parts:
        layers = {name: int(at[1]) for name in part if (at := re.match(r"model\.layers\.(\d+)\.", name))}
        for name, layer in layers.items():
            pile[name.replace(f".{layer}.", f".{layer + offset}.", 1)] = part[name]
        offset += max(layers.values()) + 1
    outside = {name: t for name, t in parts[-1].items() if ".layers." not in name}
    return pile | outside | {EMBEDDING: parts[0][EMBEDDING]} | {"model.positions": parts[0]["model.positions"]}


RANGES = st.integers(0, LAYERS - 1).flatmap(lambda a: st.tuples(st.just(a), st.integers(a + 1, LAYERS)))


QUIET = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUIET
@given(parts=st.lists(st.tuples(st.sampled_from(["base", "math", "code"]), RANGES), min_size=1, max_size=4))
def test_any_pile_of_any_parts_is_the_dict_put_together_by_hand(home, models, tmp_path_factory, parts):
    w = tv.stack(*(tv.take_layers(models[name], *bounds) for name, bounds in parts))
    eager = piled(*(cut(load_file(home / name / "model.safetensors"), *bounds) for name, bounds in parts))
    folder = tmp_path_factory.mktemp("pile") / "out"
    assert same(saved(w, folder), eager)
    config = json.loads((folder / "config.json").read_text())
    kinds = [kind for _, (a, b) in parts for kind in CONFIG["layer_types"][a:b]]
    total = sum(b - a for _, (a, b) in parts)
    assert config == CONFIG | {"num_hidden_layers": total, "layer_types": kinds}
    assert w == tv.parse(str(w))


@QUIET
@given(cuts=st.sets(st.integers(1, LAYERS - 1)))
def test_a_model_cut_anywhere_and_piled_up_again_is_the_model(home, models, tmp_path_factory, cuts):
    edges = [0, *sorted(cuts), LAYERS]
    w = tv.stack(*(tv.take_layers(models["math"], a, b) for a, b in pairwise(edges)))
    folder = tmp_path_factory.mktemp("cut") / "out"
    assert same(saved(w, folder), load_file(home / "math/model.safetensors"))
    assert json.loads((folder / "config.json").read_text()) == CONFIG


def test_of_several_stacks_one_must_be_named_and_the_others_stay():
    arrays = {f"{side}.block.{k}.w": np.full(2, k, np.float32) for side in ("encoder", "decoder") for k in range(3)}
    model = tv.from_arrays(arrays, "t5")
    with pytest.raises(RecipeError, match=r'2 stacks.*stack="encoder.block" \(3 layers\), stack="decoder.block"'):
        tv.take_layers(model, 0, 1)
    taken = tv.take_layers(model, 1, 3, stack="decoder.block")
    assert {n: taken[n][0] for n in taken if "decoder" in n} == {"decoder.block.0.w": 1, "decoder.block.1.w": 2}
    assert len(taken) == 5


def test_layers_of_another_width_do_not_stand_on_one_another(tmp_path, models):
    small = {n: t[:3] if ".mlp." in n else t for n, t in content(9).items()}
    other = tv.load(write(tmp_path / "small", {n: t.contiguous() for n, t in small.items()}))
    with pytest.raises(MismatchError, match=r"model.layers.0.mlp.weight is \[3, 6\] in .*small.*, \[7, 6\] in"):
        tv.stack(models["math"], other)


# ---- what config.json says --------------------------------------------------------------------------
NESTED = {
    "take_layers(take_layers(math, 1, 4), 1, 3)": [2, 3],
    "stack(take_layers(math, 3, 4), take_layers(stack(math, base), 3, 6))": [3, 3, 0, 1],
    "take_layers(slerp(take_layers(math, 1, 4), take_layers(base, 0, 3)), 0, 2)": [1, 2],
    "take_layers(rename(take_layers(math, 1, 4), {'lm_head.weight': 'x'}), 1, 2)": [2],
    "take_layers(0.5*take_layers(math, 1, 4) + 0.5*take_layers(base, 0, 3), 2, 3)": [3],
}


@pytest.mark.parametrize("recipe", NESTED)
def test_a_layer_keeps_its_kind_through_whatever_is_beneath(models, tmp_path, recipe):
    tv.save(parsed(recipe, models), tmp_path / "out")
    kinds = [CONFIG["layer_types"][k] for k in NESTED[recipe]]
    wanted = CONFIG | {"num_hidden_layers": len(kinds), "layer_types": kinds}
    assert json.loads((tmp_path / "out/config.json").read_text()) == wanted


@pytest.mark.parametrize("call", ["take_layers(%s, 1, 3)", 'stack(%s, %s, stack="model.layers")', "stack(%s)"])
def test_they_print_as_they_are_written_and_bind_knobs_within(models, call):
    base, math = models["base"].named("base"), models["math"].named("math")
    free = tv.parse(call.replace("%s", "(base + lam*(math - base))"), base=base, math=math)
    bound = tv.parse(call.replace("%s", "math"), math=math)
    assert free.bind(lam=1) == bound and bound.text(bound.names()) == call.replace("%s", "math")


def test_ends_are_those_of_the_first_and_of_the_last_argument(models):
    one, two = models["math"], models["code"]
    w = tv.stack(one, two)
    for name, source in ((EMBEDDING, one), ("model.positions", one), (HEAD, two), ("model.norm.weight", two)):
        assert np.array_equal(w[name], source[name]), name
    assert [*w] == sorted(w, key=[*w].index) and len(w) == len(one) + 2 * LAYERS


def test_a_name_that_begins_with_its_number_is_of_the_stack_without_a_name():
    m = tv.from_arrays({f"{k}.w": np.full(2, k, np.float32) for k in range(3)} | {"out": np.ones(1, np.float32)}, "m")
    taken = tv.take_layers(m, 1, 3)
    assert {n: taken[n].tolist() for n in taken} == {"0.w": [1, 1], "1.w": [2, 2], "out": [1]}
    with pytest.raises(RecipeError, match=r'has no stack "x"; it has stack="" \(3 layers\)'):
        tv.take_layers(m, 0, 1, stack="x")


def test_a_single_layer_is_counted_as_one_and_a_lora_knows_no_bound(build, tmp_path):
    one = tv.from_arrays({"h.0.w": np.ones(2, np.float32)}, "m")
    with pytest.raises(RecipeError, match=r'it has stack="h" \(1 layer\)$|it has stack="h" \(1 layer\)'):
        tv.take_layers(one, 0, 1, stack="x")
    with pytest.raises(RecipeError, match=r"has the layers 0 to 0 in h, so stop is at most 1, not 2"):
        tv.take_layers(one, 0, 2)
    shapes = {"A": (2, 4), "B": (7, 2)}
    arrays = {f"base_model.model.h.1.lora_{s}.weight": np.ones(shape, np.float32) for s, shape in shapes.items()}
    lora = tv.load(build.lora(tmp_path / "lora", arrays))
    assert [*tv.take_layers(lora, 1, 9)] == ["h.0.weight"] and [*tv.take_layers(lora, 5, 9)] == []


def test_one_end_with_a_head_and_the_other_without_is_said_of_both_orders(models):
    tied = tv.drop(models["code"], HEAD)
    for args in ((models["math"], tied), (tied, models["math"])):
        with pytest.raises(MismatchError, match=rf"{HEAD} is not in drop.*\(tie or untie one of them\)"):
            tv.stack(*args)
    assert HEAD not in tv.stack(tied, tied)


def test_positions_that_only_the_first_layer_has_must_stay_in_the_first(build, tmp_path):
    name = "model.layers.{}.attn.relative_attention_bias.weight"
    arrays = {f"model.layers.{k}.w": np.ones(2, np.float32) for k in range(3)} | {
        name.format(0): np.ones(3, np.float32)
    }
    m = tv.load(build.model(tmp_path / "m", arrays))
    (source,) = tv.take_layers(m, 1, 3).terms
    assert source.settled()[1]["model.layers.0"] == [
        f"{name.format(0)} is missing, which all layers use: begin with the layer that has it"
    ]
    (source,) = tv.stack(tv.take_layers(m, 0, 2), tv.take_layers(m, 1, 3)).terms
    assert source.settled()[1]["model.layers.0"] == []


SIDES = {
    True: (
        "model.embed_tokens.weight", "embeddings.word.weight", "tok_emb.weight", "wte.weight", "transformer.wpe.weight",
        "shared.weight", "position_ids", "patch_projection.w", "vision_tower.w", "visual.merger.w", "audio.conv1.w",
    ),
    False: ("model.norm.weight", "lm_head.weight", "ln_f.bias", "score.weight", "embed_out.weight"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "name"), [(side, name) for side, names in SIDES.items() for name in names])
def test_what_stands_before_the_layers_is_told_by_its_name(before, name):
    assert before_the_layers(name) is before


# ---- what is refused ------------------------------------------------------------------------------
WRONG = [
    ("take_layers(math, 2, 2)", RecipeError, "no layer l with 2 <= l < 2"),
    ("take_layers(math, 3, 1)", RecipeError, "no layer l with 3 <= l < 1.*line 1"),
    ("take_layers(math, 0, 5)", RecipeError, "has the layers 0 to 3 in model.layers, so stop is at most 4, not 5"),
    ("take_layers(math, -1, 2)", RecipeError, "start must be a whole number of at least 0, not -1"),
    ("take_layers(math, 0.5, 2)", RecipeError, "start must be a whole number"),
    ("take_layers(math, 0, lam)", RecipeError, "stop must be a whole number of at least 1, not lam"),
    ("take_layers(math, 0)", RecipeError, "stop"),
    ("take_layers(0, 0, 1)", RecipeError, "works on models or task vectors, not on Coefficient"),
    ('take_layers(math, 0, 1, stack="encoder")', RecipeError, 'no stack "encoder"; it has stack="model.layers"'),
    ("take_layers(math, 0, 1, stack=3)", RecipeError, 'stack must be a text, stack="..."'),
    ('take_layers(rename(math, {"model.layers.*": "model.layer*"}), 0, 1)', RecipeError, "has no layers"),
    ("take_layers(0.5*math, 0, 1)", MassError, "mass 0.5"),
    ("stack()", RecipeError, "at least one"),
    ("stack(math, math - base)", MassError, "not on both: their masses are \\[1, 0\\]"),
    ('stack(math, rename(code, {"model.layers.*": "h.*"}))', MismatchError, "model.layers in.*h in"),
    ('stack(math, rename(code, {"lm_head.weight": "x"}))', MismatchError, "lm_head.weight is not in rename.*untie"),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "kind", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_what_cannot_be_done_is_a_stated_error(models, tmp_path, recipe, kind, message):
    refused(recipe, models, tmp_path, kind, message)


def test_layers_of_an_adapter_alone_cannot_be_counted(build, tmp_path):
    shapes = {"A": (2, 4), "B": (7, 2)}
    arrays = {f"base_model.model.h.1.lora_{s}.weight": np.ones(shape, np.float32) for s, shape in shapes.items()}
    lora = tv.load(build.lora(tmp_path / "lora", arrays))
    with pytest.raises(RecipeError, match=r"cannot count the layers of .*lora.*stack\(base \+ lora, \.\.\.\)"):
        tv.stack(lora, lora)
    for call, name in ((lambda: tv.take_layers(1, 0, 1), "take_layers"), (lambda: tv.stack(1), "stack")):
        with pytest.raises(RecipeError, match=f"^{name} works on models or task vectors, not on int"):
            call()
