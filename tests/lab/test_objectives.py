"""Objectives: the losses of training, against their equations in plain torch."""

import math

import pytest
import torch

from taskvec.errors import RecipeError
from taskvec.evals.command import Command
from taskvec.evals.texts import Example, read
from taskvec.lab.objectives import HIDDEN, OBJECTIVES, TEMPERATURE


@pytest.fixture
def food(bench):
    """The task, its module as the base, and a batch of training examples."""
    task = bench.tasks.tasks["food"]
    task.live.take(bench.base)
    task.live.module.eval()
    return task, task.live.module, [*read(bench.data["food"].file("train"))][:20]


def embedded(task, module, texts):
    """The mean over tokens, at length 1, by transformers alone."""
    given = task.live.tokenizer(texts, return_tensors="pt", padding=True)
    states, mask = module(**given).last_hidden_state, given["attention_mask"][..., None]
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def test_labels_is_the_cross_entropy_and_ascent_its_negative(food):
    task, module, examples = food
    head = torch.stack([
        torch.nn.functional.normalize(embedded(task, module, texts).mean(0), dim=0) for texts in task.prompts.values()
    ])  # fmt: skip
    logits = 20 * embedded(task, module, [e.text for e in examples]) @ head.T
    wanted = torch.tensor([[*task.prompts].index(e.label) for e in examples])
    loss = OBJECTIVES["labels"](task, module, examples)
    assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, wanted).item(), rel=1e-4)
    assert OBJECTIVES["ascent"](task, module, examples).item() == -loss.item()


def test_contrastive_without_dropout_is_the_softmax_over_the_batch(food):
    task, module, examples = food
    one = embedded(task, module, [e.text for e in examples])
    wanted = -torch.log_softmax(one @ one.T / TEMPERATURE, 1).diagonal().mean()
    assert OBJECTIVES["contrastive"](task, module, examples).item() == pytest.approx(wanted.item(), rel=1e-4)


def test_contrastive_embeds_each_text_twice_with_other_dropout(food):
    task, module, _ = food
    torch.manual_seed(0)
    module.train()
    try:
        alike = OBJECTIVES["contrastive"](task, module, [Example("cake and honey")] * 5).item()
    finally:
        module.eval()
    assert alike != pytest.approx(math.log(5), rel=1e-3), "dropout tells texts apart that are the same"
    assert OBJECTIVES["contrastive"](task, module, [Example("cake")] * 5).item() == pytest.approx(math.log(5), rel=1e-4)


class Seen:
    """What a module was given and what it gave, by a hook of torch."""

    def __init__(self, module):
        self.hook = module.register_forward_hook(self.keep, with_kwargs=True)

    def keep(self, module, positional, given, output):
        self.ids, self.states = given["input_ids"].clone(), output.last_hidden_state

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.hook.remove()


def test_masked_hides_some_tokens_and_predicts_these_alone(food):
    task, module, examples = food
    tokenizer, hidden, count = task.live.tokenizer, 0, 0
    whole = tokenizer([e.text for e in examples], return_tensors="pt", padding=True)["input_ids"]
    special = torch.isin(whole, torch.tensor(tokenizer.all_special_ids))
    for seed in range(20):
        torch.manual_seed(seed)
        with Seen(module) as seen, torch.no_grad():
            loss = OBJECTIVES["masked"](task, module, examples)
        where = seen.ids == tokenizer.mask_token_id
        assert torch.equal(seen.ids[~where], whole[~where]) and not (where & special).any()
        logits = seen.states[where] @ module.get_input_embeddings().weight.T
        assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, whole[where]).item(), rel=1e-4)
        hidden, count = hidden + int(where.sum()), count + int((~special).sum())
    assert hidden / count == pytest.approx(HIDDEN, abs=0.03)


def test_masked_hides_a_token_also_of_very_short_texts(food):
    task, module, _ = food
    for seed in range(10):
        torch.manual_seed(seed)
        assert OBJECTIVES["masked"](task, module, [Example("cake")]).item() > 0


@pytest.mark.parametrize("name", ["contrastive", "masked"])
def test_labels_change_nothing_where_they_are_not_used(food, name):
    task, module, examples = food
    bare = [Example(e.text) for e in examples]
    losses = []
    for batch in (examples, bare):
        torch.manual_seed(3)
        losses.append(OBJECTIVES[name](task, module, batch).item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_a_gradient(food, name):
    task, module, examples = food
    module.zero_grad()
    torch.manual_seed(0)
    module.train()
    try:
        OBJECTIVES[name](task, module, examples).backward()
    finally:
        module.eval()
    gradient = module.encoder.layer[0].intermediate.dense.weight.grad
    assert gradient is not None and gradient.abs().max() > 0
    module.zero_grad()


@pytest.mark.parametrize("name", ["contrastive", "masked"])
def test_what_embeds_no_texts_cannot_be_trained_on_texts_alone(name):
    task = Command()
    task.name = "mine"
    with pytest.raises(RecipeError, match=r"mine: .*(embed texts|mask token)"):
        OBJECTIVES[name](task, None, [Example("a")])
