"""Language models are judged by the perplexity of texts, and by what they write, which a classifier scores."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from taskvec.algebra.weights import Weights
from taskvec.errors import FormatError, NonFiniteError, RecipeError, TaskvecError
from taskvec.evals.module import Live, by_length, padded
from taskvec.evals.order import FIRST
from taskvec.evals.task import LiveOf, Task
from taskvec.evals.texts import Example, paragraphs

if TYPE_CHECKING:
    import torch


@dataclass
class Perplexity(Task):
    """exp of the mean loss -log p(token | the tokens before it in its window), a causal language model's.

    The documents of a split (paragraphs of a .txt file, or examples) are joined with the end-of-text token and cut into
    windows of `window` tokens, what is left over at the end dropped; all windows count alike. Gives NAME, the
    perplexity, one number, and NAME_loss, the mean loss in nats a window.
    """

    window: int = 512
    batch: int = 4
    kind: ClassVar[str] = "perplexity"
    module: ClassVar[str] = "causal"
    told: ClassVar[Sequence[str]] = ("", "loss")
    falling: ClassVar[bool] = True

    def open(self, name: str, root: Any, live_of: LiveOf) -> None:
        """Also the window."""
        if self.window < 2:
            raise RecipeError(f"{name}: a window has at least 2 tokens, not {self.window}")
        super().open(name, root, live_of)

    def examples(self, split: str, root: Path) -> list[Example]:
        """Windows, each as its token ids in words."""
        path = self.place(split, root)
        documents = [d for d in paragraphs(path, self.text_column) if self.dealt(d.identity, split)]
        tokenizer = self.live.tokenizer
        end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        rows = (
            tokenizer([d.text for d in documents], add_special_tokens=False, verbose=False)["input_ids"]
            if documents
            else []
        )
        ids = [token for row in rows for token in (*row, *end)]
        owners = [d.identity for d, row in zip(documents, rows, strict=True) for _ in (*row, *end)]
        windows = [slice(k, k + self.window) for k in range(0, len(ids) - self.window + 1, self.window)]
        if not windows:
            raise FormatError(f"{path} has {len(ids)} tokens for {split}, fewer than one window of {self.window}")
        return self.limited([Example(" ".join(map(str, ids[w])), parts=frozenset(owners[w])) for w in windows])

    def texts(self, split: str) -> Sequence[frozenset[str]]:
        """The documents in each window: equal windows of two documents are no leak, a document in both splits is one,
        also where its windows begin elsewhere.
        """
        return [e.parts for e in self.listed(split)]

    def scores(self, weights: Weights, split: str, start: float, stop: float) -> Mapping[str, Any]:
        """{"": perplexity, "loss": one a window}."""
        import torch

        chosen = self.part(split, start, stop)
        module, losses = self.live.take(weights), []
        for k in range(0, len(chosen), self.batch):
            with torch.inference_mode():
                losses += self._losses(module, chosen[k : k + self.batch]).tolist()
        return {"": math.exp(math.fsum(losses) / len(losses)), "loss": losses}

    def loss_of(self, model: Callable[..., Any], examples: Sequence[Example], labels: bool) -> "torch.Tensor":
        """The mean loss of these windows: a text is its own label."""
        if not labels:
            raise RecipeError(f"{self.name}: a language model learns from its texts (--loss labels)")
        return self._losses(model, examples).mean()

    def _losses(self, module: Any, windows: Sequence[Example]) -> "torch.Tensor":
        """The mean loss of each window, float64."""
        import torch

        ids = torch.tensor([[*map(int, e.text.split())] for e in windows], device=self.device)
        logits = module(input_ids=ids).logits[:, :-1].float()
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").double().mean(1)


@dataclass
class Generation(Task):
    """How much of what a causal language model writes after a prompt a classifier flags: 0 or 1 a prompt, and scores.

    judge: "FILE.py:function", texts -> a number each (runs the file), or the folder of a transformers classifier, whose
    probability of the class `label` it is. Gives NAME, whether the score is above `threshold`, and NAME_score.
    The likeliest token is taken at each step, or with temperature > 0 drawn; of several `seeds` the mean counts.
    chat: the prompt is what a user says, put into the tokenizer's template.
    """

    judge: str = ""
    label: str = ""
    threshold: float = 0.5
    tokens: int = 32
    temperature: float = 0.0
    seeds: Sequence[int] = (0,)
    chat: bool = False
    kind: ClassVar[str] = "generation"
    module: ClassVar[str] = "causal"
    told: ClassVar[Sequence[str]] = ("", "score")

    def open(self, name: str, root: Any, live_of: LiveOf) -> None:
        """Also the judge."""
        if not self.judge:
            raise RecipeError(
                f"{name}: say who scores what is written (judge: FILE.py:function, or a classifier's folder)"
            )
        if self.tokens < 1 or self.temperature < 0:
            raise RecipeError(f"{name}: tokens is at least 1 and temperature not negative")
        if not self.seeds or not all(isinstance(seed, int) for seed in self.seeds):
            raise RecipeError(f"{name}: seeds are whole numbers, at least one")
        super().open(name, root, live_of)
        self.scorer = _function(root, self.judge) if ".py:" in self.judge else self._classifier(live_of)

    def scores(self, weights: Weights, split: str, start: float, stop: float) -> Mapping[str, Any]:
        """{"": 0 or 1 a prompt, "score": the judge's number}."""
        import numpy as np

        cuts = [start, *([FIRST] if start < FIRST < stop else []), stop]  # the draws are the same, raced or not
        parts = [[e.text for e in self.part(split, *ends)] for ends in pairwise(cuts)]
        prompts = [text for part in parts for text in part]
        seeds = self.seeds if self.temperature else self.seeds[:1]
        written = [[text for part in parts for text in self.written(weights, part, seed)] for seed in seeds]
        rows = [np.asarray(self.scorer(texts), np.float64) for texts in written]
        if wrong := [row for row in rows if row.shape != (len(prompts),)]:
            told = f"{self.judge} must give a number for each of {len(prompts)} texts"
            raise TaskvecError(f"{told}, not {list(wrong[0].shape)}")
        found = np.stack(rows)
        return {"": (found > self.threshold).mean(0), "score": found.mean(0)}

    def written(self, weights: Weights, prompts: Sequence[str], seed: int = 0) -> list[str]:
        """What the model writes after each prompt."""
        import torch

        module, tokenizer = self.live.take(weights), self.live.tokenizer
        ids = [self._prompt_ids(tokenizer, p) for p in prompts]
        texts = [""] * len(prompts)
        drawn = (
            {"do_sample": True, "temperature": self.temperature, "top_k": 0}
            if self.temperature
            else {"do_sample": False}
        )
        torch.manual_seed(seed)
        for batch in by_length(ids, self.batch):
            given = padded([ids[k] for k in batch], tokenizer.pad_token_id, self.device, left=True)
            with torch.inference_mode():
                out = module.generate(
                    **given, max_new_tokens=self.tokens, pad_token_id=tokenizer.pad_token_id,
                    logits_processor=[self._numbers], **drawn,
                )  # fmt: skip
            new = out[:, given["input_ids"].shape[1] :]
            for k, text in zip(batch, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
                texts[k] = text
        return texts

    def _numbers(self, ids: Any, logits: "torch.Tensor") -> "torch.Tensor":
        """The logits as they are. Raises NonFiniteError: with NaN the likeliest token would be any."""
        if bool(logits.isnan().any()):
            raise NonFiniteError(f"{self.name}: the model's logits are NaN")
        return logits

    def _prompt_ids(self, tokenizer: Any, prompt: str) -> list[int]:
        if self.chat:
            if not tokenizer.chat_template:
                raise RecipeError(f"{self.name}: the tokenizer of {self.model} has no chat template: leave chat out")
            said = [{"role": "user", "content": prompt}]
            prompt = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        found: list[int] = tokenizer(prompt, add_special_tokens=not self.chat)["input_ids"]
        return found

    def _classifier(self, live_of: LiveOf) -> "Callable[[Sequence[str]], Any]":
        live = live_of(self.root / self.judge, "classifier", "float32", self.device)
        return _Judge(live, self.label, self.batch, self.name).score


@dataclass
class _Judge:
    """A classifier of transformers: the probability of one of its classes."""

    live: Live
    label: str
    batch: int
    name: str

    @cached_property
    def place(self) -> int:
        """Which logit."""
        names = {str(v): int(k) for k, v in self.live.module.config.id2label.items()}
        if self.label not in names:
            raise RecipeError(
                f"{self.name}: label is one of the judge's classes ({', '.join(names)}), not {self.label!r}"
            )
        return names[self.label]

    def score(self, texts: Sequence[str]) -> list[float]:
        """One probability a text."""
        import torch

        module, tokenizer = self.live.module, self.live.tokenizer
        ids = tokenizer([*texts], truncation=True, max_length=512)["input_ids"]
        found = [0.0] * len(texts)
        for batch in by_length(ids, self.batch):
            with torch.inference_mode():
                logits = module(**padded([ids[k] for k in batch], tokenizer.pad_token_id or 0, self.live.device)).logits
            for k, p in zip(batch, logits.softmax(-1)[:, self.place].tolist(), strict=True):
                found[k] = p
        return found


def _function(root: Path, text: str) -> "Callable[[Sequence[str]], Any]":
    from taskvec.recipes.userfile import function_in

    function, _ = function_in(str(root / text), "judge: FILE.py:function")
    found: Callable[[Sequence[str]], Any] = function
    return found
