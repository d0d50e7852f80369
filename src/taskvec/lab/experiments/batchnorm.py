"""Which statistics should BatchNorm have in a sum of vectors? Four answers are compared, with the same vectors.

kept          those of the base, with which the vectors were trained
averaged      each fine-tuned model's statistics on training pictures of its own task, and the mean of these
recalibrated  those of the summed model itself, on training pictures of all tasks; measured anew for every λ
repaired      those of the base, changed by what the sum changed in the inputs of each layer (lab/batchnorm.py)

λ is chosen on validation examples for each answer. The heads are those that the base made with its own statistics.
"""

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

from taskvec.algebra.coefficients import knob
from taskvec.algebra.weights import Weights
from taskvec.evals.texts import read
from taskvec.lab.batchnorm import averaged as mean_of
from taskvec.lab.batchnorm import change, inputs, measured, repaired
from taskvec.lab.bench import Bench
from taskvec.lab.experiments.common import averaged, compared, values_of
from taskvec.lab.results import Claim, Estimate, Table, percent, verdict

KEPT, AVERAGED, ANEW, REPAIRED = "kept", "averaged", "recalibrated", "repaired"
COUNT = 100  # training pictures of each task on which statistics are measured
REPAIRS = 40  # the same for repaired statistics, whose pictures are in memory together


def comparison(
    bench: Bench,
    tasks: Sequence[str],
    total: Callable[[Sequence[str], int], Weights],
    normalised: Callable[[Weights, Sequence[str], int], float],
    grid: str,
) -> tuple[Table, Claim]:
    """The table and what it says. total: the sum of some tasks' vectors of a seed. normalised: the mean over tasks of a
    model's accuracy, divided by the fine-tuned model's."""
    rows: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    hits: dict[tuple[str, str], list[list[list[float]]]] = {}  # -> for each seed, for each task, hits
    validated: dict[str, list[float]] = {}  # statistics -> the sum's accuracy on validation examples, for each seed
    for seed in bench.seeds:
        for key, (model, lam) in _models(bench, tasks, total, grid, seed).items():
            if key[0] == SUM:
                validated.setdefault(key[1], []).append(mean(bench.means(model, tasks, "validation").values()))
            scores = bench.scores(model, tasks, "test")
            rows.setdefault(key, []).append((averaged(scores, tasks), normalised(model, tasks, seed), lam))
            hits.setdefault(key, []).append([values_of(scores, task) for task in tasks])
    table = Table(
        "BatchNorm's running statistics: kept, averaged, recalibrated, repaired",
        ("model", "statistics", "accuracy", "normalised", "λ"),
        tuple((*key, *(Estimate.over([row[k] for row in of_key]) for k in range(3))) for key, of_key in rows.items()),
        f"Test examples. Statistics were measured on {COUNT} training pictures of each task ({REPAIRS} for repaired "
        f"ones); λ is from {grid}, by validation examples. The frozen heads expect features that were normalised with "
        "the base's statistics, from which only `kept` and `repaired` start.",
        plain=("λ",),
    )
    best = max((AVERAGED, ANEW, REPAIRED), key=lambda kind: mean(validated[kind]))  # not by test examples

    def by_task(kind: str) -> Any:
        return [[of_seed[k] for of_seed in hits[SUM, kind]] for k in range(len(tasks))]

    gain = Estimate.over([row[0] for row in rows[SUM, best]]).minus(Estimate.over([r[0] for r in rows[SUM, KEPT]]))
    difference = compared(by_task(KEPT), by_task(best))
    claim = Claim(
        "A sum of vectors needs other statistics of BatchNorm than the base's.",
        "not in the paper, whose networks have no BatchNorm",
        f"{best} statistics: {percent(gain)} points against the base's, {difference.chance} over test examples",
        verdict(gain, difference.interval),
    )
    return table, claim


BASE, SUM, AVERAGE = "pre-trained", "sum, λ by validation", "average of the models (λ = 1/T)"


def _models(
    bench: Bench, tasks: Sequence[str], total: Callable[[Sequence[str], int], Weights], grid: str, seed: int
) -> dict[tuple[str, str], tuple[Weights, float]]:
    """(model, statistics) -> the model and its λ, of one seed."""
    base, whole, share = bench.base, total(tasks, seed), 1 / len(tasks)
    pictures = {t: [e for e, _ in zip(read(bench.data[t].file("train")), range(COUNT), strict=False)] for t in tasks}

    def on(model: Weights, names: Sequence[str]) -> Any:
        return measured(model, [(bench.tasks.tasks[name], pictures[name]) for name in names])  # type: ignore[misc]

    def anew(model: Weights, name: str) -> Weights:
        return model + change(base, on(model, tasks), name)

    def mended(model: Weights, name: str) -> Weights:
        return model + change(base, repaired(model, few, wanted), name)

    def tried(make: Callable[[Weights, str], Weights], name: str) -> tuple[Weights, float]:
        """The best model on validation examples, of those whose statistics are made for each λ."""
        models = [(make(base + whole * v, f"{name}_{seed}_{k}"), v) for k, v in enumerate(values)]
        return max(models, key=lambda pair: mean(bench.means(pair[0], tasks, "validation").values()))

    few: Any = [(bench.tasks.tasks[name], pictures[name][:REPAIRS]) for name in tasks]
    wanted = mean_of([inputs(base + bench.vector(task, seed), few) for task in tasks])
    each = [on(base + bench.vector(task, seed), [task]) for task in tasks]
    middle = change(base, mean_of(each), f"averaged_{seed}")
    lam = knob("lam")
    kept = bench.choose(base + lam * whole, tasks, grid)
    means = bench.choose(base + middle + lam * whole, tasks, grid)
    values = [value for value, _ in kept.curve]
    average = base + whole * share
    return {
        (BASE, KEPT): (base, 0.0),
        (BASE, ANEW): (anew(base, f"recalibrated_{seed}_base"), 0.0),
        (SUM, KEPT): (kept.model, kept.value),
        (SUM, AVERAGED): (means.model, means.value),
        (SUM, ANEW): tried(anew, "recalibrated"),
        (SUM, REPAIRED): tried(mended, "repaired"),
        (AVERAGE, KEPT): (average, share),
        (AVERAGE, AVERAGED): (average + middle, share),
        (AVERAGE, ANEW): (anew(average, f"recalibrated_{seed}_average"), share),
        (AVERAGE, REPAIRED): (mended(average, f"repaired_{seed}_average"), share),
    }
