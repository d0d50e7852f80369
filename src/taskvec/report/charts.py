"""The charts of a search: which ones make sense for what it tried, each from the record alone."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations

from taskvec.evidence import Interval, bootstrap
from taskvec.findings import WITHIN, Numbers, Record, Trial, means
from taskvec.goals import constraint, objective
from taskvec.report.svg import Frame, Point, short

RESAMPLES = 2000
RAMP = ((0.93, 0.94, 0.96), (0.55, 0.72, 0.86), (0.20, 0.47, 0.71), (0.05, 0.22, 0.42))  # low to high
CELLS = 15  # a side of a heat map whose cells still have room for their numbers


@dataclass(frozen=True, slots=True)
class Chart:
    """An SVG picture and what it shows, in words."""

    svg: str
    caption: str


def charts(record: Record) -> list[Chart]:
    """All that make sense, the most telling first."""
    found = []
    if len(record.knobs) == 1 and len(record.trials) > 1:
        found = [objective_curve(record), *(metric_curve(record, m) for m in record.validation["base"])]
    if trade := tradeoff(record):
        found.append(trade)
    if len(record.knobs) > 1 and record.trials:
        found += [heat for pair in combinations(record.knobs, 2) if (heat := heat_map(record, pair))][:6]
        if not any("cell" in chart.svg for chart in found):
            found += [against_knob(record, knob) for knob in record.knobs[:12]]
        found.append(progress(record))
    return found


def objective_curve(record: Record) -> Chart:
    """The objective against the one knob, and where it is flat."""
    (knob,) = record.knobs
    points = sorted((t.knobs[knob], record.values(t)[0]) for t in record.trials)
    lost = [(t.knobs[knob], record.values(t)[0]) for t in record.given_up]
    frame = Frame.around([*points, *lost], knob, "objective", f"objective: {record.objectives[0]}")
    ends, shapes, caption = record.plateau(), [], f"The objective on validation examples at every {knob}."
    if ends:
        flat = f"within {WITHIN:g} of the best from {ends[0]:g} to {ends[1]:g}"
        shapes.append(frame.shade(*ends, flat))
        caption += f" Shaded: {flat}{', constraints aside' if record.constraints else ''}."
    if lost:
        caption += f" Pale: {len(lost)} given up after a part of the examples."
    shapes += [frame.line(points, "c0"), _dots(frame, record, lambda t: (t.knobs[knob], record.values(t)[0]), True)]
    if record.chosen:
        chosen = record.chosen.knobs[knob], record.values(record.chosen)[0]
        shapes.append(frame.mark(chosen, f"{knob} = {chosen[0]:g}: {chosen[1]:.4g}"))
    return Chart(frame.drawn(*shapes), caption)


def metric_curve(record: Record, metric: str) -> Chart:
    """A metric against the one knob, with a band where it has examples."""
    (knob,) = record.knobs
    trials = sorted(record.trials, key=lambda t: t.knobs[knob])
    points = [(t.knobs[knob], t.metrics[metric]) for t in trials]
    bands = [(t.knobs[knob], i) for t in trials if (i := _interval(t.scores[metric]))]
    base = means(record.validation["base"])[metric]
    edges: list[Point] = [edge for x, i in bands for edge in ((x, i.low), (x, i.high))]
    lost = [(t.knobs[knob], t.metrics[metric]) for t in record.given_up]
    frame = Frame.around([*points, *lost, *edges, (points[0][0], base)], knob, metric, metric)
    shapes = [frame.level(base)]
    if bands:
        shapes.append(frame.band([(x, i.low) for x, i in bands], [(x, i.high) for x, i in bands], "c1"))
    shapes += [frame.line(points, "c1"), _dots(frame, record, lambda t: (t.knobs[knob], t.metrics[metric]), True)]
    if record.chosen:
        at = record.chosen.knobs[knob], record.chosen.metrics[metric]
        shapes.append(frame.mark(at, f"{knob} = {at[0]:g}: {at[1]:.4g}"))
    told = "with 95 % bootstrap intervals over examples" if bands else "one number a candidate"
    return Chart(frame.drawn(*shapes), f"{metric} on validation examples, {told}; dashed: the base, {base:.4g}.")


def tradeoff(record: Record) -> Chart | None:
    """Two objectives against one another, or the objective against what a constraint bounds; None with neither."""
    if not record.trials:
        return None
    if len(record.objectives) > 1:
        return _front(record)
    if not record.constraints:
        return None
    bound = constraint(record.constraints[0]).tree
    assert isinstance(bound, ast.Compare)
    left, right = (objective(ast.unparse(side)) for side in (bound.left, bound.comparators[0]))
    tables = {t.number: _table(record, t.scores) for t in record.trials}
    place = {t.number: (left.value(tables[t.number]), record.values(t)[0]) for t in record.trials}
    walls = {right.value(table) for table in tables.values()}
    frame = Frame.around(
        [*place.values(), *((w, next(iter(place.values()))[1]) for w in walls)], left.text, record.objectives[0],
        "objective against constraint",
    )  # fmt: skip
    shapes = [frame.wall(walls.pop(), record.constraints[0])] if len(walls) == 1 else []
    shapes.append(_dots(frame, record, lambda t: place[t.number]))
    if record.chosen:
        told = record.told()
        shapes.append(frame.mark(place[record.chosen.number], short(told, 40)))
    return Chart(frame.drawn(*shapes), f"Each candidate; hollow ones break {' or '.join(record.constraints)}.")


def _front(record: Record) -> Chart:
    place = {t.number: record.values(t)[:2] for t in record.trials}
    points = {n: (v[0], v[1]) for n, v in place.items()}
    frame = Frame.around([*points.values()], record.objectives[0], record.objectives[1], "Pareto front")
    steps = sorted(points[t.number] for t in record.front())
    shapes = [frame.line(steps, "c2"), _dots(frame, record, lambda t: points[t.number])]
    if record.chosen:
        told = record.told()
        shapes.append(frame.mark(points[record.chosen.number], short(told, 40)))
    return Chart(frame.drawn(*shapes), f"Each candidate; the line joins the {len(steps)} that none beats in both.")


def against_knob(record: Record, knob: str) -> Chart:
    """The objective against one of several knobs."""
    place = {t.number: (t.knobs[knob], record.values(t)[0]) for t in record.trials}
    frame = Frame.around([*place.values()], knob, record.objectives[0], knob)
    shapes = [_dots(frame, record, lambda t: place[t.number])]
    if record.chosen:
        x, y = place[record.chosen.number]
        shapes.append(frame.mark((x, y), f"{knob} = {x:.3g}: {y:.4g}"))
    return Chart(frame.drawn(*shapes), f"The objective of every candidate against its {knob}.")


def progress(record: Record) -> Chart:
    """The best objective so far, trial by trial."""
    sign = -1 if record.minimised else 1
    best, steps = float("-inf"), []
    for t in record.trials:
        best = max(best, t.goodness if not t.broken else float("-inf"))
        if best > float("-inf"):
            steps.append((float(t.number), sign * best))
    place = {t.number: (float(t.number), record.values(t)[0]) for t in record.trials}
    frame = Frame.around([*place.values(), *steps], "trial", record.objectives[0], "progress")
    shapes = [frame.line(steps, "c0")] if steps else []
    shapes.append(_dots(frame, record, lambda t: place[t.number]))
    return Chart(frame.drawn(*shapes), "Each candidate in its turn; the line is the best so far.")


def heat_map(record: Record, pair: tuple[str, str]) -> Chart | None:
    """The best objective at each pair of values of two knobs; None where these are no grid."""
    a, b = pair
    best: dict[Point, Trial] = {}
    for t in record.trials:
        at = t.knobs[a], t.knobs[b]
        if at not in best or t.goodness > best[at].goodness:
            best[at] = t
    xs, ys = (sorted({at[k] for at in best}) for k in (0, 1))
    if len(xs) < 2 or len(ys) < 2 or len(best) < 0.75 * len(xs) * len(ys) or max(len(xs), len(ys)) > 60:
        return None
    low, high = min(t.goodness for t in best.values()), max(t.goodness for t in best.values())
    left, top, side = 62, 26, min(44.0, 480 / len(xs))
    tall = min(side, 360 / len(ys))
    cells = []
    for at, t in best.items():
        x, y = left + xs.index(at[0]) * side, top + (len(ys) - 1 - ys.index(at[1])) * tall
        share = (t.goodness - low) / (high - low) if high > low else 0.5
        value, chosen = record.values(t)[0], record.chosen is t
        told = f"<title>{escape(f'{a} = {at[0]:g}, {b} = {at[1]:g}: {value:.4g}')}</title>"
        cells.append(
            f'<rect class="cell{" chosen" if chosen else ""}" x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" '
            f'width="{side - 1:.1f}" height="{tall - 1:.1f}" fill="{_colour(share)}">{told}</rect>'
        )
        if max(len(xs), len(ys)) <= CELLS:
            ink = "on-dark" if share > 0.45 else "on-light"
            cells.append(
                f'<text x="{x + side / 2:.1f}" y="{y + tall / 2 + 3.5:.1f}" text-anchor="middle" '
                f'class="{ink}" font-size="{min(11.0, side / 3.6):.1f}">{value:.3g}</text>'
            )
    cells += _cell_ticks(xs, ys, left, top, side, tall)
    height = top + len(ys) * tall + 46
    width = max(560.0, left + len(xs) * side + 18)
    names = (
        f'<text class="name" x="{left + len(xs) * side / 2:.1f}" y="{height - 8:.1f}" text-anchor="middle">{escape(a)}'
        f'</text><text class="name" transform="translate(14 {top + len(ys) * tall / 2:.1f}) rotate(-90)" '
        f'text-anchor="middle">{escape(b)}</text>'
    )
    title = f"{record.objectives[0]} over {a} and {b}"
    svg = (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f'<text class="title" x="{left}" y="15">{escape(short(title, 70))}</text>{"".join(cells)}{names}</svg>'
    )
    more = " the best over the other knobs" if len(record.knobs) > 2 else ""
    return Chart(svg, f"The objective at each pair of values,{more or ' framed where it was chosen'}.")


def _cell_ticks(
    xs: Sequence[float], ys: Sequence[float], left: float, top: float, side: float, tall: float
) -> list[str]:
    across, up = max(1, round(len(xs) * 34 / (len(xs) * side))), max(1, round(16 / tall))
    floor = top + len(ys) * tall + 16
    found = [
        f'<text class="tick" x="{left + (k + 0.5) * side:.1f}" y="{floor:.1f}" text-anchor="middle">{v:g}</text>'
        for k, v in enumerate(xs)
        if k % across == 0
    ]
    places = {k: top + (len(ys) - k - 0.5) * tall + 4 for k in range(0, len(ys), up)}
    return found + [
        f'<text class="tick" x="{left - 8}" y="{y:.1f}" text-anchor="end">{ys[k]:g}</text>' for k, y in places.items()
    ]


def _dots(frame: Frame, record: Record, place: object, lost: bool = False) -> str:
    """Every trial; hollow where it breaks a constraint, pale where it was given up (judged on fewer examples)."""
    assert callable(place)
    kinds: dict[str, list[Trial]] = {"lost": [*record.given_up] if lost else [], "kept": [], "broken": []}
    for t in record.trials:
        kinds["broken" if t.broken else "kept"].append(t)
    return "".join(
        frame.dots([place(t) for t in trials], kind, [_told(record, t) for t in trials])
        for kind, trials in kinds.items()
    )


def _told(record: Record, t: Trial) -> str:
    knobs = ", ".join(f"{k} = {v:.4g}" for k, v in t.knobs.items())
    broken = f"; breaks {', '.join(t.broken)}" if t.broken else ""
    return f"{knobs}: {', '.join(f'{v:.4g}' for v in record.values(t))}{broken}"


def _interval(scores: Numbers) -> Interval | None:
    return bootstrap([scores], resamples=RESAMPLES) if isinstance(scores, list) else None


def _table(record: Record, scores: Mapping[str, Numbers]) -> dict[str, dict[str, float]]:
    return {"": means(scores), **{name: means(s) for name, s in record.validation.items()}}


def _colour(share: float) -> str:
    place = share * (len(RAMP) - 1)
    k = min(int(place), len(RAMP) - 2)
    mixed = (a + (b - a) * (place - k) for a, b in zip(RAMP[k], RAMP[k + 1], strict=True))
    return "#" + "".join(f"{round(255 * v):02x}" for v in mixed)
