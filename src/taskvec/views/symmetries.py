"""Which hidden units may be permuted without changing what a network computes, as data.

1. A hidden unit is computed by rows of some tensors and read by columns of others. If the units are put into another
   order in all of these axes at once, the network computes the same function.
2. A `Rule` says which axes these are, by patterns of names. A `Symmetry` is the rules of a family of models.
   families.py has them for known families, `stack` makes them for a plain stack of linear layers, `from_json` reads a
   user's own.
3. `groups` finds the tensors in the headers of a model. A `Group` is a set of units that move together.

The symmetries are those of Git Re-Basin (Ainsworth, Hayase & Srinivasa, ICLR 2023, arXiv 2209.04836), and whole
attention heads.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

from taskvec.algebra.idle_patterns import nearest
from taskvec.errors import FormatError, MismatchError, RecipeError
from taskvec.places.json_files import read_json
from taskvec.sources.positions import layer_of
from taskvec.sources.source import Spec
from taskvec.sources.text import matches, quoted

LAYER = "{layer}"  # at the start of a pattern or of a rule's name: the layer of the tensor, such as "model.layers.3"


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of the tensors that fit `pattern`. It has `parts` equal parts, each with all units in the same order."""

    pattern: str
    axis: int
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Rule:
    """Units that move together: one group for each layer if {layer} is in the name, else one for the model.

    units: the number of units, or keys of config.json that may hold it (the first that is there counts). An axis is
        divided evenly, so a unit is the rows of one head, or of all query heads that share a key. Without `units` every
        index is a unit.
    shared: patterns of vectors that all units use alike, as wide as a unit.
    aside: patterns of the tensors that these units do not touch. If it is given, the rule must know every tensor.
    optional: the rule is left out unless somebody asks for it.
    """

    name: str
    axes: tuple[Axis, ...]
    units: int | tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    optional: bool = False

    @property
    def patterns(self) -> list[str]:
        """The patterns of the tensors that have these units."""
        return [axis.pattern for axis in self.axes]


@dataclass(frozen=True, slots=True)
class Symmetry:
    """The rules of a family of models.

    fixed: patterns of the tensors that rules which are not optional leave as they are.
    complete: whether a pattern that fits no tensor is an error. Rules for a family may name tensors that some models
        lack, such as biases.
    """

    name: str
    rules: tuple[Rule, ...]
    fixed: tuple[str, ...] = ()
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Units of one model that move together: their number, and all axes that have them, as (tensor, axis, parts)."""

    units: int
    axes: tuple[tuple[str, int, int], ...]


def fits_any(patterns: Iterable[str], name: str) -> bool:
    """Whether one of the patterns fits a tensor's name."""
    return any(fits(p, name) for p in patterns)


def fits(pattern: str, name: str) -> bool:
    """Whether a pattern fits a tensor's name, where {layer} stands for the layer of the tensor."""
    if not pattern.startswith(LAYER):
        return matches(pattern, name)
    layer = layer_name(name)
    return layer is not None and matches(pattern.removeprefix(LAYER), name.removeprefix(layer))


def layer_name(name: str) -> str | None:
    """The layer of a tensor, or None: "model.layers.3.mlp.up.weight" -> "model.layers.3"."""
    place = layer_of(name)
    return f"{place[0]}.{place[1]}".lstrip(".") if place else None


_PIECE = re.compile(r"^(.*?)(\d+)\.(weight|bias|running_mean|running_var|num_batches_tracked)$")


def stack(specs: Mapping[str, Spec]) -> Symmetry | None:
    """The rules of a plain stack of linear layers, `layers.0.weight`, `fc1.weight`, ...; None if the model is not one.

    Every tensor must be of a module whose name ends in a number, and the names must be equal up to the number. Matrices
    are (out, in), and `in` is `out` of the one before. Vectors between two matrices (biases, norms) have the units
    before them. Connections that skip layers cannot be seen from names: models with such need rules of their own.
    """
    modules: dict[int, list[str]] = {}
    stems = set()
    for name in specs:
        piece = _PIECE.match(name)
        if not piece:
            return None
        stems.add(piece[1])
        modules.setdefault(int(piece[2]), []).append(name)
    rules: list[Rule] = []
    width: int | None = None
    for number, names in sorted(modules.items()):
        shapes = {name: specs[name].shape for name in names if specs[name].shape}
        matrix = next((name for name, shape in shapes.items() if len(shape) > 1), None)
        if matrix:
            out, *into = shapes[matrix]
            if len(into) != 1 or (width is not None and width != into[0]):
                return None
            if rules:
                rules[-1] = replace(rules[-1], axes=(*rules[-1].axes, Axis(escape(matrix), 1)))
            rules.append(Rule(f"{''.join(stems)}{number}", (Axis(escape(matrix), 0),)))
            width = out
        vectors = [name for name in shapes if name != matrix]
        if any(shapes[name] != (width,) for name in vectors if rules):
            return None
        if rules:
            rules[-1] = replace(rules[-1], axes=(*rules[-1].axes, *(Axis(escape(name), 0) for name in vectors)))
    return Symmetry("stack", tuple(rules[:-1])) if len(stems) == 1 and len(rules) > 1 else None


def from_json(path: "str | os.PathLike[str]") -> Symmetry:
    """The rules in a JSON file. It is {"group": [["pattern", axis], ...], ...}, or, in place of a list,
    {"axes": [["pattern", axis, parts], ...], "units": 12}.

    The names mean what they mean in `Rule`: a group's name or a pattern may begin with {layer}, `units` is a number or
    a key of config.json, `parts` is 3 for queries, keys and values in one matrix. Raises FormatError.
    """
    table = read_json(Path(path), once=True)
    if not isinstance(table, dict) or not table:
        raise FormatError(f"{path} must map names of groups to lists of [pattern, axis]")
    problems: list[str] = []
    rules = [rule for name, entry in table.items() if (rule := _rule(name, entry, problems))]
    if problems:
        raise FormatError(f"{path} cannot be read as rules of symmetry:", problems)
    return Symmetry(os.fspath(path), tuple(rules), complete=True)


def _rule(name: str, entry: Any, problems: list[str]) -> Rule | None:
    """The rule that an entry of the file is. What is wrong with it is added to `problems`."""
    entry = {"axes": entry} if isinstance(entry, list) else entry
    if not isinstance(entry, dict) or not isinstance(entry.get("axes"), list) or not entry["axes"]:
        problems.append(f"{name}: needs a list of [pattern, axis]")
        return None
    if strange := entry.keys() - {"axes", "units"}:
        problems.append(f"{name}: has axes and units, not {', '.join(sorted(strange))}")
    units = entry.get("units", ())
    units = (units,) if isinstance(units, str) else tuple(units) if isinstance(units, list) else units
    if not (_natural(units, 1) or (isinstance(units, tuple) and all(isinstance(u, str) for u in units))):
        problems.append(f"{name}: units is a number or a key of config.json, not {entry['units']!r}")
    axes = []
    for given in entry["axes"]:
        if is_axis(given):
            axes.append(Axis(*given))
        else:
            problems.append(f"{name}: {given!r} is not [pattern, axis] or [pattern, axis, parts]")
    return Rule(name, tuple(axes), units)


def is_axis(given: Any) -> bool:
    """Whether this is ["name", axis] or ["name", axis, parts]."""
    if not isinstance(given, list) or len(given) not in (2, 3) or not isinstance(given[0], str):
        return False
    return _natural(given[1], 0) and all(_natural(n, 1) for n in given[2:])


def _natural(value: Any, least: int) -> bool:
    """Whether this is a whole number of at least `least`."""
    return type(value) is int and value >= least


# ---- the groups of a model -----------------------------------------------------------------------
def groups(
    symmetry: Symmetry, specs: Mapping[str, Spec], config: Mapping[str, Any], heads: int | None, residual: bool
) -> dict[str, Group]:
    """The groups of a model, by name.

    config: the model's config.json. heads: the number of units of rules whose `units` are keys of config.json.
    residual: whether optional rules count. Raises RecipeError if no tensor fits or the number of heads is not known,
    and MismatchError, which lists all problems, if axes cannot be divided by their units, if a rule that must know
    every tensor does not, or if a pattern of a user's own rule fits no tensor.
    """
    result: dict[str, Group] = {}
    problems: list[str] = []
    for rule in symmetry.rules:
        if rule.optional and not residual:
            continue
        if symmetry.complete:
            idle = [a.pattern for a in rule.axes if not any(_has(rule, a, n) for n in specs)]
            problems += [f"{rule.name}: {quoted(p)} fits no tensor{nearest(p, specs)}" for p in idle]
        if rule.aside:
            known = (*rule.patterns, *rule.aside)
            problems += [f"{rule.name}: {symmetry.name} does not know {n}" for n in specs if not fits_any(known, n)]
        for name, axes in _places_of(rule, specs).items():
            units = _units(rule, config, heads)
            if units is None:
                keys = " or ".join(rule.units) if isinstance(rule.units, tuple) else ""
                raise RecipeError(f"no config.json says how many units {rule.name} has ({keys}): say how many heads")
            wrong = fitting(name, units, axes, specs)
            problems += wrong
            if not wrong:
                group = Group(units or specs[axes[0][0]].shape[axes[0][1]] // axes[0][2], axes)
                result[name] = group
                problems += _unlike(name, group, rule, specs)
    if problems:
        raise MismatchError(f"the rules of {symmetry.name} do not fit this model:", problems)
    if not result:
        raise RecipeError(f"no tensor fits a rule of {symmetry.name}")
    return result


def _has(rule: Rule, axis: Axis, name: str) -> bool:
    """Whether a tensor has an axis of a rule. Tensors outside the layers have none of a rule for each layer."""
    return fits(axis.pattern, name) and (LAYER not in rule.name or layer_name(name) is not None)


def _places_of(rule: Rule, specs: Mapping[str, Spec]) -> dict[str, tuple[tuple[str, int, int], ...]]:
    """The groups of a rule, by name: (tensor, axis, parts) of all their axes."""
    axes_of: dict[str, dict[tuple[str, int, int], None]] = {}
    for name in specs:
        for axis in rule.axes:
            if _has(rule, axis, name):
                group = rule.name.replace(LAYER, layer_name(name) or "")
                axes_of.setdefault(group, {})[name, axis.axis, axis.parts] = None
    return {group: tuple(axes) for group, axes in axes_of.items()}


def _units(rule: Rule, config: Mapping[str, Any], heads: int | None) -> int | None:
    """The number of units of a rule; 0 if every index is a unit, None if nothing says how many there are."""
    if isinstance(rule.units, int):
        return rule.units
    if not rule.units:
        return 0
    return heads or next((config[key] for key in rule.units if _natural(config.get(key), 1)), None)


def fitting(group: str, units: int, axes: Iterable[tuple[str, int, int]], specs: Mapping[str, Spec]) -> list[str]:
    """The reasons why the axes of a group cannot be divided into its units. 0 units: all lengths must be equal."""
    problems: list[str] = []
    first: tuple[str, int] | None = None
    for name, axis, parts in axes:
        shape = specs[name].shape
        if axis >= len(shape):
            problems.append(f"{group}: {name} is {list(shape)} and has no axis {axis}")
        elif shape[axis] % (parts * (units or 1)) or not shape[axis]:
            what = f"{units} units" if parts == 1 else f"{parts} parts of {units or 'equal'} units"
            problems.append(f"{group}: axis {axis} of {name} {list(shape)} is not divided by {what}")
        elif not units:
            first = first or (name, shape[axis] // parts)
            if shape[axis] // parts != first[1]:
                problems.append(f"{group}: {name} has {shape[axis] // parts} units, {first[0]} has {first[1]}")
    return problems


def _unlike(name: str, group: Group, rule: Rule, specs: Mapping[str, Spec]) -> list[str]:
    """The problems with vectors that all units should share and that are not as wide as a unit."""
    width = min(specs[n].shape[axis] // parts // group.units for n, axis, parts in group.axes)
    layer = layer_name(group.axes[0][0])
    shared = [n for n in specs if layer_name(n) == layer and fits_any(rule.shared, n)]
    return [
        f"{name}: {n} is {list(specs[n].shape)}, no vector of one unit's width ({width})"
        for n in shared
        if specs[n].shape != (width,)
    ]
