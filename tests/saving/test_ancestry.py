"""Lineage: each ancestor once, whatever the history; old nested records are still read."""

import json

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import FormatError
from taskvec.notes import collected
from taskvec.saving import ancestry, lineage


def points(folder, count=2):
    """m0.safetensors, m1.safetensors, ...: models of four numbers that nobody made."""
    for k in range(count):
        made(tv.from_arrays({"w": np.full(4, k + 1.0, "f4")}, name=f"p{k}"), folder / f"m{k}.safetensors")


def made(weights, path):
    tv.save(weights, path, durable=False)
    return path


def record_of(path):
    record = lineage.read(path)
    assert record
    return record


def nested(record):
    """The record as taskvec 0.1.0 wrote it: what an input was made from stands within the input, again and again."""
    table = record.get("ancestors", {})

    def inputs(entry):
        return {
            name: source
            | ({"made_from": {"recipe": table[key]["recipe"], "inputs": inputs(table[key])}} if key else {})
            for name, source in entry["inputs"].items()
            for key in [source.get("made_from")]
        }

    return {key: value for key, value in record.items() if key != "ancestors"} | {"inputs": inputs(record)}


def as_old_folder(path, folder):
    """A single file as a folder with a nested record beside it."""
    folder.mkdir()
    record = record_of(path)
    (folder / "model.safetensors").write_bytes(path.read_bytes())
    (folder / "taskvec.json").write_text(json.dumps(nested(record)))
    return record


def test_a_merge_of_the_last_two_merges_keeps_each_ancestor_once(tmp_path):
    points(tmp_path)
    files = [tv.load(tmp_path / f"m{k}.safetensors") for k in (0, 1)]
    for k in range(2, 30):  # nested, the last record would hold half a million inputs
        path = made((files[-1] + files[-2]) / 2, tmp_path / f"m{k}.safetensors")
        files.append(tv.load(path))
    record = record_of(path)
    assert len(record["ancestors"]) == 29  # m28 ... m0, of which m0 and m1 were written from memory
    assert path.stat().st_size < 40_000


def test_a_chain_may_be_longer_than_the_interpreter_can_nest(tmp_path, run):
    points(tmp_path, 1)
    base = tv.load(tmp_path / "m0.safetensors")
    source = lineage.origins({"a": next(iter(base.terms))})
    record = {"recipe": "a", "fingerprint": "0" * 64, **source}
    for k in range(2000):
        table: ancestry.Table = {}
        key = ancestry.add(table, record)
        inputs = {"a": {"mass": 1, "fingerprint": f"{k:064}", "made_from": key}}
        record = {"recipe": f"{k}*a", "fingerprint": f"{k + 1:064}", "inputs": inputs, "ancestors": table}
    steps = [*ancestry.walk(record)]
    assert len(steps) == 2002 and steps[-1].depth == 2001
    assert ancestry.flat(json.loads(json.dumps(record))) == record
    (tmp_path / "deep").mkdir()
    text = json.dumps(record | {"tensors": {}, "taskvec": "0", "mass": 1})
    (tmp_path / "deep/taskvec.json").write_text(text)
    log = run("log", "deep")
    assert log.code == 0 and log.stdout.count(" = ") == 2002
    assert max(map(len, log.stdout.splitlines())) < 200


def test_equal_tensors_with_other_histories_are_two_ancestors(tmp_path):
    """A copy has the fingerprint of what it is a copy of, and must not become its own ancestor."""
    points(tmp_path)
    a, b = (tv.load(tmp_path / f"m{k}.safetensors") for k in (0, 1))
    mean = tv.load(made((a + b) / 2, tmp_path / "mean.safetensors"))
    copy = tv.load(made(mean, tmp_path / "copy.safetensors"))
    record = record_of(made(0.5 * copy + 0.5 * mean, tmp_path / "out.safetensors"))
    assert record["inputs"]["copy"]["fingerprint"] == record["inputs"]["mean"]["fingerprint"]
    one, two = (record["ancestors"][record["inputs"][name]["made_from"]] for name in ("copy", "mean"))
    assert (one["recipe"], two["recipe"]) == ("mean", "0.5*m0 + 0.5*m1")


def test_a_nested_record_is_read_as_the_flat_one(tmp_path, run):
    points(tmp_path)
    files = [tv.load(tmp_path / f"m{k}.safetensors") for k in (0, 1)]
    for k in range(2, 6):
        files.append(tv.load(made((files[-1] + files[-2]) / 2, tmp_path / f"m{k}.safetensors")))
    new = as_old_folder(tmp_path / "m5.safetensors", tmp_path / "old")
    assert '"ancestors"' not in (tmp_path / "old/taskvec.json").read_text()
    old = record_of(tmp_path / "old")
    assert old["ancestors"] == new["ancestors"] and old["inputs"] == new["inputs"]
    assert run("log", "old").stdout.splitlines()[1:] == run("log", "m5.safetensors").stdout.splitlines()[1:]
    assert run("verify", "old").code == run("show", "old").code == 0
    again = record_of(made(tv.load(tmp_path / "old") * 1, tmp_path / "again.safetensors"))
    key = again["inputs"]["old"]["made_from"]
    assert again["ancestors"] == new["ancestors"] | {key: {p: new[p] for p in ("fingerprint", "recipe", "inputs")}}


def test_log_says_every_ancestor_once(tmp_path, run):
    points(tmp_path)
    a, b = (tv.load(tmp_path / f"m{k}.safetensors") for k in (0, 1))
    made((a + b) / 2, tmp_path / "mean.safetensors")
    made(2 * tv.load(tmp_path / "mean.safetensors") - a, tmp_path / "out.safetensors")
    out = run("log", "out.safetensors").stdout
    assert out.count("0.5*m0 + 0.5*m1") == 1 and out.count("= p0") == 2 and out.count("(its inputs are above)") == 1


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(ancestry, "LONGEST", 2000)


def test_what_a_lineage_leaves_out_is_said_before_the_work(tmp_path, short):
    points(tmp_path)
    files = [tv.load(tmp_path / f"m{k}.safetensors") for k in (0, 1)]
    for k in range(2, 9):
        with collected() as notes:
            path = made((files[-1] + files[-2]) / 2, tmp_path / f"m{k}.safetensors")
        files.append(tv.load(path))
    record = record_of(path)
    assert "ancestors, the farthest ones: it would be longer than 0.002 MB" in "".join(notes)
    assert record["ancestors_left_out"] >= 3
    assert len(json.dumps(record["ancestors"])) <= 2000
    nearest = {source["made_from"] for source in record["inputs"].values()}
    assert nearest <= record["ancestors"].keys()
    assert tv.verify(path).tensors == 1


def test_log_says_what_was_left_out(tmp_path, run, short):
    points(tmp_path)
    files = [tv.load(tmp_path / f"m{k}.safetensors") for k in (0, 1)]
    for k in range(2, 9):
        with collected():
            files.append(tv.load(made((files[-1] + files[-2]) / 2, tmp_path / f"m{k}.safetensors")))
    out = run("log", "m8.safetensors").stdout
    assert "were left out of the lineage" in out and "(made by taskvec; how was left out" in out


@pytest.mark.parametrize(
    "change",
    [
        lambda record: next(iter(record["ancestors"].values())).update(recipe="another"),
        lambda record: record.update(ancestors=[]),
        lambda record: record.update(ancestors={"x": 1}),
        lambda record: record.update(ancestors_left_out="many"),
        lambda record: record["inputs"]["mean"].update(made_from=3),
        lambda record: record["inputs"]["mean"].update(made_from={"recipe": 1}),
    ],
)
def test_ancestors_that_taskvec_did_not_write_are_an_error(tmp_path, change):
    points(tmp_path)
    a, b = (tv.load(tmp_path / f"m{k}.safetensors") for k in (0, 1))
    mean = tv.load(made((a + b) / 2, tmp_path / "mean.safetensors"))
    tv.save(2 * mean - a, tmp_path / "out", durable=False)
    path = tmp_path / "out/taskvec.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(FormatError, match="no record that can be read"):
        lineage.read(tmp_path / "out")
