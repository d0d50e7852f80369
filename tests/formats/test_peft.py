"""A LoRA in PEFT's layout: merged here it is what PEFT merges, and what is no sum of weights is refused."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

import taskvec as tv
from taskvec.errors import FormatError
from taskvec.formats import open_source


class Block(torch.nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.q, self.k = torch.nn.Linear(12, 12, bias=True), torch.nn.Linear(12, 20)
        if conv:
            from transformers.pytorch_utils import Conv1D

            self.q, self.k = Conv1D(12, 12), Conv1D(20, 12)  # weights of shape (in, out)


class Model(torch.nn.Module):
    def __init__(self, conv=False):
        super().__init__()
        self.embed = torch.nn.Embedding(30, 12)
        self.layers = torch.nn.ModuleList(Block(conv) for _ in range(3))
        self.head = torch.nn.Linear(12, 30)

    def forward(self, x):
        return self.head(self.embed(x))


CONFIGS = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q", "k"]},
    "rsLoRA": {"r": 9, "lora_alpha": 5, "target_modules": ["q", "head"], "use_rslora": True},
    "patterns": {
        "r": 4, "lora_alpha": 8, "target_modules": ["q", "k", "head"],
        "rank_pattern": {"layers.0.q": 2, r"layers\.[12]\.k": 6}, "alpha_pattern": {"q": 3, "^head": 16},
    },
    "embedding": {"r": 3, "lora_alpha": 6, "target_modules": ["embed", "k"]},
    "fan_in_fan_out": {"r": 4, "lora_alpha": 8, "target_modules": ["q", "k"], "fan_in_fan_out": True},
    "rank one": {"r": 1, "lora_alpha": 1, "target_modules": "all-linear"},
}  # fmt: skip


@pytest.fixture
def trained(tmp_path):
    """trained(config) -> (folder of the base, folder of an adapter with random factors, what PEFT makes of both)."""

    def make(config, dtype=torch.float32):
        torch.manual_seed(0)
        model = Model(conv=config.get("fan_in_fan_out", False)).to(dtype)
        (tmp_path / "base").mkdir()
        save_file(model.state_dict(), tmp_path / "base/model.safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = get_peft_model(model, LoraConfig(**config))
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(parameter, std=0.3)
            adapted.save_pretrained(tmp_path / "adapter")
            merged = adapted.merge_and_unload().state_dict()
        return tmp_path / "base", tmp_path / "adapter", merged

    return make


@pytest.mark.parametrize("kind", CONFIGS)
def test_base_plus_adapter_is_what_peft_merges(trained, kind):
    base, adapter, merged = trained(CONFIGS[kind])
    summed = tv.load(base) + tv.load(adapter)
    assert set(summed) == set(merged)
    moved = 0
    for name, expected in merged.items():
        assert np.allclose(summed[name], expected.numpy(), rtol=1e-5, atol=1e-5), name
        moved += not np.array_equal(summed[name], tv.load(base)[name])
    assert moved == len(open_source(adapter).specs) > 0


@pytest.mark.parametrize("kind", ["plain", "embedding", "fan_in_fan_out"])
def test_saved_it_is_what_peft_merges_in_bfloat16_within_one_rounding(trained, tmp_path, kind):
    from safetensors.torch import load_file

    base, adapter, merged = trained(CONFIGS[kind], torch.bfloat16)
    tv.save(tv.load(base) + tv.load(adapter), tmp_path / "out")
    for name, tensor in load_file(tmp_path / "out/model.safetensors").items():
        assert tensor.dtype == torch.bfloat16
        torch.testing.assert_close(tensor, merged[name], rtol=2**-6, atol=2**-6)


def test_an_adapter_is_a_task_vector_that_is_zero_elsewhere(trained):
    base, adapter, _ = trained(CONFIGS["plain"])
    source, weights = open_source(adapter), tv.load(adapter)
    assert (source.mass, source.partial, weights.mass) == (0, True, 0)
    assert set(weights) == {f"layers.{k}.{part}.weight" for k in range(3) for part in "qk"}
    both = tv.load(base) - 0.5 * weights
    assert np.array_equal(both["head.weight"], tv.load(base)["head.weight"])


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_range_is_the_range_of_the_whole(tmp_path_factory, data):
    rows, cols, rank = (data.draw(st.integers(1, n)) for n in (9, 11, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    a, b = rng.standard_normal((rank, cols)).astype("f4"), rng.standard_normal((rows, rank)).astype("f4")
    folder = tmp_path_factory.mktemp("lora")
    factors = {f"base_model.model.w.lora_{side}.weight": torch.tensor(x) for side, x in (("A", a), ("B", b))}
    save_file(factors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 3}))
    source = open_source(folder)
    start = data.draw(st.integers(0, rows * cols - 1))
    count = data.draw(st.integers(0, rows * cols - start))
    out, whole = bytearray(4 * count), bytearray(4 * rows * cols)
    source.readinto("w.weight", start, memoryview(out))
    source.readinto("w.weight", 0, memoryview(whole))
    assert out == whole[4 * start : 4 * (start + count)]
    assert np.allclose(np.frombuffer(whole, "f4").reshape(rows, cols), 3 / rank * (b @ a), rtol=1e-5, atol=1e-5)


# ---- what is said ---------------------------------------------------------------------------------
def test_an_adapter_that_changes_nothing_says_so(tmp_path, build, run):
    build.model(tmp_path / "base", {"w.weight": np.ones((2, 2), "f4"), "v.weight": np.ones((2, 2), "f4")})
    factors = {f"base_model.model.{m}.lora_{side}.weight": np.ones((2, 2), "f4") for m in "wv" for side in "AB"}
    zero = {key: array * ("lora_A" in key) for key, array in factors.items()}
    build.lora(tmp_path / "untrained", zero)
    build.lora(tmp_path / "half", zero | {key: factors[key] for key in factors if ".w." in key})
    said = run("add", "base", "untrained", "-o", "out", "--json")
    assert said.code == 0 and json.loads(said.stdout)["notes"] == [said.stderr.removeprefix("note: ").rstrip()]
    assert 'load("untrained") changes nothing' in said.stderr
    assert "nothing" not in run("add", "base", "half", "-o", "other").stderr


def test_a_changed_configuration_is_a_changed_adapter(tmp_path, build):
    folder = build.lora(tmp_path / "lora", {f"base_model.model.w.lora_{s}.weight": np.ones((2, 2), "f4") for s in "AB"})
    before = tv.load(folder)
    assert tv.load(folder) == before
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 400}))
    assert tv.load(folder) != before
    with pytest.raises(tv.TaskvecError, match=r"adapter_config\.json changed"):
        next(iter(before.terms)).require_unchanged()


# ---- memory ----------------------------------------------------------------------------------------
MEASURED = """
import sys, threading, time
import taskvec as tv

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))

def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.001)

w, peak = tv.load("base") + tv.load("lora"), 0
threading.Thread(target=watch, daemon=True).start()
plan = tv.plan(w, threads=8)
tv.save(w, "out", threads=8, durable=False)
print(peak, plan.peak)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of a process' memory")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("turned", [False, True])
def test_factors_are_in_memory_once_as_the_plan_says(tmp_path, build, dtype, turned):
    """134 MB of factors in float32; when each thread read them for itself, in three copies, it were 500 MB and more."""
    wide, rank = 4 << 20, 8
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    factors = {"w.lora_A.weight": np.ones((rank, wide), kind), "w.lora_B.weight": np.ones((1, rank), kind)}
    build.lora(tmp_path / "lora", factors, r=rank, fan_in_fan_out=turned)
    shape = (wide, 1) if turned else (1, wide)
    build.model(tmp_path / "base", {"w.weight": np.zeros(shape, ml_dtypes.bfloat16)})
    run = subprocess.run([sys.executable, "-c", MEASURED], cwd=tmp_path, capture_output=True, text=True, check=True)
    peak, promised = map(int, run.stdout.split())
    assert 4 * wide * rank < peak < promised < 4 * wide * rank + (120 << 20)


# ---- what is refused ------------------------------------------------------------------------------
FACTORS = {f"base_model.model.w.lora_{side}.weight": np.ones((2, 2), np.float32) for side in "AB"}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"use_dora": True}, "DoRA rescales"),
        ({"bias": "all"}, "bias='all' holds biases"),
        ({"modules_to_save": ["head"]}, "modules_to_save=['head'] holds whole weights"),
        ({"init_lora_weights": "pissa"}, "took a part out of the base"),
        ({"init_lora_weights": "olora"}, "took a part out of the base"),
        ({"alora_invocation_tokens": [1, 2]}, "more than B @ A"),
        ({"r": 0}, "r and lora_alpha must be numbers"),
        ({"lora_alpha": None}, "r and lora_alpha must be numbers"),
        ({"rank_pattern": {"q": "4"}}, "rank_pattern must map patterns to positive numbers"),
        ({"rank_pattern": {"q": 0}}, "rank_pattern must map patterns to positive numbers"),
        ({"alpha_pattern": {"(": 1}}, "'(' is no regular expression"),
        ({"alpha_pattern": {"(?i)q": 1}}, "'(?i)q' is no regular expression"),
        ({"peft_type": "IA3"}, "is no LoRA"),
    ],
)
def test_what_is_no_sum_of_weights_is_refused(tmp_path, build, config, says):
    folder = build.lora(tmp_path / "lora", FACTORS, **config)
    with pytest.raises(FormatError, match=re.escape(says)) as error:
        open_source(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("config", [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["head"]}])
def test_what_peft_writes_for_it_is_refused_too(trained, config):
    _, adapter, _ = trained(CONFIGS["plain"] | config)
    with pytest.raises(FormatError, match="cannot be read as a task vector"):
        open_source(adapter)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"base_model.model.w.lora_A.weight": np.ones((2, 2), "f4")}, "w has only lora_A"),
        (FACTORS | {"base_model.model.w.lora_B.weight": np.ones((2, 3), "f4")}, "A is [2, 2], B is [2, 3]"),
        (FACTORS | {"base_model.model.w.lora_A.weight": np.ones((2, 2, 1, 1), "f4")}, "only matrices"),
        (FACTORS | {"base_model.model.w.lora_A.weight": np.ones((2, 2), "i4")}, "only matrices"),
        (FACTORS | {"base_model.model.w.lora_magnitude_vector": np.ones(2, "f4")}, "is no lora_A or lora_B"),
        (FACTORS | {"base_model.model.w.lora_B.bias": np.ones(2, "f4")}, "is no lora_A or lora_B"),
    ],
)
def test_tensors_that_are_no_pairs_of_factors_are_refused(tmp_path, build, content, says):
    with pytest.raises(FormatError, match=re.escape(says)):
        open_source(build.lora(tmp_path / "lora", content))


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_configuration_that_is_none_is_a_stated_error(tmp_path, build, text):
    (build.lora(tmp_path / "lora", FACTORS) / "adapter_config.json").write_bytes(text)
    with pytest.raises(FormatError):
        open_source(tmp_path / "lora")


def test_an_adapter_without_its_file_or_for_another_model_is_refused(tmp_path, build):
    folder = build.lora(tmp_path / "lora", FACTORS)
    build.model(tmp_path / "base", build.tensors(0))
    with pytest.raises(tv.TaskvecError, match=re.escape("w.weight is in")):
        tv.plan(tv.load(tmp_path / "base") + tv.load(folder))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FormatError, match="no adapter_model"):
        open_source(folder)
