"""Pictures, with matplotlib (the `plot` extra)."""

import os
from typing import Any

from taskvec.errors import MissingExtra, OutputError
from taskvec.interference import Disentanglement
from taskvec.measures import Comparison
from taskvec.storage import stated


def cosine_heatmap(comparison: Comparison, path: str | os.PathLike[str], title: str = "Cosine of task vectors") -> None:
    """The cosine matrix as a picture in the format of the suffix (.png, .svg, .pdf); cells print their values."""
    pyplot = _pyplot()
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
    _write(figure, path)
    pyplot.close(figure)


def disentanglement_heatmap(found: Disentanglement, path: str | os.PathLike[str]) -> None:
    """The error xi over both coefficients, the origin and (1, 1) marked."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(5.4, 4.6), layout="constrained")
    image = axes.imshow(found.xi.T, origin="lower", vmin=0, vmax=max(0.5, float(found.xi.max())), cmap="viridis")
    ticks = [f"{a:g}" for a in found.alphas]
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_yticks(range(len(ticks)), ticks)
    axes.set_xlabel(f"α of {found.tasks[0]}")
    axes.set_ylabel(f"α of {found.tasks[1]}")
    if 1.0 in found.alphas:
        place = found.alphas.index(1.0)
        axes.add_patch(pyplot.Rectangle((place - 0.5, place - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=2))
    figure.colorbar(image, ax=axes, shrink=0.9, label="disentanglement error ξ")
    axes.set_title(f"ξ of {found.tasks[0]} and {found.tasks[1]}, by {found.by}; frame: α = 1")
    _write(figure, path)
    pyplot.close(figure)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise MissingExtra("a picture", "plot") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _write(figure: Any, path: str | os.PathLike[str]) -> None:
    try:
        with stated(path, OutputError):
            figure.savefig(path, dpi=150)
    except ValueError as error:
        raise OutputError(f"{os.fspath(path)}: {error}") from None
