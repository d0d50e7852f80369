"""Reads JSON and texts that other programs wrote, at a bounded cost.

Only regular files of a bounded size are read, and JSON may hold only a bounded number of values. A text of n bytes can
make 25 n bytes of Python objects (`[[],[],[],...`), so the values are counted before they are made. The limits are well
above what the largest models need: an index or a header of 300,000 tensors, a tokenizer with a million merges.
"""

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taskvec.errors import FormatError
from taskvec.places.local import stated
from taskvec.places.place import Readable

LONGEST = 100_000_000  # bytes of a text
MOST_TABLES, MOST_TEXTS, MOST_VALUES = 1_500_000, 4_000_000, 8_000_000  # lists and tables; texts; values in all
_HALF = re.compile(rb"\\u[dD]")  # perhaps half a character, which UTF-8 cannot write


def read_json(path: Path, longest: int = LONGEST, once: bool = False) -> Any:
    """The value that a JSON file holds. Raises FormatError if it is no regular file, too large, or not JSON.

    once: refuse a table that has a key twice, since one of the two values would be lost.
    """
    return _value(read_small(path, longest), str(path), once)


def json_in(file: Readable, longest: int = LONGEST, once: bool = False) -> Any:
    """The same as `read_json`, for a file that is open, in whichever place."""
    if file.size > longest:
        raise FormatError(f"{file.uri} is larger than {longest} bytes")
    return _value(file.read(0, file.size), file.uri, once)


def _value(text: bytes, uri: str, once: bool) -> Any:
    repeated: list[str] = []
    value = parsed(text, uri, noting_doubles(repeated) if once else None)
    if repeated:
        raise FormatError(f"{uri} has keys twice, and one value of each would be lost:", repeated[:50])
    return value


def noting_doubles(repeated: list[str]) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """A function that makes the tables in `parsed`. It adds to `repeated` the keys that a table has twice."""

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            repeated.extend(sorted(key for key, count in Counter(key for key, _ in pairs).items() if count > 1))
        return values

    return table


def read_small(path: Path, longest: int = LONGEST) -> bytes:
    """The bytes of a regular file of at most `longest` bytes. Raises FormatError.

    A pipe or a device such as /dev/zero is refused before anything of it is read, also behind a link.
    """
    with stated(path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise FormatError(f"{path} is no regular file")
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FormatError(f"{path} is no regular file")
            content = file.read(longest + 1)
    if len(content) > longest:
        raise FormatError(f"{path} is larger than {longest} bytes")
    return content


def read_text(path: Path, longest: int = LONGEST) -> str:
    """The text of a regular file of at most `longest` bytes, in UTF-8. Raises FormatError."""
    try:
        return read_small(path, longest).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is no UTF-8 text: {error}") from None


def parsed(text: "bytes | bytearray", what: str, pairs: "Callable[[list[tuple[str, Any]]], Any] | None" = None) -> Any:
    """The value of a JSON text. `pairs` makes its tables, as in json.loads. Raises FormatError that names `what`."""
    quotes = text.count(b'"') - text.count(b'\\"')
    tables, texts = text.count(b"[") + text.count(b"{"), quotes // 2
    if tables > MOST_TABLES or texts > MOST_TEXTS or tables + text.count(b",") > MOST_VALUES:
        raise FormatError(f"{what} holds more than {MOST_TABLES} lists and tables, or {MOST_VALUES} values")
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=pairs)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not JSON ({error})") from None
    return value


def _without_waiting(path: str, flags: int) -> int:
    """Open a file without waiting, in case a pipe has taken its place and nobody writes into it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
