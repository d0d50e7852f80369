"""The charts of a lab's results as picture files, PNG and SVG, drawn by matplotlib (extra `plot`)."""

from pathlib import Path
from typing import Any

from taskvec.lab.results import Curves, Findings, Points
from taskvec.report.plots import pyplot_headless, write_picture

SUFFIXES = ("png", "svg")


def pictures(findings: Findings, folder: Path) -> list[Path]:
    """Write every chart as NAME-1.png, NAME-1.svg, ...; returns the paths. Raises MissingExtra."""
    pyplot = pyplot_headless()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    charts: list[Curves | Points] = [*findings.curves, *findings.points]
    for number, chart in enumerate(charts, 1):
        figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
        if isinstance(chart, Curves):
            _draw_curves(axes, chart)
        else:
            _draw_points(axes, chart)
        axes.set_title(chart.title, fontsize=10)
        axes.set_xlabel(chart.x)
        axes.set_ylabel(chart.y)
        for suffix in SUFFIXES:
            written.append(folder / f"{findings.experiment}-{number}.{suffix}")
            write_picture(figure, written[-1])
        pyplot.close(figure)
    return written


def _draw_curves(axes: Any, chart: Curves) -> None:
    """Lines, bands where there are intervals, and a dashed line for what was chosen."""
    for name, line in chart.lines.items():
        xs = [point[0] for point in line]
        (drawn,) = axes.plot(xs, [point[1] for point in line], marker="o", markersize=3, label=name)
        known = [(x, low, high) for x, _, low, high in line if low is not None and high is not None]
        if len(known) > 1:
            axes.fill_between(*zip(*known, strict=True), alpha=0.18, color=drawn.get_color(), linewidth=0)
    for name, x in chart.marks.items():
        axes.axvline(x, linestyle="--", linewidth=1, color="0.35", label=f"{name}: {x:.3g}")
    axes.legend(fontsize=8, frameon=False)


def _draw_points(axes: Any, chart: Points) -> None:
    """Named points."""
    for name, (x, y) in chart.points.items():
        axes.plot([x], [y], marker="o", color="C0")
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(6, 3), fontsize=8)
