"""Learning by addition: one model from several vectors (Ilharco et al., 2023, section 4.1).

1. θ0 + λ Σ τ_t over the vectors of several tasks, one λ for the whole sum, chosen on validation examples. What it
   scores on a task is divided by what the model fine-tuned on that task alone scores: the normalised accuracy.
2. All pairs of tasks, and all tasks at once. With all tasks the sum is compared with the base, with the average of the
   models (λ = 1/T), with rules for λ that need no data, with a model that is trained on all tasks jointly, and with the
   ensemble of the fine-tuned models, whose probabilities are averaged. Over the pairs, the accuracies of the sum and of
   the ensemble are correlated.
3. All subsets of the tasks (of one seed, since there are 2^T): the normalised accuracy against the number of tasks.
4. The sensitivity to λ: validation accuracy for λ from 0 to 2, and the plateau around its best.
5. Target improvement: a model fine-tuned on one task, plus λ times the vector of another task, both chosen on
   validation examples, against the fine-tuned model alone.
6. For a model with BatchNorm: which running statistics the sum should have (batchnorm.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from operator import add
from statistics import mean

from taskvec.algebra.coefficients import knob
from taskvec.algebra.weights import Weights
from taskvec.evals import Numbers
from taskvec.lab.batchnorm import has_statistics
from taskvec.lab.bench import Bench, require
from taskvec.lab.experiments.batchnorm import comparison
from taskvec.lab.experiments.common import averaged, compared, correlated, correlation, line_of, too_few, values_of
from taskvec.lab.results import Claim, Curves, Estimate, Findings, Points, Table, percent, verdict
from taskvec.lab.suite import Suite
from taskvec.methods import FUNCTIONS
from taskvec.searching.evidence import Difference, holm
from taskvec.sources.text import counted

QUESTION = "Does a sum of vectors give one model that does all their tasks?"
SUM, AVERAGE, MATCHED, FIXED, JOINT, ENSEMBLE = (
    "sum, λ by validation", "average of the models (λ = 1/T)", "norm_matched, no data", "λ = 0.4, no data",
    "joint training", "ensemble of the fine-tuned models",
)  # fmt: skip

TRIED = 3  # subsets of each size, on which its λ is chosen


@dataclass(frozen=True, slots=True)
class Settings:
    """What a suite may say under `experiments: {addition: ...}`."""

    grid: str = "0:1:0.05"
    pairs_grid: str = "0:1:0.1"
    sensitivity: str = "0:2:0.2"
    pairs: bool = True
    subsets: bool = True
    subset_share: float = 1.0  # of the test examples, on which the 2^T subsets are judged
    joint: int = 1  # seeds of joint training, which takes as long as all vectors together; 0 for none
    ensemble: bool = True  # for tasks that give probabilities of classes
    improvement: bool = True
    improvement_grid: str = "0:0.5:0.1"
    statistics_grid: str = "0:1:0.1"  # of λ, for a model with BatchNorm


def check(suite: Suite, settings: Settings) -> None:
    """Raise RecipeError for what this experiment cannot do with a suite."""
    require(len(suite.tasks) > 1, "addition: a suite needs two tasks at least")


def run(bench: Bench, settings: Settings) -> Findings:
    """Run the experiment."""
    check(bench.suite, settings)
    tasks = bench.suite.tasks
    work = _Work(bench, settings, tasks)
    tables, curves, claims, points = [], [], [], list[Points]()
    table, sensitivity, told = work.everything()
    tables.append(table)
    curves.append(sensitivity)
    claims += told
    if settings.pairs:
        table, of_pairs, points = work.pairs()
        tables.append(table)
        claims += of_pairs
    if settings.subsets:
        curves.append(work.subsets())
    if settings.improvement:
        table, claim = work.improvement()
        tables.append(table)
        claims.append(claim)
    if has_statistics(bench.base):
        bench.tell("addition with other statistics of BatchNorm", None)
        table, claim = comparison(bench, tasks, work.total, work.normalised, settings.statistics_grid)
        tables.append(table)
        claims.append(claim)
    limits = too_few(bench)
    if settings.subsets:
        limits.append(f"The subsets were judged with the vectors of seed {bench.seeds[0]} alone.")
    if settings.joint < len(bench.seeds):
        limits.append(f"Joint training was done with {settings.joint} of {len(bench.seeds)} seeds.")
    return Findings(
        "addition",
        QUESTION,
        (
            f"Tasks: {', '.join(tasks)}. Seeds of fine-tuning: {', '.join(map(str, bench.seeds))}.",
            f"One λ for a whole sum, from {settings.grid} (pairs {settings.pairs_grid}), by the mean accuracy on "
            "validation examples.",
            "Normalised: the accuracy, divided by that of the model fine-tuned on the task alone. Test examples.",
        ),
        tuple(tables),
        tuple(curves),
        tuple(points),
        tuple(claims),
        tuple(limits),
    )


@dataclass(frozen=True, slots=True)
class _Work:
    bench: Bench
    settings: Settings
    tasks: Sequence[str]

    def total(self, tasks: Sequence[str], seed: int) -> Weights:
        """The sum of vectors."""
        return reduce(add, (self.bench.vector(name, seed) for name in tasks))

    def tuned(self, tasks: Sequence[str], seed: int) -> list[Weights]:
        """The fine-tuned models."""
        return [self.bench.base + self.bench.vector(name, seed) for name in tasks]

    def own(self, name: str, seed: int, share: float = 1.0) -> float:
        """Test accuracy of the model fine-tuned on a task alone: what others are divided by."""
        model = self.bench.base + self.bench.vector(name, seed)
        score = averaged(self.bench.scores(model, [name], "test", share), [name])
        require(score, f"addition: the model fine-tuned on {name} gets no test example right, and is a divisor")
        return score

    def normalised(self, model: Weights, tasks: Sequence[str], seed: int, share: float = 1.0) -> float:
        """The mean over tasks of the normalised accuracy, on a share of the test examples."""
        scores = self.bench.scores(model, tasks, "test", share)
        return mean(averaged(scores, [name]) / self.own(name, seed, share) for name in tasks)

    def share(self, phase: int, done: int, count: int) -> float:
        """The share of this experiment that is behind it: of four phases this one, and of the phase so many parts."""
        return (phase + done / count) / 4

    def chosen(self, direction: Weights, tasks: Sequence[str], grid: str) -> tuple[Weights, float]:
        """The model θ0 + λ d with the best mean validation accuracy, and its λ."""
        family = self.bench.base + knob("lam") * direction
        choice = self.bench.choose(family, tasks, grid)
        return choice.model, choice.value

    # ---- all tasks
    def everything(self) -> tuple[Table, Curves, list[Claim]]:
        """One model for all tasks, by every way, and the sensitivity of the sum to λ."""
        models: dict[str, list[tuple[float, float, float, float]]] = {}
        hits: dict[str, dict[str, list[list[float]]]] = {}
        count = len(self.tasks)
        for number, seed in enumerate(self.bench.seeds):
            self.bench.tell(f"addition of all {count} tasks, seed {seed}", self.share(0, number, len(self.bench.seeds)))
            total = self.total(self.tasks, seed)
            matched = FUNCTIONS["norm_matched"](*(self.bench.vector(name, seed) for name in self.tasks))
            best, lam = self.chosen(total, self.tasks, self.settings.grid)
            made: dict[str, tuple[Weights | None, float]] = {
                "pre-trained": (self.bench.base, 0.0),
                AVERAGE: (self.bench.base + total / count, 1 / count),
                SUM: (best, lam),
                MATCHED: (self.bench.base + matched, float("nan")),
                FIXED: (self.bench.base + total * 0.4, 0.4),
            }
            if number < self.settings.joint:
                made[JOINT] = (self.bench.base + self.bench.joint(self.tasks, seed), 1.0)
            made["fine-tuned, each on its own task"] = (None, 1.0)
            judged = {name: (self._scores(model, seed), value) for name, (model, value) in made.items()}
            if number == 0 and self.settings.ensemble:
                judged[ENSEMBLE] = (self.bench.ensemble(self.tuned(self.tasks, seed), self.tasks, "test"), float("nan"))
            for name, (scores, value) in judged.items():
                shares = [averaged(scores, [t]) / self.own(t, seed) for t in self.tasks]
                models.setdefault(name, []).append((averaged(scores, self.tasks), mean(shares), min(shares), value))
                for task in self.tasks:
                    hits.setdefault(name, {}).setdefault(task, []).append(values_of(scores, task))
        rows = tuple(
            (name, *(Estimate.over([row[place] for row in of_model]) for place in range(3)), _lam(of_model))
            for name, of_model in models.items()
        )
        table = Table(
            f"One model for all {count} tasks",
            ("model", "accuracy", "normalised", "worst task, normalised", "λ"),
            rows,
            f"Test examples; means over tasks, and 95 % intervals over {counted(len(self.bench.seeds), 'seed')}.",
            plain=("λ",),
        )
        return table, self.sensitivity(), self._claims(models, hits)

    def _scores(self, model: Weights | None, seed: int) -> dict[str, Numbers]:
        """Test scores on all tasks; without a model each task's own."""
        if model is not None:
            return self.bench.scores(model, self.tasks, "test")
        found: dict[str, Numbers] = {}
        for name in self.tasks:
            found |= self.bench.scores(self.bench.base + self.bench.vector(name, seed), [name], "test")
        return found

    def _claims(
        self,
        models: dict[str, list[tuple[float, float, float, float]]],
        hits: dict[str, dict[str, list[list[float]]]],
    ) -> list[Claim]:
        def estimate(name: str, place: int) -> Estimate:
            return Estimate.over([row[place] for row in models[name]])

        def against(first: str) -> Difference:
            return compared([*hits[first].values()], [*hits[SUM].values()])

        whole = estimate(SUM, 1)
        over_average = estimate(SUM, 0).minus(estimate(AVERAGE, 0))
        fixed = estimate(SUM, 0).minus(estimate(FIXED, 0))
        matched = estimate(SUM, 0).minus(estimate(MATCHED, 0))
        claims = [
            Claim(
                "One summed model does all tasks nearly as well as the single models (90 % normalised, at least).",
                "all 8 vectors, the best model: 91.2 % normalised",
                f"{percent(whole)} % normalised; the base has {percent(estimate('pre-trained', 1))}",
                verdict(whole, wanted=0.9),
            ),
            Claim(
                "Choosing λ beats averaging the models.",
                "ViT-B/32, 8 tasks: averaging 65.8, λ = 0.3 69.1 (as others report)",
                f"{percent(over_average)} points better than the average, {against(AVERAGE).chance} over test examples",
                verdict(over_average, against(AVERAGE).interval),
            ),
            Claim(
                "Review, major 1: a default rule for λ, with what it loses. λ = 0.4 for a sum, and norm_matched.",
                "λ from 0.3 to 0.5 is nearly optimal in many cases",
                f"λ = 0.4 loses {percent(fixed)} points against λ by validation, norm_matched loses {percent(matched)}",
                "measured",
            ),
        ]
        if JOINT in models:
            seeds = len(models[JOINT])
            behind = estimate(JOINT, 1).minus(Estimate.over([row[1] for row in models[SUM][:seeds]]))
            claims.append(
                Claim(
                    "Joint training on all tasks is better still.",
                    "joint training 99.4 % normalised, the sum 91.2 %",
                    f"joint training {percent(estimate(JOINT, 1))} % normalised, {percent(behind)} points above the "
                    f"sum ({counted(seeds, 'seed')})",
                    verdict(behind),
                )
            )
        return claims

    def sensitivity(self) -> Curves:
        """Mean validation accuracy of θ0 + λ Σ τ over λ, with the λ that was chosen."""
        curves, values = [], []
        for seed in self.bench.seeds:
            family = self.bench.base + knob("lam") * self.total(self.tasks, seed)
            curve = self.bench.choose(family, self.tasks, self.settings.sensitivity).curve
            curves.append([(lam, mean(metrics.values())) for lam, metrics in curve])
            values.append(self.chosen(self.total(self.tasks, seed), self.tasks, self.settings.grid)[1])
        line = line_of(curves)
        best = max(accuracy for _, accuracy, _, _ in line)
        flat = [lam for lam, accuracy, _, _ in line if accuracy >= best - 0.01]
        return Curves(
            "Sensitivity of the sum of all vectors to λ, on validation examples",
            "λ in θ0 + λ Σ τ",
            "mean accuracy",
            {"all tasks": line},
            {"mean λ that was chosen": mean(values)},
            f"Within one point of its best for λ from {min(flat):g} to {max(flat):g}.",
        )

    # ---- pairs and subsets
    def pairs(self) -> tuple[Table, list[Claim], list[Points]]:
        """Every pair of tasks: the normalised accuracy of the sum, averaged over its two tasks. For the first seed also
        the accuracy of the ensemble of both models."""
        rows, means = [], [[] for _ in self.bench.seeds]  # type: ignore[var-annotated]
        ensembles: dict[str, tuple[float, float]] = {}
        every = [*combinations(self.tasks, 2)]
        for number, pair in enumerate(every):
            self.bench.tell(f"addition of pairs, {number + 1} of {len(every)}", self.share(1, number, len(every)))
            values, lams = [], []
            for k, seed in enumerate(self.bench.seeds):
                model, lam = self.chosen(self.total(pair, seed), pair, self.settings.pairs_grid)
                values.append(self.normalised(model, pair, seed))
                lams.append(lam)
                means[k].append(values[-1])
                if k == 0 and self.settings.ensemble:
                    both = self.bench.ensemble(self.tuned(pair, seed), pair, "test")
                    summed = self.bench.scores(model, pair, "test")
                    ensembles[" + ".join(pair)] = averaged(both, pair), averaged(summed, pair)
            rows.append((" + ".join(pair), Estimate.over(values), Estimate.over(lams)))
        whole = Estimate.over([mean(of_seed) for of_seed in means])
        rows = [("mean of all pairs", whole, None), *rows]  # type: ignore[list-item]
        table = Table("Pairs of tasks", ("pair", "normalised", "λ"), tuple(rows), "Test examples.", plain=("λ",))
        claims = [
            Claim(
                "Sums of two vectors keep nearly all of what the single models do (95 % normalised, at least).",
                "all pairs: 98.9 % normalised on average",
                f"{percent(whole)} % normalised on average",
                verdict(whole, wanted=0.95),
            )
        ]
        if len(ensembles) < 3:
            return table, claims, []
        r = correlation([*ensembles.values()])
        claims.append(
            Claim(
                "The accuracy of a sum goes with that of the ensemble of the single models.",
                "they correlate (no number)",
                f"Pearson's correlation over {len(ensembles)} pairs: {r:.2f}",
                correlated(r),
            )
        )
        told = "Pairs of tasks: the ensemble of both models, and the sum of both vectors"
        return table, claims, [Points(told, "accuracy of the ensemble", "accuracy of the sum", ensembles)]

    def subsets(self) -> Curves:
        """Normalised accuracy of the sums of all subsets, on the tasks of the subset, against their number."""
        seed, count, done = self.bench.seeds[0], 2 ** len(self.tasks) - 1, 0
        line, lams = [], []
        for size in range(1, len(self.tasks) + 1):
            every = [*combinations(self.tasks, size)]
            spread = every[:: max(1, len(every) // TRIED)][:TRIED]  # subsets on which λ is chosen for this size
            tried = [self.chosen(self.total(s, seed), s, self.settings.pairs_grid)[1] for s in spread]
            lam, values = mean(tried) if size > 1 else 1.0, []
            for subset in every:
                done += 1
                self.bench.tell(f"addition of subsets, {done} of {count}", self.share(2, done, count))
                model = self.bench.base + self.total(subset, seed) * lam
                values.append(self.normalised(model, subset, seed, self.settings.subset_share))
            line.append((float(size), mean(values), min(values), max(values)))
            lams.append(f"{lam:.2g}")
        return Curves(
            "Normalised accuracy of the sums of all subsets of tasks",
            "number of vectors in the sum",
            "normalised accuracy",
            {"mean over subsets": tuple(line)},
            bands="from the worst to the best subset",
            note=f"Vectors of seed {seed}; test examples of the tasks in the sum (the first "
            f"{self.settings.subset_share:.0%} of each). λ by validation for each number of vectors, on up to {TRIED} "
            f"subsets: {', '.join(lams)}.",
        )

    # ---- target improvement
    def improvement(self) -> tuple[Table, Claim]:
        """A fine-tuned model plus another task's vector, which and how much chosen on validation examples."""
        rows, pairs = [], {}
        for number, target in enumerate(self.tasks):
            self.bench.tell(f"target improvement of {target}", self.share(3, number, len(self.tasks)))
            before, after, used = [], [], []
            for seed in self.bench.seeds:
                tuned = self.bench.base + self.bench.vector(target, seed)
                best = (averaged(self.bench.scores(tuned, [target], "validation"), [target]), "none", tuned)
                for other in self.tasks:
                    if other != target:
                        family = tuned + knob("lam") * self.bench.vector(other, seed)
                        choice = self.bench.choose(family, [target], self.settings.improvement_grid)
                        score = averaged(self.bench.scores(choice.model, [target], "validation"), [target])
                        if score > best[0] and choice.value:
                            best = (score, f"{choice.value:g} {other}", choice.model)
                before.append(values_of(self.bench.scores(tuned, [target], "test"), target))
                after.append(values_of(self.bench.scores(best[2], [target], "test"), target))
                used.append(best[1])
            pairs[target] = (before, after)
            rows.append(
                (target, Estimate.over([*map(mean, before)]), Estimate.over([*map(mean, after)]), ", ".join(used))
            )
        ps = holm({name: compared([b], [a]).p for name, (b, a) in pairs.items()})
        whole = compared([b for b, _ in pairs.values()], [a for _, a in pairs.values()])
        seeds = [mean(mean(a[k]) - mean(b[k]) for b, a in pairs.values()) for k in range(len(self.bench.seeds))]
        table = Table(
            "Target improvement: a fine-tuned model plus another task's vector",
            ("task", "fine-tuned", "with another vector", "added, seed by seed", "p"),
            tuple((*row, ps[str(row[0])]) for row in rows),
            "Test examples; p: paired tests over examples, with Holm's correction.",
            plain=("p",),
        )
        claim = Claim(
            "Another task's vector improves a fine-tuned model.",
            "T5-base on four GLUE tasks: 78.1 to 78.6 on average, out of 427 vectors",
            f"{percent(Estimate.over(seeds))} points on average, {whole.chance} over test examples",
            verdict(Estimate.over(seeds), whole.interval),
        )
        return table, claim


def _lam(rows: Sequence[tuple[float, float, float, float]]) -> Estimate | None:
    values = [row[3] for row in rows]
    return None if values[0] != values[0] else Estimate.over(values)
