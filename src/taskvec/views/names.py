"""Views of names: the same tensors under other names, and a head equal to the embedding, stored once or twice."""

import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from taskvec.algebra.derived import Names, Parameter
from taskvec.algebra.hints import fits, replaced
from taskvec.algebra.idle_patterns import nearest
from taskvec.algebra.weights import Weights
from taskvec.errors import MismatchError, RecipeError
from taskvec.sources.positions import TIED
from taskvec.sources.source import Source
from taskvec.sources.text import quoted
from taskvec.views.settings import Settings, with_entry
from taskvec.views.view import VIEW_TILE, View, lifted, require_weights, summed, texts, without_collisions


# ---- rename --------------------------------------------------------------------------------------
def rename(m: Weights, table: Mapping[str, str]) -> Weights:
    """The same tensors under other names.

    >>> rename(m, {"transformer.h.*": "model.layers.*", "old.weight": "new.weight"})

    table: {pattern: new name}. The first pattern that fits the whole name counts. A pattern may have one `*`, which
        stands for any text. The `*` in the new name stands for that text.

    Tensors that no pattern fits keep their names, and config.json stays as it is. Raises RecipeError for a pattern that
    renames nothing (except in a LoRA, which names only some tensors), and MismatchError if two tensors would have one
    name.
    """
    (m,) = require_weights("rename", [m])
    if not isinstance(table, Mapping) or not table:
        raise RecipeError('rename needs a table: rename(m, {"old.*": "new.*"})')
    for old, new in table.items():
        if not (isinstance(old, str) and isinstance(new, str) and old and new):
            raise RecipeError(f"rename: names are texts, not {old!r}: {new!r}")
        if old.count("*") > 1 or old.count("*") != new.count("*"):
            raise RecipeError(f"rename: {quoted(old)}: {quoted(new)} must have one * each, or none")
        if new == "__metadata__":
            raise RecipeError("rename: __metadata__ cannot be the name of a tensor in a safetensors file")
    return lifted(Rename("rename", (m,), dict(table), {}))


class Rename(View):
    """See `rename`. Its parameters are the table."""

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return rename(args[0], {old: str(new) for old, new in params.items()})

    def same(self) -> tuple[Any, ...]:
        """What two equal calls share. The order of the table counts, since the first pattern that fits does."""
        return self.name, self.args, tuple(self.params.items())

    def written(self, names: Mapping[Source, str]) -> str:
        """The call as a recipe writes it."""
        table = ", ".join(f"{quoted(old)}: {quoted(str(new))}" for old, new in self.params.items())
        return f"rename({self.args[0].text(names)}, {{{table}}})"

    @cached_property
    def tensors(self) -> Mapping[str, tuple[int, str]]:
        """Every tensor under its new name."""
        table = {old: str(new) for old, new in self.params.items()}
        patterns = {name: next((old for old in table if fits(old, name)), None) for name in self.args[0].specs}
        if (idle := [old for old in table if old not in patterns.values()]) and not self.partial:
            listed, near = ", ".join(map(quoted, idle)), nearest(idle[0], patterns)
            raise RecipeError(f"rename: no tensor of {self.args[0].text()} is renamed by {listed}{near}")
        return without_collisions(
            "rename", ((replaced(old, table[old], n) if old else n, (0, n)) for n, old in patterns.items())
        )


# ---- tie, untie ----------------------------------------------------------------------------------
def untie(m: Weights, *, head: str | None = None, embedding: str | None = None) -> Weights:
    """A model with a head of its own, which is a copy of the input embedding.

    >>> untie(m)
    >>> untie(m, head="lm_head.weight", embedding="model.embed_tokens.weight")

    head, embedding: names of the tensors. Without them they are looked up in the table TIED (sources/positions.py).

    config.json gets `tie_word_embeddings: false`. Raises RecipeError if there is no such embedding, more than one, or a
    head already. A LoRA that does not change the embedding stays as it is.
    """
    (m,) = require_weights("untie", [m])
    return lifted(Untie("untie", (m,), dict(texts("untie", head=head, embedding=embedding)), _NAMES))


def tie(m: Weights, *, head: str | None = None, embedding: str | None = None) -> Weights:
    """A model without its head, which must be equal to the input embedding: the opposite of `untie`.

    head, embedding: as in `untie`.

    config.json gets `tie_word_embeddings: true`. The values are compared in a pass over the data before the one that
    writes, and MismatchError is raised if they differ. Raises RecipeError if there is no head.
    """
    (m,) = require_weights("tie", [m])
    return lifted(Tie("tie", (m,), dict(texts("tie", head=head, embedding=embedding)), _NAMES))


_NAMES = {"head": None, "embedding": None}


class Pair(View):
    """What `tie` and `untie` share: the names of head and embedding."""

    def pair(self, with_head: bool) -> tuple[str, str] | None:
        """The names (head, embedding): those given, or the pair of TIED whose embedding the model has, and whose head
        it has, too, if `with_head`. None for a LoRA without such tensors. Raises RecipeError if there is not one."""
        specs, head, embedding = self.args[0].specs, self.params.get("head"), self.params.get("embedding")
        if isinstance(head, str) and isinstance(embedding, str):
            pairs = [(head, embedding)]
        else:
            pairs = [(h, e) for h, group in TIED.items() for e in group if head in (None, h) and embedding in (None, e)]
            if not pairs:
                raise RecipeError(f"{self.name}: a name that is in no table needs the other: head=..., embedding=...")
        shown = [(h, e) for h, e in pairs if e in specs and (h in specs or not with_head)]
        if len(shown) == 1:
            return shown[0]
        if not shown and self.partial:
            return None
        listed = [f'head="{h}", embedding="{e}"' for h, e in shown or pairs]
        what = "a head and its embedding" if with_head else "an embedding"
        reason = "has none of" if not shown else "has several of"
        raise RecipeError(
            f"{self.name} needs {what}, and {self.args[0].text()} {reason} these (name them): {'; '.join(listed)}"
        )


class Untie(Pair):
    """See `untie`."""

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return untie(*args, **params)  # type: ignore[arg-type]

    @cached_property
    def tensors(self) -> Mapping[str, tuple[int, str]]:
        """All tensors, and the embedding once more as the head."""
        places = {name: (0, name) for name in self.args[0].specs}
        if pair := self.pair(with_head=False):
            if pair[0] in places:
                raise RecipeError(f"untie: {self.args[0].text()} has a head already, {pair[0]}")
            places[pair[0]] = (0, pair[1])
        return places

    def configured(self, settings: Settings) -> Settings:
        """No longer tied."""
        return with_entry(settings.changed({"tie_word_embeddings": False}), "tie_word_embeddings", False)


class Tie(Pair):
    """See `tie`."""

    def __init__(self, *call: Any):
        super().__init__(*call)
        self._lock = threading.Lock()
        self._compared = False

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return tie(*args, **params)  # type: ignore[arg-type]

    @cached_property
    def tensors(self) -> Mapping[str, tuple[int, str]]:
        """All tensors except the head."""
        specs, pair = self.args[0].specs, self.pair(with_head=True)
        if pair and specs[pair[0]] != specs[pair[1]]:
            raise MismatchError(
                "tie needs a head that is the embedding:", [f"{name} is {specs[name]}" for name in pair]
            )
        return {name: (0, name) for name in specs if not pair or name != pair[0]}

    def configured(self, settings: Settings) -> Settings:
        """Tied."""
        return with_entry(settings.changed({"tie_word_embeddings": True}), "tie_word_embeddings", True)

    @property
    def unmeasured(self) -> int:
        """Elements that `prepare` has still to read."""
        pair = None if self._compared else self.pair(with_head=True)
        return super().unmeasured + (self.args[0].specs[pair[0]].numel if pair else 0)

    def prepare(
        self, threads: int, progress: Callable[[int], None] = lambda size: None, names: Names | None = None
    ) -> None:
        """Compare head and embedding, the first time that it is called. Raises MismatchError if they differ."""
        super().prepare(threads, progress, names)
        with self._lock:
            if not self._compared and (pair := self.pair(with_head=True)):
                self._compare(*pair, progress)
            self._compared = True

    def _compare(self, head: str, embedding: str, progress: Callable[[int], None]) -> None:
        weights = self.args[0]
        terms, spec = [weights.linear(name) for name in (head, embedding)], self._spec(0, head)
        if terms[0] == terms[1]:
            progress(spec.numel)
            return
        width = 8 if spec.dtype == "F64" else 4
        both = [memoryview(bytearray(VIEW_TILE * width)) for _ in terms]
        for start in range(0, spec.numel, VIEW_TILE):
            count = min(VIEW_TILE, spec.numel - start)
            for out, of in zip(both, terms, strict=True):
                summed(of, start, spec.dtype, out[: count * width])
            if both[0][: count * width] != both[1][: count * width]:
                raise MismatchError(
                    f"tie: {head} is not equal to {embedding} in {weights.text()}, which therefore needs both: they "
                    f"differ among the elements {start} to {start + count - 1}"
                )
            progress(count)
