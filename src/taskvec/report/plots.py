"""Charts of searches and heat maps of comparisons as picture files, drawn by matplotlib (extra `plot`)."""

import os
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

from taskvec.analysis.compare import Comparison
from taskvec.errors import MissingExtra, OutputError
from taskvec.evals import means
from taskvec.places.local import stated
from taskvec.report.heat import grid_of
from taskvec.report.trades import bounds, trades
from taskvec.saving.outputs import Destination
from taskvec.saving.staging import write_file
from taskvec.searching.findings import Record
from taskvec.searching.interference import Disentanglement

ACCENT = "#b3124e"


def cosine_heatmap(comparison: Comparison, path: str | os.PathLike[str], title: str = "Cosine of task vectors") -> None:
    """The cosine matrix as a picture in the format of the suffix (.png, .svg, .pdf); cells print their values."""
    pyplot = pyplot_headless()
    cosine, names = comparison.whole.cosine, comparison.names
    side = 1.6 + 0.62 * len(names)
    figure, axes = pyplot.subplots(figsize=(side + 1.2, side), layout="constrained")
    image = axes.imshow(cosine, vmin=-1, vmax=1, cmap="RdBu_r")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    for i, row in enumerate(cosine):
        for j, value in enumerate(row):
            dark = abs(value) > 0.6
            axes.text(
                j,
                i,
                f"{round(value, 2) + 0.0:.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    figure.colorbar(image, ax=axes, shrink=0.85, label="cosine")
    axes.set_title(title)
    write_picture(figure, path)
    pyplot.close(figure)


def figures(record: Record, folder: Path, name: str, suffix: str = "png") -> list[Path]:
    """Write the pictures that make sense for a search, as NAME-curves.png and so on. Returns their paths."""
    drawn = {"curves": curves, "tradeoff": tradeoff, "heatmap": heatmap}
    with stated(folder, OutputError):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for what, draw in drawn.items():
        if (figure := draw(record)) is not None:
            paths.append(folder / f"{name}-{what}.{suffix}")
            write_picture(figure, paths[-1])
            pyplot_headless().close(figure)
    return paths


def curves(record: Record) -> Any:
    """Every metric against the knob, with bands of intervals and the chosen value; None unless there is one knob."""
    if len(record.knobs) != 1 or len(record.trials) < 2:
        return None
    pyplot, (knob,) = pyplot_headless(), record.knobs
    metrics, trials = [*record.base], sorted(record.trials, key=lambda t: t.knobs[knob])
    rows = -(-len(metrics) // 3)
    columns = min(3, len(metrics))
    figure, axes = pyplot.subplots(rows, columns, figsize=(4 * columns, 3 * rows), squeeze=False, layout="constrained")
    for metric, axis in zip_longest(metrics, axes.flat):
        if metric is None:
            axis.set_axis_off()
            continue
        x, y = [t.knobs[knob] for t in trials], [t.metrics[metric] for t in trials]
        axis.plot(x, y, marker="o", markersize=3)
        bands = record.bands(metric)
        axis.fill_between([at for at, _ in bands], [i.low for _, i in bands], [i.high for _, i in bands], alpha=0.2)
        for bound in bounds(record):
            if bound.metric == metric and bound.value is not None:
                label = _plain(bound.text)
                axis.axhline(bound.value, color="C1", linestyle="--", linewidth=1, label=label)
        axis.axhline(means(record.base)[metric], color="gray", linestyle="--", linewidth=1, label="base")
        if record.chosen:
            at = record.chosen.knobs[knob], record.chosen.metrics[metric]
            axis.axvline(at[0], color=ACCENT, linestyle=":", linewidth=1)
            axis.plot(*at, marker="o", markersize=8, markerfacecolor="none", color=ACCENT)
            chosen = f"{knob} = {at[0]:g}: {at[1]:.3g}"
            axis.set_title(_plain(chosen), loc="right", color=ACCENT, fontsize="small")  # where no curve runs
        axis.set_title(_plain(metric), loc="left")
        axis.set_xlabel(knob)
        axis.margins(y=0.15)
        axis.legend(fontsize="x-small")
    return figure


def tradeoff(record: Record) -> Any:
    """The first trade of a search (trades.py): two numbers of every candidate against one another, with the front if
    it is known which way is better. None if there is no trade."""
    if not (possible := trades(record)):
        return None
    trade, (figure, axis) = possible[0], pyplot_headless().subplots(figsize=(5.6, 4.2), layout="constrained")
    for broken, color, label in ((False, "C0", "candidates"), (True, "lightgray", "breaks a constraint")):
        if points := [trade.points[t.number] for t in record.trials if bool(t.broken) == broken]:
            axis.scatter(*zip(*points, strict=True), s=14, color=color, label=label)
    if len(trade.front) > 1:
        axis.plot(*zip(*trade.front, strict=True), color="C1", label="Pareto front")
    if trade.base:
        axis.plot(*trade.base, "D", markersize=6, markerfacecolor="white", color="black", label="base")
    if trade.bound and trade.bound.value is not None:
        axis.axvline(trade.bound.value, color="gray", linestyle="--", linewidth=1, label=_plain(trade.bound.text))
    if record.chosen:
        at = trade.points[record.chosen.number]
        axis.plot(*at, "o", markersize=9, markerfacecolor="none", color=ACCENT, label="chosen")
    axis.set(xlabel=_plain(trade.x), ylabel=_plain(trade.y))
    axis.legend(fontsize="small")
    return figure


def heatmap(record: Record) -> Any:
    """The objective over the two knobs; None unless there are two knobs whose values form a grid."""
    if len(record.knobs) != 2:
        return None
    import numpy as np

    a, b = record.knobs
    if (grid := grid_of(record, (a, b))) is None:
        return None
    xs, ys = grid.xs, grid.ys
    table = np.full((len(ys), len(xs)), np.nan)
    for (x, y), trial in grid.best.items():
        table[ys.index(y), xs.index(x)] = record.values(trial)[0]
    figure, axis = pyplot_headless().subplots(
        figsize=(1.8 + 0.42 * len(xs), 1.4 + 0.36 * len(ys)), layout="constrained"
    )
    image = axis.imshow(table, origin="lower", cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(xs)), [f"{v:g}" for v in xs], rotation=45)
    axis.set_yticks(range(len(ys)), [f"{v:g}" for v in ys])
    axis.set(xlabel=a, ylabel=b, title=_plain(record.objectives[0]))
    if record.chosen:
        place = xs.index(record.chosen.knobs[a]), ys.index(record.chosen.knobs[b])
        axis.plot(*place, "s", markersize=12, markerfacecolor="none", markeredgecolor="white", markeredgewidth=2)
    figure.colorbar(image, ax=axis)
    return figure


def disentanglement_heatmap(measured: Disentanglement, path: str | os.PathLike[str]) -> None:
    """The error xi over both coefficients as a picture, with a frame around the cell of (1, 1)."""
    pyplot = pyplot_headless()
    figure, axes = pyplot.subplots(figsize=(5.4, 4.6), layout="constrained")
    image = axes.imshow(measured.xi.T, origin="lower", vmin=0, vmax=max(0.5, float(measured.xi.max())), cmap="viridis")
    ticks = [f"{a:g}" for a in measured.alphas]
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_yticks(range(len(ticks)), ticks)
    axes.set_xlabel(f"α of {measured.tasks[0]}")
    axes.set_ylabel(f"α of {measured.tasks[1]}")
    if 1.0 in measured.alphas:
        place = measured.alphas.index(1.0)
        axes.add_patch(pyplot.Rectangle((place - 0.5, place - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=2))
    figure.colorbar(image, ax=axes, shrink=0.9, label="disentanglement error ξ")
    axes.set_title(f"ξ of {measured.tasks[0]} and {measured.tasks[1]}, by {measured.by}; frame: α = 1")
    write_picture(figure, path)
    pyplot.close(figure)


def _plain(text: str) -> str:
    """The text so that matplotlib does not read dollar signs in it as mathematics."""
    return text.replace("$", r"\$")


def pyplot_headless() -> Any:
    """matplotlib's pyplot, which opens no windows. Raises MissingExtra."""
    try:
        import matplotlib
    except ImportError:
        raise MissingExtra("a picture", "plot") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def write_picture(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a picture in the format of its suffix. It replaces what has the name; a link is replaced, not followed."""
    wanted = Path(path)
    wanted = wanted if wanted.suffix else wanted.with_name(f"{wanted.name}.png")
    picture = BytesIO()
    try:
        figure.savefig(picture, format=wanted.suffix[1:], dpi=150)
    except ValueError as error:
        raise OutputError(f"{os.fspath(path)}: {error}") from None
    write_file(Destination.of_file(wanted, overwrite=True), picture.getvalue())
