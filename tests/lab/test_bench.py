"""The bench: scores are computed once and written down, coefficients are chosen on validation examples."""

import json
import shutil

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import DataError, RecipeError
from taskvec.evals.suite import suite_from as tasks_from
from taskvec.lab.bench import Bench, base_folder, require
from taskvec.lab.suite import suite_from
from taskvec.searching.search import search


def journal(bench):
    return [json.loads(line) for line in (bench.folder / "scores.jsonl").read_text().splitlines()]


@pytest.fixture
def fresh(finished, tmp_path):
    """A bench with an empty journal."""
    return Bench(finished.suite, range(3), tmp_path / "out", finished.cache)


# ---- scores --------------------------------------------------------------------------------------------
def test_scores_are_those_of_the_file_of_tasks_that_a_bench_leaves_in_its_cache(finished, tmp_path):
    """Anybody can give this file to `taskvec search --evaluate`."""
    bench = Bench(finished.suite, [0], tmp_path / "out", tmp_path / "cache")
    model = bench.base + 0.5 * bench.vector("food", 0)
    (file,) = (tmp_path / "cache" / "tasks").iterdir()
    wanted = tasks_from(str(file))(model, "test")
    scores = bench.scores(model, ["food", "voices"], "test")
    assert {name: [*map(float, values)] for name, values in scores.items()} == {
        name: [*map(float, wanted[name])] for name in ("food", "voices")
    }
    assert bench.means(model, ["food"], "test") == pytest.approx({"food": float(np.mean(wanted["food"]))})


def test_a_score_is_computed_once_and_a_later_bench_finds_it(fresh, finished):
    model = fresh.base - 0.25 * fresh.vector("food", 0)
    first = fresh.scores(model, ["food", "home"], "test")
    assert fresh.judged == 2 and fresh.scores(model, ["home", "food"], "test") == first and fresh.judged == 2
    later = Bench(finished.suite, range(3), fresh.folder, finished.cache)
    assert later.scores(later.base - 0.25 * later.vector("food", 0), ["food", "home"], "test") == first
    assert later.judged == 0


def test_a_line_of_the_journal_is_enough_to_make_the_model_again(fresh):
    model = fresh.base - 0.25 * fresh.vector("food", 0)
    fresh.scores(model, ["food"], "test")
    line = journal(fresh)[-1]
    assert (line["model"], line["task"], line["split"]) == ("base - 0.25*food_0", "food", "test")
    again = tv.parse(line["model"], base=fresh.base, food_0=fresh.vector("food", 0))
    assert again == model
    assert line["sources"] == {told: source.fingerprint for source, told in again.names().items()}
    assert {*line["scores"]["food"]} <= {"0", "1"}, "hits and misses are a text"


def test_another_model_task_split_and_share_is_another_score(fresh):
    model = fresh.base + fresh.vector("food", 0)
    for weights, task, split, share in (
        (model, "food", "test", 1.0), (fresh.base, "food", "test", 1.0), (model, "home", "test", 1.0),
        (model, "food", "validation", 1.0), (model, "food", "test", 0.5),
        (fresh.base + fresh.vector("food", 1), "food", "test", 1.0),
    ):  # fmt: skip
        fresh.scores(weights, [task], split, share)
    assert fresh.judged == 6 == len({line["key"] for line in journal(fresh)[1:]})


def test_a_share_of_the_examples_is_a_beginning_of_all(fresh):
    whole, part = (fresh.scores(fresh.base, ["food"], "test", share)["food"] for share in (1.0, 0.5))
    assert 0 < len(part) < len(whole) and whole[: len(part)] == part


def test_an_ensemble_averages_the_probabilities_of_its_models(fresh):
    models = [fresh.base, fresh.base + 0.5 * fresh.vector("food", 0)]
    task = fresh.tasks.tasks["food"]
    probabilities = [task.probabilities(model, "test", 0, 1) for model in models]
    assert all(p.sum(1) == pytest.approx(np.ones(len(p)), abs=1e-5) for p in probabilities)
    wanted = (probabilities[0] + probabilities[1]).argmax(1) == task.wanted("test", 0, 1)
    assert fresh.ensemble(models, ["food"], "test")["food"] == wanted.astype(int).tolist()
    assert fresh.ensemble(models[1:], ["food"], "test") == fresh.scores(models[1], ["food"], "test")
    assert journal(fresh)[1]["model"] == "ensemble of base; base + 0.5*food_0" and fresh.judged == 2


def test_vectors_of_two_recipes_are_two_models_in_the_journal(fresh):
    rates = [fresh.vector("food", 0), fresh.vector("food", 0, rate=0.2 * fresh.suite.training.rate)]
    for vector in rates:
        fresh.scores(fresh.base + vector, ["food"], "test")
    assert len({line["model"] for line in journal(fresh)[1:]}) == fresh.judged == 2


# ---- choosing --------------------------------------------------------------------------------------------
def test_a_choice_is_what_search_chooses_on_validation_examples_and_tests_nothing(fresh):
    family = fresh.base + tv.knob("lam") * fresh.vector("food", 0)
    choice = fresh.choose(family, ["food"], "0:1:0.25")
    wanted = search(family, fresh.judge(["food"]), {"lam": "0:1:0.25"}, objective="food", test=False)
    assert choice.value == wanted.chosen.knobs["lam"] and choice.model == wanted.weights
    assert [lam for lam, _ in choice.curve] == [0, 0.25, 0.5, 0.75, 1]
    assert {line["split"] for line in journal(fresh)[1:]} == {"validation"}


def test_several_coefficients_are_chosen_together(fresh):
    one, two = fresh.vector("food", 0), fresh.vector("home", 0)
    family = fresh.base + tv.knob("a") * one + tv.knob("b") * two
    choice = fresh.choose(family, ["food", "home"], {"a": [0, 1], "b": [0, 0.5]})
    assert choice.knobs.keys() == {"a", "b"} and len(choice.trials) == 4
    best = max(choice.trials, key=lambda trial: sum(trial[1].values()))
    (chosen,) = [metrics for knobs, metrics in choice.trials if knobs == choice.knobs]
    assert sum(chosen.values()) == pytest.approx(sum(best[1].values()))


def test_without_a_candidate_that_keeps_the_constraints_the_base_is_chosen(fresh):
    family = fresh.base - tv.knob("lam") * fresh.vector("food", 0)
    choice = fresh.choose(family, ["food", "voices"], [0.5, 1], "-food", ["voices >= 2*base.voices"])
    assert choice.knobs == {"lam": 0.0} and choice.model == fresh.base


# ---- what it works with ------------------------------------------------------------------------------------
def test_the_model_of_a_suite_is_a_folder_beside_it(own_suite, tmp_path):
    assert base_folder(suite_from(str(own_suite)), tmp_path) == own_suite.parent / "model"


def test_the_data_of_another_folder_of_results_are_refused_by_the_names_of_the_tasks(own_suite, finished, tmp_path):
    Bench(suite_from(str(own_suite)), [0], tmp_path / "out", finished.cache)
    with (own_suite.parent / "home.csv").open("a") as file:
        file.writelines(f"a sofa and a lamp {k},inside\n" for k in range(40))
    with pytest.raises(DataError, match=r"take another folder \(-o\). It differs in:\n  - the data of home$"):
        Bench(suite_from(str(own_suite)), [0], tmp_path / "out", finished.cache)


def test_a_task_more_or_less_is_told_by_its_name(own_suite, finished, tmp_path):
    from taskvec.lab.suite import only

    Bench(suite_from(str(own_suite)), [0], tmp_path / "out", finished.cache)
    with pytest.raises(DataError, match=r"It differs in:\n  - the task (home|moves)\n  - the task (home|moves)$"):
        Bench(only(suite_from(str(own_suite)), ["food"]), [0], tmp_path / "out", finished.cache)


@pytest.mark.parametrize("text", ['{"search": 1}\n', "[1]\n", '"x"\n', "no journal\n"])
def test_a_file_that_is_no_journal_of_the_lab_is_refused_and_stays(finished, tmp_path, text):
    (tmp_path / "scores.jsonl").write_text(text)
    with pytest.raises(tv.TaskvecError, match=r"scores\.jsonl"):
        Bench(finished.suite, [0], tmp_path, finished.cache)
    assert (tmp_path / "scores.jsonl").read_text() == text


@pytest.mark.parametrize(
    "line", ['{"key": "a"}', '{"key": "a", "scores": 3}', '{"key": "a", "scores": {"m": "02x"}}', "7", "[]", "{}"]
)
def test_a_damaged_line_of_the_journal_is_a_stated_error(fresh, finished, line):
    with (fresh.folder / "scores.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(tv.TaskvecError, match=r"scores\.jsonl.*"):
        Bench(finished.suite, [0], fresh.folder, finished.cache)


def test_all_data_that_cannot_be_had_are_told_at_once(own_suite, tmp_path):
    (own_suite.parent / "food.csv").unlink()
    (own_suite.parent / "home.csv").write_text("text,label\na,inside\n")
    with pytest.raises(DataError, match="the suite tiny lacks data") as error:
        Bench(suite_from(str(own_suite)), [0], tmp_path / "out", tmp_path / "cache")
    assert "- food: " in str(error.value) and "- home: " in str(error.value)


def test_a_data_file_of_another_form_is_told_with_its_task(own_suite, tmp_path):
    (own_suite.parent / "food.csv").write_text("words,label\na,sweet\n")
    with pytest.raises(tv.TaskvecError, match=r"food.*food\.csv, line 2: no text under 'text'; there is words, label"):
        Bench(suite_from(str(own_suite)), [0], tmp_path / "out", tmp_path / "cache")


def test_a_model_that_is_not_there_is_a_stated_error(own_suite, tmp_path):
    shutil.rmtree(own_suite.parent / "model")
    with pytest.raises(tv.TaskvecError, match="model does not exist"):
        Bench(suite_from(str(own_suite)), [0], tmp_path / "out", tmp_path / "cache")


def test_what_an_experiment_needs_of_a_suite_is_required_in_words():
    require(True, "never said")
    with pytest.raises(RecipeError, match="two tasks are needed"):
        require([], "two tasks are needed")
