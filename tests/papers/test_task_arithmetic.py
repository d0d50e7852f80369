"""The paper's operations (Ilharco et al. 2023, arXiv 2212.04089, sections 2 to 5, and the special cases that others
named) through taskvec, against eager lines: bit for bit, since the arithmetic is documented to the last rounding.

An expression collapses to {model: coefficient}, coefficients exact rationals. Each is rounded to the accumulator
(float32; float64 if a source is), terms are summed around a pivot (algebra/program.py; `eager_sum` says it in a few
lines) in the order of the sources' fingerprints, every operation rounded on its own, and the sum is rounded once to the
output's dtype.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from paper_builders import (
    DTYPES,
    LAYERS,
    SHAPES,
    Tensors,
    assert_same_bits,
    cast,
    eager_model,
    eager_sum,
    every_number,
    fine_tuned,
    order,
    random_model,
    raw,
    read,
    rounded_once,
    taskvec,
    write,
)

import taskvec as tv

Q = Fraction
NAMES = ("base", "a", "b", "c")

# What the papers write -> the coefficients that it comes to.
OPERATIONS: dict[str, tuple[str, dict[str, Fraction]]] = {
    "negation": ("base - 0.7*(a - base)", {"base": Q("1.7"), "a": Q("-0.7")}),
    "addition of two tasks": (
        "base + 0.4*((a - base) + (b - base))",
        {"base": Q("0.2"), "a": Q("0.4"), "b": Q("0.4")},
    ),
    "addition of three tasks": (
        "base + 0.3*(a - base) + 0.4*(b - base) + 0.4*(c - base)",
        {"base": Q("-0.1"), "a": Q("0.3"), "b": Q("0.4"), "c": Q("0.4")},
    ),
    "learning and forgetting": (
        "base + 0.6*(a - base) - 0.3*(b - base)",
        {"base": Q("0.7"), "a": Q("0.6"), "b": Q("-0.3")},
    ),
    "analogy": (
        "base + 0.8*((c - base) + ((b - base) - (a - base)))",
        {"base": Q("0.2"), "c": Q("0.8"), "b": Q("0.8"), "a": Q("-0.8")},
    ),
    "analogy with a coefficient each": (
        "base + 1.1*(c - base) + 0.5*((b - base) - (a - base))",
        {"base": Q("-0.1"), "c": Q("1.1"), "b": Q("0.5"), "a": Q("-0.5")},
    ),
    "interpolation, WiSE-FT": ("(1 - 0.3)*base + 0.3*a", {"base": Q("0.7"), "a": Q("0.3")}),
    "uniform soup": ("(a + b + c)/3", {"a": Q(1, 3), "b": Q(1, 3), "c": Q(1, 3)}),
    "extrapolation, ExPO": ("a + 0.3*(a - base)", {"a": Q("1.3"), "base": Q("-0.3")}),
}
# Dtypes of base, a, b and c, and of the norms where they have one of their own.
MIXTURES: dict[str, tuple[str, ...]] = {
    **{dtype: (dtype,) * 4 for dtype in DTYPES},
    "BF16, norms F32": ("BF16",) * 4 + ("F32",),
    "BF16 base, wider tunes": ("BF16", "F32", "F16", "BF16"),
    "F32 base, one tune F64": ("F32", "F64", "F32", "BF16"),
    "F8 base, other tunes": ("F8_E4M3", "BF16", "F8_E5M2", "F16"),
}
Written = Callable[[str], tuple[dict[str, Tensors], dict[str, Path]]]


def models_of(mixture: str) -> dict[str, Tensors]:
    *dtypes, norms = MIXTURES[mixture] if len(MIXTURES[mixture]) == 5 else (*MIXTURES[mixture], "")
    exact = random_model(1)
    tuned = {name: fine_tuned(exact, seed) for seed, name in enumerate("abc", 2)}
    return {n: cast(m, d, norms) for d, (n, m) in zip(dtypes, ({"base": exact} | tuned).items(), strict=True)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The four models of a mixture and where they lie; each mixture is written once."""
    home, made = tmp_path_factory.mktemp("models"), {}

    def get(mixture: str) -> tuple[dict[str, Tensors], dict[str, Path]]:
        if mixture not in made:
            models = models_of(mixture)
            made[mixture] = models, {k: write(home / str(len(made)) / k, m) for k, m in models.items()}
        return made[mixture]

    return get


def eager(recipe: str, scales: dict[str, Fraction], models: dict[str, Tensors], folders: dict[str, Path]) -> Tensors:
    """The sum in the dtypes of the first model that the recipe names and that does not cancel."""
    like = models[min(scales, key=lambda name: re.search(rf"\b{name}\b", recipe).start())]
    return eager_model(scales, {k: models[k] for k in scales}, order({k: folders[k] for k in scales}), like)


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_is_its_eager_sum_bit_for_bit(
    operation: str, mixture: str, written: Written, tmp_path: Path
) -> None:
    recipe, scales = OPERATIONS[operation]
    models, folders = written(mixture)
    tv.save(tv.parse(recipe, **{k: folders[k] for k in scales}), tmp_path / "out")
    assert_same_bits(read(tmp_path / "out"), eager(recipe, scales, models, folders))


@pytest.mark.parametrize("mixture", ["BF16", "F8 base, other tunes"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_command_line_merges_to_the_same_bits(
    operation: str, mixture: str, written: Written, tmp_path: Path
) -> None:
    recipe, scales = OPERATIONS[operation]
    models, folders = written(mixture)
    taskvec("merge", recipe, *(f"{k}={folders[k]}" for k in scales), "-o", tmp_path / "out")
    assert_same_bits(read(tmp_path / "out"), eager(recipe, scales, models, folders))


# A verb with fine-tuned models -> the same in words, and its coefficients.
VERBS: dict[str, tuple[list[str], dict[str, Fraction]]] = {
    "negate": (["negate", "base", "a", "--scale", "0.7"], {"base": Q("1.7"), "a": Q("-0.7")}),
    "add": (
        ["add", "base", "a", "b", "c", "--scale", "1/3"],
        {"base": Q(0), "a": Q(1, 3), "b": Q(1, 3), "c": Q(1, 3)},
    ),
    "analogy": (
        ["analogy", "base", "--a", "a", "--b", "b", "--c", "c", "--scale", "0.8"],
        {"base": Q("0.2"), "a": Q("-0.8"), "b": Q("0.8"), "c": Q("0.8")},
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_the_paper_s_equation(verb: str, written: Written, tmp_path: Path) -> None:
    words, scales = VERBS[verb]
    models, folders = written("BF16")
    taskvec(*(folders.get(word, word) for word in words), "-o", tmp_path / "out")
    assert_same_bits(read(tmp_path / "out"), eager_model(scales, models, order(folders), models["base"]))


@pytest.mark.parametrize("out", DTYPES)
@pytest.mark.parametrize("mixture", DTYPES)
def test_the_sum_is_rounded_once_to_the_dtype_that_is_asked_for(
    mixture: str, out: str, written: Written, tmp_path: Path
) -> None:
    models, folders = written(mixture)
    scales = {"base": Q("0.7"), "a": Q("0.3")}
    tv.save(tv.parse("0.7*base + 0.3*a", base=folders["base"], a=folders["a"]), tmp_path / "out", dtype=out)
    two = {k: models[k] for k in scales}
    if out == "F64":  # an output in float64 is summed in float64, whatever the sources are
        two = {k: cast(m, "F64") for k, m in two.items()}
    names = order({k: folders[k] for k in scales})
    assert_same_bits(read(tmp_path / "out"), eager_model(scales, two, names, models["base"], out))


@pytest.mark.parametrize("out", ["F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_a_float64_sum_next_to_a_midpoint_is_not_rounded_twice(out: str, tmp_path: Path) -> None:
    numbers, _ = every_number(DTYPES[out])
    middle = (numbers[:-1] + numbers[1:]) / 2
    beside = torch.from_numpy(np.concatenate([middle, middle * (1 + 2.0**-40), middle * (1 - 2.0**-40)]))
    model = write(tmp_path / "model", {"values": beside})
    tv.save(tv.load(model), tmp_path / "out", dtype=out)
    assert_same_bits(read(tmp_path / "out"), {"values": rounded_once(beside.numpy(), DTYPES[out])})


# ---- differences ---------------------------------------------------------------------------------
@pytest.mark.parametrize("mixture", MIXTURES)
def test_the_base_and_the_whole_difference_are_the_tuned_model_byte_for_byte(
    mixture: str, written: Written, tmp_path: Path
) -> None:
    models, folders = written(mixture)
    base, tuned = tv.load(folders["base"]), tv.load(folders["a"])
    tv.save(base + (tuned - base), tmp_path / "out")
    assert_same_bits(read(tmp_path / "out"), models["a"])


@pytest.mark.parametrize("mixture", MIXTURES)
def test_a_task_vector_is_the_difference_in_the_accumulator_s_dtype(
    mixture: str, written: Written, tmp_path: Path
) -> None:
    models, folders = written(mixture)
    taskvec("diff", folders["a"], folders["base"], "-o", tmp_path / "tau")
    assert_same_bits(read(tmp_path / "tau"), difference(models["a"], models["base"]))


def difference(tuned: Tensors, base: Tensors) -> Tensors:
    """tuned - base in float32, or float64 if one of the two is; every subtraction rounded once. No integers."""
    vector = {}
    for name in SHAPES:
        real = torch.float64 if torch.float64 in (tuned[name].dtype, base[name].dtype) else torch.float32
        vector[name] = tuned[name].to(real) - base[name].to(real)
    return vector


@pytest.mark.parametrize("mixture", ["F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_a_stored_task_vector_brings_a_narrow_model_back_byte_for_byte(
    mixture: str, written: Written, tmp_path: Path
) -> None:
    models, folders = written(mixture)
    taskvec("diff", folders["a"], folders["base"], "-o", tmp_path / "tau")
    taskvec("add", folders["base"], tmp_path / "tau", "-o", tmp_path / "out")
    tensors, wanted = read(tmp_path / "out"), models["a"]
    for name, tensor in wanted.items():  # as numbers: (-0) + ((-0) - (-0)) is +0
        assert torch.equal(tensors[name].double(), tensor.double()), name


@pytest.mark.parametrize("mixture", ["F32", "F64", "BF16", "BF16 base, wider tunes"])
def test_stored_task_vectors_are_added_as_they_are(mixture: str, written: Written, tmp_path: Path) -> None:
    models, folders = written(mixture)
    stored = {}
    for name in "ab":
        taskvec("diff", folders[name], folders["base"], "-o", tmp_path / name)
        stored[name] = read(tmp_path / name)
    taskvec("add", folders["base"], tmp_path / "a", tmp_path / "b", "--scale", "0.4", "-o", tmp_path / "out")
    scales = {"base": Q(1), "a": Q("0.4"), "b": Q("0.4")}
    names = order({"base": folders["base"], "a": tmp_path / "a", "b": tmp_path / "b"})
    every = {"base": models["base"]} | stored
    assert_same_bits(read(tmp_path / "out"), eager_model(scales, every, names, models["base"], vectors="ab"))


def test_negating_a_task_twice_is_the_base(written: Written) -> None:
    _, folders = written("F32")
    base, tuned = tv.load(folders["base"]), tv.load(folders["a"])
    forgotten, negated = base - (tuned - base), -(tuned - base)
    assert forgotten + (tuned - base) == base
    assert base - negated == tuned


def test_the_soup_of_n_models_is_task_arithmetic_with_lambda_one_nth(written: Written) -> None:
    _, folders = written("F32")
    base, *tuned = (tv.load(folders[name]) for name in NAMES)
    soup = sum(tuned[1:], tuned[0]) / 3
    assert base + Q(1, 3) * sum((t - base for t in tuned), tv.Weights({})) == soup


# ---- a coefficient for every tensor --------------------------------------------------------------
def layer(name: str) -> int | None:
    return int(name.split(".")[2]) if ".layers." in name else None


def gradient(*points: Fraction, outside: Fraction) -> Callable[[str], Fraction]:
    """Linear between the points, which stand evenly from the first layer to the last."""

    def at(name: str) -> Fraction:
        if layer(name) is None:
            return outside
        position = Q(layer(name), LAYERS - 1) * (len(points) - 1)
        k = min(int(position), len(points) - 2)
        return points[k] + (position - k) * (points[k + 1] - points[k])

    return at


PER_TENSOR: dict[str, tuple[str, Callable[[str], Fraction]]] = {
    "a table": (
        'per({"*.mlp.*": 0.5, "*norm*": 0, "model.layers.[01].*": 0.9, "*": 0.25})',
        lambda n: Q("0.5") if ".mlp." in n else Q(0) if "norm" in n else Q("0.9") if layer(n) in (0, 1) else Q("0.25"),
    ),
    "only": ('0.6*only("model.layers.*.mlp.*", "lm_head.*")', lambda n: Q("0.6") * (".mlp." in n or "lm_head" in n)),
    "without": ('0.6*without("*norm*", "*embed*")', lambda n: Q("0.6") * (not ("norm" in n or "embed" in n))),
    "two filters": (
        '(0.6*only("*.mlp.*") - 0.2*only("*.layers.1.*"))',
        lambda n: Q("0.6") * (".mlp." in n) - Q("0.2") * (layer(n) == 1),
    ),
    "a gradient": ("layers(0.2, 0.8, outside=0.1)", gradient(Q("0.2"), Q("0.8"), outside=Q("0.1"))),
    "a gradient of three points": (
        "layers(1, -0.5, 0.25, outside=0)",
        gradient(Q(1), Q("-0.5"), Q("0.25"), outside=Q(0)),
    ),
    "a gradient, filtered and scaled": (
        'lam*only("*.mlp.*")*layers(0, 1, outside=1)',
        lambda n: Q("0.3") * (".mlp." in n) * gradient(Q(0), Q(1), outside=Q(1))(n),
    ),
}


@pytest.mark.parametrize("mixture", ["F32", "BF16, norms F32"])
@pytest.mark.parametrize("kind", PER_TENSOR)
def test_a_coefficient_may_differ_from_tensor_to_tensor(
    kind: str, mixture: str, written: Written, tmp_path: Path
) -> None:
    text, scale = PER_TENSOR[kind]
    models, folders = written(mixture)
    binds = ["--set", "lam=0.3"] if "lam" in text else []
    recipe = f"base + {text}*(a - base) - 0.1*(b - base)"
    taskvec("merge", recipe, *(f"{k}={folders[k]}" for k in ("base", "a", "b")), *binds, "-o", tmp_path / "out")
    scales = {"base": lambda n: Q("1.1") - scale(n), "a": scale, "b": Q("-0.1")}
    three = {k: models[k] for k in scales}
    names = order({k: folders[k] for k in scales})
    assert_same_bits(read(tmp_path / "out"), eager_model(scales, three, names, models["base"]))


def test_tensors_that_a_filter_leaves_out_keep_their_bytes(written: Written, tmp_path: Path) -> None:
    models, folders = written("F16")
    base, tuned = tv.load(folders["base"]), tv.load(folders["a"])
    tv.save(base + 0.5 * tv.only("*.mlp.*") * (tuned - base), tmp_path / "out")
    tensors = read(tmp_path / "out")
    changed = {name for name in tensors if raw(tensors[name]) != raw(models["base"][name])}
    assert changed == {name for name in SHAPES if ".mlp." in name}


@pytest.mark.parametrize("mixture", MIXTURES)
def test_reading_one_tensor_gives_the_sum_before_it_is_rounded(mixture: str, written: Written) -> None:
    models, folders = written(mixture)
    recipe, scales = OPERATIONS["learning and forgetting"]
    weights = tv.parse(recipe, **{k: folders[k] for k in scales})
    names = order({k: folders[k] for k in scales})
    for name in SHAPES:
        wanted = eager_sum(scales, {k: models[k][name] for k in scales}, names)
        assert weights[name].dtype == wanted.dtype
        assert np.array_equal(weights[name], wanted), name
        assert np.array_equal(weights.read(name, slice(3, 7)), wanted[3:7]), name
