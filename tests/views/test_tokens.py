"""Vocabularies as the files of a tokenizer hold them."""

import json
import shutil

from taskvec.views.tokens import read


def test_the_vocabulary_is_read_from_whatever_file_there_is(tmp_path):
    def table(**files):
        shutil.rmtree(tmp_path / "t", ignore_errors=True)
        (tmp_path / "t").mkdir()
        for name, text in files.items():
            (tmp_path / "t" / name.replace("__", ".")).write_bytes(text if isinstance(text, bytes) else text.encode())
        return dict(read(tmp_path / "t").ids)

    assert table(vocab__txt="[PAD]\nthe\n##s\n") == {"[PAD]": 0, "the": 1, "##s": 2}
    assert table(vocab__txt=b"a\r\nb\r\n\r\n", added_tokens__json='{"<x>": 9}') == {"a": 0, "b": 1, "": 2, "<x>": 9}
    assert table(vocab__json='{"a": 1}', merges__txt="", added_tokens__json='{"b": 2}') == {"a": 1, "b": 2}
    unigram = {"model": {"vocab": [["<unk>", 0.0], ["_a", -1.5]]}, "added_tokens": [{"id": 2, "content": "<x>"}]}
    assert table(tokenizer__json=json.dumps(unigram), vocab__txt="other") == {"<unk>": 0, "_a": 1, "<x>": 2}
