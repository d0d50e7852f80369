"""mergekit's parameters as coefficients.

In a file, a parameter is a number, a gradient over the layers, or a list of conditions, each of which has a value for
the tensors whose names contain a text. A parameter may be set for a model, a slice, a module and the whole file. The
nearest setting counts. If its conditions leave tensors without a value, the next setting counts for these.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskvec.algebra.coefficients import Coefficient, layers, per
from taskvec.algebra.idle_patterns import fits_one, nearest
from taskvec.errors import RecipeError
from taskvec.notes import note
from taskvec.recipes.mergekit.config import Problems, Settings
from taskvec.sources.text import FirstMatch, literal

SHOWN = 5  # tensors that an error names


@dataclass(frozen=True, slots=True)
class Names:
    """The tensors of one slice.

    seen: the name in the expression, in which layers are numbered from 0 on -> the name that mergekit's filters see.
    single: whether the slice has one layer alone, which in mergekit gets the last point of a gradient.
    """

    seen: Mapping[str, str]
    single: bool = False

    def patterns(self, text: str) -> list[str]:
        """Patterns for the tensors whose name, as mergekit sees it, contains `text`."""
        moved = any(name != seen for name, seen in self.seen.items())
        if moved and any(c.isdigit() for c in text):  # perhaps the number of a layer, which is another one here
            return [literal(name) for name, seen in self.seen.items() if text in seen]
        return [f"*{literal(text)}*"]


def number(
    key: str, scopes: Iterable[Settings], names: Names, default: float | None, where: str, problems: Problems
) -> Coefficient:
    """A parameter as one coefficient for all tensors of a slice.

    scopes: the settings of the model, of the slice, and so on, the nearest first.
    default: the value where the file gives none; None if the file must give it.
    """
    rows: list[tuple[str | None, Coefficient]] = []
    for settings in scopes:
        if key in settings:
            rows += _rows(settings[key], names, f"{where}.{key}", problems)
        if rows and rows[-1][0] is None:
            break
    closed = bool(rows) and rows[-1][0] is None
    if not closed and default is not None:
        rows, closed = [*rows, (None, Coefficient.of(default))], True
    if not closed:
        without = [n for n, seen in names.seen.items() if not any(text in seen for text, _ in rows if text)]
        if without:
            more = f" and {len(without) - SHOWN} more" if len(without) > SHOWN else ""
            of = f" for {', '.join(without[:SHOWN])}{more}" if rows else ""
            problems.append(f"{where}: {key} has no value{of}")
            return Coefficient.of(0)
    if len(rows) == 1 and closed:
        return rows[0][1]
    table: dict[str, Coefficient] = {}
    filters: dict[str, list[str]] = {}  # the text of a filter -> its patterns
    for text, value in rows:
        filters[text or ""] = ["*"] if text is None else names.patterns(text)
        for pattern in filters[text or ""]:
            table.setdefault(pattern, value)
    reached = FirstMatch(table).reached(names.seen)
    for text, patterns in filters.items():
        if text and reached.isdisjoint(patterns):  # mergekit says nothing about such a filter
            fits = any(fits_one(pattern, names.seen) for pattern in patterns)
            why = " that no filter above it fits" if fits else nearest(f"*{text}*", names.seen.values())
            note(f"{where}: {key}: the filter {text!r} fits no tensor{why}")
    return per({pattern: value for pattern, value in table.items() if pattern in reached or pattern == "*"})


def _rows(setting: Any, names: Names, where: str, problems: Problems) -> list[tuple[str | None, Coefficient]]:
    """(text of a filter, value) in the order in which they are tried. None in place of a text is for all tensors: what
    follows it is never tried, and so left out."""
    conditions = _conditions(setting)
    if conditions is None:
        value = _value(setting, names, where, problems)
        return [] if value is None else [(None, value)]
    rows: list[tuple[str | None, Coefficient]] = []
    for k, entry in enumerate(conditions):
        unknown = set(entry) - {"filter", "value"} if isinstance(entry, Mapping) else {"this"}
        if unknown or "value" not in entry:
            problems.append(f"{where}[{k}] is {{filter: substring, value: number}}, not {entry!r}")
            continue
        text = entry.get("filter")
        value = _value(entry["value"], names, f"{where}[{k}]", problems)
        if value is not None:
            rows.append((None if text in (None, "*", "") else str(text), value))
        if rows and rows[-1][0] is None:
            break
    return rows


def _conditions(setting: Any) -> Sequence[Any] | None:
    """The conditions of a setting; None if it is a number or a gradient."""
    if isinstance(setting, Mapping):
        return [setting]
    return setting if isinstance(setting, list) and any(isinstance(e, Mapping) for e in setting) else None


def _value(value: Any, names: Names, where: str, problems: Problems) -> Coefficient | None:
    """A number, or a gradient whose points are spaced evenly from the first layer to the last; None if it is empty."""
    if value is None or value == []:
        return None
    points = [_float(v, where, problems) for v in (value if isinstance(value, list) else [value])]
    try:
        exact = [Coefficient.of(p) for p in points]
    except RecipeError as error:
        problems.append(f"{where}: {error}")
        return Coefficient.of(0)
    if len(set(exact)) == 1:
        return exact[0]
    return layers(exact[-1], outside=exact[0]) if names.single else layers(*exact, outside=exact[0])


def _float(value: Any, where: str, problems: Problems) -> float:
    """A number of the file. YAML reads 1e-5 as a text, so that texts of numbers are numbers, too."""
    try:
        if isinstance(value, int | float | str):
            return float(value) if not isinstance(value, int) else int(value)
    except ValueError:
        pass
    problems.append(f"{where} is a number, not {value!r}")
    return 0.0


def flag(key: str, scopes: Iterable[Settings], default: bool, where: str, problems: Problems) -> bool:
    """A parameter that is true or false for the whole slice."""
    value = next((s[key] for s in scopes if s.get(key) is not None), default)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    problems.append(f"{where}: {key} is true or false for all tensors, not {value!r}")
    return default
