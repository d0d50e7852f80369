"""One live module of transformers judges all candidates: it takes on the weights of each in turn (extra `eval`).

To build a module for each candidate would take far longer than to set the weights of one in place. An encoder is the
body of a model, as AutoModel reads it. A checkpoint of a model with a head (BertForMaskedLM, LlamaForCausalLM) has the
body's tensors under a prefix, `bert.` or `model.`, and the head's tensors beside them. Weights with such names are set
into a module in which the body has that prefix. This module also has a place for the head, which is never called.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskvec.algebra.weights import Weights
from taskvec.errors import FormatError, MismatchError, MissingExtra, NonFiniteError, RecipeError
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
    """The module and the tokenizer of a folder, which are read once, when they are first needed.

    The module begins as the folder's own model. `take` sets it to other weights, in place.
    """

    folder: Path
    kind: str
    dtype: str = "auto"  # of the module: "float32", "bfloat16", or "auto", as the folder's config.json says
    device: str = "cpu"
    holds: Weights | None = field(default=None, init=False)  # the weights that it was last set to

    @cached_property
    def module(self) -> Any:
        """The module, in evaluation mode. Raises FormatError if the folder does not have all of its weights."""
        kind, given = getattr(_transformers(), KINDS[self.kind]), {"dtype": self.dtype, **LOCAL}
        module, info = self._read(lambda: kind.from_pretrained(self.folder, output_loading_info=True, **given))
        missing = info["missing_keys"]
        if self.kind == "encoder" and all(name.startswith("pooler.") for name in missing) and missing:
            module.pooler = None  # its output is not used
        elif missing:
            raise FormatError(f"{self.folder} has no weights for {self.what}'s:", sorted(missing))
        if self.kind == "causal" and _sees_all(module.config):
            raise FormatError(
                f"{self.folder} is no causal language model: a {type(module).__name__} sees the tokens after a place, "
                "too (is_decoder is not true in its config.json)"
            )
        return self.placed(module)

    def own(self, name: str) -> Any:
        """The module, while it has the folder's own weights: for the head of the task `name`. Raises MismatchError."""
        module = self.module
        if self.holds is not None:
            raise MismatchError(f"{name}: the head must be made before the module takes on other weights")
        return module

    def placed(self, module: Any) -> Any:
        """A module on the device, in evaluation mode. Raises RecipeError if there is no such device."""
        try:
            return module.to(self.device).eval()
        except (RuntimeError, AssertionError, ValueError) as error:
            raise RecipeError(f"device: {self.device} cannot be used: {_first(error)}") from None

    @property
    def what(self) -> str:
        """The kind of the module in words."""
        return f"an {self.kind}" if self.kind == "encoder" else f"a {self.kind} model"

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer. If it has no padding token, it pads with the end of text. Raises FormatError."""
        tokenizer = self._read(lambda: _transformers().AutoTokenizer.from_pretrained(self.folder, **LOCAL))
        names = tokenizer.vocab_files_names.values()  # none if tokens are bytes
        if names and not any((self.folder / name).exists() for name in (*names, *VOCABULARIES)):
            raise FormatError(f"{self.folder} has no tokenizer: no {', '.join(names)}")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def take(self, weights: Weights) -> Any:
        """The module with these weights. Nothing is done if it has them already."""
        if self.holds is not weights:
            module, self.holds = self.fitting(weights), None
            load_into(module, weights)
            self.holds = weights
        return self.module

    def fitting(self, weights: Weights) -> Any:
        """A module with the names that the weights have: the module itself, or one with its prefix and a head."""
        prefix = f"{getattr(self.module, 'base_model_prefix', '')}."
        bare = self.kind != "encoder" or any(name.startswith(prefix) for name in self.module.state_dict())
        return self.module if bare or not any(name.startswith(prefix) for name in weights.specs) else self._headed

    @cached_property
    def _headed(self) -> Any:
        """A module that is called like the body, in which the body has its prefix and the head has places."""
        import torch

        body = self.module

        class Headed(torch.nn.Module):
            def forward(self, *args: Any, **kwargs: Any) -> Any:
                return body(*args, **kwargs)

        headed = Headed().eval()
        headed.add_module(body.base_model_prefix, body)
        for name, tensor in _head_of(body).items():
            *path, last = name.split(".")
            inner: torch.nn.Module = headed
            for part in path:
                if part not in dict(inner.named_children()):
                    inner.add_module(part, torch.nn.Module())
                inner = inner.get_submodule(part)
            dtype = body.dtype if tensor.is_floating_point() else tensor.dtype
            # not persistent: weights may leave a head out, such as one that is tied to the embedding
            inner.register_buffer(last, torch.empty(tensor.shape, dtype=dtype, device=self.device), persistent=False)
        return headed

    def _read(self, read: Any) -> Any:
        """What `read()` returns. Raises FormatError if transformers cannot open the folder."""
        problem = f"{self.folder} cannot be opened by transformers as {self.what}"
        if not self.folder.is_dir():  # transformers would look for such a name on the hub
            raise FormatError(f"{problem}: there is no such folder (paths are relative to the file of tasks)")
        try:
            return read()
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise FormatError(f"{problem}: {_first(error)}") from None


def _head_of(body: Any) -> "Mapping[str, torch.Tensor]":
    """The tensors that the class in the config (`architectures`) has beside the body, by name, on the meta device."""
    import torch

    transformers, head = _transformers(), dict[str, torch.Tensor]()
    for name in body.config.architectures or ():
        kind: Any = getattr(transformers, name, None)
        known = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
        if known and kind.base_model_prefix == body.base_model_prefix and not isinstance(body, kind):
            with torch.device("meta"):
                whole = kind(copy.deepcopy(body.config))
            head |= {n: t for n, t in whole.state_dict().items() if not n.startswith(f"{body.base_model_prefix}.")}
    return head


def _first(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _sees_all(config: Any) -> bool:
    """Whether this is the config of an encoder, of which transformers makes a causal class, too."""
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
    """The place of the highest logit in each row. logits: (rows, classes). Raises NonFiniteError for NaN and Inf, since
    the highest of a row with NaN could be any."""
    if spoiled := int((~logits.isfinite()).any(1).sum()):
        raise NonFiniteError(f"{name}: logits of {spoiled} of {len(logits)} examples are NaN or Inf")
    places: list[int] = logits.argmax(1).tolist()
    return places


def by_length(ids: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Batches of at most `size` places. Rows of like length are together, so that there is little padding."""
    order = sorted(range(len(ids)), key=lambda k: len(ids[k]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def padded(ids: Sequence[Sequence[int]], pad: int, device: str, left: bool = False) -> "dict[str, torch.Tensor]":
    """The arguments input_ids and attention_mask of a module, each (rows, longest). left: pad on the left."""
    import torch

    longest = max(map(len, ids))
    fill = [[pad] * (longest - len(row)) for row in ids]
    rows = [[*f, *row] if left else [*row, *f] for row, f in zip(ids, fill, strict=True)]
    ones = [[1] * len(row) for row in ids]
    masks = [[*[0] * len(f), *one] if left else [*one, *[0] * len(f)] for one, f in zip(ones, fill, strict=True)]
    return {
        "input_ids": torch.tensor(rows, device=device), "attention_mask": torch.tensor(masks, device=device)
    }  # fmt: skip
