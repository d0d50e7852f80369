"""What an experiment gives: tables, curves and verdicts, as plain data that is written as JSON and read back.

An `Estimate` is a mean over seeds of fine-tuning with its 95 % interval (Student's). Fewer than three seeds have no
interval, and the page says so. A `Claim` puts a statement of the paper beside what was measured here, with a verdict
in words.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from taskvec.errors import DataError
from taskvec.evals.order import digest
from taskvec.places.local import replace_text
from taskvec.searching.evidence import Interval, spread

FEW = 3  # seeds, below which there is no interval
HOLDS, WEAKLY, FAILS, UNTESTED = "holds", "holds weakly", "fails", "cannot be tested here"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds. low, high: where it may lie; None where that is not known."""

    mean: float
    low: float | None = None
    high: float | None = None
    values: tuple[float, ...] = ()  # one for each seed

    @classmethod
    def over(cls, values: Sequence[float]) -> "Estimate":
        """Of what each seed gave. Too few seeds, or seeds that all gave the same, say nothing of an interval."""
        if len(values) < FEW or len({*values}) < 2:
            return cls(mean(values), values=tuple(values))
        interval = spread(values).interval
        return cls(interval.mean, interval.low, interval.high, tuple(values))

    def minus(self, other: "Estimate") -> "Estimate":
        """The difference, seed by seed."""
        return Estimate.over([a - b for a, b in zip(self.values, other.values, strict=True)])

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None


Cell = str | float | Estimate | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells below columns. Numbers are shares of 1 unless the column's name ends in a unit of its own."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    plain: tuple[str, ...] = ()  # columns whose numbers are shown as they are, not in %


@dataclass(frozen=True, slots=True)
class Curves:
    """Lines over one number, such as λ. lines: name -> (x, mean, low, high); marks: name -> the x that was chosen.

    bands: what low and high are.
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, tuple[tuple[float, float, float | None, float | None], ...]]
    marks: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    bands: str = "95 % intervals over seeds"


@dataclass(frozen=True, slots=True)
class Points:
    """A scatter of named points."""

    title: str
    x: str
    y: str
    points: Mapping[str, tuple[float, float]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement of the paper or of its review, what the paper measured, what was measured here, and a verdict."""

    claim: str
    paper: str
    here: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Findings:
    """All that an experiment gives."""

    experiment: str
    question: str
    protocol: tuple[str, ...]  # sentences: what was done
    tables: tuple[Table, ...] = ()
    curves: tuple[Curves, ...] = ()
    points: tuple[Points, ...] = ()
    claims: tuple[Claim, ...] = ()
    limits: tuple[str, ...] = ()  # what cannot be concluded, and why

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def read_findings(path: Path) -> Findings:
    """The findings in a file that `write_findings` wrote. Raises DataError."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return Findings(
            table["experiment"], table["question"], tuple(table["protocol"]),
            tuple(_table(t) for t in table["tables"]),
            tuple(Curves(**{**c, "lines": {n: tuple(map(tuple, p)) for n, p in c["lines"].items()}})
                  for c in table["curves"]),
            tuple(Points(**{**p, "points": {n: tuple(xy) for n, xy in p["points"].items()}}) for p in table["points"]),
            tuple(Claim(**c) for c in table["claims"]), tuple(table["limits"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} holds no findings of the lab: {error}") from None


def _table(table: Mapping[str, Any]) -> Table:
    rows = tuple(tuple(_cell(cell) for cell in row) for row in table["rows"])
    return Table(table["title"], tuple(table["columns"]), rows, table["note"], tuple(table["plain"]))


def _cell(cell: Any) -> Cell:
    return Estimate(**{**cell, "values": tuple(cell["values"])}) if isinstance(cell, dict) else cell


def write_findings(findings: Findings, path: Path) -> str:
    """Write them as JSON; returns a digest of the file's text."""
    text = json.dumps(findings.as_dict(), indent=1, ensure_ascii=False) + "\n"
    replace_text(path, text)
    return digest(text)


def verdict(seeds: Estimate, examples: Interval | None = None, wanted: float = 0.0) -> str:
    """Of a claim that a difference is above `wanted`.

    It holds if both intervals lie above: that over seeds of fine-tuning, and that over test examples. It holds weakly
    if the mean alone does. With fewer than three seeds there is no interval, so a claim holds weakly at best.
    """
    if seeds.mean <= wanted:
        return FAILS
    by_seeds = len(seeds.values) >= FEW and (seeds.low is None or seeds.low > wanted)
    by_examples = examples is None or (examples.known and examples.low > wanted)
    return HOLDS if by_seeds and by_examples else WEAKLY


def percent(value: "float | Estimate") -> str:
    """61.2, or 61.2 [60.1, 62.3]: a share, or a difference of shares, in points."""
    if isinstance(value, Estimate):
        ends = (
            f" [{100 * value.low:.1f}, {100 * value.high:.1f}]"
            if value.low is not None and value.high is not None
            else ""
        )
        return f"{100 * value.mean:.1f}{ends}"
    return f"{100 * value:.1f}"
