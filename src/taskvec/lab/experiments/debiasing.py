"""Debiasing: a vector that was trained on skewed data is the sum of a skill and a bias; can the bias be subtracted?

1. Two groups (tasks with the same two classes) stand for a protected attribute, as backgrounds do in Waterbirds
   (Sagawa et al., 2020). The skewed training set has one class mostly in one group and the other class mostly in the
   other (fairness.py), and the balanced set has as many examples, half of each class in each group.
2. Vectors are trained on both, and their difference β = τ_skewed - τ_balanced is the direction of the bias.
3. With a coefficient λ chosen on validation examples, these models are judged:
       θ0 + τ_skewed - λβ     the skewed model without its bias; with λ = 1 it is the balanced model, θ0 + τ_balanced
       θ0 - λβ                the pre-trained model, which may be biased either way, so that λ may be negative
       θ0 - λτ_skewed         the vector of the skewed data negated as a whole
       θ0 + λτ_skewed         a smaller step along it: what a fair comparison must beat
       θ0 + τ_skewed + λr     r: a random vector with the norms of β
4. λ is the one with the best worst group on validation examples, in which all cells weigh the same, among those whose
   control accuracy is at least `keep` of the base's. The controls are tasks that nothing is trained on. Few examples
   of them bind by chance, so that the first model is also shown with the λ that is best whatever the control.
5. All metrics are drawn against λ on validation examples, and the chosen models are judged on test examples. Where two
   models are compared by their worst group, the test is a paired one in the cell that is the worst of the second model
   on validation examples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from taskvec.algebra.coefficients import knob
from taskvec.algebra.weights import Weights
from taskvec.lab.bench import Bench, Choice, require, require_tasks
from taskvec.lab.experiments.common import averaged, compared, control_kept, line_of, too_few
from taskvec.lab.experiments.fairness import Accuracies, ByCell, Groups, Hits, accuracies, groups_of
from taskvec.lab.results import Claim, Curves, Estimate, Findings, Table, percent, verdict
from taskvec.lab.suite import Suite
from taskvec.lab.vectors import Drawn
from taskvec.methods import FUNCTIONS
from taskvec.places.fields import problems_of
from taskvec.searching.evidence import Difference
from taskvec.sources.text import counted

QUESTION = "Can the bias of a model that was trained on skewed data be subtracted?"
BASE, SKEWED, BALANCED = "pre-trained", "trained on skewed data", "trained on balanced data"
DEBIASED, FREE, FROM_BASE, NEGATED, SMALLER, NOISE = (
    "skewed - λβ", "skewed - λβ, whatever the control", "pre-trained - λβ", "pre-trained - λτ_skewed",
    "pre-trained + λτ_skewed", "skewed + λ random",
)  # fmt: skip
Measure = Callable[[Mapping[str, float]], float]  # of a model's metrics
STARTS_SKEWED = (DEBIASED, NOISE)  # which are not the base with λ = 0, and have a constraint


@dataclass(frozen=True, slots=True)
class SkewedSet:
    """Two groups, and how a skewed training set of them is drawn."""

    groups: Sequence[str]  # two tasks with the same two classes
    size: int = 1000  # examples
    skew: float = 0.95  # the share of them in the common cells


@dataclass(frozen=True, slots=True)
class Settings:
    """What a suite may say under `experiments: {debiasing: ...}`."""

    sets: Mapping[str, Any] = field(default_factory=dict)  # name -> {groups, size, skew}
    grid: str = "0:2:0.25"
    base_grid: str = "-1:1:0.25"  # λ in θ0 - λβ: the base may be biased either way
    keep: float = 0.95  # of the base's control accuracy
    controls: Sequence[str] = field(default=())  # those of the suite, or else all other tasks


@dataclass(frozen=True, slots=True)
class _Plan:
    """A skewed set with its balanced one, and how models of it are judged."""

    name: str
    judge: ByCell
    skewed: Drawn
    balanced: Drawn

    @property
    def groups(self) -> Groups:
        """The two groups."""
        return self.judge.groups


@dataclass(slots=True)
class _Model:
    """What was measured of a model, seed by seed."""

    cells: list[Hits] = field(default_factory=list)  # on test examples
    seen: list[Accuracies] = field(default_factory=list)  # on validation examples
    control: list[float] = field(default_factory=list)
    lams: list[float] = field(default_factory=list)
    curves: list[list[tuple[float, Mapping[str, float]]]] = field(default_factory=list)  # (λ, validation metrics)
    broken: int = 0  # seeds for which no λ kept the control accuracy


def run(bench: Bench, settings: Settings) -> Findings:
    """Run the experiment."""
    check(bench.suite, settings)
    plans = _plans(bench, settings)
    measured: list[tuple[_Plan, dict[str, _Model]]] = []
    for place, plan in enumerate(plans):
        models: dict[str, _Model] = {}
        for number, seed in enumerate(bench.seeds):
            share = (place + number / len(bench.seeds)) / len(plans)
            bench.tell(f"debiasing of {' and '.join(plan.groups.names)}, seed {seed}", share)
            _measure(models, plan, settings, seed)
        measured.append((plan, models))
    others = dict.fromkeys(name for plan in plans for name in plan.judge.others)
    kept = (
        f"; the mean accuracy on {', '.join(others)} must be at least {settings.keep:g} of the base's."
        if others
        else "."
    )
    return Findings(
        "debiasing",
        QUESTION,
        (
            *(
                f"{plan.name}: groups {', '.join(plan.groups.names)}; classes {', '.join(plan.groups.classes)}. Skewed "
                f"training set: {_told(plan.skewed)}. Balanced: {_told(plan.balanced)}."
                for plan in plans
            ),
            f"λ from {settings.grid} (from {settings.base_grid} for {FROM_BASE}), by the worst group on validation "
            f"examples{kept}",
            "Parity and equalised odds are differences between the groups, 0 at best. Both classes of a group weigh "
            "the same.",
            f"Seeds of fine-tuning: {', '.join(map(str, bench.seeds))}.",
        ),
        tuple(t for plan, models in measured for t in (_summary(plan, models), _by_cell(plan, models))),
        tuple(c for plan, ms in measured for name in (DEBIASED, FROM_BASE) for c in _curves(plan, name, ms[name])),
        claims=tuple(claim for plan, models in measured for claim in _claims(plan, models)),
        limits=_limits(bench, measured),
    )


def check(suite: Suite, settings: Settings) -> None:
    """Raise RecipeError for what this experiment cannot do with a suite."""
    told = "debiasing: the suite names no `sets` (experiments: {debiasing: {sets: {NAME: {groups: [ONE, OTHER]}}}})"
    require(settings.sets, told)
    require_tasks(suite, "debiasing", settings.controls)
    for name, table in settings.sets.items():
        where = f"debiasing, {name}"
        require(isinstance(table, dict), f"{where}: a set is a table, {{groups: [ONE, OTHER], size: 1000, skew: 0.95}}")
        problems = problems_of(table, SkewedSet, where)
        require(not problems, "; ".join(problems))
        about = SkewedSet(**table)
        groups_of(suite, about.groups, where)
        require(0.5 < about.skew <= 1, f"{where}: skew is above 0.5 and at most 1, not {about.skew}")
        require(about.size >= 4, f"{where}: size is at least 4, not {about.size}")


def _plans(bench: Bench, settings: Settings) -> list[_Plan]:
    """What is to be done for each set."""
    controls = [*(settings.controls or bench.suite.controls or bench.suite.tasks)]
    plans = []
    for name, table in settings.sets.items():
        about = SkewedSet(**table)
        groups = groups_of(bench.suite, about.groups, "debiasing")
        judge = ByCell(bench, groups, tuple(control for control in controls if control not in groups.names))
        skewed = groups.drawn(f"{name}_skewed", about.size, about.skew)
        plans.append(_Plan(name, judge, skewed, groups.drawn(f"{name}_balanced", about.size, 0.5)))
    return plans


def _told(drawn: Drawn) -> str:
    return ", ".join(f"{count} {label} {task}" for task, label, count in drawn.cells)


def _measure(models: dict[str, _Model], plan: _Plan, settings: Settings, seed: int) -> None:
    """Train, choose and judge all models of a seed."""
    judge, bench, lam = plan.judge, plan.judge.bench, knob("lam")
    tau, even = bench.drawn(plan.skewed, seed), bench.drawn(plan.balanced, seed)
    bias = tau - even
    fixed = {BASE: (bench.base, 0.0), SKEWED: (bench.base + tau, 1.0), BALANCED: (bench.base + even, 1.0)}
    families = {
        DEBIASED: bench.base + tau - lam * bias,
        FREE: bench.base + tau - lam * bias,
        FROM_BASE: bench.base - lam * bias,
        NEGATED: bench.base - lam * tau,
        SMALLER: bench.base + lam * tau,
        NOISE: bench.base + tau + lam * FUNCTIONS["random_like"](bias, seed=seed),
    }
    for name, (weights, value) in fixed.items():
        _judge(models.setdefault(name, _Model()), judge, weights, value)
    for name, family in families.items():
        bench.tell(f"debiasing by {plan.name}, seed {seed}: λ of {name}")
        choice = _chosen(judge, family, settings, name)
        model = models.setdefault(name, _Model())
        _judge(model, judge, choice.model, choice.value)
        model.curves.append(choice.curve)
        model.broken += name in STARTS_SKEWED and choice.model == bench.base


def _chosen(judge: ByCell, family: Weights, settings: Settings, name: str) -> Choice:
    worst = f"worst({', '.join(judge.metrics.values())})"
    grid = settings.base_grid if name == FROM_BASE else settings.grid
    kept = [control_kept(judge.others, settings.keep)] if judge.others and name != FREE else []
    return judge.bench.choose(family, judge, grid, worst, kept)


def _judge(model: _Model, judge: ByCell, weights: Weights, value: float) -> None:
    model.cells.append(judge.hits(weights, "test"))
    model.seen.append(accuracies(judge.hits(weights, "validation")))
    if judge.others:
        model.control.append(averaged(judge.bench.scores(weights, judge.others, "test"), judge.others))
    model.lams.append(value)


# ---- findings ------------------------------------------------------------------------------------
def _worst(model: _Model) -> Estimate:
    return Estimate.over([min(accuracies(hits).values()) for hits in model.cells])


def _parity(model: _Model, groups: Groups) -> Estimate:
    return Estimate.over([groups.parity(accuracies(hits)) for hits in model.cells])


def _summary(plan: _Plan, models: Mapping[str, _Model]) -> Table:
    groups, seeds = plan.groups, len(models[BASE].cells)
    return Table(
        f"Debiasing: {plan.name}",
        ("model", "worst group", "accuracy", "parity difference", "equalised-odds difference", "control", "λ"),
        tuple(
            (
                name,
                _worst(model),
                Estimate.over([mean(accuracies(hits).values()) for hits in model.cells]),
                _parity(model, groups),
                Estimate.over([groups.odds(accuracies(hits)) for hits in model.cells]),
                Estimate.over(model.control) if model.control else None,
                Estimate.over(model.lams) if model.curves else None,
            )
            for name, model in models.items()
        ),
        f"Test examples, in %; 95 % intervals over {counted(seeds, 'seed')}. β = τ_skewed - τ_balanced. λ was chosen "
        "on validation examples.",
        plain=("λ",),
    )


def _by_cell(plan: _Plan, models: Mapping[str, _Model]) -> Table:
    cells = [*plan.groups.common, *plan.groups.rare]
    return Table(
        f"Accuracy in each cell: {plan.name}",
        ("model", *(f"{label}, {group}" for group, label in cells)),
        tuple(
            (name, *(Estimate.over([accuracies(hits)[cell] for hits in model.cells]) for cell in cells))
            for name, model in models.items()
        ),
        "Test examples, in %. The first two cells are common in the skewed training set, the last two are rare.",
    )


def _curves(plan: _Plan, name: str, model: _Model) -> list[Curves]:
    """The metrics against λ, on validation examples: accuracies in one chart, differences in another."""
    judge, groups = plan.judge, plan.groups
    accuracy: dict[str, Measure] = {
        "worst group": lambda m: min(judge.accuracies(m).values()),
        "accuracy": lambda m: mean(judge.accuracies(m).values()),
    }
    if judge.others:
        accuracy["control"] = lambda m: mean(m[c] for c in judge.others)
    gaps: dict[str, Measure] = {
        "parity difference": lambda m: groups.parity(judge.accuracies(m)),
        "equalised-odds difference": lambda m: groups.odds(judge.accuracies(m)),
    }
    charts = []
    for y, measures in (("accuracy", accuracy), ("difference between the groups", gaps)):
        lines = {
            what: line_of([[(lam, measure(metrics)) for lam, metrics in curve] for curve in model.curves])
            for what, measure in measures.items()
        }
        marks = {"mean of the chosen λ": mean(model.lams)}
        charts.append(Curves(f"{plan.name}, {name}: {y}, on validation examples", f"λ in {name}", y, lines, marks))
    return charts


def _claims(plan: _Plan, models: Mapping[str, _Model]) -> tuple[Claim, ...]:
    groups = plan.groups

    def in_worst_cell(first: str, second: str) -> Difference:
        """First minus second, in the cell that is the worst of the second on validation examples."""
        cell = min(groups.cells, key=lambda c: mean(seen[c] for seen in models[second].seen))
        return compared(*([[hits[cell] for hits in models[name].cells]] for name in (second, first)))

    def of_parity(first: str, second: str) -> Difference:
        """By how much the first exceeds the second in its preference for common cells: accuracy in common cells minus
        accuracy in rare ones, which is the demographic parity difference with a sign."""

        def signed(name: str) -> list[list[list[float]]]:
            cells = [(1, cell) for cell in groups.common] + [(-1, cell) for cell in groups.rare]
            return [[[sign * hit for hit in hits[cell]] for hits in models[name].cells] for sign, cell in cells]

        return compared(signed(second), signed(first))

    def worst(text: str, first: str, second: str, paper: str = "not reported") -> Claim:
        gap, test = _worst(models[first]).minus(_worst(models[second])), in_worst_cell(first, second)
        here = (
            f"worst group {percent(_worst(models[first]))} against {percent(_worst(models[second]))}: {percent(gap)} "
            f"points, {test.chance} over test examples"
        )
        return Claim(f"{plan.name}: {text}", paper, here, verdict(gap, test.interval))

    def parity(text: str, more: str, less: str) -> Claim:
        first, second = (_parity(models[name], groups) for name in (more, less))
        gap, test = first.minus(second), of_parity(more, less)
        here = (
            f"parity difference {percent(first)} of '{more}', {percent(second)} of '{less}': {percent(gap)} points, "
            f"{test.chance} over test examples"
        )
        return Claim(f"{plan.name}: {text}", "not reported", here, verdict(gap, test.interval))

    suggested = "proposed by the review; no number"
    return (
        parity("Training on skewed data makes a model unfair.", SKEWED, BALANCED),
        worst("Subtracting λβ raises the worst group of the skewed model.", DEBIASED, SKEWED, suggested),
        parity("Subtracting λβ makes the skewed model fairer.", SKEWED, DEBIASED),
        worst("Subtracting λβ does more than a smaller step along τ_skewed.", DEBIASED, SMALLER),
        worst("Subtracting λβ does more than adding a random vector of its norms.", DEBIASED, NOISE),
        worst("With the best λ whatever the control, it raises the worst group more.", FREE, DEBIASED),
        worst("Even then it does more than training on the balanced data (λ = 1).", FREE, BALANCED),
        worst("Subtracting λβ raises the worst group of the pre-trained model, too.", FROM_BASE, BASE),
        worst("Negating all of τ_skewed raises the worst group of the pre-trained model.", NEGATED, BASE, suggested),
    )  # fmt: skip


def _limits(bench: Bench, measured: Sequence[tuple[_Plan, Mapping[str, _Model]]]) -> tuple[str, ...]:
    limits = too_few(bench)
    limits += [
        f"{plan.name}, {name}: with {model.broken} of {len(bench.seeds)} seeds no λ kept the control: this is the base."
        for plan, models in measured
        for name, model in models.items()
        if model.broken
    ]
    if not all(plan.judge.others for plan, _ in measured):
        limits.append("The suite has no task beside the groups, so there was no control.")
    elif not bench.suite.controls:
        limits.append("The suite has no control task, so the controls are its other tasks.")
    limits += [
        "The protected value is which task an example is of: its domain, or a word in it, and no fact about a person.",
        "λ needs validation examples of which the group is known, and β as many balanced examples as skewed ones.",
    ]
    return tuple(limits)
