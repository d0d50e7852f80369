"""Task analogies: A is to B as C is to D, so τ_D is predicted as τ_C + (τ_B - τ_A), without labels of D
(Ilharco et al., 2023, section 5).

Domains. Sentiment is labelled in an auxiliary domain and not in the target domain, of which there are texts alone:
    τ_sent,target = τ_sent,aux + (τ_unsup,target - τ_unsup,aux)
The unsupervised vectors come from training on texts without labels (objectives.py). There is one coefficient for the
whole sum, or there are two: one for the sentiment vector and one for the difference.

Subpopulations. Class halves A and B in two domains 1 and 2. Three of the four vectors predict the fourth:
    τ_2B = τ_2A + (τ_1B - τ_1A)

Coefficients are chosen on validation examples of the target. This is generous to the analogy, since these are labelled.
Everything that it is compared with is chosen on the same examples:

1. the base, θ0;
2. the best single vector of those that the analogy uses, with its λ;
3. the plain sum of these vectors, with its λ;
4. the vector of the target itself, which the analogy is to predict.

The falsifier that the review asks for: does the analogy beat 1, and does it beat 2? Both are answered by paired tests
on test examples, over all settings together, with the settings' own answers beside them. All settings are reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import permutations
from operator import add
from statistics import mean

from taskvec.algebra.coefficients import knob
from taskvec.algebra.weights import Weights
from taskvec.lab.bench import Bench, require, require_tasks
from taskvec.lab.experiments.common import Scores, compared, too_few, values_of
from taskvec.lab.objectives import OBJECTIVES
from taskvec.lab.results import Cell, Claim, Estimate, Findings, Table, percent, verdict
from taskvec.lab.suite import Suite
from taskvec.searching.evidence import holm

QUESTION = "Does the analogy of three vectors improve a task that has no labelled examples?"
BASE, AUXILIARY, SINGLE, SUM, ONE, SEVERAL, OWN = (
    "pre-trained", "auxiliary vector, λ = 1", "best single vector", "sum of the vectors", "analogy, one λ",
    "analogy, several λ", "own labelled vector",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """What a suite may say under `experiments: {analogies: ...}`."""

    domains: Sequence[str] = ()  # tasks with the same classes
    objectives: Sequence[str] = ("contrastive", "masked")
    quadrants: Mapping[str, Sequence[str]] = field(default_factory=dict)  # name -> [1A, 1B, 2A, 2B]
    grid: str = "0:1:0.1"
    several_grid: str = "0:1:0.25"  # of each of two or three coefficients


@dataclass(frozen=True, slots=True)
class _Setting:
    """One analogy: what is predicted, from which vectors. vectors: name -> (its sign in the analogy)."""

    kind: str
    target: str
    told: str
    auxiliary: str  # the vector with labels that stands nearest
    terms: tuple[tuple[str, str, int], ...]  # (task, objective, sign)


def run(bench: Bench, settings: Settings) -> Findings:
    """Run the experiment."""
    check(bench.suite, settings)
    planned = [*_domains(bench.suite, settings), *_quadrants(bench.suite, settings)]
    measured: list[tuple[_Setting, dict[str, list[list[float]]]]] = []
    for number, setting in enumerate(planned):
        bench.tell(f"analogy {number + 1} of {len(planned)}: {setting.told}", number / len(planned))
        hits: dict[str, list[list[float]]] = {}
        for seed in bench.seeds:
            for model, weights in _models(bench, settings, setting, seed).items():
                hits.setdefault(model, []).append(
                    values_of(bench.scores(weights, [setting.target], "test"), setting.target)
                )
        measured.append((setting, hits))
    kinds = [*dict.fromkeys(setting.kind for setting in planned)]
    return Findings(
        "analogies",
        QUESTION,
        (
            "θ0 + λ (τ_C + τ_B - τ_A), judged on test examples of D. Coefficients were chosen on validation examples "
            "of D, for the analogy and for everything that it is compared with.",
            f"{len(planned)} settings: {', '.join(kinds)}. One λ from {settings.grid}; of several each from "
            f"{settings.several_grid}.",
            f"Seeds of fine-tuning: {', '.join(map(str, bench.seeds))}.",
        ),
        tuple(_table(kind, [m for m in measured if m[0].kind == kind]) for kind in kinds),
        claims=tuple(claim for kind in kinds for claim in _claims(kind, [m for m in measured if m[0].kind == kind])),
        limits=(
            *too_few(bench),
            "Validation examples of the target are labelled, as in the paper; without them λ would have to be fixed.",
        ),
    )


# ---- settings ------------------------------------------------------------------------------------
def check(suite: Suite, settings: Settings) -> None:
    """Raise RecipeError for what this experiment cannot do with a suite."""
    told = "analogies: the suite names neither `domains` nor `quadrants` (experiments: {analogies: ...})"
    require(settings.domains or settings.quadrants, told)
    require(len(settings.domains) != 1, "analogies: domains are two tasks at least")
    require_tasks(suite, "analogies", settings.domains)
    unknown = [name for name in settings.objectives if name not in OBJECTIVES]
    require(not unknown, f"analogies: no objective is called {', '.join(unknown)}; there is {', '.join(OBJECTIVES)}")
    heads = {tuple(suite.specs[name].descriptions) for name in settings.domains}
    require(len(heads) < 2, "analogies: the domains must have the same classes")
    for name, quadrant in settings.quadrants.items():
        require(len(quadrant) == 4, f"analogies: the quadrants {name} are four tasks, [1A, 1B, 2A, 2B]")
        require_tasks(suite, "analogies", quadrant)


def _domains(suite: Suite, settings: Settings) -> list[_Setting]:
    """Every pair of domains, once with each objective."""
    return [
        _Setting(
            f"sentiment across domains, {objective}",
            target,
            f"{auxiliary} to {target}",
            auxiliary,
            ((auxiliary, "labels", 1), (target, objective, 1), (auxiliary, objective, -1)),
        )
        for objective in settings.objectives
        for target, auxiliary in permutations(settings.domains, 2)
    ]


def _quadrants(suite: Suite, settings: Settings) -> list[_Setting]:
    """Each of the four tasks of every quadrant, predicted from the other three."""
    found = []
    for name, quadrant in settings.quadrants.items():
        one_a, one_b, two_a, two_b = quadrant
        for target, same_domain, same_half, opposite in (
            (two_b, two_a, one_b, one_a), (two_a, two_b, one_a, one_b), (one_b, one_a, two_b, two_a),
            (one_a, one_b, two_a, two_b),
        ):  # fmt: skip
            terms = ((same_domain, "labels", 1), (same_half, "labels", 1), (opposite, "labels", -1))
            found.append(_Setting(f"subpopulations, {name}", target, f"three to {target}", same_half, terms))
    return found


# ---- models --------------------------------------------------------------------------------------
def _models(bench: Bench, settings: Settings, setting: _Setting, seed: int) -> dict[str, Weights]:
    """Every model of a setting, its coefficients chosen on validation examples of the target."""
    vectors = [bench.vector(task, seed, objective) for task, objective, _ in setting.terms]
    signs = [sign for _, _, sign in setting.terms]
    target, lam = [setting.target], knob("lam")
    analogy = reduce(add, (sign * vector for sign, vector in zip(signs, vectors, strict=True)))
    single = max(
        (bench.choose(bench.base + lam * vector, target, settings.grid) for vector in vectors),
        key=lambda choice: max(metrics[setting.target] for _, metrics in choice.trials),
    )
    if len({objective for _, objective, _ in setting.terms}) > 1:  # two coefficients: sentiment, and the difference
        parts = {"of_label": vectors[0], "of_domain": vectors[1] - vectors[2]}
    else:
        parts = {f"of_{k}": sign * vector for k, (sign, vector) in enumerate(zip(signs, vectors, strict=True))}
    family = bench.base + reduce(add, (knob(name) * part for name, part in parts.items()))
    return {
        BASE: bench.base,
        AUXILIARY: bench.base + bench.vector(setting.auxiliary, seed),
        SINGLE: single.model,
        SUM: bench.choose(bench.base + lam * reduce(add, vectors), target, settings.grid).model,
        ONE: bench.choose(bench.base + lam * analogy, target, settings.grid).model,
        SEVERAL: bench.choose(family, target, dict.fromkeys(parts, settings.several_grid)).model,
        OWN: bench.base + bench.vector(setting.target, seed),
    }


# ---- findings ------------------------------------------------------------------------------------
Measured = Sequence[tuple[_Setting, Mapping[str, Scores]]]
MODELS = (BASE, AUXILIARY, SINGLE, SUM, ONE, SEVERAL, OWN)


def _estimate(measured: Measured, model: str) -> Estimate:
    """The mean over settings of the accuracy on the target, over seeds."""
    seeds = range(len(measured[0][1][model]))
    return Estimate.over([mean(mean(hits[model][seed]) for _, hits in measured) for seed in seeds])


def _table(kind: str, measured: Measured) -> Table:
    ps = holm({s.told: compared([hits[SINGLE]], [hits[ONE]]).p for s, hits in measured})
    rows: list[tuple[Cell, ...]] = [("mean of all", *(_estimate(measured, model) for model in MODELS), None)]
    for setting, hits in measured:
        cells = (_estimate([(setting, hits)], model) for model in MODELS)
        rows.append((setting.told, *cells, ps[setting.told]))
    return Table(
        f"Analogies: {kind}",
        ("setting", *MODELS, "p"),
        tuple(rows),
        "Accuracy in % on test examples of the target. p: paired tests of the analogy with one λ against the best "
        "single vector, with Holm's correction over the settings.",
        plain=("p",),
    )


def _claims(kind: str, measured: Measured) -> list[Claim]:
    def claim(text: str, paper: str, first: str) -> Claim:
        gap = _estimate(measured, ONE).minus(_estimate(measured, first))
        test = compared([hits[first] for _, hits in measured], [hits[ONE] for _, hits in measured])
        better = sum(mean(map(mean, hits[ONE])) > mean(map(mean, hits[first])) for _, hits in measured)
        here = (
            f"{percent(_estimate(measured, ONE))} against {percent(_estimate(measured, first))}: {percent(gap)} "
            f"points, {test.chance} over test examples; better in {better} of {len(measured)} settings"
        )
        return Claim(f"{kind}: {text}", paper, here, verdict(gap, test.interval))

    sentiment = kind.startswith("sentiment")
    base = "no number; the auxiliary vector alone: 92.3 (T5-base, Yelp)" if sentiment else "ViT-B/32: 79.3 to 83.2"
    return [
        claim("the analogy beats the pre-trained model (review, major 2).", base, BASE),
        claim("the analogy beats the best single vector (review, major 2).", "not reported", SINGLE),
        claim(
            "the analogy beats the auxiliary vector."
            if sentiment
            else "the analogy beats the same half's other domain.",
            "T5-base: Yelp 92.3 to 93.0, Amazon 90.8 to 92.7" if sentiment else "not reported",
            AUXILIARY,
        ),
    ]
