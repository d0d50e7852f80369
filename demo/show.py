"""What the demo prints and draws. No arithmetic on weights here."""

import sys
from contextlib import AbstractContextManager
from math import sqrt
from pathlib import Path
from statistics import mean

from data import ROOT
from rich.console import Console
from rich.table import Table
from suite import Scores, Suite
from torch import Tensor

import taskvec as tv
from taskvec.report.plots import cosine_heatmap

console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def status(what: str) -> AbstractContextManager[object]:
    """A spinner on a terminal, nothing in a log."""
    return console.status(what)


def percent(share: float) -> str:
    """0.8123 -> 81.2"""
    return f"{100 * share:.1f}"


def table(title: str, *columns: str) -> Table:
    """An empty table: first column left, the others right."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place else "left")
    return made


def tried(what: str, scores: dict[float, float]) -> None:
    """The lambdas tried on validation texts, in one line."""
    console.print(f"[dim]{what}: " + ", ".join(f"λ {lam:g} -> {percent(score)}" for lam, score in scores.items()))


def opening(s: Suite, test: int) -> None:
    """What is loaded."""
    console.print(f"{len(s.vectors)} task vectors over one sentence encoder of {len(s.base)} tensors.")
    console.print(
        f"Accuracy in %, on {test} test texts a task that trained no vector and chose no λ; "
        f"one standard error is at most {percent(sqrt(0.25 / test))}."
    )


def addition(s: Suite, lam: float, base: Scores, own: Scores, summed: Scores) -> None:
    """Zero-shot, own vector, and the one model with all of them."""
    made = table("\nAddition", "task", "classes", "base", "base + τ", f"base + {lam:g} Στ", "normalised")
    for name, task in s.tasks.items():
        cells = (base[name], own[name], summed[name], summed[name] / own[name])
        made.add_row(f"{name}: {task.about}", str(len(task.classes)), *map(percent, cells))
    made.add_section()
    means = (mean(base.values()), mean(own.values()), mean(summed.values()), mean(summed[n] / own[n] for n in own))
    made.add_row("mean", "", *map(percent, means))
    console.print(made)
    console.print("[dim]normalised = accuracy of the one summed model / accuracy of base + τ on τ's own task")


def negation(target: str, lam: float, keep: float, base: Scores, negated: Scores) -> None:
    """The target and its controls, before and after."""
    made = table("\nNegation", "", "base", f"base - {lam:g} τ({target})")
    made.add_row(f"target: {target}", percent(base[target]), percent(negated[target]))
    controls = [name for name in base if name != target]
    made.add_row("controls: mean of the others", *(percent(mean(x[n] for n in controls)) for x in (base, negated)))
    console.print(made)
    console.print(f"[dim]λ is the largest tried that keeps {keep:.0%} of the base's mean control accuracy (validation)")


def analogy(names: tuple[str, str, str, str], hits: dict[str, Tensor]) -> None:
    """Accuracy on D of each model, and its gain over the base with the standard error of the paired difference."""
    a, b, c, d = names
    made = table(f"\nAnalogy: {a} is to {b} as {c} is to ? Judged on {d}", "model", "accuracy", "gain over base")
    for name, hits_of_model in hits.items():
        gain, error = paired(hits_of_model, hits["base"])
        made.add_row(
            name, percent(hits_of_model.float().mean()), "" if name == "base" else f"{gain:+.1f} ± {error:.1f}"
        )
    console.print(made)
    plain, analogous = list(hits.values())[2:4]
    gain, error = paired(analogous, plain)
    verdict = "within noise" if abs(gain) <= 2 * error else "beyond two standard errors"
    console.print(f"Subtracting {a} changes {c} + {b} by {gain:+.1f} ± {error:.1f} points: {verdict}.")


def paired(a: Tensor, b: Tensor) -> tuple[float, float]:
    """(mean, standard error) of a - b over the same texts, in points."""
    difference = 100 * (a.float() - b.float())
    return difference.mean().item(), (difference.std() / sqrt(len(a))).item()


def cosines(vectors: dict[str, tv.Weights], path: Path) -> None:
    """The cosine of every pair of vectors as a picture: near 0 means that tasks hardly meet."""
    comparison = tv.compare(vectors)
    path.parent.mkdir(parents=True, exist_ok=True)
    cosine_heatmap(comparison, path)
    matrix = comparison.whole.cosine
    names = list(vectors)
    pairs = [(matrix[i][j], names[i], names[j]) for i in range(len(names)) for j in range(i)]
    (low, *few), (high, *many) = min(pairs), max(pairs)
    console.print(f"\nCosines from {low:.3f} ({', '.join(few)}) to {high:.3f} ({', '.join(many)}): {short(path)}")


def short(path: Path) -> Path:
    """The path as seen from the repository."""
    return path.relative_to(ROOT)


def closing(s: Suite, models: dict[str, tv.Weights], out: Path, same: bool, seconds: float) -> None:
    """Where everything lies."""
    console.print("\nSaved, each a folder that transformers opens:")
    names = {source: name for name, w in {"base": s.base, **s.vectors}.items() for source in w.terms}
    for name, weights in models.items():
        console.print(f"  {short(out / name)} = {weights.text(names)}")
    console.print(f"Reloaded with transformers, summed gives the live module's embeddings: {'yes' if same else 'NO'}")
    console.print(f"Done in {seconds:.0f} s.")
