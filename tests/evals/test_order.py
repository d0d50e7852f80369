"""The order of examples: random, every class spread evenly over it, and the same whatever stands before or after."""

from collections import Counter

import numpy as np
import pytest

from taskvec.evals.images import Images
from taskvec.evals.order import fair_order
from taskvec.evals.texts import Data

SIZES = {"a": 40, "b": 40, "c": 13, "d": 1}
CLASSES = [name for name, n in SIZES.items() for _ in range(n)]  # sorted, as files and folders are
NAMES = [f"{name}{k}" for k, name in enumerate(CLASSES)]


def test_every_beginning_has_every_class_in_its_share():
    order = fair_order(NAMES, CLASSES)
    assert sorted(order) == [*range(len(NAMES))]
    for k in range(1, len(order) + 1):
        seen = Counter(CLASSES[place] for place in order[:k])
        assert all(abs(seen[name] - k * n / len(NAMES)) <= 1.5 for name, n in SIZES.items())
    two = fair_order(NAMES[:80], CLASSES[:80])
    assert all(Counter(CLASSES[p] for p in two[:k])["a"] in (k // 2, (k + 1) // 2) for k in range(81))


def test_it_does_not_depend_on_the_order_of_the_file():
    shuffle = np.random.default_rng(0).permutation(len(NAMES))
    one = [NAMES[k] for k in fair_order(NAMES, CLASSES)]
    names, classes = [NAMES[k] for k in shuffle], [CLASSES[k] for k in shuffle]
    assert [names[k] for k in fair_order(names, classes)] == one


def test_examples_that_are_added_leave_the_old_ones_in_their_order():
    names, classes = [*NAMES, *(f"new{k}" for k in range(30))], [*CLASSES, *"c" * 30]
    for name in SIZES:
        before = [NAMES[k] for k in fair_order(NAMES, CLASSES) if CLASSES[k] == name]
        after = [names[k] for k in fair_order(names, classes) if classes[k] == name]
        assert [n for n in after if n in before] == before


def test_an_example_of_a_small_class_is_as_likely_as_any_other_to_be_early():
    early = Counter()
    for k in range(400):
        classes = [f"{name}{k}" for name in ["few", "few", *["many"] * 14]]
        early.update(min(place, 2) for place in fair_order([f"{k} {j}" for j in range(16)], classes)[:4])
    assert abs(early[0] / 400 - 0.25) < 0.09 and abs(early[1] / 400 - 0.25) < 0.09


def test_where_every_example_is_a_class_of_its_own_the_order_is_random():
    order = fair_order(NAMES, NAMES)
    assert abs(np.mean(order[:24]) - 46.5) < 25 and order != sorted(order)


@pytest.mark.parametrize("limit", [20, 21, 1])
def test_a_limit_keeps_the_shares_of_the_classes(tmp_path, limit):
    rows = "".join(f"{name}\t{name} {k}\n" for name in ("bad", "good") for k in range(60))
    (tmp_path / "s.tsv").write_text("label\ttext\n" + rows)
    for split in ("validation", "test"):
        examples = Data(data="s.tsv", limit=limit).examples(split, tmp_path)
        counts = Counter(e.label for e in examples)
        assert len(examples) == limit and abs(counts["bad"] - counts["good"]) <= limit % 2
        more = Data(data="s.tsv", limit=limit + 8).examples(split, tmp_path)
        assert {e.text for e in examples} < {e.text for e in more}


def test_pictures_in_folders_are_limited_and_parted_by_class(tmp_path):
    for name in "abcd":
        (tmp_path / "pics" / name).mkdir(parents=True)
        for k in range(30):
            (tmp_path / "pics" / name / f"{k}.png").write_bytes(f"{name}{k}".encode())
    assert {*Counter(e.label for e in Images(data="pics", limit=20).examples("test", tmp_path)).values()} == {5}
    task = Images(data="pics")
    task.name, task.root = "task", tmp_path
    quarter, rest = task.part("validation", 0, 0.25), task.part("validation", 0.25, 1)
    assert {*Counter(e.label for e in quarter).values()} <= {3, 4}
    assert {e.identity for e in (*quarter, *rest)} == {
        e.identity for e in Images(data="pics").examples("validation", tmp_path)
    }
