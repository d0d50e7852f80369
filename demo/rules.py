"""How good are coefficients that need no data? Compares rules for sums of two, four and eight of the demo's vectors.

    python demo/rules.py        # about six minutes on two cores

The sum of each rule is judged on test texts of its tasks, beside the sum whose lambda is chosen on validation texts.
"""

from itertools import combinations
from statistics import mean

import numpy as np
import show
import suite
from entry import run
from suite import Suite

import taskvec as tv

VALIDATION, TEST, SUBSETS = 60, 200, 3  # texts a task; sums of each size
SIZES = (2, 4, 8)
GRID = [k / 10 for k in range(1, 11)]
RULES = ("1", "0.4", "0.3", "1/n", "norm_matched", "metagpt")


def summed(rule: str, taus: list[tv.Weights]) -> tv.Weights:
    """The sum of these vectors by a rule."""
    if rule in ("norm_matched", "metagpt"):
        return getattr(tv, rule)(*taus)
    return sum(taus) * (1 / len(taus) if rule == "1/n" else float(rule))


def subsets(names: list[str], size: int) -> list[tuple[str, ...]]:
    """Some of the sums of a size, drawn once and for all."""
    every = [*combinations(names, size)]
    return [every[k] for k in np.random.default_rng(0).permutation(len(every))[:SUBSETS]]


def normalised(s: Suite, tau: tv.Weights, names: tuple[str, ...], own: dict[str, float]) -> float:
    """The mean of accuracy / that of each task's own model, on test texts."""
    return mean(score / own[name] for name, score in s.scores(s.base + tau, s.test, names).items())


def by_validation(s: Suite, taus: list[tv.Weights], names: tuple[str, ...]) -> tuple[float, tv.Weights]:
    """(lambda, lambda * sum), chosen on validation texts."""
    total = sum(taus)
    result = tv.search(s.base + tv.knob("lam") * total, s.judge(names), {"lam": GRID}, test=False, race=True)
    return result.chosen.knobs["lam"], result.chosen.knobs["lam"] * total


def main() -> None:
    """Measure, and print a table."""
    with show.status("loading the encoder, the vectors and the texts"):
        s = suite.load(VALIDATION, TEST)
    own = {name: s.scores(s.base + s.vectors[name], s.test, [name])[name] for name in s.tasks}
    columns = {}
    for size in SIZES:
        rows: dict[str, list[float]] = {rule: [] for rule in (*RULES, "validation")}
        lams = []
        for names in subsets([*s.tasks], size):
            taus = [s.vectors[name] for name in names]
            with show.status(" + ".join(names)):
                for rule in RULES:
                    rows[rule].append(normalised(s, summed(rule, taus), names, own))
                lam, tau = by_validation(s, taus, names)
                lams.append(lam)
                rows["validation"].append(normalised(s, tau, names, own))
        columns[size] = rows, lams
    made = show.table(
        "\nNormalised accuracy of sums, λ by rules that need no data", "λ", *(f"{n} vectors" for n in columns)
    )
    for rule in (*RULES, "validation"):
        label = (
            f"{rule}: {', '.join(f'{mean(lams):.2f}' for _, lams in columns.values())}"
            if rule == "validation"
            else rule
        )
        made.add_row(label, *(show.percent(mean(rows[rule])) for rows, _ in columns.values()))
    show.console.print(made)
    show.console.print(f"[dim]Means over {SUBSETS} sums of a size (one of eight), {TEST} test texts a task.")


if __name__ == "__main__":
    run("rules")
