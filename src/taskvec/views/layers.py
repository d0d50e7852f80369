"""Views of layers: a part of a stack, and several stacks on top of one another."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cached_property

from taskvec.algebra.coefficients import Coefficient
from taskvec.algebra.derived import Derived, Parameter
from taskvec.algebra.weights import SHOWN, Weights
from taskvec.errors import MismatchError, RecipeError
from taskvec.sources.positions import HEADS, layer_of
from taskvec.views.bylayer import Origin
from taskvec.views.settings import Settings, settings_of, with_layers
from taskvec.views.view import View, lifted, require_weights, texts, whole, without_collisions

# Names of tensors outside the layers that stand before them. All other tensors outside the layers stand after them, and
# so do heads.
INPUT_SIDE = (
    "*embed*",
    "*emb.*",
    "*wte*",
    "*wpe*",
    "shared.*",
    "*position*",
    "*patch*",
    "*vision*",
    "*visual*",
    "*audio*",
)
# Tensors that only the first layer of a stack has and that all layers use: relative position embeddings (T5, WavLM).
IN_THE_FIRST = ("*.relative_attention_bias.*", "*.rel_attn_embed.*")


def stacks(weights: Weights) -> dict[str, int]:
    """The stacks of layers, by the part of the names before the number, with their sizes: {"model.layers": 24}."""
    counts: dict[str, int] = {}
    for name in weights.specs:
        if at := layer_of(name):
            counts[at[0]] = max(counts.get(at[0], 0), at[1] + 1)
    return counts


def renumbered(name: str, stack: str, layer: int) -> str:
    """The name that a tensor has in another layer of its stack."""
    before = f"{stack}." if stack else ""
    rest = name[len(before) :].partition(".")
    return f"{before}{layer}{rest[1]}{rest[2]}"


class Layered(View):
    """What the views of layers share: the stack whose layers they arrange, and what config.json says of it."""

    def stack(self, k: int) -> tuple[str, int]:
        """The name of the stack in argument k, and how many layers it has there. Raises RecipeError."""
        counts = stacks(self.args[k])
        wanted, text = self.params.get("stack"), self.args[k].text()
        if not counts:
            raise RecipeError(f"{self.name}: {text} has no layers: no tensor has a number in its name")
        listed = ", ".join(f'stack="{name}" ({count} layer{"s" * (count > 1)})' for name, count in counts.items())
        if isinstance(wanted, str):
            if wanted not in counts:
                raise RecipeError(f'{self.name}: {text} has no stack "{wanted}"; it has {listed}')
            return wanted, counts[wanted]
        if len(counts) > 1:
            raise RecipeError(
                f"{self.name}: {text} has {len(counts)} stacks of layers, name the one you mean: {listed}"
            )
        return next(iter(counts.items()))

    def layers(self, k: int) -> dict[str, int]:
        """The tensors of the stack in argument k, with the number of the layer of each."""
        stack, _ = self.stack(k)
        places = {name: layer_of(name) for name in self.args[k].specs}
        return {name: at[1] for name, at in places.items() if at and at[0] == stack}

    @cached_property
    def origins(self) -> list[Origin]:
        """Where each layer of the result comes from."""
        raise NotImplementedError

    def configured(self, settings: Settings) -> Settings:
        """config.json for the layers of the result. It is a problem if tensors that all layers use are missing."""
        name = self.stack(0)[0]
        changed, first = with_layers(settings, name, self.origins), f"{name}.0"
        shared = {
            n for k in range(len(self.args)) for n in self.layers(k) if any(fnmatchcase(n, p) for p in IN_THE_FIRST)
        }
        if not shared:
            return changed
        lost = sorted({renumbered(n, name, 0) for n in shared} - self.tensors.keys())
        problems = [f"{n} is missing, which all layers use: begin with the layer that has it" for n in lost]
        return Settings(changed.table, changed.changes, {**changed.problems, first: problems})


def origins_of(weights: Weights, stack: str, count: int) -> list[Origin]:
    """Where each of the `count` layers of an expression comes from: views of layers and methods are followed down to
    the models."""
    donor = weights.donor
    if isinstance(donor, Layered) and donor.stack(0)[0] == stack:
        return donor.origins
    if isinstance(donor, Derived):
        inner = next((a for a in donor.args if a.donor and stacks(a).get(stack) == count), None)
        if inner is not None:
            return origins_of(inner, stack, count)
    table = settings_of(weights).now
    return [Origin(table, count, layer) for layer in range(count)]


# ---- a part --------------------------------------------------------------------------------------
def take_layers(m: Weights, start: int | Coefficient, stop: int | Coefficient, *, stack: str | None = None) -> Weights:
    """The layers start <= l < stop of a model or a task vector, numbered from 0. Tensors of no layer stay.

    >>> take_layers(m, 8, 24)

    config.json gets the new number of layers. What it says of single layers (`layer_types`, `mlp_only_layers`,
    `first_k_dense_replace`, `sliding_window_pattern`, ...) is said of the same layers in their new places
    (views/bylayer.py). If that cannot be said, it is an error when a folder is to be written.

    stack: the part of the names before the number, "model.layers". It is needed if there are several stacks of layers.

    Raises RecipeError for a range that is empty or out of bounds, for a model without layers and for several stacks.
    A LoRA names only the layers that it changes, so the number of layers is not known, and the range has no bound.
    """
    (m,) = require_weights("take_layers", [m])
    first, last = whole("take_layers", "start", start, 0), whole("take_layers", "stop", stop, 1)
    if (first.constant or 0) >= (last.constant or 0):
        raise RecipeError(f"take_layers: there is no layer l with {first} <= l < {last}")
    params: dict[str, Parameter] = {"start": first, "stop": last, **texts("take_layers", stack=stack)}
    return lifted(TakeLayers("take_layers", (m,), params, {"stack": None}))


class TakeLayers(Layered):
    """See `take_layers`."""

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return take_layers(*args, **params)  # type: ignore[arg-type]

    @property
    def bounds(self) -> tuple[int, int]:
        """The number of the first layer that is taken, and of the one after the last."""
        return _int(self.params["start"]), _int(self.params["stop"])

    @cached_property
    def tensors(self) -> Mapping[str, tuple[int, str]]:
        """The tensors of the layers that are taken, with their new numbers, and the tensors outside the layers."""
        (start, stop), (stack, count) = self.bounds, self.stack(0)
        if stop > count and not self.partial:
            raise RecipeError(
                f"take_layers: {self.args[0].text()} has the layers 0 to {count - 1} in {stack}, so stop is at most "
                f"{count}, not {stop}"
            )
        layers = self.layers(0)
        kept = [name for name in self.args[0].specs if start <= layers.get(name, start) < stop]
        return without_collisions(
            "take_layers", ((renumbered(n, stack, layers[n] - start) if n in layers else n, (0, n)) for n in kept)
        )

    @cached_property
    def origins(self) -> list[Origin]:
        """The origins of the layers that are taken."""
        (start, stop), (stack, count) = self.bounds, self.stack(0)
        return origins_of(self.args[0], stack, count)[start:stop]


# ---- one stack on another ------------------------------------------------------------------------
def stack(*models: Weights, stack: str | None = None) -> Weights:
    """The layers of the first argument, then those of the second, and so on: a deeper model.

    Depth up-scaling (SOLAR, Kim et al., NAACL 2024, arXiv:2312.15166), a "frankenmerge" or passthrough merge.

    >>> stack(take_layers(m, 0, 24), take_layers(m, 8, 32))

    Tensors outside these layers come from the first argument if they stand before the layers (a name that fits one of
    INPUT_SIDE: embeddings, positions, vision), and from the last argument if they stand after them (every other name:
    final norm, head). config.json is that of the first argument, with the new number of layers, and with what the
    config.json of each argument says of its layers (see `take_layers`).

    models: only models, or only task vectors.
    stack: the part of the names before the number, "model.layers". It is needed if there are several stacks of layers,
        and must be the same in all arguments.

    Raises MismatchError if layers of different models have no shape in common, or if one end has a head and the other
    none; RecipeError for a LoRA alone, whose layers cannot be counted.
    """
    args = require_weights("stack", models)
    return lifted(Stack("stack", args, {**texts("stack", stack=stack)}, {"stack": None}))


class Stack(Layered):
    """See `stack`."""

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return stack(*args, **params)  # type: ignore[arg-type]

    @cached_property
    def tensors(self) -> Mapping[str, tuple[int, str]]:
        """The input side of the first argument, the layers of all, and the output side of the last."""
        self._require_one_stack()
        (name, _), last, offset = self.stack(0), len(self.args) - 1, 0
        pairs: list[tuple[str, tuple[int, str]]] = []
        for k, weights in enumerate(self.args):
            layers = self.layers(k)
            for tensor in weights.specs:
                if tensor in layers:
                    pairs.append((renumbered(tensor, name, layers[tensor] + offset), (k, tensor)))
                elif k == (0 if before_the_layers(tensor) else last):
                    pairs.append((tensor, (k, tensor)))
            offset += self.stack(k)[1]
        return without_collisions("stack", pairs)

    def _require_one_stack(self) -> None:
        """Raise an error unless the arguments have stacks of one name, layers of like shapes, and the same heads."""
        if loras := [a.text() for a in self.args if all(s.partial for s in a.summed)]:
            raise RecipeError(
                f"stack cannot count the layers of {loras[0]}, a LoRA, which names only those that it changes: add it "
                "to its base first, stack(base + lora, ...)"
            )
        names = [self.stack(k)[0] for k in range(len(self.args))]
        if len(set(names)) > 1:
            raise MismatchError(
                "stack needs layers of one name (rename them):",
                [f"{name} in {a.text()}" for name, a in zip(names, self.args, strict=True)],
            )
        problems = [p for k in range(1, len(self.args)) for p in self._unlike(k)]
        heads = [{n for n in a.specs if n in HEADS} for a in (self.args[0], self.args[-1])]
        for there, lacks, a in ((0, 1, self.args[-1]), (1, 0, self.args[0])):
            problems += [f"{n} is not in {a.text()} (tie or untie one of them)" for n in heads[there] - heads[lacks]]
        if problems:
            raise MismatchError("stack: these layers cannot stand on one another:", problems[:SHOWN])

    def _unlike(self, k: int) -> list[str]:
        """The problems with tensors that have no shape in common in the layers of argument k and of the first one."""
        here, first = self._shapes(k), self._shapes(0)
        return [
            f"{name} is {_listed(here[name])} in {self.args[k].text()}, {_listed(first[name])} in {self.args[0].text()}"
            for name in first
            if name in here and not here[name] & first[name]
        ]

    def _shapes(self, k: int) -> dict[str, set[tuple[int, ...]]]:
        """The shapes that each tensor has in the layers of argument k, by the name that it has in layer 0."""
        shapes: dict[str, set[tuple[int, ...]]] = {}
        (name, _), specs = self.stack(k), self.args[k].specs
        for tensor in self.layers(k):
            shapes.setdefault(renumbered(tensor, name, 0), set()).add(specs[tensor].shape)
        return shapes

    @cached_property
    def origins(self) -> list[Origin]:
        """The origins of the layers of all arguments."""
        return [o for k, a in enumerate(self.args) for o in origins_of(a, *self.stack(k))]


def before_the_layers(name: str) -> bool:
    """Whether a tensor outside the layers stands before them."""
    return name not in HEADS and any(fnmatchcase(name, pattern) for pattern in INPUT_SIDE)


def _listed(shapes: set[tuple[int, ...]]) -> str:
    return " or ".join(str(list(shape)) for shape in sorted(shapes))


def _int(value: Parameter) -> int:
    assert isinstance(value, Coefficient) and value.constant is not None
    return int(value.constant)
