"""Merges the demo's task vectors by every merge method, and prints one table of normalised accuracies: `make methods`.

Each method makes one direction of all vectors. Lambda is chosen for each method on validation texts alone, from its
grid, and the table shows accuracies on test texts, which are looked at once. A method that mixes models (karcher,
geometric_median, slerp) is given base + tau_t.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

import show
import suite
from entry import run
from suite import Suite

import taskvec as tv

RESULTS = Path(__file__).resolve().parent / "methods.json"
VALIDATION, TEST = 60, 200  # texts a task
SUMS = (0.3, 0.4, 0.5, 0.6, 0.8, 1.2)  # lambdas of what adds up over the tasks,
MEANS = (0.5, 1.0, 1.5, 2.0, 3.0)  # and of what is of the size of one vector

# Name -> (the direction as a recipe over all vectors, {}, the grid of its lambda). The base is `base`.
DIRECTIONS = {
    "task arithmetic (sum)": ("{sum}", SUMS),
    "uniform soup (mean)": ("({sum})/{n}", MEANS),
    "ties": ("ties({all})", MEANS),
    "ties, tensor by tensor": ('ties({all}, scope="tensor")', MEANS),
    "dare, drop 0.5": ("{dare}", SUMS),
    "dare_ties": ("dare_ties({all})", MEANS),
    "della_ties": ("della_ties({all})", MEANS),
    "breadcrumbs": ("{breadcrumbs}", SUMS),
    "unified (EMR)": ("unified({all})", MEANS),
    "magmax": ("magmax({all})", MEANS),
    "consensus TA": ("consensus({all})", SUMS),
    "pcb": ("pcb({all})", MEANS),
    "sce": ("sce({all})", MEANS),
    "ram": ("ram({all})", SUMS),
    "ramplus": ("ramplus({all})", SUMS),
    "model stock": ("stock({all})", MEANS),
    "multislerp": ("multislerp({all})", MEANS),
    "metagpt": ("metagpt({all})", MEANS),
    "karcher mean": ("karcher({models}) - base", MEANS),
    "geometric median": ("geometric_median({models}) - base", MEANS),
    "lines of the sum": ("lines({sum})", SUMS),
    "iso_c": ("iso_c({all})", SUMS),
    "iso_cts": ("iso_cts({all})", SUMS),
    "tsv_m": ("tsv_m({all})", SUMS),
    "knots": ("knots({all})", MEANS),
    "svc of the sum": ("svc({sum}, {all})", SUMS),
    "random, of the sum's norm": ("random_like({sum})", SUMS),
}


def direction(s: Suite, recipe: str) -> tv.Weights:
    """The recipe with the names of the tasks that there are."""
    names = {f"t{k}": s.base + tau for k, tau in enumerate(s.vectors.values())}
    taus = [f"t{k} - base" for k in range(len(names))]
    filled = recipe.format(
        all=", ".join(taus), models=", ".join(names), sum="(" + " + ".join(taus) + ")", n=len(names),
        dare=" + ".join(f"dare({t}, seed={k})" for k, t in enumerate(taus)),
        breadcrumbs=" + ".join(f"breadcrumbs({t})" for t in taus),
    )  # fmt: skip
    return tv.parse(filled, base=s.base, **{n: w for n, w in names.items() if n in filled})


def chosen(s: Suite, tau: tv.Weights, grid: tuple[float, ...]) -> tuple[float, dict[float, float]]:
    """The lambda with the best mean validation accuracy, and what every one of them had."""
    tried = {lam: mean(s.scores(s.base + lam * tau, s.validation, s.tasks).values()) for lam in grid}
    return max(tried, key=tried.__getitem__), tried


def main() -> None:
    """Measure all methods, or those that are named, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=DIRECTIONS, help="a method (may be repeated)")
    names = parser.parse_args().only or list(DIRECTIONS)
    with show.status("loading the encoder, the vectors and the texts"):
        s = suite.load(VALIDATION, TEST)
    base = s.scores(s.base, s.test, s.tasks)
    own = {name: s.scores(s.base + s.vectors[name], s.test, [name])[name] for name in s.tasks}
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names:
        began = time.monotonic()
        recipe, grid = DIRECTIONS[name]
        tau = direction(s, recipe)
        with show.status(name):
            lam, tried = chosen(s, tau, grid)
            scores = s.scores(s.base + lam * tau, s.test, s.tasks)
        edge = lam in (grid[0], grid[-1])
        shares = [scores[task] / own[task] for task in s.tasks]
        results[name] = {
            "lambda": lam, "at the edge of its grid": edge, "validation": tried, "test": scores,
            "mean": mean(scores.values()), "normalised": mean(shares), "worst": min(shares),
            "seconds": round(time.monotonic() - began, 1),
        }  # fmt: skip
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        show.console.print(f"{name}: λ {lam:g}, {100 * results[name]['mean']:.1f}, {100 * mean(shares):.1f} normalised")
    table(results, base, own)


def table(results: dict[str, dict[str, Any]], base: dict[str, float], own: dict[str, float]) -> None:
    """Best first."""
    columns = ("method", "λ", "accuracy", "normalised", "worst task", "s")
    made = show.table("\nOne model for all tasks, by every method", *columns)
    shares = [base[task] / own[task] for task in own]
    made.add_row("base", "", *map(show.percent, (mean(base.values()), mean(shares), min(shares))), "")
    made.add_section()
    for name, row in sorted(results.items(), key=lambda item: -item[1]["normalised"]):
        lam = f"{row['lambda']:g}{' *' if row['at the edge of its grid'] else ''}"
        cells = (show.percent(row[key]) for key in ("mean", "normalised", "worst"))
        made.add_row(name, lam, *cells, f"{row['seconds']:.0f}")
    show.console.print(made)
    error = 100 * (0.25 / (TEST * len(own))) ** 0.5
    show.console.print(
        f"[dim]λ chosen on {VALIDATION} validation texts a task; * at the edge of its grid. {TEST} test texts a task: "
        f"one standard error of a mean accuracy is at most {error:.1f} points: neighbours hardly differ."
    )


if __name__ == "__main__":
    run("methods")
