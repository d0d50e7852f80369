"""mergekit's parameters as coefficients: scalars, gradients over the layers, filters by substring, scopes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskvec.algebra.coefficients import Coefficient, layers, per
from taskvec.algebra.idle_patterns import fits_one, nearest, reached
from taskvec.errors import RecipeError
from taskvec.notes import note
from taskvec.recipes.mergekit.config import Problems, Settings
from taskvec.sources.text import literal

SHOWN = 5  # tensors that an error names


@dataclass(frozen=True, slots=True)
class Names:
    """The tensors of one slice: as the expression names them, layers from 0 on, and as mergekit's filters see them.

    `single`: the slice has one layer, for which mergekit takes the last point of a gradient.
    """

    seen: Mapping[str, str]
    single: bool = False

    def patterns(self, text: str) -> list[str]:
        """What fits the tensors whose name, as mergekit sees it, contains `text`."""
        moved = any(name != seen for name, seen in self.seen.items())
        if moved and any(c.isdigit() for c in text):  # a layer by its number: the expression numbers it otherwise
            return [literal(name) for name, seen in self.seen.items() if text in seen]
        return [f"*{literal(text)}*"]


def number(
    key: str, scopes: Iterable[Settings], names: Names, default: float | None, where: str, problems: Problems
) -> Coefficient:
    """A parameter as one coefficient for all tensors of a slice; `default` None if the file must give it."""
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
        bare = [n for n, seen in names.seen.items() if not any(text in seen for text, _ in rows if text)]
        if bare:
            more = f" and {len(bare) - SHOWN} more" if len(bare) > SHOWN else ""
            problems.append(f"{where}: {key} has no value" + (f" for {', '.join(bare[:SHOWN])}{more}" if rows else ""))
            return Coefficient.of(0)
    if len(rows) == 1 and closed:
        return rows[0][1]
    table: dict[str, Coefficient] = {}
    said: dict[str, list[str]] = {}  # filter -> its patterns
    for text, value in rows:
        said[text or ""] = ["*"] if text is None else names.patterns(text)
        for pattern in said[text or ""]:
            table.setdefault(pattern, value)
    live = reached([*table], names.seen)
    for text, patterns in said.items():
        if text and live.isdisjoint(patterns):  # mergekit ignores it in silence
            fits = any(fits_one(pattern, names.seen) for pattern in patterns)
            why = " that no filter above it fits" if fits else nearest(f"*{text}*", names.seen.values())
            note(f"{where}: {key}: the filter {text!r} fits no tensor{why}")
    table = {pattern: value for pattern, value in table.items() if pattern in live or pattern == "*"}
    return per(table)


def _rows(setting: Any, names: Names, where: str, problems: Problems) -> list[tuple[str | None, Coefficient]]:
    """(substring, value) in the order in which they are tried; None fits everything, what follows it is never seen."""
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
    if isinstance(setting, Mapping):
        return [setting]
    return setting if isinstance(setting, list) and any(isinstance(e, Mapping) for e in setting) else None


def _value(value: Any, names: Names, where: str, problems: Problems) -> Coefficient | None:
    """A number, or a gradient: linear between its points, from the first layer to the last."""
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
    """YAML's own numbers, and those that YAML takes for texts: 1e-5."""
    try:
        if isinstance(value, int | float | str):
            return float(value) if not isinstance(value, int) else int(value)
    except ValueError:
        pass
    problems.append(f"{where} is a number, not {value!r}")
    return 0.0


def flag(key: str, scopes: Iterable[Settings], default: bool, where: str, problems: Problems) -> bool:
    """A parameter that is true or false for the whole slice."""
    found = next((s[key] for s in scopes if s.get(key) is not None), default)
    if isinstance(found, str) and found.lower() in ("true", "false"):
        return found.lower() == "true"
    if isinstance(found, bool) or found in (0, 1):
        return bool(found)
    problems.append(f"{where}: {key} is true or false for all tensors, not {found!r}")
    return default
