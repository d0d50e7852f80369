"""Train, validation and test texts by the rules of the lab (taskvec/lab/splits.py): the same on every machine."""

from data import PACKAGES, fetch
from readers import Example
from tasks import TEST, TRAIN, VALIDATION, Task

from taskvec.lab.readers import Pool
from taskvec.lab.splits import SEED, Sizes, split

Splits = dict[str, list[Example]]


def load(task: Task) -> Splits:
    """{"train", "validation", "test"} -> examples, shuffled, so that every prefix is a fair sample."""
    own_train, own_test = PACKAGES[task.package].read(fetch(task.package), task)
    return split(Pool(own_train, own_test), Sizes(TRAIN, VALIDATION, TEST))


def describe(splits: Splits) -> str:
    """One sentence for the vector's file: how many texts, and how they were drawn."""
    sizes = ", ".join(f"{len(examples)} {name}" for name, examples in splits.items())
    return f"{sizes}; duplicates dropped, documents kept whole, classes balanced, by sha256 of (seed {SEED}, text)"
