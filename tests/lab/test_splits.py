"""Splits: disjoint, balanced, the same everywhere, and no group is torn apart."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvec.lab.readers import Pool, Text, key
from taskvec.lab.splits import SHARES, Sizes, balanced, describe, draw, fold, split, unique

ALL = Sizes(10**6, 10**6, 10**6)
DRAWN = 0.21511531431251904  # sha256 of "0/fold/document 1": the first 8 bytes, over 2^64
FOLDS = ["test", "validation", "validation", "train", "validation", "train", "train", "train"]


def texts(count, groups=None, labels=2):
    return [
        Text(f"text number {k}", f"class {k % labels}", f"document {k % groups}" if groups else key(f"text number {k}"))
        for k in range(count)
    ]


def test_the_splits_share_no_text_and_hold_every_text():
    examples = texts(500)
    parts = split(Pool(examples, []), ALL)
    assert [*parts] == ["train", "validation", "test"]
    assert sorted(t.text for part in parts.values() for t in part) == sorted(t.text for t in examples)


def test_no_document_is_in_two_splits():
    parts = split(Pool(texts(500, groups=40), []), ALL)
    seen = [{t.group for t in part} for part in parts.values()]
    assert all(seen) and not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_texts_that_begin_alike_count_once_also_across_the_authors_test_set():
    doubles = [Text("The same!", "a", "1"), Text("the same", "b", "2"), Text("another", "a", "3")]
    assert unique(doubles) == [doubles[0], doubles[2]], "the first one stays"
    parts = split(Pool([*texts(100), *doubles], [Text("THE SAME", "a", "4")]), ALL)
    assert [t.text for part in parts.values() for t in part if key(t.text) == "the same"] == ["THE SAME"]


def test_a_test_set_of_the_authors_is_the_test_split_and_nothing_else_is():
    own = [Text(f"own {k}", "class 0", str(k)) for k in range(50)]
    parts = split(Pool(texts(400), own), ALL)
    assert {t.text for t in parts["test"]} == {t.text for t in own}
    assert {t.text for t in parts["train"] + parts["validation"]} == {t.text for t in texts(400)}


def test_the_order_of_the_data_does_not_matter():
    examples = texts(300, groups=60)
    mixed = random.Random(0).sample(examples, 300)
    assert split(Pool(examples, []), Sizes(50, 20, 30)) == split(Pool(mixed, []), Sizes(50, 20, 30))


def test_a_beginning_of_a_split_is_part_of_a_longer_one():
    """Where all classes are as many, fewer examples are chosen among those that more would be."""
    few, many = (split(Pool(texts(400), []), Sizes(size, size, size)) for size in (20, 40))
    assert all({*few[name]} <= {*many[name]} and len(few[name]) == 20 for name in few)


@given(st.lists(st.sampled_from("aaaab"), min_size=1, max_size=60), st.integers(1, 70))
def test_classes_are_as_equal_as_the_data_allow(labels, size):
    examples = [Text(f"{k}", label, f"{k}") for k, label in enumerate(labels)]
    there, chosen = Counter(labels), Counter(t.label for t in balanced(examples, size))
    assert sum(chosen.values()) == min(size, len(labels))
    for label, other in (("a", "b"), ("b", "a")):
        assert chosen[label] <= chosen[other] + 1 or chosen[other] == there[other], "a rare class is taken whole"


def test_a_draw_depends_on_purpose_and_text_alone_and_is_the_same_on_every_machine():
    assert draw("fold", "document 1") == pytest.approx(DRAWN, abs=1e-15)
    assert draw("fold", "document 1") != draw("sample", "document 1")
    assert [fold(f"document {k}") for k in range(8)] == FOLDS


def test_groups_fall_into_the_splits_by_their_shares():
    counts = Counter(fold(f"group {k}") for k in range(4000))
    assert {name: counts[name] / 4000 for name in SHARES} == pytest.approx(SHARES, abs=0.02)


def test_a_report_says_how_many_there_are_and_how_they_were_drawn():
    assert describe({"train": texts(3), "test": texts(2)}).startswith("3 train, 2 test; doubles dropped")
