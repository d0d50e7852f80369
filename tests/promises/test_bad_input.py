"""Bad input: a stated error before any output appears, the sources untouched.

Each test is what a user sees: exit code 1 (2 for a command that is not one), one message on stderr, no traceback.
"""

import json
import os
import shutil

import numpy as np
import pytest

MERGE = "base + 0.5*(math - base)"
PAIR = ("merge", MERGE, "base=base", "math=math")


@pytest.fixture
def world(tmp_path, build):
    """base/ and math/, two models of the same shapes."""
    build.model(tmp_path / "base", build.tensors(0))
    build.model(tmp_path / "math", build.tensors(1), shards=2)
    return tmp_path


@pytest.fixture
def refused(world, run, build):
    """The command fails with `code`, says all of `says` in one message, and leaves every file as it was."""

    def check(*arguments, says=(), code=1, lines=None, **options):
        before = build.contents(world)
        found = run(*arguments, **options)
        assert (found.code, found.stdout) == (code, ""), found
        assert "Traceback" not in found.stderr
        if code == 1:
            first, *rest = found.stderr.splitlines()
            assert first.startswith("error: ") and all(line.startswith("  ") for line in rest), found.stderr
            assert found.stderr.count("error: ") == 1
        for text in [says] if isinstance(says, str) else says:
            assert text in found.stderr
        if lines is not None:
            assert len(found.stderr.splitlines()) == lines
        assert build.contents(world) == before
        assert not [p for p in world.iterdir() if "out" in p.name]
        return found

    return check


# ---- sources that do not fit together -------------------------------------------------------------
def test_a_tensor_that_one_side_lacks_is_named_with_the_side(world, build, refused):
    content = build.tensors(1)
    del content["model.norm.weight"]
    build.model(world / "less", content)
    refused("merge", MERGE, "base=base", "math=less", "-o", "out",
            says=['model.norm.weight is in load("base"), not in load("less")', 'drop(base, "model.norm.*")',
                  'join(..., select(base, "model.norm.*"))'], lines=4)  # fmt: skip


def test_all_shapes_that_differ_are_listed_in_one_message(world, build, refused):
    build.model(world / "wide", build.tensors(1) | build.tensors(1, {"model.embed.weight": (12, 4), "x": (2,)}))
    (world / "wide/model.safetensors").unlink()
    content = build.tensors(1) | build.tensors(1, {"model.embed.weight": (12, 4), "model.norm.weight": (5,)})
    build.model(world / "wide", content)
    refused("merge", MERGE, "base=base", "math=wide", "-o", "out", lines=3, says=[
        "model.embed.weight is [12, 4] in load(\"wide\"), [10, 4] in load(\"base\")",
        "model.norm.weight is [5] in load(\"wide\"), [4] in load(\"base\")"])  # fmt: skip
    refused("merge", "(base + math + wide)/3", "base=base", "math=math", "wide=wide", "-o", "out", lines=3)


def test_check_says_the_same_with_headers_only(world, build, run):
    build.model(world / "wide", build.tensors(1, {"model.embed.weight": (12, 4)}))
    found = run("check", "base", "wide", "nowhere")
    assert (found.code, found.stdout) == (1, "")
    for text in ("[12, 4]", "model.norm.weight", "nowhere does not exist"):
        assert text in found.stderr
    assert run("check", "base", "math").code == 0


def test_integers_that_differ_are_refused_unless_a_model_is_named_for_them(world, build, refused, run):
    for name, first in (("base", 0), ("math", 5)):
        shutil.rmtree(world / name)
        build.model(world / name, build.tensors(first) | {"positions": np.arange(first, first + 4)})
    refused(*PAIR, "-o", "out", says=["positions (I64[4]) differs between", 'load("base")', 'load("math")'])
    shutil.copytree(world / "math", world / "third")
    assert run(*PAIR, "--like", "third", "-o", "done").code == 0


def test_a_vector_from_another_base_is_refused_and_force_is_recorded(world, build, refused, run):
    build.model(world / "other", build.tensors(7))
    assert run("diff", "math", "base", "-o", "tau").code == 0
    apply = ("merge", "other + tau", "other=other", "tau=tau")
    refused(*apply, "-o", "out", says=['load("tau") was made from the model', 'load("other")', "force"])
    refused("add", "other", "tau", "-o", "out", says="was made from the model")
    assert run(*apply, "-o", "done", "--force").code == 0
    assert "forced" in run("log", "done").stdout
    assert run("merge", "base + tau", "base=base", "tau=tau", "-o", "fine").code == 0
    assert "forced" not in run("log", "fine").stdout


@pytest.mark.parametrize(("recipe", "mass"), [("base + math", "2"), ("0.7*base", "0.7"), ("base - 2*base", "-1")])
def test_a_mass_that_is_neither_model_nor_vector_says_what_to_do(refused, recipe, mass):
    sources = [f"{name}={name}" for name in ("base", "math") if name in recipe]
    refused("merge", recipe, *sources, "-o", "out", says=[f"mass {mass}:", "Subtract a base", "divide to average"])


def test_a_sum_that_cancels_has_nothing_to_write(refused):
    refused("merge", "base - base", "base=base", "-o", "out", says="there is nothing to write")


# ---- recipes --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("math + 0.5*(mth - base)", ["no model is named mth (did you mean math?)", "line 1"]),
        ("base + onlly('*')*(math - base)", ["no function is named onlly (did you mean only?)", "column 8"]),
        ("base.__class__", "an attribute (a dot) has no place in a recipe"),
        ("base.specs['x']", "an index has no place"),
        ("base.bind(x=1)", "an attribute (a dot) cannot be called"),
        ("__import__('os').system('touch out')", "cannot be called"),
        ("eval('base')", "no function is named eval"),
        ("open('base/config.json')", "no function is named open"),
        ("(lambda: base)()", "lambda cannot be called"),
        ("lambda: base", "lambda has no place"),
        ("[base for x in math]", "has no place"),
        ("base + f'{math}'", "has no place"),
        ("base if math else base", "has no place"),
        ("(out := base)", "has no place"),
        ("base ** 2", "** has no place"),
        ("base @ math", "@ has no place"),
        ("base + 'math'", "this constant has no place"),
        ("base + True*(math - base)", "this constant has no place"),
        ("base * math", "two models cannot be multiplied"),
        ("base / math", "one cannot divide by a model"),
        ("base + 1", "a model and a number cannot be added"),
        ("base / 0", "division by zero"),
        ("1e999*base + math", "finite"),
        ("base + 1e300*1e300*(math - base)", "too large for a float"),
        ("base + only()*(math - base)", "patterns are texts"),
        ("base + only(*'ab')*(math - base)", "has no place"),
        ("base + per(**{'a': 1})*(math - base)", "has no place"),
        ("base + per({'*.mlp.*': 1})*(math - base)", ["no pattern of", '"*"']),
        ("base + only('*.mpl.*')*(math - base)", ['"*.mpl.*" (in only or without) fits no tensor', 'layers.0.mlp']),
        ("base + per({'*': 0, '*.mlp.*': 1})*(math - base)", ['"*.mlp.*" (in per) is never reached: "*" above it']),
        ("base + layers(0, 1)*(math - base)", ["belongs to no layer", "outside="]),
        ("load('base', revision=3) + math - base", "revision must be a text"),
        ("load(base)", "line 1"),
        ("import os\nbase + math", "only `name = expression`"),
        ("x = base", "the last line must be an expression"),
        ("only = base\nbase + math", "cannot be assigned"),
        ("base = math\nbase", "has a value already"),
        ("0.5*lam", ["a number, not a model", "lam"]),
        ("base +", "line 1"),
        ("", "empty"),
    ],
)  # fmt: skip
def test_a_recipe_that_is_none_says_where_and_runs_nothing(refused, recipe, says):
    sources = [f"{name}={name}" for name in ("base", "math") if name in recipe]
    refused("merge", recipe, *sources, "-o", "out", says=says)


def bomb(lines):
    return "\n".join([*lines, f"base + {lines[-1].split()[0]}*(math - base)"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("base + " + "(" * 3000 + "math" + ")" * 3000, "nested"),
        ("base" + " + 0*base" * 10_000 + "-" * 5000 + "math", ""),
        ("-" * 90_000 + "base", "the recipe cannot be read"),
        ("base + " + "-(" * 180 + "math" + ")" * 180, "nested too deeply"),
        ("base" + ".real" * 15_000, ""),
        ("base + " + "1*" * 5_000_000 + "math", "is longer than 100000"),
        ("base + math\0", "null"),
        (bomb(["x0 = 3", *(f"x{k + 1} = x{k}*x{k}" for k in range(60))]), "a coefficient"),
        (bomb(["x0 = 1/3", *(f"x{k + 1} = x{k}*x{k}" for k in range(60))]), "a coefficient"),
        (bomb(["x = " + "*".join(f"(1 + k{k})" for k in range(60))]), "more than 4096 terms"),
        (bomb(["x0 = per({'*': k})", *(f"x{k + 1} = per({{'a': x{k}, '*': x{k}}})" for k in range(60))]), "is longer"),
    ],
    ids=["parentheses", "long", "minuses", "signs", "dots", "10 MB", "null", "squares", "thirds", "terms", "tables"],
)  # fmt: skip
def test_a_recipe_file_that_is_a_bomb_is_defused(world, refused, text, says):
    (world / "recipe.py").write_text(text)
    refused("merge", "recipe.py", "base=base", "math=math", "-o", "out", says=says)


def test_a_recipe_file_that_is_no_text_is_named(world, refused):
    (world / "recipe.py").write_bytes(b"base + \xff\xfe")
    refused("merge", "recipe.py", "-o", "out", says=["recipe.py cannot be read as a recipe", "utf-8"])
    refused("merge", "math/model-00001-of-00002.safetensors", "-o", "out", says="is a checkpoint, not a recipe")


# ---- files that are not what they seem ------------------------------------------------------------
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS = {
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, "needs dtype, shape and data_offsets"),
    "unknown dtype": ({"a": F32 | {"dtype": "F13"}}, "dtype 'F13' is unknown"),
    "a list for a dtype": ({"a": F32 | {"dtype": ["F32"]}}, "dtype ['F32'] is unknown"),
    "out of range": ({"a": F32 | {"shape": [4], "data_offsets": [0, 16]}}, "ends at byte 16, the file's at 8"),
    "overlap": ({"a": F32, "b": F32 | {"data_offsets": [0, 8]}}, "b overlaps a"),
    "hole": ({"a": F32 | {"shape": [1], "data_offsets": [4, 8]}}, "4 bytes before a belong to no tensor"),
    "rest": ({"a": F32 | {"shape": [1], "data_offsets": [0, 4]}}, "4 bytes after a belong to no tensor"),
    "shape against offsets": ({"a": F32 | {"shape": [3]}}, "F32[3] takes 12 bytes, data_offsets give 8"),
    "backwards": ({"a": F32 | {"data_offsets": [8, 0]}}, "are not a range"),
    "negative": ({"a": F32 | {"shape": [-2]}}, "is not a list of"),
    "a true size": ({"a": F32 | {"shape": [True, 2]}}, "is not a list of"),
    "NaN": (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', "is not a list of"),
    "huge": (b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}' % (b"9" * 4000), "is not a list of"),
    "too huge": (b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}' % (b"9" * 5000), "is not JSON"),
    "endless shape": ({"a": F32 | {"shape": [2**62] * 100_000}}, "is not a list of at most 64 sizes"),
    "twice": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}', "key 'a' stands twice"),
    "nesting": (b'{"a":' * 100_000, "is not JSON"),
    "not UTF-8": (b'{"\xff\xfe":{}}', "is not JSON"),
    "half a character": (b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "is not JSON"),
    "not an object": (b"[]", "is not a JSON object"),
    "bad metadata": ({"__metadata__": {"a": 1}, "a": F32}, "__metadata__ must map texts to texts"),
}  # fmt: skip


@pytest.mark.parametrize("defect", HEADERS)
def test_a_header_that_lies_is_refused_with_its_file(world, build, refused, defect):
    header, says = HEADERS[defect]
    build.raw(world / "bad.safetensors", header, b"12345678")
    refused("merge", MERGE, "base=base", "math=bad.safetensors", "-o", "out", says=["bad.safetensors", says])


def test_a_header_with_many_names_and_one_twice_takes_no_time(world, build, refused):
    entries = [b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % k for k in range(50_000)]
    build.raw(world / "bad.safetensors", b"{" + b",".join([*entries, entries[7]]) + b"}")
    refused("show", "bad.safetensors", says="'t7' stands twice")


@pytest.mark.parametrize(
    ("size", "says"),
    [(0, "it has 0 bytes"), (7, "it has 7 bytes"), (40, "its header claims"), (-1, "(truncated?)")],
)
def test_a_truncated_file_is_refused(world, refused, size, says):
    whole = (world / "base/model.safetensors").read_bytes()
    (world / "cut.safetensors").write_bytes(whole[:size])
    refused("merge", MERGE, "base=base", "math=cut.safetensors", "-o", "out", says=["cut.safetensors", says])


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100_000_001])
def test_a_header_longer_than_the_file_or_the_format_allows_is_refused(world, refused, length):
    with (world / "long.safetensors").open("wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(200_000_000 if length < 2**32 else 4096)
    refused("show", "long.safetensors", says=["long.safetensors", "header"])


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"a": "../base/model.safetensors"}, "'../base/model.safetensors' is not a file name within the folder"),
        ({"a": "/etc/passwd"}, "'/etc/passwd' is not a file name"),
        ({"a": "sub/x.safetensors"}, "is not a file name"),
        ({"a": ".."}, "is not a file name"),
        ({"a": ""}, "is not a file name"),
        ({"a": "nul\0.safetensors"}, "missing"),
        ({"a": "model-00009-of-00009.safetensors"}, "model-00009-of-00009.safetensors is missing"),
        ({"a": 5}, "weight_map"),
        ({}, "weight_map"),
        ([], "weight_map"),
    ],
)
def test_an_index_reaches_no_file_but_its_own_shards(world, refused, table, says):
    (world / "math/model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    refused(*PAIR, "-o", "out", says=["model.safetensors.index.json", says])


def test_an_index_that_does_not_fit_its_shards_lists_what(world, refused):
    index = world / "math/model.safetensors.index.json"
    table = json.loads(index.read_text())["weight_map"]
    first, *_, last = table
    index.write_text(json.dumps({"weight_map": table | {"ghost": table[first], first: table[last]}}))
    refused(*PAIR, "-o", "out", says=[
        f"ghost is not in {table[first]}", f"{first} is not in {table[last]}", f"{first} in {table[first]} is not"
    ])  # fmt: skip


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", b"[" * 100_000, b'{"weight_map": NaN}'])
def test_an_index_that_is_none_is_refused(world, refused, text):
    (world / "math/model.safetensors.index.json").write_bytes(text)
    refused(*PAIR, "-o", "out", says=["model.safetensors.index.json", "is no index of shards"])


def test_all_sources_that_cannot_be_read_are_listed_at_once(refused):
    refused("merge", MERGE, "base=no/such/base", "math=no/such/math", "-o", "out", lines=3,
            says=["base: no/such/base does not exist", "math: no/such/math does not exist"])  # fmt: skip


@pytest.mark.parametrize(
    "path", ["nowhere", "x" * 300, "~nobody-of-this-name/x", "loop", "base/config.json", "base/none"]
)
def test_a_path_that_leads_nowhere_is_named(world, refused, path):
    (world / "loop").symlink_to("loop")
    refused("merge", "base", f"base={path}", "-o", "target", says=path)


def test_a_hub_name_says_that_it_was_looked_for_there(refused):
    refused("merge", "base", "base=org/model-that-is-nowhere", "-o", "out", says="is no local path")


def test_a_folder_with_pickles_only_is_refused_by_name(world, refused):
    (world / "old").mkdir()
    (world / "old/pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch out'\ntR.")
    refused("merge", "old", "old=old", "-o", "out", says=["pytorch_model.bin", "safetensors"])
    (world / "empty").mkdir()
    refused("merge", "old", "old=empty", "-o", "out", says="holds no safetensors file")


def test_a_folder_where_it_is_not_clear_which_file_is_meant_asks(world, refused):
    shutil.copyfile(world / "base/model.safetensors", world / "math/model.safetensors")
    refused(*PAIR, "-o", "out", says="name the one you mean")
    (world / "two").mkdir()
    for name in ("a", "b"):
        shutil.copyfile(world / "base/model.safetensors", world / f"two/{name}.safetensors")
    refused("merge", "two", "two=two", "-o", "out", says=["name the one you mean", "a.safetensors", "b.safetensors"])


def test_float8_with_scales_beside_it_is_refused(world, build, refused):
    scaled = {
        "w.weight": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [4, 8]},
        "w.weight_scale": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    build.raw(world / "fp8.safetensors", scaled, bytes(8))
    says = ["w.weight_scale", "de-quantise first"]
    refused("merge", "fp8", "fp8=fp8.safetensors", "--dtype", "float32", "-o", "out", says=says)


def test_a_record_that_is_none_is_a_stated_error(world, refused, run):
    assert run(*PAIR, "-o", "done").code == 0
    record = world / "done/taskvec.json"
    for text in (b"{", b"\xff", b"[" * 100_000, b'{"a": 1}', b'{"recipe": "x", "inputs": {"a": {}}, "tensors": {}}'):
        record.write_bytes(text)
        for verb in ("log", "verify"):
            refused(verb, "done", says="taskvec.json holds no record that can be read")
        refused("merge", "done", "done=done", "-o", "out", says="taskvec.json holds no record that can be read")


def test_verify_names_the_tensor_that_changed(world, refused, run):
    assert run(*PAIR, "-o", "done").code == 0
    path = world / "done/model.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    refused("verify", "done", says=["done is not what was written", "model.norm.weight holds other data"], lines=2)
    refused("verify", "base", says="taskvec did not write it")
    refused("log", "base", says="taskvec did not write it")


# ---- numbers --------------------------------------------------------------------------------------
def test_nan_and_inf_are_traced_to_tensor_and_source(world, build, refused, run):
    content = build.tensors(1)
    content["model.embed.weight"][3, 1] = np.nan
    content["model.norm.weight"][0] = -np.inf
    build.model(world / "sick", content)
    sick = ("merge", MERGE, "base=base", "math=sick")
    for threads in ("1", "2"):
        refused(*sick, "--threads", threads, "-o", "out", lines=3, says=[
            'model.embed.weight has NaN or Inf in load("sick")', 'model.norm.weight has NaN or Inf in load("sick")',
            "--allow-nonfinite"])  # fmt: skip
    for out in ("sick-folder", "sick.safetensors"):
        found = run(*sick, "-o", out, "--allow-nonfinite")
        assert found.code == 0 and "warning: NaN or Inf in model.embed.weight, model.norm.weight" in found.stderr
        assert run("verify", out).code == 0
        assert "nonfinite: ['model.embed.weight', 'model.norm.weight']" in run("log", out).stdout


def test_what_the_output_dtype_cannot_hold_is_an_overflow(world, build, refused, run):
    build.model(world / "large", {name: np.full_like(t, 70_000) for name, t in build.tensors(1).items()})
    refused("merge", "a", "a=large", "--dtype", "float16", "-o", "out", says="model.norm.weight overflows F16")
    refused("merge", "a", "a=large", "--dtype", "float8_e4m3fn", "-o", "out", says="overflows F8_E4M3")
    assert run("merge", "a", "a=large", "--dtype", "bfloat16", "-o", "done").code == 0


# ---- options --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--dtype", "float12", ["float12", "float16"]),
        ("--dtype", "int8", "int8"),
        ("--ram", "lots", ["'lots'", "1GiB"]),
        ("--ram", "-1GB", "not positive"),
        ("--ram", "nan", "'nan'"),
        ("--ram", "1e999GB", "'1e999GB'"),
        ("--ram", "1MB", ["needs at least", "of memory", "1 MB"]),
        ("--shard-size", "0", "not positive"),
        ("--shard-size", "5XB", "'5XB'"),
        ("--set", "lam=1", ["no knob named lam", "knobs are none"]),
        ("--set", "lam", "'lam' is not KNOB=NUMBER"),
        ("--like", "nowhere", "nowhere does not exist"),
    ],
)
def test_an_option_with_a_bad_value_says_which(refused, option, value, says):
    refused(*PAIR, option, value, "-o", "out", says=says)


@pytest.mark.parametrize("value", ["much", "nan", "inf", "1/0", "1/2/3", "1e999", "", "0x10", "9" * 5000])
def test_a_knob_wants_a_number(refused, value):
    refused("merge", "base + lam*(math - base)", "base=base", "math=math", "--set", f"lam={value}", "-o", "out")


def test_a_knob_without_a_value_is_named(refused):
    refused("merge", "base + lam*(math - base)", "base=base", "math=math", "-o", "out", says="lam")
    refused("merge", "base + lam*(math - base)", "base=base", "math=math", "--set", "lm=1", "-o", "out",
            says=["no knob named lm", "knobs are lam"])  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*PAIR], "--out"),
        ([*PAIR, "--threads", "0", "-o", "out"], "--threads"),
        ([*PAIR, "--threads", "two", "-o", "out"], "--threads"),
        ([*PAIR, "--wat", "-o", "out"], "--wat"),
        (["murge"], "murge"),
        (["merge"], "RECIPE"),
    ],
)
def test_a_command_that_is_none_exits_with_two(refused, arguments, says):
    refused(*arguments, code=2, says=says)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("math", "'math' is not NAME=URI"),
        ("ma-th=math", "is not NAME=URI"),
        ("=math", "is not NAME=URI"),
        ("math=", "is not NAME=URI"),
        ("base=math", "base is given twice"),
        ("mth=math", "no model is named math (did you mean mth?)"),
    ],
)
def test_an_argument_that_is_no_source_is_named(refused, argument, says):
    refused("merge", MERGE, "base=base", argument, "-o", "out", says=says)


# ---- places to write ------------------------------------------------------------------------------
def test_an_output_that_is_not_empty_is_refused(world, refused):
    (world / "kept").mkdir()
    (world / "kept/notes.txt").write_text("mine")
    refused(*PAIR, "-o", "kept", says=["kept exists and is not empty", "--overwrite"])
    refused(*PAIR, "-o", "base", says=["base exists and is not empty", "--overwrite"])
    refused(*PAIR, "-o", "base/model.safetensors", says=["model.safetensors exists", "--overwrite"])
    refused(*PAIR, "-o", "kept", "--overwrite", says=["kept", "no checkpoint"])
    refused(*PAIR, "-o", ".", "--overwrite", says="still needed")
    refused(*PAIR, "-o", "base/config.json", "--overwrite", says=["config.json is a file", "remove it first"])


def test_an_output_that_is_an_input_is_replaced_only_when_asked_and_is_right(world, run, refused, build):
    assert run(*PAIR, "-o", "expected").code == 0
    assert run("merge", MERGE, "base=base", "math=math", "-o", "base", "--overwrite").code == 0
    expected = build.contents(world / "expected")
    assert build.contents(world / "base")["model.safetensors"] == expected["model.safetensors"]
    assert not [p for p in world.iterdir() if p.name.startswith(".")]


def test_a_single_file_may_replace_the_file_it_is_made_from(world, run):
    for name in ("base", "math"):
        assert run("merge", "m", f"m={name}", "-o", f"{name}.safetensors").code == 0
    pair = ("merge", MERGE, "base=base.safetensors", "math=math.safetensors", "-o")
    assert run(*pair, "expected.safetensors").code == 0
    assert run(*pair, "base.safetensors", "--overwrite").code == 0
    whole = [(world / f"{name}.safetensors").read_bytes() for name in ("base", "expected")]
    assert whole[0] == whole[1]


def test_an_output_around_a_source_is_refused_and_one_beside_it_is_fine(world, build, refused, run):
    build.model(world / "nest", build.tensors(3))
    shutil.copytree(world / "base", world / "nest/base")
    factors = {f"base_model.model.model.norm.lora_{side}.weight": np.ones((2, 2), "f4") for side in "AB"}
    build.lora(world / "nest/lora", factors)
    refused("merge", MERGE, "base=nest/base", "math=math", "-o", "nest", "--overwrite", says="still needed")
    refused("merge", "b", "b=nest/base/model.safetensors", "-o", "nest", "--overwrite", says="still needed")
    refused("merge", "0.5*load('nest/lora')", "-o", "nest", "--overwrite", says=["nest/lora", "still needed"])
    refused("merge", MERGE, "base=base", "math=math", "--like", "nest/base", "-o", "nest", "--overwrite",
            says="still needed")  # fmt: skip
    before = build.contents(world / "base")
    assert run(*PAIR, "-o", "base/merged").code == 0
    assert {n: b for n, b in build.contents(world / "base").items() if not n.startswith("merged")} == before


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("base/config.json/x", "config.json is not a folder"),
        ("loop", "loop"),
        ("~nobody-of-this-name/x", "~nobody"),
        ("x" * 300, "File name too long"),
        ("x" * 250, "File name too long"),
    ],
)
def test_an_output_that_cannot_be_made_says_why(world, refused, out, says):
    (world / "loop").symlink_to("loop")
    refused(*PAIR, "-o", out, says=says)


def test_a_side_file_that_leads_nowhere_is_named_and_once_it_is_mended_the_same_command_works(world, run):
    (world / "base/vocab.txt").symlink_to("gone.txt")
    found = run(*PAIR, "-o", "out")
    assert (found.code, found.stdout, found.stderr) == (1, "", "error: base/vocab.txt: does not exist\n")
    assert not (world / "out").exists()
    (world / "base/gone.txt").write_text("a")
    assert run(*PAIR, "-o", "out").code == 0
    assert (world / "out/vocab.txt").read_text() == "a"


def test_a_configuration_that_is_no_json_is_copied_as_it_is(world, run):
    (world / "base/config.json").write_bytes(b"[" * 100_000)
    assert run(*PAIR, "-o", "out").code == 0
    assert (world / "out/config.json").read_bytes() == b"[" * 100_000


# ---- what the machine refuses ---------------------------------------------------------------------
def test_a_disk_that_is_too_small_is_found_out_before_anything_is_made(world, big, disk, refused):
    small = disk("size=90m")
    refused("merge", "base", f"base={big / 'base'}", "-o", small / "x", says=["x needs 268 MB", "left", str(small)])
    assert not list(small.iterdir())


def test_a_disk_that_fills_up_in_the_middle_leaves_no_output_and_the_same_command_goes_on(
    world, big, disk, paused, run
):
    """The room for the tensors was reserved; it is the journal and the side files that find none."""
    small = disk("size=400m")
    command = ("merge", MERGE, f"base={big / 'base'}", f"math={big / 'math'}", "--threads", "1", "-o", small / "x")
    with paused(*command, out=f"{small.name}/x") as process:
        with (small / "filler").open("wb") as filler, pytest.raises(OSError, match="No space left"):
            while True:
                os.posix_fallocate(filler.fileno(), filler.tell(), 1 << 12)
                filler.seek(1 << 12, os.SEEK_CUR)
        found = process.result()
    assert (found.code, found.stdout) == (1, "")
    assert found.stderr.startswith(f"error: no space left on the disk of {small / 'x'}; make room")
    assert "Traceback" not in found.stderr and not (small / "x").exists()
    (small / "filler").unlink()
    again = run(*command, "--json")
    assert again.code == 0 and json.loads(again.stdout)["reused"] > 0
    assert run("verify", small / "x").code == 0
    assert [p.name for p in small.iterdir()] == ["x"]


def test_a_disk_too_small_for_the_tokenizer_leaves_no_output(world, disk, run):
    (world / "base/tokenizer.json").write_bytes(bytes(1 << 20))
    small = disk("size=512k")
    found = run(*PAIR, "-o", small / "x")
    assert (found.code, found.stdout) == (1, "") and "no space left" in found.stderr
    assert not (small / "x").exists()


def test_a_read_only_disk_is_refused(disk, refused):
    locked = disk("size=1m,ro")
    refused(*PAIR, "-o", locked / "x", says=["cannot be made", "no permission to write", str(locked)])


def test_a_folder_without_permission_to_write_is_refused(world, refused, bound_by_permissions):
    (world / "locked").mkdir(mode=0o500)
    refused(*PAIR, "-o", "locked/x", says=["no permission to write", "locked"], **bound_by_permissions)


@pytest.mark.parametrize("what", ["math", "math/model-00001-of-00002.safetensors", "math/model.safetensors.index.json"])
def test_a_source_without_permission_to_read_is_refused(world, run, what, bound_by_permissions):
    (world / what).chmod(0o000)
    found = run(*PAIR, "-o", "out", **bound_by_permissions)
    (world / what).chmod(0o700)
    assert (found.code, found.stdout) == (1, "")
    assert found.stderr.startswith("error: ") and "permission denied" in found.stderr and what in found.stderr
    assert "Traceback" not in found.stderr and not (world / "out").exists()


# ---- sources that move ----------------------------------------------------------------------------
def overwrite(path):
    with path.open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(bytes(64))


def replace(path):
    shutil.copyfile(path, path.with_name("new"))
    path.with_name("new").replace(path)


@pytest.mark.parametrize(
    ("move", "says"),
    [
        (overwrite, "changed while it was read"),
        (replace, "changed while it was read"),
        (os.unlink, "vanished while it was read"),
        (lambda path: os.truncate(path, 1 << 20), "while it was read"),
        (lambda path: path.rename(path.with_name("elsewhere")), "vanished while it was read"),
    ],
    ids=["overwritten", "replaced", "removed", "truncated", "renamed"],
)
def test_a_source_that_moves_while_it_is_read_ends_the_work_without_output(tmp_path, big, paused, move, says):
    for name in ("base", "math"):
        shutil.copytree(big / name, tmp_path / name)
    with paused(*PAIR, "--threads", "1", "-o", "out") as process:
        move(tmp_path / "math/model-00002-of-00002.safetensors")
        found = process.result()
    assert (found.code, found.stdout) == (1, ""), found
    assert found.stderr.startswith("error: ") and says in found.stderr and "nothing was written" in found.stderr
    assert "math" in found.stderr and "Traceback" not in found.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "math"]


# ---- what used to end in a traceback ---------------------------------------------------------------
def test_the_root_of_all_files_is_no_output(refused):
    refused(*PAIR, "-o", "/", says="/ is the root of all files")


def test_a_number_has_no_layers(refused):
    refused("plan", "base + layerwise(0.5, 'k')", "base=base", says="layerwise works on a task vector, not on")


def test_a_vocabulary_has_at_most_so_many_rows(refused):
    refused("plan", f"resize_vocab(base, {10**20})", "base=base", says="size must be at most 2147483647")


def test_a_slice_without_sources_is_named(world, refused):
    (world / "m.yml").write_text("merge_method: slerp\nslices: [{sources: []}]\n")
    refused("merge", "m.yml", "-o", "out", says="slices[0].sources is empty")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tasks: {x: {kind: [a]}}\n", "x: kind is one of"),
        ("[" * 20_000, "nested too deeply"),
        (
            "tasks: {x: {kind: command, run: 'true {model} {split}; python3 -c \"print(10**400)\"'}}\n",
            "is no number and no list of them",
        ),
        (
            "tasks: {x: {kind: command, run: \"true {model} {split}; printf '\\\\\\\\377'; exit 1\"}}\n",
            "the command ended with 1",
        ),
    ],
    ids=["kind", "brackets", "number", "bytes"],
)
def test_tasks_that_are_none_are_named(world, refused, text, says):
    (world / "t.yml").write_text(text)
    refused("eval", "base + 0*math", "base=base", "math=math", "--evaluate", "t.yml", says=says)


def test_a_template_that_is_no_text_is_named(world, refused):
    (world / "base/chat_template.jinja").write_bytes(b"\xff")
    model = "{model: base, parameters: {weight: 1}}"
    (world / "m.yml").write_text(f"merge_method: linear\nchat_template: auto\nmodels: [{model}]\n")
    refused("merge", "m.yml", "-o", "out", says="base/chat_template.jinja is no UTF-8 text")


@pytest.mark.parametrize(
    "table",
    [
        {"model": {"vocab": {"a": 0}}, "added_tokens": 1},
        {"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": ["a"], "id": 1}]},
        {"model": {"type": "Unigram", "vocab": [["a", "x"], ["b", None]]}},
        {"model": {"type": "Unigram", "vocab": [["a", 0, 1]]}},
        {"model": {"type": "Unigram", "vocab": [["a", True]]}},
    ],
    ids=["no list", "content", "scores", "triples", "bool"],
)
def test_a_tokenizer_that_is_none_is_named(world, refused, table):
    kind = table["model"].get("type")
    (world / "math/tokenizer.json").write_text(json.dumps(table))
    other = {"model": {"type": kind, "vocab": [["z", 0.0]] if kind else {"z": 0}}}
    (world / "base/tokenizer.json").write_text(json.dumps(other))
    recipe = 'align_vocab(math, math, base, embedding="model.embed.weight")'
    refused("merge", recipe, "math=math", "base=base", "-o", "out", says=["math/tokenizer.json is no vocabulary"])


def test_a_folder_whose_name_is_no_utf8_is_merged_and_named(world, run):
    odd = os.fsencode(world) + b"/in\xffput"
    shutil.copytree(os.fsencode(world / "math"), odd)
    done = run("merge", MERGE, "base=base", os.fsdecode(b"math=in\xffput"), "-o", "out")
    assert done.code == 0, done
    again = run("log", "out")
    assert "in\\udcffput" in again.stdout and again.code == 0
    assert "math=$'in\\xffput'" not in done.stdout
    assert "in\\xffput" in (world / "out/README.md").read_text()
    assert run("verify", "out").code == 0


@pytest.mark.parametrize("method", ["trim", "breadcrumbs"])
@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_tensors_without_entries_have_no_thresholds(world, run, build, method, scope):
    shapes = {"w": (8, 3), "empty": (0,), "rows": (0, 4)}
    for k, name in enumerate("ab"):
        build.model(world / name, {n: np.round(x) for n, x in build.tensors(k, shapes).items()})
    text = f"a + {method}(b - a, density=0.6, ties='first', scope='{scope}')"
    done = run("merge", text, "a=a", "b=b", "-o", "out")
    assert done.code == 0, done.stderr
