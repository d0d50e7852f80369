"""mergekit's YAML as a user meets it: what is read, what is refused, and what differs from mergekit on purpose."""

import json

import jinja2
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

import taskvec as tv
from conftest import model, tensors
from taskvec.errors import MismatchError, RecipeError
from taskvec.notes import collected
from taskvec.recipes.mergekit import read
from taskvec.recipes.mergekit.methods import METHODS
from taskvec.recipes.mergekit.templates import TEMPLATES

SHAPES = {
    "model.embed_tokens.weight": (12, 4),
    **{f"model.layers.{k}.{part}.weight": (4, 4) for k in range(3) for part in ("self_attn.q_proj", "mlp.up_proj")},
    "model.norm.weight": (4,),
    "lm_head.weight": (12, 4),
}
NAMES = ("base", "math", "code")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with three models, and the current one."""
    for seed, name in enumerate(NAMES):
        model(tmp_path / name, tensors(seed, SHAPES))
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 3}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def merge(run):
    """merge("config.yml", ...) -> what the command said, which must have worked."""

    def done(*arguments):
        found = run("merge", *arguments)
        assert found.code == 0, found.stderr
        return found

    return done


def written(home, text, name="config.yml"):
    (home / name).write_text(text)
    return home / name


def refused(home, text):
    """The message that a file is refused with."""
    with pytest.raises(RecipeError) as found:
        read(written(home, text))
    return str(found.value)


LINEAR = """
merge_method: linear
models:
  - {model: math, parameters: {weight: 1}}
  - {model: code, parameters: {weight: 3}}
"""


DARE = """
merge_method: dare_linear
base_model: base
models:
  - {model: base}
  - {model: math, parameters: {weight: 1, density: 0.5}}
"""


@pytest.mark.parametrize(
    ("key", "option", "seed"), [("", (), 0), ("5", (), 5), ("null", (), 0), ("5", (7,), 7), ("5", (0,), 0)]
)
def test_a_random_seed_in_the_file_is_that_of_its_draws_unless_another_is_given(home, key, option, seed):
    (found,) = read(written(home, DARE + (f"random_seed: {key}" if key else "")), None, *option)
    assert found.weights == read(written(home, DARE), seed=seed)[0].weights
    assert found.weights != read(written(home, DARE), seed=seed + 1)[0].weights


def test_the_command_line_takes_the_seed_of_the_file_too(home, merge):
    config = written(home, DARE + "random_seed: 5")
    assert (
        merge(config, "--print-recipe").stdout
        == merge(written(home, DARE, "o.yml"), "--seed", 5, "--print-recipe").stdout
    )
    assert "random_seed is a whole number, not 'five'" in refused(home, DARE + "random_seed: five")


def test_a_union_of_tokenizers_says_which_end_token_and_template_it_loses(home, merge):
    words = {"x": 0, "end": 1, "stop": 2}
    for name, ends in (("base", 1), ("math", 2)):
        (home / name / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": words}}))
        (home / name / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    (home / "math" / "chat_template.jinja").write_text("{{ messages }}")
    text = LINEAR.replace("code", "base") + "base_model: base\n"
    said = merge(written(home, text + "tokenizer_source: union"), "-o", "out").stderr
    assert 'math has the end token "stop", not "end", a chat template, which the output has not' in said
    said = merge(written(home, text + "tokenizer_source: union\nchat_template: auto"), "-o", "two").stderr
    assert "the end token" in said and "a chat template," not in said
    assert (home / "two/chat_template.jinja").read_text() == "{{ messages }}"


# ---- the file itself ------------------------------------------------------------------------------------------------
def test_a_key_that_is_there_twice_is_an_error_with_both_lines(home):
    said = refused(home, LINEAR.replace("weight: 1}", "weight: 1, weight: 2}") + "merge_method: slerp\n")
    assert "merge_method in line 2 and in line 6" in said and "weight in line 4 and in line 4" in said


def test_an_alias_bomb_is_refused_and_not_printed(home, run):
    lines = ["a: &a [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"{c}: &{c} [{','.join([f'*{p}'] * 10)}]" for p, c in zip("abcdefgh", "bcdefghi", strict=True)]
    found = run("merge", written(home, "\n".join([*lines, "merge_method: *i", "models: []"])), "-o", "out")
    assert found.code == 1 and "more than 100,000 values" in found.stderr and len(found.stderr) < 1000


# ---- what a file stands for -----------------------------------------------------------------------------------------
def test_a_file_is_the_recipe_that_it_prints(home):
    (found,) = read(written(home, LINEAR))
    assert found.weights == tv.parse("(math + 3*code)/4", math="math", code="code")
    assert str(found.weights) == '0.25*load("math") + 0.75*load("code")'


@pytest.mark.parametrize("method", METHODS)
def test_every_method_prints_a_recipe_that_reads_back(home, method):
    row = METHODS[method]
    names = NAMES[: row.most or 3]
    own = {key: 0.3 if key == "epsilon" else 0.5 for key, (scope, _) in row.numbers.items() if scope != "shared"}
    shared = {key: 0.3 for key, (scope, default) in row.numbers.items() if scope == "shared" and default is None}
    if method == "slerp" or row.most == 1:
        own = {}
    entries = [{"model": name, "parameters": own} for name in names]
    config = {"merge_method": method, "models": entries, "parameters": shared}
    if row.base != "ignored":
        config["base_model"] = "base"
    (found,) = read(written(home, yaml.safe_dump(config)))
    assert tv.parse(str(found.weights)) == found.weights
    assert found.weights.kind() == 1


def test_print_recipe_is_a_recipe_file(home, merge):
    written(home, LINEAR)
    text = merge("config.yml", "--print-recipe").stdout
    (home / "recipe.py").write_text(text)
    merge("recipe.py", "-o", "one")
    merge("config.yml", "-o", "two")
    one, two = (load_file(home / out / "model.safetensors") for out in ("one", "two"))
    assert all(np.array_equal(one[name], two[name]) for name in SHAPES)


def test_a_gradient_runs_from_the_first_layer_to_the_last_and_a_filter_is_a_substring(home):
    text = """
merge_method: linear
models:
  - model: math
    parameters:
      weight:
        - {filter: mlp, value: [0, 1]}
        - {value: 0.5}
  - {model: code, parameters: {weight: 1}}
parameters: {normalize: false}
"""
    (found,) = read(written(home, text))
    (source,) = found.weights.terms
    parts = {name: {s.text: float(c) for (s, _), c in source.origin(name).items()} for name in SHAPES}
    assert parts["model.layers.1.mlp.up_proj.weight"]['load("math")'] == 0.5
    assert parts["model.layers.2.mlp.up_proj.weight"]['load("math")'] == 1
    assert 'load("math")' not in parts["model.layers.0.mlp.up_proj.weight"]
    assert parts["model.layers.2.self_attn.q_proj.weight"]['load("math")'] == 0.5


def test_documents_are_made_of_one_another_in_one_pass(home, merge):
    text = """
name: half
merge_method: linear
models: [{model: math}, {model: code}]
parameters: {weight: 1}
---
merge_method: task_arithmetic
base_model: base
models: [{model: half, parameters: {weight: 0.4}}]
"""
    written(home, text)
    merge("config.yml", "-o", "out")
    wanted = tv.parse("base + 0.4*((math + code)/2 - base)", base="base", math="math", code="code")
    found = load_file(home / "out" / "model.safetensors")
    assert all(np.array_equal(found[name], wanted[name]) for name in SHAPES)
    merge("config.yml", "--document", "half", "-o", "half-out")
    assert not (home / "half").exists()


def test_a_stack_of_layers_says_so_in_its_configuration(home, merge):
    text = """
merge_method: passthrough
slices:
  - sources: [{model: math, layer_range: [0, 2]}]
  - sources: [{model: code, layer_range: [1, 3]}]
"""
    written(home, text)
    merge("config.yml", "-o", "out")
    found = load_file(home / "out" / "model.safetensors")
    math, code = (load_file(home / name / "model.safetensors") for name in ("math", "code"))
    assert np.array_equal(found["model.layers.3.mlp.up_proj.weight"], code["model.layers.2.mlp.up_proj.weight"])
    assert np.array_equal(found["model.embed_tokens.weight"], math["model.embed_tokens.weight"])
    assert np.array_equal(found["lm_head.weight"], code["lm_head.weight"])
    assert json.loads((home / "out" / "config.json").read_text())["num_hidden_layers"] == 4


def test_models_of_another_machine_are_said_beside_the_file(home, merge):
    written(home, LINEAR.replace("model: math", "model: org/math@main"))
    merge("config.yml", "org/math=math", "-o", "out")
    assert (home / "out" / "model.safetensors").is_file()


def test_a_chat_template_replaces_the_model_s(home, merge):
    (home / "math" / "tokenizer_config.json").write_text(json.dumps({"chat_template": "old"}))
    written(home, LINEAR + "chat_template: chatml\n")
    merge("config.yml", "-o", "out")
    assert "<|im_start|>" in (home / "out" / "chat_template.jinja").read_text()
    assert "<|im_start|>" in json.loads((home / "out" / "tokenizer_config.json").read_text())["chat_template"]


CHAT = [("user", " a\n"), ("assistant", "b"), ("user", "c")]
ALONE = [("user", "a")]
SYSTEM = ("system", " be kind ")
# (template, messages, what mergekit's template of that name renders with an answer asked for)
RENDERED = [
    ("chatml", ALONE, "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"),
    ("chatml", [SYSTEM, *ALONE],
     "<|im_start|>system\n be kind <|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"),
    ("alpaca", CHAT, "\n\n### Instruction:\na\n\n### Response:\nb\n\n### Instruction:\nc### Response:\n"),
    ("alpaca", [SYSTEM, *ALONE], "be kind\n\n### Instruction:\na### Response:\n"),
    ("alpaca", [("user_context", "x"), *CHAT[1:2]], "\n\n### Input:\nx\n\n### Response:\nb"),
    ("llama3", [SYSTEM, *ALONE],
     "<s><|start_header_id|>system<|end_header_id|>\n\nbe kind<|eot_id|>\n<|start_header_id|>user<|end_header_id|>\n\n"
     "a<|eot_id|>\n<|start_header_id|>assistant<|end_header_id|>\n\n"),
    ("mistral", CHAT, "<s> [INST]  a\n [/INST] b</s> [INST] c [/INST]"),
    ("mistral", [SYSTEM, *ALONE], "<s> [INST]  be kind \n\na [/INST]"),
    ("exaone", ALONE, "        [|system|][|endofturn|]\n\n    [|user|]a\n        \n\n    [|assistant|]\n"),
    ("exaone", [SYSTEM, *ALONE],
     "    [|system|] be kind \n        [|endofturn|]\n\n    [|user|]a\n        \n\n    [|assistant|]\n"),
]  # fmt: skip


def rendered(name, messages):
    from transformers.utils.chat_template_utils import _compile_jinja_template

    turns = [{"role": role, "content": content} for role, content in messages]
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    return _compile_jinja_template(TEMPLATES[name]).render(messages=turns, add_generation_prompt=True, **tokens)


@pytest.mark.parametrize(("name", "messages", "text"), RENDERED)
def test_a_named_template_renders_what_mergekit_s_does(name, messages, text):
    assert rendered(name, messages) == text


@pytest.mark.parametrize(
    "messages", [[SYSTEM, *CHAT[1:]], [CHAT[0], CHAT[0]], [("tool", "x")], [CHAT[0], ("tool", "x")]]
)
def test_mistral_s_refuses_turns_that_do_not_alternate(messages):
    with pytest.raises(jinja2.exceptions.TemplateError, match=r"alternate|of the user or the assistant"):
        rendered("mistral", messages)


def test_auto_takes_the_template_that_most_models_have(home):
    for name, template in (("base", "{{ a }}"), ("math", "{{ b }}"), ("code", "{{ b }}")):
        (home / name / "chat_template.jinja").write_text(template)
    text = LINEAR.replace("models:", "models:\n  - {model: base, parameters: {weight: 1}}") + "chat_template: auto\n"
    (found,) = read(written(home, text))
    assert found.chat_template == "{{ b }}"


# ---- what differs from mergekit on purpose ------------------------------------------------------------------
def test_without_a_base_the_first_model_lends_its_files(home, merge):
    (home / "math" / "tokenizer.json").write_text('{"of": "math"}')
    written(home, LINEAR)
    merge("config.yml", "-o", "out")
    assert json.loads((home / "out" / "tokenizer.json").read_text()) == {"of": "math"}


def test_each_end_of_a_stack_is_merged_of_its_own_slice_s_sources(home, merge):
    text = """
merge_method: linear
parameters: {weight: 1}
slices:
  - sources: [{model: math, layer_range: [0, 1]}]
  - sources: [{model: math, layer_range: [1, 3]}, {model: code, layer_range: [1, 3]}]
"""
    written(home, text)
    merge("config.yml", "-o", "out")
    found = load_file(home / "out" / "model.safetensors")
    math, code = (load_file(home / name / "model.safetensors") for name in ("math", "code"))
    assert np.array_equal(found["model.embed_tokens.weight"], math["model.embed_tokens.weight"])
    assert np.allclose(found["lm_head.weight"], (math["lm_head.weight"] + code["lm_head.weight"]) / 2, atol=1e-6)


def test_the_output_has_the_dtype_of_the_models_in_every_method(home, merge):
    import ml_dtypes

    for seed, name in enumerate(("base", "math")):
        model(home / f"{name}16", {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors(seed, SHAPES).items()})
    written(home, "merge_method: arcee_fusion\nbase_model: base16\nmodels: [{model: math16}]\n")
    merge("config.yml", "-o", "out")
    assert {a.dtype.name for a in load_file(home / "out" / "model.safetensors").values()} == {"bfloat16"}


def test_a_parameter_of_another_method_is_noted(home, merge):
    written(home, LINEAR + "parameters: {density: 0.5}\n")
    assert "parameters.density has no effect: linear has weight, normalize" in merge("config.yml", "-o", "o").stderr


# ---- what is refused -----------------------------------------------------------------------------------------
REFUSED = [
    (
        "merge_methd: linear\nmodels: [{model: math}]",
        r"merge_methd is no key of mergekit's (did you mean merge_method?)",
    ),
    (LINEAR.replace("linear", "liner"), "no method is named liner (did you mean linear?)"),
    (LINEAR.replace("weight: 1", "wieght: 1"), "models[0].parameters.wieght is no parameter (did you mean weight?)"),
    (LINEAR.replace("weight: 1", "weight: [0, x]"), "weight is a number, not 'x'"),
    (LINEAR.replace("weight: 1", "weight: .nan"), "a coefficient must be finite, not nan"),
    (LINEAR.replace(", parameters: {weight: 1}", ""), "models: math: weight has no value"),
    (LINEAR.replace("model: math", "model: nowhere"), "nowhere does not exist"),
    (LINEAR.replace("model: code", "model: math"), "models: math is named twice"),
    (LINEAR + "slices: []\nmodules: {a: {models: [{model: math}]}}", "exactly one of models, slices and modules"),
    (LINEAR + "dtype: 3", "dtype is a text, not 3"),
    (LINEAR + "chat_template: chatmil", "no chat_template is named chatmil (did you mean chatml?)"),
    (LINEAR + "tokenizer: {source: union, padding: 3}", "tokenizer.padding is no key of mergekit's"),
    (LINEAR + "tokenizer_source: base\ntokenizer: {source: base}", "exclude one another"),
    ("[1, 2]", "a configuration is a table of keys"),
    ("a: [", "is no YAML"),
    ("", "the file is empty"),
    ("merge_method: ties\nmodels: [{model: math, parameters: {weight: 1}}]", "ties needs a base_model"),
    ("merge_method: slerp\nbase_model: base\nmodels: [{model: base}]\nparameters: {t: 1}", "takes 2 models"),
    ("merge_method: passthrough\nmodels: [{model: math}, {model: code}]", "passthrough takes"),
    (
        "merge_method: ties\nbase_model: base\nmodels: [{model: math, parameters: {weight: 1, density: 1.5}}]",
        "density must lie in (0, 1], not 1.5",
    ),
    (
        "merge_method: passthrough\nslices:\n  - sources: [{model: math, layer_range: [2, 9]}]",
        'load("math") has the layers 0 to 2',
    ),
    ("merge_method: passthrough\nslices:\n  - sources: [{model: math, layer_range: [2, 1]}]", "has no layers"),
    (
        "merge_method: linear\nparameters: {weight: 1}\nslices:\n"
        "  - sources: [{model: math, layer_range: [0, 2]}, {model: code, layer_range: [0, 3]}]",
        "its sources have different numbers of layers: [2, 3]",
    ),
    ("name: a\nmerge_method: passthrough\nmodels: [{model: a}]", "made of one another: a -> a"),
]


@pytest.mark.parametrize(("text", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_what_cannot_be_merged_is_said(home, text, said):
    assert said in refused(home, text)


def test_every_problem_of_a_file_is_said_at_once(home):
    text = """
merge_method: ties
base_model: nowhere
models:
  - {model: math, parameters: {weigth: 1, densty: 0.5}}
tokenizr: {source: base}
out_dtype: [1]
"""
    message = refused(home, text)
    for said in ("tokenizr", "out_dtype"):
        assert said in message
    assert "weigth" in refused(home, text.replace("tokenizr: {source: base}\n", "").replace("out_dtype: [1]\n", ""))


def test_a_zero_vector_has_no_angle_in_a_recipe_and_is_mergekit_s_right_angle_in_a_file(home, run, merge):
    zero = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    model(home / "zero", zero)
    failed = run("merge", "slerp(math, zero)", "math=math", "zero=zero", "-o", "out")
    assert "one of the two is zero" in failed.stderr
    written(
        home, "merge_method: slerp\nbase_model: math\nmodels: [{model: math}, {model: zero}]\nparameters: {t: 0.5}\n"
    )
    merge("config.yml", "-o", "out")


def test_vocabularies_that_differ_say_what_brings_them_together(home):
    wide = {
        k: (v if "embed" not in k and "lm_head" not in k else np.zeros((16, 4), "f4"))
        for k, v in tensors(9, SHAPES).items()
    }
    model(home / "wide", wide)
    assert "tokenizer: {source: base}" in refused(home, LINEAR.replace("model: code", "model: wide"))


def test_nothing_appears_where_a_file_is_refused(home, run):
    written(home, LINEAR.replace("weight: 1", "wieght: 1"))
    before = sorted(p.name for p in home.iterdir())
    failed = run("merge", "config.yml", "-o", "out")
    assert failed.code == 1 and "Traceback" not in failed.stderr
    assert sorted(p.name for p in home.iterdir()) == before


# ---- models that a method leaves out ---------------------------------------------------------------------------------
def test_multislerp_of_one_model_says_that_its_base_has_no_part(home):
    one = {"model": "math", "parameters": {"weight": 0.5}}
    text = json.dumps({"merge_method": "multislerp", "base_model": "base", "models": [one]})
    with collected() as notes:
        (found,) = read(written(home, text))
    assert found.weights == tv.load("math") and "the base has no part in it" in next(iter(notes))


@pytest.mark.parametrize("method", ["linear", "karcher"])
def test_the_base_gives_its_files_wherever_it_stands(home, method):
    models = [{"model": n, "parameters": {"weight": 1} if method == "linear" else {}} for n in ("math", "base", "code")]
    (found,) = read(written(home, json.dumps({"merge_method": method, "models": models, "base_model": "base"})))
    assert found.weights.donor.folder.name == "base"
    (found,) = read(written(home, json.dumps({"merge_method": method, "models": models})))
    assert found.weights.donor.folder.name == "math"


def mixed(method, names=NAMES):
    """A file with the method on as many of the models as it takes, all of whose parameters have some value."""
    row = METHODS[method]
    own = {key: 0.2 if key == "epsilon" else 0.5 for key, (scope, _) in row.numbers.items() if scope != "shared"}
    shared = {key: 0.3 for key, (scope, default) in row.numbers.items() if scope == "shared" and default is None}
    models = [{"model": name, "parameters": own} for name in names[: row.most or 3]]
    base = {} if row.base == "ignored" else {"base_model": names[0]}
    return json.dumps({"merge_method": method, "models": models, "parameters": shared} | base)


@pytest.mark.parametrize("method", [m for m, row in METHODS.items() if row.most != 1])
def test_integers_that_differ_are_an_error_in_every_method(home, method):
    for k, name in enumerate(NAMES, 7):
        model(home / name, tensors(k, SHAPES) | {"model.counter": np.array(k)})
    (found,) = read(written(home, mixed(method)))
    with pytest.raises(MismatchError, match=r"model\.counter \(I64\[\]\) differs between"):
        tv.save(found.weights, home / "out", dtype=found.dtype)
    assert not (home / "out").exists()
