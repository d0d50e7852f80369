"""The order in which a split's examples stand: random, and with each class evenly spread over it.

So the first of them are a fair sample of all, however few: what a race looks at first, and what `limit` keeps. Files
and folders are often sorted by class, or by difficulty.

1. Within a class examples are in the order of their digests, with a fixed seed: it depends on the examples alone, and a
   file with more examples keeps the order of the old ones.
2. The j-th of a class of n has the key (j + u) / n, where u, between 0 and 1, is drawn by the class's name. In the
   order of keys, among the first k examples there are k times the class's share, up to one, and each example of a class
   is as likely as any other to be early (systematic sampling within strata: Cochran, 1977, ch. 5A).
"""

from collections import Counter
from collections.abc import Mapping, Sequence

SEED = "order"  # another digest than the one that deals examples to the splits
FIRST = 0.25  # of the examples, that a race looks at first


def fair_order(identities: Sequence[str], classes: Sequence[str], sizes: Mapping[str, int] | None = None) -> list[int]:
    """The places of examples in that order. classes: of each example one, all the same where there are none.

    sizes: how many examples each class has, where these are not all of them.
    """
    counts = sizes or Counter(classes)
    drawn = {name: _place(name) for name in {*classes}}
    by_digest = sorted(range(len(identities)), key=lambda k: (_place(identities[k]), k))
    before: Counter[str] = Counter()
    keys = {}
    for k in by_digest:
        name = classes[k]
        keys[k] = (before[name] + drawn[name]) / counts[name]
        before[name] += 1
    return sorted(by_digest, key=lambda k: (keys[k], drawn[classes[k]]))


def digest(text: str) -> str:
    """What a text, or anything else in words, is recognised by."""
    from blake3 import blake3

    return blake3(text.encode()).hexdigest(16)


def position(identity: str) -> float:
    """Where a digest lies between 0 and 1: which split deals by."""
    return int(identity[:12], 16) / 16**12


def _place(text: str) -> float:
    """Between 0 and 1, by a digest."""
    return position(digest(f"{SEED} {text}"))
