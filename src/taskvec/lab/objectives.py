"""What a training makes small. An objective is a function of a task, the module and a batch of examples.

labels       the loss of the task itself: cross-entropy of the classes, or of the next token
ascent       the same with the other sign (gradient ascent, the paper's baseline of forgetting)
contrastive  SimCSE (Gao et al., 2021, arXiv 2104.08821), without labels: a text is embedded twice with different
             dropout, and should be nearest to itself among the texts of its batch; cosines divided by 0.05
masked       masked language modelling (Devlin et al., 2019), without labels: 15 % of the tokens are hidden, and
             predicted. Encoders that come without a head predict with their word embeddings, as tied heads do

Texts alone are what `contrastive` and `masked` need: analogies between domains take a vector of unlabelled texts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taskvec.errors import RecipeError
from taskvec.evals.classification import Classification
from taskvec.evals.module import padded
from taskvec.evals.task import Task
from taskvec.evals.texts import Example

Objective = Callable[[Task, Any, Sequence[Example]], Any]  # a scalar tensor
TEMPERATURE = 0.05
HIDDEN = 0.15  # share of the tokens


def labels(task: Task, module: Any, examples: Sequence[Example]) -> Any:
    """The loss of the task itself."""
    return task.loss_of(module, examples, True)


def ascent(task: Task, module: Any, examples: Sequence[Example]) -> Any:
    """The loss of the task, to be made large."""
    return -task.loss_of(module, examples, True)


def contrastive(task: Task, module: Any, examples: Sequence[Example]) -> Any:
    """-log p(text | its other embedding), p the softmax over the batch of cosines / TEMPERATURE."""
    import torch

    if not isinstance(task, Classification):
        raise RecipeError(f"{task.name}: contrastive training is for tasks that embed texts")
    texts = [e.text for e in examples]
    one, two = (torch.nn.functional.normalize(task.embedded(module, texts), dim=-1) for _ in range(2))
    return torch.nn.functional.cross_entropy(one @ two.T / TEMPERATURE, torch.arange(len(texts), device=one.device))


def masked(task: Task, module: Any, examples: Sequence[Example]) -> Any:
    """-log p(token) of the tokens that were hidden, over the vocabulary."""
    import torch

    if not isinstance(task, Classification) or task.live.tokenizer.mask_token_id is None:
        raise RecipeError(f"{task.name}: masked language modelling needs an encoder whose tokenizer has a mask token")
    tokenizer = task.live.tokenizer
    ids = tokenizer([e.text for e in examples], truncation=True, max_length=task.max_tokens)["input_ids"]
    given = padded(ids, tokenizer.pad_token_id or 0, task.device)
    special = torch.tensor(tokenizer.all_special_ids, device=task.device)
    may = ~torch.isin(given["input_ids"], special)
    hidden = may & (torch.rand(may.shape) < HIDDEN).to(may.device)
    if not hidden.any():  # a batch of very short texts: hide the first token that may be hidden
        hidden = may & (may.cumsum(1) == 1)
    wanted = given["input_ids"][hidden]
    given["input_ids"] = given["input_ids"].masked_fill(hidden, tokenizer.mask_token_id)
    states = module(**given).last_hidden_state[hidden]
    return torch.nn.functional.cross_entropy(states @ module.get_input_embeddings().weight.detach().T, wanted)


OBJECTIVES: Mapping[str, Objective] = {
    "labels": labels, "ascent": ascent, "contrastive": contrastive, "masked": masked,
}  # fmt: skip
