"""Sources that do not fit together, or hold no usable numbers, are refused before anything is written."""

import shutil

import numpy as np
import pytest

from promises.small_merge import MERGE, PAIR


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
    done = run("check", "base", "wide", "nowhere")
    assert (done.code, done.stdout) == (1, "")
    for text in ("[12, 4]", "model.norm.weight", "nowhere does not exist"):
        assert text in done.stderr
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
        done = run(*sick, "-o", out, "--allow-nonfinite")
        assert done.code == 0 and "warning: NaN or Inf in model.embed.weight, model.norm.weight" in done.stderr
        assert run("verify", out).code == 0
        assert "nonfinite: ['model.embed.weight', 'model.norm.weight']" in run("log", out).stdout


def test_what_the_output_dtype_cannot_hold_is_an_overflow(world, build, refused, run):
    build.model(world / "large", {name: np.full_like(t, 70_000) for name, t in build.tensors(1).items()})
    refused("merge", "a", "a=large", "--dtype", "float16", "-o", "out", says="model.norm.weight overflows F16")
    refused("merge", "a", "a=large", "--dtype", "float8_e4m3fn", "-o", "out", says="overflows F8_E4M3")
    assert run("merge", "a", "a=large", "--dtype", "bfloat16", "-o", "done").code == 0


@pytest.mark.parametrize("method", ["trim", "breadcrumbs"])
@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_tensors_without_entries_have_no_thresholds(world, run, build, method, scope):
    shapes = {"w": (8, 3), "empty": (0,), "rows": (0, 4)}
    for k, name in enumerate("ab"):
        build.model(world / name, {n: np.round(x) for n, x in build.tensors(k, shapes).items()})
    text = f"a + {method}(b - a, density=0.6, ties='first', scope='{scope}')"
    done = run("merge", text, "a=a", "b=b", "-o", "out")
    assert done.code == 0, done.stderr
