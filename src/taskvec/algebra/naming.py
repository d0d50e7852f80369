"""Names for the sources of an expression, for its text, its lineage and its model card."""

import re
from collections import Counter
from collections.abc import Container, Mapping
from keyword import iskeyword

from taskvec.sources.abilities import FromFiles
from taskvec.sources.source import Source


def distinct(mentioned: Mapping[Source, str], reserved: Container[str] = ()) -> dict[Source, str]:
    """A distinct identifier for each source: the name that it was given, else the end of its path.

    mentioned: the sources, each with the name that it was given, or "".
    reserved: words that are no names, such as the functions of recipes.
    """
    names: dict[Source, str] = {}
    taken, counts = set[str](), dict[str, int]()
    for source, given in mentioned.items():
        name = wanted = given or _identifier(source.text)
        while name in taken or name in reserved or iskeyword(name):
            counts[wanted] = counts.get(wanted, 1) + 1
            name = f"{wanted}_{counts[wanted]}"
        names[source] = name
        taken.add(name)
    return names


def told_apart(mentioned: Mapping[Source, str]) -> dict[Source, str]:
    """Names for the arrays that differ although they were given one name. Files differ by their paths."""
    counts = Counter(source.text for source in mentioned if not isinstance(source, FromFiles))
    return {source: name for source, name in distinct(mentioned).items() if counts[source.text] > 1}


def _identifier(text: str) -> str:
    last = re.split(r"[/\\]", re.sub(r'^load\("|/*"(?:, .*)?\)$', "", text))[-1].removesuffix(".safetensors")
    return re.sub(r"^(?=\d)|\W", "_", last) or "source"
