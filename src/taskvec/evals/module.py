"""One live module of transformers judges all candidates: it takes on the weights of each in turn (extra `eval`).

Building a module for each candidate would take far longer than setting the weights of one in place. An encoder is the
body of a model, as AutoModel reads it. A checkpoint of a model with a head (BertForMaskedLM, LlamaForCausalLM) has the
body's tensors under a prefix, `bert.` or `model.`, and the head's tensors beside them. Weights with such names are set
into a module in which the body has that prefix; it also has a place for the head, which is never called.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskvec.algebra.weights import Weights
from taskvec.errors import FormatError, MissingExtra, NonFiniteError, RecipeError
from taskvec.live.load_into import load_into

if TYPE_CHECKING:
    import torch

KINDS = {
    "encoder": "AutoModel",
    "classifier": "AutoModelForSequenceClassification",
    "causal": "AutoModelForCausalLM",
}


@dataclass
class Live:
    """The model and the tokenizer of a folder, read when they are first needed and never a second time.

    It begins as the folder's own model. `take` sets it to other weights, in place.
    """

    folder: Path
    kind: str
    dtype: str = "auto"  # of the module: "float32", "bfloat16", or as the folder's config says
    device: str = "cpu"
    holds: Weights | None = field(default=None, init=False)  # what it was last set to

    @cached_property
    def module(self) -> Any:
        """Not in training."""
        kind, given = getattr(_transformers(), KINDS[self.kind]), {"dtype": self.dtype, **LOCAL}
        found, info = self._read(lambda: kind.from_pretrained(self.folder, output_loading_info=True, **given))
        missing = info["missing_keys"]
        if self.kind == "encoder" and all(name.startswith("pooler.") for name in missing) and missing:
            found.pooler = None  # what it would make of the states is not looked at
        elif missing:
            raise FormatError(f"{self.folder} has no weights for {self.what}'s:", sorted(missing))
        if self.kind == "causal" and _sees_all(found.config):
            raise FormatError(
                f"{self.folder} is no causal language model: a {type(found).__name__} sees the tokens after a place, "
                "too (is_decoder is not true in its config.json)"
            )
        return self.placed(found)

    def placed(self, module: Any) -> Any:
        """A module on the device, not in training. Raises RecipeError for a device that there is not."""
        try:
            return module.to(self.device).eval()
        except (RuntimeError, AssertionError, ValueError) as error:
            raise RecipeError(f"device: {self.device} cannot be used: {_first(error)}") from None

    @property
    def what(self) -> str:
        """Its kind, in words."""
        return f"an {self.kind}" if self.kind == "encoder" else f"a {self.kind} model"

    @cached_property
    def tokenizer(self) -> Any:
        """Pads on the right, with the end of text where it has no padding of its own."""
        found = self._read(lambda: _transformers().AutoTokenizer.from_pretrained(self.folder, **LOCAL))
        names = found.vocab_files_names.values()  # none where tokens are bytes
        if names and not any((self.folder / name).exists() for name in (*names, *VOCABULARIES)):
            raise FormatError(f"{self.folder} has no tokenizer: no {', '.join(names)}")
        if found.pad_token_id is None:
            found.pad_token = found.eos_token
        return found

    def take(self, weights: Weights) -> Any:
        """The module with these weights; nothing is done where it holds them already."""
        if self.holds is not weights:
            module, self.holds = self.fitting(weights), None
            load_into(module, weights)
            self.holds = weights
        return self.module

    def fitting(self, weights: Weights) -> Any:
        """The module by the names that the weights have: itself, or with its prefix and its head around it."""
        prefix = f"{getattr(self.module, 'base_model_prefix', '')}."
        bare = self.kind != "encoder" or any(name.startswith(prefix) for name in self.module.state_dict())
        return self.module if bare or not any(name.startswith(prefix) for name in weights.specs) else self._headed

    @cached_property
    def _headed(self) -> Any:
        import torch

        body = self.module

        class Headed(torch.nn.Module):
            def forward(self, *args: Any, **kwargs: Any) -> Any:
                return body(*args, **kwargs)

        found = Headed().eval()
        found.add_module(body.base_model_prefix, body)
        for name, tensor in _head_of(body).items():
            *path, last = name.split(".")
            inner: torch.nn.Module = found
            for part in path:
                if part not in dict(inner.named_children()):
                    inner.add_module(part, torch.nn.Module())
                inner = inner.get_submodule(part)
            dtype = body.dtype if tensor.is_floating_point() else tensor.dtype
            # not persistent: weights may leave a head out, such as one that is tied to the embedding
            inner.register_buffer(last, torch.empty(tensor.shape, dtype=dtype, device=self.device), persistent=False)
        return found

    def _read(self, read: Any) -> Any:
        told = f"{self.folder} cannot be opened by transformers as {self.what}"
        if not self.folder.is_dir():  # a text that is no folder would be looked for on the hub
            raise FormatError(f"{told}: there is no such folder (paths are relative to the file of tasks)")
        try:
            return read()
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise FormatError(f"{told}: {_first(error)}") from None


def _head_of(body: Any) -> "Mapping[str, torch.Tensor]":
    """The tensors that the class of its config (`architectures`) has beside the body, without memory, by name."""
    import torch

    transformers, found = _transformers(), dict[str, torch.Tensor]()
    for name in body.config.architectures or ():
        kind: Any = getattr(transformers, name, None)
        known = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
        if known and kind.base_model_prefix == body.base_model_prefix and not isinstance(body, kind):
            with torch.device("meta"):
                whole = kind(copy.deepcopy(body.config))
            found |= {n: t for n, t in whole.state_dict().items() if not n.startswith(f"{body.base_model_prefix}.")}
    return found


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _sees_all(config: Any) -> bool:
    """Whether it is an encoder's, though transformers also makes a causal class of it."""
    masked = type(config) in _transformers().MODEL_FOR_MASKED_LM_MAPPING
    return masked and not (getattr(config, "is_decoder", False) or getattr(config, "causal", False))


VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
LOCAL = {"local_files_only": True, "trust_remote_code": False}


def _transformers() -> Any:
    try:
        import torch  # noqa: F401
        import transformers
        from transformers.utils import logging
    except ImportError:
        raise MissingExtra("an evaluator of transformers models", "eval") from None
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return transformers


def best(name: str, logits: "torch.Tensor") -> list[int]:
    """The place of the highest logit of each row. Raises NonFiniteError: of rows with NaN it would be any."""
    if spoiled := int((~logits.isfinite()).any(1).sum()):
        raise NonFiniteError(f"{name}: logits of {spoiled} of {len(logits)} examples are NaN or Inf")
    found: list[int] = logits.argmax(1).tolist()
    return found


def by_length(ids: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Batches of at most `size` places, rows of like length together, so that little is spent on padding."""
    order = sorted(range(len(ids)), key=lambda k: len(ids[k]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def padded(ids: Sequence[Sequence[int]], pad: int, device: str, left: bool = False) -> "dict[str, torch.Tensor]":
    """input_ids and attention_mask, each (rows, longest)."""
    import torch

    longest = max(map(len, ids))
    fill = [[pad] * (longest - len(row)) for row in ids]
    rows = [[*f, *row] if left else [*row, *f] for row, f in zip(ids, fill, strict=True)]
    ones = [[1] * len(row) for row in ids]
    masks = [[*[0] * len(f), *one] if left else [*one, *[0] * len(f)] for one, f in zip(ones, fill, strict=True)]
    return {
        "input_ids": torch.tensor(rows, device=device), "attention_mask": torch.tensor(masks, device=device)
    }  # fmt: skip
