"""The paper's three operations on a real model, each judged on test texts that were not used to choose anything.

The vectors were trained on the train split, every lambda below is chosen on validation, and the tables show the test
split.
"""

import time
from functools import reduce
from operator import add
from pathlib import Path
from statistics import mean

import encoder
import show
import suite
import torch
from suite import Scores, Suite
from torch import Tensor

import taskvec as tv

OUT = Path(__file__).resolve().parent.parent / "out" / "demo"
VALIDATION, TEST = 60, 200  # texts a task, of the 300 and 500 there are: what two cores do in two minutes
ADDED = (0.3, 0.4, 0.5, 0.6)  # the lambdas tried for the sum,
NEGATED = tuple(k / 10 for k in range(10, 0, -1))  # the negation: the paper's range 0 to 1, largest first,
COMBINED = (0.25, 0.5, 0.75, 1.0)  # and the analogy
FORGET = ("20ng", "r8")
KEEP = 0.95  # of the base's mean control accuracy must survive the forgetting
A, B, C, D = "movie", "amazon", "nyt", "tweets"  # critics : customers :: editorials : tweets


def zero_shot(s: Suite) -> tuple[Scores, Scores]:
    """The base on all tasks, and each fine-tuned model (base + tau) on its own."""
    base = s.scores(s.base, s.test, s.tasks)
    own = {name: s.scores(s.base + s.vectors[name], s.test, [name])[name] for name in s.tasks}
    return base, own


def choose(s: Suite, direction: tv.Weights, grid: tuple[float, ...], names: list[str], what: str) -> float:
    """The lambda for which base + lambda * direction has the best mean validation accuracy on the named tasks."""
    result = tv.search(s.base + tv.knob("lam") * direction, s.judge(names), {"lam": list(grid)}, test=False)
    tried = {trial.knobs["lam"]: trial.goodness for trial in result.trials}
    show.tried(f"{what}, validation accuracy on {', '.join(names) if len(names) < 3 else 'all tasks'}", tried)
    return result.chosen.knobs["lam"]


def addition(s: Suite) -> tuple[float, tv.Weights]:
    """base + lambda * sum of all tau."""
    total = reduce(add, s.vectors.values())
    lam = choose(s, total, ADDED, list(s.tasks), "sum of all vectors")
    return lam, s.base + lam * total


def negation(s: Suite, target: str) -> tuple[float, tv.Weights]:
    """base - lambda * tau: the largest lambda that keeps KEEP of the base's mean accuracy on the other tasks."""
    controls = [name for name in s.tasks if name != target]
    mean_of = f"mean({', '.join(map(repr, controls))})"
    of_base = f"mean({', '.join(f'base[{name!r}]' for name in controls)})"
    result = tv.search(
        s.base - tv.knob("lam") * s.vectors[target], s.judge(controls), {"lam": list(NEGATED)},
        objective=mean_of, constraints=[f"{mean_of} >= {KEEP}*{of_base}"], rule="largest", early=True,
        test=False,
    )  # fmt: skip
    tried = {trial.knobs["lam"]: trial.goodness for trial in result.trials}
    floor = KEEP * mean(
        sum(result.validation["base"][name]) / len(result.validation["base"][name]) for name in controls
    )
    show.tried(f"forgetting {target}, validation accuracy of the controls (floor {100 * floor:.1f})", tried)
    return (result.chosen.knobs["lam"] if result.chosen else 0.0), result.weights


def analogy(s: Suite) -> tuple[tv.Weights, dict[str, Tensor]]:
    """base + lambda * (tau_C + tau_B - tau_A): a model for D in which D's labels chose lambda only.

    Its fair rivals have a lambda chosen likewise: tau_C alone, and tau_C + tau_B, which subtracts nothing.
    Returns the analogy's weights and, for every model, which test texts of D it gets right.
    """
    tau = s.vectors
    analogous = f"{C} + {B} - {A}"
    directions = {C: tau[C], f"{C} + {B}": tau[C] + tau[B], analogous: tau[C] + tau[B] - tau[A]}
    lams = {name: choose(s, direction, COMBINED, [D], name) for name, direction in directions.items()}
    models = {"base": s.base}
    models |= {f"base + {lams[name]:g} ({name})": s.base + lams[name] * directions[name] for name in directions}
    models |= {f"base + {D} (D's own vector)": s.base + tau[D]}
    return s.base + lams[analogous] * directions[analogous], {name: s.hits(w, D) for name, w in models.items()}


def save_all(models: dict[str, tv.Weights]) -> None:
    """Write each model as a Hugging Face folder that transformers loads."""
    for name, weights in models.items():
        tv.save(weights, OUT / name, overwrite=True)


def saved_equals_live(s: Suite, weights: tv.Weights, folder: Path) -> bool:
    """Does the saved model, opened by transformers, give the live module's embeddings, bit for bit?"""
    ids = next(iter(s.test.values())).ids[:32]
    tv.load_into(s.model, weights)
    return torch.equal(encoder.embed(encoder.load(folder), ids), encoder.embed(s.model, ids))


def main() -> None:
    """Run the steps and print what they found."""
    start = time.monotonic()
    with show.status("loading the encoder, the vectors and the texts"):
        s = suite.load(VALIDATION, TEST)
    show.opening(s, TEST)
    with show.status("zero-shot, and each task's own vector"):
        base, own = zero_shot(s)
    with show.status("adding all vectors"):
        lam, summed = addition(s)
        scores = s.scores(summed, s.test, s.tasks)
    show.addition(s, lam, base, own, scores)
    models = {"summed": summed}
    for target in FORGET:
        with show.status(f"forgetting {target}"):
            lam, models[f"without-{target}"] = negation(s, target)
            scores = s.scores(models[f"without-{target}"], s.test, s.tasks)
        show.negation(target, lam, KEEP, base, scores)
    if {A, B, C, D} <= s.tasks.keys():
        with show.status("an analogy"):
            models["analogy"], hits = analogy(s)
        show.analogy((A, B, C, D), hits)
    show.cosines(s.vectors, OUT / "cosine.png")
    with show.status("saving"):
        save_all(models)
        same = saved_equals_live(s, summed, OUT / "summed")
    show.closing(s, models, OUT, same, time.monotonic() - start)
