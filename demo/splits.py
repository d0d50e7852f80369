"""Train, validation and test texts: disjoint, class-balanced as far as the data allow, and the same on every machine.

The place of a text is a hash of (seed, purpose, text) and not a random draw, so it does not depend on the order of
anything else. Sentences of one document stay together, and texts that start alike count as one.
"""

import hashlib
from collections import Counter

from data import PACKAGES, fetch
from readers import Example, key
from tasks import SEED, TEST, TRAIN, VALIDATION, Task

SHARES = {"test": 0.20, "validation": 0.13, "train": 0.67}
SIZES = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
Splits = dict[str, list[Example]]


def load(task: Task) -> Splits:
    """{"train", "validation", "test"} -> examples, shuffled, so that every prefix is a fair sample."""
    own_train, own_test = PACKAGES[task.package].read(fetch(task.package), task)
    return split(own_train, own_test)


def split(pool: list[Example], own_test: list[Example]) -> Splits:
    """Folds of the pool; the data's own test set, where there is one, takes the place of the test fold."""
    test = unique(own_test)
    in_test = {key(e.text) for e in test}
    rest = [e for e in unique(pool) if key(e.text) not in in_test]
    folds: Splits = {name: [e for e in rest if fold(e.group) == name] for name in SHARES}
    if test:
        folds = {"test": test, "validation": folds["validation"], "train": folds["train"] + folds["test"]}
    return {name: balanced(folds[name], size) for name, size in SIZES.items()}


def describe(splits: Splits) -> str:
    """One sentence for the vector's file: how many texts, and how they were drawn."""
    sizes = ", ".join(f"{len(examples)} {name}" for name, examples in splits.items())
    return f"{sizes}; duplicates dropped, documents kept whole, classes balanced, by sha256 of (seed {SEED}, text)"


def unique(examples: list[Example]) -> list[Example]:
    """The first of every set of texts that start alike."""
    return list({key(e.text): e for e in reversed(examples)}.values())[::-1]


def draw(purpose: str, text: str) -> float:
    """A number in [0, 1) that depends on the seed, the purpose and the text alone."""
    digest = hashlib.sha256(f"{SEED}/{purpose}/{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def fold(group: str) -> str:
    """The split that this group falls into, by the SHARES."""
    place = draw("fold", group)
    if place < SHARES["test"]:
        return "test"
    return "validation" if place < SHARES["test"] + SHARES["validation"] else "train"


def balanced(examples: list[Example], size: int) -> list[Example]:
    """`size` examples, the classes as equal as the data allows: a rare class whole, the others alike."""
    shuffled = sorted(examples, key=lambda e: draw("sample", e.text))
    counts: Counter[int] = Counter()
    ranked = []
    for place, example in enumerate(shuffled):
        ranked.append((counts[example.label], place, example))
        counts[example.label] += 1
    chosen = sorted(ranked, key=lambda r: r[:2])[:size]
    return [example for _, _, example in sorted(chosen, key=lambda r: r[1])]
