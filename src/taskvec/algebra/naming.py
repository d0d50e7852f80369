"""Names for the sources of an expression, where its text, its lineage and its model card name them."""

import re
from collections.abc import Container, Mapping
from keyword import iskeyword

from taskvec.sources.source import Source


def distinct(mentioned: Mapping[Source, str], reserved: Container[str] = ()) -> dict[Source, str]:
    """A distinct identifier for each source: the name that it was given, else the end of its path. None is one of
    `reserved`, such as the functions of recipes."""
    found: dict[Source, str] = {}
    taken, counts = set[str](), dict[str, int]()
    for source, given in mentioned.items():
        name = wanted = given or _identifier(source.text)
        while name in taken or name in reserved or iskeyword(name):
            counts[wanted] = counts.get(wanted, 1) + 1
            name = f"{wanted}_{counts[wanted]}"
        found[source] = name
        taken.add(name)
    return found


def _identifier(text: str) -> str:
    last = re.split(r"[/\\]", re.sub(r'^load\("|/*"(?:, .*)?\)$', "", text))[-1].removesuffix(".safetensors")
    return re.sub(r"^(?=\d)|\W", "_", last) or "source"
