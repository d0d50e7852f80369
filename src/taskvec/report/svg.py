"""Shapes on a pair of axes, as SVG text. Colours are classes, and the style of a page decides what they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 44, 46  # margins of a chart; the top has a line for the chosen one
WIDTH, HEIGHT = 560, 318


@dataclass(frozen=True, slots=True)
class Frame:
    """Data ranges on a chart of WIDTH x HEIGHT, and the names of the axes."""

    low: Point
    high: Point
    x: str
    y: str
    title: str

    @classmethod
    def around(cls, points: Sequence[Point], x: str, y: str, title: str) -> "Frame":
        """The frame that has room for all points, and a little more."""
        xs, ys = zip(*points, strict=True)
        return cls((_room(xs, 0.03)[0], _room(ys, 0.08)[0]), (_room(xs, 0.03)[1], _room(ys, 0.08)[1]), x, y, title)

    def at(self, point: Point) -> Point:
        """Where a point of the data is drawn."""
        (x, y), (x0, y0), (x1, y1) = point, self.low, self.high
        across, up = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def drawn(self, *shapes: str) -> str:
        """The whole chart, with these shapes in it."""
        body = "".join([*self._grid(), *shapes])
        label = f"{self.title}: {self.y} against {self.x}"
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
            f'<text class="title" x="{LEFT}" y="15">{escape(short(self.title, 70))}</text>{body}</svg>'
        )

    def _grid(self) -> list[str]:
        shapes = []
        for v in ticks(self.low[1], self.high[1], 6):
            y = self.at((self.low[0], v))[1]
            shapes.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            shapes.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{v:.6g}</text>')
        for v in ticks(self.low[0], self.high[0], 7):
            x = self.at((v, self.low[1]))[0]
            shapes.append(
                f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>'
            )
            shapes.append(
                f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{v:.6g}</text>'
            )
        floor = HEIGHT - BOTTOM
        shapes.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
        middle, name = (LEFT + WIDTH - RIGHT) / 2, escape(short(self.x, 60))
        shapes.append(f'<text class="name" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{name}</text>')
        up = (TOP + HEIGHT - BOTTOM) / 2
        shapes.append(
            f'<text class="name" transform="translate(14 {up}) rotate(-90)" text-anchor="middle">'
            f"{escape(short(self.y, 36))}</text>"
        )
        return shapes

    # ---- shapes
    def line(self, points: Sequence[Point], kind: str) -> str:
        """Points joined in order."""
        return f'<polyline class="line {kind}" points="{self._path(points)}"/>'

    def band(self, low: Sequence[Point], high: Sequence[Point], kind: str) -> str:
        """The area between two lines."""
        return f'<polygon class="band {kind}" points="{self._path([*low, *reversed(high)])}"/>'

    def dots(self, points: Sequence[Point], kind: str, titles: Sequence[str]) -> str:
        """A dot for each point. Its title is shown when the pointer rests on it."""
        return "".join(
            f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"><title>{escape(title)}</title></circle>'
            for (x, y), title in zip(map(self.at, points), titles, strict=True)
        )

    def mark(self, point: Point, text: str) -> str:
        """The chosen candidate: a ring, a vertical line, and a text above the line, where no curve runs."""
        x, y = self.at(point)
        anchor = "start" if x < WIDTH / 3 else "end" if x > 2 * WIDTH / 3 else "middle"
        return (
            f'<line class="chosen" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<circle class="chosen ring" cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>'
            f'<text class="note" x="{x:.1f}" y="{TOP - 7}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def level(self, y: float) -> str:
        """A dashed horizontal line."""
        at = self.at((self.low[0], y))[1]
        return f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'

    def bound(self, y: float, text: str) -> str:
        """A dashed horizontal line with a text: the bound that a constraint sets."""
        at = self.at((self.low[0], y))[1]
        beside = at + 13 if at < TOP + 16 else at - 5
        return (
            f'<line class="level bound" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="tick bound" x="{WIDTH - RIGHT}" y="{beside:.1f}" text-anchor="end">'
            f"{escape(short(text, 48))}</text>"
        )

    def base(self, point: Point) -> str:
        """The base among the candidates: a diamond with its name."""
        x, y = self.at(point)
        anchor, dx = ("end", -9) if x > WIDTH / 2 else ("start", 9)
        return (
            f'<path class="base" d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"><title>the base</title></path>'
            f'<text class="tick base-name" x="{x + dx:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">base</text>'
        )

    def wall(self, x: float, text: str) -> str:
        """A dashed vertical line with a text: the bound that a constraint sets."""
        at = self.at((x, self.low[1]))[0]
        right = at > (LEFT + WIDTH) / 2
        anchor, dx = ("end", -5) if right else ("start", 5)
        return (
            f'<line class="level bound" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text class="tick bound" x="{at + dx:.1f}" y="{TOP + 12}" text-anchor="{anchor}">'
            f"{escape(short(text, 48))}</text>"
        )

    def shade(self, x0: float, x1: float, text: str) -> str:
        """A shaded range of x, with a title."""
        a, b = self.at((x0, self.low[1]))[0], self.at((x1, self.low[1]))[0]
        return (
            f'<rect class="shade" x="{a:.1f}" y="{TOP}" width="{max(2.0, b - a):.1f}" height="{HEIGHT - TOP - BOTTOM}">'
            f"<title>{escape(text)}</title></rect>"
        )

    def _path(self, points: Sequence[Point]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.at, points))


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from low to high, about so many."""
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) + 0.0 for k in range(first, math.floor(high / step + 1e-9) + 1)]


def short(text: str, most: int) -> str:
    """The text, cut off with an ellipsis if it has more than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _room(values: Sequence[float], share: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        half = abs(low) * 0.1 or 0.5
        return low - half, high + half
    return low - share * (high - low), high + share * (high - low)
