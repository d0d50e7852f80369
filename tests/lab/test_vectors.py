"""Vectors in the cache: named by what they were made of, trained once, and refused when they are not whole."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from taskvec.errors import DataError
from taskvec.evals.texts import read
from taskvec.lab.bench import Bench
from taskvec.lab.suite import suite_from
from taskvec.lab.vectors import Drawn, Training


def training(bench, *tasks, **changes):
    return Training(tasks or ("food",), 0, replace(bench.suite.training, steps=3), **changes)


@pytest.mark.parametrize(
    ("tasks", "changes", "name"),
    [
        (["food"], {}, "food_0"),
        (["food"], {"objective": "ascent"}, "food_0_ascent"),
        (["food", "home"], {}, "joint_0"),
        (["food"], {"variant": "_rate_1e-05"}, "food_0_rate_1e_05"),
        (["food"], {"variant": "_until_0.5", "objective": "masked"}, "food_0_masked_until_0_5"),
    ],
)
def test_a_vector_has_a_name_that_recipes_can_use(bench, tasks, changes, name):
    assert training(bench, *tasks, **changes).name == name and name.isidentifier()


def test_a_vector_is_a_task_vector_of_the_base_that_names_what_was_trained_alone(bench):
    vector = bench.vector("food", 0)
    assert vector.mass == 0 and all(name.startswith("encoder.layer.") for name in vector.specs)
    tuned = bench.base + vector
    assert tuned.mass == 1 and tuned.specs == bench.base.specs
    embeddings = "embeddings.word_embeddings.weight"
    assert np.array_equal(tuned[embeddings], bench.base[embeddings])


def test_a_vector_is_trained_once_and_then_lies_in_the_cache_of_every_suite(finished, own_suite, tmp_path):
    """The suite of another folder has the same base, data and recipe."""
    other = Bench(suite_from(str(own_suite)), [0], tmp_path / "out", finished.cache)
    assert other.vector("food", 0) == Bench(finished.suite, [0], tmp_path / "two", finished.cache).vector("food", 0)
    assert other.vectors.trained == []


def test_a_vector_of_another_recipe_has_another_name_and_one_of_the_same_recipe_has_not(bench):
    texts = []
    for changes in ({}, {"rate": bench.suite.training.rate}, {"until": 0.5}, {"rate": 1e-5, "schedule": "cosine"}):
        model = bench.base + bench.vector("food", 0, **changes)
        texts.append(model.text(model.names()))
    assert texts == [
        "base + food_0", "base + food_0", "base + food_0_until_0_5", "base + food_0_rate_1e_05_schedule_cosine",
    ]  # fmt: skip


def test_beside_a_vector_lies_what_it_was_made_of(bench):
    path = bench.vectors.path(Training(("food",), 0, bench.suite.training))
    about = json.loads(path.with_suffix(".json").read_text())
    assert (about["name"], about["seed"], about["objective"], about["threads"]) == ("food_0", 0, "labels", 1)
    assert about["recipe"]["rate"] == bench.suite.training.rate and len(about["losses"]) == 16
    assert about["tasks"]["food"].startswith("file: food.csv; 64 train")
    assert not [p for p in path.parent.iterdir() if p.is_dir()], "nothing else is left beside it"


def test_whatever_decides_a_vector_decides_its_name(bench):
    plain = training(bench)
    others = [
        replace(plain, seed=1), replace(plain, objective="ascent"), replace(plain, until=0.5),
        replace(plain, tasks=("home",)), replace(plain, tasks=("food", "home")),
        *(replace(plain, recipe=replace(plain.recipe, **{key: value})) for key, value in {
            "rate": 1e-4, "epochs": 9, "steps": 4, "batch": 8, "warm_up": 0.5, "schedule": "cosine", "decay": 0.5,
            "clip": 2.0, "autocast": "bfloat16", "parameters": ["encoder.layer.0.*.weight"],
        }.items()),
    ]  # fmt: skip
    paths = {bench.vectors.path(each) for each in [plain, *others]}
    assert len(paths) == 1 + len(others) and bench.vectors.path(training(bench)) in paths


@pytest.mark.parametrize(
    ("old", "new"),
    [("sweet: [", "sweet: [sugary, "), ("scale: 20", "scale: 10"), ("splits: {train: 64", "splits: {train: 63"),
     ("prompts: {sweet", "evaluator: {max_tokens: 5}, prompts: {sweet")],
    ids=["prompts", "the suite's evaluator", "examples", "the task's own evaluator"],
)  # fmt: skip
def test_another_suite_that_would_train_otherwise_has_another_vector(bench, own_suite, tmp_path, old, new):
    text = own_suite.read_text()
    assert old in text
    own_suite.write_text(text.replace(old, new))
    other = Bench(suite_from(str(own_suite)), [0], tmp_path / "out", tmp_path / "cache")
    assert other.vectors.path(training(bench)) != bench.vectors.path(training(bench))


def test_another_base_has_other_vectors(bench, own_suite, tmp_path):
    weights = own_suite.parent / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-4:] = np.float32(0.123).tobytes()
    weights.write_bytes(data)
    other = Bench(suite_from(str(own_suite)), [0], tmp_path / "out", tmp_path / "cache")
    assert other.vectors.path(training(bench)) != bench.vectors.path(training(bench))


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_a_cached_vector_that_was_cut_short_is_a_stated_error_which_says_what_to_do(finished, tmp_path, kept):
    bench = Bench(finished.suite, [0], tmp_path / "out", tmp_path / "cache")
    bench.vectors.get(training(bench))
    path = bench.vectors.path(training(bench))
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    again = Bench(finished.suite, [0], tmp_path / "out", tmp_path / "cache")
    with pytest.raises(DataError, match=r"food_0-.*\.safetensors is no vector that can be used; remove it to train it"):
        again.vectors.get(training(bench))
    path.unlink()
    again.vectors.get(training(bench))
    assert path.read_bytes() == whole and again.vectors.trained == ["food_0"]


def test_a_cache_that_cannot_be_written_to_is_a_stated_error(finished, tmp_path):
    bench = Bench(finished.suite, [0], tmp_path / "out", tmp_path / "cache")
    (tmp_path / "cache" / "vectors").write_text("in the way")
    with pytest.raises(DataError, match="vectors"):
        bench.vectors.get(training(bench))
    assert not bench.vectors.trained


# ---- drawn training sets ---------------------------------------------------------------------------
def drawn(good, bad, name="set"):
    return Drawn(name, (("films", "good", good), ("films", "bad", bad), ("meals", "good", bad), ("meals", "bad", good)))


def of(bench, what, seed=0):
    return Training(what.tasks, seed, bench.suite.training, drawn=what)


def test_a_drawn_training_set_has_the_first_examples_of_each_class_of_each_task(bench):
    films = bench.vectors.examples(of(bench, drawn(19, 1)), "films")
    assert Counter(e.label for e in films) == {"good": 19, "bad": 1}
    good = [e for e in read(bench.data["films"].file("train")) if e.label == "good"]
    assert films[:19] == good[:19]


def test_a_drawn_training_set_names_its_vector(bench):
    assert of(bench, drawn(19, 1, "skewed"), 2).name == "skewed_2"


def test_other_draws_are_other_vectors_and_all_examples_are_another_still(bench):
    trainings = [of(bench, drawn(19, 1)), of(bench, drawn(10, 10)), of(bench, drawn(5, 5)), of(bench, drawn(5, 5), 1)]
    trainings.append(Training(("films", "meals"), 0, bench.suite.training))
    keys = {bench.vectors.path(training).name.rpartition("-")[2] for training in trainings}
    assert len(keys) == len(trainings)


def test_other_examples_to_draw_from_are_another_vector(bench, monkeypatch):
    path = bench.vectors.path(of(bench, drawn(19, 1)))
    films = bench.data["films"]
    others = replace(films, digests={**films.digests, "train": "others"})
    monkeypatch.setattr(bench.vectors, "data", bench.data | {"films": others})
    assert bench.vectors.path(of(bench, drawn(19, 1))) != path


def test_a_training_set_that_is_too_large_names_the_classes_that_lack_examples(bench):
    with pytest.raises(
        DataError, match=r"(?s)set set is too large.*films has 32 training examples of good, and 33 are wanted"
    ) as error:
        bench.drawn(drawn(33, 1), 0)
    assert "bad" not in str(error.value), "the films have enough of these"
