"""Texts are classified by a frozen zero-shot head, by a head from a file, or by the model's own head.

A zero-shot head is made of descriptions of the classes. The row of a class is the mean of the embeddings of its
descriptions, and a text is of the class whose row is nearest to the text's embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from taskvec.algebra.weights import Weights
from taskvec.errors import FormatError, MismatchError, RecipeError
from taskvec.evals.classes import IntoClasses
from taskvec.evals.module import by_length, padded
from taskvec.evals.task import LiveOf
from taskvec.evals.texts import Example

if TYPE_CHECKING:
    import torch

POOLINGS = ("mean", "cls")


def _texts(given: Any) -> bool:
    """Whether these are descriptions: a list of texts that is not empty."""
    return isinstance(given, list | tuple) and bool(given) and all(isinstance(text, str) for text in given)


@dataclass
class Classification(IntoClasses):
    """For each text 1 if the class with the highest logit is its own, else 0.

    prompts: {class: descriptions}, for a zero-shot head. The row of a class is the mean of the embeddings that `model`
        gives its descriptions, scaled to length 1. The head is made once and then frozen, as CLIP's is in Ilharco et
        al. (2023). Logits are cosines.
    head: a safetensors file with `weight` W (classes, width) and perhaps `bias` b (classes,), in the order of
        `classes`. The logits of an embedding e are W e + b. Without prompts and head, the model's own head is used, as
        transformers' sequence classification.
    pooling, normalise: an embedding is the mean over the tokens of a text, or that of the first token ("cls"), scaled
        to length 1 unless `normalise` is false.
    scale: the logits of a zero-shot head are multiplied by it for a loss (`taskvec learn`); the default is CLIP's.
    """

    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    head: str = ""
    classes: Sequence[str] = ()
    pooling: str = "mean"
    normalise: bool = True
    max_tokens: int = 256
    scale: float = 100.0
    kind: ClassVar[str] = "classification"

    def open(self, name: str, root: Any, live_of: LiveOf) -> None:
        """See `Task.open`. Also checks the settings of the head."""
        if self.prompts and self.head:
            raise RecipeError(f"{name}: give prompts or a head, not both")
        if self.pooling not in POOLINGS:
            raise RecipeError(f"{name}: pooling is {' or '.join(POOLINGS)}, not {self.pooling}")
        if self.max_tokens < 1 or self.scale <= 0:
            raise RecipeError(f"{name}: max_tokens is at least 1, and scale is above 0")
        if self.prompts and self.classes and {*map(str, self.prompts)} != {*map(str, self.classes)}:
            raise RecipeError(f"{name}: prompts name the classes, and `classes` has others: leave it out")
        given = [*(self.prompts or self.classes)]
        if quoted := [f"{c!r}".lower() for c in given if isinstance(c, bool)]:
            advice = "YAML reads yes, no, on, off, true and false as truth values: put classes in quotes"
            raise RecipeError(f"{name}: {advice} (a class is {quoted[0]})")
        if twice := sorted({str(c) for c in given if [*map(str, given)].count(str(c)) > 1}):
            raise RecipeError(f"{name}: every class may be named only once, and {', '.join(twice)} is named again")
        if empty := [c for c, texts in self.prompts.items() if not _texts(texts)]:
            raise RecipeError(f"{name}: prompts are lists of texts, which these classes do not have:", map(str, empty))
        self.module = "encoder" if self.prompts or self.head else "classifier"  # type: ignore[misc]
        super().open(name, root, live_of)

    def beside(self) -> Sequence[str]:
        """The fingerprint of the file of the head."""
        from taskvec.recipes.recipe import load

        return [source.fingerprint for source in load(str(self.root / self.head)).terms] if self.head else []

    def _computed(self, weights: Weights, examples: Sequence[Example]) -> "torch.Tensor":
        """See `IntoClasses._computed`. Raises RecipeError for a text that is too long for the model."""
        import torch

        self.ready()
        module, ids = self.live.take(weights), self._ids([e.text for e in examples])
        all_logits = torch.zeros(len(examples), len(self.names))
        for batch in by_length(ids, self.batch):
            with torch.inference_mode():
                try:
                    logits = self._logits(module, [ids[k] for k in batch])
                except (IndexError, RuntimeError) as error:
                    most, longest = getattr(module.config, "max_position_embeddings", None), len(ids[batch[-1]])
                    if most is None or longest <= most:
                        raise
                    problem = f"{self.name}: a text has {longest} tokens, and the model has {most} positions"
                    raise RecipeError(f"{problem}: shorten texts (max_tokens: {most})") from error
            all_logits[batch] = logits.float().cpu()
        return all_logits

    def ready(self) -> None:
        """Make the head. Raises MismatchError if it has another number of classes than the file names."""
        module = self.live.module  # before the head, so that errors about the model or the device come first
        rows = len(self._head[0]) if self.module == "encoder" else module.config.num_labels
        if len(self.names) != rows:
            raise MismatchError(
                f"{self.name}: {len(self.names)} classes ({', '.join(self.names)}), and the head has {rows}"
            )

    def logits_of(self, model: Callable[..., Any], examples: Sequence[Example]) -> "torch.Tensor":
        """See `IntoClasses.logits_of`."""
        return self._logits(model, self._ids([e.text for e in examples])).float()

    @property
    def sharpness(self) -> float:
        """`scale` for a zero-shot head, whose logits are cosines."""
        return self.scale if self.prompts else 1.0

    @property
    def names(self) -> list[str]:
        """The classes, in the order of the logits."""
        if self.prompts or self.classes:
            return [*map(str, self.prompts or self.classes)]
        known = getattr(self.live.module.config, "id2label", None) if not self.head else None
        rows = len(known) if known else len(self._head[0])
        return [str(known[k]) for k in range(rows)] if known else [*map(str, range(rows))]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, at most `max_tokens`. Raises FormatError for a text without tokens."""
        rows: list[list[int]] = self.live.tokenizer([*texts], truncation=True, max_length=self.max_tokens)["input_ids"]
        if empty := [text for text, ids in zip(texts, rows, strict=True) if not ids]:
            raise FormatError(f"{self.name}: the tokenizer makes no token of {empty[0]!r:.60}")
        return rows

    @cached_property
    def _head(self) -> "tuple[torch.Tensor, torch.Tensor | None]":
        """The weight (classes, width) and the bias (classes,) or None of the head; empty for the model's own head."""
        import torch

        if self.head:
            return self._given_head()
        if not self.prompts:
            return torch.empty(0), None
        module = self.live.own(self.name)
        with torch.no_grad():  # not inference_mode: `loss` needs gradients through products with the head
            rows = [self._embedded(module, self._ids(texts)).mean(0) for texts in self.prompts.values()]
            return torch.nn.functional.normalize(torch.stack(rows), dim=-1), None

    def _given_head(self) -> "tuple[torch.Tensor, torch.Tensor | None]":
        """See `_head`, for a head from a file. Raises FormatError."""
        import torch

        from taskvec.recipes.recipe import load

        path = str(self.root / self.head)
        head = load(path)
        if "weight" not in head.specs or len(head.specs["weight"].shape) != 2:
            raise FormatError(f"{path}: a head has `weight`, (classes, width); here are {', '.join(head.specs)}")
        weight = torch.from_numpy(head["weight"]).to(self.device, torch.float32)
        bias = torch.from_numpy(head["bias"]).to(self.device, torch.float32) if "bias" in head.specs else None
        if bias is not None and bias.shape != weight.shape[:1]:
            raise FormatError(f"{path}: bias is {[*bias.shape]}, and weight has {len(weight)} classes")
        return weight, bias

    def _logits(self, module: Any, ids: Sequence[Sequence[int]]) -> "torch.Tensor":
        """The logits of texts, (texts, classes). Raises MismatchError for a head of another width."""
        if self.module == "classifier":
            own: torch.Tensor = module(**padded(ids, self.live.tokenizer.pad_token_id or 0, self.device)).logits
            return own
        weight, bias = self._head
        embeddings = self._embedded(module, ids)
        if embeddings.shape[1] != weight.shape[1]:
            raise MismatchError(
                f"{self.name}: the head takes {weight.shape[1]} numbers, and a text has {embeddings.shape[1]}"
            )
        logits: torch.Tensor = embeddings @ weight.T
        return logits if bias is None else logits + bias

    def embedded(self, module: Any, texts: Sequence[str]) -> "torch.Tensor":
        """(texts, width), float32: what the module makes of these texts, pooled, at length 1 unless told otherwise."""
        return self._embedded(module, self._ids(texts))

    def _embedded(self, module: Any, ids: Sequence[Sequence[int]]) -> "torch.Tensor":
        """The embeddings of texts, (texts, width) in float32. Raises FormatError for a model that embeds no texts."""
        import torch

        given = padded(ids, self.live.tokenizer.pad_token_id or 0, self.device)
        try:
            states = module(**given).last_hidden_state.float()
        except (AttributeError, TypeError, ValueError) as error:  # of models that want pictures or a second text, too
            kind = type(self.live.module).__name__
            problem = f"{self.name}: a {kind} gives no states for a text alone, so it cannot embed texts"
            raise FormatError(f"{problem} ({str(error).splitlines()[0]}): take the model of its texts") from error
        mask = given["attention_mask"][:, :, None]
        pooled = states[:, 0] if self.pooling == "cls" else (states * mask).sum(1) / mask.sum(1)
        embeddings: torch.Tensor = torch.nn.functional.normalize(pooled, dim=-1) if self.normalise else pooled
        return embeddings
