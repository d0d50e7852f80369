"""The verbs that ask evaluators: eval, search and sweep on the command line."""

import json

import pytest


# ---- the verbs
@pytest.fixture
def world(tmp_path, build):
    build.model(tmp_path / "base", build.tensors(0))
    build.model(tmp_path / "math", build.tensors(1))
    (tmp_path / "tasks.py").write_text(
        "def away(weights, split):\n"
        "    name = sorted(weights)[0]\n"
        "    x = weights[name].ravel()[: 8 if split == 'validation' else 20].astype(float)\n"
        "    return {'near': (abs(x) < 1).astype(int), 'control': float(-abs(x).mean())}\n"
    )
    return tmp_path


NAMES = ("base=base", "math=math", "--evaluate", "tasks.py:away")


def test_eval_prints_what_the_evaluator_found(world, run):
    done = run("eval", "(base + math)/2", *NAMES, "--json")
    told = json.loads(done.stdout)
    assert told["metrics"].keys() == {"near", "control"} and told["examples"] == {"near": 8}
    assert run("eval", "(base + math)/2", *NAMES, "--split", "test").stdout.count("20 examples") == 1


def test_search_writes_the_chosen_model_and_goes_on_from_its_journal(world, run):
    command = ("search", "base + lam*(math - base)", *NAMES, "--knob", "lam=0:1:0.25", "--objective", "control")
    command += ("--journal", "j.jsonl", "--json")
    told = json.loads(run(*command, "-o", "out").stdout)
    again = json.loads(run(*command).stdout)
    assert told == again and len(told["trials"]) == 5 and (world / "out/taskvec.json").is_file()
    best = max(told["trials"], key=lambda t: t["metrics"]["control"])
    assert told["chosen"] == best["knobs"]
    expected = run(
        "merge", "base + lam*(math - base)", *NAMES[:2], "--set", f"lam={best['knobs']['lam']}", "-o", "same"
    )
    assert expected.code == 0
    one, two = (next((world / n).glob("*.safetensors")).read_bytes() for n in ("out", "same"))
    assert one[-1000:] == two[-1000:]


def test_sweep_prints_every_value_and_the_plateau(world, run):
    done = run("sweep", "base + lam*(math - base)", *NAMES, "--knob", "lam=-0.5:2:0.5", "--objective", "control")
    assert len(done.stdout.splitlines()) == 1 + 6 + 1 and "within 0.01 of its best" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("search", "base + lam*(math - base)", *NAMES), "lam has no range"),
        (("search", "base + lam*(math - base)", *NAMES, "--knob", "lam"), "'lam' is not NAME=VALUES"),
        (("search", "base + lam*(math - base)", *NAMES, "--knob", "lam=1:0"), "low not above high"),
        (("search", "base + lam*(math - base)", *NAMES, "--knob", "lam=0:1"), "a grid needs a step"),
        (
            ("search", "base + lam*(math - base)", *NAMES, "--knob", "lam=0:1:.5", "--objective", "nea"),
            "did you mean near?",
        ),
        (("sweep", "lam*(math - base)", *NAMES, "--knob", "lam=0:1:.5"), "add its base"),
        (("eval", "base + lam*(math - base)", *NAMES), "names without a value: lam"),
        (("eval", "base", "base=base", "--evaluate", "tasks.py:nothing"), "has no function nothing; it has away"),
        (("eval", "base", "base=base", "--evaluate", "missing.py:f"), "missing.py does not exist"),
        (("search", "base + x*(math - base)", *NAMES, "--knob", "x=0:1:.5", "--journal", "base"), "base"),
        (("search", "base + x*(math - base)", *NAMES, "--knob", "x=0:1:.5", "--reference", "own=a b"), "is no recipe"),
    ],
)
def test_bad_input_is_one_stated_error(world, run, arguments, says):
    done = run(*arguments)
    assert done.code == 1 and done.stdout == "" and says in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.startswith("error: ")
