"""A journal may come from anywhere and be damaged in any way: it is read, or refused with a stated error."""

import copy
import json
import pickle
import random
from html import escape
from pathlib import Path

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import FormatError, OutputError, TaskvecError
from taskvec.report.page import page
from taskvec.searching.interference import disentanglement
from taskvec.searching.records import TORN, read_record
from taskvec.searching.search import search

RNG = np.random.default_rng(0)
TARGETS = {split: RNG.normal(0.5, 0.3, 12) for split in ("validation", "test")}
BASE, A = (tv.from_arrays({"w": np.float32([v])}, n) for n, v in (("base", 0), ("a", 1)))
FAMILY = tv.parse("base + lam*(a - base)", base=BASE, a=A)
JUNK = [
    None, True, -1, 0, 1, 7, 2.5, "", "x", "base", [], {}, [1], {"lam": 0.5}, [[]], {"": None}, 10**400, 1e999,
    float("nan"), -(10**30), "\ud800", "\x1b[2J", [0.5] * 12, {"near": 1}, {"near": [1] * 12}, "validation",
    {"a": {"b": {"c": []}}},
]  # fmt: skip


class Judge:
    text = "judge"

    def __init__(self, ends=(0, 1)):
        self.ends = ends

    def examples(self, split):
        return None

    def part(self, start, stop):
        return Judge((start, stop))

    def __call__(self, weights, split):
        hits = np.abs(TARGETS[split] - weights["w"][0]) < 0.3
        return {"near": hits[round(self.ends[0] * 12) : round(self.ends[1] * 12)].astype(float)}


def searched(path):
    ranges = {"lam": (-1, 1, 0.25)}
    return search(
        FAMILY, Judge(), ranges, objective=["near", "-near"], constraints=["near >= 0"], race=True, journal=path
    )


def interfered(path):
    tau = A - BASE
    return disentanglement(BASE, tau, tau, Judge(), ["near", "near"], alphas=[0, 1], journal=path)


def places(value, path=()):
    """Where something can be changed in a line: the keys of every table and list, from the line down."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def mutated(text, draw):
    """The bytes of a journal with something wrong."""
    lines = [json.loads(line) for line in text.splitlines()]
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        at, how = draw.randrange(len(lines)), draw.random()
        if how < 0.06:
            lines.pop(at)
        elif how < 0.1:
            lines.insert(draw.randrange(len(lines) + 1), copy.deepcopy(lines[at]))
        elif how < 0.14:
            lines.insert(at, draw.choice([{"claim": 3, "at": 0}, {"end": 2}, {"beat": "x", "at": 1}, {"new": 1}, {}]))
        else:
            *way, key = draw.choice([*places(lines[at])] or [("x",)])
            inner = lines[at]
            for step in way:
                inner = inner[step]
            if how < 0.3 and isinstance(inner, dict):
                inner.pop(key, None)
            elif how < 0.36 and isinstance(inner, dict):
                inner[str(draw.choice(JUNK))] = inner.pop(key, None)
            else:
                inner[key] = copy.deepcopy(draw.choice(JUNK))
        if not lines:
            break
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    how = draw.random()
    if how < 0.04:
        return data[: draw.randrange(len(data) + 1)]
    if how < 0.08:
        at = draw.randrange(len(data) + 1)
        return data[:at] + draw.randbytes(draw.randrange(1, 9)) + data[at:]
    return data


def stated(call):
    """What a call returns; None where it raised a stated error, which has no second line of a traceback."""
    try:
        return call()
    except TaskvecError as error:
        assert str(error).strip()
        return None


def ready(monkeypatch):
    """Nobody is waited for: a claim that somebody else holds is free at once."""
    monkeypatch.setattr("taskvec.searching.leases.LEASE", -1.0)


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_journal_of_a_search_is_read_or_refused(tmp_path, monkeypatch, seed):
    ready(monkeypatch)
    searched(tmp_path / "whole")
    text, draw, read, went_on = (tmp_path / "whole").read_text(), random.Random(seed), 0, 0
    for k in range(50):
        (tmp_path / "j").write_bytes(mutated(text, draw))
        record = stated(lambda: read_record(tmp_path / "j"))
        if record is not None:
            read += 1
            json.dumps(record.as_dict(), allow_nan=False)
            assert str(record) and record.table()
            if k % 5 == 0:
                page({"j": record})
        went_on += stated(lambda: searched(tmp_path / "j")) is not None
    assert read and went_on


def test_a_damaged_journal_of_interference_is_read_or_refused(tmp_path, monkeypatch):
    ready(monkeypatch)
    interfered(tmp_path / "whole")
    text, draw = (tmp_path / "whole").read_text(), random.Random(3)
    went_on = 0
    for _ in range(120):
        (tmp_path / "j").write_bytes(mutated(text, draw))
        went_on += stated(lambda: interfered(tmp_path / "j")) is not None
    assert went_on


class Code:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_the_state_of_a_sampler_in_a_journal_runs_no_code(tmp_path):
    """Optuna's CMA-ES keeps its state as a pickle."""
    pytest.importorskip("cmaes")
    options = {"sampler": "cmaes", "journal": tmp_path / "j"}
    ranges, family = {"x": (0, 1), "y": (0, 1)}, BASE + tv.knob("x") * (A - BASE) + tv.knob("y") * (A - BASE)
    search(family, Judge(), ranges, trials=20, **options)
    lines = [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()]
    hit = [line["memo"] for line in lines if "cma:optimizer:0" in line.get("memo", {})][-1]
    for state, what in (
        (pickle.dumps(Code(tmp_path / "ran")).hex(), "would run"),
        ("zz", "cannot be read"),
        (pickle.dumps(7).hex(), "cannot go on from the trials"),
    ):
        hit.update({key: "" for key in hit if "optimizer" in key} | {"cma:optimizer:0": state})
        (tmp_path / "j").write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(FormatError, match=what):
            search(family, Judge(), ranges, trials=24, **options)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ({"claim": 0, "pid": "1", "at": 0}, "pid is '1', not a process"),
        ({"claim": 0}, "at is missing"),
        ({"reference": "base", "split": "validation", "scores": None}, "scores is None, not a number or a list"),
        ({"trial": 0, "knobs": {"lam": 10**400}, "scores": {"near": 1}, "seconds": 0}, "not a number for each knob"),
        ({"trial": -1, "knobs": {"lam": 0}, "scores": {"near": 1}, "seconds": 0}, "trial is -1, not a whole number"),
        ({"trial": 0, "knobs": {"lam": 0}, "seconds": 0}, "a trial has scores"),
        ({"hello": 1}, "says nothing that is known"),
    ],
)
def test_a_line_that_no_search_writes_is_stated_with_its_number(tmp_path, line, what):
    searched(tmp_path / "j")
    lines = (tmp_path / "j").read_text().splitlines()
    (tmp_path / "j").write_text("\n".join([lines[0], json.dumps(line), *lines[1:]]) + "\n")
    for call in (read_record, searched):
        with pytest.raises(FormatError, match="(?s)line 2: .*" + what):
            call(tmp_path / "j")


def test_a_torn_last_line_is_left_out_and_noted(tmp_path):
    untorn = searched(tmp_path / "j")
    with (tmp_path / "j").open("a") as file:
        file.write('{"trial": 9, "knobs": {"la')
    record = read_record(tmp_path / "j")
    assert record.notes == (*untorn.notes, TORN) and TORN in str(record) and escape(TORN) in page({"j": record})


def test_a_line_torn_in_the_middle_is_stated(tmp_path):
    searched(tmp_path / "j")
    lines = (tmp_path / "j").read_text().splitlines()
    lines[4] = lines[4][:20]
    (tmp_path / "j").write_text("\n".join(lines) + "\n")
    with pytest.raises(FormatError, match="line 5: no line of a journal"):
        read_record(tmp_path / "j")


def test_a_journal_without_its_base_is_stated(tmp_path):
    searched(tmp_path / "j")
    text = (tmp_path / "j").read_text().replace('"reference":"base"', '"reference":"x"')
    (tmp_path / "j").write_text(text)
    with pytest.raises(FormatError, match="the base was not judged on validation examples"):
        read_record(tmp_path / "j")


def test_a_journal_of_before_is_shown_but_not_gone_on_with(tmp_path):
    searched(tmp_path / "j")
    (tmp_path / "j").write_text((tmp_path / "j").read_text().replace('{"search":2', '{"search":1', 1))
    assert read_record(tmp_path / "j").chosen is not None
    with pytest.raises(OutputError, match="an earlier version of taskvec"):
        searched(tmp_path / "j")
