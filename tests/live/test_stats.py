"""`stats`: what it takes, writes and refuses. papers/test_statistics_collected.py holds its numbers to equations."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import taskvec as tv
from taskvec.errors import OutputError, RecipeError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from small_statistics import X, by_name, called, computed, mlp, stored  # noqa: E402


def test_the_same_statistics_are_the_same_bytes(tmp_path):
    module = mlp()
    for kind in ("fisher", "gram"):
        (_, one), (_, two) = (computed(module, tmp_path, kind) for _ in range(2))
        assert one.read_bytes() == two.read_bytes()


def test_examples_stop_the_pass_in_the_middle_of_a_batch(tmp_path):
    module = mlp()
    for kind in ("fisher", "gram"):
        some, path = computed(module, tmp_path, kind, by_name(), examples=4)
        first, _ = computed(module, tmp_path, kind, by_name(X[:4], size=4))
        for name in first:
            np.testing.assert_allclose(some[name], first[name], rtol=1e-6)
        assert next(iter(tv.load(path).terms)).metadata["taskvec.examples"] == "4"


def test_a_frozen_head_of_ones_own_is_no_part_of_the_model(tmp_path):
    module = mlp()
    whole = nn.Sequential(*module, nn.Linear(3, 2).requires_grad_(False)).eval()
    path = tmp_path / "f.safetensors"
    saved = tv.stats(stored(module, tmp_path / "m"), lambda _: (whole, by_name(), called), path, kind="fisher")
    assert load_file(path).keys() == {"0.weight", "0.bias", "2.weight", "2.bias"} and not saved.unreached
    tv.stats(tmp_path / "m", lambda _: (whole, by_name(), called), path, kind="gram", overwrite=True)
    assert load_file(path).keys() == {"0.weight", "2.weight"}


def test_what_was_computed_is_told_and_written_beside_the_numbers(tmp_path):
    module, told = mlp(), []
    folder = stored(module, tmp_path / "m")
    made = tv.stats(
        folder, lambda _: (module, by_name(), called), tmp_path / "f.safetensors", kind="fisher", labels="sampled",
        seed=3, dtype="bfloat16", examples=5, progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    (model,), (file,) = tv.load(folder).terms, tv.load(tmp_path / "f.safetensors").terms
    assert (made.kind, made.examples, made.tensors, made.unreached) == ("fisher", 5, 4, ())
    assert (made.base, made.fingerprint, made.path) == (
        model.fingerprint,
        file.fingerprint,
        tmp_path / "f.safetensors",
    )
    assert made.bytes_out == made.path.stat().st_size and told == [(3, 5), (5, 5)]
    assert str(made).startswith(f"{made.path}: fisher statistics of 4 tensors over 5 examples\n")
    assert json.loads(json.dumps(made.as_dict()))["path"] == str(made.path)
    about = {key.removeprefix("taskvec."): value for key, value in file.metadata.items()}
    assert about | {"seed": "3", "labels": "sampled", "examples": "5", "mass": "0", "statistic": "fisher"} == about
    assert about["base"] == model.fingerprint and {s.dtype for s in file.specs.values()} == {"BF16"}
    norm = np.sqrt(
        sum(
            (a.astype("f8") ** 2).sum()
            for a in computed(module, tmp_path, "fisher", labels="sampled", seed=3, examples=5)[0].values()
        )
    )
    assert float(about["norm"]) == pytest.approx(norm, rel=1e-6)
    assert tv.verify(str(made.path)).tensors == 4


def test_the_numbers_of_blocks_that_are_written_one_by_one_are_those_of_the_whole(tmp_path):
    """A matrix of more than one piece, in a dtype of another width."""
    module = nn.Sequential(nn.Linear(300, 2)).eval()
    batches = [{"input": torch.linspace(-1, 1, 600).reshape(2, 300)}]
    grams, path = computed(module, tmp_path, "gram", batches, dtype="float64")
    x = batches[0]["input"]
    assert grams["0.weight"].dtype == np.float64 and grams["0.weight"].shape == (300, 300)
    np.testing.assert_allclose(grams["0.weight"], x.T @ x, rtol=1e-5)
    assert tv.verify(str(path)).bytes == 8 * 300 * 300


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "hessian"}, "kind is one of fisher, gram, not 'hessian'"),
        ({"kind": "fisher", "labels": "mine"}, "labels is one of exact, sampled, given, not 'mine'"),
        ({"kind": "gram", "labels": "given"}, "Gram matrices are of inputs and use no labels: leave labels out"),
        ({"kind": "gram", "examples": 0}, "examples must be at least 1, not 0"),
        ({"kind": "gram", "dtype": "int8"}, "dtype 'int8'"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_before_the_model_is_looked_for(tmp_path, options, says):
    with pytest.raises(RecipeError, match=says):
        tv.stats(tmp_path / "nowhere", None, tmp_path / "o.safetensors", **options)
    with pytest.raises(OutputError, match=r"statistics are one file, call it NAME.safetensors"):
        tv.stats(tmp_path / "nowhere", None, tmp_path / "o", kind="gram")


def test_nothing_is_left_of_a_run_that_failed(tmp_path):
    module = mlp()
    folder = stored(module, tmp_path / "m")
    before = sorted(tmp_path.rglob("*"))
    for bad in ([{"input": X * float("nan")}], [{"input": X}, {"input": X[:, :2]}]):
        with pytest.raises(tv.TaskvecError):
            tv.stats(folder, lambda _, bad=bad: (module, bad, called), tmp_path / "o.safetensors", kind="gram")
        assert sorted(tmp_path.rglob("*")) == before and not module[0]._forward_pre_hooks


# ---- bad input ------------------------------------------------------------------------------------
BAD = """
import torch
from torch import nn

X = torch.ones(4, 4)


def weights(path, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).eval()


def called(module, batch):
    return module(batch["input"])


def good(path): return weights(path), [{"input": X}], called
def nothing(path): return None
def one_thing(path): return (weights(path),)
def turned(path): return [{"input": X}], weights(path)
def no_batches(path): return weights(path), 3, called
def one_batch(path): return weights(path), {"input": X}, called
def empty(path): return weights(path), [], called
def a_list(path): return weights(path), [X], called
def uneven(path): return weights(path), [{"input": X, "more": X[:2]}], called
def bare(path): return weights(path), [{}], called
def not_callable(path): return weights(path), [{"input": X}], "logits"
def another(path): return weights(path, 1), [{"input": X}], called
def other_names(path): return nn.ModuleDict({"inner": weights(path)}).eval(), [{"input": X}], called
def training(path): return weights(path).train(), [{"input": X}], called
def frozen(path): return weights(path).requires_grad_(False), [{"input": X}], called
def scalar(path): return weights(path), [{"input": X}], lambda m, b: m(b["input"]).sum()
def one_class(path): return weights(path), [{"input": X}], lambda m, b: m(b["input"])[:, :1]
def detached(path): return weights(path), [{"input": X}], lambda m, b: m(b["input"]).detach()
def sequence(path): return weights(path), [{"input": X[:, None]}], called
def text(path): return weights(path), [{"input": X}], lambda m, b: "yes"
def nan(path): return weights(path), [{"input": X * float("nan")}], called
def wrong_targets(path): return weights(path), [{"input": X, "targets": torch.full((4,), 7)}], called
def long_targets(path): return weights(path), [{"input": X, "targets": torch.zeros(4, 2).long()}], called
def raises(path): raise KeyError("no such thing")


def raises_later(path):
    def batches():
        yield {"input": X}
        raise OSError("the disk is gone")

    return weights(path), batches(), called


def wrong_call(path): return weights(path), [{"inputs": X}]
"""
FISHER, GRAM = ("--kind", "fisher"), ("--kind", "gram")
BAD_DATA = [
    ("missing", FISHER, ["has no function missing", "good"]),
    ("X", FISHER, ["has no function X"]),
    ("nothing", FISHER, ["nothing returned NoneType, not (module, batches)"]),
    ("one_thing", FISHER, ["returned (Sequential), not"]),
    ("turned", FISHER, ["returned (list, Sequential), not"]),
    ("no_batches", FISHER, ["a int where batches belong"]),
    ("one_batch", FISHER, ["a dict where batches belong"]),
    ("empty", GRAM, ["gave no examples"]),
    ("a_list", GRAM, ["batch 1 is a Tensor, not a dict"]),
    ("uneven", GRAM, ["batch 1", "first dimension", "'more': 2"]),
    ("bare", GRAM, ["batch 1", "first dimension"]),
    ("not_callable", GRAM, ["a str where a function logits(module, batch) belongs"]),
    ("another", FISHER, ["is not the model", "0.weight has other values", "2.bias has other values"]),
    ("other_names", GRAM, ["inner.0.weight is in the module, not in", "no parameter of the module has the name"]),
    ("training", GRAM, ["training mode", "eval()"]),
    ("frozen", FISHER, ["no parameter that requires a gradient"]),
    ("scalar", FISHER, ["the logits of one example are []"]),
    ("text", FISHER, ["the logits of one example are a str"]),
    ("one_class", FISHER, ["have one class"]),
    ("detached", FISHER, ["do not depend on a parameter"]),
    ("sequence", FISHER, ['labels="exact" is for one label an example']),
    ("nan", FISHER, ["would not be finite", "0.weight", "2.bias"]),
    ("nan", GRAM, ["would not be finite", "0.weight"]),
    ("good", (*FISHER, "--labels", "given"), ["needs 'targets' in every batch"]),
    ("wrong_targets", (*FISHER, "--labels", "given"), ["must lie in 0 .. 2"]),
    ("long_targets", (*FISHER, "--labels", "given"), ["targets are [1, 2], where the logits are [1, 3]"]),
    ("raises", GRAM, ["raises failed: KeyError: 'no such thing'"]),
    ("raises_later", GRAM, ["failed: OSError: the disk is gone"]),
    ("wrong_call", GRAM, ["failed: TypeError", "inputs"]),
    ("good", (*GRAM, "--labels", "sampled"), ["use no labels"]),
    ("good", (*GRAM, "--dtype", "int8"), ["dtype 'int8'"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    home = tmp_path_factory.mktemp("bad")
    (home / "data.py").write_text(BAD)
    (home / "broken.py").write_text("import nowhere_to_be_found")
    stored(mlp(0), home / "m")
    stored(mlp(1), home / "n")
    return home


def refused(command, build, folder, *words, says):
    """Exit code 1, one message that has all of `says`, and every file as it was."""
    before = build.contents(folder)
    done = command(*words, folder=folder)
    first, *rest = done.stderr.splitlines()
    assert (done.code, done.stdout) == (1, "") and first.startswith("error: "), done
    assert all(line.startswith("  ") for line in rest), done.stderr
    for text in says:
        assert text in done.stderr, done.stderr
    assert build.contents(folder) == before


@pytest.mark.parametrize(("name", "options", "says"), BAD_DATA)
def test_data_that_are_not_what_they_should_be_are_a_stated_error(bad, command, build, name, options, says):
    words = ("stats", "m", "--data", f"data.py:{name}", *options, "-o", "out.safetensors")
    refused(command, build, bad, *words, says=says)


def test_the_good_one_is_good(bad, command):
    for options in (FISHER, GRAM, (*FISHER, "--labels", "sampled", "--dtype", "bfloat16")):
        done = command("stats", "m", "--data", "data.py:good", *options, "-o", "good.safetensors", "--json", folder=bad)
        assert done.code == 0, done.stderr
        assert json.loads(done.stdout)["examples"] == 4
        assert command("verify", "good.safetensors", folder=bad).code == 0
        (bad / "good.safetensors").unlink()


def test_places_and_sources_that_cannot_be_used_are_a_stated_error(bad, command, build):
    words = ("stats", "m", "--data", "data.py:good", *GRAM)
    refused(command, build, bad, *words, "-o", "out", says=["one file, call it NAME.safetensors"])
    refused(command, build, bad, *words, "-o", "m/model.safetensors", says=["exists", "--overwrite"])
    refused(command, build, bad, "stats", "nowhere", *words[2:], "-o", "o.safetensors", says=["nowhere does not exist"])
    for data, says in (
        ("none.py:f", ["none.py does not exist"]),
        ("data.py", ["is not FILE.py:function"]),
        ("broken.py:f", ["broken.py cannot be run", "nowhere_to_be_found"]),
    ):
        refused(command, build, bad, "stats", "m", "--data", data, *GRAM, "-o", "o.safetensors", says=says)
    assert command("diff", "n", "m", "-o", "tau.safetensors", folder=bad).code == 0
    vector, known = (
        (*words[:1], name, *words[2:], "-o", "o.safetensors") for name in ("tau.safetensors", "g.safetensors")
    )
    refused(command, build, bad, *vector, says=["is a task vector: statistics are of a model"])
    assert command(*words, "-o", "g.safetensors", folder=bad).code == 0
    refused(command, build, bad, *words, "-o", "g.safetensors", says=["g.safetensors exists"])
    refused(command, build, bad, *known, says=["is gram statistics"])
    assert command(*words, "-o", "g.safetensors", "--overwrite", folder=bad).code == 0


def test_statistics_of_another_model_need_force_and_it_is_recorded(bad, command, build):
    assert command("stats", "m", "--data", "data.py:good", *GRAM, "-o", "gm.safetensors", folder=bad).code == 0
    merge = ("merge", "regmean(a, b, g, h)", "a=m", "b=n", "g=gm.safetensors", "h=gm.safetensors")
    refused(command, build, bad, *merge, "-o", "out", says=["statistics stand beside a model that they are not of"])
    assert command(*merge, "-o", "forced", "--force", folder=bad).code == 0
    assert "forced" in command("log", "forced", folder=bad).stdout
