"""Texts are put into classes by a frozen zero-shot head, by a head from a file, or by the model's own head.

A zero-shot head is made of descriptions: a class's row is the mean of the embeddings of the descriptions of that class.
A text belongs to the class whose row is nearest to the text's own embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from taskvec.algebra.weights import Weights
from taskvec.errors import FormatError, MismatchError, RecipeError
from taskvec.evals.module import best, by_length, padded
from taskvec.evals.task import LiveOf, Task
from taskvec.evals.texts import Example, places
from taskvec.live.learn import entropy

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

POOLINGS = ("mean", "cls")


def _texts(given: Any) -> bool:
    """Whether these are descriptions: a list with a text at least."""
    return isinstance(given, list | tuple) and bool(given) and all(isinstance(text, str) for text in given)


@dataclass
class Classification(Task):
    """Is the class with the highest logit the text's own? One number an example, 0 or 1.

    prompts: {class: descriptions}: the class's row of the head is the mean of the embeddings that the model of the
    file gives them, at length 1, made once and frozen, as CLIP's are in Ilharco et al. (2023); logits are cosines.
    head: a safetensors file with `weight` (classes, width) and perhaps `bias` (classes,); logits = W e + b. With
    neither, the model's own head: transformers' sequence classification.
    scale: of a zero-shot head's logits where a loss is wanted (`taskvec learn`), CLIP's 100 unless given.
    An embedding is the mean over a text's tokens, or its first one's (pooling: cls), at length 1 (normalise: false).
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
        """Also the head's settings."""
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
            told = "YAML reads yes, no, on, off, true and false as truth values: put classes in quotes"
            raise RecipeError(f"{name}: {told} (a class is {quoted[0]})")
        if twice := sorted({str(c) for c in given if [*map(str, given)].count(str(c)) > 1}):
            raise RecipeError(f"{name}: every class stands once, and {', '.join(twice)} does not")
        if empty := [c for c, texts in self.prompts.items() if not _texts(texts)]:
            raise RecipeError(f"{name}: prompts are lists of texts, which these classes do not have:", map(str, empty))
        self.module = "encoder" if self.prompts or self.head else "classifier"  # type: ignore[misc]
        super().open(name, root, live_of)

    def scores(self, weights: Weights, split: str, start: float, stop: float) -> Mapping[str, Any]:
        """{"": 0 or 1 an example}."""
        examples = self.part(split, start, stop)
        predicted = self.predictions(weights, split, start, stop)
        return {"": (predicted == places([e.label for e in examples], self.names, self.name)).astype(float)}

    def predictions(self, weights: Weights, split: str, start: float, stop: float) -> "NDArray[Any]":
        """(n,): the place of the class with the highest logit."""
        asked = split, start, stop
        found: NDArray[Any] = self.once(weights, asked, lambda: self._predicted(weights, self.part(*asked)))
        return found

    def _predicted(self, weights: Weights, examples: Sequence[Example]) -> "NDArray[Any]":
        import numpy as np
        import torch

        self.ready()
        module, ids = self.live.take(weights), self._ids([e.text for e in examples])
        found = np.zeros(len(examples), np.int64)
        for batch in by_length(ids, self.batch):
            with torch.inference_mode():
                try:
                    logits = self._logits(module, [ids[k] for k in batch])
                except (IndexError, RuntimeError) as error:
                    most, longest = getattr(module.config, "max_position_embeddings", None), len(ids[batch[-1]])
                    if most is None or longest <= most:
                        raise
                    told = f"{self.name}: a text has {longest} tokens, and the model has {most} positions"
                    raise RecipeError(f"{told}: shorten texts (max_tokens: {most})") from error
            found[batch] = best(self.name, logits)
        return found

    def ready(self) -> None:
        """The head. Raises MismatchError where it has another number of classes than the file names."""
        module = self.live.module  # first: is there such a model, and such a device?
        rows = len(self._head[0]) if self.module == "encoder" else module.config.num_labels
        if len(self.names) != rows:
            raise MismatchError(
                f"{self.name}: {len(self.names)} classes ({', '.join(self.names)}), and the head has {rows}"
            )

    def loss_of(self, model: Callable[..., Any], examples: Sequence[Example], labels: bool) -> "torch.Tensor":
        """Cross-entropy, or the entropy of the predictions; logits of a zero-shot head are multiplied by `scale`."""
        import torch

        logits = self._logits(model, self._ids([e.text for e in examples])).float()
        logits = logits * self.scale if self.prompts else logits
        if not labels:
            return entropy(logits)
        wanted = places([e.label for e in examples], self.names, self.name)
        return torch.nn.functional.cross_entropy(logits, torch.tensor(wanted, device=logits.device))

    @property
    def names(self) -> list[str]:
        """The classes, in the order of the logits."""
        if self.prompts or self.classes:
            return [*map(str, self.prompts or self.classes)]
        known = getattr(self.live.module.config, "id2label", None) if not self.head else None
        rows = len(known) if known else len(self._head[0])
        return [str(known[k]) for k in range(rows)] if known else [*map(str, range(rows))]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        found: list[list[int]] = self.live.tokenizer([*texts], truncation=True, max_length=self.max_tokens)["input_ids"]
        if empty := [text for text, ids in zip(texts, found, strict=True) if not ids]:
            raise FormatError(f"{self.name}: the tokenizer makes no token of {empty[0]!r:.60}")
        return found

    @cached_property
    def _head(self) -> "tuple[torch.Tensor, torch.Tensor | None]":
        """(weight, bias), or nothing for the model's own."""
        import torch

        if self.head:
            return self._given_head()
        if not self.prompts:
            return torch.empty(0), None
        if self.live.holds is not None:
            raise MismatchError(f"{self.name}: the head must be made before the module takes on other weights")
        with torch.no_grad():  # no inference tensors: gradients of what is multiplied with the head may be wanted
            rows = [self._embedded(self.live.module, self._ids(texts)).mean(0) for texts in self.prompts.values()]
            return torch.nn.functional.normalize(torch.stack(rows), dim=-1), None

    def _given_head(self) -> "tuple[torch.Tensor, torch.Tensor | None]":
        import torch

        from taskvec.recipes.recipe import load

        path = str(self.root / self.head)
        found = load(path)
        if "weight" not in found.specs or len(found.specs["weight"].shape) != 2:
            raise FormatError(f"{path}: a head has `weight`, (classes, width); here are {', '.join(found.specs)}")
        weight = torch.from_numpy(found["weight"]).to(self.device, torch.float32)
        bias = torch.from_numpy(found["bias"]).to(self.device, torch.float32) if "bias" in found.specs else None
        if bias is not None and bias.shape != weight.shape[:1]:
            raise FormatError(f"{path}: bias is {[*bias.shape]}, and weight has {len(weight)} classes")
        return weight, bias

    def _logits(self, module: Any, ids: Sequence[Sequence[int]]) -> "torch.Tensor":
        if self.module == "classifier":
            own: torch.Tensor = module(**padded(ids, self.live.tokenizer.pad_token_id or 0, self.device)).logits
            return own
        weight, bias = self._head
        found = self._embedded(module, ids)
        if found.shape[1] != weight.shape[1]:
            raise MismatchError(
                f"{self.name}: the head takes {weight.shape[1]} numbers, and a text has {found.shape[1]}"
            )
        logits: torch.Tensor = found @ weight.T
        return logits if bias is None else logits + bias

    def embedded(self, module: Any, texts: Sequence[str]) -> "torch.Tensor":
        """(texts, width), float32: what the module makes of these texts, pooled, at length 1 unless told otherwise."""
        return self._embedded(module, self._ids(texts))

    def _embedded(self, module: Any, ids: Sequence[Sequence[int]]) -> "torch.Tensor":
        """(texts, width), float32."""
        import torch

        given = padded(ids, self.live.tokenizer.pad_token_id or 0, self.device)
        try:
            states = module(**given).last_hidden_state.float()
        except (AttributeError, TypeError, ValueError) as error:  # of models that want pictures or a second text, too
            kind = type(self.live.module).__name__
            told = f"{self.name}: a {kind} gives no states for a text alone, so it cannot embed texts"
            raise FormatError(f"{told} ({str(error).splitlines()[0]}): take the model of its texts") from error
        mask = given["attention_mask"][:, :, None]
        pooled = states[:, 0] if self.pooling == "cls" else (states * mask).sum(1) / mask.sum(1)
        found: torch.Tensor = torch.nn.functional.normalize(pooled, dim=-1) if self.normalise else pooled
        return found
