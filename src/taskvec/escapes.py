"""Makes texts that come from files (names of tensors, metadata, paths) harmless where they are shown.

A terminal, a shell or a page of Markdown could otherwise read them as commands or as markup.
"""

import os
import re
import shlex

KEPT = "\n\t"  # control characters that a text for a terminal may hold
ORDINARY = re.compile(r"[\w./:@+=,~ -]+")  # paths that mean nothing else to Markdown or HTML between backticks


def printable(text: str) -> str:
    r"""The text with a visible escape (`\x1b`, `\u202e`) for every character that steers a terminal or cannot be shown.

    These are control characters, overrides of the direction of writing, and halves of characters. Line ends and tabs
    stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in KEPT else c.encode("unicode_escape").decode() for c in text)


def in_shell(word: str) -> str:
    """The word quoted so that a POSIX shell reads it back.

    A word with characters that no terminal should get is written in bash's form $'...'.
    """
    if word.isprintable():
        return shlex.quote(word)
    raw = os.fsencode(word)
    return "$'" + "".join(chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in raw) + "'"


def in_markdown(text: str) -> str:
    """The text as code within a line or a table of Markdown. It can neither end the code nor be read as HTML."""
    if ORDINARY.fullmatch(text):
        return f"`{text}`"
    from html import escape  # few texts need it

    code = "".join(c if c.isalnum() or c in " ./" else f"&#{ord(c)};" for c in printable(text))
    return f"<code>{escape(code, quote=False).replace('&amp;#', '&#')}</code>"


def fenced(text: str, language: str = "") -> list[str]:
    """Lines of Markdown that show the text as a block of code, whatever backticks are in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [fence + language, printable(text), fence]
