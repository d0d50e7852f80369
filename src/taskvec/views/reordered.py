"""The view of a vocabulary in the order of another: each token's row at the id that another tokenizer gives it."""

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
from taskvec.views.rows import MEAN, ZERO, RowPlan, Rows
from taskvec.views.settings import Settings, with_entry
from taskvec.views.tokens import HIGHEST, Tokenizer, files_of, read
from taskvec.views.view import lifted, require_weights, texts, whole
from taskvec.views.vocabulary import vocabulary_tensors

TokenSource = int | tuple[int, int | str]  # the number of a model, 0 for zero; or a row of one, by id or by token
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
    """The rows of m's embedding, head and the head's bias in the order of another vocabulary.

    >>> align_vocab(m, like)                                            # like's tokens
    >>> 0.5 * align_vocab(a, a, b) + 0.5 * align_vocab(b, a, b)         # the union of a's tokens and b's

    The vocabulary is the union of those of `models`: all tokens of the first with their ids, then of each other one the
    tokens that are new, in the order of their ids. `source=k` takes that of the k-th of `models` alone (1 is the
    first); the others only lend rows. A row that m lacks is that of the base, `base=k`, if it has it; else of the only
    one of `models` that has it; else the mean of those that have it, in float64; else zero. The same rule as mergekit's
    `tokenizer: {source: union}` and its kind. Ids without a token (padding) have the rows of the model whose vocabulary
    it is, and stay its last rows unless new tokens take them. With `base` in a union, its tokens come first.
    `tokens={"<pad>": 0, "<eot>": 2, "<end>": (1, "</s>")}` says for single tokens where a row that m lacks is from:
    zero, the row of the k-th of `models` for that token, or for another one, named by text or by id. `forced` says the
    same for rows that m has, too. A token that the vocabulary does not have is added to it.
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
    for key, table in (("tokens", tokens), ("forced", forced)):
        if table:
            params[key] = {token: _source(key, token, value, len(models)) for token, value in table.items()}
    return lifted(Aligned("align_vocab", args, params, DEFAULTS))


def _source(key: str, token: str, value: Any, count: int) -> Parameter:
    """The number of a model, 0 for zero, or (the number, a token or an id)."""
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
        """With the fingerprint, which covers the order of the rows: tokenizers may have changed meanwhile."""
        return _again, (super().__reduce__()[1], "" if self.knobs else self.fingerprint)

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
        extra = tuple(dict.fromkeys([*found.extra, *self._sources("forced"), *self._sources("tokens")]))
        if self._number("source"):
            return Tokenizer(found.folder, found.others, extra)
        first = self.rearranged[0]
        others = (
            replace(tokenizer_of(a), rows=a.specs[first].shape[0])
            for k, a in enumerate(self.args)
            if k not in (0, self.owner)
        )
        return Tokenizer(found.folder, tuple(dict.fromkeys([*found.others, *others])), extra)

    def _sources(self, key: str) -> Mapping[str, Parameter]:
        found = self.params.get(key)
        return found if isinstance(found, dict) else {}

    def _named(self, key: str, tables: list[Mapping[str, int]], rows: list[int]) -> dict[str, tuple[int, int]]:
        """Token -> (argument, row), (ZERO, 0) for zero, of the entries of `tokens` or `forced`."""
        found, problems = {}, []
        for token, value in self._sources(key).items():
            model, row = value if isinstance(value, tuple) else (value, token)
            k = int(model.constant or 0) if isinstance(model, Coefficient) else 0
            number = tables[k].get(row, HIGHEST) if isinstance(row, str) else int(row.constant or 0)
            if k == 0:
                found[token] = (ZERO, 0)
            elif number < rows[k]:
                found[token] = (k, number)
            else:
                problems.append(
                    f"{token!r}: {self.args[k].text()} has no token {row if isinstance(row, str) else number}"
                )
        if problems:
            raise MismatchError(f"align_vocab: {key} names rows that there are not:", problems[:SHOWN])
        return found

    def plan(self, name: str) -> RowPlan:
        """The same for all."""
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
        if self.args[1].kind() > self.args[0].kind():  # models, that lend no rows to a task vector
            tables, rows = tables[:1], [rows[0], *(0 for _ in rows[1:])]
        given = [self._named(key, tables, rows) for key in ("tokens", "forced")]
        return rows_in_order(target.ids, size, tables, rows, self.owner, self._number("base"), *given)

    _read: Mapping[Path, object] | None = None  # the stamps of the tokenizers, when the rows were put in order

    def _stamps(self) -> Mapping[Path, object]:
        """Of the files of every tokenizer that counts."""
        found = [*(tokenizer_of(a) for a in self.args), self.tokenizer]
        folders = dict.fromkeys(t.folder for one in found for t in (one, *one.others))
        return stamps_of(path for folder in folders for path in files_of(folder))

    def require_beside_unchanged(self) -> None:
        """Raise SourceChanged if a tokenizer is another than the one by which the rows were put in order."""
        now = self._stamps()
        if astray := changed(now if self._read is None else self._read, now):
            raise SourceChanged(
                "tokenizers changed after they were compared; nothing was written, run the same command again:", astray
            )

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
            assert isinstance(plan, RowPlan)
            state.update(plan.arg.tobytes() + plan.row.tobytes() + repr(plan.means).encode())
        return state.hexdigest()

    def configured(self, settings: Settings) -> Settings:
        """Another size."""
        return with_entry(settings, "vocab_size", len(self._plan.arg)) if self.rearranged else settings


def _again(given: Any, fingerprint: str) -> Aligned:
    """What was pickled. Raises SourceChanged for tokenizers by which the rows have another order now."""
    found = Aligned(*given)
    if fingerprint and found.fingerprint != fingerprint:
        raise SourceChanged(f"{found.text}: its tokenizers are not what they were when it was pickled")
    return found


def tokenizer_of(weights: Weights) -> Tokenizer:
    """That of an expression's first model, as a view within it may have made it. Raises FormatError."""
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
