"""`search`: the knobs of a recipe, chosen on validation examples alone; test examples are looked at once, at the end.

    search("base + lam*(a - base) + lam*(b - base)", evaluate, {"lam": (0, 1, 0.05)}, objective="mean('*')")

Every candidate is the recipe with numbers for its knobs, judged by an evaluator (evals/) on its validation split. What
is found goes line by line into a journal (trials.py), from which a search that was stopped goes on.
"""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskvec.errors import MismatchError, RecipeError, TaskvecError
from taskvec.evals import Evaluator, Scores, as_evaluator, checked
from taskvec.findings import CHOSEN, Numbers, Result, Trial, means
from taskvec.goals import Goal, constraint, objective
from taskvec.recipe import parse
from taskvec.spaces import Knobs, Space, Tried, propose, total
from taskvec.trials import Journal, Line, now
from taskvec.version import __version__
from taskvec.weights import Weights

BASE = "base"  # the reference model that there always is
RULES = ("best", "largest")
POLL = 0.5  # seconds between two looks at what another process is doing
Progress = Callable[[int, int], None]  # trials done, trials in all


def search(
    recipe: "str | Weights",
    evaluate: "Evaluator | Callable[[Weights, str], Scores] | str",
    knobs: Mapping[str, Any],
    *,
    objective: str = 'mean("*")',
    minimise: bool = False,
    constraints: Sequence[str] = (),
    rule: str = "best",
    early: bool = False,
    references: Mapping[str, Weights] | None = None,
    sampler: str = "grid",
    trials: int | None = None,
    seed: int = 0,
    journal: str | os.PathLike[str] | None = None,
    test: bool = True,
    progress: Progress | None = None,
) -> Result:
    """Try values for the knobs of `recipe`, a model, and choose by what `evaluate` finds on validation examples.

    evaluate: a function (weights, split) -> {metric: a number an example, or one number}, an evaluator (evals/), or
    "FILE.py:function".
    knobs: {name: (low, high, step), (low, high), [values] or "0:1:0.05"}, all that the recipe has.
    objective: arithmetic on metrics (goals.py), made large, or small with `minimise`.
    constraints: comparisons, with metrics of `references` too; the model `base`, the first one in the recipe unless
    given, is always among them.
    rule: "best" takes the best objective of those that keep the constraints, of equal ones the smallest coefficients;
    with `minimise` that is a published rule, the lowest target that passes. "largest" takes the largest value of the
    one knob that keeps them: the other rule, as Ilharco et al. choose lambda for negation (0.95 of the control).
    early: with "largest" and a grid, from the largest down, and no further than the first that keeps the constraints.
    sampler: "grid", all points in order; "random", "tpe" and "cmaes" (extra `search`) for so many `trials`, seeded.
    journal: a file to write to and to go on from. test: judge the chosen and the reference models on test examples,
    once. Raises RecipeError, MismatchError if test examples are among those of validation, and what the evaluator does.
    """
    weights, evaluate = parse(recipe) if isinstance(recipe, str) else recipe, as_evaluator(evaluate)
    spaces = _spaces(weights, knobs)
    goal, bounds, models = _goals(weights, objective, constraints, references or {})
    count = total(spaces, sampler, trials)
    _require_rule(rule, early, sampler, spaces)
    if early:
        spaces = {k: Space(v.low, v.high, tuple(sorted(v.values, reverse=True))) for k, v in spaces.items()}
    if sampler in ("tpe", "cmaes"):
        propose(spaces, sampler, seed, 0, {})  # is it installed, and can it work with these knobs?
    notes = _require_apart(evaluate)
    about = {
        "recipe": str(weights), "sources": _fingerprints(weights, models), "evaluator": evaluate.text,
        "knobs": {name: str(space) for name, space in spaces.items()}, "objective": goal.text, "minimise": minimise,
        "constraints": [b.text for b in bounds], "sampler": sampler, "seed": seed, "version": __version__,
    }  # fmt: skip
    book = _Book(Journal(Path(journal) if journal else None, about), evaluate)
    found = {name: book.reference(name, model, "validation") for name, model in models.items()}
    judge = _Judge(goal, minimise, bounds, {name: means(scores) for name, scores in found.items()})
    for scores in found.values():
        judge.check(scores)
        break
    _run(weights, spaces, sampler, seed, count, early, book, judge, progress)
    tried = judge.all(book.lines())
    chosen, how = _chosen(tried, rule, goal, minimise, bounds)
    measured: dict[str, Mapping[str, Numbers]] = {}
    if test:
        measured = {name: book.reference(name, model, "test") for name, model in models.items()}
        if chosen:
            measured[CHOSEN] = book.candidate(weights.bind(**chosen.knobs), chosen.knobs)
    return Result(
        weights,
        chosen,
        models[BASE],
        how,
        goal.text,
        minimise,
        tuple(tried),
        found,
        measured,
        book.looks(),
        tuple(notes),
    )


# ---- before anything is measured -----------------------------------------------------------------
def _spaces(weights: Weights, knobs: Mapping[str, Any]) -> dict[str, Space]:
    problems = [f"{name} has no range: give one ({name}=0:1:0.05)" for name in sorted(weights.knobs - knobs.keys())]
    problems += [f"{name} is no knob of the recipe" for name in sorted(knobs.keys() - weights.knobs)]
    if problems:
        raise RecipeError("knobs and ranges do not fit together:", problems)
    spaces = {name: Space.of(knobs[name], name) for name in sorted(knobs)}
    if not weights.bind(**{name: space.low for name, space in spaces.items()}).kind():
        raise RecipeError("a search judges models, and this recipe is a task vector: add its base")
    return spaces


def _require_rule(rule: str, early: bool, sampler: str, spaces: Mapping[str, Space]) -> None:
    if rule not in RULES:
        raise RecipeError(f"no rule is called {rule}; there are {', '.join(RULES)}")
    if rule == "largest" and len(spaces) != 1:
        raise RecipeError(f'the rule "largest" is about one knob, and there are {len(spaces)}: {", ".join(spaces)}')
    if early and (rule != "largest" or sampler != "grid"):
        raise RecipeError('one can stop early with the rule "largest" on a grid; others must see all candidates')


def _goals(
    weights: Weights, text: str, constraints: Sequence[str], references: Mapping[str, Weights]
) -> tuple[Goal, list[Goal], dict[str, Weights]]:
    """The objective, the constraints, and the reference models by name, the base among them."""
    goal, bounds = objective(text), [constraint(c) for c in constraints]
    models = {BASE: Weights({weights.donor: 1}) if weights.donor else weights, **references}
    if unknown := sorted({name for g in (goal, *bounds) for name in g.references()} - models.keys()):
        raise RecipeError(f"no reference model is called {', '.join(unknown)}; there is {', '.join(models)}")
    return goal, bounds, models


def _require_apart(evaluate: Evaluator) -> list[str]:
    """Validation and test examples must differ. Says so where the evaluator cannot tell which it uses."""
    validation, test = evaluate.examples("validation"), evaluate.examples("test")
    if validation is None or test is None:
        return [f"{evaluate.text} does not tell its examples: that validation and test differ is its own promise"]
    seen = {digest for digests in validation.values() for digest in digests}
    shared = {metric: sum(d in seen for d in digests) for metric, digests in test.items()}
    if any(shared.values()):
        raise MismatchError(
            "test examples are among the validation examples: what is chosen on them cannot be judged on them",
            [f"{metric}: {n} of {len(test[metric])}" for metric, n in shared.items() if n],
        )
    return []


def _fingerprints(weights: Weights, models: Mapping[str, Weights]) -> dict[str, str]:
    sources = dict.fromkeys([*weights.mentioned, *(leaf for m in models.values() for leaf in m.mentioned)])
    return {source.text: source.fingerprint for source in sources}


# ---- measuring -----------------------------------------------------------------------------------
class _Book:
    """What the journal knows, and what it does not know measured and written down."""

    def __init__(self, journal: Journal, evaluate: Evaluator):
        self.journal, self.evaluate = journal, evaluate

    def lines(self) -> list[Line]:
        """All that is known."""
        return self.journal.lines()

    def reference(self, name: str, model: Weights, split: str) -> Mapping[str, Numbers]:
        """The scores of a reference model."""
        for line in self.lines():
            if line.get("reference") == name and line["split"] == split:
                return _scores(line)
        scores, _ = self.measured(model, split)
        self.journal.add({"reference": name, "split": split, "scores": scores, "time": now()})
        return scores

    def candidate(self, model: Weights, knobs: Knobs) -> Mapping[str, Numbers]:
        """The test scores of the chosen candidate."""
        for line in self.lines():
            if line.get("test") == knobs:
                return _scores(line)
        scores, _ = self.measured(model, "test")
        self.journal.add({"test": knobs, "split": "test", "scores": scores, "time": now()})
        return scores

    def looks(self) -> int:
        """How many candidates were judged on test examples."""
        return sum("test" in line for line in self.lines())

    def measured(self, model: Weights, split: str) -> tuple[dict[str, Numbers], float]:
        """(scores, seconds). Raises what the evaluator raises; MismatchError where the examples are not as before."""
        began = time.perf_counter()
        found = checked(self.evaluate(model, split), self.evaluate.text)
        scores = {name: _plain(values) for name, values in found.items()}
        before = next((_scores(line) for line in self.lines() if line.get("split", "validation") == split), scores)
        if problems := list(_unlike(before, scores)):
            raise MismatchError(f"{self.evaluate.text} is not what it was with the models before, {split}:", problems)
        return scores, time.perf_counter() - began


def _plain(values: Any) -> Numbers:
    """As JSON has it: whole numbers short."""
    if getattr(values, "ndim", 0):
        return [int(v) if v == int(v) else v for v in map(float, values)]
    return float(values)


def _scores(line: Line) -> Mapping[str, Numbers]:
    found: Mapping[str, Numbers] = line["scores"]
    return found


def _unlike(old: Mapping[str, Numbers], new: Mapping[str, Numbers]) -> list[str]:
    def size(values: Numbers) -> str:
        return f"{len(values)} examples" if isinstance(values, list) else "a single number"

    names = {**old, **new}
    told = {n: tuple(size(s[n]) if n in s else "no metric" for s in (old, new)) for n in names}
    return [f"{name}: {after}, {before} before" for name, (before, after) in told.items() if after != before]


def _run(
    weights: Weights,
    spaces: Mapping[str, Space],
    sampler: str,
    seed: int,
    count: int,
    early: bool,
    book: _Book,
    judge: "_Judge",
    progress: Progress | None,
) -> None:
    """Trials until all are done, by us or by another process with the same journal."""
    while True:
        if early and any(not t.broken for t in judge.all(book.lines())):
            return
        number = book.journal.claim(count)
        if number is None:
            if not book.journal.waiting(count):
                return
            time.sleep(POLL)
            continue
        past = {t.number: t for t in judge.all(book.lines())}
        memos = {line["trial"]: line.get("memo", {}) for line in book.lines() if "trial" in line}
        tried = {k: Tried(t.knobs, t.goodness, math.fsum(t.broken.values()), memos[k]) for k, t in past.items()}
        knobs, memo = propose(spaces, sampler, seed, number, tried)
        try:
            scores, seconds = book.measured(weights.bind(**knobs), "validation")
        except TaskvecError as error:
            raise type(error)(f"trial {number} ({_knobs_text(knobs)}): {error}") from None
        line = {"trial": number, "knobs": knobs, "scores": scores, "seconds": round(seconds, 3), "time": now()}
        book.journal.add(line | ({"memo": memo} if memo else {}))
        if progress:
            progress(len(past) + 1, count)


# ---- judging -------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Judge:
    """How good a candidate is, and which bounds it breaks."""

    goal: Goal
    minimise: bool
    bounds: Sequence[Goal]
    references: Mapping[str, Mapping[str, float]]

    def check(self, scores: Mapping[str, Numbers]) -> None:
        """Raise for a metric that there is not, before candidates are measured."""
        self.trial({"trial": -1, "knobs": {}, "scores": scores, "seconds": 0.0})

    def trial(self, line: Line) -> Trial:
        """A line of the journal, judged."""
        table = {"": means(line["scores"]), **self.references}
        value = self.goal.value(table)
        broken = {b.text: amount for b in self.bounds if (amount := b.broken(table))}
        goodness = -value if self.minimise else value
        return Trial(line["trial"], line["knobs"], line["scores"], line["seconds"], goodness, broken)

    def all(self, lines: Sequence[Line]) -> list[Trial]:
        """Every finished trial, by number."""
        found = {line["trial"]: self.trial(line) for line in lines if "trial" in line}
        return [found[number] for number in sorted(found)]


def _chosen(
    tried: Sequence[Trial], rule: str, goal: Goal, minimise: bool, bounds: Sequence[Goal]
) -> tuple[Trial | None, str]:
    """(the candidate, or None where none keeps the constraints; by which rule, in words)."""
    under = f" that keeps {' and '.join(b.text for b in bounds)}" if bounds else ""
    good = [t for t in tried if not t.broken]
    if rule == "largest":
        (name,) = tried[0].knobs
        how = f"the largest {name} of {len(tried)}{under}"
        return max(good, key=lambda t: t.knobs[name], default=None), how
    how = f"the {'lowest' if minimise else 'highest'} {goal.text} of {len(tried)} candidates{under}"
    return max(good, key=lambda t: (t.goodness, -sum(map(abs, t.knobs.values())), -t.number), default=None), how


def _knobs_text(knobs: Knobs) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in knobs.items())
