"""Suites: what a file may say, and that all its mistakes are told at once."""

import tomllib
from pathlib import Path

import pytest
import yaml

import taskvec
from taskvec.errors import FormatError, RecipeError, TaskvecError
from taskvec.lab.splits import Sizes
from taskvec.lab.suite import Recipe, TaskSpec, known_suites, only, suite_from

SMALLEST = {
    "model": {"folder": "model"},
    "training": {"parameters": ["*"]},
    "tasks": {"movie": {"about": "films", "data": {"file": "movie.csv"}, "prompts": {"good": ["a"], "bad": ["b"]}}},
}


def written(folder, **changes):
    path = folder / "mine.yml"
    path.write_text(yaml.safe_dump(SMALLEST | changes, sort_keys=False))
    return str(path)


def task(**changes):
    return {"movie": SMALLEST["tasks"]["movie"] | changes}


def problems(folder, **changes):
    with pytest.raises(RecipeError, match=r"mine.yml cannot be used") as error:
        suite_from(written(folder, **changes))
    return str(error.value)


def test_the_smallest_suite_has_defaults_for_everything_else(tmp_path):
    suite = suite_from(written(tmp_path))
    assert (suite.name, suite.about, suite.splits) == ("mine", "", Sizes())
    assert suite.training == Recipe(["*"]) and suite.tasks == ["movie"] and suite.controls == []


def test_a_recipe_names_only_what_differs_from_the_defaults():
    """So its vectors keep their names when a later version has more settings."""
    assert Recipe(["*"]).settings() == {"parameters": ["*"]}
    assert Recipe(["*"], rate=1e-3, epochs=2).settings() == {"parameters": ["*"], "rate": 1e-3}


@pytest.mark.parametrize("name", known_suites())
def test_the_suites_that_come_with_taskvec_are_read_and_have_what_their_experiments_name(name):
    from taskvec.lab.experiments import planned

    suite = suite_from(name)
    assert suite.about and suite.tasks and planned([], suite)
    settings = suite.experiments.get("analogies", {})
    named = [*settings.get("domains", ()), *(t for four in settings.get("quadrants", {}).values() for t in four)]
    assert {*named} <= suite.specs.keys()


def test_every_file_that_is_no_module_is_part_of_the_package():
    """pyproject.toml names it: else it would be missing where taskvec is installed."""
    root = Path(taskvec.__file__).parent
    table = tomllib.loads((root.parents[1] / "pyproject.toml").read_text())
    packed = {path for pattern in table["tool"]["setuptools"]["package-data"]["taskvec"] for path in root.glob(pattern)}
    there = {p for p in root.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc", ".so")}
    assert there == {p for p in packed if p.suffix != ".py"}


def test_an_unknown_suite_names_the_nearest_and_all():
    with pytest.raises(RecipeError, match=r"no suite is called txt \(did you mean text\?\); there is .*text"):
        suite_from("txt")
    with pytest.raises(FormatError, match=r"gone.yml does not exist"):
        suite_from("gone.yml")


def test_a_suite_with_several_mistakes_is_told_about_all_of_them(tmp_path):
    text = problems(
        tmp_path,
        modle={},
        model={"path": "x"},
        training={"epochs": "two", "rte": 1},
        splits=[1],
        tasks={"for": {"about": "a", "data": {}}, "b": {"abuot": "b"}, "c": []},
    )
    assert [line.removeprefix("  - ") for line in text.splitlines()[1:]] == [
        "no key modle (did you mean model?)",
        "training: no key rte (did you mean rate?)",
        "training: parameters is missing",
        "training: epochs is a whole number, not 'two'",
        "splits: a table is needed",
        "model: it is {folder: PATH} or {package: NAME, inside: PATH}, where a .pth file needs config: {...}, too",
        "'for' is no name for a task: letters, digits and _, and no word of Python",
        "b: no key abuot (did you mean about?)",
        "b: about is missing",
        "b: data is missing",
        "c: a task is a table, {about: ..., data: ...}",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": {}}, "tasks: {NAME"),
        ({"tasks": task(role="spare")}, "movie: role is one of task, control, part, not spare"),
        ({"tasks": task(role="control")}, "none has the role `task`"),
        ({"tasks": task(data={"files": "x"})}, "movie: data is {package: NAME, part: NAME}, {file: PATH}"),
        ({"tasks": task(data={"file": 3})}, "movie: file of data is a text, not 3"),
        ({"tasks": task(data={"file": "x.csv", "labels": "good"})}, "movie: labels of data is a list of classes"),
        ({"tasks": task(prompts={}, classes={"a": "b"})}, "movie: templates and classes belong together"),
        ({"tasks": task(classes={"a": "b"}, templates=["{}"])}, "movie: give prompts, or templates and classes"),
        ({"tasks": task(prompts={}, classes={"a": "b"}, templates=["of x"])}, "the description goes, and 'of x' has"),
        ({"tasks": task(prompts={"good": "a text"})}, "movie: prompts is a table of lists of texts"),
        ({"training": {"parameters": []}}, "training: parameters names none"),
        ({"training": {"parameters": ["*"], "epochs": 0, "batch": 0, "steps": 0}}, "steps is at least 1, not 0"),
        ({"training": {"parameters": ["*"], "rate": 0, "clip": -1}}, "training: clip is above 0, not -1"),
        ({"training": {"parameters": ["*"], "warm_up": 1}}, "warm_up is a share of the steps"),
        ({"training": {"parameters": ["*"], "schedule": "step"}}, "schedule is linear or cosine, not step"),
        ({"training": {"parameters": ["*"], "autocast": "half"}}, "autocast is bfloat16, or left out, not half"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_the_key_that_has_it(tmp_path, changes, message):
    assert message in problems(tmp_path, **changes)


@pytest.mark.parametrize("value", [3, "text", [], [1], {"a": 1}, True, {"a": {"b": [None]}}])
@pytest.mark.parametrize("key", ["about", "model", "evaluator", "training", "splits", "tasks", "experiments"])
def test_values_of_any_kind_are_read_or_are_a_stated_error(tmp_path, key, value):
    try:
        assert suite_from(written(tmp_path, **{key: value})).name == "mine"
    except TaskvecError as error:
        assert "mine.yml" in str(error)


def test_a_file_that_is_no_table_is_no_suite(tmp_path):
    (tmp_path / "list.yml").write_text("- a\n")
    with pytest.raises(FormatError, match=r"list.yml: a suite is a table with about, model"):
        suite_from(str(tmp_path / "list.yml"))


def test_templates_are_filled_with_each_description():
    spec = TaskSpec("about", {"file": "x"}, templates=["a {}", "{} and {}"], classes={"a": "art", 5: "sport"})
    assert spec.descriptions == {"a": ["a art", "art and art"], "5": ["a sport", "sport and sport"]}
    assert spec.labels == ["a", "5"], "also a class that YAML reads as a number is a text"
    assert TaskSpec("about", {"file": "x", "labels": [5]}, classes={5: "s"}, templates=["{}"]).labels == ["5"]


def test_some_tasks_of_a_suite_leave_its_controls_and_parts(finished):
    chosen = only(finished.suite, ["home"])
    assert chosen.tasks == ["home"] and chosen.controls == ["voices"] and "films" in chosen.specs
    with pytest.raises(RecipeError, match=r"the suite tiny has no task:\n  - hom \(did you mean home\?\)\n  - zzz"):
        only(finished.suite, ["hom", "zzz"])


def test_the_suite_of_the_manual_can_be_read(tmp_path):
    manual = (Path(__file__).parents[2] / "docs/lab.md").read_text(encoding="utf-8")
    (tmp_path / "letters.yml").write_text(manual.split("```yaml\n")[1].split("```")[0])
    suite = suite_from(str(tmp_path / "letters.yml"))
    assert suite.tasks == ["mood", "topic"] and suite.controls == ["other"]
    assert suite.specs["topic"].descriptions == {
        "bill": ["a letter about an invoice."], "parcel": ["a letter about a delivery."],
    }  # fmt: skip
