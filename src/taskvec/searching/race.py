"""A race gives a candidate up once a part of the examples shows that it has next to no chance against the best so far.

1. Which examples are looked at first must be a fair sample of all. Where the evaluator says that its examples stand in
   a random order (`shuffled`, as tasks in a file do), it is their first quarter. Else they may be sorted, by class say:
   they are cut into SPREAD blocks of four stretches, and one stretch of each, drawn with a fixed seed, is looked at.
2. The scores are resampled as a bootstrap does, the same draw for both models; the chance is the share of draws in
   which the candidate's objective is at least the rival's. In the spirit of F-Race (Birattari et al., GECCO 2002), with
   the bootstrap in place of the Friedman test, since an objective may be any arithmetic on several metrics.
   A candidate with less than CHANCE is given up; any other one is judged on the rest of the examples, too.
3. Two examples are added to each metric, one that each model wins by as much as anything seen: a few examples that all
   say the same are no proof (Agresti and Min, 2005, Stat. Med. 24, for proportions).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from taskvec.errors import MismatchError
from taskvec.evals import Evaluator, Numbers
from taskvec.evals.order import FIRST
from taskvec.searching.entries import Line
from taskvec.searching.judge import Judge
from taskvec.searching.measure import Judgement, Models, joined, judged, require_alike

DRAWS = 400
CHANCE = 0.01  # below which a candidate is given up
SPREAD = 8  # how many stretches the first examples are taken from, where examples may be sorted
Stretch = tuple[float, float]  # from one share of the examples to another


@dataclass(frozen=True, slots=True)
class Deal:
    """All examples of an evaluator, in stretches: those that a race looks at first, and the others."""

    stretches: tuple[Stretch, ...]  # in order, from 0 to 1
    first: tuple[int, ...]  # which of them are looked at first

    def places(self, total: int, lengths: Sequence[int]) -> list[int] | None:
        """The places among `total` examples of those looked at first, `lengths` of each stretch; None where an
        evaluator cuts neither by rounding nor down."""
        spans = [self.stretches[k] for k in self.first]
        for cut in (round, int):
            ends = [(cut(start * total), cut(stop * total)) for start, stop in spans]
            if [stop - start for start, stop in ends] == [*lengths]:
                return [place for start, stop in ends for place in range(start, stop)]
        return None


def deal(scores: Mapping[str, Numbers], shuffled: bool) -> Deal | None:
    """Which examples a race looks at first. scores: what some model scored on all examples. None if a metric cannot be
    judged by parts, since it is a single number or has fewer than four examples."""
    import numpy as np

    sizes = [len(values) if isinstance(values, list) else 0 for values in scores.values()]
    blocks = min(SPREAD, min(sizes) // 4)
    if not blocks:
        return None
    if shuffled:
        return Deal(((0.0, FIRST), (FIRST, 1.0)), (0,))
    picked = {4 * block + int(k) for block, k in enumerate(np.random.default_rng(0).integers(0, 4, blocks))}
    cells = 4 * blocks
    cuts = [0, *(k for k in range(1, cells) if (k in picked) != (k - 1 in picked)), cells]
    spans = [*pairwise(cuts)]
    stretches = tuple((start / cells, stop / cells) for start, stop in spans)
    return Deal(stretches, tuple(k for k, (start, _) in enumerate(spans) if start in picked))


def dealt(evaluate: Evaluator, before: Mapping[str, Numbers]) -> Deal | None:
    """Which validation examples of an evaluator a race looks at first; None where it must judge all of them at once."""
    return None if evaluate.part(0.0, FIRST) is None else deal(before, evaluate.shuffled)


def raced(
    evaluate: Evaluator,
    models: Models,
    by: Deal,
    before: Mapping[str, Numbers],
    judge: Judge,
    rival: Mapping[str, Numbers],
) -> Line:
    """Judge a candidate on the first validation examples, and unless it is hopeless on the others, too.

    Returns the scores as the journal has them. before: what some model scored on all examples; rival: what the best
    candidate so far scored.
    """
    pieces = {k: _on_stretch(evaluate, models, by, k, before) for k in by.first}
    first = joined([*pieces.values()])
    if hopeless(judge, rival, first.scores, _places(evaluate, by, [*pieces.values()], before)):
        return first.line("partial") | {"share": FIRST}
    pieces |= {k: _on_stretch(evaluate, models, by, k, before) for k in range(len(by.stretches)) if k not in pieces}
    judgement = joined([pieces[k] for k in sorted(pieces)])
    require_alike(evaluate, before, judgement, "validation")
    return judgement.line()


def _on_stretch(evaluate: Evaluator, models: Models, by: Deal, k: int, before: Mapping[str, Numbers]) -> Judgement:
    part = evaluate.part(*by.stretches[k])
    assert part is not None
    judgement = judged(part, models, "validation")
    if judgement.scores.keys() != before.keys() or not all(isinstance(v, list) for v in judgement.scores.values()):
        names = f"{', '.join(judgement.scores)}, and before {', '.join(before)}"
        raise MismatchError(f"{evaluate.text}: a part of the examples must have the metrics of all: {names}")
    return judgement


def _places(
    evaluate: Evaluator, by: Deal, pieces: Sequence[Judgement], before: Mapping[str, Numbers]
) -> dict[str, list[int]]:
    """Metric -> the places, among all examples, of those in the first stretches."""
    places_by_metric = {}
    for name, values in before.items():
        total, lengths = len(values), [len(piece.scores[name]) for piece in pieces]  # type: ignore[arg-type]
        places = by.places(total, lengths)
        if places is None:
            rule = f"{evaluate.text}: part(start, stop) must have the examples round(start*n) to round(stop*n)"
            raise MismatchError(f"{rule}; of {total} of {name} it has {lengths}")
        places_by_metric[name] = places
    return places_by_metric


def hopeless(
    judge: Judge,
    rival: Mapping[str, Numbers],
    part: Mapping[str, Numbers],
    places: Mapping[str, Sequence[int]],
) -> bool:
    """Whether a candidate has next to no chance against the rival.

    part: what the candidate scored on the first examples; places: where these stand among all, for each metric. With
    several objectives a draw counts as won if the candidate is as good as the rival in any of them.
    """
    import numpy as np

    draw = np.random.default_rng(0)
    ours = {name: np.asarray(values, float) for name, values in part.items()}
    theirs = {name: np.asarray(rival[name], float)[[*places[name]]] for name in ours}
    for name in ours:
        ends = [
            f(min(ours[name].min(), theirs[name].min()), max(ours[name].max(), theirs[name].max())) for f in (min, max)
        ]
        ours[name], theirs[name] = np.append(ours[name], ends), np.append(theirs[name], ends[::-1])
    wins = 0
    for _ in range(DRAWS):
        drawn = {name: draw.integers(0, len(values), len(values)) for name, values in ours.items()}
        our_goods, their_goods = (
            judge.goods({name: float(values[drawn[name]].mean()) for name, values in scores.items()})
            for scores in (ours, theirs)
        )
        wins += any(a >= b for a, b in zip(our_goods, their_goods, strict=True))
    return wins < CHANCE * DRAWS
