"""JSON of other programs is read at a bounded cost, from regular files alone."""

import json
import os

import pytest

from taskvec.errors import FormatError
from taskvec.places.json_files import parsed, read_json, read_small


def test_a_file_is_read_also_through_a_link(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, "\\u00e9"]}')
    (tmp_path / "link.json").symlink_to("a.json")
    assert read_json(tmp_path / "a.json") == read_json(tmp_path / "link.json") == {"a": [1, "é"]}


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff", b"[" * 100_000, b'"\\ud800"', b"\xef\xbb\xbf{}", b'{"a": "\xed\xa0\x80"}']
)
def test_what_is_no_json_is_a_stated_error_that_names_the_file(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(FormatError, match=r"a\.json is not JSON"):
        read_json(tmp_path / "a.json")


def test_pipes_and_devices_are_refused_without_a_read(tmp_path):
    os.mkfifo(tmp_path / "fifo.json")
    for name, target in (("zero.json", "/dev/zero"), ("pipe.json", "fifo.json"), ("folder.json", ".")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(FormatError, match=f"{name}( is no regular file|: is a folder)"):
            read_small(tmp_path / name)
    with pytest.raises(FormatError, match=r"nowhere\.json: does not exist"):
        read_small(tmp_path / "nowhere.json")
    (tmp_path / "circle.json").symlink_to("circle.json")
    with pytest.raises(FormatError, match="circle"):
        read_small(tmp_path / "circle.json")


def test_a_large_file_is_not_read_whole(tmp_path):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(1 << 40)  # a hole
    with pytest.raises(FormatError, match="is larger than 1000 bytes"):
        read_small(tmp_path / "a.json", 1000)


def test_texts_that_hold_json_do_not_count_as_values():
    inner = json.dumps({"a": "b"}) * 400_000
    assert parsed(json.dumps({"k": inner}).encode(), "x") == {"k": inner}


def test_the_index_of_a_checkpoint_may_be_none_of_these(tmp_path, build, run):
    for kind in ("fifo", "zero"):
        folder = build.model(tmp_path / kind, build.tensors(0), shards=2)
        index = folder / "model.safetensors.index.json"
        index.unlink()
        os.mkfifo(index) if kind == "fifo" else index.symlink_to("/dev/zero")
        done = run("show", kind)
        assert done.code == 1 and "is no regular file" in done.stderr, done


def test_a_configuration_that_cannot_be_read_does_not_hang(tmp_path, build):
    import taskvec as tv

    folder = build.model(tmp_path / "m", build.tensors(0))
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert len(tv.load(folder).specs) == len(build.tensors(0))
