"""Which charts make sense for a search, and what each of them shows. A chart is drawn from the record alone."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

from taskvec.evals import means
from taskvec.report.heat import heat_map
from taskvec.report.svg import Frame, Point
from taskvec.report.trades import Trade, base_value, bounds, trades
from taskvec.searching.findings import WITHIN, Record
from taskvec.searching.goals import objective
from taskvec.searching.trial import Trial


@dataclass(frozen=True, slots=True)
class Chart:
    """An SVG picture and what it shows, in words."""

    svg: str
    caption: str


def charts(record: Record) -> list[Chart]:
    """All charts that make sense for a search, the most telling one first."""
    drawn = []
    if len(record.knobs) == 1 and len(record.trials) > 1:
        drawn = [objective_curve(record), *(metric_curve(record, m) for m in record.base)]
    drawn += [trade_chart(record, trade) for trade in trades(record)]
    if len(record.knobs) > 1 and record.trials:
        heats = [Chart(*heat) for pair in combinations(record.knobs, 2) if (heat := heat_map(record, pair))][:6]
        drawn += heats
        if not heats:
            drawn += [against_knob(record, knob) for knob in record.knobs[:12]]
        drawn.append(progress(record))
    return drawn


def objective_curve(record: Record) -> Chart:
    """The objective against the one knob, with the range shaded in which it is near its best."""
    (knob,) = record.knobs
    points = sorted((t.knobs[knob], record.values(t)[0]) for t in record.trials)
    lost = [(t.knobs[knob], record.values(t)[0]) for t in record.given_up]
    base = base_value(record, objective(record.objectives[0]))
    levels: list[Point] = [] if base is None else [(points[0][0], base)]
    frame = Frame.around([*points, *lost, *levels], knob, "objective", f"objective: {record.objectives[0]}")
    ends, shapes, caption = record.plateau(), [], f"The objective on validation examples at every {knob}."
    if ends:
        where = f"from {ends[0]:g} to {ends[1]:g}" if ends[0] < ends[1] else f"at {ends[0]:g} alone"
        flat = f"within {WITHIN:g} of the best {where}"
        shapes.append(frame.shade(*ends, flat))
        caption += f" Shaded: {flat}{', constraints aside' if record.constraints else ''}."
    if lost:
        caption += f" Pale: {len(lost)} given up after a part of the examples."
    if base is not None:
        shapes.append(frame.level(base))
        caption += f" Dashed: the base, {base:.4g}."
    shapes += [frame.line(points, "c0"), _dots(frame, record, lambda t: (t.knobs[knob], record.values(t)[0]), True)]
    if record.chosen:
        chosen = record.chosen.knobs[knob], record.values(record.chosen)[0]
        shapes.append(frame.mark(chosen, f"{knob} = {chosen[0]:g}: {chosen[1]:.4g}"))
    return Chart(frame.drawn(*shapes), caption)


def metric_curve(record: Record, metric: str) -> Chart:
    """A metric against the one knob, with a band of intervals if it has a score for each example."""
    (knob,) = record.knobs
    trials = sorted(record.trials, key=lambda t: t.knobs[knob])
    points = [(t.knobs[knob], t.metrics[metric]) for t in trials]
    bands, base = record.bands(metric), means(record.base)[metric]
    edges: list[Point] = [edge for x, i in bands for edge in ((x, i.low), (x, i.high))]
    lost = [(t.knobs[knob], t.metrics[metric]) for t in record.given_up]
    walls = [(b, b.value) for b in bounds(record) if b.metric == metric and b.value is not None]
    edges += [(points[0][0], value) for _, value in walls]
    frame = Frame.around([*points, *lost, *edges, (points[0][0], base)], knob, metric, metric)
    shapes = [frame.level(base)]
    if bands:
        shapes.append(frame.band([(x, i.low) for x, i in bands], [(x, i.high) for x, i in bands], "c1"))
    shapes += [frame.line(points, "c1"), _dots(frame, record, lambda t: (t.knobs[knob], t.metrics[metric]), True)]
    shapes += [frame.bound(value, b.text) for b, value in walls]
    if record.chosen:
        at = record.chosen.knobs[knob], record.chosen.metrics[metric]
        shapes.append(frame.mark(at, f"{knob} = {at[0]:g}: {at[1]:.4g}"))
    intervals = "with 95 % intervals over examples" if bands else "without intervals"
    return Chart(frame.drawn(*shapes), f"{metric} on validation examples, {intervals}; dashed: the base, {base:.4g}.")


def trade_chart(record: Record, trade: Trade) -> Chart:
    """Two numbers of every candidate against one another, with the front where there is one."""
    extra = [trade.base] if trade.base else []
    bound = trade.bound
    if bound and bound.value is not None:
        extra.append((bound.value, next(iter(trade.points.values()))[1]))
    frame = Frame.around([*trade.points.values(), *extra], trade.x, trade.y, f"{trade.y} against {trade.x}")
    shapes = [frame.wall(bound.value, bound.text)] if bound and bound.value is not None else []
    shapes += [frame.line(trade.front, "c2")] if trade.front else []
    shapes.append(_dots(frame, record, lambda t: trade.points[t.number]))
    shapes += [frame.base(trade.base)] if trade.base else []
    if record.chosen:
        name = record.told()
        shapes.append(frame.mark(trade.points[record.chosen.number], name if len(name) <= 34 else "chosen"))
    caption = "Each candidate"
    if trade.front:
        joined = (
            f"the line joins the {len(trade.front)} that none" if len(trade.front) > 1 else "there is one that none"
        )
        condition = " of those that keep the other constraints" if len(record.constraints) > 1 else ""
        caption += f"; {joined}{condition} beats in both: the Pareto front"
    if any(t.broken for t in record.trials):
        caption += f"; hollow ones break {' or '.join(record.constraints)}"
    elif not trade.front:
        caption += f". Nothing says whether {trade.x} is to be large or small, so there is no front"
    return Chart(frame.drawn(*shapes), f"{caption}.")


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
        before, best = best, max(best, t.goodness if not t.broken else float("-inf"))
        if float("-inf") < before < best:
            steps.append((float(t.number), sign * before))  # the corner of a step
        if best > float("-inf"):
            steps.append((float(t.number), sign * best))
    place = {t.number: (float(t.number), record.values(t)[0]) for t in record.trials}
    frame = Frame.around([*place.values(), *steps], "trial", record.objectives[0], "progress")
    shapes = [frame.line(steps, "c0")] if steps else []
    shapes.append(_dots(frame, record, lambda t: place[t.number]))
    return Chart(frame.drawn(*shapes), "Each candidate in its turn; the line is the best so far.")


def _dots(frame: Frame, record: Record, place: Callable[[Trial], Point], lost: bool = False) -> str:
    """A dot for every trial: hollow if it breaks a constraint, pale if a race gave it up after fewer examples."""
    kinds: dict[str, list[Trial]] = {"lost": [*record.given_up] if lost else [], "kept": [], "broken": []}
    for t in record.trials:
        kinds["broken" if t.broken else "kept"].append(t)
    return "".join(
        frame.dots([place(t) for t in trials], kind, [_told(record, t) for t in trials])
        for kind, trials in kinds.items()
    )


def _told(record: Record, t: Trial) -> str:
    broken = f"; breaks {', '.join(t.broken)}" if t.broken else ""
    return f"{t.told()}: {', '.join(f'{v:.4g}' for v in record.values(t))}{broken}"
