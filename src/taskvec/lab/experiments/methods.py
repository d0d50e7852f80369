"""Which merge methods beat plain task arithmetic?

The question and its test are fixed before anything is measured:

1. Every method makes one direction of the same vectors. Its λ, and its own parameter where it has one, are chosen on
   validation examples, from the grids below. So are those of plain task arithmetic, θ0 + λ Σ τ.
2. The measure is the mean accuracy over the merged tasks on test examples.
3. A method beats task arithmetic if the difference is above 0 by both intervals: that over test examples, paired, and
   widened so that the intervals of all methods hold together (Bonferroni); and that over seeds of fine-tuning.
4. The same is done for several numbers of merged vectors (`counts`), the first ones of the suite.

The in-the-wild study (arXiv 2511.21437) finds that only plain task arithmetic is reliable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import mean

from taskvec.algebra.weights import Weights
from taskvec.errors import did_you_mean
from taskvec.lab.bench import Bench, require
from taskvec.lab.experiments.common import Scores, over_seeds, too_few, values_of
from taskvec.lab.results import FAILS, HOLDS, Cell, Claim, Estimate, Findings, Table, percent, verdict
from taskvec.lab.suite import Suite
from taskvec.recipes.recipe import parse
from taskvec.searching.evidence import Difference, difference, holm
from taskvec.sources.text import counted

QUESTION = "Which merge methods beat plain task arithmetic?"
PLAIN = "task arithmetic"
SUMS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2)  # λ of what adds up over the vectors,
MEANS = (0.5, 1.0, 1.5, 2.0, 3.0)  # and of what is of the size of one vector
DENSITY = {"density": (0.1, 0.2, 0.5, 0.8)}  # the share of entries that is kept

# Method -> (the direction as a recipe, the grid of λ, the grids of its own parameters). In a recipe {all} stands for
# the task vectors, {models} for the tuned models, {sum} for the sum of the vectors, {n} for their number, and the name
# of a parameter for its value.
METHODS: Mapping[str, tuple[str, Sequence[float], Mapping[str, Sequence[float]]]] = {
    PLAIN: ("{sum}", SUMS, {}),
    "average of the models": ("{sum}/{n}", (1.0,), {}),
    "ties": ("ties({all}, density={density})", MEANS, DENSITY),
    "ties, tensor by tensor": ('ties({all}, density={density}, scope="tensor")', MEANS, DENSITY),
    "dare": ("{dare}", SUMS, {"drop": (0.2, 0.5, 0.8)}),
    "dare_ties": ("dare_ties({all}, drop={drop})", MEANS, {"drop": (0.2, 0.5, 0.8)}),
    "della_ties": ("della_ties({all}, density={density})", MEANS, DENSITY),
    "breadcrumbs": ("{breadcrumbs}", SUMS, {}),
    "unified (EMR)": ("unified({all})", MEANS, {}),
    "magmax": ("magmax({all})", MEANS, {}),
    "consensus": ("consensus({all})", SUMS, {}),
    "pcb": ("pcb({all})", MEANS, {}),
    "sce": ("sce({all})", MEANS, {}),
    "ram": ("ram({all})", SUMS, {}),
    "ramplus": ("ramplus({all})", SUMS, {}),
    "model stock": ("stock({all})", MEANS, {}),
    "multislerp": ("multislerp({all})", MEANS, {}),
    "metagpt": ("metagpt({all})", MEANS, {}),
    "norm_matched": ("norm_matched({all})", (0.6, 0.8, 1.0, 1.2), {}),
    "karcher mean": ("karcher({models}) - base", MEANS, {}),
    "geometric median": ("geometric_median({models}) - base", MEANS, {}),
    "lines of the sum": ("lines({sum})", SUMS, {}),
    "iso_c": ("iso_c({all})", SUMS, {}),
    "iso_cts": ("iso_cts({all})", SUMS, {}),
    "tsv_m": ("tsv_m({all})", SUMS, {}),
    "knots": ("knots({all})", MEANS, {}),
    "svc of the sum": ("svc({sum}, {all})", SUMS, {}),
    "random vector": ("random_like({sum})", SUMS, {}),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What a suite may say under `experiments: {methods: ...}`."""

    counts: Sequence[int] = (2, 4, 8)  # how many vectors are merged; those beyond the suite's tasks are left out
    methods: Sequence[str] = ()  # all of METHODS, unless named; task arithmetic is always there


def check(suite: Suite, settings: Settings) -> None:
    """Raise RecipeError for what this experiment cannot do with a suite."""
    unknown = [f"{name}{did_you_mean(name, METHODS)}" for name in settings.methods if name not in METHODS]
    require(not unknown, f"methods: no method is called {', '.join(unknown)}")
    most = len(suite.tasks)
    counts = [count for count in settings.counts if 1 < count <= most]
    require(counts, f"methods: counts has no number from 2 to {most}, the tasks of the suite")


def run(bench: Bench, settings: Settings) -> Findings:
    """Run the experiment."""
    check(bench.suite, settings)
    names = [*dict.fromkeys([PLAIN, *(settings.methods or METHODS)])]
    tasks = bench.suite.tasks
    counts = [count for count in settings.counts if 1 < count <= len(tasks)]
    tables, claims = [], []
    for place, count in enumerate(counts):
        merged = tasks[:count]
        measured: dict[str, _Measured] = {}
        for number, name in enumerate(names):
            share = (place + number / len(names)) / len(counts)
            bench.tell(f"{name} of {count} vectors, {number + 1} of {len(names)}", share)
            measured[name] = _measured(bench, name, merged)
        table, claim = _told(measured, merged, len(bench.seeds))
        tables.append(table)
        claims.append(claim)
    return Findings(
        "methods",
        QUESTION,
        (
            "Every method gets the same vectors; λ and its own parameter are chosen on validation examples.",
            "A method beats task arithmetic if the paired difference on test examples is above 0, by an interval that "
            f"holds for all {len(names) - 1} methods together (Bonferroni), and by the interval over seeds.",
            f"Numbers of vectors: {', '.join(map(str, counts))}. Seeds: {', '.join(map(str, bench.seeds))}.",
        ),
        tuple(tables),
        claims=tuple(claims),
        limits=tuple(too_few(bench)),
    )


@dataclass(frozen=True, slots=True)
class _Measured:
    """A method's scores on each task for each seed, and what was chosen."""

    hits: Mapping[str, Scores]
    chosen: tuple[str, ...]  # for each seed

    def accuracy(self) -> Estimate:
        """The mean over tasks, over seeds."""
        seeds = range(len(self.chosen))
        return Estimate.over([mean(mean(of_task[seed]) for of_task in self.hits.values()) for seed in seeds])


def family(bench: Bench, name: str, tasks: Sequence[str], seed: int, own: Mapping[str, float]) -> Weights:
    """θ0 + lam * (the direction of a method with these parameters of its own)."""
    recipe = METHODS[name][0]
    models = {f"t{k}": bench.base + bench.vector(task, seed) for k, task in enumerate(tasks)}
    vectors = [f"({model} - base)" for model in models]
    direction = recipe.format(
        all=", ".join(vectors), models=", ".join(models), sum=f"({' + '.join(vectors)})", n=len(tasks),
        dare=" + ".join(f"dare({vector}, drop={own.get('drop', 0.5):g}, seed={k})" for k, vector in enumerate(vectors)),
        breadcrumbs=" + ".join(f"breadcrumbs({vector})" for vector in vectors), **own,
    )  # fmt: skip
    return parse(f"base + lam*({direction})", base=bench.base, **models)


def _measured(bench: Bench, name: str, tasks: Sequence[str]) -> _Measured:
    _, lams, own = METHODS[name]
    hits: dict[str, list[list[float]]] = {task: [] for task in tasks}
    chosen = []
    for seed in bench.seeds:
        tried = []
        for values in product(*own.values()):
            parameters = dict(zip(own, values, strict=True))
            choice = bench.choose(family(bench, name, tasks, seed, parameters), tasks, lams)
            tried.append((max(mean(metrics.values()) for _, metrics in choice.trials), choice, parameters))
        _, choice, parameters = max(tried, key=lambda t: t[0])  # of equal ones the first
        scores = bench.scores(choice.model, tasks, "test")
        for task in tasks:
            hits[task].append(values_of(scores, task))
        chosen.append(", ".join(f"{knob} {value:g}" for knob, value in {"λ": choice.value, **parameters}.items()))
    return _Measured(hits, tuple(chosen))


def _told(measured: Mapping[str, _Measured], tasks: Sequence[str], seeds: int) -> tuple[Table, Claim]:
    plain = measured[PLAIN]
    others = [name for name in measured if name != PLAIN]
    confidence = 1 - 0.05 / max(1, len(others))
    tests = {name: _against(plain, measured[name], tasks, confidence) for name in others}
    ps = holm({name: test.p for name, test in tests.items()})
    gaps = {name: measured[name].accuracy().minus(plain.accuracy()) for name in others}
    verdicts = {name: verdict(gaps[name], tests[name].interval) for name in others}
    rows: list[tuple[Cell, ...]] = [(PLAIN, plain.accuracy(), None, None, None, "; ".join(plain.chosen), "")]
    for name in sorted(others, key=lambda name: -measured[name].accuracy().mean):
        i = tests[name].interval
        together = Estimate(i.mean, i.low, i.high) if i.known else Estimate(i.mean)
        shown = "beats it" if verdicts[name] == HOLDS else ""
        told = "; ".join(measured[name].chosen)
        rows.append((name, measured[name].accuracy(), gaps[name], together, ps[name], told, shown))
    table = Table(
        f"{len(tasks)} vectors: {', '.join(tasks)}",
        ("method", "accuracy", "minus task arithmetic, over seeds", "over examples, all together", "p", "chosen", ""),
        tuple(rows),
        f"Test examples; accuracy with 95 % intervals over {counted(seeds, 'seed')}. p: paired tests with Holm's "
        "correction.",
        plain=("p",),
    )  # fmt: skip
    winners = [name for name in others if verdicts[name] == HOLDS]
    best = max(others, key=lambda name: gaps[name].mean)
    named = f": {', '.join(winners)}" if winners else ""
    here = f"{len(winners)} of {len(others)} methods beat it{named}"
    claim = Claim(
        f"No method beats plain task arithmetic ({len(tasks)} vectors).",
        "in the wild only plain task arithmetic is reliable (arXiv 2511.21437)",
        f"{here}; the best is {best}, {percent(gaps[best])} points above",
        FAILS if winners else HOLDS,
    )
    return table, claim


def _against(plain: _Measured, other: _Measured, tasks: Sequence[str], confidence: float) -> Difference:
    first, second = ([over_seeds(of.hits[task]) for task in tasks] for of in (plain, other))
    return difference(first, second, confidence=confidence)
