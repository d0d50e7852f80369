"""Common slips are named: arguments that were exchanged, files that do not exist, names that nothing uses."""

import json

import numpy as np
import pytest

import taskvec as tv


@pytest.fixture
def models(tmp_path, build):
    """base and tuned, the vector between them, and a LoRA."""
    base = build.tensors(0)
    build.model(tmp_path / "base", base)
    build.model(tmp_path / "tuned", {n: a + np.asarray(0.5, a.dtype) for n, a in base.items()})
    tv.save(tv.load(tmp_path / "tuned") - tv.load(tmp_path / "base"), tmp_path / "tau.safetensors")
    name, array = next((n, a) for n, a in base.items() if a.ndim == 2)
    module = f"base_model.model.{name.removesuffix('.weight')}"
    rng = np.random.default_rng(1)
    factors = {f"{module}.lora_{k}.weight": rng.standard_normal(s).astype(np.float32)
               for k, s in (("A", (2, array.shape[1])), ("B", (array.shape[0], 2)))}  # fmt: skip
    build.lora(tmp_path / "lora", factors)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ("add", "tau.safetensors", "base"),
        ("add", "lora", "base"),
        ("negate", "tau.safetensors", "tuned"),
        ("diff", "base", "tau.safetensors"),
        ("diff", "tau.safetensors", "base"),
        ("analogy", "tau.safetensors", "--a", "base", "--b", "tuned", "--c", "tuned"),
    ],
)
def test_a_vector_where_a_model_belongs_is_named(run, models, words):
    done = run(*words, "-o", "out")
    assert done.code == 1 and "is a task vector, and" in done.stderr and "exchanged?" in done.stderr
    assert not (models / "out").exists()


def test_a_sum_of_adapters_that_was_stored_is_a_partial_vector_too(run, models):
    assert run("merge", "0.5*l", "l=lora", "-o", "half").code == 0
    assert run("add", "base", "half", "-o", "one").code == 0
    assert run("merge", "b + 0.5*l", "b=base", "l=lora", "-o", "two").code == 0
    from_stored, from_adapter = tv.load(models / "one"), tv.load(models / "two")
    assert all(np.array_equal(from_stored[n], from_adapter[n]) for n in from_stored) and any(
        (from_stored - tv.load(models / "base"))[n].any() for n in from_stored
    )
    stored = tv.load(models / "half")
    assert str(tv.load(models / "base") + tv.trim(stored)).count("trim(") == 1
    tv.save(tv.load(models / "base") + tv.trim(stored), models / "trimmed")


def test_files_that_are_not_there_and_names_that_nothing_uses(run, models):
    for name in ("linear.yml", "configs/none.yaml", "recipe.py", "./recipe.txt"):
        done = run("merge", name, "-o", "out")
        assert done.code == 1 and f"{name} does not exist: give a recipe, or a file with one" in done.stderr
    (models / "m.yml").write_text(json.dumps({"merge_method": "linear", "models": [
        {"model": "base", "parameters": {"weight": 1}}, {"model": "tuned", "parameters": {"weight": 1}}]}))  # fmt: skip
    done = run("merge", "m.yml", "tunde=tuned", "-o", "out")
    assert done.code == 1 and "m.yml names no model tunde" in done.stderr and not (models / "out").exists()
    assert run("merge", "m.yml", "tuned=tuned", "-o", "out").code == 0


def test_a_pointer_of_git_lfs_is_told_from_a_model(run, models):
    (models / "lfs").mkdir()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    (models / "lfs/model.safetensors").write_text(pointer)
    done = run("show", "lfs")
    assert done.code == 1 and "a pointer of Git LFS: fetch the file with git lfs pull" in done.stderr


@pytest.mark.parametrize(("name", "kind"), [("fp16", "F16"), ("half", "F16"), ("fp32", "F32"), ("bf16", "BF16")])
def test_dtypes_have_the_names_that_people_type(run, models, name, kind):
    assert run("merge", "b", "b=base", "--dtype", name, "-o", "out").code == 0
    assert {s.dtype for s in next(iter(tv.load(models / "out").terms)).specs.values() if s.arithmetic} == {kind}
