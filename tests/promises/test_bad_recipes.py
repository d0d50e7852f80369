"""A recipe that is none is refused with the place of the mistake, and nothing in it is run."""

import pytest


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


def test_a_number_has_no_layers(refused):
    refused("plan", "base + layerwise(0.5, 'k')", "base=base", says="layerwise works on a task vector, not on")


def test_a_vocabulary_has_at_most_so_many_rows(refused):
    refused("plan", f"resize_vocab(base, {10**20})", "base=base", says="size must be at most 2147483647")


def test_a_slice_without_sources_is_named(world, refused):
    (world / "m.yml").write_text("merge_method: slerp\nslices: [{sources: []}]\n")
    refused("merge", "m.yml", "-o", "out", says="slices[0].sources is empty")
