"""A random order of examples in which each class is spread evenly, so that the first ones are a fair sample of all.

This holds for any number of first ones: a race looks at the first quarter, and `limit` keeps the first ones. The order
of files and folders would not do, since they are often sorted by class or by difficulty.

1. Within a class, examples are ordered by their digests with a fixed seed. The order depends on the examples alone, and
   a file that grows keeps the order of its old examples.
2. The j-th example of a class of n gets the key (j + u) / n, where u is between 0 and 1 and is drawn by the name of the
   class. In the order of these keys, the number of examples of a class among the first k is k times the class's share,
   up to one more or less, and each example of a class is as likely as any other to be early (systematic sampling within
   strata: Cochran, 1977, ch. 5A).
"""

from collections import Counter
from collections.abc import Mapping, Sequence

SEED = "order"  # so that the order does not depend on the digest that deals examples to the splits
FIRST = 0.25  # the share of the examples that a race looks at first


def fair_order(identities: Sequence[str], classes: Sequence[str], sizes: Mapping[str, int] | None = None) -> list[int]:
    """The places of the examples, (n,), in the order described above.

    identities, classes: (n,), the digest and the class of each example; all classes are equal if there are none.
    sizes: the number of examples of each class, if these are not all examples.
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
    """The digest by which a text is recognised."""
    from blake3 import blake3

    return blake3(text.encode()).hexdigest(16)


def position(identity: str) -> float:
    """A number between 0 and 1 for a digest. It decides to which split an example belongs."""
    return int(identity[:12], 16) / 16**12


def _place(text: str) -> float:
    """A number between 0 and 1 that is drawn by a text."""
    return position(digest(f"{SEED} {text}"))
