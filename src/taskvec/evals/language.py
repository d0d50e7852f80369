"""Language models are judged by the perplexity of texts, or by a classifier's scores of what they write."""

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
from taskvec.recipes.userfile import function_in

if TYPE_CHECKING:
    import torch


@dataclass
class Perplexity(Task):
    """The perplexity of texts to a causal language model: exp of the mean of -log p(token | tokens before it).

    The documents of a split (paragraphs of a .txt file, or examples) are joined with the end-of-text token and cut into
    windows of `window` tokens; a shorter rest at the end is dropped. All windows count alike, and "before it" means
    within the window. Gives NAME, the perplexity, one number, and NAME_loss, the mean loss of each window in nats.
    """

    window: int = 512
    batch: int = 4
    kind: ClassVar[str] = "perplexity"
    module: ClassVar[str] = "causal"
    told: ClassVar[Sequence[str]] = ("", "loss")
    falling: ClassVar[bool] = True
    unused: ClassVar[Sequence[str]] = ("label_column",)

    def open(self, name: str, root: Any, live_of: LiveOf) -> None:
        """See `Task.open`. Also checks the window."""
        if self.window < 2:
            raise RecipeError(f"{name}: a window has at least 2 tokens, not {self.window}")
        super().open(name, root, live_of)

    def examples(self, split: str, root: Path) -> list[Example]:
        """The windows of a split, each with its token ids as its text. Raises FormatError if there is none."""
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
        """The digests of the documents in each window. So a document in both splits is found out wherever its windows
        begin, and equal windows of different documents are allowed."""
        return [e.parts for e in self.listed(split)]

    def scores(self, weights: Weights, split: str, start: float, stop: float) -> Mapping[str, Any]:
        """{"": perplexity, "loss": the loss of each window}."""
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
        """The mean loss of each window, (windows,) in float64."""
        import torch

        ids = torch.tensor([[*map(int, e.text.split())] for e in windows], device=self.device)
        logits = module(input_ids=ids).logits[:, :-1].float()
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").double().mean(1)


@dataclass
class Generation(Task):
    """A judge scores what a causal language model writes after each prompt.

    Gives NAME_score, the score for each prompt, and NAME, 1 for each prompt whose score is above `threshold`, else 0.

    judge: "FILE.py:function", a function from texts to a number for each (the file is run), or the folder of a
        transformers classifier. The score is then its probability of the class `label`.
    temperature, seeds: at 0 the likeliest token is taken at each step. Above 0 tokens are drawn, once for each of
        `seeds`, and scores are averaged.
    chat: the prompt is put into the tokenizer's chat template as what a user says.
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
        """See `Task.open`. Also checks the settings of the judge, and gets it."""
        if not self.judge:
            raise RecipeError(
                f"{name}: say who scores what is written (judge: FILE.py:function, or a classifier's folder)"
            )
        if self.tokens < 1 or self.temperature < 0:
            raise RecipeError(f"{name}: tokens is at least 1 and temperature not negative")
        if not self.seeds or not all(isinstance(seed, int) for seed in self.seeds):
            raise RecipeError(f"{name}: seeds are whole numbers, at least one")
        super().open(name, root, live_of)
        self.scorer: Callable[[Sequence[str]], Any]
        self.code = ""  # the digest of the judge's file
        if ".py:" in self.judge:
            self.scorer, self.code = function_in(str(root / self.judge), "judge: FILE.py:function")
        else:
            live = live_of(root / self.judge, "classifier", "float32", self.device)
            self.scorer = _Judge(live, self.label, self.batch, name).score

    def beside(self) -> Sequence[str]:
        """The digest of the judge's file."""
        return [self.code] if self.code else []

    def scores(self, weights: Weights, split: str, start: float, stop: float) -> Mapping[str, Any]:
        """{"": 0 or 1 for each prompt, "score": the judge's number for each}. Raises TaskvecError for other numbers."""
        import numpy as np

        cuts = [start, *([FIRST] if start < FIRST < stop else []), stop]  # so that draws are the same with a race
        parts = [[e.text for e in self.part(split, *ends)] for ends in pairwise(cuts)]
        prompts = [text for part in parts for text in part]
        seeds = self.seeds if self.temperature else self.seeds[:1]
        written = [[text for part in parts for text in self.written(weights, part, seed)] for seed in seeds]
        rows = [np.asarray(self.scorer(texts), np.float64) for texts in written]
        if wrong := [row for row in rows if row.shape != (len(prompts),)]:
            rule = f"{self.judge} must give a number for each of {len(prompts)} texts"
            raise TaskvecError(f"{rule}, not {list(wrong[0].shape)}")
        numbers = np.stack(rows)  # (seeds, prompts)
        return {"": (numbers > self.threshold).mean(0), "score": numbers.mean(0)}

    def written(self, weights: Weights, prompts: Sequence[str], seed: int = 0) -> list[str]:
        """The text that the model writes after each prompt."""
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
        """The logits as they are. Raises NonFiniteError for NaN, with which the likeliest token could be any."""
        if bool(logits.isnan().any()):
            raise NonFiniteError(f"{self.name}: the model's logits are NaN")
        return logits

    def _prompt_ids(self, tokenizer: Any, prompt: str) -> list[int]:
        """The token ids of a prompt. Raises RecipeError if there is no chat template."""
        if self.chat:
            if not tokenizer.chat_template:
                raise RecipeError(f"{self.name}: the tokenizer of {self.model} has no chat template: leave chat out")
            said = [{"role": "user", "content": prompt}]
            prompt = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        ids: list[int] = tokenizer(prompt, add_special_tokens=not self.chat)["input_ids"]
        return ids


@dataclass
class _Judge:
    """A classifier of transformers as a judge: it gives the probability of one of its classes."""

    live: Live
    label: str
    batch: int
    name: str

    @cached_property
    def place(self) -> int:
        """The number of the class. Raises RecipeError for a class that there is not."""
        names = {str(v): int(k) for k, v in self.live.module.config.id2label.items()}
        if self.label not in names:
            raise RecipeError(
                f"{self.name}: label is one of the judge's classes ({', '.join(names)}), not {self.label!r}"
            )
        return names[self.label]

    def score(self, texts: Sequence[str]) -> list[float]:
        """The probability for each text: by a softmax, or by a sigmoid if a text may be of several classes or there is
        one class only, as in the pipelines of transformers. Raises RecipeError for a regression."""
        import torch

        module, tokenizer = self.live.module, self.live.tokenizer
        problem = getattr(module.config, "problem_type", None)
        if problem == "regression":
            raise RecipeError(f"{self.name}: the judge {self.live.folder} is a regression and gives no probabilities")
        several = problem == "multi_label_classification" or module.config.num_labels == 1
        ids = tokenizer([*texts], truncation=True, max_length=512)["input_ids"]
        scores = [0.0] * len(texts)
        for batch in by_length(ids, self.batch):
            with torch.inference_mode():
                logits = module(**padded([ids[k] for k in batch], tokenizer.pad_token_id or 0, self.live.device)).logits
            probabilities = logits.sigmoid() if several else logits.softmax(-1)
            for k, p in zip(batch, probabilities[:, self.place].tolist(), strict=True):
                scores[k] = p
        return scores
