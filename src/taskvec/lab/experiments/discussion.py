"""Why task vectors add up: the figures of the paper's discussion (Ilharco et al., 2023, section 6), and two more.

1. Cosines of the vectors of different tasks, and of one task from different seeds. The paper finds the former near 0.
2. The learning rate: single models and the sum of their vectors, for a rate below and one above the suite's.
3. Vectors along the training: how near a vector that was taken early is to the last one, and what the sum of early
   vectors is worth.
4. Seeds: what the average of one task's vectors from several seeds scores, against the single ones.
5. Disentanglement (Ortiz-Jimenez et al., 2023): how often a second vector changes what a model with the first one says
   on the first one's task.

For 2 and 3 vectors are trained anew, so that they use some of the tasks (`few`) and the first seed alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from operator import add
from statistics import mean

from taskvec.algebra.coefficients import knob
from taskvec.algebra.weights import Weights
from taskvec.analysis.compare import compare
from taskvec.lab.bench import Bench, require, require_tasks
from taskvec.lab.experiments.common import averaged, too_few
from taskvec.lab.results import FAILS, HOLDS, WEAKLY, Claim, Curves, Estimate, Findings, Table, percent
from taskvec.lab.suite import Suite
from taskvec.searching.interference import disentanglement

QUESTION = "Why do task vectors add up: how alike are they, and what do rate, length and seed of fine-tuning change?"
SMALL = 0.1  # a cosine below this is called nearly orthogonal


@dataclass(frozen=True, slots=True)
class Settings:
    """What a suite may say under `experiments: {discussion: ...}`."""

    few: Sequence[str] = ()  # the tasks of the figures that train vectors anew; the first three unless named
    rates: Sequence[float] = (0.2, 1.0, 5.0)  # multiples of the suite's learning rate
    shares: Sequence[float] = (0.05, 0.1, 0.25, 0.5, 1.0)  # of the steps of a training
    grid: str = "0:1:0.2"
    pairs: int = 3  # pairs of tasks whose disentanglement is measured
    alphas: str = "0:1:0.5"


def check(suite: Suite, settings: Settings) -> None:
    """Raise RecipeError for what this experiment cannot do with a suite."""
    require_tasks(suite, "discussion", settings.few)
    require(len(suite.tasks) > 1, "discussion: a suite needs two tasks at least")


def run(bench: Bench, settings: Settings) -> Findings:
    """Run the experiment."""
    check(bench.suite, settings)
    tasks = bench.suite.tasks
    few = [*(settings.few or tasks[:3])]
    bench.tell("cosines", 0.0)
    cosines, told = _cosines(bench, tasks)
    rates, rate_claim = _rates(bench, settings, few)
    along, along_claim = _along(bench, settings, few)
    seeds = _seeds(bench, tasks)
    apart = _disentanglement(bench, settings, tasks)
    return Findings(
        "discussion",
        QUESTION,
        (
            f"Cosines and seeds: {', '.join(tasks)}. Learning rates and vectors along the training: {', '.join(few)}, "
            f"seed {bench.seeds[0]}.",
            f"λ of sums from {settings.grid}, by the mean accuracy on validation examples.",
        ),
        (cosines, rates, seeds, apart),
        (along,),
        claims=(told, rate_claim, along_claim),
        limits=(*too_few(bench), "Linearised (tangent) fine-tuning was not compared."),
    )


def _cosines(bench: Bench, tasks: Sequence[str]) -> tuple[Table, Claim]:
    """The matrix of cosines; on the diagonal the mean cosine of one task's vectors from different seeds."""
    first = {name: bench.vector(name, bench.seeds[0]) for name in tasks}
    cosine = compare(first).whole.cosine
    own = {name: _between_seeds(bench, name) for name in tasks}
    rows = tuple(
        (name, *(own[name] if i == j else cosine[i][j] for j in range(len(tasks)))) for i, name in enumerate(tasks)
    )
    off = [cosine[i][j] for i, j in combinations(range(len(tasks)), 2)]
    seeds = [value for value in own.values() if value is not None]
    largest = max(off, key=abs)
    between = f"; between seeds of one task {mean(seeds):.2f} on average" if seeds else ""
    claim = Claim(
        f"Vectors of different tasks are nearly orthogonal (cosines below {SMALL:g}).",
        "near 0, higher for related tasks (MNIST, SVHN and GTSRB)",
        f"mean {mean(off):.3f}, largest {largest:.3f}{between}",
        HOLDS if abs(largest) < SMALL else WEAKLY if abs(mean(off)) < SMALL else FAILS,
    )
    note = "Off the diagonal: different tasks, first seed. On it: one task's vectors from different seeds, mean."
    return Table("Cosines of task vectors", ("", *tasks), rows, note, plain=tuple(tasks)), claim


def _between_seeds(bench: Bench, name: str) -> float | None:
    if len(bench.seeds) < 2:
        return None
    cosine = compare({str(seed): bench.vector(name, seed) for seed in bench.seeds}).whole.cosine
    return mean(cosine[i][j] for i, j in combinations(range(len(bench.seeds)), 2))


# ---- rates and lengths of training ---------------------------------------------------------------
def _sum_of(bench: Bench, settings: Settings, vectors: Sequence[Weights], tasks: Sequence[str]) -> tuple[float, float]:
    """(mean test accuracy of θ0 + λ Σ τ, the λ chosen on validation examples)."""
    choice = bench.choose(bench.base + knob("lam") * reduce(add, vectors), tasks, settings.grid)
    return averaged(bench.scores(choice.model, tasks, "test"), tasks), choice.value


def _own(bench: Bench, vectors: Sequence[Weights], tasks: Sequence[str]) -> float:
    """The mean test accuracy of the single models, each on its own task."""
    models = [bench.base + vector for vector in vectors]
    return mean(averaged(bench.scores(m, [t], "test"), [t]) for m, t in zip(models, tasks, strict=True))


def _rates(bench: Bench, settings: Settings, few: Sequence[str]) -> tuple[Table, Claim]:
    seed, rows, kept = bench.seeds[0], [], {}
    for number, factor in enumerate(settings.rates):
        bench.tell(f"learning rate {number + 1} of {len(settings.rates)}", 0.1 + 0.3 * number / len(settings.rates))
        rate = bench.suite.training.rate * factor
        vectors = [bench.vector(name, seed, rate=rate) for name in few]
        own, (summed, lam) = _own(bench, vectors, few), _sum_of(bench, settings, vectors, few)
        require(own, f"discussion: at the rate {rate:g} the single models get no test example right")
        kept[factor] = summed / own
        rows.append((f"{rate:.2g}", own, summed, summed / own, lam))
    table = Table(
        "Learning rate of fine-tuning",
        ("rate", "single models", "their sum", "normalised", "λ"),
        tuple(rows),
        "Mean accuracy on test examples; one seed.",
        plain=("λ",),
    )
    low, high = min(kept), max(kept)
    claim = Claim(
        "With a higher learning rate sums lose more than single models do.",
        "sums degrade faster than single models as the rate grows (no number)",
        f"normalised accuracy of the sum {percent(kept[low])} at {low:g} times the rate, {percent(kept[high])} at "
        f"{high:g} times",
        WEAKLY if kept[high] < kept[low] else FAILS,
    )
    return table, claim


def _along(bench: Bench, settings: Settings, few: Sequence[str]) -> tuple[Curves, Claim]:
    seed, summed, cosines = bench.seeds[0], [], []
    shares = sorted({*settings.shares, 1.0})
    last = {name: bench.vector(name, seed) for name in few}
    for number, share in enumerate(shares):
        bench.tell(f"vectors after {share:.0%} of the training", 0.4 + 0.3 * number / len(shares))
        vectors = [bench.vector(name, seed, until=share) for name in few]
        summed.append((share, _sum_of(bench, settings, vectors, few)[0]))
        pairs = [compare({"early": v, "last": last[n]}).whole.cosine[0][1] for n, v in zip(few, vectors, strict=True)]
        cosines.append((share, mean(pairs)))
    curves = Curves(
        "Vectors along the training",
        "share of the steps",
        "accuracy, cosine",
        {
            "test accuracy of the sum": tuple((share, value, None, None) for share, value in summed),
            "cosine with the last vector": tuple((share, value, None, None) for share, value in cosines),
        },
        note=f"{', '.join(few)}; seed {seed}; λ by validation.",
    )
    early = next((share for share, value in summed if value >= summed[-1][1] - 0.02), 1.0)
    claim = Claim(
        "Vectors taken early in the training already work.",
        "their direction settles early, and sums of early vectors already work (no number)",
        f"after {early:.0%} of the steps the sum is within two points of the last one ({percent(summed[-1][1])}); "
        f"cosine with the last vector after {cosines[0][0]:.0%} of the steps: {cosines[0][1]:.2f}",
        WEAKLY if early < 1 else FAILS,
    )
    return curves, claim


# ---- seeds and disentanglement -------------------------------------------------------------------
def _seeds(bench: Bench, tasks: Sequence[str]) -> Table:
    rows = []
    for number, name in enumerate(tasks):
        bench.tell(f"seeds of {name}", 0.7 + 0.1 * number / len(tasks))
        vectors = [bench.vector(name, seed) for seed in bench.seeds]
        singles = [averaged(bench.scores(bench.base + v, [name], "test"), [name]) for v in vectors]
        average = bench.base + reduce(add, vectors) / len(vectors)
        rows.append((name, Estimate.over(singles), averaged(bench.scores(average, [name], "test"), [name])))
    return Table(
        "Seeds of fine-tuning and their average",
        ("task", "single seeds", "average of their vectors"),
        tuple(rows),
        "Accuracy in % on test examples.",
    )


def _disentanglement(bench: Bench, settings: Settings, tasks: Sequence[str]) -> Table:
    rows, columns = [], ["pair"]
    pairs = [*combinations(tasks, 2)][: settings.pairs]
    for number, (one, two) in enumerate(pairs):
        bench.tell(f"disentanglement of {one} and {two}", 0.8 + 0.2 * number / len(pairs))
        found = disentanglement(
            bench.base, bench.vector(one, bench.seeds[0]), bench.vector(two, bench.seeds[0]), bench.judge([one, two]),
            [one, two], alphas=settings.alphas,
        )  # fmt: skip
        last = len(found.alphas) - 1
        middle = last // 2
        columns = ["pair", *(f"α = {found.alphas[k]:g} for both" for k in (middle, last))]
        rows.append((f"{one} and {two}", float(found.xi[middle, middle]), float(found.xi[last, last])))
    return Table(
        "Disentanglement error ξ, from 0 (no interference) to 2",
        tuple(columns),
        tuple(rows),
        "Validation examples, first seed: how often scores of a task change when the other task's vector is added.",
        plain=tuple(columns[1:]),
    )
