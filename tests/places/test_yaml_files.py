"""YAML files: what a person writes is read, what is said twice or without end is refused with its place."""

import pytest

from taskvec.errors import FormatError
from taskvec.places.yaml_files import LARGEST, document, documents


def found(tmp_path, text):
    path = tmp_path / "a.yml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return documents(path)


def refused(tmp_path, text):
    with pytest.raises(FormatError) as error:
        found(tmp_path, text)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a: 1\n---\nb: [x, 1e-5]\n", [{"a": 1}, {"b": ["x", "1e-5"]}]),
        ("", []),
        ("---\n# c: d\na: 1\n...\n", [{"a": 1}]),
        ("p: &p {w: 1}\nq: *p\nr: {<<: *p, w: 2}\n", [{"p": {"w": 1}, "q": {"w": 1}, "r": {"w": 2}}]),
        ("p: &p {w: 1}\nr:\n  w: 2\n  <<: *p\n", [{"p": {"w": 1}, "r": {"w": 2}}]),
        ("\ufeffa: 1\r\nb: 2\r\n", [{"a": 1, "b": 2}]),
        ("a: {b: 1}\nc: {b: 1}\n", [{"a": {"b": 1}, "c": {"b": 1}}]),
        ("- a: 1\n- a: 2\n", [[{"a": 1}, {"a": 2}]]),
    ],
)
def test_what_a_person_writes_is_read(tmp_path, text, values):
    assert found(tmp_path, text) == values


def test_where_one_document_is_read_a_second_one_is_refused(tmp_path):
    for text, value in (("", None), ("---\na: 1\n---\n", {"a": 1})):
        found(tmp_path, text)
        assert document(tmp_path / "a.yml") == value
    found(tmp_path, "a: 1\n---\na: 1\n")
    with pytest.raises(
        FormatError, match=r"a.yml has 2 documents, each begun by a line ---, and one is read: join them"
    ):
        document(tmp_path / "a.yml")


def test_every_doubled_key_is_named_with_both_its_lines(tmp_path):
    said = refused(tmp_path, "a:\n  b: 1\n  c: 2\n  'b': 3\nd: 1\na: 2\n")
    assert "a.yml says the same key twice, and the first one would be lost:" in said
    assert said.splitlines()[1:] == ["  - a in line 1 and in line 6", "  - b in line 2 and in line 4"]


def bomb(last):
    lines = ["a: &a [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"{c}: &{c} [{','.join([f'*{p}'] * 10)}]" for p, c in zip("abcdefgh", "bcdefghi", strict=True)]
    return "\n".join([*lines, last])


@pytest.mark.parametrize("text", [bomb("merge_method: *i"), "a: &a [*a]", "a: &a {b: {c: *a}}"])
def test_aliases_that_mean_more_than_anyone_can_read_are_refused_at_once(tmp_path, text):
    assert "more than 100,000 values, since its aliases repeat one another" in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a:\n\t- b\n", r"no YAML (line 2): while scanning"),
        ("a: [\n", "no YAML (line 2)"),
        ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor for the tag"),
        (b"a: \xff\n", "no UTF-8 text: 'utf-8' codec"),
        ("[" * 5000, "no YAML: it is nested too deeply"),
        ("a: " + "x" * LARGEST, "is larger than 4194304 bytes"),
        ("a: \x1b[31m\n", "no YAML"),
    ],
)
def test_what_is_no_yaml_is_said_with_its_place(tmp_path, text, says):
    assert says in refused(tmp_path, text)


def test_what_is_no_file_is_said(tmp_path):
    with pytest.raises(FormatError, match="does not exist"):
        documents(tmp_path / "gone.yml")
    with pytest.raises(FormatError, match=r"no regular file|is a folder"):
        documents(tmp_path)
