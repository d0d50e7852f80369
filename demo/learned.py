"""How much better than one lambda for all are many? Compares eight ways to choose the coefficients of one sum.

    python demo/learned.py        # about eleven minutes on two cores

All ways choose or learn on the same validation texts, and are judged on the same test texts, with intervals over texts.
The results are kept under out/learned, and a run that was stopped goes on.
"""

import json
import time
from pathlib import Path
from statistics import mean

import encoder
import numpy as np
import show
import suite
import torch
from entry import run
from suite import Suite

import taskvec as tv
from taskvec.evals.task import batch_of
from taskvec.searching.evidence import difference, interval
from taskvec.searching.findings import Record

VALIDATION, TEST = 60, 200  # texts a task
OUT = Path(__file__).resolve().parent.parent / "out" / "learned"
GRID = [k / 20 for k in range(4, 17)]
TRIALS, STEPS, BATCH, RATE = 24, 40, 8, 1.5e-2  # fifteen times AdaMerging's rate, for a twelfth of its steps


def loss(s: Suite, labels: bool):
    """The sum over tasks of a batch's cross-entropy, or of the entropy of its predictions."""

    def of_step(model: torch.nn.Module, step: int) -> torch.Tensor:
        total = torch.zeros(())
        for name, texts in s.validation.items():
            chosen = batch_of(len(texts.ids), BATCH, step)
            logits = encoder.SCALE * encoder.forward(model, [texts.ids[k] for k in chosen]) @ s.heads[name].T
            wanted = texts.labels[chosen]
            total = total + (torch.nn.functional.cross_entropy(logits, wanted) if labels else tv.entropy(logits))
        return total

    return of_step


def searched(s: Suite, family: tv.Weights, knobs: dict[str, object], **options: object) -> Record:
    """The best mean validation accuracy; a search that was stopped goes on."""
    OUT.mkdir(parents=True, exist_ok=True)
    journal = OUT / f"{len(knobs)}-{options.get('sampler', 'grid')}.jsonl"
    return tv.search(family, s.judge(s.tasks), knobs, test=False, race=True, journal=journal, **options)


def ways(s: Suite) -> dict[str, tv.Weights]:
    """A model by each way."""
    total = sum(s.vectors.values())
    shared = s.base + tv.knob("lam") * total
    each = s.base + sum(tv.knob(f"l_{n}") * tau for n, tau in s.vectors.items())
    depths = s.base + tv.layerwise(total, "l")
    layers = s.base + sum(tv.layerwise(tau, f"l_{n}") for n, tau in s.vectors.items())
    blocks = s.base + sum(tv.layerwise(tau, f"l_{n}", by="tensor") for n, tau in s.vectors.items())

    def learned(family: tv.Weights, labels: bool) -> tv.Weights:
        kept = OUT / f"{len(family.knobs)}-{'labels' if labels else 'entropy'}.json"
        if not kept.exists():
            clamp = None if labels else (0, 1)
            makers = tv.learn(family, s.model, loss(s, labels), steps=STEPS, rate=RATE, clamp=clamp)
            kept.write_text(json.dumps(makers.knobs))
        return family.bind(**json.loads(kept.read_text()))

    makers = {
        "norm_matched, no data": lambda: s.base + tv.norm_matched(*s.vectors.values()),
        "one λ, grid of 13": lambda: searched(s, shared, {"lam": GRID}).weights,
        f"a λ a vector, TPE, {TRIALS} trials": lambda: (
            searched(s, each, {f"l_{n}": (0.0, 1.2) for n in s.vectors}, sampler="tpe", trials=TRIALS).weights
        ),
        f"a λ a layer, TPE, {TRIALS} trials": lambda: (
            searched(s, depths, dict.fromkeys(depths.knobs, (0.0, 1.2)), sampler="tpe", trials=TRIALS).weights
        ),
        "a λ a vector, AdaMerging": lambda: learned(each, labels=False),
        "a λ a vector and layer, AdaMerging": lambda: learned(layers, labels=False),
        "a λ a vector and tensor, AdaMerging": lambda: learned(blocks, labels=False),
        "a λ a vector and tensor, aTLAS": lambda: learned(blocks, labels=True),
    }
    models = {}
    for name, make in makers.items():
        began = time.monotonic()
        with show.status(name):
            models[name] = make()
        show.console.print(f"{name}: {time.monotonic() - began:.0f} s")
    return models


def main() -> None:
    """Measure, and print a table."""
    with show.status("loading the encoder, the vectors and the texts"):
        s = suite.load(VALIDATION, TEST)
    own = {n: s.hits(s.base + s.vectors[n], n).float().mean().item() for n in s.tasks}
    models = ways(s)
    hits = {name: [s.hits(w, n).float().numpy() for n in s.tasks] for name, w in models.items()}
    reference = hits["one λ, grid of 13"]
    made = show.table(
        "\nBase + coefficients x eight vectors, test", "coefficients", "accuracy", "normalised", "less one λ"
    )
    for name, scores in hits.items():
        normalised = mean(float(np.mean(x)) / own[n] for n, x in zip(s.tasks, scores, strict=True))
        apart = difference(reference, scores)
        gain = f"{100 * apart.interval.mean:+.1f} [{100 * apart.interval.low:+.1f}, {100 * apart.interval.high:+.1f}]"
        accuracy = interval(scores)
        span = f"{100 * accuracy.mean:.1f} [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]"
        made.add_row(name, span, show.percent(normalised), "" if scores is reference else f"{gain} p = {apart.p:.2g}")
    show.console.print(made)
    show.console.print(f"[dim]{VALIDATION} validation and {TEST} test texts a task; paired tests, one seed.")


if __name__ == "__main__":
    run("learned")
