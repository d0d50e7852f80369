"""A heat map shows the objective over two knobs whose values form a grid: one cell for each pair of values."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from taskvec.report.svg import Point, short
from taskvec.searching.findings import Record
from taskvec.searching.trial import Trial

RAMP = ((0.93, 0.94, 0.96), (0.55, 0.72, 0.86), (0.20, 0.47, 0.71), (0.05, 0.22, 0.42))  # light to dark, in grey, too
MOST = 60  # values of a knob: with more of them cells are too small to see
CELLS = 15  # cells a side: with more of them there is no room for numbers in the cells
LEFT, TOP, BOTTOM, KEY = 62, 26, 46, 30  # margins; the last is a line for the key of colours
WIDE, TALL, SIDE = 480, 360, 44.0  # room for the cells, and the largest one


@dataclass(frozen=True, slots=True)
class Grid:
    """The best candidate at each pair of values, and where its cell is drawn."""

    best: dict[Point, Trial]
    xs: list[float]
    ys: list[float]

    @property
    def side(self) -> Point:
        """Width and height of a cell."""
        side = min(SIDE, WIDE / len(self.xs))
        return side, min(side, TALL / len(self.ys))

    def at(self, values: Point) -> Point:
        """The upper left corner of a cell."""
        wide, tall = self.side
        return LEFT + self.xs.index(values[0]) * wide, TOP + (len(self.ys) - 1 - self.ys.index(values[1])) * tall


def heat_map(record: Record, pair: tuple[str, str]) -> tuple[str, str] | None:
    """(the picture, a caption): the best objective at each pair of values of two knobs; None if these form no grid."""
    grid = grid_of(record, pair)
    if grid is None or max(len(grid.xs), len(grid.ys)) > MOST:
        return None
    a, b = pair
    goods = [t.goodness for t in grid.best.values()]
    low, high = min(goods), max(goods)
    cells = [_cell(record, grid, at, pair, (low, high)) for at in grid.best]
    if record.chosen:
        cells.append(_frame(grid, (record.chosen.knobs[a], record.chosen.knobs[b])))
    wide, tall = grid.side
    across, down = len(grid.xs) * wide, len(grid.ys) * tall
    height, width = TOP + down + BOTTOM + KEY, max(560.0, LEFT + across + 18)
    names = (
        f'<text class="name" x="{LEFT + across / 2:.1f}" y="{TOP + down + 38:.1f}" text-anchor="middle">{escape(a)}'
        f'</text><text class="name" transform="translate(14 {TOP + down / 2:.1f}) rotate(-90)" '
        f'text-anchor="middle">{escape(b)}</text>'
    )
    title = f"{record.objectives[0]} over {a} and {b}"
    sign = -1 if record.minimised else 1
    body = "".join([*cells, *_ticks(grid), names, _key((sign * low, sign * high), TOP + down + BOTTOM + 10)])
    svg = (
        f'<svg class="heat" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f'<text class="title" x="{LEFT}" y="15">{escape(short(title, 60))}</text>{body}</svg>'
    )
    caption = (
        f"The objective at each pair of values{', the best over the other knobs' if len(record.knobs) > 2 else ''}"
    )
    caption += ", framed where it was chosen" if record.chosen else ""
    caption += "; a ring: no candidate there keeps the constraints" if any(t.broken for t in grid.best.values()) else ""
    return svg, f"{caption}."


def grid_of(record: Record, pair: tuple[str, str]) -> Grid | None:
    """The grid of two knobs' values; None if there is none, that is, if over a quarter of the pairs was not tried."""
    best: dict[Point, Trial] = {}
    for t in record.trials:
        at = t.knobs[pair[0]], t.knobs[pair[1]]
        if at not in best or _rank(t) > _rank(best[at]):
            best[at] = t
    xs, ys = (sorted({at[k] for at in best}) for k in (0, 1))
    if min(len(xs), len(ys)) < 2 or len(best) < 0.75 * len(xs) * len(ys):
        return None
    return Grid(best, xs, ys)


def _rank(trial: Trial) -> tuple[bool, float]:
    """The order of candidates in one cell. One that breaks a constraint comes last: it could not be chosen."""
    return not trial.broken, trial.goodness


def _cell(record: Record, grid: Grid, at: Point, pair: tuple[str, str], ends: Point) -> str:
    t, (x, y), (wide, tall), (low, high) = grid.best[at], grid.at(at), grid.side, ends
    share, value = (t.goodness - low) / (high - low) if high > low else 0.5, record.values(t)[0]
    chosen = record.chosen is not None and at == (record.chosen.knobs[pair[0]], record.chosen.knobs[pair[1]])
    title = f"{pair[0]} = {at[0]:g}, {pair[1]} = {at[1]:g}: {value:.4g}"
    title += f"; breaks {', '.join(t.broken)}" if t.broken else ""
    shapes = (
        f'<rect class="cell{" chosen" if chosen else ""}" x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" '
        f'width="{wide - 1:.1f}" height="{tall - 1:.1f}" fill="{_colour(share)}"><title>{escape(title)}</title></rect>'
    )
    if max(len(grid.xs), len(grid.ys)) <= CELLS:
        ink, room = "on-dark" if share > 0.45 else "on-light", "" if min(wide, tall) >= 40 else " tight"
        shapes += (
            f'<text x="{x + wide / 2:.1f}" y="{y + tall / 2 + 3.5:.1f}" text-anchor="middle" '
            f'class="{ink}{room}">{value:.3g}</text>'
        )
    if t.broken:
        r = min(2.6, tall / 5)
        shapes += f'<circle class="dot broken" cx="{x + wide - 2.2 * r:.1f}" cy="{y + 2.2 * r:.1f}" r="{r:.1f}"/>'
    return shapes


def _frame(grid: Grid, at: Point) -> str:
    """The frame of the chosen cell: light and dark, so that it is seen on every colour. It must be drawn last, or the
    cells beside it cover it."""
    (x, y), (wide, tall) = grid.at(at), grid.side
    place = f'x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall:.1f}"'
    return f'<rect class="frame under" {place}/><rect class="frame" {place}/>'


def _ticks(grid: Grid) -> list[str]:
    (wide, tall), xs, ys = grid.side, grid.xs, grid.ys
    across, up = max(1, round(38 / wide)), max(1, round(18 / tall))  # the number of cells that a number needs
    floor = TOP + len(ys) * tall + 16
    below = [
        f'<text class="tick" x="{LEFT + (k + 0.5) * wide:.1f}" y="{floor:.1f}" text-anchor="middle">{xs[k]:.4g}</text>'
        for k in range(0, len(xs), across)
    ]
    return below + [
        f'<text class="tick" x="{LEFT - 8}" y="{TOP + (len(ys) - k - 0.5) * tall + 4:.1f}" text-anchor="end">'
        f"{ys[k]:.4g}</text>"
        for k in range(0, len(ys), up)
    ]


def _key(values: Sequence[float], y: float) -> str:
    """The key of the colours, with the values at both ends."""
    shares, x, wide = [k / 9 for k in range(10)], LEFT + 52, 16
    swatches = "".join(
        f'<rect x="{x + k * wide}" y="{y}" width="{wide}" height="10" fill="{_colour(share)}"/>'
        for k, share in enumerate(shares)
    )
    ends = (x - 8, "end", values[0]), (x + 10 * wide + 8, "start", values[1])
    return swatches + "".join(
        f'<text class="tick" x="{at}" y="{y + 9.5:.1f}" text-anchor="{anchor}">{value:.3g}</text>'
        for at, anchor, value in ends
    )


def _colour(share: float) -> str:
    place = share * (len(RAMP) - 1)
    k = min(int(place), len(RAMP) - 2)
    mixed = (a + (b - a) * (place - k) for a, b in zip(RAMP[k], RAMP[k + 1], strict=True))
    return "#" + "".join(f"{round(255 * v):02x}" for v in mixed)
