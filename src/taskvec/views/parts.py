"""Views of parts: some of the tensors, parts put together again, and what is scaled on purpose."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from taskvec.algebra.derived import Parameter
from taskvec.algebra.idle_patterns import nearest
from taskvec.algebra.weights import SHOWN, Weights
from taskvec.errors import RecipeError
from taskvec.sources.source import Source
from taskvec.sources.text import matches, quoted
from taskvec.views.settings import Settings, merged, settings_of
from taskvec.views.view import View, lifted, require_weights, without_collisions


# ---- select --------------------------------------------------------------------------------------
def select(m: Weights, *patterns: str) -> Weights:
    """Only the tensors whose whole name fits a pattern (`*`, `?`, `[ab]`): a model with fewer of them.

    >>> join(stack(select(m, "text.*"), select(m, "text.*")), select(m, "vision.*"))

    The filter `only(...)` sets the other tensors to zero; here they are gone. Raises RecipeError if a pattern fits no
    tensor.
    """
    return _called(Select, "select", m, patterns, "model.vision.*")


def _called(kind: "type[Select]", name: str, m: Weights, patterns: tuple[str, ...], example: str) -> Weights:
    """The call of `select` or `drop`. Raises RecipeError, which shows an example, unless all patterns are texts."""
    (m,) = require_weights(name, [m])
    if not patterns or not all(isinstance(p, str) and p for p in patterns):
        raise RecipeError(f'{name}: patterns are texts such as "{example}", not {list(patterns)}')
    return lifted(kind(name, (m,), {pattern: pattern for pattern in patterns}, {}))


class Select(View):
    """See `select`. Its parameters are the patterns."""

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return select(args[0], *params)

    def written(self, names: Mapping[Source, str]) -> str:
        """The call as a recipe writes it."""
        return f"{self.name}({', '.join([self.args[0].text(names), *map(quoted, self.params)])})"

    @cached_property
    def tensors(self) -> Mapping[str, tuple[int, str]]:
        """Those that fit."""
        return {name: (0, name) for name in self.fitting()}

    def fitting(self) -> dict[str, None]:
        """The tensors that fit a pattern, in their order. Raises RecipeError for a pattern that fits none."""
        names = [*self.args[0].specs]
        if idle := [p for p in self.params if not any(matches(p, n) for n in names)]:
            listed = ", ".join(map(quoted, idle[:SHOWN]))
            near = nearest(idle[0], names)
            raise RecipeError(f"{self.name}: no tensor of {self.args[0].text()} fits {listed}{near}")
        return dict.fromkeys(n for n in names if any(matches(p, n) for p in self.params))


# ---- drop ----------------------------------------------------------------------------------------
def drop(m: Weights, *patterns: str) -> Weights:
    """All tensors except those whose whole name fits a pattern (`*`, `?`, `[ab]`).

    >>> base + 0.5 * (drop(tuned, "*.rotary_emb.inv_freq", "v_head.*") - base)

    This is for buffers and heads that only one of two models has. Raises RecipeError if a pattern fits no tensor, or if
    the patterns fit all of them.
    """
    return _called(Drop, "drop", m, patterns, "*.inv_freq")


class Drop(Select):
    """See `drop`. Its parameters are the patterns."""

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return drop(args[0], *params)

    @cached_property
    def tensors(self) -> Mapping[str, tuple[int, str]]:
        """Those that do not fit."""
        out = self.fitting()
        if len(out) == len(self.args[0].specs):
            raise RecipeError(f"drop: nothing of {self.args[0].text()} would be left")
        return {n: (0, n) for n in self.args[0].specs if n not in out}


# ---- join ----------------------------------------------------------------------------------------
def join(*parts: Weights) -> Weights:
    """Several parts of a model that have no tensor in common, as one model: the opposite of `select`.

    parts: all models, or all task vectors. The tokenizer and config.json are those of the first, with the changes that
        views make to the config.json of each.

    Raises MismatchError if two parts have a tensor of one name.
    """
    return lifted(Join("join", require_weights("join", parts), {}, {}))


class Join(View):
    """See `join`."""

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return join(*args)

    @cached_property
    def tensors(self) -> Mapping[str, tuple[int, str]]:
        """Those of each."""
        pairs = [(name, (k, name)) for k, part in enumerate(self.args) for name in part.specs]
        return without_collisions("join", pairs)

    def configured(self, settings: Settings) -> Settings:
        """The changes of every part."""
        changes: dict[str, Any] = {}
        for part in self.args:
            changes = merged(changes, settings_of(part).changes)
        return settings.changed(changes)


# ---- as_model ------------------------------------------------------------------------------------
def as_model(w: Weights) -> Weights:
    """The expression as a model, with mass 1, whatever its own mass: for weights that are scaled on purpose, as 1.1*m.

    The numbers stay as they are.
    """
    return lifted(AsModel("as_model", require_weights("as_model", [w]), {}, {}))


class AsModel(View):
    """See `as_model`."""

    mass = 1

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return as_model(*args)

    def check(self) -> None:
        """Raise what the headers can tell; any mass will do."""
        self.specs  # noqa: B018 - raises what does not fit

    @property
    def partial(self) -> bool:
        """A model names every tensor."""
        return False

    @cached_property
    def tensors(self) -> Mapping[str, tuple[int, str]]:
        """All of them."""
        return {name: (0, name) for name in self.args[0].specs}
