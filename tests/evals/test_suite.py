"""Tasks described in a file, together one evaluator: what they share, and what is wrong with such a file."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import taskvec as tv
from evals.tiny import (
    HEADS_OF,
    MOOD,
    PPL,
    PROMPTS,
    TEXTS_OF,
    WRITTEN,
    described,
    model,
)
from taskvec.errors import FormatError, MismatchError, RecipeError, TaskvecError
from taskvec.evals import evaluator_from
from taskvec.evals.suite import suite_from


def test_parts_of_a_suite_are_the_whole(home):
    suite = suite_from(
        described(
            home,
            f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}",
        )
    )
    w = model(home, "encoder")
    first, rest = suite.part(0, 0.25)(w, "test")["mood"], suite.part(0.25, 1)(w, "test")["mood"]
    assert [*first, *rest] == [*suite(w, "test")["mood"]] and 0 < len(first) < len(rest)


def test_a_search_over_a_file_of_tasks_on_the_command_line(home, run):
    tasks = described(
        home,
        f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}",
        "cli.yml",
    )
    done = run(
        "search", "base + lam*(tuned - base)", f"base={home / 'encoder-base'}", f"tuned={home / 'encoder-tuned'}",
        "--evaluate", tasks, "--knob", "lam=0:1:0.25", "--journal", home / "j.jsonl", "--json",
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert result["test"].keys() == {"base", "chosen"} and not [n for n in result["notes"] if "promise" in n]
    first = json.loads((home / "j.jsonl").read_text().splitlines()[0])
    assert first["evaluator"].startswith("cli.yml (") and first["race"]


def test_coefficients_are_learned_from_a_file_of_tasks(home, run):
    """By entropy and by labels, on the command line and against `learn` with the same batches."""
    tasks = described(
        home, f"{MOOD} data: all.jsonl, batch: 8, scale: 20, prompts: {json.dumps(PROMPTS)}}}", "learn.yml"
    )
    line = (
        "learn", "base + layerwise(tuned - base, 't')",
        f"base={home / 'encoder-base'}", f"tuned={home / 'encoder-tuned'}",
        "--evaluate", tasks, "--steps", "12", "--rate", "0.02",
    )  # fmt: skip
    result = json.loads(run(*line, "--json", "-o", home / "learned").stdout)
    assert result["knobs"].keys() == {"t_0", "t_1", "t_rest"} and len(result["losses"]) == 12
    assert result["test"].keys() == {"base", "chosen"} and (home / "learned" / "config.json").exists()
    labelled = json.loads(run(*line, "--loss", "labels", "--json").stdout)
    assert labelled["knobs"] != result["knobs"] and labelled["losses"] != result["losses"]
    suite = suite_from(tasks)
    module, loss = suite.learned(model(home, "encoder"), labels=False)
    base = tv.load(home / "encoder-base")
    family = base + tv.layerwise(tv.load(home / "encoder-tuned") - base, "t")
    again = tv.learn(family, module, loss, steps=12, rate=0.02)
    assert again.knobs == pytest.approx(result["knobs"], abs=1e-5)
    headed = [part.replace("encoder", "lm") if isinstance(part, str) else part for part in line]
    described(home, Path(tasks).read_text().replace("encoder", "lm"), "learn-lm.yml")
    headed[headed.index(tasks)] = home / "learn-lm.yml"
    result = json.loads(run(*headed, "--json", "-o", home / "learned-lm").stdout)
    assert result["knobs"].keys() == {"t_0", "t_1", "t_rest"} and len(result["losses"]) == 12
    assert "lm_head.weight" in tv.load(home / "learned-lm").specs  # the head goes along, though nothing judged it
    out = run(*line[:4], "--evaluate", described(home, "tasks: {m: {kind: command, run: '{model} {split}'}}", "no.yml"))
    assert out.code == 1 and "must share one model" in out.stderr


def test_other_labels_another_head_and_another_judge_are_another_evaluator(home, tmp_path):
    tasks = f"""
        tasks:
          mood: {{kind: classification, model: {home}/encoder-base, data: all.jsonl, head: head.safetensors,
                 classes: [bad, good]}}
          early: {{kind: generation, model: {home}/lm-base, data: prompts.txt, judge: "judge.py:early"}}
    """
    for name in ("all.jsonl", "head.safetensors", "prompts.txt", "judge.py"):
        (tmp_path / name).write_bytes((home / name).read_bytes())
    names = [evaluator_from(described(tmp_path, tasks)).text]
    labels = (tmp_path / "all.jsonl").read_text()
    (tmp_path / "all.jsonl").write_text(labels.replace('"good"', '"bad"', 1))
    names.append(evaluator_from(described(tmp_path, tasks)).text)
    (tmp_path / "judge.py").write_text("def early(texts):\n    return [0.0] * len(texts)\n")
    names.append(evaluator_from(described(tmp_path, tasks)).text)
    save_file({"weight": np.ones((2, 16), np.float32)}, tmp_path / "head.safetensors")
    names.append(evaluator_from(described(tmp_path, tasks)).text)
    assert len({*names}) == 4 and names[-1] == evaluator_from(described(tmp_path, tasks)).text


def test_all_heads_are_made_of_the_models_own_weights_also_for_predictions_alone(home):
    task = f"kind: classification, data: all.jsonl, prompts: {json.dumps(PROMPTS)}"
    text = f"model: encoder-base\ntasks:\n  a: {{{task}}}\n  b: {{{task}}}"
    one, two = (suite_from(described(home, text, "two.yml")) for _ in range(2))
    w = model(home, "encoder")
    one(w, "test")
    both, scored = two.predictions(w, "test"), one.predictions(w, "test")
    assert all((both[name] == scored["a"]).all() for name in "ab")


def test_other_examples_are_another_evaluator(home, tmp_path):
    text = f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}".replace("encoder-base", f"{home}/encoder-base")
    (tmp_path / "all.jsonl").write_text((home / "all.jsonl").read_text())
    before = evaluator_from(described(tmp_path, text)).text
    assert evaluator_from(described(tmp_path, text)).text == before
    (tmp_path / "all.jsonl").write_text("\n".join((home / "all.jsonl").read_text().splitlines()[1:]))
    assert evaluator_from(described(tmp_path, text)).text != before


@pytest.mark.parametrize(
    ("text", "error", "what"),
    [
        (f"{TEXTS_OF} dta: all.jsonl}}}}", RecipeError, "no key dta .did you mean data"),
        ("modl: x\ntasks: {a: {kind: command, run: '{model} {split}'}}", RecipeError, "the file: no key modl"),
        ("tasks: {a: {kind: clasification}}", RecipeError, "kind is one of classification, images, perplexity"),
        ("tasks: {a: {kind: perplexty}}", RecipeError, "harness, command, not 'perplexty' .did you mean perplexity"),
        ("tasks: {a: {data: story.txt}}", RecipeError, "harness, command, and none is given"),
        ("tasks: {a: {kind: command}}\n---\ntasks: {}", FormatError, "has 2 documents, .* join them"),
        ("", FormatError, "a file of tasks has tasks"),
        (f"{PPL} data: story.txt, window: big}}}}", RecipeError, "window is a whole number, not 'big'"),
        ("tasks: {a-b: {kind: perplexity}}", RecipeError, "'a-b' is no name for a metric"),
        (f"{PPL} }}}}", RecipeError, "give `data`, which is dealt out, or both"),
        (f"{PPL} data: story.txt, test: story.txt}}}}", RecipeError, "give `data`"),
        ("tasks: {a: {kind: perplexity, data: story.txt}}", RecipeError, "whose architecture"),
        (f"{WRITTEN} }}}}", RecipeError, "who scores"),
        ("tasks: {a: {kind: command, run: 'true'}}", RecipeError, "a command with {model} and {split}"),
        ("tasks: []", FormatError, "a file of tasks has tasks"),
        ("tasks: {a: {kind: [a]}}", RecipeError, "kind is one of classification, .*, not .'a'."),
        ("[" * 20_000, FormatError, "nested too deeply"),
        ("tasks: {a: [", FormatError, "line 1"),
        (f"{TEXTS_OF} data: none.jsonl, prompts: {{x: [w1]}}}}}}", FormatError, "none.jsonl"),
        (f"{TEXTS_OF} data: all.parquet, prompts: {{x: [w1]}}}}}}", FormatError, "all.parquet"),
        ("tasks: {a: {kind: perplexity, model: nowhere, data: story.txt}}", FormatError, "nowhere cannot be opened"),
        (f"{TEXTS_OF} data: all.jsonl, prompts: {{x: w1}}}}}}", RecipeError, "lists of texts"),
        (f"{TEXTS_OF} data: all.jsonl, prompts: {{x: [w1], y: [w2]}}}}}}", MismatchError, "labels that are no class"),
        (f"{PPL} data: story.txt, window: 5000}}}}", FormatError, "fewer than one window"),
        (f"{WRITTEN} judge: 'judge.py:wrong'}}}}", TaskvecError, "a number for each of 29 texts, not .1."),
        (f"{WRITTEN} judge: classifier-base, label: x}}}}", RecipeError, "classes .bad, good., not 'x'"),
        (
            f"{HEADS_OF} classes: [bad, good, ugly]}}}}",
            MismatchError,
            "3 classes .bad, good, ugly., and the head has 2",
        ),
        (
            f"{HEADS_OF} classes: [good, bad, good]}}}}",
            RecipeError,
            "every class may be named only once, and good is named again",
        ),
        (f"{HEADS_OF} classes: [no, yes]}}}}", RecipeError, "put classes in quotes .a class is false"),
        (f"{HEADS_OF} classes: [bad, good], max_tokens: 0}}}}", RecipeError, "max_tokens is at least 1"),
        (f"{HEADS_OF} classes: [bad, good], dtype: float99}}}}", RecipeError, "dtype is one of auto, float32"),
        (f"{HEADS_OF} classes: [bad, good], device: banana}}}}", RecipeError, "device: banana cannot be used"),
        (f"{HEADS_OF} classes: [bad, good], label_column: y}}}}", MismatchError, "an example without a label"),
        (f"{HEADS_OF} scale: .nan}}}}", RecipeError, "scale is a number, not nan"),
        (
            f"{TEXTS_OF} data: all.jsonl, prompts: {{x: [w1]}}, classes: [y]}}}}",
            RecipeError,
            "prompts name the classes",
        ),
        (f"{TEXTS_OF} data: all.jsonl, prompts: {{x: ['']}}}}}}", FormatError, "the tokenizer makes no token of ''"),
        (
            f"{TEXTS_OF} data: long.jsonl, max_tokens: 99, prompts: {{x: [w1]}}}}}}",
            RecipeError,
            "a text has 7. tokens, and the model has 32 positions: shorten texts .max_tokens: 32.",
        ),
        (f"{PPL} data: all.jsonl, text_column: body}}}}", FormatError, "no text under 'body'; there is text, label"),
        (
            f"{PPL.replace('lm-base', 'classifier-base')} data: story.txt, window: 8}}}}",
            FormatError,
            "no weights for a causal",
        ),
        (f"{WRITTEN} judge: 'judge.py:early', chat: true}}}}", RecipeError, "lm-base has no chat template"),
        ("tasks: {a: {kind: command, run: '{model} {split}', timeout: -1}}", RecipeError, "seconds above 0, not -1"),
        ("tasks: {class: {kind: command}}", RecipeError, "no word of Python"),
        ("tasks: {a: {kind: harness, task: x, model: lm-base, limit: -5}}", RecipeError, "limit is at least 1, not -5"),
        ("tasks: {a: {kind: harness, task: x, data: story.txt}}", RecipeError, "a: no key data"),
        (f"{PPL} data: story.txt, label_column: y}}}}", RecipeError, "a: no key label_column"),
        (
            f"{PPL} data: story.txt, window: 8}}, a_loss: {{kind: command, run: 'echo 1 # {{model}} {{split}}'}}}}",
            RecipeError,
            "two tasks give the metric a_loss: rename a_loss",
        ),
        (
            "tasks: {a: {kind: classification, model: lm-base, data: all.jsonl}}",
            FormatError,
            "no weights for a classifier",
        ),
    ],
)
def test_what_is_wrong_with_a_file_of_tasks_is_stated(home, text, error, what):
    kind = "lm" if "lm-base" in text else "encoder"
    with pytest.raises(error, match=what):
        evaluator_from(described(home, text, "wrong.yml"))(model(home, kind), "validation")


def test_all_mistakes_of_a_file_are_told_at_once(home):
    with pytest.raises(RecipeError) as caught:
        suite_from(
            described(
                home, "model: x\ntasks: {a: {kind: x}, b: {kind: command, timeout: 1, windw: 3}, c: 4}", "wrong.yml"
            )
        )
    assert all(part in str(caught.value) for part in ("a: kind", "b: no key windw", "c: a task is"))
    assert "the file" not in str(caught.value)  # `model` may well be of the task that could not be read
