"""Views of vocabularies: the rows of embedding and head cut, padded, or in the order of another tokenizer."""

from collections.abc import Mapping
from functools import cache, cached_property
from typing import Any

from taskvec.coefficients import Coefficient
from taskvec.derived import Parameter
from taskvec.errors import MassError, MismatchError, RecipeError
from taskvec.places import BIASES, HEADS, by_token
from taskvec.source import Source
from taskvec.views.rows import ALL, MEAN, ZERO, RowPlan, Rows
from taskvec.views.settings import Settings, with_entry
from taskvec.views.tokens import HIGHEST, Tokenizer, read
from taskvec.views.view import lifted, require_weights, texts, whole
from taskvec.weights import SHOWN, Weights

FILLS = ("zero", "mean")


def vocabulary_tensors(call: str, weights: Weights, params: Mapping[str, Parameter]) -> tuple[str, ...]:
    """The tensors with a row for each token: as `params` names head and embedding, else as the tables above do."""
    head, embedding, specs = params.get("head"), params.get("embedding"), weights.specs
    named = [str(name) for name in (embedding, head) if name]
    if lacking := [name for name in named if name not in specs]:
        raise RecipeError(f"{call}: {weights.text()} has no tensor {', '.join(lacking)}")
    heads = (str(head), str(head).removesuffix("weight") + "bias") if head else (*HEADS, *BIASES)
    found = [
        name
        for name in specs
        if name in heads or (name == embedding if embedding else by_token(name) and name not in (*HEADS, *BIASES))
    ]
    if not found and not all(s.partial for s in weights.summed):
        raise RecipeError(
            f"{call}: no tensor of {weights.text()} is known to be an embedding or a head: name them, "
            'embedding="...", head="..."'
        )
    if wrong := [f"{n} is {specs[n]}" for n in found if not (specs[n].arithmetic and specs[n].shape)]:
        raise MismatchError(f"{call} needs rows of floating point:", wrong)
    return tuple(found)


# ---- another size --------------------------------------------------------------------------------
def resize_vocab(
    m: Weights,
    size: int | Coefficient,
    *,
    fill: str = "zero",
    head: str | None = None,
    embedding: str | None = None,
) -> Weights:
    """The rows of embedding, head and the head's bias cut or padded to `size`.

    >>> resize_vocab(m, 32064)
    >>> resize_vocab(m, 32064, fill="mean")

    New rows are zero, or with `fill="mean"` the mean of the rows that there were (in float64, in their order), which
    keeps the other tokens' probabilities nearly as they were (Hewitt, 2021, "Initializing new word embeddings"). The
    tensors are those of no layer whose names are in EMBEDDINGS, HEADS or BIASES, or those that are named. config.json
    gets the new `vocab_size`; the tokenizer's files stay as they are. Raises RecipeError for a size below 1 and where
    no such tensor is known.
    """
    (m,) = require_weights("resize_vocab", [m])
    return _resized("resize_vocab", m, {"size": whole("resize_vocab", "size", size, 1)}, fill, head, embedding)


def pad_vocab(
    m: Weights,
    multiple: int | Coefficient,
    *,
    fill: str = "zero",
    head: str | None = None,
    embedding: str | None = None,
) -> Weights:
    """The rows of embedding, head and the head's bias padded to a multiple: `pad_vocab(m, 64)`. See `resize_vocab`."""
    (m,) = require_weights("pad_vocab", [m])
    return _resized("pad_vocab", m, {"multiple": whole("pad_vocab", "multiple", multiple, 1)}, fill, head, embedding)


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
        self._plans: dict[int, RowPlan] = {}

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return (resize_vocab if self.name == "resize_vocab" else pad_vocab)(*args, **params)  # type: ignore[arg-type]

    @cached_property
    def rearranged(self) -> tuple[str, ...]:
        """Embedding, head and its bias."""
        return vocabulary_tensors(self.name, self.args[0], self.params)

    @cached_property
    def size(self) -> int:
        """Rows of the result."""
        (number,) = (
            v.constant for k, v in self.params.items() if k in ("size", "multiple") and isinstance(v, Coefficient)
        )
        assert number is not None
        if "size" in self.params:
            return int(number)
        return -(-max((self.args[0].specs[n].shape[0] for n in self.rearranged), default=0) // int(number)) * int(
            number
        )

    def plan(self, name: str) -> RowPlan:
        """The rows that there were, as far as they go."""
        import numpy as np

        rows = self.args[0].specs[name].shape[0]
        if rows not in self._plans:
            row = np.arange(self.size, dtype=np.int32)
            fill = ALL if self.own_passes else ZERO
            self._plans[rows] = RowPlan(np.where(row < rows, 0, fill).astype(np.int32), row)
        return self._plans[rows]

    def configured(self, settings: Settings) -> Settings:
        """Another size."""
        return with_entry(settings, "vocab_size", self.size) if self.rearranged else settings


# ---- another tokenizer ---------------------------------------------------------------------------
def align_vocab(
    m: Weights,
    *models: Weights,
    source: str | int | Coefficient = "union",
    base: int | Coefficient | None = None,
    head: str | None = None,
    embedding: str | None = None,
) -> Weights:
    """The rows of m's embedding, head and the head's bias in the order of another vocabulary.

    >>> align_vocab(m, like)                                            # like's tokens
    >>> 0.5 * align_vocab(a, a, b) + 0.5 * align_vocab(b, a, b)         # the union of a's tokens and b's

    The vocabulary is the union of those of `models`: all tokens of the first with their ids, then of each other one the
    tokens that are new, in the order of their ids. `source=k` takes that of the k-th of `models` alone (1 is the
    first); the others only lend rows. A row that m lacks is that of the base, `base=k`, if it has it; else of the only
    one of `models` that has it; else the mean of those that have it, in float64; else zero. The same rule as mergekit's
    `tokenizer: {source: union}` and its kind. Ids without a token (padding) have the rows of the model whose vocabulary
    it is, and stay its last rows unless new tokens take them. With `base` in a union, its tokens come first.
    A task vector may be arranged by models: then rows that it lacks are zero, as they are in the difference of what
    its two models become.

    Vocabularies are read from the tokenizers' files beside the weights of each argument's first model (tokenizer.json,
    vocab.json or vocab.txt); a token whose id is beyond the rows has none. A saved model gets the tokenizer that fits:
    the files of the one that was taken, and for a union a tokenizer.json in which the first cuts text as before and
    knows the others' tokens. config.json gets the new `vocab_size`, and it and generation_config.json the new ids of
    tokens that they name. Deviation from mergekit: there plain tokens of the others are added tokens, which cut other
    words apart, and rows of padding are dropped. Raises FormatError for a vocabulary that cannot be read,
    MismatchError for tensors that do not fit.
    """
    args = require_weights("align_vocab", [m, *models])
    if len(args) < 2:
        raise RecipeError("align_vocab needs the model whose vocabulary it is: align_vocab(m, like)")
    params: dict[str, Parameter] = {"source": "union", **texts("align_vocab", head=head, embedding=embedding)}
    for key, value in (("source", source), ("base", base)):
        if value is not None and value != "union":
            params[key] = number = whole("align_vocab", key, value, 1)
            if (number.constant or 0) > len(models):
                raise RecipeError(f"align_vocab: {key}={number}, and there are {len(models)} models after the first")
    return lifted(
        Aligned("align_vocab", args, params, {"source": "union", "base": None, "head": None, "embedding": None})
    )


class Aligned(Rows):
    """See `align_vocab`."""

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return align_vocab(*args, **params)  # type: ignore[arg-type]

    def check(self) -> None:
        """Raise what the headers and the vocabularies can tell."""
        masses = [a.kind() for a in self.args]
        if len(set(masses[1:])) > 1 or masses[0] > masses[1]:
            raise MassError(
                f"align_vocab works on models, on task vectors, or on a task vector and models: the masses are {masses}"
            )
        self.specs  # noqa: B018 - raises what does not fit

    @cached_property
    def rearranged(self) -> tuple[str, ...]:
        """Embedding, head and its bias, which all arguments must have, with one number of rows each."""
        names, first = vocabulary_tensors("align_vocab", self.args[0], self.params), self.args[0]
        problems = []
        for a in self.args[1:]:
            for n in names:
                if n not in a.specs:
                    problems.append(f"{n} is in {first.text()}, not in {a.text()} (tie or untie one of them)")
                elif a.specs[n].shape[1:] != first.specs[n].shape[1:]:
                    problems.append(
                        f"rows of {n} are {list(a.specs[n].shape[1:])} in {a.text()}, "
                        f"{list(first.specs[n].shape[1:])} in {first.text()}"
                    )
        for a in dict.fromkeys(self.args):
            rows = {n: a.specs[n].shape[0] for n in names if n in a.specs}
            if len(set(rows.values())) > 1:
                listed = ", ".join(f"{count} in {n}" for n, count in rows.items())
                problems.append(f"{a.text()} has several numbers of rows, {listed} (resize_vocab makes them alike)")
        if problems:
            raise MismatchError("align_vocab: these vocabularies do not fit together:", problems[:SHOWN])
        return names

    def _number(self, key: str) -> int | None:
        found = self.params.get(key)
        return int(found.constant) if isinstance(found, Coefficient) and found.constant is not None else None

    @property
    def owner(self) -> int:
        """The argument whose tokens keep their ids."""
        return self._number("source") or self._number("base") or 1

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What is written beside the weights."""
        found = tokenizer_of(self.args[self.owner])
        if self._number("source"):
            return found
        others = (tokenizer_of(a) for k, a in enumerate(self.args) if k not in (0, self.owner))
        return Tokenizer(found.folder, tuple(dict.fromkeys([*found.others, *others])))

    def plan(self, name: str) -> RowPlan:
        """The same for all."""
        return self._plan

    @cached_property
    def _plan(self) -> RowPlan:
        rows = [a.specs[self.rearranged[0]].shape[0] for a in self.args]
        reader = cache(read)
        tables = [tokenizer_of(a).table(reader).ids for a in self.args]
        target, size = self.tokenizer.table(reader), rows[self.owner]
        if target.ids.keys() != tables[self.owner].keys():
            size = max(size, target.size)
        if self.args[1].kind() > self.args[0].kind():  # models, that lend no rows to a task vector
            tables, rows = tables[:1], [rows[0], *(0 for _ in rows[1:])]
        return rows_in_order(target.ids, size, tables, rows, self.owner, self._number("base"))

    @property
    def resident(self) -> int:
        """With the vocabularies while they are compared and written: one as JSON, all as tables."""
        sizes = [tokenizer_of(a).nbytes for a in self.args]
        return super().resident + 6 * max(sizes) + 2 * sum(sizes)

    @property
    def verbatim(self) -> bool:
        """False: the files of the tokenizers count too."""
        return False

    @cached_property
    def fingerprint(self) -> str:
        """That of the call and of the order of the rows."""
        from blake3 import blake3

        state = blake3(super().fingerprint.encode())
        for plan in self.plans:
            state.update(plan.arg.tobytes() + plan.row.tobytes() + repr(plan.means).encode())
        return state.hexdigest()

    def configured(self, settings: Settings) -> Settings:
        """Another size."""
        return with_entry(settings, "vocab_size", len(self._plan.arg)) if self.rearranged else settings


def tokenizer_of(weights: Weights) -> Tokenizer:
    """That of an expression's first model, as a view within it may have made it. Raises FormatError."""
    source: Source | None = weights.donor
    made = getattr(source, "tokenizer", None)
    folder = getattr(source, "folder", None)
    if isinstance(made, Tokenizer):
        return made
    if folder is None:
        raise RecipeError(f"align_vocab: {weights.text()} has no folder with a tokenizer")
    return Tokenizer(folder)


def rows_in_order(
    target: Mapping[str, int], size: int, ids: list[Mapping[str, int]], rows: list[int], owner: int, base: int | None
) -> RowPlan:
    """Where each of `size` rows comes from. ids, rows: the tokens of each argument, and how many rows it has."""
    import numpy as np

    token_at: list[str | None] = [None] * size
    for token, number in target.items():
        if number < size:
            token_at[number] = token
    arg, row = np.full(size, ZERO, np.int32), np.zeros(size, np.int32)
    means: list[tuple[tuple[int, int], ...]] = []
    for place, known in enumerate(token_at):
        if known is None:
            owners = [(owner, place)] if place < rows[owner] else []
        elif (n := ids[0].get(known, HIGHEST)) < rows[0]:
            owners = [(0, n)]
        else:
            owners = [(k, n) for k, table in enumerate(ids) if (n := table.get(known, HIGHEST)) < rows[k]]
            owners = [o for o in owners if o[0] == base] or owners
        if len(owners) == 1:
            arg[place], row[place] = owners[0]
        elif owners:
            arg[place], row[place] = MEAN, len(means)
            means.append(tuple(owners))
    return RowPlan(arg, row, tuple(means))


FUNCTIONS = (resize_vocab, pad_vocab, align_vocab)
