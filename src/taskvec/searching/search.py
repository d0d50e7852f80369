"""`search`: the knobs of a recipe, chosen on validation examples alone; test examples are looked at once, at the end.

    search("base + lam*(a - base) + lam*(b - base)", evaluate, {"lam": (0, 1, 0.05)}, objective="mean('*')")

A candidate is the recipe with a number for each knob. The way of a search:

1. Everything that can be wrong with the arguments is checked before any model is judged.
2. The journal is begun, or read where an earlier search stopped, and the reference models are judged (journal.py).
3. Trial by trial a candidate is proposed (spaces.py) and an evaluator judges it on validation examples (measure.py), or
   on a part of them if it is hopeless (race.py). Its scores are a line of the journal (`_Trials.one`).
4. The best candidate is chosen by rule (judge.py) and judged on test examples, once. The result (findings.py) is read
   back from the lines of the journal (records.py).
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from taskvec.algebra.weights import Weights
from taskvec.errors import RecipeError, TaskvecError, retold
from taskvec.evals import SPLITS, Evaluator, Given, Numbers, Told, as_evaluator, require_apart
from taskvec.recipes.recipe import parse, replaced
from taskvec.searching.entries import Line, judged_before, require_fitting, scores_of
from taskvec.searching.findings import BASE, Result
from taskvec.searching.goals import Goal, constraint, objective
from taskvec.searching.journal import Journal, Progress, fingerprints
from taskvec.searching.judge import RULES, Judge
from taskvec.searching.measure import Models, measure
from taskvec.searching.race import dealt, raced
from taskvec.searching.records import choice_line, record
from taskvec.searching.spaces import SEQUENTIAL, SEVERAL, STUDIES, Space, propose, scattered, total
from taskvec.searching.trial import in_words
from taskvec.version import __version__

EVERYTHING = 'mean("*")'


def search(
    recipe: "str | Weights",
    evaluate: Given,
    knobs: Mapping[str, Any],
    *,
    objective: "str | Sequence[str]" = EVERYTHING,
    minimise: bool = False,
    constraints: Sequence[str] = (),
    rule: str = "best",
    early: bool = False,
    race: bool = False,
    references: Mapping[str, Weights] | None = None,
    replicates: "Sequence[Mapping[str, Weights | str]]" = (),
    sampler: str = "grid",
    trials: int | None = None,
    seed: int = 0,
    journal: str | os.PathLike[str] | None = None,
    test: bool = True,
    progress: Progress | None = None,
) -> Result:
    """Try values for the knobs of `recipe`, a model, and choose by what `evaluate` says on validation examples.

    evaluate: a function (weights, split) -> {metric: a number for each example, or one number}, an evaluator (evals/),
        "FILE.py:function" or "FILE.yml". See docs/evaluators.md.
    knobs: {name: (low, high, step), (low, high), [values] or "0:1:0.05"} for all knobs of the recipe. "a_*" gives a
        range to all knobs whose names fit (`layerwise` makes many).
    objective: arithmetic on metrics (goals.py), made large, or small with `minimise`. If there are several, the first
        one chooses; `front()` of the result has the candidates that no other beats in all of them.
    constraints: comparisons, also with metrics of `references`. The model `base`, the first one in the recipe unless
        you give it, is always among these.
    rule: "best" takes the best objective of the candidates that keep the constraints, and of equal ones the smallest
        coefficients. "largest" takes the largest value of the one knob that keeps them, as Ilharco et al. choose lambda
        for negation. early: with "largest" and a grid, go from the largest value down to the first that keeps the
        constraints.
    race: give a candidate up after a quarter of its examples, a fair sample, if it has less than a hundredth of a
        chance to beat the best so far (race.py). For evaluators that can judge by parts, and for the rule "best".
    replicates: the models of the recipe from other seeds: [{"a": seed 2's}, {"a": ...}]. Every candidate is then judged
        with each of them and with the recipe's own models, and the mean counts.
    sampler: "grid" tries all points in order. "random", "tpe", "cmaes" and, for several objectives, "nsga2" (extra
        `search`) try so many `trials`, with a seed. "greedy" and "forward" build a sum up term by term (spaces.py).
    journal: a file to write to and to go on from, or a database (stores.py: "postgresql://host/base#name").
    test: judge the chosen model and the references on test examples, once. Raises RecipeError, MismatchError if test
        examples are among those of validation or if not all examples have an identity, and TaskvecError for whatever
        the evaluator raises.
    """
    weights, evaluate = parse(recipe) if isinstance(recipe, str) else recipe, as_evaluator(evaluate)
    spaces = _spaces(weights, knobs)
    seeds = [weights, *(replaced(weights, given) for given in replicates)]
    goals, bounds, models = _goals(weights, objective, constraints, references or {})
    count = total(spaces, sampler, trials)
    _require_direction(evaluate, goals, minimise, count)
    _require_rule(rule, early, sampler, spaces, len(goals))
    if early:
        spaces = {k: Space(v.low, v.high, tuple(sorted(v.values, reverse=True))) for k, v in spaces.items()}
    if sampler in STUDIES:
        propose(spaces, sampler, seed, 0, [], len(goals))  # raises if it is not installed or cannot take these knobs
    identities = require_apart(evaluate)
    about = {
        "recipe": str(weights), "sources": fingerprints([*seeds, *models.values()]), "evaluator": evaluate.text,
        "knobs": {name: str(space) for name, space in spaces.items()}, "objective": [g.text for g in goals],
        "minimise": minimise, "constraints": [b.text for b in bounds], "sampler": sampler, "seed": seed, "race": race,
        "version": __version__,
        **({"references": {name: str(model) for name, model in references.items()}} if references else {}),
        **({"replicates": [str(w) for w in seeds[1:]]} if seeds[1:] else {}),
    }  # fmt: skip
    shared = Journal(journal or None, about)
    require_fitting(about, shared.lines(), str(shared.store))
    references_scored = {
        name: _reference(shared, evaluate, name, model, "validation") for name, model in models.items()
    }
    identities.require_all(references_scored[BASE], "validation")
    judge = Judge.of(goals, minimise, bounds, references_scored)
    judge.check(references_scored[BASE])
    work = _Trials(seeds, spaces, sampler, seed, count, early, race and rule == "best", evaluate, judge)
    report = (lambda done: progress(done, count)) if progress else None
    shared.work(work.total, work.one, sampler in SEQUENTIAL, report)
    return _ended(work, models, shared, rule, test, identities, about)


# ---- before anything is measured -----------------------------------------------------------------
def _spaces(weights: Weights, given: Mapping[str, Any]) -> dict[str, Space]:
    knobs = _expanded(given, weights.knobs)
    problems = [f"{name} has no range: give one ({name}=0:1:0.05)" for name in sorted(weights.knobs - knobs.keys())]
    problems += [f"{name} is no knob of the recipe" for name in sorted(knobs.keys() - weights.knobs)]
    if problems:
        raise RecipeError("knobs and ranges do not fit together:", problems)
    spaces = {name: Space.of(knobs[name], name) for name in sorted(knobs)}
    if not weights.bind(**{name: space.high for name, space in spaces.items()}).kind():
        raise RecipeError("a search judges models, and this recipe is a task vector: add its base")
    return spaces


def _expanded(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The ranges by knob: patterns are replaced by the knobs that fit them, and a knob that is named itself keeps its
    own range. A pattern that no knob fits stays, so that the caller can refuse it."""
    ranges = {name: space for name, space in given.items() if not set(name) & set("*?[")}
    for pattern in given.keys() - ranges.keys():
        fitting = {name: given[pattern] for name in names if fnmatchcase(name, pattern)}
        ranges = {pattern: given[pattern], **ranges} if not fitting else {**fitting, **ranges}
    return ranges


def _require_rule(rule: str, early: bool, sampler: str, spaces: Mapping[str, Space], goals: int) -> None:
    if rule not in RULES:
        raise RecipeError(f"no rule is called {rule}; there are {', '.join(RULES)}")
    if rule == "largest" and len(spaces) != 1:
        raise RecipeError(f'the rule "largest" is about one knob, and there are {len(spaces)}: {", ".join(spaces)}')
    if early and (rule != "largest" or sampler != "grid"):
        raise RecipeError('stopping early needs the rule "largest" and a grid: other searches must see all candidates')
    if sampler in SEVERAL and goals < 2:
        raise RecipeError(f"{sampler} weighs several objectives, and there is one: give another, or take tpe")


def _require_direction(evaluate: Evaluator, goals: Sequence[Goal], minimise: bool, count: int) -> None:
    """Raise RecipeError if the mean of all metrics is to be made large, although less is better of some of them."""
    if evaluate.falling and count > 1 and not minimise and any(g.text == EVERYTHING for g in goals):
        raise RecipeError(
            f"the objective {EVERYTHING} is made large, but of {', '.join(evaluate.falling)} less is better: "
            f'say what counts (--objective NAME, or --objective="-{evaluate.falling[-1]}")'
        )


def _goals(
    weights: Weights, texts: "str | Sequence[str]", constraints: Sequence[str], references: Mapping[str, Weights]
) -> tuple[list[Goal], list[Goal], dict[str, Weights]]:
    """The objectives, the constraints, and the reference models by name, the base among them."""
    goals = [objective(text) for text in ([texts] if isinstance(texts, str) else texts)]
    bounds = [constraint(c) for c in constraints]
    if not goals:
        raise RecipeError("there is no objective: what is to be made large?")
    models = {BASE: Weights({weights.donor: 1}) if weights.donor else weights, **references}
    if unknown := sorted({name for g in (*goals, *bounds) for name in g.references()} - models.keys()):
        raise RecipeError(f"no reference model is called {', '.join(unknown)}; there is {', '.join(models)}")
    return goals, bounds, models


# ---- the trials ----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Trials:
    """What every trial of a search needs. `one` is the whole way from the number of a trial to its line."""

    seeds: Sequence[Weights]  # the recipe, and the same with the vectors of each other seed
    spaces: Mapping[str, Space]
    sampler: str
    seed: int  # of the sampler
    count: int
    early: bool  # stop at the first candidate that keeps the constraints
    race: bool  # give up candidates that have next to no chance
    evaluate: Evaluator
    judge: Judge

    def total(self, lines: Sequence[Line]) -> int:
        """How many trials there are to be: all, or with `early` those up to the first that keeps the constraints."""
        passing = [t.number for t in self.judge.all(lines) if not t.broken] if self.early else []
        return min([self.count, *(number + 1 for number in passing)])

    def one(self, number: int, lines: Sequence[Line]) -> Line:
        """Propose the candidate of a trial and measure it; {"end": number} if there is nothing more to try.

        lines: the journal so far. The proposal of some samplers depends on the trials in it."""
        finished, place = self.judge.finished(lines), number
        if self.race and self.sampler == "grid":
            place = scattered(self.count)[number]
        proposed = propose(self.spaces, self.sampler, self.seed, place, finished, len(self.judge.goals))
        if proposed is None:
            return {"end": number}
        knobs, memo = proposed
        line = {"trial": number, "knobs": knobs} | ({"memo": memo} if memo else {})
        try:
            return line | self._measured([weights.bind(**knobs) for weights in self.seeds], lines)
        except TaskvecError as error:
            raise retold(error, f"trial {number} ({in_words(knobs)}): {error}") from error

    def _measured(self, models: Models, lines: Sequence[Line]) -> Line:
        """What a candidate scores on validation examples; in a race perhaps on a part of them, and is given up."""
        before = judged_before(lines, "validation")
        rival, _ = self.judge.chosen(self.judge.all(lines), "best") if self.race else (None, "")
        by = dealt(self.evaluate, before) if rival else None
        if by is None or rival is None:
            return measure(self.evaluate, models, "validation", before).line()
        return raced(self.evaluate, models, by, before, self.judge, rival.scores)


def _once(journal: Journal, evaluate: Evaluator, what: Line, models: Models) -> Mapping[str, Numbers]:
    """The scores of models on the split of `what`, judged once for all processes that share the journal."""

    def measured(lines: Sequence[Line]) -> Line:
        split = what["split"]
        return measure(evaluate, models, split, judged_before(lines, split)).line()

    return scores_of(journal.once(what, measured))


def _reference(journal: Journal, evaluate: Evaluator, name: str, model: Weights, split: str) -> Mapping[str, Numbers]:
    """The scores of a reference model."""
    return _once(journal, evaluate, {"reference": name, "split": split}, [model])


def _ended(
    work: _Trials,
    models: Mapping[str, Weights],
    journal: Journal,
    rule: str,
    test: bool,
    identities: Told,
    about: Mapping[str, Any],
) -> Result:
    """The end of a search: choose a candidate, judge it and the references on test examples if `test`, and write the
    choice into the journal. What the journal already has of this is not done again."""
    weights, evaluate = work.seeds[0], work.evaluate
    chosen, how = work.judge.chosen(work.judge.all(journal.lines()), rule)
    model = weights.bind(**chosen.knobs) if chosen else models[BASE]
    if test:
        for name, reference in models.items():
            _reference(journal, evaluate, name, reference, "test")
        if chosen:
            what = {"test": chosen.knobs, "split": "test"}
            _once(journal, evaluate, what, [w.bind(**chosen.knobs) for w in work.seeds])
    lines = journal.lines()
    notes = identities.notes({split: judged_before(lines, split) for split in SPLITS})
    journal.choose(choice_line(chosen.knobs if chosen else None, rule, how, model, weights, notes))
    read_back = record(about, journal.lines())
    return Result(**{f.name: getattr(read_back, f.name) for f in fields(read_back)}, weights=model)
