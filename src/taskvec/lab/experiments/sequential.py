"""Sequential edits: tasks are added to a model, removed and added again, one after another, in every order.

Whoever edits a model step by step wants to know two things. Does adding C later break A, which was there before? And
does removing B give back exactly the model without B?

1. A sequence adds the tasks in one order, then removes the first of them and adds it again: +A +B +C -A +A. All orders
   are tried; of many tasks a sample of the orders, drawn by a hash (splits.py: `draw`).
2. The reference of a task is its accuracy right after it was added (or added again). After every later step each task
   that is in the model is compared with its reference, by a paired test on the same test examples. The p-values of a
   sequence are corrected together (Holm). A task regresses where it is worse with p < 0.05, and a sequence regresses
   if one of its tasks does after any of its steps.
3. A vector is added with a coefficient λ, in one of two ways. `ONCE`: one λ for all vectors and steps, the best on
   validation examples for the sum of all vectors. `ANEW`: every added vector gets a λ of its own, the best for its task
   on validation examples in the model as it is then, and nobody looks at the other tasks. This is naive, and common.
4. With plain task arithmetic a model is θ0 + Σ λ_t τ_t over the tasks t that are in it, and it is computed anew from
   θ0. So with one λ neither the order nor what was removed in between matters, exactly: it is the same sum. This is
   checked for the recipes of all sequences, and for every value of the models of one seed. Beside it stand models
   that are edited in place (θ ← θ + λτ, then θ ← θ - λτ), where each step rounds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from taskvec.lab.bench import Bench, require, require_tasks
from taskvec.lab.experiments.common import compared, too_few, values_of
from taskvec.lab.experiments.edits import ADDED, AGAIN, ANEW, ONCE, REMOVED, SMALL, Change, Editor, Walk, orders_of
from taskvec.lab.experiments.in_place import TASKVEC, left_behind
from taskvec.lab.results import FAILS, HOLDS, WEAKLY, Cell, Claim, Curves, Estimate, Findings, Table, percent, verdict
from taskvec.lab.suite import Suite
from taskvec.searching.evidence import holm

QUESTION = "Does a later edit break an earlier one, and does removing a vector give back exactly the model without it?"
DEFENCES = 0.389  # the share of 144 sequences of defences that regress (arXiv 2605.14514)
MOST = 8  # tasks: 8! orders can still be listed
SHORT = {ONCE: "one λ", ANEW: "λ anew"}
LISTED = 24  # orders that get a row of their own


@dataclass(frozen=True, slots=True)
class Settings:
    """What a suite may say under `experiments: {sequential: ...}`."""

    tasks: Sequence[str] = ()  # the first four of the suite, unless named
    orders: int = 24  # at most so many orders of the tasks with one λ
    anew: int = 6  # and at most so many of these with a λ chosen anew; 0 for none
    grid: str = "0.2:1:0.2"
    margin: float = 0.02  # a loss of accuracy that does not matter


def check(suite: Suite, settings: Settings) -> None:
    """Raise RecipeError for what this experiment cannot do with a suite."""
    tasks = settings.tasks or suite.tasks[:4]
    require_tasks(suite, "sequential", tasks)
    told = f"sequential: it takes 2 to {MOST} different tasks, not {', '.join(tasks)}"
    require(1 < len({*tasks}) == len(tasks) <= MOST, told)
    require(settings.orders >= 1 and settings.anew >= 0, "sequential: orders is at least 1, and anew at least 0")


def run(bench: Bench, settings: Settings) -> Findings:
    """Run the experiment."""
    check(bench.suite, settings)
    tasks = tuple(settings.tasks or bench.suite.tasks[:4])
    orders = orders_of(tasks, settings.orders)
    editor = Editor(bench, tasks, settings.grid)
    walked = {ONCE: editor.all(ONCE, orders)}
    if settings.anew:
        walked[ANEW] = editor.all(ANEW, orders[: settings.anew])
    same = all(editor.same_recipe(sequence) for sequence in walked[ONCE])
    bench.tell("edits in place", 0.95)
    seed = bench.seeds[0]
    vectors = {task: bench.vector(task, seed) for task in tasks}
    exact, drifts = left_behind(bench.base, vectors, orders[0], editor.one_lam(seed))
    removed, forgotten = _removed(editor)
    tables = [_summary(bench, walked)]
    for way, sequences in walked.items():
        tables += _matrices(bench, tasks, way, sequences)
    tables += [_steps(bench, walked), removed, exact]
    if len(orders) <= LISTED:
        tables.append(_orders(bench, orders, walked))
    count, whole = len(orders), math.factorial(len(tasks))
    return Findings(
        "sequential",
        QUESTION,
        (
            f"Tasks: {', '.join(tasks)}. A sequence adds them in one order, then removes the first and adds it again.",
            f"{count} of {whole} orders"
            + ("" if count == whole else ", drawn by a hash of their names")
            + (f"; with λ chosen anew {min(settings.anew, count)} of these." if settings.anew else "."),
            f"λ from {settings.grid}, on validation examples: one for all, the best for the sum of all vectors; anew, "
            "the best for the task that is being added, whatever it does to the others.",
            "A task regresses if it is worse than right after it was added, by a paired test on test examples with "
            f"Holm's correction over its sequence, p < {SMALL:g}. A sequence regresses if one of its tasks does.",
            f"Seeds of fine-tuning: {', '.join(map(str, bench.seeds))}; tests and shares are of each seed alone.",
        ),
        tuple(tables),
        (_along(bench, len(tasks), walked),),
        claims=(*_claims(bench, settings, walked, same, drifts), forgotten),
        limits=(
            *too_few(bench),
            "Sequences share models and test examples, so that intervals are over seeds and not over sequences.",
            "A test finds only losses that so many test examples can show: no regression is no proof of no loss.",
        ),
    )  # fmt: skip


# ---- findings ------------------------------------------------------------------------------------
def _over(bench: Bench, sequences: Sequence[Walk], of_seed: Callable[[list[Walk]], float]) -> Estimate:
    """What a function makes of the sequences of each seed."""
    return Estimate.over([of_seed([s for s in sequences if s.seed == seed]) for seed in bench.seeds])


def _share(sequences: Sequence[Walk]) -> float:
    """The share of the sequences that regress."""
    return mean(s.regressions > 0 for s in sequences)


def _final(sequences: Sequence[Walk]) -> float:
    return mean(s.final for s in sequences)


def _range(sequences: Sequence[Walk]) -> float:
    """How far apart the orders end."""
    return max(s.final for s in sequences) - min(s.final for s in sequences)


def _since(sequences: Sequence[Walk]) -> float:
    """The mean change of a task since it was added, after steps that add others."""
    return mean(c.since for s in sequences for c in s.changes if c.kind == ADDED)


def _summary(bench: Bench, walked: Mapping[str, Sequence[Walk]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for way, sequences in walked.items():
        regressing = sum(s.regressions > 0 for s in sequences)
        cells = [_over(bench, sequences, f) for f in (_share, _final, _range)]
        lam = _over(bench, sequences, lambda of_seed: mean(lam for s in of_seed for lam in s.end.values()))
        rows.append((way, f"{regressing} of {len(sequences)}", *cells, lam))
    return Table(
        "Sequences of edits",
        ("λ", "sequences that regress", "share of them", "accuracy at the end", "best less worst order", "mean λ"),
        tuple(rows),
        "Test examples. The accuracy is the mean over the tasks, and over the orders.",
        plain=("mean λ",),
    )


def _matrices(bench: Bench, tasks: Sequence[str], way: str, sequences: Sequence[Walk]) -> list[Table]:
    """Row: a task that was in the model. Column: the task that was then added. Cell: what this did to the former."""
    earlier = {(task, cause) for s in sequences for k, cause in enumerate(s.order) for task in s.order[:k]}

    def cell(task: str, cause: str, of_change: Callable[[Change], float]) -> Cell:
        def of_seed(of_one: Sequence[Walk]) -> float:
            changes = (c for s in of_one for c in s.changes)
            return mean(of_change(c) for c in changes if (c.kind, c.task, c.cause) == (ADDED, task, cause))

        return _over(bench, sequences, of_seed) if (task, cause) in earlier else None

    def matrix(title: str, of_change: Callable[[Change], float], note: str) -> Table:
        rows = tuple((task, *(cell(task, cause, of_change) for cause in tasks)) for task in tasks)
        columns = ("there", *(f"then + {cause}" for cause in tasks))
        return Table(
            f"{title}; {way}", columns, rows, f"{note} Of the orders in which the task on the left comes first."
        )

    return [
        matrix(
            "What a task that is added later does to one that is there",
            lambda c: c.by,
            "The change of the test accuracy of the task on the left by this step, in points.",
        ),
        matrix(
            "How often a task regresses when another is added",
            lambda c: c.regression,
            "How often the task on the left is then worse than right after it was added, in % of the orders.",
        ),
    ]


def _along(bench: Bench, count: int, walked: Mapping[str, Sequence[Walk]]) -> Curves:
    """What tasks have lost or gained since they were added, step by step; after the first step there is no other."""

    def point(sequences: Sequence[Walk], step: int) -> tuple[float, float, float | None, float | None]:
        def of_seed(of_one: Sequence[Walk]) -> float:
            return mean(c.since for s in of_one for c in s.changes if c.step == step)

        estimate = _over(bench, sequences, of_seed)
        return step + 1, estimate.mean, estimate.low, estimate.high

    return Curves(
        "Change of the tasks in the model since they were added",
        "step",
        "change of accuracy",
        {way: tuple(point(sequences, step) for step in range(1, count + 2)) for way, sequences in walked.items()},
        note=f"Test examples; means over tasks and orders. Step {count + 1} removes the first task, and {count + 2} "
        "adds it again.",
    )


def _steps(bench: Bench, walked: Mapping[str, Sequence[Walk]]) -> Table:
    """By the kind of step: what it does to the other tasks in the model."""
    rows: list[tuple[Cell, ...]] = []
    for way, sequences in walked.items():
        for kind in (ADDED, REMOVED, AGAIN):

            def of_kind(of_seed: Sequence[Walk], kind: str = kind) -> list[Change]:
                return [c for s in of_seed for c in s.changes if c.kind == kind]

            rows.append(
                (
                    f"{kind}; {way}",
                    _over(bench, sequences, lambda of_seed: mean(c.by for c in of_kind(of_seed))),
                    min(c.by for c in of_kind(sequences)),
                    _over(bench, sequences, lambda of_seed: mean(c.since for c in of_kind(of_seed))),
                    _over(bench, sequences, lambda of_seed: mean(c.regression for c in of_kind(of_seed))),
                )
            )
    return Table(
        "What a step does to the other tasks in the model",
        ("step", "change by the step", "worst change by a step", "change since they were added", "regressions"),
        tuple(rows),
        "Test accuracy, in points; regressions are a share of all comparisons with a reference, in %.",
    )  # fmt: skip


def _removed(editor: Editor) -> tuple[Table, Claim]:
    """What a model that holds all other tasks does on a task that was removed from it. Exactly the model without a
    vector need not be a model without the ability: vectors of related tasks may bring it, too."""
    bench, tests = editor.bench, {}
    rows: dict[str, list[Estimate]] = {}
    for task in editor.tasks:
        of_model: dict[str, list[list[float]]] = {"base": [], "all": [], "without": []}
        for seed in bench.seeds:
            lams = dict.fromkeys(editor.tasks, editor.one_lam(seed))
            models = {
                "base": bench.base,
                "all": editor.model(lams, seed),
                "without": editor.model({name: lam for name, lam in lams.items() if name != task}, seed),
            }
            for name, model in models.items():
                of_model[name].append(values_of(bench.scores(model, [task], "test"), task))
        rows[task] = [Estimate.over([*map(mean, hits)]) for hits in of_model.values()]
        tests[task] = compared([of_model["base"]], [of_model["without"]]).p
    ps = holm(tests)
    apart = [f"{task} ({percent(rows[task][2].minus(rows[task][0]))} points)" for task in rows if ps[task] < SMALL]
    claim = Claim(
        "A removed task is as well known as to the pre-trained model, whatever other vectors stay (weakly: no test "
        "shows a difference).",
        "not reported",
        f"{len(apart)} of {len(rows)} differ{': ' if apart else ''}{', '.join(apart)}",
        FAILS if apart else WEAKLY,
    )
    table = Table(
        f"A task that was removed; {ONCE}",
        ("removed", "pre-trained", "with it", "without it", "p"),
        tuple((task, *cells, ps[task]) for task, cells in rows.items()),
        "Test accuracy on the task, in %. Without it: the vectors of all other tasks are in the model. p: paired tests "
        "that the accuracy is then the pre-trained model's, with Holm's correction.",
        plain=("p",),
    )
    return table, claim


def _orders(bench: Bench, orders: Sequence[tuple[str, ...]], walked: Mapping[str, Sequence[Walk]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for order in orders:
        cells: list[Cell] = []
        for sequences in walked.values():
            of_order = [s for s in sequences if s.order == order]
            told = f"{sum(s.regressions > 0 for s in of_order)} of {len(of_order)}" if of_order else None
            cells += [told, _over(bench, of_order, _final) if of_order else None]
        rows.append((", ".join(order), *cells))
    columns = [
        name for way in walked for name in (f"{SHORT[way]}: seeds that regress", f"{SHORT[way]}: accuracy at the end")
    ]
    return Table("Each order", ("order", *columns), tuple(rows), "Test examples; the mean over the tasks.")


def _claims(
    bench: Bench,
    settings: Settings,
    walked: Mapping[str, Sequence[Walk]],
    same: bool,
    drifts: Mapping[str, tuple[float, float]],
) -> tuple[Claim, ...]:
    by_order, by_removal = drifts[TASKVEC]

    def told(place: int) -> str:
        return "; ".join(f"{name}: {percent(drift[place])} %" for name, drift in drifts.items() if name != TASKVEC)

    orders = len({s.order for s in walked[ONCE]})
    share = _over(bench, walked[ONCE], _share)
    since = {way: _over(bench, walks, _since) for way, walks in walked.items()}
    small = verdict(Estimate.over([value + settings.margin for value in since[ONCE].values]))
    claims = [
        Claim(
            "With plain task arithmetic and one λ the order of the edits does not matter at the end, exactly.",
            "sums do not depend on the order (no number)",
            f"{orders} orders {'end in one recipe' if same else 'end in different recipes'}; {percent(by_order)} % of "
            f"the values depend on the order ({told(0)})",
            HOLDS if same and not by_order else FAILS,
        ),
        Claim(
            "Removing a vector gives back exactly the model without it.",
            "not reported",
            f"{percent(by_removal)} % of the values differ from the model without it ({told(1)})",
            HOLDS if same and not by_removal else FAILS,
        ),
        Claim(
            f"A task keeps its accuracy when others are added later: no sequence regresses, and the mean loss is below "
            f"{percent(settings.margin)} points (weakly: fewer sequences regress than of defences).",
            "144 sequences of defences: 38.9 % regress (arXiv 2605.14514)",
            "; ".join(
                f"{way}: {percent(_over(bench, walks, _share))} % regress, mean change {percent(since[way])} points"
                for way, walks in walked.items()
            ),
            HOLDS if not share.mean and small == HOLDS else WEAKLY if share.mean < DEFENCES else FAILS,
        ),
    ]
    if ANEW in walked:
        tried = {s.order for s in walked[ANEW]}
        once = [s for s in walked[ONCE] if s.order in tried]
        gap = _over(bench, once, _final).minus(_over(bench, walked[ANEW], _final))
        claims.append(
            Claim(
                "One λ for all steps ends in a better model than a λ that is chosen anew at each step.",
                "not reported",
                f"{percent(gap)} points better; the best and the worst order are {percent(_over(bench, once, _range))} "
                f"points apart with one λ, and {percent(_over(bench, walked[ANEW], _range))} with a λ chosen anew",
                verdict(gap),
            )
        )
    return tuple(claims)
