"""Recipes as text: what is parsed, where what is refused stands, and other models in the place of those of a recipe."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import RecipeError, TaskvecError, UnknownName
from taskvec.recipes.recipe import DEEPEST, LONGEST, replaced, written


def weights(name, value=1.0, mass=1):
    return tv.from_arrays(
        {"layers.0.w": np.full(3, value, np.float32), "b": np.full(2, value, np.float32)}, name, mass=mass
    )


A, B = weights("a"), weights("b", 3.0)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a", A),
        ("  a\n", A),
        ("+a", A),
        ("-(b - a) + b", A - B + B),
        ("(a + b)/2", 0.5 * A + 0.5 * B),
        ("1/3*a + 2/3*b", tv.parse("a/3 + 2*b/3", a=A, b=B)),
        ("# half way\nx = 0.5  # a number\na + x*(b - a)", 0.5 * A + 0.5 * B),
        ('"""What it is for."""\na', A),
        ("tau = b - a\na + 2*tau", 2 * B - A),
        ("0.25*a + 0.75*b - 0*b", 0.25 * A + 0.75 * B),
        ("-.5*a + 1.5*b", 1.5 * B - 0.5 * A),
        ('only("b")*(b - a) + a', A + tv.only("b") * (B - A)),
    ],
)
def test_a_text_is_the_expression_that_it_says(text, wanted):
    assert (
        tv.parse(
            text, **{n: w for n, w in (("a", A), ("b", B)) if n in text.replace("tau", "").replace("half way", "")}
        )
        == wanted
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the recipe is empty"),
        ('"only a text"', r"Constant|this constant"),
        ("a +", r"no expression: .*line 1"),
        ("a = 1", "the last line must be an expression"),
        ("x = y = 1\na", r"only `name = expression` may stand above the last line \(line 1, column 1\)"),
        ("x: int = 1\na", "only `name = expression`"),
        ("x = 1\nx = 2\na", r"x has a value already \(line 2"),
        ("only = 1\na", "only is a function's name and cannot be assigned"),
        ("a.b", r"an attribute \(a dot\) has no place in a recipe"),
        ("a[0]", "an index has no place"),
        ("a ** 2", r"\*\* has no place in a recipe: use \+ - \* /"),
        ("a // 2", "// has no place"),
        ("a < b", "a comparison has no place"),
        ("lambda: a", "lambda has no place"),
        ("True*a", "this constant has no place"),
        ("1j*a", "this constant has no place"),
        ("a + 1", r"a model and a number cannot be added \(line 1, column 1\)"),
        ("a*b", "two models cannot be multiplied; a coefficient is a number"),
        ("1/a", "one cannot divide by a model"),
        ("a/0", "division by zero"),
        ("slerp", r"slerp is a function: call it, slerp\(...\)"),
        ("a()", "no function is named a"),
        ("slerpp(a, b)", r"no function is named slerpp \(did you mean slerp\?\)"),
        ("a.slerp(b)", "an attribute .a dot. cannot be called: only a function can"),
        ("slerp(a, b, t=0.1, t=0.2)", "keyword argument repeated|slerp is given t twice"),
        ("slerp(a, b, **x)", r"\*\* has no place in a recipe"),
        ("rename(a, {1: 'x'})", "the keys of a table must be texts"),
        ("rename(a, {'x': 'y', 'x': 'z'})", "the table has x twice"),
        ("0.5", "the recipe is a number, not a model"),
        ("0.5*c", r"a number, not a model: say which model a name is \(c=PATH\)"),
        ("1e999*a", "too large|finite"),
    ],
)
def test_what_is_no_recipe_is_said_with_its_place(text, message):
    with pytest.raises(RecipeError, match=message):
        tv.parse(text, **{n: w for n, w in (("a", A), ("b", B)) if n in text})


def test_a_name_without_a_model_is_asked_for_and_a_near_one_is_named():
    with pytest.raises(
        UnknownName, match=r"no model is named bse \(did you mean base\?\): say which it is \(bse=PATH\)"
    ):
        tv.parse("base + bse", base=A)
    with pytest.raises(UnknownName, match=r"baes was given, and the recipe does not use it \(did you mean bae\?\)"):
        tv.parse("a + bae*(a - b)", a=A, b=B, baes=weights("baes"))
    assert tv.parse("a + lam*(b - a)", a=A, b=B).knobs == {"lam"}


def test_texts_are_bounded_in_length_and_in_depth_and_sums_only_in_length():
    assert tv.parse("+".join(["0.001*a"] * 1000), a=A).mass == 1
    with pytest.raises(RecipeError, match=f"longer than {LONGEST}"):
        tv.parse("a" + " " * LONGEST)
    with pytest.raises(RecipeError, match=r"nested too deeply|too many nested|cannot be read"):
        tv.parse("(" * (DEEPEST + 2) + "-" * (DEEPEST + 2) + "a" + ")" * (DEEPEST + 2), a=A)
    with pytest.raises(RecipeError, match=r"x8 is longer than \d+ characters when it is written out"):
        tv.parse(
            "x = a1 + b1\n"
            + "\n".join(f"x{k} = x{k - 1 if k else ''}*(c{k} + d{k})" for k in range(20))
            + "\ny = x19\na",
            a=A,
        )


def test_what_is_given_has_a_name_and_a_kind():
    for name in ("slerp", "not a name"):
        with pytest.raises(RecipeError, match=f"'{name}' cannot be a name in a recipe"):
            tv.parse("a", a=A, **{name: B})
    assert tv.parse("a + x*(b - a)", a=A, b=B, x=1) == B
    with pytest.raises(RecipeError, match="a recipe is a text, not int"):
        tv.parse(3)
    with pytest.raises(TypeError, match="revision must be a text"):
        tv.load("m", revision=3)


def test_a_method_of_ones_own_is_called_and_not_used_as_a_number():
    @tv.method
    def twice(x):
        return 2 * x

    assert tv.parse("twice(a)", a=A, twice=twice)["b"].tolist() == [2, 2]
    with pytest.raises(RecipeError, match=r"twice is a method: call it, twice\(...\)"):
        tv.parse("a + twice", a=A, twice=twice)
    with pytest.raises(RecipeError, match=r"no function is named twic \(did you mean twice\?\)"):
        tv.parse("twic(a)", a=A, twice=twice)


def test_a_recipe_file_has_a_line_a_source_and_reads_back(build, tmp_path):
    for seed, name in enumerate(("base", "math")):
        build.model(tmp_path / name, build.tensors(seed))
    w = tv.parse("base + 0.5*(math - base)", base=str(tmp_path / "base"), math=str(tmp_path / "math"))
    text = written(w)
    assert text.splitlines()[-1] == "0.5*base + 0.5*math" and len(text.splitlines()) == 3 and text.endswith("\n")
    assert tv.parse(text) == w


def test_other_models_take_the_place_of_those_of_a_recipe():
    w = tv.parse("a + x*(b - a)", a=A, b=B)
    c = weights("c", 5.0)
    assert replaced(w, {"b": c}) == tv.parse("a + x*(b - a)", a=A, b=c) and replaced(w, {}) == w
    with pytest.raises(RecipeError, match="the recipe has no c, d; it has a, b"):
        replaced(w, {"d": c, "c": c})


def test_an_error_keeps_its_kind():
    with pytest.raises(TaskvecError, match=r"stop is at most 1, not 9 \(line 2, column 1\)"):
        tv.parse("x = 1\ntake_layers(a, 0, 9)", a=A)
