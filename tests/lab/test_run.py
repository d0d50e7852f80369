"""Runs of experiments: what they leave, that they go on after a kill, and that nothing is computed twice."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from taskvec.errors import DataError, OutputError, RecipeError
from taskvec.lab.experiments.analogies import ONE
from taskvec.lab.run import report, run
from taskvec.lab.suite import only, suite_from

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
EXPERIMENTS = ("negation", "addition", "analogies", "methods", "discussion", "sequential", "debiasing")
FILES = {"scores.jsonl", "findings", "about.json", "report.html", "figures"}
RECOUNT = """
import json
hits = {}
for row in map(json.loads, open("scores.jsonl")):
    for text in row["scores"].values() if "scores" in row and "share" not in row else ():
        hits[row["model"], row["task"], row["split"]] = sum(map(int, text)) / len(text)
def model(lam, *signed):
    return "base" + "".join(f" {s[0]} " + (f"{lam:g}*" if lam != 1 else "") + s[1:] for s in signed if lam)
def chosen(score, grid, *signed):
    return model(max(grid, key=lambda lam: (score(model(lam, *signed)), -lam)), *signed)
def mean(values):
    return sum(values) / len(values)
kept = lambda m: hits[m, "voices", "validation"] >= 0.95 * hits["base", "voices", "validation"]
forgot = [hits[chosen(lambda m: -hits[m, t, "validation"] if kept(m) else -9, (0, .25, .5, .75, 1), f"-{t}_{s}"), t, "test"]
          for t in ("food", "home", "moves") for s in range(3)]
both = lambda m: mean([hits[m, t, "validation"] for t in ("food", "home")])
added = [hits[chosen(both, (0, .5, 1), f"+food_{s}", f"+home_{s}"), t, "test"] / hits[f"base + {t}_{s}", t, "test"]
         for t in ("food", "home") for s in range(3)]
alike = [hits[chosen(lambda m: hits[m, b, "validation"], (0, .5, 1), f"+{a}_{s}", f"+{b}_{s}_masked", f"-{a}_{s}_masked"), b, "test"]
         for a, b in (("films", "meals"), ("meals", "films")) for s in range(3)]
print(json.dumps([mean(forgot), mean(added), mean(alike)]))
"""  # noqa: E501


def findings_of(folder):
    """The bytes of every file of findings."""
    return {path.name: path.read_bytes() for path in (folder / "findings").iterdir()}


def value(folder, experiment, title, row, column):
    """The mean in one cell of a table of the findings."""
    tables = json.loads((folder / "findings" / f"{experiment}.json").read_text())["tables"]
    (table,) = [table for table in tables if table["title"].startswith(title)]
    (cells,) = [cells for cells in table["rows"] if cells[0] == row]
    return cells[table["columns"].index(column)]["mean"]


# ---- what a run leaves -----------------------------------------------------------------------------
def test_numbers_of_the_tables_are_those_that_anybody_computes_from_the_journal(finished):
    done = subprocess.run([sys.executable, "-I", "-c", RECOUNT], cwd=finished.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == pytest.approx([
        value(finished.folder, "negation", "Forgetting", "negative vector, lowest target", "target"),
        value(finished.folder, "addition", "Pairs", "food + home", "normalised"),
        value(finished.folder, "analogies", "Analogies: sentiment across domains, masked", "mean of all", ONE),
    ])  # fmt: skip


def test_a_run_leaves_a_journal_findings_a_page_and_what_was_run(finished):
    assert {path.name for path in finished.folder.iterdir()} == FILES
    assert findings_of(finished.folder).keys() == {f"{name}.json" for name in EXPERIMENTS}
    about = json.loads((finished.folder / "about.json").read_text())
    assert about["experiments"].keys() == {*EXPERIMENTS} and about["suite"] == "tiny"
    assert all(what["seeds"] == [0, 1, 2] for what in about["experiments"].values())
    page = (finished.folder / "report.html").read_text()
    assert all(f'<section id="{name}">' in page for name in EXPERIMENTS)


def test_what_a_run_gives_says_what_it_trained_and_measured(finished):
    result = finished.result
    assert len({*result.trained}) == len(result.trained) == len([*(finished.cache / "vectors").glob("*.safetensors")])
    assert result.judged == len((finished.folder / "scores.jsonl").read_text().splitlines()) - 1
    text = str(result)
    assert f"{len(result.trained)} vectors trained, {result.judged} scores measured" in text
    assert str(finished.folder / "report.html") in text
    assert json.loads(json.dumps(result.as_dict()))["trained"] == [*result.trained]


def test_the_progress_names_the_experiment_and_the_training_and_its_share_rises_to_1(finished):
    assert ("experiment 1 of 7: negation of food, 1 of 3", 0) in finished.told
    assert any("training food_0, step 16 of 16" in text for text, _ in finished.told)
    shares = [share for _, share in finished.told if share is not None]
    assert shares == sorted(shares) and shares[0] == 0 and 0.9 < shares[-1] <= 1


# ---- a second run ------------------------------------------------------------------------------------
def test_a_second_run_from_the_journal_trains_nothing_and_measures_nothing(finished):
    before = findings_of(finished.folder)
    again = run(EXPERIMENTS, finished.suite, 3, finished.folder, finished.cache)
    assert (again.trained, again.judged) == ((), 0)
    assert findings_of(finished.folder) == before


def test_more_seeds_use_what_fewer_seeds_left(suite_file, tmp_path):
    suite = only(suite_from(str(suite_file)), ["food"])
    one = run(["negation"], suite, 1, tmp_path / "out", tmp_path / "cache")
    two = run(["negation"], suite, 2, tmp_path / "out", tmp_path / "cache")
    assert (one.trained, two.trained) == (("food_0", "food_0_ascent"), ("food_1", "food_1_ascent"))
    assert one.judged > two.judged > 0, "the base is judged once"


def test_without_the_cache_but_for_one_vector_the_rest_is_trained_again_to_the_same_numbers(finished, tmp_path):
    (tmp_path / "cache" / "vectors").mkdir(parents=True)
    for path in (finished.cache / "vectors").glob("food_0-*"):
        shutil.copy(path, tmp_path / "cache" / "vectors")
    again = run(["negation"], finished.suite, 3, tmp_path / "out", tmp_path / "cache")
    wanted = [
        f"{task}_{seed}{how}" for task in ("food", "home", "moves") for seed in range(3) for how in ("", "_ascent")
    ]
    assert sorted(again.trained) == sorted({*wanted} - {"food_0"})
    assert findings_of(tmp_path / "out")["negation.json"] == findings_of(finished.folder)["negation.json"]


# ---- killed ------------------------------------------------------------------------------------------
def test_killed_at_any_moment_the_same_command_ends_in_the_bytes_of_a_quiet_run(suite_file, start, tmp_path):
    experiments = ("negation", "addition")

    def command(name):
        words = ("--suite", suite_file, "--tasks", "food,home", "--seeds", "1", "--json", "-o", tmp_path / name)
        return start("lab", "run", *experiments, *words, "--cache", tmp_path / f"cache-{name}", env=ONE_THREAD)

    suite = only(suite_from(str(suite_file)), ["food", "home"])
    quiet = run(experiments, suite, 1, tmp_path / "quiet", tmp_path / "cache-quiet")
    vectors = tmp_path / "cache-killed/vectors"
    moments = (
        lambda: vectors.is_dir(),  # a vector is trained, and its file is not there yet or has just come
        lambda: (tmp_path / "killed/findings/negation.json").exists(),  # and addition is being measured
    )
    for moment in moments:
        with command("killed") as process:
            assert process.pause_when(moment), process.result().stderr
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
    with command("killed") as process:
        again = process.result()
    assert again.code == 0, again.stderr
    assert findings_of(tmp_path / "killed") == findings_of(tmp_path / "quiet")
    assert {p.name for p in vectors.glob("*.safetensors")} == {
        p.name for p in (tmp_path / "cache-quiet/vectors").glob("*.safetensors")
    }
    assert json.loads(again.stdout)["judged"] < quiet.judged


@pytest.mark.parametrize(
    ("file", "kept"), [("scores.jsonl", 20), ("scores.jsonl", -20), ("findings/negation.json", 20)]
)
def test_what_a_kill_left_of_a_file_does_not_stop_the_same_command(finished, tmp_path, file, kept):
    for name in (file, "scores.jsonl"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(finished.folder / name, tmp_path / "out" / name)
    whole = (finished.folder / file).read_bytes()
    (tmp_path / "out" / file).write_bytes(whole[:kept])
    again = run(["negation"], finished.suite, 3, tmp_path / "out", finished.cache)
    assert not again.trained and again.judged == (0 if kept != 20 or "findings" in file else 292)
    assert findings_of(tmp_path / "out") == {"negation.json": findings_of(finished.folder)["negation.json"]}
    assert [p.name for p in tmp_path.rglob(".*")] == [], "nothing is left beside"


def test_a_line_of_the_journal_that_a_kill_cut_off_is_measured_again(finished, tmp_path):
    (tmp_path / "out").mkdir()
    lines = (finished.folder / "scores.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out/scores.jsonl").write_bytes(b"".join(lines[:100]) + lines[100][:50])
    again = run(["negation"], finished.suite, 3, tmp_path / "out", finished.cache)
    assert again.judged == 292 - 99
    journal = (tmp_path / "out/scores.jsonl").read_bytes().splitlines(keepends=True)
    assert journal[:100] == lines[:100] and journal[100] == lines[100]


# ---- what is refused -----------------------------------------------------------------------------------
@pytest.mark.parametrize("seeds", [0, -1])
def test_there_is_one_seed_at_least(finished, tmp_path, seeds):
    with pytest.raises(RecipeError, match=f"there must be one seed at least, not {seeds}"):
        run([], finished.suite, seeds, tmp_path / "out", tmp_path / "cache")
    assert not (tmp_path / "out").exists()


def test_an_unknown_experiment_is_refused_before_anything_is_made(finished, tmp_path):
    with pytest.raises(RecipeError, match=r"no experiment is called negatoin \(did you mean negation\?\)"):
        run(["negatoin"], finished.suite, 3, tmp_path / "out", tmp_path / "cache")
    assert [*tmp_path.iterdir()] == []


def test_a_folder_of_results_that_cannot_be_one_is_a_stated_error(finished, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="out"):
        run(["negation"], finished.suite, 3, tmp_path / "out", finished.cache)


def test_a_cache_that_cannot_be_one_is_a_stated_error(finished, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="cache"):
        run(["negation"], finished.suite, 3, tmp_path / "out", tmp_path / "cache")


# ---- the page again --------------------------------------------------------------------------------------
def test_the_page_is_written_again_from_the_findings(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "out")
    (tmp_path / "out/report.html").unlink()
    assert report(tmp_path / "out").read_text() == (finished.folder / "report.html").read_text()


def test_a_folder_without_results_says_what_makes_them(tmp_path):
    with pytest.raises(DataError, match=r"has no results of the lab: `taskvec lab run -o .*` makes them"):
        report(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"suite": 3}'])
def test_a_damaged_account_of_what_was_run_is_a_stated_error(finished, tmp_path, text):
    shutil.copytree(finished.folder, tmp_path / "out")
    (tmp_path / "out/about.json").write_text(text)
    with pytest.raises(DataError, match=r"about.json"):
        report(tmp_path / "out")
