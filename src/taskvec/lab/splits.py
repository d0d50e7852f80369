"""Train, validation and test examples: disjoint, class-balanced as far as the data allow, the same on every machine.

The place of a text is a hash of (purpose, text) and no random draw, so it does not depend on the order of anything.

1. Texts that begin alike count as one text (readers.py: `key`).
2. A text that the data's authors meant for testing is a test example and nothing else.
3. Whole groups (documents) go to a split by the hash of their name, by SHARES. Where there are test examples already,
   the share of the test split goes to train.
4. Of each split as many examples are taken as the suite wants: of each class as many as of the others, as far as there
   are so many; then from the larger classes.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskvec.lab.readers import Pool, Text, key

SHARES = {"test": 0.20, "validation": 0.13, "train": 0.67}
SEED = 0  # part of every hash


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many examples a split has at most."""

    train: int = 1500
    validation: int = 300
    test: int = 500


def split(pool: Pool, sizes: Sizes) -> dict[str, list[Text]]:
    """{"train", "validation", "test"} -> examples in a random order, so that every beginning is a fair sample."""
    test = unique(pool.test)
    seen = {key(e.text) for e in test}
    rest = [e for e in unique(pool.examples) if key(e.text) not in seen]
    folds = {name: [e for e in rest if fold(e.group) == name] for name in SHARES}
    if test:
        folds = {"test": test, "validation": folds["validation"], "train": folds["train"] + folds["test"]}
    wanted = {"train": sizes.train, "validation": sizes.validation, "test": sizes.test}
    return {name: balanced(folds[name], size) for name, size in wanted.items()}


def unique(examples: Sequence[Text]) -> list[Text]:
    """The first of every set of texts that begin alike."""
    return list({key(e.text): e for e in reversed(examples)}.values())[::-1]


def draw(purpose: str, text: str) -> float:
    """A number from 0 to 1 (excluded) that depends on the purpose and the text alone."""
    digest = hashlib.sha256(f"{SEED}/{purpose}/{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def fold(group: str) -> str:
    """The split that this group falls into."""
    place = draw("fold", group)
    if place < SHARES["test"]:
        return "test"
    return "validation" if place < SHARES["test"] + SHARES["validation"] else "train"


def balanced(examples: Sequence[Text], size: int) -> list[Text]:
    """`size` examples, the classes as equal as the data allow: a rare class whole, the others alike."""
    shuffled = sorted(examples, key=lambda e: draw("sample", e.text))
    seen: Counter[str] = Counter()
    ranked = []
    for place, example in enumerate(shuffled):
        ranked.append((seen[example.label], place, example))
        seen[example.label] += 1
    chosen = sorted(ranked, key=lambda r: r[:2])[:size]
    return [example for _, _, example in sorted(chosen, key=lambda r: r[1])]


def describe(splits: Mapping[str, Sequence[Text]]) -> str:
    """One sentence for reports: how many texts, and how they were drawn."""
    sizes = ", ".join(f"{len(examples)} {name}" for name, examples in splits.items())
    return f"{sizes}; doubles dropped, documents kept whole, classes balanced, drawn by sha256 of the text"
