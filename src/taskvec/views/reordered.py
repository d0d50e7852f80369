"""The view of a vocabulary in the order of another one: the row of each token stands at the id that the other
tokenizer gives it."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from taskvec.algebra.coefficients import Coefficient
from taskvec.algebra.derived import Parameter
from taskvec.algebra.weights import SHOWN, Weights
from taskvec.errors import MassError, MismatchError, RecipeError, SourceChanged
from taskvec.places.local import changed, stamps_of
from taskvec.sources.abilities import Composite, folder_of
from taskvec.sources.cost import Cost
from taskvec.views.rows import MEAN, ZERO, RowPlan, Rows
from taskvec.views.settings import Settings, with_entry
from taskvec.views.tokens import HIGHEST, Tokenizer, files_of, read
from taskvec.views.view import lifted, require_weights, texts, whole
from taskvec.views.vocabulary import vocabulary_tensors

# Where the row of a token comes from: the number of a model, 0 for zeros, or a row of a model by its id or token.
TokenSource = int | tuple[int, int | str]
DEFAULTS: Mapping[str, Any] = {
    "source": "union", "base": None, "tokens": None, "forced": None, "head": None, "embedding": None,
}  # fmt: skip


def align_vocab(
    m: Weights,
    *models: Weights,
    source: str | int | Coefficient = "union",
    base: int | Coefficient | None = None,
    tokens: "Mapping[str, TokenSource] | None" = None,
    forced: "Mapping[str, TokenSource] | None" = None,
    head: str | None = None,
    embedding: str | None = None,
) -> Weights:
    """The rows of m's embedding, of its head and of the head's bias, in the order of another vocabulary.

    >>> align_vocab(m, like)                                            # the tokens of `like`
    >>> 0.5 * align_vocab(a, a, b) + 0.5 * align_vocab(b, a, b)         # the union of the tokens of a and b

    1. The vocabulary is the union of the vocabularies of `models`: all tokens of the first with their ids, then the new
       tokens of each further model, in the order of their ids. With `base=k` the tokens of the k-th model come first.
       `source=k` takes the vocabulary of the k-th of `models` alone (the first is 1); the others then only lend rows.
    2. If m lacks the row of a token, it comes from the base, `base=k`, if the base has it; else from the only one of
       `models` that has it; else it is the mean of the rows of those that have it, in float64; else it is zero. This is
       also the rule of mergekit's `tokenizer: {source: union}`. If m is a task vector and `models` are models, rows
       that it lacks are zero, as they are in the difference of its two models after each is treated like this.
    3. Ids without a token (padding) have the rows of the model whose vocabulary is taken. They stay the last rows
       unless new tokens take their ids.

    tokens: says for single tokens where a row that m lacks comes from: {"<pad>": 0, "<eot>": 2, "<end>": (1, "</s>")}.
        0 is a row of zeros, k is the row of the k-th of `models` for that token, and (k, other) its row for another
        token, by text or by id. A token that the vocabulary does not have is added to it.
    forced: the same, also for rows that m has.

    Vocabularies are read from the files of the tokenizer beside the weights of each argument's first model
    (tokenizer.json, vocab.json or vocab.txt). A token whose id is beyond the rows has no row. A saved model gets the
    tokenizer that fits: the files of the one that is taken, or for a union a tokenizer.json that cuts text as the first
    one does and knows the tokens of the others. config.json gets the new `vocab_size`; config.json and
    generation_config.json get the new ids of the tokens that they name.

    Deviation: in mergekit plain tokens of the others become added tokens, which cut other words apart, and rows of
    padding are dropped. Raises FormatError for a vocabulary that cannot be read, MismatchError for tensors that do not
    fit together and for rows in `tokens` and `forced` that there are not.
    """
    args = require_weights("align_vocab", [m, *models])
    if len(args) < 2:
        raise RecipeError("align_vocab needs the model whose vocabulary is taken: align_vocab(m, like)")
    params: dict[str, Parameter] = {"source": "union", **texts("align_vocab", head=head, embedding=embedding)}
    for key, value in (("source", source), ("base", base)):
        if value is not None and value != "union":
            params[key] = number = whole("align_vocab", key, value, 1)
            if (number.constant or 0) > len(models):
                raise RecipeError(f"align_vocab: {key}={number}, and there are {len(models)} models after the first")
    for key, table in (("tokens", tokens), ("forced", forced)):
        if table:
            params[key] = {token: _source(key, token, value, len(models)) for token, value in table.items()}
    return lifted(Aligned("align_vocab", args, params, DEFAULTS))


def _source(key: str, token: str, value: Any, count: int) -> Parameter:
    """An entry of `tokens` or `forced` as a parameter: the number of a model, 0 for zero, or (number, token or id)."""
    entry = f"align_vocab: {key}[{token!r}]"
    if not isinstance(value, tuple | list):
        number = whole("align_vocab", f"{key}[{token!r}]", value, 0)
        if (number.constant or 0) > count:
            raise RecipeError(f"{entry} is {number}, and there are {count} models after the first")
        return number
    if len(value) != 2:
        raise RecipeError(f'{entry} is a model\'s number, or (number, "token") or (number, id): not {value}')
    model, row = value
    number = whole("align_vocab", f"{key}[{token!r}]", model, 1)
    if (number.constant or 0) > count:
        raise RecipeError(f"{entry} is of model {number}, and there are {count} after the first")
    return (number, row if isinstance(row, str) else whole("align_vocab", f"{key}[{token!r}]", row, 0))


class Aligned(Rows):
    """See `align_vocab`."""

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return align_vocab(*args, **params)  # type: ignore[arg-type]

    def __reduce__(self) -> Any:
        """The call, and its fingerprint, by which `_unpickled` notices if a tokenizer has changed meanwhile."""
        return _unpickled, (super().__reduce__()[1], "" if self.knobs else self.fingerprint)

    def check(self) -> None:
        """Raise an error for what the headers and the vocabularies show to be wrong."""
        masses = [a.kind() for a in self.args]
        if len(set(masses[1:])) > 1 or masses[0] > masses[1]:
            raise MassError(
                f"align_vocab works on models, on task vectors, or on a task vector and models: the masses are {masses}"
            )
        self.specs  # noqa: B018 - raises what does not fit

    @cached_property
    def rearranged(self) -> tuple[str, ...]:
        """The embedding, the head and the head's bias. All arguments must have them, and an argument must have the same
        number of rows in each. Raises MismatchError."""
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
        """The number of a model that `source` or `base` is, None if it is not a number."""
        value = self.params.get(key)
        return int(value.constant) if isinstance(value, Coefficient) and value.constant is not None else None

    @property
    def owner(self) -> int:
        """The number of the argument whose tokens keep their ids."""
        return self._number("source") or self._number("base") or 1

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that is written beside the weights."""
        owners = tokenizer_of(self.args[self.owner])
        extra = tuple(dict.fromkeys([*owners.extra, *self._sources("forced"), *self._sources("tokens")]))
        if self._number("source"):
            return Tokenizer(owners.folder, owners.others, extra)
        first = self.rearranged[0]
        others = (
            replace(tokenizer_of(a), rows=a.specs[first].shape[0])
            for k, a in enumerate(self.args)
            if k not in (0, self.owner)
        )
        return Tokenizer(owners.folder, tuple(dict.fromkeys([*owners.others, *others])), extra)

    def _sources(self, key: str) -> Mapping[str, Parameter]:
        """The table that `tokens` or `forced` is, {} if it is not given."""
        table = self.params.get(key)
        return table if isinstance(table, dict) else {}

    def _places(self, key: str, tables: list[Mapping[str, int]], rows: list[int]) -> dict[str, tuple[int, int]]:
        """The entries of `tokens` or `forced` as token -> (argument, row), or (ZERO, 0). Raises MismatchError.

        tables, rows: for each argument its tokens with their ids, and the number of its rows.
        """
        places, problems = {}, []
        for token, value in self._sources(key).items():
            model, row = value if isinstance(value, tuple) else (value, token)
            k = int(model.constant or 0) if isinstance(model, Coefficient) else 0
            number = tables[k].get(row, HIGHEST) if isinstance(row, str) else int(row.constant or 0)
            if k == 0:
                places[token] = (ZERO, 0)
            elif number < rows[k]:
                places[token] = (k, number)
            else:
                problems.append(
                    f"{token!r}: {self.args[k].text()} has no token {row if isinstance(row, str) else number}"
                )
        if problems:
            raise MismatchError(f"align_vocab: {key} names rows that there are not:", problems[:SHOWN])
        return places

    def plan(self, name: str) -> RowPlan:
        """See `Rows.plan`. It is the same for all tensors."""
        return self._plan

    @cached_property
    def _plan(self) -> RowPlan:
        rows = [a.specs[self.rearranged[0]].shape[0] for a in self.args]
        self._read = self._stamps()
        reader = cache(read)
        tables = [tokenizer_of(a).table(reader).ids for a in self.args]
        target, size = self.tokenizer.table(reader), rows[self.owner]
        if target.ids.keys() != tables[self.owner].keys():
            size = max(size, target.size)
        lent, forced = (self._places(key, tables, rows) for key in ("tokens", "forced"))
        if beyond := {token: n for token in lent | forced if (n := target.ids[token]) >= size}:
            raise MismatchError(
                f"align_vocab: these tokens have ids beyond the {size} rows of {self.args[self.owner].text()} "
                f"(resize_vocab gives it {max(beyond.values()) + 1}):",
                [f"{token!r} has the id {n}" for token, n in beyond.items()][:SHOWN],
            )
        if self.args[1].kind() > self.args[0].kind():  # models lend no rows to a task vector
            tables, rows = tables[:1], [rows[0], *(0 for _ in rows[1:])]
            lent, forced = (dict.fromkeys(places, (ZERO, 0)) for places in (lent, forced))
        return rows_in_order(target.ids, size, tables, rows, self.owner, self._number("base"), lent, forced)

    _read: Mapping[Path, object] | None = None  # the stamps of the tokenizers' files when the rows were put in order

    def _stamps(self) -> Mapping[Path, object]:
        """The stamps of the files of all tokenizers that are read."""
        tokenizers = [*(tokenizer_of(a) for a in self.args), self.tokenizer]
        folders = dict.fromkeys(t.folder for outer in tokenizers for t in (outer, *outer.others))
        return stamps_of(path for folder in folders for path in files_of(folder))

    def require_beside_unchanged(self) -> None:
        """Raise SourceChanged if the files of a tokenizer have changed since the rows were put in order."""
        now = self._stamps()
        if files := changed(now if self._read is None else self._read, now):
            raise SourceChanged(
                "tokenizers changed after they were compared; nothing was written, run the same command again:", files
            )

    @property
    def cost(self) -> Cost:
        """See `Rows.cost`. The vocabularies are added, which are compared and written: one as JSON, all as tables."""
        sizes = [tokenizer_of(a).nbytes for a in self.args]
        return super().cost + Cost(once=6 * max(sizes) + 2 * sum(sizes))

    @property
    def verbatim(self) -> bool:
        """False, since the fingerprint must cover the order of the rows, too."""
        return False

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE3 of the fingerprint of the call and of the order of the rows."""
        from blake3 import blake3

        state = blake3(super().fingerprint.encode())
        for plan in self.plans:
            assert isinstance(plan, RowPlan)
            state.update(plan.arg.tobytes() + plan.row.tobytes() + repr(plan.means).encode())
        return state.hexdigest()

    def configured(self, settings: Settings) -> Settings:
        """config.json with the new `vocab_size`."""
        return with_entry(settings, "vocab_size", len(self._plan.arg)) if self.rearranged else settings


def _unpickled(call: Any, fingerprint: str) -> Aligned:
    """The view that was pickled. Raises SourceChanged if its rows would have another order now."""
    view = Aligned(*call)
    if fingerprint and view.fingerprint != fingerprint:
        raise SourceChanged(f"{view.text}: its tokenizers are not what they were when it was pickled")
    return view


def tokenizer_of(weights: Weights) -> Tokenizer:
    """The tokenizer of an expression's first model, or the one that a view in the expression made. Raises RecipeError
    if there is no folder with a tokenizer."""
    source = weights.donor
    made = source.tokenizer if isinstance(source, Composite) else None
    folder = folder_of(source)
    if isinstance(made, Tokenizer):
        return made
    if folder is None:
        raise RecipeError(f"align_vocab: {weights.text()} has no folder with a tokenizer")
    return Tokenizer(folder)


def rows_in_order(
    target: Mapping[str, int],
    size: int,
    ids: list[Mapping[str, int]],
    rows: list[int],
    owner: int,
    base: int | None,
    lent: Mapping[str, tuple[int, int]],
    forced: Mapping[str, tuple[int, int]],
) -> RowPlan:
    """Where each of `size` rows comes from, by the rules in `align_vocab`.

    target: the vocabulary of the output, token -> id. ids, rows: for each argument its vocabulary, and the number of
    its rows. owner: the argument whose vocabulary is taken. base: the argument that lends rows before others do.
    lent, forced: `tokens` and `forced`, as token -> (argument, row).
    """
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
        elif known in forced:
            owners = [forced[known]]
        elif (n := ids[0].get(known, HIGHEST)) < rows[0]:
            owners = [(0, n)]
        elif known in lent:
            owners = [lent[known]]
        else:
            owners = [(k, n) for k, table in enumerate(ids) if (n := table.get(known, HIGHEST)) < rows[k]]
            owners = [o for o in owners if o[0] == base] or owners
        if len(owners) == 1:
            arg[place], row[place] = owners[0]
        elif owners:
            arg[place], row[place] = MEAN, len(means)
            means.append(tuple(owners))
    return RowPlan(arg, row, tuple(means))
