"""Examples are read out of files of several formats and dealt to the two splits by their texts alone."""

import json
from pathlib import Path

import pytest

from evals.tiny import TEXTS
from taskvec.errors import FormatError
from taskvec.evals.texts import Data, paragraphs, read


def test_one_file_is_dealt_out_by_the_texts_alone(home, tmp_path):
    data = Data(data="all.jsonl")
    sides = {split: [e.text for e in data.examples(split, home)] for split in ("validation", "test")}
    assert not {*sides["validation"]} & {*sides["test"]} and {*sides["validation"], *sides["test"]} == {*TEXTS}
    assert 15 < len(sides["test"]) < 45
    lines = (home / "all.jsonl").read_text().splitlines()
    (tmp_path / "all.jsonl").write_text("\n".join([*lines[::-1], *lines]))  # another order, every text twice
    for split, texts in sides.items():
        assert {e.text for e in data.examples(split, tmp_path)} == {*texts}
        assert len(data.examples(split, tmp_path)) == len(texts)
    assert len(Data(data="all.jsonl", limit=3).examples("test", home)) == 3
    few = Data(data="all.jsonl", share=0.2).examples("validation", home)
    assert {e.text for e in few} < {*sides["validation"]}


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.jsonl", '{"text": "x"}\n{"txt": "y"}\n', "line 2: no text under 'text'; there is txt"),
        ("a.jsonl", '{"text": "x"}\nnope\n', "line 2: no JSON"),
        ("a.jsonl", "[1]\n", "line 1: no JSON .it is no object"),
        ("a.jsonl", '{"text": ' + "[" * 100_000, "line 1: no JSON"),
        ("a.csv", "txt,label\nx,y\n", "line 2: no text under 'text'; there is txt, label"),
    ],
)
def test_what_is_wrong_with_data_is_stated_with_its_line(tmp_path, name, content, what):
    (tmp_path / name).write_text(content)
    with pytest.raises(FormatError, match=what):
        [*read(Path(tmp_path / name))]


def test_what_is_no_text_file_is_stated(tmp_path):
    (tmp_path / "a.txt").write_bytes("é".encode("latin-1"))
    for name, what in (("/dev/zero", "is no regular file"), ("a\0.txt", "null byte")):
        with pytest.raises(FormatError, match=what):
            [*read(tmp_path / name)]
    for reader in (read, paragraphs):
        with pytest.raises(FormatError, match=r"a.txt is no UTF-8 text"):
            [*reader(tmp_path / "a.txt")]


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0c", "\x1e"])
def test_a_text_is_cut_at_the_ends_of_lines_alone(tmp_path, mark):
    """str.splitlines cuts at more characters than that: a row of a table would lose its label in silence."""
    text = f"one{mark}two"
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text, "label": "x"}, ensure_ascii=False) + "\n")
    (tmp_path / "a.csv").write_text(f"text,label\r\n{text},x\r\n")
    (tmp_path / "a.txt").write_text(f"{text}\r\n\nthree\n")
    for name, wanted in (("a.jsonl", [(text, "x")]), ("a.csv", [(text, "x")]), ("a.txt", [(text, ""), ("three", "")])):
        assert [(e.text, e.label) for e in read(tmp_path / name)] == wanted


def test_a_text_that_is_cut_by_a_comma_is_stated_with_its_line(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"well, fine",x\nwell, bad,y\n')
    with pytest.raises(FormatError, match=r"a.csv, line 3: more fields than columns, which are text, label: put"):
        [*read(tmp_path / "a.csv")]
