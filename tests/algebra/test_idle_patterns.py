"""Patterns that fit nothing, or are never reached, are errors that name them and what was perhaps meant."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.algebra.coefficients import layers, only, per, without
from taskvec.algebra.idle_patterns import fits_one, nearest, unfit
from taskvec.errors import RecipeError

NAMES = [
    *(f"model.layers.{k}.{n}.weight" for k in range(12) for n in ("mlp.up_proj", "self_attn.q_proj", "norm")),
    "model.embed_tokens.weight",
]


@pytest.mark.parametrize(
    "coefficient",
    [
        only("*.mlp.*"), without("model.embed_tokens.weight"), only("*.mlp.*", "*.self_attn.*"), only("*"),
        per({"*.mlp.*": 1, "*": 0}), per({"model.layers.1.*": 1, "model.layers.*": 2, "*": 0}), per({"*": 1}),
        per({"*.weight": 1, "*": 0}), layers(0, 1, outside=0), 3 * only("*.layers.[0-5].*"),
        per({name: k for k, name in enumerate(NAMES)}), per({NAMES[3]: 1, "model.*": 0}),
    ],
    ids=str,
)  # fmt: skip
def test_patterns_that_say_something_are_in_order(coefficient):
    assert not [*unfit([coefficient], NAMES)]


@pytest.mark.parametrize(
    ("coefficient", "says"),
    [
        (
            only("*.mpl.*"),
            '"*.mpl.*" (in only or without) fits no tensor; the nearest: model.layers.0.mlp.up_proj.weight',
        ),
        (only("*.mlp.*", "lm_head*"), '"lm_head*" (in only or without) fits no tensor'),
        (without("mlp"), '"*mlp*" fits 12 such as model.layers.0.mlp.up_proj.weight'),
        (only("*.MLP.*"), "fits no tensor"),
        (only("model.layers.12.*"), "fits no tensor; the nearest: model.layers.0."),
        (per({"*.mpl.*": 1, "*": 0}), '"*.mpl.*" (in per) fits no tensor'),
        (per({"*": 0, "*.mlp.*": 1}), '"*.mlp.*" (in per) is never reached: "*" above it'),
        (per({"*.mlp.*": 0, "*.up_proj.*": 1, "*": 0}), '"*.up_proj.*" (in per) is never reached: "*.mlp.*" above it'),
        (per({"*.mlp.*": per({"*.q_prj.*": 1, "*": 0}), "*": 0}), '"*.q_prj.*" (in per) fits no tensor'),
        (layers(0, only("mlp"), outside=0), '"mlp" (in only or without)'),
        (1 / per({"*.mpl.*": 2, "*": 1}), '"*.mpl.*" (in per)'),
    ],
    ids=str,
)
def test_a_pattern_that_does_nothing_is_named_with_its_neighbours(coefficient, says):
    (line,) = unfit([coefficient, 1 - coefficient], NAMES)
    assert says in line


def test_a_name_with_brackets_is_a_name():
    assert fits_one("a[0].w", ["a[0].w"]) and not fits_one("a[0].v", ["a[0].w"])
    assert "a.w" in nearest("a.v", ["a.w", "b.u"])


@pytest.fixture
def models():
    rng = np.random.default_rng(0)
    return [tv.from_arrays({n: rng.standard_normal(4).astype("f") for n in NAMES}, name=name) for name in "ab"]


def test_wherever_a_recipe_is_planned_or_read_its_patterns_are_looked_at(models, tmp_path):
    a, b = models
    typo = only("*.mpl.*")
    for bad in (
        a + 0.4 * typo * (b - a),
        a + tv.ties(typo * (b - a), b - a),
        a + tv.ties(b - a, b - a, density=per({"*.mpl.*": 0.5, "*": 0.2})),
        a + tv.rename(typo * (b - a), {"model.*": "model.*"}),
        a + 0.5 * tv.ties(b - a, tv.trim(typo * (b - a))),
    ):
        with pytest.raises(RecipeError, match=r"\*.mpl.\*"):
            tv.plan(bad)
        with pytest.raises(RecipeError, match=r"\*.mpl.\*"):
            tv.save(bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(RecipeError, match=r"\*.mpl.\*"):
        (a + 0.4 * typo * (b - a))["model.embed_tokens.weight"]
    with pytest.raises(RecipeError, match=r"\*.mpl.\*"):
        tv.compare([typo * (b - a)], base=a)
    tv.plan(a + 0.4 * only("*.mlp.*") * tv.ties(without("*embed*") * (b - a), b - a))


def test_a_pattern_may_be_for_what_a_lora_does_not_name(tmp_path, build):
    """One recipe for several adapters: what one of them leaves alone, the base has."""
    a = tv.load(build.model(tmp_path / "base", build.tensors(0)))
    factors = {"A": np.ones((2, 4), np.float32), "B": np.ones((8, 2), np.float32)}
    content = {f"base_model.model.model.layers.0.mlp.lora_{side}.weight": f for side, f in factors.items()}
    lora = tv.load(build.lora(tmp_path / "lora", content))
    tv.plan(a + only("model.norm*") * lora)
    tv.plan(a + tv.ties(per({"model.norm*": 1, "*": 0.5}) * lora, lora))
    with pytest.raises(RecipeError, match="fits no tensor"):
        tv.plan(a + tv.ties(per({"model.nrm*": 1, "*": 0.5}) * lora, lora))


def test_load_into_looks_at_them_too(models):
    torch = pytest.importorskip("torch")
    a, b = (tv.from_arrays({"weight": np.full((2, 2), k, np.float32)}, name=f"m{k}") for k in (1, 2))
    module = torch.nn.Linear(2, 2, bias=False)
    before = module.weight.detach().clone()
    with pytest.raises(RecipeError, match='"wieght"'):
        tv.load_into(module, a + only("wieght") * (b - a))
    assert torch.equal(module.weight, before)


def test_a_filter_of_a_mergekit_file_that_fits_nothing_is_a_note(tmp_path, build, run):
    """mergekit ignores it, and files say `lm_head` for models that tie it: no error."""
    for seed, name in enumerate(("base", "math")):
        build.model(tmp_path / name, build.tensors(seed))
    filters = "[{filter: mpl, value: 1}, {filter: mlp, value: 0.5}, {filter: layers.1.mlp, value: 2}, {value: 0}]"
    (tmp_path / "m.yml").write_text(
        "merge_method: task_arithmetic\nbase_model: base\n"
        f"models: [{{model: math, parameters: {{weight: {filters}}}}}]\n"
    )
    done = run("merge", "m.yml", "-o", "out")
    assert done.code == 0 and "note: " in done.stderr and "the filter 'mpl' fits no tensor" in done.stderr
    assert "the filter 'layers.1.mlp' fits no tensor that no filter above it fits" in done.stderr
    assert "'mlp'" not in done.stderr
    filters = "[{filter: mlp, value: 0.5}, {value: 0}]"
    (tmp_path / "m.yml").write_text((tmp_path / "m.yml").read_text().split("[{filter")[0] + filters + "}}]\n")
    assert run("merge", "m.yml", "-o", "plain").stderr == ""
    assert (tmp_path / "out/model.safetensors").read_bytes()[-300:] == (
        tmp_path / "plain/model.safetensors"
    ).read_bytes()[-300:]
