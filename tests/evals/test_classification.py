"""Texts are classified by a zero-shot head, a given head or the model's own, as eager code does it."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
)

import taskvec as tv
from evals.tiny import (
    LABELS,
    MOOD,
    PROMPTS,
    TEXTS,
    TINY,
    described,
    eager,
    embed,
    made,
    model,
)
from taskvec.errors import FormatError
from taskvec.evals.suite import suite_from
from taskvec.evals.task import batch_of


def test_a_zero_shot_head_is_made_by_the_base_and_frozen(home):
    suite = suite_from(
        described(
            home,
            f"{MOOD} validation: val.tsv, test: test.csv, prompts: {json.dumps(PROMPTS)}}}",
        )
    )
    with torch.no_grad():
        base = eager(home, "encoder", AutoModel, 0)
        rows = torch.stack([embed(home, base, texts).mean(0) for texts in PROMPTS.values()])
        net = eager(home, "encoder", AutoModel)
        for split, at in (("validation", slice(30)), ("test", slice(30, 60))):
            examples = suite.tasks["mood"].listed(split)
            assert {e.text for e in examples} == {*TEXTS[at]}
            best = (
                embed(home, net, [e.text for e in examples]) @ torch.nn.functional.normalize(rows, dim=-1).T
            ).argmax(1)
            wanted = [float([*PROMPTS][k] == e.label) for k, e in zip(best, examples, strict=True)]
            assert suite(model(home, "encoder"), split)["mood"].tolist() == wanted
            assert len({*suite(model(home, "encoder", 0), split)["mood"]}) == 2
    assert len(suite.examples("validation")["mood"]) == 30


def test_a_given_head_and_the_model_s_own(home):
    suite = suite_from(
        described(
            home,
            """
            tasks:
              given: {kind: classification, model: encoder-base, data: all.jsonl, head: head.safetensors,
                      classes: [bad, good], normalise: false, pooling: cls}
              own: {kind: classification, model: classifier-base, validation: val.tsv, test: test.csv}
            """,
        )
    )
    with torch.no_grad():
        ids = AutoTokenizer.from_pretrained(home / "encoder-base")
        net = eager(home, "classifier", AutoModelForSequenceClassification)
        examples = suite.tasks["own"].listed("test")
        assert {e.text for e in examples} == {*TEXTS[30:]}
        best = [net(input_ids=torch.tensor([ids(e.text)["input_ids"]])).logits[0].argmax() for e in examples]
        wanted = [float(["bad", "good"][k] == e.label) for k, e in zip(best, examples, strict=True)]
        assert suite.tasks["own"].scores(model(home, "classifier"), "test", 0, 1)[""].tolist() == wanted
        net, head = eager(home, "encoder", AutoModel), tv.load(home / "head.safetensors")
        first = [net(input_ids=torch.tensor([ids(t)["input_ids"]])).last_hidden_state[0, 0].numpy() for t in TEXTS]
        best = [int(np.argmax(head["weight"] @ e + head["bias"])) for e in first]
        hits = {t: float(["bad", "good"][k] == y) for k, y, t in zip(best, LABELS, TEXTS, strict=True)}
        task = suite.tasks["given"]
        for split in ("validation", "test"):
            texts = [e.text for e in task.listed(split)]
            assert task.scores(model(home, "encoder"), split, 0, 1)[""].tolist() == [hits[t] for t in texts]


def test_a_model_that_wants_more_than_texts_is_stated(home):
    parts = {"text_config": {"vocab_size": 42, **TINY}, "vision_config": {"image_size": 8, "patch_size": 4, **TINY}}
    made(lambda: CLIPModel(CLIPConfig(projection_dim=8, **parts)), 0, home / "clip-base")
    text = f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}".replace("encoder-base", "clip-base")
    with pytest.raises(FormatError, match="mood: a CLIPModel gives no states for a text alone"):
        suite_from(described(home, text, "clip.yml"))(tv.load(home / "clip-base"), "test")


def test_scores_and_predictions_of_a_model_are_of_one_pass(home):
    suite = suite_from(described(home, f"{MOOD} data: all.jsonl, prompts: {json.dumps(PROMPTS)}}}"))
    task, passes = suite.tasks["mood"], []
    predicted = task._computed
    task._computed = lambda *args: passes.append(1) or predicted(*args)
    for lam in (0.5, 0.7):
        w = model(home, "encoder", lam)
        hits, best = suite(w, "test")["mood"], suite.predictions(w, "test")["mood"]
        labels = [e.label for e in task.listed("test")]
        assert [[*PROMPTS][k] == y for k, y in zip(best, labels, strict=True)] == hits.astype(bool).tolist()
    assert len(passes) == 2
    suite(w, "validation")
    assert len(passes) == 3  # other examples are another pass


def test_the_loss_of_examples_is_their_cross_entropy_or_the_entropy_and_that_of_a_step_is_of_its_batch(home):
    text = f"{MOOD} validation: val.tsv, test: test.csv, scale: 5, batch: 8, prompts: {json.dumps(PROMPTS)}}}"
    suite = suite_from(described(home, text))
    task = suite.tasks["mood"]
    task.ready()
    task.live.take(model(home, "encoder"))
    with torch.no_grad():
        base, net = eager(home, "encoder", AutoModel, 0), eager(home, "encoder", AutoModel)
        rows = torch.stack([embed(home, base, texts).mean(0) for texts in PROMPTS.values()])
        examples = task.listed("test")
        logits = 5 * embed(home, net, [e.text for e in examples]) @ torch.nn.functional.normalize(rows, dim=-1).T
    wanted = torch.tensor([[*PROMPTS].index(e.label) for e in examples])
    losses = {labels: task.loss_of(task.live.module, examples, labels) for labels in (True, False)}
    assert losses[True].item() == pytest.approx(torch.nn.functional.cross_entropy(logits, wanted).item(), rel=1e-4)
    entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    assert losses[False].item() == pytest.approx(entropy.item(), rel=1e-4)
    losses[True].backward()
    assert any(p.grad is not None and p.grad.any() for p in task.live.module.parameters())
    task.live.module.zero_grad()
    validation = task.listed("validation")
    batch = [validation[k] for k in batch_of(len(validation), 8, 3)]
    assert task.loss(task.live.module, 3, True).item() == task.loss_of(task.live.module, batch, True).item()
