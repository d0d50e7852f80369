"""`disentanglement` measures whether two task vectors disturb one another when both are added to a base.

If they do not, a model with both predicts on each task what a model with the vector of that task alone predicts. The
error xi counts the examples on which the two models differ. Judgements are trials of a journal, as those of a search
are: they can be stopped, continued and shared.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taskvec.algebra.weights import Weights
from taskvec.errors import FormatError, MassError, RecipeError
from taskvec.evals import Evaluator, Given, as_evaluator
from taskvec.searching.entries import Line
from taskvec.searching.journal import Journal, Progress, fingerprints
from taskvec.searching.spaces import Space
from taskvec.version import __version__

if TYPE_CHECKING:
    from numpy.typing import NDArray

Pair = tuple[float, float]  # the coefficients of the two vectors


@dataclass(frozen=True)
class Disentanglement:
    """The error xi over both coefficients, and what each task gains. str() is for people, `as_dict()` for programs."""

    tasks: tuple[str, str]
    alphas: tuple[float, ...]
    xi: "NDArray[Any]"  # (len(alphas), len(alphas)): the first vector's alpha down, the second's across; 0 to 2
    alone: "NDArray[Any]"  # (2, len(alphas)): a task's mean score with its own vector alone
    together: "NDArray[Any]"  # (2, len(alphas), len(alphas)): with both
    base: tuple[float, float]
    by: str  # what is compared example by example: "predictions" or "scores"

    def gains(self, first: float = 1.0, second: float = 1.0) -> dict[str, tuple[float, float]]:
        """Task -> (what its own vector adds to the base's score, what both vectors do) at two of the alphas."""
        i, j = (self.alphas.index(a) for a in (first, second))
        alone, both = (self.alone[0, i], self.alone[1, j]), self.together[:, i, j]
        return {
            task: (float(alone[k]) - self.base[k], float(both[k]) - self.base[k]) for k, task in enumerate(self.tasks)
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything as numbers and lists."""
        return {
            "tasks": list(self.tasks), "alphas": list(self.alphas), "xi": self.xi.tolist(), "by": self.by,
            "base": list(self.base), "alone": self.alone.tolist(), "together": self.together.tolist(),
        }  # fmt: skip

    def __str__(self) -> str:
        down, across = self.tasks
        lines = [
            f"disentanglement error ξ by {self.by}; α of {down} down, of {across} across (0 to 2, smaller is better)"
        ]
        lines.append("        " + " ".join(f"{a:6g}" for a in self.alphas))
        lines += [f"{a:6g}  " + " ".join(f"{x:6.3f}" for x in row) for a, row in zip(self.alphas, self.xi, strict=True)]
        if 1.0 in self.alphas:
            for task, (alone, both) in self.gains().items():
                kept = f", {100 * both / alone:.0f} % of it" if alone > 0 else ""
                lines.append(f"{task}: {alone:+.4g} by its own vector, {both:+.4g} by both{kept} (α = 1)")
        return "\n".join(lines)


def disentanglement(
    base: Weights,
    first: Weights,
    second: Weights,
    evaluate: Given,
    tasks: Sequence[str],
    *,
    alphas: Any = "-1:2:0.5",
    split: str = "validation",
    journal: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Disentanglement:
    """xi(a1, a2) = sum_t mean_x 1[f(x; base + a_t tau_t) != f(x; base + a1 tau1 + a2 tau2)], x of task t, t = 1, 2.

    The disentanglement error (Ortiz-Jimenez et al., 2023, arXiv 2305.12827, eq. 5), with disagreement of predictions as
    the distance: how often a vector changes what the model with the other vector says.

    tasks: the two metrics of `evaluate` that `first` and `second` are the vectors of.
    evaluate: f(x) is what evaluate.predictions(weights, split) gives, {metric: a label for each example}. If the
        evaluator has no predictions, f(x) is the score. Two wrong answers then agree, so xi is a lower bound.
    alphas: values for both coefficients, as for a knob. n values take n (n + 2) + 1 judgements, or fewer if 0 is among
        them.
    journal: a file or a database to write judgements to and to go on from. Calls that share a journal share the work.

    Raises MassError, RecipeError, and TaskvecError for what the evaluator raises.
    """
    if base.kind() != 1 or first.kind() or second.kind():
        raise MassError("disentanglement is about a base, a model, and two task vectors: subtract the base from models")
    if len(tasks) != 2:
        raise RecipeError(f"disentanglement is about two tasks, not {len(tasks)}")
    judge, space = as_evaluator(evaluate), Space.of(alphas, "alphas")
    if not space.values:
        raise RecipeError("alphas need a step: low:high:step")
    grid, pair = space.values, (tasks[0], tasks[1])
    pairs = list(dict.fromkeys([(0.0, 0.0), *((a, 0.0) for a in grid), *((0.0, a) for a in grid), *_square(grid)]))
    about = {
        "base": str(base), "vectors": [str(first), str(second)], "sources": fingerprints([base, first, second]),
        "evaluator": judge.text, "tasks": list(tasks), "alphas": list(grid), "split": split, "version": __version__,
    }  # fmt: skip
    shared = Journal(journal or None, about, kind="interference")
    _require_fitting(shared, pair, len(pairs))

    def judged(number: int, _: Sequence[Line]) -> Line:
        a, b = pairs[number]
        return {"trial": number, **_judged(judge, base + a * first + b * second, split, pair)}

    report = (lambda done: progress(done, len(pairs))) if progress else None
    shared.work(len(pairs), judged, progress=report)
    judgements = {pairs[line["trial"]]: line for line in reversed(shared.lines()) if "trial" in line}
    return _compared(pair, grid, judgements)


def _require_fitting(journal: Journal, tasks: tuple[str, str], count: int) -> None:
    """Raise FormatError for a journal whose judgements are not of these tasks, on the same examples each."""
    sizes: dict[str, int] = {}
    problems = []
    for number, line in enumerate(journal.lines(), 2):
        for task in tasks if "trial" in line else ():
            scores, outputs = line["scores"].get(task), line.get("outputs", {task: line["scores"].get(task)}).get(task)
            if not isinstance(scores, list) or not isinstance(outputs, list) or line["trial"] >= count:
                problems.append(f"line {number}: no judgement of {task}")
            elif {len(scores), len(outputs)} != {sizes.setdefault(task, len(scores))}:
                problems.append(f"line {number}: {task} has other examples than before")
    if problems:
        raise FormatError(f"{journal.store} cannot be continued:", problems[:10])


def _judged(judge: Evaluator, weights: Weights, split: str, tasks: tuple[str, str]) -> Line:
    """What one model scores and answers on the two tasks, and how long that took."""
    began = time.perf_counter()
    scores = {name: values for name, values in judge(weights, split).items() if isinstance(values, list)}
    if missing := [task for task in tasks if task not in scores]:
        known = ", ".join(scores)
        raise RecipeError(f"no metric with a score an example is called {', '.join(missing)}; there is {known}")
    line: Line = {"scores": {task: scores[task] for task in tasks}}
    outputs = judge.predictions(weights, split, tasks)
    if outputs is not None:
        line["outputs"] = {task: outputs[task].tolist() for task in tasks}
    return line | {"seconds": round(time.perf_counter() - began, 3)}


def _square(grid: Sequence[float]) -> list[tuple[float, float]]:
    return [(a, b) for a in grid for b in grid]


def _compared(tasks: tuple[str, str], grid: tuple[float, ...], judgements: Mapping[Pair, Line]) -> Disentanglement:
    """The error and the scores at all pairs of coefficients. judgements: coefficients -> what that model did."""
    import numpy as np

    by = "predictions" if all("outputs" in line for line in judgements.values()) else "scores"
    answers = "outputs" if by == "predictions" else "scores"

    def apart(task: str, alone: Pair, both: Pair) -> float:
        """The share of a task's examples on which two models differ."""
        answers_alone, answers_both = (np.asarray(judgements[pair][answers][task]) for pair in (alone, both))
        return float(np.mean(answers_alone != answers_both))

    def score(task: str, pair: Pair) -> float:
        return float(np.mean(judgements[pair]["scores"][task]))

    first, second = tasks
    return Disentanglement(
        tasks,
        grid,
        np.array([[apart(first, (a, 0.0), (a, b)) + apart(second, (0.0, b), (a, b)) for b in grid] for a in grid]),
        np.array([[score(first, (a, 0.0)) for a in grid], [score(second, (0.0, a)) for a in grid]]),
        np.array([[[score(task, (a, b)) for b in grid] for a in grid] for task in tasks]),
        (score(first, (0.0, 0.0)), score(second, (0.0, 0.0))),
        by,
    )
