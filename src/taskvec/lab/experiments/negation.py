"""Forgetting: subtract a task's vector, and look at the task and at everything else (Ilharco et al., 2023, section 3).

1. The target is a task that a vector is trained on. The controls are tasks that no vector is trained on, or where the
   suite has none, all other tasks; the control accuracy is their mean.
2. Five models are judged: the base θ0, the fine-tuned θ0 + τ, gradient ascent θ0 + τ_ascent, and, with a coefficient λ
   chosen on validation examples, θ0 + λr, where r is a random vector with the norm of τ in each tensor, and θ0 - λτ.
3. Two rules for λ are published, and both are reported. The paper takes the largest λ whose control accuracy is at
   least 95 % of the base's. Its follow-ups take, of all λ that keep this, the one with the lowest target accuracy.
4. For the sensitivity to λ, the target and the control are drawn for λ from 0 to 2, on validation examples.
5. What fine-tuning did not gain, negation cannot take: the gain of fine-tuning and the drop by negation are compared
   over the targets.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean

from taskvec.algebra.coefficients import knob
from taskvec.algebra.weights import Weights
from taskvec.lab.bench import Bench, Choice, require, require_tasks
from taskvec.lab.experiments.common import (
    averaged,
    compared,
    control_kept,
    correlated,
    correlation,
    line_of,
    too_few,
    values_of,
)
from taskvec.lab.results import (
    FAILS,
    HOLDS,
    UNTESTED,
    WEAKLY,
    Claim,
    Curves,
    Estimate,
    Findings,
    Points,
    Table,
    percent,
    verdict,
)
from taskvec.lab.suite import Suite
from taskvec.methods import FUNCTIONS
from taskvec.searching.evidence import Difference, holm
from taskvec.sources.text import counted

QUESTION = "Does subtracting a task's vector make a model forget the task, and nothing else?"
RULES = ("largest", "lowest target")
MODELS = (
    "pre-trained", "fine-tuned", "gradient ascent", "random vector, largest λ", "random vector, lowest target",
    "negative vector, largest λ", "negative vector, lowest target",
)  # fmt: skip
NOISE, NEGATIVE = MODELS[4], MODELS[6]  # those that are compared in claims


@dataclass(frozen=True, slots=True)
class Settings:
    """What a suite may say under `experiments: {negation: ...}`."""

    grid: str = "0:1:0.05"
    random_grid: str = "0:1:0.25"  # λ of the random vector
    sensitivity: str = "0:2:0.2"
    keep: float = 0.95  # of the base's control accuracy
    targets: Sequence[str] = ()  # all tasks, unless named
    controls: Sequence[str] = field(default=())
    ascent: bool = True


@dataclass(slots=True)
class _Target:
    """What was measured for one target, seed by seed: model -> (target accuracy, control accuracy, λ)."""

    name: str
    controls: list[str]
    models: dict[str, list[tuple[float, float, float]]]
    curves: list[tuple[tuple[float, float, float], ...]]  # for each seed: (λ, target, control), on validation
    hits: dict[str, list[list[float]]]  # model -> for each seed the test scores of the target


def check(suite: Suite, settings: Settings) -> None:
    """Raise RecipeError for what this experiment cannot do with a suite."""
    require_tasks(suite, "negation", [*settings.targets, *settings.controls])
    for name in settings.targets or suite.tasks:
        require(_controls(suite, settings, name), f"negation: {name} has no control task; a suite needs a second task")


def _controls(suite: Suite, settings: Settings, target: str) -> list[str]:
    """The tasks that a target's edit is to leave alone."""
    return [name for name in settings.controls or suite.controls or suite.tasks if name != target]


def run(bench: Bench, settings: Settings) -> Findings:
    """Run the experiment."""
    check(bench.suite, settings)
    targets = [*(settings.targets or bench.suite.tasks)]
    measured = []
    for k, name in enumerate(targets):
        bench.tell(f"negation of {name}, {k + 1} of {len(targets)}", k / len(targets))
        measured.append(_measured(bench, settings, name, _controls(bench.suite, settings, name)))
    return _told(bench, settings, measured)


def _measured(bench: Bench, settings: Settings, name: str, controls: list[str]) -> _Target:
    target = _Target(name, controls, {model: [] for model in MODELS}, [], {})
    for seed in bench.seeds:
        tau = bench.vector(name, seed)
        noise = FUNCTIONS["random_like"](tau, seed=seed)
        lam = knob("lam")
        tested: dict[str, tuple[Weights, float]] = {
            "pre-trained": (bench.base, 0.0),
            "fine-tuned": (bench.base + tau, 1.0),
        }
        if settings.ascent:
            tested["gradient ascent"] = (bench.base + bench.vector(name, seed, "ascent"), 1.0)
        for what, family in (("random vector", bench.base + lam * noise), ("negative vector", bench.base - lam * tau)):
            for rule in RULES:
                grid = settings.grid if what == "negative vector" else settings.random_grid
                choice = _chosen(bench, settings, family, grid, name, controls, rule)
                told = f"{what}, {'largest λ' if rule == 'largest' else rule}"
                tested[told] = (choice.model, choice.value)
        for model, (weights, value) in tested.items():
            scores = bench.scores(weights, [name, *controls], "test")
            target.models[model].append((averaged(scores, [name]), averaged(scores, controls), value))
            target.hits.setdefault(model, []).append(values_of(scores, name))
        target.curves.append(_curve(bench, settings, bench.base - lam * tau, name, controls))
    return target


def _chosen(
    bench: Bench, settings: Settings, family: Weights, grid: str, name: str, controls: Sequence[str], rule: str
) -> Choice:
    kept = control_kept(controls, settings.keep)
    searched = "largest" if rule == "largest" else "best"
    return bench.choose(family, [name, *controls], grid, f"-{name}", [kept], searched)


def _curve(
    bench: Bench, settings: Settings, family: Weights, name: str, controls: Sequence[str]
) -> tuple[tuple[float, float, float], ...]:
    curve = bench.choose(family, [name, *controls], settings.sensitivity, f"-{name}").curve
    return tuple((lam, metrics[name], mean(metrics[c] for c in controls)) for lam, metrics in curve)


# ---- findings ------------------------------------------------------------------------------------
def _told(bench: Bench, settings: Settings, targets: Sequence[_Target]) -> Findings:
    models = [m for m in MODELS if targets[0].models[m]]
    seeds = range(len(bench.seeds))

    def over_targets(model: str, place: int) -> Estimate:
        return Estimate.over([mean(t.models[model][seed][place] for t in targets) for seed in seeds])

    negative, noise = NEGATIVE, NOISE
    average = Table(
        "Forgetting, mean over the targets",
        ("model", "target", "control", "λ"),
        tuple((m, over_targets(m, 0), over_targets(m, 1), over_targets(m, 2)) for m in models),
        f"Accuracy in % on test examples; mean over {len(targets)} targets, and 95 % intervals over "
        f"{counted(len(bench.seeds), 'seed')} of fine-tuning. λ was chosen on validation examples.",
        plain=("λ",),
    )
    forgotten = {t.name: compared([t.hits["pre-trained"]], [t.hits[negative]]) for t in targets}
    ps = holm({name: d.p for name, d in forgotten.items()})
    each = Table(
        f"Each target: {negative}",
        ("target", "pre-trained", "fine-tuned", "negative", "control before", "control after", "λ", "p"),
        tuple(
            (
                t.name,
                *(Estimate.over([row[0] for row in t.models[m]]) for m in ("pre-trained", "fine-tuned", negative)),
                *(Estimate.over([row[1] for row in t.models[m]]) for m in ("pre-trained", negative)),
                Estimate.over([row[2] for row in t.models[negative]]),
                ps[t.name],
            )
            for t in targets
        ),
        "p: paired tests on the same test examples that the target accuracy is the base's, with Holm's correction.",
        plain=("λ", "p"),
    )
    gains = {
        t.name: (
            mean(row[0] for row in t.models["fine-tuned"]) - mean(row[0] for row in t.models["pre-trained"]),
            mean(row[0] for row in t.models["pre-trained"]) - mean(row[0] for row in t.models[negative]),
        )
        for t in targets
    }
    r = correlation([*gains.values()])
    beyond_noise = compared([t.hits[negative] for t in targets], [t.hits[noise] for t in targets])
    claims = _claims(over_targets, models, beyond_noise, r, settings)
    return Findings(
        "negation",
        QUESTION,
        (
            f"Targets: {', '.join(t.name for t in targets)}. Controls: {', '.join(targets[0].controls)}.",
            f"λ from {settings.grid}; the control accuracy must stay at or above {settings.keep:g} of the base's.",
            f"Seeds of fine-tuning: {', '.join(map(str, bench.seeds))}.",
        ),
        (average, each),
        (_sensitivity(targets, over_targets(negative, 2).mean),),
        (
            Points(
                "What fine-tuning gained and negation took, on test examples",
                "gain by fine-tuning",
                "drop by negation",
                gains,
                f"Pearson's correlation over {len(gains)} targets: {r:.2f}" if math.isfinite(r) else "",
            ),
        ),
        claims,
        _limits(bench, targets),
    )


def _sensitivity(targets: Sequence[_Target], marked: float) -> Curves:
    """Mean over targets of the target and the control accuracy, over λ."""
    of_seeds = [*zip(*(target.curves for target in targets), strict=True)]  # for each seed, each target's curve
    lines = {
        what: line_of([
            [(of_lam[0][0], mean(point[place] for point in of_lam)) for of_lam in zip(*of_targets, strict=True)]
            for of_targets in of_seeds
        ])
        for what, place in (("target", 1), ("control", 2))
    }  # fmt: skip
    return Curves(
        "Sensitivity of forgetting to λ, on validation examples",
        "λ in θ0 - λτ",
        "accuracy",
        lines,
        {"mean λ of the rule 'lowest target'": marked},
    )


def _claims(
    over: Callable[[str, int], Estimate], models: Sequence[str], beyond_noise: Difference, r: float, s: Settings
) -> tuple[Claim, ...]:
    negative, noise = NEGATIVE, NOISE
    gap = over(noise, 0).minus(over(negative, 0))
    before = over("pre-trained", 1).mean
    kept = over(negative, 1).mean / before if before else math.nan
    claims = [
        Claim(
            "The negative task vector takes more of the target than a random vector of the same norms.",
            "ViT-B/32: target 48.3, negative vector 24.0, random vector 45.7",
            f"target {percent(over('pre-trained', 0).mean)}, negative vector {percent(over(negative, 0))}, random "
            f"vector {percent(over(noise, 0))}; difference {percent(gap)} points",
            verdict(gap, beyond_noise.interval),
        ),
        Claim(
            "It leaves the control tasks nearly as they were.",
            "ViT-B/32: control 63.4 before, 60.9 after",
            f"control {percent(over('pre-trained', 1).mean)} before, {percent(over(negative, 1))} after",
            UNTESTED if math.isnan(kept) else HOLDS if kept >= s.keep else WEAKLY if kept >= s.keep - 0.05 else FAILS,
        ),
        Claim(
            "What fine-tuning did not gain, negation cannot take.",
            "the drop correlates with the gain (appendix; no number)",
            f"Pearson's correlation of gain and drop over the targets: {r:.2f}",
            correlated(r),
        ),
    ]
    if "gradient ascent" in models:
        lost = over("pre-trained", 1).minus(over("gradient ascent", 1))
        claims.append(
            Claim(
                "Gradient ascent destroys the control tasks, too.",
                "ViT-B/32: control 0.25 after gradient ascent",
                f"control {percent(over('gradient ascent', 1))} after gradient ascent, target "
                f"{percent(over('gradient ascent', 0))}",
                verdict(lost, wanted=0.05),
            )
        )
    return tuple(claims)


def _limits(bench: Bench, targets: Sequence[_Target]) -> tuple[str, ...]:
    limits = too_few(bench)
    if not bench.suite.controls:
        limits.append("The suite has no control task, so the controls are tasks that have vectors of their own.")
    if len(targets) < 4:
        limits.append(f"A correlation over {len(targets)} targets says next to nothing.")
    return tuple(limits)
