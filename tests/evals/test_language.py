"""Perplexity and what a model writes, against eager code; and learning from texts."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

import taskvec as tv
from evals.tiny import (
    PPL,
    TEXTS,
    WRITTEN,
    described,
    eager,
    model,
)
from taskvec.errors import MismatchError, RecipeError
from taskvec.evals import evaluator_from, require_apart
from taskvec.evals.suite import suite_from


def test_perplexity_is_exp_of_the_mean_loss_over_windows(home):
    suite = suite_from(
        described(home, "model: lm-base\ntasks:\n  ppl: {kind: perplexity, data: story.txt, window: 16}")
    )
    w, ids = model(home, "lm"), AutoTokenizer.from_pretrained(home / "lm-base")
    scores = suite(w, "test")
    kept = [t for t in dict.fromkeys(TEXTS) if _side(t) == "test"]
    stream = [k for t in kept for k in (*ids(t)["input_ids"], 1)]
    windows = torch.tensor(stream[: len(stream) // 16 * 16]).view(-1, 16)
    with torch.no_grad():
        net = eager(home, "lm", AutoModelForCausalLM)
        one = {tuple(row.tolist()): net(input_ids=row[None], labels=row[None]).loss.item() for row in windows}
    losses = [one[tuple(map(int, e.text.split()))] for e in suite.tasks["ppl"].listed("test")]
    assert len(losses) == len(windows)
    assert scores["ppl_loss"] == pytest.approx(losses, rel=1e-4)
    assert scores["ppl"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)
    assert suite.examples("validation")["ppl"] and not {*suite.examples("validation")["ppl"]} & {
        *suite.examples("test")["ppl"]
    }


def _side(text):
    from taskvec.evals.order import digest, position

    return "validation" if position(digest(text)) < 0.5 else "test"


def test_windows_are_shared_where_their_documents_are(home):
    """Windows that are equal though their documents differ are no leak; a document in both splits is one."""
    (home / "alike.txt").write_text("\n\n".join(f"w1 w2 w3 {'w4 ' * k}".strip() for k in range(1, 60)))
    alike = evaluator_from(described(home, f"{PPL} data: alike.txt, window: 4}}}}"))
    windows = {split: alike.judges.tasks["a"].identities(split) for split in ("validation", "test")}
    assert {*windows["validation"]} & {*windows["test"]}  # "w4 w4 w4 w4" is in both
    assert require_apart(alike).notes({split: alike(model(home, "lm"), split) for split in windows}) == []
    (home / "first.txt").write_text("\n\n".join(["w1 w2", *TEXTS[:20]]))
    (home / "second.txt").write_text("\n\n".join([*TEXTS[40:], TEXTS[3], "w7 w8 w9"]))
    both = f"{PPL} validation: first.txt, test: second.txt, window: 4}}}}"
    leaking = evaluator_from(described(home, both))
    with pytest.raises(
        MismatchError, match=r"Leave these out of one of the two splits:\n  - a: [1-4] of [0-9]+\n  - a_loss"
    ):
        require_apart(leaking)
    (home / "second.txt").write_text("\n\n".join([*TEXTS[40:], "w7 w8 w9"]))
    require_apart(evaluator_from(described(home, both)))


def test_what_is_written_is_scored(home):
    suite = suite_from(
        described(
            home,
            """
            model: lm-base
            batch: 7
            tasks:
              early: {kind: generation, data: prompts.txt, judge: "judge.py:early", threshold: 0.1, tokens: 6}
              drawn: {kind: generation, data: prompts.txt, judge: "judge.py:early", tokens: 6,
                      temperature: 1.0, seeds: [3, 4]}
              mood: {kind: generation, data: prompts.txt, judge: classifier-base, label: good, tokens: 4}
            """,
        )
    )
    w, ids = model(home, "lm"), AutoTokenizer.from_pretrained(home / "lm-base")
    scores, prompts = suite(w, "test"), [e.text for e in suite.tasks["early"].listed("test")]
    with torch.no_grad():
        net = eager(home, "lm", AutoModelForCausalLM)
        for k, prompt in enumerate(prompts):
            row = torch.tensor([ids(prompt)["input_ids"]])
            out = net.generate(row, max_new_tokens=6, do_sample=False, pad_token_id=1)[0, row.shape[1] :]
            words = ids.decode(out, skip_special_tokens=True).split()
            score = sum(x in ("w1", "w2", "w3") for x in words) / max(1, len(words))
            assert scores["early_score"][k] == pytest.approx(score) and scores["early"][k] == (score > 0.1)
    again = suite(w, "test")
    assert again["drawn_score"].tolist() == scores["drawn_score"].tolist() != scores["early_score"].tolist()
    assert all(0 < p < 1 for p in scores["mood_score"])


def test_a_language_model_learns_from_its_texts(home):
    suite = suite_from(
        described(home, "model: lm-base\ntasks:\n  ppl: {kind: perplexity, data: story.txt, window: 16}")
    )
    module, loss = suite.learned(model(home, "lm"), labels=True)
    base = tv.load(home / "lm-base")
    learned = tv.learn(base + tv.knob("lam") * (tv.load(home / "lm-tuned") - base), module, loss, steps=60, rate=0.02)
    ppl = {lam: suite(model(home, "lm", lam), "validation")["ppl"] for lam in (0.3, learned.knobs["lam"])}
    assert ppl[learned.knobs["lam"]] < ppl[0.3]
    with pytest.raises(RecipeError, match="learns from its texts"):
        suite.learned(model(home, "lm"), labels=False)[1](module, 0)


def test_a_search_does_not_make_a_perplexity_large_unasked(home):
    """Of the mean of all metrics, the objective unless one is given, the worst model would be the best."""
    tasks = described(home, f"{PPL} data: story.txt, window: 16}}}}", "large.yml")
    base = tv.load(home / "lm-base")
    family = base + tv.knob("lam") * (tv.load(home / "lm-tuned") - base)
    with pytest.raises(RecipeError, match="of a, a_loss less is better: say what counts"):
        tv.search(family, tasks, {"lam": [0, 0.5]})
    assert tv.search(family, tasks, {"lam": [0.5]}).chosen  # one candidate: nothing is chosen by it
    result = tv.search(family, tasks, {"lam": [0, 0.5]}, objective="a_loss", minimise=True)
    suite = suite_from(tasks)
    losses = {lam: suite(model(home, "lm", lam), "validation")["a"] for lam in (0, 0.5)}
    assert result.chosen.knobs["lam"] == min(losses, key=losses.get)


@pytest.mark.parametrize(
    ("change", "probability"),
    [({}, torch.softmax), ({"problem_type": "multi_label_classification"}, lambda logits, dim: logits.sigmoid())],
)
def test_a_judge_of_texts_with_several_classes_gives_the_probability_of_each(home, change, probability):
    """With a softmax the toxicity of a harmless text would be above 0 only because no other class fits it either."""
    judge = home / f"judge-{len(change)}"
    shutil.copytree(home / "classifier-base", judge)
    config = json.loads((judge / "config.json").read_text())
    (judge / "config.json").write_text(json.dumps(config | change))
    written = f"{WRITTEN} judge: {judge.name}, label: good, tokens: 4}}}}"
    task = suite_from(described(home, written, "judged.yml")).tasks["a"]
    net, ids = AutoModelForSequenceClassification.from_pretrained(judge), AutoTokenizer.from_pretrained(judge)
    with torch.no_grad():
        logits = [net(input_ids=torch.tensor([ids(t)["input_ids"]])).logits[0] for t in TEXTS[:9]]
    assert task.scorer(TEXTS[:9]) == pytest.approx([probability(x, dim=-1)[1].item() for x in logits], rel=1e-4)
    (judge / "config.json").write_text(json.dumps(config | {"problem_type": "regression"}))
    with pytest.raises(RecipeError, match="is a regression and gives no probabilities"):
        suite_from(described(home, written, "judged.yml")).tasks["a"].scorer(TEXTS[:2])


def test_the_loss_of_some_windows_is_the_mean_of_their_losses(home):
    suite = suite_from(
        described(home, "model: lm-base\ntasks:\n  ppl: {kind: perplexity, data: story.txt, window: 16}")
    )
    task, w = suite.tasks["ppl"], model(home, "lm")
    losses = suite(w, "test")["ppl_loss"]
    windows = task.listed("test")[:3]
    task.live.take(w)
    loss = task.loss_of(task.live.module, windows, True)
    assert loss.item() == pytest.approx(float(np.mean(losses[:3])), rel=1e-4) and loss.requires_grad
    with pytest.raises(RecipeError, match="ppl: a language model learns from its texts"):
        task.loss_of(task.live.module, windows, False)
