"""Networks with BatchNorm: counters that differ, and variances that a sum makes negative."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import taskvec as tv
from taskvec.errors import MismatchError, NonFiniteError
from taskvec.notes import Note
from taskvec.saving.batchnorm import below_zero


def network(folder, steps, variance):
    """A layer with BatchNorm after `steps` batches."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "conv.weight": np.full((4, 3), steps, np.float32),
        "bn.running_mean": np.zeros(4, np.float32),
        "bn.running_var": np.full(4, variance, np.float32),
        "bn.num_batches_tracked": np.array(steps),
    }
    save_file(content, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def pair(tmp_path):
    return [
        tv.load(network(tmp_path / name, *statistics)).named(name)
        for name, statistics in {"b": (50, 9.0), "t": (80, 1.0)}.items()
    ]


def test_counters_that_differ_are_those_of_the_model_that_is_named(pair, tmp_path, run):
    b, t = pair
    with pytest.raises(MismatchError, match=r"bn.num_batches_tracked.* differs"):
        tv.save(b + 0.5 * (t - b), tmp_path / "out")
    for like, count in ((b, 50), (t, 80), (tv.load(network(tmp_path / "other", 7, 1.0)), 7)):
        tv.save(b + 0.5 * (t - b), tmp_path / "out", like=like, overwrite=True)
        tensors = load_file(tmp_path / "out/model.safetensors")
        assert tensors["bn.num_batches_tracked"] == count and tensors["conv.weight"][0, 0] == 65
    assert run("merge", "b + 0.5*(t - b)", "b=b", "t=t", "--like", "b", "-o", "cli").code == 0
    assert run("merge", "b + ties(t - b, 2*(t - b))", "b=b", "t=t", "--like", "t", "-o", "ties").code == 0


def test_a_task_vector_does_without_them(pair, tmp_path, run):
    assert run("diff", "t", "b", "-o", "tau").code == 0
    assert set(load_file(tmp_path / "tau/task_vector.safetensors")) == {
        "conv.weight", "bn.running_mean", "bn.running_var"}  # fmt: skip
    assert run("merge", "b + 0.5*tau", "b=b", "tau=tau", "-o", "out").code == 0
    assert load_file(tmp_path / "out/model.safetensors")["bn.num_batches_tracked"] == 50


def test_a_negative_variance_is_refused_and_can_be_kept_out_or_allowed(pair, tmp_path, run):
    b, t = pair
    with pytest.raises(NonFiniteError, match=r"without\(\"\*.running_var\"\)") as error:
        tv.save(b + 2 * (t - b), tmp_path / "out", like=b)
    assert error.value.problems == ("bn.running_var",)
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]
    given = ("b=b", "t=t", "--like", "b")
    merge = run("merge", "b + 2*(t - b)", *given, "-o", "cli", "-q")
    assert merge.code == 1 and "bn.running_var" in merge.stderr
    allowed = run("merge", "b + 2*(t - b)", *given, "-o", "cli", "--allow-nonfinite", "--json")
    assert allowed.code == 0 and "estimate them anew" in json.loads(allowed.stdout)["notes"][0]
    kept = run("merge", 'b + 2*without("*.running_var")*(t - b)', *given, "-o", "kept")
    assert (kept.code, kept.stderr) == (0, "")


def test_variances_above_zero_and_differences_of_variances_are_fine(pair, tmp_path, recwarn):
    b, t = pair
    tv.save(b + 0.5 * (t - b), tmp_path / "out", like=b)
    tv.save(t - b, tmp_path / "tau")
    assert not [w for w in recwarn if issubclass(w.category, Note)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_below_zero_is_what_numpy_says(dtype):
    for values in ([1, 0, 2], [0.0, -0.0, 3], [1, -1e-2, 3], [-1], [], [0.0, 5, -2]):
        array = np.array(values, dtype)
        assert below_zero(array.tobytes(), array.itemsize) == bool((array.astype(np.float64) < 0).any())


def test_a_live_module_says_so_too():
    torch = pytest.importorskip("torch")
    net = torch.nn.BatchNorm1d(3)
    state = {n: t.numpy().copy() for n, t in net.state_dict().items()}
    base = tv.from_arrays(state, "base")
    tuned = tv.from_arrays(state | {"running_var": np.float32([0.1, 1, 2])}, "tuned")
    tv.load_into(net, base + 1.1 * (tuned - base))
    with pytest.raises(NonFiniteError, match="variances of BatchNorm would be negative"):
        tv.load_into(net, base + 1.5 * (tuned - base))
