"""What experiments share: from the scores of tasks to means over examples and over tasks."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean

from taskvec.evals import Numbers
from taskvec.lab.bench import Bench
from taskvec.lab.results import FAILS, FEW, HOLDS, UNTESTED, WEAKLY, Estimate
from taskvec.searching.evidence import Difference, difference
from taskvec.sources.text import counted

Scores = Sequence[Sequence[float]]  # for each seed the scores of the same examples
Point = tuple[float, float, float | None, float | None]  # of a line: x, mean, low, high


def too_few(bench: Bench) -> list[str]:
    """The limit of a run with too few seeds for an interval."""
    count = len(bench.seeds)
    few = f"{counted(count, 'seed')} of fine-tuning: an interval over seeds needs {FEW}."
    return [few] if count < FEW else []


def values_of(scores: Mapping[str, Numbers], task: str) -> list[float]:
    """The scores of a task's examples."""
    values = scores[task]
    return [*values] if isinstance(values, list) else [values]


def over_seeds(scores: Scores) -> list[float]:
    """The mean over seeds of each example's score."""
    return [mean(of_example) for of_example in zip(*scores, strict=True)]


def compared(first: Sequence[Scores], second: Sequence[Scores]) -> Difference:
    """Second minus first on the same test examples: the mean over groups (tasks), each of several seeds."""
    return difference([over_seeds(s) for s in first], [over_seeds(s) for s in second])


def averaged(scores: Mapping[str, Numbers], tasks: Sequence[str]) -> float:
    """The mean over tasks of the mean over their examples."""
    return mean(mean(values_of(scores, task)) for task in tasks)


def line_of(curves: Sequence[Sequence[tuple[float, float]]]) -> tuple[Point, ...]:
    """One line of several seeds: curves has for each seed (x, value), with the same x. Gives (x, mean, low, high)."""
    estimates = [(of_x[0][0], Estimate.over([value for _, value in of_x])) for of_x in zip(*curves, strict=True)]
    return tuple((x, e.mean, e.low, e.high) for x, e in estimates)


def control_kept(controls: Sequence[str], keep: float) -> str:
    """The constraint for `search` that the mean control accuracy is at least this share of the base's."""
    return f"mean({', '.join(controls)}) >= {keep}*mean({', '.join(f'base.{c}' for c in controls)})"


def correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Pearson's; NaN where one of the two never varies."""
    xs, ys = zip(*pairs, strict=True)
    mx, my = mean(xs), mean(ys)
    top = math.fsum((x - mx) * (y - my) for x, y in pairs)
    below = math.sqrt(math.fsum((x - mx) ** 2 for x in xs) * math.fsum((y - my) ** 2 for y in ys))
    return top / below if below else math.nan


def correlated(r: float) -> str:
    """The verdict on a claim that two numbers go together, by their correlation."""
    if math.isnan(r):
        return UNTESTED
    return FAILS if r <= 0 else HOLDS if r > 0.5 else WEAKLY
