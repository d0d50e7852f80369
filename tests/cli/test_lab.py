"""The verb that runs experiments: what it prints, and that nothing a user types or writes gives a traceback."""

import json
import os
import subprocess
import sys

import pytest

from lab.tiny import write_suite
from taskvec.cli.lab import _Told, default_cache


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the tiny suite, its cache, and results of one experiment with one seed in `out`."""
    folder = tmp_path_factory.mktemp("cli-lab")
    write_suite(folder / "suite")
    done = subprocess.run(
        [sys.executable, "-m", "taskvec", "lab", "run", "negation", *SUITE, "-o", "out"], cwd=folder,
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout)
    return folder


SUITE = ("--suite", "suite/tiny.yml", "--seeds", "1", "--tasks", "food, home", "--cache", "cache")


@pytest.fixture
def refused(command, home):
    """refused("run", ...) -> what a command that must fail with a stated error says."""

    def call(*words, code=1, folder=home):
        done = command("lab", *words, folder=folder)
        assert done.code == code and "Traceback" not in done.stderr
        return done.stderr

    return call


# ---- what it prints ----------------------------------------------------------------------------------------
def test_a_run_prints_verdicts_and_where_the_report_is(home):
    text = (home / "printed.txt").read_text()
    assert text.startswith("negation: Does subtracting a task's vector")
    assert "4 vectors trained" in text and text.endswith("report: out/report.html\n")
    assert (home / "out" / "report.html").is_file()


def test_the_same_command_again_trains_nothing_and_says_so_as_json(command, home):
    done = command("lab", "run", "negation", *SUITE, "-o", "out", "--json", folder=home)
    assert done.code == 0 and done.stderr == ""
    told = json.loads(done.stdout)
    assert (told["trained"], told["judged"]) == ([], 0) and told["findings"][0]["experiment"] == "negation"


def test_suites_and_experiments_are_listed(command, home):
    words = command("lab", "list", folder=home).stdout
    assert "text: " in words and "controls: " in words and "negation: Does subtracting" in words
    told = json.loads(command("lab", "list", "--json", folder=home).stdout)
    assert told["suites"]["text"]["tasks"] and {"negation", "addition", "analogies"} <= told["experiments"].keys()


def test_the_page_is_written_again(command, home):
    before = (home / "out" / "report.html").read_text()
    (home / "out" / "report.html").unlink()
    assert command("lab", "report", "out", folder=home).stdout == "out/report.html\n"
    assert (home / "out" / "report.html").read_text() == before
    assert json.loads(command("lab", "report", "out", "--json", folder=home).stdout) == {"report": "out/report.html"}


def test_the_cache_is_the_user_s_unless_the_environment_names_one(monkeypatch):
    monkeypatch.setenv("TASKVEC_CACHE", "/elsewhere")
    assert str(default_cache()) == "/elsewhere"
    monkeypatch.delenv("TASKVEC_CACHE")
    monkeypatch.setenv("HOME", "/mine")
    assert str(default_cache()) == "/mine/.cache/taskvec"


def test_progress_goes_to_stderr_at_most_every_ten_seconds_and_not_at_all_if_silent(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    told = _Told(silent=False)
    for second, text, share in ((5, "early", None), (20, "first", 0.25), (25, "between", None), (40, "second", 0.5)):
        clock[0] = second
        told(text, share)
    told.clear()
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.splitlines() == [
        "20 s, about 60 s left: first",
        "40 s, about 40 s left: second",
    ]
    _Told(silent=True)("nothing", 0.5)
    assert capsys.readouterr().err == ""


# ---- what is refused ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "negatoin", *SUITE, "-o", "new"], "no experiment is called negatoin (did you mean negation?)"),
        (["run", "--suite", "txt", "-o", "new"], "no suite is called txt (did you mean text?)"),
        (["run", "--suite", "gone.yml", "-o", "new"], "gone.yml does not exist"),
        (
            ["run", *SUITE[:4], "--tasks", "fod", "-o", "new"],
            "the suite tiny has no task:\n  - fod (did you mean food?)",
        ),
        (["run", *SUITE[:2], "--seeds", "0", "-o", "new"], "there must be one seed at least, not 0"),
        (["run", "negation", *SUITE, "-o", "suite/tiny.yml"], "tiny.yml"),
        (["run", "negation", *SUITE[:-1], "suite/tiny.yml", "-o", "new"], "tiny.yml"),
        (["report", "suite"], "suite has no results of the lab"),
        (["report", "nowhere"], "nowhere has no results of the lab"),
    ],
)
def test_what_cannot_be_run_is_a_stated_error(refused, home, words, message):
    assert message in refused(*words)
    assert not (home / "new" / "report.html").exists()


@pytest.mark.parametrize("words", [["run"], ["run", "-o", "x", "--seeds", "two"], ["walk"], ["report"]])
def test_wrong_usage_has_the_exit_code_2(refused, words):
    assert "Usage: " in refused(*words, code=2)


def test_an_unknown_setting_of_a_suite_names_the_nearest(refused, home):
    path = home / "suite" / "wrong.yml"
    path.write_text(
        (home / "suite" / "tiny.yml").read_text().replace('negation: {grid: "0:1:0.25"', 'negation: {gird: "0:1:0.25"')
    )
    assert "wrong.yml, negation: no key gird (did you mean grid?)" in refused("run", "--suite", path, "-o", "new")


def test_data_that_changed_since_the_run_are_told_by_their_task(refused, home):
    path = home / "suite" / "home.csv"
    before = path.read_text()
    path.write_text(before + "".join(f"a sofa and a lamp {k},inside\n" for k in range(60)))
    try:
        assert "It differs in:\n  - the data of home\n" in refused("run", "negation", *SUITE, "-o", "out")
    finally:
        path.write_text(before)


def test_a_class_without_examples_is_told_by_its_task(refused, home):
    (home / "suite" / "sweet.csv").write_text("text,label\n" + "".join(f"cake {k},sweet\n" for k in range(90)))
    path = home / "suite" / "sweet.yml"
    path.write_text((home / "suite" / "tiny.yml").read_text().replace("{file: food.csv}", "{file: sweet.csv}"))
    said = refused("run", "negation", "--suite", path, "--cache", "cache", "-o", "new")
    assert "food cannot be used with these data" in said and "train has no example of the class salty" in said


def test_a_vector_that_was_cut_short_is_told_by_its_file(refused, home):
    (path,) = (home / "cache" / "vectors").glob("food_0-*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    try:
        said = refused("run", "negation", *SUITE, "-o", "out")
        assert f"{path.relative_to(home)} is no vector that can be used; remove it to train it again" in said
    finally:
        path.write_bytes(whole)


def test_without_torch_the_extra_is_named(home):
    code = (
        "import sys; from importlib.machinery import PathFinder as F; find = F.find_spec\n"
        "F.find_spec = classmethod(lambda c, name, *a: None if name in ('torch', 'transformers') else find(name, *a))\n"
        f"sys.argv = ['taskvec', 'lab', 'run', *{SUITE!r}, '-o', 'new']\n"
        "from taskvec.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "the lab needs torch and transformers" in done.stderr and "taskvec[lab]" in done.stderr
