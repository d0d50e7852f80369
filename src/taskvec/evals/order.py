"""The examples of a split stand in a random order, each class spread evenly over it: the first ones are a fair sample.

This holds for however few are taken from the beginning: a race looks at the first quarter, and `limit` keeps the first
ones. Files and folders alone would not do, since they are often sorted by class or by difficulty.

1. Within a class, examples are ordered by their digests with a fixed seed. The order depends on the examples alone, and
   a file that grows keeps the order of its old examples.
2. The j-th example of a class of n gets the key (j + u) / n, where u is between 0 and 1 and is drawn by the name of the
   class. In the order of these keys, the first k examples have k times the class's share of that class, up to one, and
   each example of a class is as likely as any other to be early (systematic sampling within strata: Cochran, 1977, ch.
   5A).
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
