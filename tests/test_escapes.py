"""Characters that would steer a terminal, a shell or Markdown are shown and do nothing."""

import os
import subprocess

import pytest

from taskvec.escapes import fenced, in_markdown, in_shell, printable

EVIL = "x\x1b]0;title\x07\x1b[2J\x9b31m\u202e\x7f"
SHOWN = "x\\x1b]0;title\\x07\\x1b[2J\\x9b31m\\u202e\\x7f"


@pytest.mark.parametrize("text", ["plain", "über/模型", "two\nlines\tand a tab"])
def test_ordinary_text_is_printed_as_it_is(text):
    assert printable(text) == text


def test_a_half_character_of_a_path_is_printed_as_an_escape():
    assert printable(os.fsdecode(b"in\xffput")) == "in\\udcffput"


@pytest.mark.parametrize("word", ["$(touch x)", "a'b\"c`d`", "-x", "\x1b[2J\n'\\$HOME", os.fsdecode(b"in\xffput"), ""])
def test_a_shell_reads_a_quoted_word_back(word):
    line = f"printf %s {in_shell(word)}"
    assert subprocess.run(["bash", "-c", line], capture_output=True).stdout == os.fsencode(word)


@pytest.mark.parametrize("text", ["a|b", "`</code><script>alert(1)</script>", "x\n\n# Title", "[l](http://e)", EVIL])
def test_code_in_markdown_cannot_be_left(text):
    shown = in_markdown(text)
    inner = shown.removeprefix("<code>").removesuffix("</code>")
    assert not set(inner) & set("|`<>[]\n\x1b"), shown


@pytest.mark.parametrize("text", [EVIL, "\ud800", "a\x00\x7f", "\u2028"])
def test_what_steers_a_terminal_is_shown_as_an_escape(text):
    shown = printable(text)
    assert shown.isprintable() and shown.isascii() and shown.encode().decode("unicode_escape") == text
    assert printable(EVIL) == SHOWN and printable("ü\x1b\n") == "ü\\x1b\n"


@pytest.mark.parametrize(
    ("word", "shown"),
    [("plain", "plain"), ("a b", "'a b'"), ("a'b", "'a'\"'\"'b'"), ("a\n'\\", "$'a\\x0a\\x27\\x5c'"),
     ("ü\t", "$'\\xc3\\xbc\\x09'")],
)  # fmt: skip
def test_a_word_is_quoted_as_little_as_it_needs(word, shown):
    assert in_shell(word) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("runs/a-b_1.0:x@y+z=1,~ ü", "`runs/a-b_1.0:x@y+z=1,~ ü`"), ("a|b", "<code>a&#124;b</code>"),
        ("<&>`", "<code>&#60;&#38;&#62;&#96;</code>"), ("a\x1b.b c/d", "<code>a&#92;x1b.b c/d</code>"),
        ("", "<code></code>"),
    ],
)  # fmt: skip
def test_a_text_in_markdown_is_code(text, shown):
    assert in_markdown(text) == shown


@pytest.mark.parametrize(("text", "fence"), [("a", "```"), ("a ``` b", "````"), ("`````\n``", "``````"), ("``", "```")])
def test_a_block_of_code_ends_where_its_fence_says(text, fence):
    assert fenced(text) == [fence, text, fence] and fenced(text, "sh")[0] == fence + "sh"
    assert fenced("\x1b", "x") == ["```x", "\\x1b", "```"]
