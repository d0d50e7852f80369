"""Views of vocabularies with another number of rows: embedding and head are cut or padded."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from taskvec.algebra.coefficients import Coefficient
from taskvec.algebra.derived import Parameter
from taskvec.algebra.weights import Weights
from taskvec.errors import MismatchError, RecipeError
from taskvec.sources.positions import BIASES, HEADS, by_token
from taskvec.views.rows import ALL, ZERO, Padding, Rows
from taskvec.views.settings import Settings, with_entry
from taskvec.views.view import lifted, require_weights, texts, whole

FILLS = ("zero", "mean")
MOST_ROWS = (1 << 31) - 1


def vocabulary_tensors(call: str, weights: Weights, params: Mapping[str, Parameter]) -> tuple[str, ...]:
    """The tensors with a row for each token: embedding, head and the head's bias, in the order of the tensors.

    `params` may name `head` and `embedding`; otherwise they are known by their names (sources/positions.py). Raises
    RecipeError if there are none, except in a LoRA, and MismatchError for tensors without rows of floating point.
    """
    head, embedding, specs = params.get("head"), params.get("embedding"), weights.specs
    named = [str(name) for name in (embedding, head) if name]
    if lacking := [name for name in named if name not in specs]:
        raise RecipeError(f"{call}: {weights.text()} has no tensor {', '.join(lacking)}")
    heads = (str(head), str(head).removesuffix("weight") + "bias") if head else (*HEADS, *BIASES)
    rows = [
        name
        for name in specs
        if name in heads or (name == embedding if embedding else by_token(name) and name not in (*HEADS, *BIASES))
    ]
    if not rows and not all(s.partial for s in weights.summed):
        raise RecipeError(
            f"{call}: no tensor of {weights.text()} is known to be an embedding or a head: name them, "
            'embedding="...", head="..."'
        )
    if wrong := [f"{n} is {specs[n]}" for n in rows if not (specs[n].arithmetic and specs[n].shape)]:
        raise MismatchError(f"{call} needs rows of floating point:", wrong)
    return tuple(rows)


# ---- another size --------------------------------------------------------------------------------
def resize_vocab(
    m: Weights,
    size: int | Coefficient,
    *,
    fill: str = "zero",
    head: str | None = None,
    embedding: str | None = None,
) -> Weights:
    """The rows of the embedding, the head and the head's bias, cut or padded to `size` rows.

    >>> resize_vocab(m, 32064)
    >>> resize_vocab(m, 32064, fill="mean")

    fill: new rows are "zero", or the "mean" of the old rows (in float64, in their order), which keeps the probabilities
        of the other tokens nearly as they were (Hewitt, 2021, "Initializing new word embeddings").
    head, embedding: names of the tensors. Without them they are the tensors outside the layers whose names are in
        EMBEDDINGS, HEADS or BIASES (sources/positions.py).

    config.json gets the new `vocab_size`; the files of the tokenizer stay as they are. Raises RecipeError for a size
    below 1, and if no such tensor is known.
    """
    (m,) = require_weights("resize_vocab", [m])
    return _resized(
        "resize_vocab", m, {"size": whole("resize_vocab", "size", size, 1, MOST_ROWS)}, fill, head, embedding
    )


def pad_vocab(
    m: Weights,
    multiple: int | Coefficient,
    *,
    fill: str = "zero",
    head: str | None = None,
    embedding: str | None = None,
) -> Weights:
    """`resize_vocab` to the next multiple of a number that is not below the present number of rows.

    >>> pad_vocab(m, 64)
    """
    (m,) = require_weights("pad_vocab", [m])
    return _resized(
        "pad_vocab", m, {"multiple": whole("pad_vocab", "multiple", multiple, 1, MOST_ROWS)}, fill, head, embedding
    )


def _resized(
    call: str, m: Weights, given: dict[str, Coefficient], fill: str, head: str | None, embedding: str | None
) -> Weights:
    if fill not in FILLS:
        raise RecipeError(f"{call}: fill is one of {', '.join(FILLS)}, not {fill!r}")
    params: dict[str, Parameter] = {**given, "fill": fill, **texts(call, head=head, embedding=embedding)}
    return lifted(Resized(call, (m,), params, {"fill": "zero", "head": None, "embedding": None}))


class Resized(Rows):
    """See `resize_vocab` and `pad_vocab`."""

    def __init__(self, *call: Any):
        super().__init__(*call)
        self.own_passes = int(self.params["fill"] == "mean")
        self._plans: dict[int, Padding] = {}

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return (resize_vocab if self.name == "resize_vocab" else pad_vocab)(*args, **params)  # type: ignore[arg-type]

    @cached_property
    def rearranged(self) -> tuple[str, ...]:
        """The embedding, the head and the head's bias."""
        return vocabulary_tensors(self.name, self.args[0], self.params)

    @cached_property
    def size(self) -> int:
        """The number of rows of the result."""
        key = "size" if "size" in self.params else "multiple"
        parameter = self.params[key]
        assert isinstance(parameter, Coefficient) and parameter.constant is not None
        number = int(parameter.constant)
        most = max((self.args[0].specs[n].shape[0] for n in self.rearranged), default=0)
        return number if key == "size" else -(-most // number) * number

    def plan(self, name: str) -> Padding:
        """The old rows, and then zeros or their mean."""
        rows = self.args[0].specs[name].shape[0]
        return self._plans.setdefault(rows, Padding(rows, self.size, ALL if self.own_passes else ZERO))

    def configured(self, settings: Settings) -> Settings:
        """config.json with the new `vocab_size`."""
        return with_entry(settings, "vocab_size", self.size) if self.rearranged else settings
