"""What is saved does not depend on how: same bytes for any threads, memory, shard size; and nothing else moved."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import taskvec as tv
from taskvec.errors import TaskvecError
from taskvec.saving import plan as planning

SHAPES = {
    "embed.weight": (700, 300),
    "layers.0.mlp.up": (513, 257),
    "layers.1.mlp.up": (513, 257),
    "norm": (300,),
    "s": (),
}
DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "f64": np.float64}


def write(path, seed, dtype="bf16"):
    rng = np.random.default_rng(seed)
    tensors = {n: rng.standard_normal(shape).astype(DTYPES[dtype]) for n, shape in SHAPES.items()}
    tensors["positions"] = np.arange(7)
    path.mkdir(parents=True)
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text('{"model_type": "none", "dtype": "bfloat16"}')
    return tv.load(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    return [
        write(home / name, seed, kind) for seed, (name, kind) in enumerate([("b", "bf16"), ("m", "bf16"), ("c", "f32")])
    ]


def content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tensors(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= {n: (a.dtype, a.shape, a.tobytes()) for n, a in load_file(path).items()}
    return found


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 5), st.sampled_from(planning.BLOCKS))
def test_threads_and_blocks_do_not_change_a_byte(models, tmp_path_factory, threads, block):
    b, m, c = models
    w = b + 0.4 * (m - b) + 0.7 * tv.only("*.mlp.*") * (c - b)
    home = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        tv.save(w, home / "one", threads=1)
        patch.setattr(planning, "BLOCKS", (block,))
        tv.save(w, home / "two", threads=threads)
    assert content(home / "one") == content(home / "two")


@pytest.mark.parametrize("shard_size", ["100KB", "500KB", 1])
def test_shards_hold_the_same_tensors_with_the_same_digests(models, tmp_path, shard_size):
    b, m, _ = models
    tv.save(b + 0.3 * (m - b), tmp_path / "whole")
    tv.save(b + 0.3 * (m - b), tmp_path / "shards", shard_size=shard_size)
    assert len([*(tmp_path / "shards").glob("*.safetensors")]) > 1
    assert tensors(tmp_path / "whole") == tensors(tmp_path / "shards")
    records = [json.loads((tmp_path / d / "taskvec.json").read_text()) for d in ("whole", "shards")]
    assert records[0] == records[1]
    whole, shards = tv.load(tmp_path / "whole"), tv.load(tmp_path / "shards")
    assert {s.fingerprint for w in (whole, shards) for s in w.terms} == {records[0]["fingerprint"]}
    assert not any((whole - shards)[name].any() for name in SHAPES)


def test_adding_a_stored_difference_gives_a_fine_tuned_model_byte_for_byte(models, tmp_path):
    """Differences of bfloat16 numbers are exact in float32 while they are within a factor of 2**16 of one another."""
    b = models[0]
    rng = np.random.default_rng(9)
    tuned = load_file(next(iter(b.terms)).path / "model.safetensors")
    for name in SHAPES:
        step = 0.01 * rng.standard_normal(SHAPES[name])
        tuned[name] = np.asarray(tuned[name].astype(np.float32) + step).astype(ml_dtypes.bfloat16)
    save_file(tuned, tmp_path / "tuned.safetensors")
    tv.save(tv.load(tmp_path / "tuned.safetensors") - b, tmp_path / "tau")
    tv.save(b + tv.load(tmp_path / "tau"), tmp_path / "again")
    assert {n: v[2] for n, v in tensors(tmp_path / "again").items()} == {n: a.tobytes() for n, a in tuned.items()}


def test_a_task_vector_is_float32_and_names_its_base(models, tmp_path):
    b, m, _ = models
    tv.save(m - b, tmp_path / "tau.safetensors")
    tau = tv.load(tmp_path / "tau.safetensors")
    assert tau.kind() == 0
    source = next(iter(tau.terms))
    assert {s.dtype for s in source.specs.values()} == {"F32"}
    assert source.base == next(iter(b.terms)).fingerprint
    assert set(source.specs) == set(SHAPES), "integers cancel in a difference"


def test_tensors_that_a_filter_leaves_out_are_the_base_s_bytes(models, tmp_path):
    b, m, _ = models
    tv.save(b + 0.9 * tv.only("layers.1.*") * (m - b), tmp_path / "out")
    ours = load_file(tmp_path / "out" / "model.safetensors")
    base = load_file(next(iter(b.terms)).path / "model.safetensors")
    moved = {n for n in ours if ours[n].tobytes() != base[n].tobytes()}
    assert moved == {"layers.1.mlp.up"}


def test_the_plan_keeps_its_word_about_the_output(models, tmp_path):
    b, m, _ = models
    plan = tv.plan(b + 0.5 * (m - b), dtype="float32", shard_size="1MB")
    tv.save(b + 0.5 * (m - b), tmp_path / "out", dtype="float32", shard_size="1MB")
    files = {p.name: p.stat().st_size for p in (tmp_path / "out").glob("*.safetensors")}
    assert len(files) > 1 and files == {s.filename: s.size for s in plan.shards}
    assert sum(files.values()) == plan.bytes_out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


def test_too_little_memory_is_refused_with_the_least_that_is_needed(models):
    b, m, _ = models
    with pytest.raises(TaskvecError, match="at least"):
        tv.plan(b + 0.5 * (m - b), ram="1MB")


def test_verify_finds_a_single_changed_bit(models, tmp_path):
    b, m, _ = models
    tv.save(b + 0.5 * (m - b), tmp_path / "out")
    assert tv.verify(tmp_path / "out").tensors == len(SHAPES) + 1
    path = tmp_path / "out" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-100_001] ^= 1
    path.write_bytes(data)
    with pytest.raises(TaskvecError, match="other data"):
        tv.verify(tmp_path / "out")


def test_lineage_goes_back_to_the_models_that_nobody_made(models, tmp_path):
    b, m, _ = models
    tv.save(m - b, tmp_path / "tau")
    tv.save(b + 0.5 * tv.load(tmp_path / "tau"), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "taskvec.json").read_text())
    assert record["recipe"] == "b + 0.5*tau"
    assert record["ancestors"][record["inputs"]["tau"]["made_from"]]["recipe"] == "m - b"
    assert record["inputs"]["tau"]["base"] == record["inputs"]["b"]["fingerprint"]
    assert record["fingerprint"] == next(iter(tv.load(tmp_path / "out").terms)).fingerprint
