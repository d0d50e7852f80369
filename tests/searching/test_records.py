"""A journal is read back without its models, and refused if its lines do not fit together."""

import json

import pytest

from searching.near import GRID, ONE, TWO, Near
from taskvec.errors import FormatError, TaskvecError
from taskvec.searching.records import read_record
from taskvec.searching.search import search


def test_a_journal_is_read_back_without_its_models(tmp_path):
    result = search(ONE, Near(), GRID, objective="mean(a, b)", journal=tmp_path / "j")
    record = read_record(tmp_path / "j")
    assert str(record) == str(result) and record.as_dict() == result.as_dict() and record.model.startswith("0.")
    (tmp_path / "half").write_bytes(b"\n".join((tmp_path / "j").read_bytes().splitlines()[:-1]) + b"\n")
    with pytest.raises(TaskvecError, match="has not ended"):
        read_record(tmp_path / "half")
    (tmp_path / "none").write_text('{"a": 1}\n')
    with pytest.raises(TaskvecError, match="no journal"):
        read_record(tmp_path / "none")


def test_a_choice_at_the_end_of_its_range_is_told():
    result = search(ONE, Near(), {"lam": (0, 0.2, 0.05)}, objective="mean(a, b)", test=False)
    assert result.chosen.knobs == {"lam": 0.2} and "lam = 0.2 is at the end of its range" in str(result)
    assert "end of its range" not in str(search(ONE, Near(), GRID, objective="mean(a, b)", test=False))
    free = search(TWO, Near(), {"x": (0, 0.1), "y": [0, 1]}, sampler="tpe", trials=3, objective="-a", test=False)
    assert not free.notes[1:]  # a chosen 0 gets no note, and neither does a range of two values


@pytest.mark.parametrize("value", ["<script>", None, [1], {}, float("nan"), float("inf"), True])
@pytest.mark.parametrize("place", ["knobs", "scores"])
def test_a_journal_that_no_search_writes_is_stated(tmp_path, place, value):
    search(ONE, Near(), GRID, objective="a", journal=tmp_path / "j.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    next(line for line in lines if "trial" in line)[place]["lam" if place == "knobs" else "a"] = value
    (tmp_path / "j.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(FormatError, match=r"j\.jsonl: no search writes this"):
        read_record(tmp_path / "j.jsonl")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda first, last: first.update(search=99), "another version"),
        (lambda first, last: first.update(objective=[]), "objective is .., not a list of texts"),
        (lambda first, last: first.update(objective=["a*1e308*1e308"]), "no finite number"),
        (lambda first, last: first.update(objective=["import os"]), "does not fit together"),
        (lambda first, last: first.update(constraints=["a >= nobody.a"]), "no model is called nobody"),
        (lambda first, last: last.update(choice={"lam": 0.123}), "none of the candidates"),
    ],
)
def test_a_journal_whose_parts_do_not_fit_is_stated(tmp_path, change, what):
    search(ONE, Near(), GRID, objective="a", journal=tmp_path / "j.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    change(lines[0], lines[-1])
    (tmp_path / "j.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(FormatError, match=what):
        read_record(tmp_path / "j.jsonl")


def test_a_journal_that_is_nested_too_deeply_is_stated(tmp_path):
    (tmp_path / "j.jsonl").write_text('{"search":1}\n' + "[" * 100_000 + "]" * 100_000 + "\n")
    with pytest.raises(FormatError, match="line 2"):
        read_record(tmp_path / "j.jsonl")
