"""One live module of transformers that takes on any weights: what candidates are judged in (the `eval` extra).

An encoder is the body of a model, as AutoModel reads it. Checkpoints of models with a head (BertForMaskedLM,
LlamaForCausalLM) have the body's tensors behind a prefix, `bert.` or `model.`, and the head's beside them. Weights with
such names are set into a module in which the body bears that prefix, with room for the head, which nothing calls.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskvec.errors import FormatError, MissingExtra
from taskvec.live import load_into
from taskvec.weights import Weights

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
            raise FormatError(f"{self.folder} has no weights for a {self.kind}'s:", sorted(missing))
        return found.to(self.device).eval()

    @cached_property
    def tokenizer(self) -> Any:
        """Pads on the right, with the end of text where it has no padding of its own."""
        found = self._read(lambda: _transformers().AutoTokenizer.from_pretrained(self.folder, **LOCAL))
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
        try:
            return read()
        except (OSError, ValueError, KeyError, ImportError) as error:
            first = str(error).strip().splitlines()[0]
            raise FormatError(f"{self.folder} cannot be opened by transformers as a {self.kind}: {first}") from None


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
