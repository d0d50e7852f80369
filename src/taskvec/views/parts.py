"""Views of parts: some of the tensors of a model, several parts as one model, and a scaled model as a model."""

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

    This leaves the other tensors out, while the filter `only(...)` sets them to zero. Raises RecipeError if a pattern
    fits no tensor.
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
        """The tensors that fit a pattern."""
        return {name: (0, name) for name in self.fitting()}

    def fitting(self) -> dict[str, None]:
        """The names that fit a pattern, in the order of the tensors. Raises RecipeError if a pattern fits none."""
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

    It is meant for buffers and heads that only one of two models has. Raises RecipeError if a pattern fits no tensor,
    or if the patterns fit all tensors.
    """
    return _called(Drop, "drop", m, patterns, "*.inv_freq")


class Drop(Select):
    """See `drop`. Its parameters are the patterns."""

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return drop(args[0], *params)

    @cached_property
    def tensors(self) -> Mapping[str, tuple[int, str]]:
        """The tensors that fit no pattern."""
        dropped = self.fitting()
        if len(dropped) == len(self.args[0].specs):
            raise RecipeError(f"drop: nothing of {self.args[0].text()} would be left")
        return {n: (0, n) for n in self.args[0].specs if n not in dropped}


# ---- join ----------------------------------------------------------------------------------------
def join(*parts: Weights) -> Weights:
    """Several parts of a model that have no tensor in common, as one model: the opposite of `select`.

    parts: only models, or only task vectors. The tokenizer and config.json are those of the first part, with the
        changes that views make to the config.json of each part.

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
        """The tensors of each part."""
        pairs = [(name, (k, name)) for k, part in enumerate(self.args) for name in part.specs]
        return without_collisions("join", pairs)

    def configured(self, settings: Settings) -> Settings:
        """The changes and the problems of every part. It is a problem if two parts change one entry differently."""
        changes = settings.changes
        problems = {stack: [*lines] for stack, lines in settings.problems.items()}
        for part in self.args[1:]:
            more = settings_of(part)
            for stack, lines in (*more.problems.items(), ("join", _conflicts(changes, more.changes))):
                problems[stack] = list(dict.fromkeys([*problems.get(stack, ()), *lines]))
            changes = merged(changes, more.changes)
        return Settings(settings.table, changes, problems)


def _conflicts(one: Mapping[str, Any], other: Mapping[str, Any], within: str = "") -> list[str]:
    """Entries of config.json, also in tables within it, that two parts set to different values."""
    conflicts: list[str] = []
    for key in one.keys() & other.keys():
        if isinstance(one[key], dict) and isinstance(other[key], dict):
            conflicts += _conflicts(one[key], other[key], f"{within}{key}.")
        elif one[key] != other[key]:
            conflicts.append(f"{within}{key} is {one[key]} by one part and {other[key]} by another")
    return sorted(conflicts)


# ---- as_model ------------------------------------------------------------------------------------
def as_model(w: Weights) -> Weights:
    """The expression as a model, with mass 1, whatever its own mass is. The numbers stay as they are.

    It is meant for weights that are scaled on purpose, such as 1.1*m.
    """
    return lifted(AsModel("as_model", require_weights("as_model", [w]), {}, {}))


class AsModel(View):
    """See `as_model`."""

    mass = 1

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return as_model(*args)

    def check(self) -> None:
        """Raise an error for what the headers show to be wrong. Any mass is right."""
        self.specs  # noqa: B018 - raises what does not fit

    @property
    def partial(self) -> bool:
        """A model names every tensor."""
        return False
