"""A refusal names its way out: what is proposed makes names and shapes meet, and is proposed only then."""

import json
import re

import numpy as np
import pytest

import taskvec as tv
from taskvec.algebra.hints import patterns, renaming
from taskvec.errors import MismatchError, RecipeError
from taskvec.sources.source import Spec

BASE = {
    **{f"model.layers.{k}.self_attn.{n}_proj.weight": (8, 8) for k in range(3) for n in "qkvo"},
    **{f"model.layers.{k}.mlp.up_proj.weight": (16, 8) for k in range(3)},
    "model.embed_tokens.weight": (32, 8),
    "model.norm.weight": (8,),
}
VISION = {f"vision_tower.encoder.layers.{k}.self_attn.{n}_proj.weight": (8, 8) for k in range(3) for n in "qkvo"}


def weights(shapes, name):
    rng = np.random.default_rng(len(name))
    return tv.from_arrays({n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}, name=name)


def renamed(shapes, *pairs):
    """The same shapes under names in which the first of the (regular expression, text) that fits is replaced."""
    others = {}
    for name, shape in shapes.items():
        pattern, text = next(((p, t) for p, t in pairs if re.search(p, name)), ("^", ""))
        others[re.sub(pattern, text, name)] = shape
    return others


def said(tuned, base):
    with pytest.raises(MismatchError) as error:
        (base + 0.5 * (tuned - base)).specs  # noqa: B018 - raises
    return error.value.problems


def proposal(tuned, base):
    """The two sides as the error proposes them, made by the recipe that it writes."""
    (line,) = [p for p in said(tuned, base) if p.startswith("they fit together")]
    sides = {"tuned": "tuned", "base": "base"}
    for text in line.removeprefix("they fit together in a recipe that says ").split(" and "):
        new, old = text.split(" instead of ")
        sides[old] = new
    recipe = "{base} + 0.5*({tuned} - {base})".format(**sides)
    return tv.parse(recipe, tuned=tuned, base=base), sides


@pytest.mark.parametrize(
    "pairs",
    [
        [(r"^", "module.")],
        [(r"^model\.", "")],
        [(r"^model\.", "model.language_model.")],
        [(r"^model\.layers\.", "transformer.h."), (r"^model\.", "transformer.")],
        [(r"\.self_attn\.", ".attention.")],
        [(r"weight$", "gamma")],
    ],
    ids=str,
)
def test_names_that_differ_throughout_are_met_by_the_rename_that_is_proposed(pairs):
    base, tuned = weights(BASE, "base"), weights(renamed(BASE, *pairs), "tuned")
    made, sides = proposal(tuned, base)
    assert sides["base"] == "base" and sides["tuned"].startswith("rename(tuned, {")
    assert {n: s.shape for n, s in made.specs.items()} == BASE
    name = "model.layers.2.self_attn.k_proj.weight"
    old = next(new for new, was in zip(renamed(BASE, *pairs), BASE, strict=True) if was == name)
    assert np.allclose(made[name], 0.5 * base[name] + 0.5 * tuned[old])


BERT = {
    "bert.embeddings.word_embeddings.weight": (32, 8),
    "bert.embeddings.LayerNorm.weight": (8,),
    "bert.embeddings.LayerNorm.bias": (8,),
    **{
        f"bert.encoder.layer.{k}.{part}.{end}": (8, 8) if (part, end[0]) == ("attention.self.query", "w") else (8,)
        for k in range(12)
        for part in ("attention.self.query", "attention.output.LayerNorm", "output.LayerNorm")
        for end in ("weight", "bias")
    },
}
OLD_BERT = renamed(BERT, (r"LayerNorm\.weight$", "LayerNorm.gamma"), (r"LayerNorm\.bias$", "LayerNorm.beta"))


@pytest.mark.parametrize(("tuned", "base"), [(BERT, OLD_BERT), (OLD_BERT, BERT)], ids=["old base", "old fine-tune"])
def test_gamma_and_beta_are_the_weight_and_the_bias_of_a_norm(tuned, base):
    made, sides = proposal(weights(tuned, "tuned"), weights(base, "base"))
    assert {n: s.shape for n, s in made.specs.items()} == base
    name = "bert.encoder.layer.7.output.LayerNorm."
    was, is_ = ("bias", "beta") if base is OLD_BERT else ("beta", "bias")
    assert np.array_equal(
        tv.parse(sides["tuned"], tuned=weights(tuned, "tuned"))[name + is_], weights(tuned, "tuned")[name + was]
    )
    problems = said(weights(tuned, "tuned"), weights(base, "base"))
    assert len(problems) == 10 and problems[8] == f"... and {2 * 50 - 8} more"  # and the way out, which is seen


@pytest.mark.parametrize("other", ["", "model.bert"])
@pytest.mark.parametrize("old", ["tuned", "base"])
def test_so_they_are_under_another_prefix(other, old):
    sides = {"tuned": BERT, "base": BERT} | {old: OLD_BERT}
    base = weights(renamed(sides["base"], (r"^bert\.?", f"{other}.".lstrip("."))), "base")
    made, written = proposal(weights(sides["tuned"], "tuned"), base)
    assert made.specs == base.specs and written["tuned"].startswith("rename(tuned, {") and written["base"] == "base"


def test_vocabularies_of_several_sizes_are_met_by_the_lines_that_are_proposed(tmp_path, build, run):
    head = {"lm_head.weight": (32, 8)}
    more = {n: (34, 8) if s[0] == 32 else s for n, s in (BASE | head).items()}
    base, tuned = weights(BASE | head, "base"), weights(more, "tuned")
    made, sides = proposal(tuned, base)
    assert sides["base"] == "resize_vocab(base, 34)" and {n: s.shape for n, s in made.specs.items()} == more
    made, sides = proposal(weights(BASE | head, "tuned"), weights(more, "base"))
    assert sides["tuned"] == "resize_vocab(tuned, 34)" and {n: s.shape for n, s in made.specs.items()} == more
    for name, w, size in (("base", base, 32), ("tuned", tuned, 34)):
        build.model(tmp_path / name, {n: w[n] for n in w})
        vocabulary = {"model": {"type": "BPE", "vocab": {f"t{k}": k for k in range(size)}}}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(vocabulary))
    done = run("merge", "base + 0.5*(tuned - base)", "base=base", "tuned=tuned", "-o", "out")
    (line,) = [line for line in done.stderr.splitlines() if "align_vocab(" in line]
    assert "align_vocab(tuned, base, tuned) instead of tuned and align_vocab(base, base, tuned) instead of base" in line
    recipe = "align_vocab(base, base, tuned) + 0.5*(align_vocab(tuned, base, tuned) - align_vocab(base, base, tuned))"
    assert run("merge", recipe, "base=base", "tuned=tuned", "-o", "out").code == 0


def test_no_size_is_proposed_where_more_than_rows_differs():
    other = {n: (34, 8) if s[0] == 32 else (9,) if s == (8,) else s for n, s in BASE.items()}
    assert not [p for p in said(weights(other, "tuned"), weights(BASE, "base")) if "instead of" in p]


def test_the_layouts_of_a_vision_language_model_are_told_apart():
    """Towers of the same shapes: each must go where its own words are."""
    base = weights(renamed(BASE, ("^model", "language_model.model")) | VISION, "base")
    memory = renamed(BASE, ("^model", "model.language_model")) | renamed(VISION, ("^", "model."))
    made, sides = proposal(weights(memory, "tuned"), base)
    assert made.specs == base.specs
    assert "language_model.model" in sides["tuned"] and '"vision_tower.' in sides["tuned"]


def test_an_adapter_whose_names_the_base_has_under_another_prefix(tmp_path, build, run):
    build.model(tmp_path / "base", build.tensors(0))
    factors = {"A": np.ones((2, 4), np.float32), "B": np.ones((8, 2), np.float32)}
    content = {f"base_model.model.language.layers.1.mlp.lora_{side}.weight": f for side, f in factors.items()}
    build.lora(tmp_path / "lora", content)
    done = run("add", "base", "lora", "-o", "out")
    assert done.code == 1
    written = re.search(r"rename\(lora, \{.*\}\)", done.stderr)[0]
    assert run("merge", f"base + {written}", "base=base", "lora=lora", "-o", "out").code == 0


@pytest.mark.parametrize(
    ("extra", "proposed"),
    [
        ({f"model.layers.{k}.self_attn.rotary_emb.inv_freq": (4,) for k in range(3)}, '"*.rotary_emb.inv_freq"'),
        ({"v_head.summary.weight": (1, 8), "v_head.summary.bias": (1,)}, '"v_head.*"'),
        ({"score.weight": (2, 8)}, '"score.*"'),
    ],
)
@pytest.mark.parametrize("side", ["tuned", "base"])
def test_what_only_one_side_has_is_dropped_and_can_be_put_back(extra, proposed, side):
    both = {name: weights(BASE | (extra if side == name else {}), name) for name in ("tuned", "base")}
    made, sides = proposal(**both)
    assert sides[side] == f"drop({side}, {proposed})"
    assert set(made.specs) == set(BASE)
    (back,) = [p for p in said(**both) if "join(" in p]
    assert f"select({side}, {proposed})" in back and ("buffers" in back) == ("inv_freq" in proposed)
    again = tv.join(made, tv.select(both[side], proposed.strip('"')))
    assert set(again.specs) == set(BASE) | set(extra)


def test_a_prefix_and_a_head_are_mended_together():
    extra = {"classifier.weight": (2, 8), "classifier.bias": (2,)}
    made, sides = proposal(weights(renamed(BASE, ("^model", "bert")) | extra, "tuned"), weights(BASE, "base"))
    assert set(made.specs) == set(BASE) and "drop(tuned" in sides["tuned"] and "rename(" in sides["tuned"]


@pytest.mark.parametrize(
    "shapes",
    [
        dict.fromkeys(renamed(BASE, ("^", "x.")), (7, 7)),  # other shapes
        {f"encoder.{k}.w": (3, 3) for k in range(9)},  # another model
        renamed(BASE, ("self_attn.[qk]_proj", "self_attn.qk")) | {"model.x": (5,)},  # two tensors to one name
        renamed(BASE, (r"layers\.(\d)", r"block\1")),  # no pattern with one star says it
    ],
    ids=["shapes", "another", "two to one", "numbers"],
)
def test_nothing_is_proposed_that_would_not_mend_it(shapes):
    assert not [p for p in said(weights(shapes, "tuned"), weights(BASE, "base")) if "instead of" in p]


def test_a_rule_that_could_lead_elsewhere_is_not_taken():
    two = {f"{tower}.layers.{k}.w": Spec((4, 4), "F32") for tower in ("left", "right") for k in range(2)}
    assert renaming({f"x.layers.{k}.w": Spec((4, 4), "F32") for k in range(2)}, two) == {}


def test_a_head_is_not_renamed_to_the_head_of_another_task():
    """Two classes and two sentences have one shape."""
    heads = ({f"{head}.weight": (2, 8), f"{head}.bias": (2,)} for head in ("classifier", "cls.seq_relationship"))
    tuned, base = (weights(BERT | head, name) for head, name in zip(heads, ("tuned", "base"), strict=True))
    assert "rename(" not in "".join(said(tuned, base))
    old = weights(OLD_BERT | {"cls.seq_relationship.weight": (2, 8), "cls.seq_relationship.bias": (2,)}, "base")
    line = said(tuned, old)[-1]
    assert "and leaves classifier.weight, classifier.bias in tuned and cls.seq_relationship.weight," in line
    made = tv.drop(tv.parse(re.match(r"rename\(.*?\}\)", line)[0], tuned=tuned), "classifier.*")
    assert made.specs == tv.drop(old, "cls.*").specs


def test_models_of_different_depth_are_met_by_take_layers():
    more = BASE | {name.replace(".2.", ".3."): shape for name, shape in BASE.items() if ".2." in name}
    (line,) = [p for p in said(weights(more, "tuned"), weights(BASE, "base")) if "take_layers" in p]
    assert "tuned has 4 layers in model.layers" in line
    call = re.search(r"take_layers\(.*\)$", line)[0]
    assert set(tv.parse(call, tuned=weights(more, "tuned")).specs) == set(BASE)


def test_experts_in_one_tensor_and_one_by_one_are_both_named():
    split = BASE | {f"model.layers.0.mlp.experts.{k}.up_proj.weight": (4, 8) for k in range(4)}
    fused = BASE | {"model.layers.0.mlp.experts.up_proj": (4, 4, 8)}
    problems = said(weights(fused, "tuned"), weights(split, "base"))
    assert any("experts.up_proj is in" in p for p in problems) and any("experts.3.up_proj" in p for p in problems)
    assert "base stores each expert by itself, tuned all of them in one tensor" in problems[-1]


def test_a_tied_head_is_a_matter_of_tie_and_untie():
    with_head = BASE | {"lm_head.weight": (32, 8)}
    problems = said(weights(with_head, "tuned"), weights(BASE, "base"))
    assert len(problems) == 1 and "untie" in problems[0]
    problems = said(weights(renamed(with_head, ("^model", "model.language_model")), "tuned"), weights(BASE, "base"))
    assert 'rename(tuned, {"model.language_model.*": "model.*"})' in problems[-2]
    assert problems[-1] == "lm_head.weight is then a matter of tie or untie"


def test_patterns_fit_what_they_are_for_and_nothing_else():
    names = [*BASE, "v_head.a", "v_head.b", "model.layers.0.self_attn.extra"]
    assert patterns(["v_head.a", "v_head.b"], names) == ["v_head.*"]
    assert patterns(["model.layers.0.self_attn.extra"], names) == ["*.self_attn.extra"]
    assert patterns(["v_head.a"], names) == ["*.a"]
    assert patterns([f"x{k}" for k in range(9)], names) is None


# ---- drop -----------------------------------------------------------------------------------------
def test_drop_is_the_rest_of_select_and_reads_the_same_numbers():
    m = weights(BASE, "m")
    kept = tv.drop(m, "*.mlp.*", "model.norm.weight")
    taken = tv.select(m, "*.mlp.*", "model.norm.weight")
    assert set(kept.specs) | set(taken.specs) == set(BASE) and not set(kept.specs) & set(taken.specs)
    assert np.array_equal(kept["model.embed_tokens.weight"], m["model.embed_tokens.weight"])
    assert tv.parse(kept.text({}), m=m) == kept
    assert tv.join(kept, taken).specs.keys() == m.specs.keys()


def test_drop_refuses_patterns_that_fit_nothing_or_everything():
    m = weights(BASE, "m")
    with pytest.raises(RecipeError, match=r'no tensor of m fits "\*.inv_freq"'):
        tv.drop(m, "*.inv_freq")
    with pytest.raises(RecipeError, match=r'"\*mlp\*" fits 3 such as model.layers.0.mlp'):
        tv.select(m, "mlp")
    with pytest.raises(RecipeError, match="nothing of m would be left"):
        tv.drop(m, "*")
    with pytest.raises(RecipeError, match="patterns are texts"):
        tv.drop(m)
    with pytest.raises(RecipeError, match=r"renamed by .*; the nearest: model.layers"):
        tv.rename(m, {"model.layres.*": "x.*"})
