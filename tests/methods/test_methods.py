"""What the folder of methods promises as a whole: one of your own is a function in a file of a few lines, and the
framework in methods/core knows no method and no parameter by its name."""

import ast
import math
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import RecipeError
from taskvec.methods import FUNCTIONS
from taskvec.methods.core.lift import Lifted
from taskvec.methods.core.measurement import Measurement
from taskvec.methods.core.method import Method, Range
from taskvec.methods.core.passes import one_by_one, told_grams, with_scale
from taskvec.methods.core.roles import Rows, Scale, Scope, Setting
from taskvec.methods.core.thresholds import cuts
from taskvec.numbers import kernels
from taskvec.numbers.operations import KEEP, SUM

SAMPLE = Path(__file__).with_name("sample.py")
CORE = Path(tv.__file__).parent / "methods" / "core"


# ---- a method of one's own ------------------------------------------------------------------------
@pytest.fixture
def models(build, tmp_path):
    for seed, name in enumerate(("base", "math")):
        build.model(tmp_path / name, build.tensors(seed))
    return {name: tv.load(tmp_path / name) for name in ("base", "math")}


def test_a_method_takes_ten_lines_and_works_in_python_a_recipe_and_the_command_line(models, run, tmp_path):
    assert len(SAMPLE.read_text().splitlines()) <= 10
    clipped = runpy.run_path(str(SAMPLE))["clipped"]
    base, math_ = models["base"], models["math"]
    in_python = base + clipped(math_ - base, limit=0.5)
    text = "base + clipped(math - base, limit=0.5)"
    in_recipe = tv.parse(text, base=base, math=math_, clipped=clipped)
    assert in_python == in_recipe
    done = run("merge", text, "base=base", "math=math", "--methods", SAMPLE, "-o", "out")
    assert done.code == 0, done.stderr
    out = tv.load(tmp_path / "out")
    assert list(out)
    for name in out:
        wanted = base[name] + np.clip(math_[name] - base[name], -0.5, 0.5)
        assert np.array_equal(in_recipe[name], wanted) and np.array_equal(out[name], wanted), name
    refused = run("merge", text.replace("0.5", "11"), "base=base", "math=math", "--methods", SAMPLE, "-o", "no")
    assert refused.code == 1 and "limit must lie in [0, 10], not 11" in refused.stderr


# ---- the framework knows no method by name -----------------------------------------------------------
def names_of_parameters():
    """Every parameter that a method has, what it is told beside, and the texts that parameters may be. `name` and
    `start` are what the framework itself tells a method that draws."""
    names = set()
    for method in FUNCTIONS.values():
        if isinstance(method, Method):
            names |= method.fn.__kwdefaults__.keys() if method.fn.__kwdefaults__ else set()
            names |= set(re.findall(r"\w+", " ".join(method.fn.__annotations__))) - {"return"}
            names |= {text for texts in method.texts.values() for text in texts}
    return names - {"name", "start"}


def test_the_names_that_the_framework_must_not_know_are_those_of_every_method():
    assert names_of_parameters() >= {"scope", "rescale", "ratio", "rows", "ties", "entries", "gram", "model", "l1"}


@pytest.mark.parametrize("path", sorted(CORE.glob("*.py")), ids=lambda p: p.stem)
def test_the_framework_tests_for_no_parameter_by_its_name(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    messages = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    forbidden, known = names_of_parameters() | FUNCTIONS.keys(), []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)) or id(node) in docstrings:
            continue
        is_said = any(f"{name}=" in node.value for name in forbidden if len(name) > 2)  # by a message
        if is_said or (node.value in forbidden and id(node) not in messages):
            known.append(f"{path.name}:{node.lineno}: {node.value!r}")
    assert not known, known


def _measured(measurements, threads, progress):
    def ranks(size, zeros, *, part, **_):
        return {"bound": math.floor(part * size)}

    measured = []
    for c in cuts(measurements, threads, progress, ranks):
        first = c.quotas(threads) if c.asked.m.call.by_tile else {}
        told = {
            name: {**values, "many": first[name]["bound"] if first else math.inf} for name, values in c.values().items()
        }
        measured.append(with_scale(c.asked.m, threads, progress, told))
    return measured


def _lowered(program, args, name, told):
    kept = program.add(KEEP, args, (told["bound"], math.inf, told["many"], math.inf))
    return kept if told["factor"] == 1 else program.add(SUM, [kept], (told["factor"],))


def largest(tau, *, part=0.2, over="everything", equal="every", keep="numbers", known=0, bound, many, factor):
    """`trim` under other names."""
    return kernels.apply(KEEP, [tau], (bound, math.inf, many, math.inf)) * np.float32(factor)


LARGEST = Lifted(
    largest, local=True, lower=_lowered, measure=_measured, passes=lambda p: 1 + (p["keep"] == "sum"), most=1,
    thresholds=1, ranges={"part": Range(0, 1), "known": Range(0, 2**62, whole=True)}, entries="known",
    scope=Setting("over", {"everything": Scope.MODEL, "each": Scope.TENSOR}),
    by_tile=Setting("equal", {"every": False, "some": True}),
    scale=Scale("factor", Setting("keep", {"numbers": False, "sum": True})),
)  # fmt: skip


@pytest.mark.parametrize("over", ["everything", "each"])
@pytest.mark.parametrize("equal", ["every", "some"])
@pytest.mark.parametrize("keep", ["numbers", "sum"])
def test_a_method_may_call_its_parameters_what_it_likes(over, equal, keep):
    rng = np.random.default_rng(0)
    shapes = {"a": (300, 500), "b": (70,), "c": (33, 5)}
    arrays = {name: rng.choice(np.float32([0, 1, -1, 0.5, 2]), shape) for name, shape in shapes.items()}
    tau = tv.from_arrays(arrays, "tau", mass=0)
    mine = LARGEST(tau, part=0.3, over=over, equal=equal, keep=keep)
    theirs = {
        "scope": {"everything": "model", "each": "tensor"}[over], "ties": {"every": "all", "some": "first"}[equal],
        "rescale": {"numbers": "none", "sum": "l1"}[keep],
    }  # fmt: skip
    trimmed = tv.trim(tau, density=0.3, **theirs)
    for name in shapes:
        assert np.array_equal(mine[name], trimmed[name]), name
        assert 0 < np.count_nonzero(mine[name]) < arrays[name].size
    (own,), (other,) = mine.terms, trimmed.terms
    assert (own.passes, own.piecewise, own.by_tile, own.scaled) == (
        other.passes, other.piecewise, other.by_tile, other.scaled,
    )  # fmt: skip


def test_messages_name_the_parameters_as_the_method_does(build, tmp_path):
    tau = tv.from_arrays({"a": np.ones(5, np.float32), "b": np.ones(4, np.float32)}, "tau", mass=0)
    with pytest.raises(RecipeError, match="largest: over is one of everything, each, not 'all'"):
        LARGEST(tau, over="all")
    with pytest.raises(
        RecipeError, match='largest: with over="everything" a parameter is one number, not one a tensor'
    ):
        LARGEST(tau, part=tv.per({"a": 0.5, "*": 0.2}))["a"]
    with pytest.raises(RecipeError, match="largest: known=3 is less than the 9 of its argument alone"):
        LARGEST(tau, known=3)["a"]
    a, b = "base_model.model.model.layers.0.mlp.lora_A.weight", "base_model.model.model.layers.0.mlp.lora_B.weight"
    lora = tv.load(build.lora(tmp_path / "lora", {a: np.ones((2, 4), np.float32), b: np.ones((8, 2), np.float32)}))
    with pytest.raises(RecipeError, match=r'how many there are \(known=\.\.\.\), or rank each .* \(over="each"\)'):
        LARGEST(lora)["model.layers.0.mlp.weight"]


def test_a_combination_by_rows_may_call_its_gram_matrix_and_its_scope_what_it_likes():
    def halves(products, *, along="rows"):
        """Every row as long as 1, and their mean."""
        return [0.5 / np.sqrt(products[k][k]) for k in (0, 1)]

    method = Lifted(
        halves, combines=True, measure=one_by_one(told_grams), passes=1, least=2, most=2,
        scope=Setting("along", {"rows": Scope.ROW, "columns": Scope.COLUMN}),
    )  # fmt: skip
    rng = np.random.default_rng(1)
    x, y = (rng.standard_normal((5, 7)).astype(np.float32) for _ in range(2))
    given = [tv.from_arrays({"w": w}, name, mass=0) for w, name in ((x, "x"), (y, "y"))]
    for along, axis in (("rows", 1), ("columns", 0)):
        wanted = sum(w / np.linalg.norm(w, axis=axis, keepdims=True) for w in (x, y)) / 2
        np.testing.assert_allclose(method(*given, along=along)["w"], wanted, rtol=1e-5)


def test_what_a_row_is_is_a_setting_too():
    def first(tau, *, across="no"):
        """1 at the beginning of each row, 0 elsewhere."""
        copied = np.zeros_like(tau)
        copied[:, 0] = 1
        return copied

    method = Lifted(first, most=1, rows=Setting("across", {"no": Rows.LAST_AXIS, "yes": Rows.BEHIND_FIRST_AXIS}))
    tau = tv.from_arrays({"w": np.ones((2, 3, 4), np.float32)}, "tau", mass=0)
    assert np.flatnonzero(method(tau)["w"]).tolist() == [0, 4, 8, 12, 16, 20]
    assert np.flatnonzero(method(tau, across="yes")["w"]).tolist() == [0, 12]


# ---- what a measuring function is given -------------------------------------------------------------
def test_a_measurement_says_what_its_docstrings_promise():
    seen = []

    def measure(m: Measurement, threads, progress):
        rows = np.empty((m.count, 4), np.float32)
        for piece in m.pieces(4):
            assert m.fill(piece, rows)
            seen.append((piece.name, piece.start, rows[:, : piece.size].tolist()))
        assert (m.names, m.groups, m.shape("b"), m.sizes["b"]) == (("b",), {"b": "b"}, (2, 3), 6)
        assert [(p.name, p.start, p.size) for p in m.pieces(4)] == [("b", 0, 4), ("b", 4, 2)]
        return {name: {"offset": float(m.sizes[name])} for name in m.names}

    def shifted(tau, other, *, by=1, offset):
        """tau + offset."""
        return tau + np.float32(offset)

    method = Lifted(shifted, local=True, measure=one_by_one(measure), passes=1, least=2, most=2)
    one = {"a": np.arange(2, dtype=np.float32), "b": np.arange(6, dtype=np.float32).reshape(2, 3)}
    two = {name: -array for name, array in one.items()}
    weights = method(*(tv.from_arrays(arrays, name, mass=0) for arrays, name in ((one, "one"), (two, "two"))))
    names = [*weights]
    assert weights.read("b").tolist() == [[6, 7, 8], [9, 10, 11]] and names == ["a", "b"]
    numbers = [0.0, 1, 2, 3, 4, 5]
    assert seen == [("b", at, [part, [-x for x in part]]) for at, part in ((0, numbers[:4]), (4, numbers[4:]))]
