"""Which hidden units may be permuted without changing what a network computes, as data.

Units are permuted in several tensors at once: the rows that make them and the columns that read them. A rule says which
axes those are, by patterns of names; `groups` finds them in a model's headers. `stack` writes the rules of a plain
stack of linear layers, `from_json` reads a user's own, families.py has those of known families. Symmetries as in Git
Re-Basin (Ainsworth, Hayase & Srinivasa, ICLR 2023, arXiv 2209.04836), and whole attention heads.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

from taskvec.errors import FormatError, MismatchError, RecipeError
from taskvec.places.local import stated
from taskvec.sources.positions import layer_of
from taskvec.sources.source import Spec
from taskvec.sources.text import matches

LAYER = "{layer}"  # at the start of a pattern or a rule's name: "model.layers.3", whichever layer the tensor is of


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of the tensors that fit `pattern`: `parts` stretches, in each of which all units stand in order."""

    pattern: str
    axis: int
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Rule:
    """Units that move together. With {layer} in its name a group for each layer, without it one for the model.

    units: how many there are, as a number or as keys of config.json (the first that is there counts); without it every
    index is one. A unit is as many neighbouring indices of an axis as divide it evenly: a head's rows, all rows of the
    query heads that share a key.
    shared: vectors of one unit's width that all units use alike. aside: what these units do not touch, if the rule
    claims to know every other tensor of the model.
    """

    name: str
    axes: tuple[Axis, ...]
    units: int | tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    optional: bool = False

    @property
    def patterns(self) -> list[str]:
        """Of the tensors that these units stand in."""
        return [axis.pattern for axis in self.axes]


@dataclass(frozen=True, slots=True)
class Symmetry:
    """The rules of a family of models, and the tensors that the rules which are not optional leave alone."""

    name: str
    rules: tuple[Rule, ...]
    fixed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Units of one model that move together: how many, and (tensor, axis, parts) wherever they stand."""

    units: int
    axes: tuple[tuple[str, int, int], ...]


def fits_any(patterns: Iterable[str], name: str) -> bool:
    """Whether one of the patterns fits."""
    return any(fits(p, name) for p in patterns)


def fits(pattern: str, name: str) -> bool:
    """Whether a pattern fits a tensor's name; {layer} is whichever layer the tensor is of."""
    if not pattern.startswith(LAYER):
        return matches(pattern, name)
    layer = layer_name(name)
    return layer is not None and matches(pattern.removeprefix(LAYER), name.removeprefix(layer))


def layer_name(name: str) -> str | None:
    """ "model.layers.3.mlp.up.weight" -> "model.layers.3"."""
    found = layer_of(name)
    return f"{found[0]}.{found[1]}".lstrip(".") if found else None


_PIECE = re.compile(r"^(.*?)(\d+)\.(weight|bias|running_mean|running_var|num_batches_tracked)$")


def stack(specs: Mapping[str, Spec]) -> Symmetry | None:
    """The rules of a plain stack of linear layers (out, in): `layers.0.weight`, `fc1.weight`, ...; None if it is none.

    All tensors must be a numbered module's, the modules' names alike up to their number, and each matrix must fit on
    the one before. Vectors between two matrices (biases, norms) go with the units before them. What cannot be seen from
    names is a connection that skips layers: models with one need rules of their own.
    """
    modules: dict[int, list[str]] = {}
    stems = set()
    for name in specs:
        found = _PIECE.match(name)
        if not found:
            return None
        stems.add(found[1])
        modules.setdefault(int(found[2]), []).append(name)
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
    """{"group": [["pattern", axis], ...]}, or {"group": {"axes": [["pattern", axis, parts], ...], "units": 12}}.

    The names mean what they mean in `Rule`: {layer} in a group's name or a pattern, `units` a number or a key of
    config.json, `parts` 3 for queries, keys and values in one matrix. Raises FormatError.
    """
    try:
        with stated(path):
            table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is no JSON: {error}") from None
    if not isinstance(table, dict) or not table:
        raise FormatError(f"{path} must map names of groups to lists of [pattern, axis]")
    problems: list[str] = []
    rules = [rule for name, entry in table.items() if (rule := _rule(name, entry, problems))]
    if problems:
        raise FormatError(f"{path} cannot be read as rules of symmetry:", problems)
    return Symmetry(os.fspath(path), tuple(rules))


def _rule(name: str, entry: Any, problems: list[str]) -> Rule | None:
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
    return type(value) is int and value >= least


# ---- finding -------------------------------------------------------------------------------------
def groups(
    symmetry: Symmetry, specs: Mapping[str, Spec], config: Mapping[str, Any], heads: int | None, residual: bool
) -> dict[str, Group]:
    """Every group of a model, by name. `heads`: the number of units where a rule asks the configuration.

    Raises RecipeError if nothing fits or nobody says how many heads there are, MismatchError for axes that their units
    do not divide; all findings at once.
    """
    found: dict[str, Group] = {}
    problems: list[str] = []
    for rule in symmetry.rules:
        if rule.optional and not residual:
            continue
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
                found[name] = group
                problems += _unlike(name, group, rule, specs)
    if problems:
        raise MismatchError(f"the rules of {symmetry.name} do not fit this model:", problems)
    if not found:
        raise RecipeError(f"no tensor fits a rule of {symmetry.name}")
    return found


def _places_of(rule: Rule, specs: Mapping[str, Spec]) -> dict[str, tuple[tuple[str, int, int], ...]]:
    found: dict[str, dict[tuple[str, int, int], None]] = {}
    for name in specs:
        for axis in rule.axes:
            layer = layer_name(name)
            if fits(axis.pattern, name) and (layer is not None or LAYER not in rule.name):
                found.setdefault(rule.name.replace(LAYER, layer or ""), {})[name, axis.axis, axis.parts] = None
    return {name: tuple(axes) for name, axes in found.items()}


def _units(rule: Rule, config: Mapping[str, Any], heads: int | None) -> int | None:
    """How many; 0 if every index is one, None if nobody knows."""
    if isinstance(rule.units, int):
        return rule.units
    if not rule.units:
        return 0
    return heads or next((config[key] for key in rule.units if _natural(config.get(key), 1)), None)


def fitting(group: str, units: int, axes: Iterable[tuple[str, int, int]], specs: Mapping[str, Spec]) -> list[str]:
    """What keeps a group's axes from being divided in its units; 0 units: all lengths must be equal."""
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
    """Vectors that all units should share, and that are not as wide as one."""
    width = min(specs[n].shape[axis] // parts // group.units for n, axis, parts in group.axes)
    layer = layer_name(group.axes[0][0])
    shared = [n for n in specs if layer_name(n) == layer and fits_any(rule.shared, n)]
    return [
        f"{name}: {n} is {list(specs[n].shape)}, no vector of one unit's width ({width})"
        for n in shared
        if specs[n].shape != (width,)
    ]
