"""`save`: what it says of its work, what it refuses, and what an output holds. Its laws are in laws/test_save.py."""

import json
import re

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import taskvec as tv
from taskvec.errors import FingerprintError, MismatchError, NotEnoughSpace, OutputError
from taskvec.notes import collected
from taskvec.saving.save import Saved

SHAPES = {"h.0.w": (30, 40), "norm": (40,)}


def fast(weights, out, **options):
    return tv.save(weights, out, durable=False, **options)


@pytest.fixture
def pair(tmp_path, build):
    for seed, name in enumerate(("base", "math")):
        build.model(tmp_path / name, build.tensors(seed, SHAPES) | {"ids": np.arange(3)})
    return tv.load(tmp_path / "base"), tv.load(tmp_path / "math")


def test_what_was_written_is_told(pair, tmp_path):
    base, math = pair
    found = fast(0.5 * base + 0.5 * math, tmp_path / "out")
    (out,) = tv.load(tmp_path / "out").terms
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert (found.path, found.kind, found.recipe) == (tmp_path / "out", 1, "0.5*base + 0.5*math")
    assert (found.fingerprint, found.bytes_out, found.reused, found.nonfinite) == (out.fingerprint, size, 0, ())
    assert found.bytes_in == 2 * 4 * (1200 + 40) and 0 < found.seconds < 60
    told = json.loads(json.dumps(found.as_dict()))
    assert (told["kind"], told["mass"], told["path"], told["bytes_out"]) == ("model", 1, str(found.path), size)
    vector = fast(math - base, tmp_path / "tau")
    assert vector.as_dict()["kind"] == "task vector" and vector.kind == 0


def test_its_sentence_says_what_was_kept_of_an_interrupted_run(tmp_path):
    found = Saved(tmp_path / "o", 0, "a - b", 64 * "f", 10, 2000, 1000, 1.5)
    first, second = str(found).splitlines()
    assert first == f"{tmp_path}/o: a task vector = a - b"
    assert second == f"2 kB in 1.50 s, 1 kB of it kept from an interrupted run; fingerprint {16 * 'f'}"
    whole = Saved(tmp_path / "o", 1, "a", "f", 10, 2000, 0, 1.5)
    assert str(whole) == f"{tmp_path}/o: a model = a\n2 kB in 1.50 s; fingerprint f"


def test_a_single_file_carries_its_record_and_a_folder_the_side_files(pair, tmp_path):
    base, math = pair
    fast(math - base, tmp_path / "tau.safetensors")
    with safe_open(tmp_path / "tau.safetensors", "numpy") as file:
        about = file.metadata()
    record = json.loads(about["taskvec.lineage"])
    assert about["taskvec.mass"] == "0" and record["recipe"] == about["taskvec.recipe"] == "math - base"
    assert record["fingerprint"] == next(iter(tv.load(tmp_path / "tau.safetensors").terms)).fingerprint
    assert not [*tmp_path.glob(".tau*")]
    fast(0.5 * base + 0.5 * math, tmp_path / "out", shard_size=2000)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names >= {"config.json", "tokenizer.json", "README.md", "taskvec.json", "model.safetensors.index.json"}
    table = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    assert {*table} == {*SHAPES, "ids"} and {*table.values()} <= names


def test_a_chat_template_is_written_and_recorded(pair, tmp_path):
    fast(pair[0], tmp_path / "out", chat_template="{{ messages }}")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert json.loads((tmp_path / "out" / "taskvec.json").read_text())["chat_template"] == "{{ messages }}"


def test_the_base_of_a_vector_counts_unless_it_is_forced(pair, tmp_path):
    base, math = pair
    fast(math - base, tmp_path / "tau.safetensors")
    wrong = math + tv.load(tmp_path / "tau.safetensors")
    with pytest.raises(FingerprintError, match="made from"):
        fast(wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    fast(wrong, tmp_path / "out", force=True)
    record = json.loads((tmp_path / "out" / "taskvec.json").read_text())
    assert record["forced"] is True
    fast(base + tv.load(tmp_path / "tau.safetensors"), tmp_path / "right")
    assert "forced" not in json.loads((tmp_path / "right" / "taskvec.json").read_text())


def test_integers_that_differ_need_a_model_to_take_them_from(pair, tmp_path, build):
    base, _ = pair
    build.model(tmp_path / "other", build.tensors(3, SHAPES) | {"ids": np.arange(3) + 1})
    other = tv.load(tmp_path / "other")
    mixed = 0.5 * base + 0.5 * other
    with pytest.raises(MismatchError, match=r"--like, like="):
        fast(mixed, tmp_path / "out")
    fast(mixed, tmp_path / "out", like=other)
    assert load_file(tmp_path / "out" / "model.safetensors")["ids"].tolist() == [1, 2, 3]
    fast(other - base, tmp_path / "tau.safetensors")


def test_a_disk_that_is_too_small_is_found_out_before_anything_is_made(pair, tmp_path, monkeypatch):
    need, before = tv.plan(pair[0]).bytes_out, sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("taskvec.saving.save.free_bytes", lambda path: need - 1)
    with pytest.raises(NotEnoughSpace, match=r"out needs .*, the disk of .* has .* left"):
        fast(pair[0], tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setattr("taskvec.saving.save.free_bytes", lambda path: need)
    fast(pair[0], tmp_path / "out")


def test_an_output_is_not_replaced_unless_asked(pair, tmp_path):
    base, math = pair
    fast(base, tmp_path / "out")
    with pytest.raises(OutputError, match="exists"):
        fast(math, tmp_path / "out")
    fast(math, tmp_path / "out", overwrite=True)
    assert np.array_equal(tv.load(tmp_path / "out")["norm"], math["norm"])


def test_what_models_say_differently_is_told_before_the_work(pair, tmp_path):
    base, _ = pair
    config = json.loads((tmp_path / "math" / "config.json").read_text())
    (tmp_path / "math" / "config.json").write_text(json.dumps(config | {"rope_theta": 5e5}))
    with collected() as notes:
        fast(0.5 * base + 0.5 * tv.load(tmp_path / "math"), tmp_path / "out")
    assert any(re.search("rope_theta", text) for text in notes)
