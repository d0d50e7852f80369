"""The page of a lab's results: one HTML file that needs no network, with its charts drawn into it as SVG."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import taskvec.report as report
from taskvec.lab.results import FAILS, HOLDS, WEAKLY, Cell, Claim, Curves, Estimate, Findings, Points, Table
from taskvec.report.svg import Frame

STYLE = Path(report.__file__).with_name("style.css")
MORE = """
.verdict { font-weight: 700; } .holds { color: var(--c1); }
.weakly { color: var(--bound); } .fails { color: var(--accent); }
td.text, th.text { text-align: left; white-space: normal; } nav a { margin-right: 1.2rem; }
svg .band.c0 { fill: var(--c0); } svg .band.c2 { fill: var(--c2); }
svg .dot.c0 { fill: var(--c0); } svg .dot.c1 { fill: var(--c1); } svg .dot.c2 { fill: var(--c2); }
"""
KINDS = {HOLDS: "holds", WEAKLY: "weakly", FAILS: "fails"}


def page(about: Mapping[str, Any], findings: Sequence[Findings]) -> str:
    """The page of some findings. All texts are escaped."""
    title = f"The lab: {about['suite']}"
    links = "".join(f'<a href="#{escape(f.experiment)}">{escape(f.experiment)}</a>' for f in findings)
    body = "".join(_section(about, f) for f in findings)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}{MORE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n<p class='lead'>{escape(about['about'])}</p>\n<nav>{links}</nav>\n"
        f"{_verdicts(findings)}{body}{_data(about)}\n"
        f"<footer>taskvec {escape(about['taskvec'])}. τ = θ fine-tuned - θ0 throughout. Coefficients λ were chosen on "
        "validation examples; tables show test examples.</footer>\n</main>\n</body>\n</html>\n"
    )


def _verdicts(findings: Sequence[Findings]) -> str:
    """Every claim of every experiment, with its verdict."""
    rows = [(f.experiment, c) for f in findings for c in f.claims]
    if not rows:
        return ""
    head = "".join(f'<th class="text" scope="col">{name}</th>' for name in ("claim", "the paper", "here", "verdict"))
    body = "".join(_claim(experiment, claim) for experiment, claim in rows)
    return (
        "<h2>What holds on this suite</h2>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _claim(experiment: str, claim: Claim) -> str:
    kind = KINDS.get(claim.verdict, "")
    cells = "".join(f'<td class="text">{escape(text)}</td>' for text in (claim.paper, claim.here))
    return (
        f'<tr><td class="text"><a href="#{escape(experiment)}">{escape(claim.claim)}</a></td>{cells}'
        f'<td class="text"><span class="verdict {kind}">{escape(claim.verdict)}</span></td></tr>'
    )


def _section(about: Mapping[str, Any], f: Findings) -> str:
    run = about["experiments"].get(f.experiment, {})
    seeds = ", ".join(map(str, run.get("seeds", [])))
    drawn = "".join(f"<figure>{svg}<figcaption>{escape(note)}</figcaption></figure>" for svg, note in charts(f))
    parts = [
        f'<section id="{escape(f.experiment)}">\n<h2>{escape(f.experiment)}: {escape(f.question)}</h2>',
        f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in f.protocol)}</ul>",
        "".join(_table(t) for t in f.tables),
        f'<div class="charts">{drawn}</div>' if drawn else "",
        f"<p class='aside'>Seeds {escape(seeds)}; {run.get('seconds', 0):g} s of work in the last run.</p>"
        if run
        else "",
        f"<p class='aside'>{' '.join(map(escape, f.limits))}</p>" if f.limits else "",
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _data(about: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="text">{escape(task["about"])}</td>'
        f'<td class="text">{escape(task["data"])}</td></tr>'
        for name, task in about["tasks"].items()
    )
    recipe = ", ".join(f"{key} {value}" for key, value in about["training"].items())
    return (
        f"<h2>Data and training</h2><p class='aside'>{escape(recipe)}</p>"
        f'<div class="wide"><table><tbody>{rows}</tbody></table></div>'
    )


# ---- tables --------------------------------------------------------------------------------------
def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    body = "".join(
        f'<tr><th scope="row">{cell_text(row[0], True)}</th>'
        + "".join(
            f"<td>{_cell(cell, name in table.plain)}</td>"
            for cell, name in zip(row[1:], table.columns[1:], strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    return (
        f"<h3>{escape(table.title)}</h3>"
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(table.title)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div><p class='aside'>{escape(table.note)}</p>"
    )


def _cell(cell: Cell, plain: bool) -> str:
    if isinstance(cell, Estimate) and cell.low is not None and cell.high is not None:
        ends = f"{_number(cell.low, plain)} to {_number(cell.high, plain)}"
        return f"{_number(cell.mean, plain)}<small>{ends}</small>"
    return cell_text(cell, plain)


def cell_text(cell: Cell, plain: bool) -> str:
    """A cell without its interval, escaped. Shares are shown in %, unless `plain`."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return escape(cell)
    return _number(cell.mean if isinstance(cell, Estimate) else cell, plain)


def _number(value: float, plain: bool) -> str:
    return f"{value:.2g}" if plain else f"{100 * value:.1f}"


# ---- charts --------------------------------------------------------------------------------------
def charts(f: Findings) -> list[tuple[str, str]]:
    """(SVG, caption) of every curve and scatter."""
    return [(_curves(c), _caption(c)) for c in f.curves] + [(_points(p), p.note) for p in f.points]


def _caption(c: Curves) -> str:
    has_bands = any(point[2] is not None for line in c.lines.values() for point in line)
    bands = f" Bands: {c.bands}." if has_bands else ""
    marks = "".join(f" {name}: {x:.3g}." for name, x in c.marks.items())
    named = ", ".join(f"{name} ({colour})" for name, colour in zip(c.lines, ("blue", "green", "orange"), strict=False))
    return f"{named}.{bands}{marks} {c.note}".strip()


def _curves(c: Curves) -> str:
    edges = [(p[0], v) for line in c.lines.values() for p in line for v in p[1:] if v is not None]
    frame = Frame.around(edges, c.x, c.y, c.title)
    shapes = []
    for k, (name, line) in enumerate(c.lines.items()):
        kind = f"c{k % 3}"
        known = [p for p in line if p[2] is not None and p[3] is not None]
        if len(known) > 1:
            shapes.append(frame.band([(p[0], p[2]) for p in known], [(p[0], p[3]) for p in known], kind))  # type: ignore[misc]
        points = [(p[0], p[1]) for p in line]
        shapes.append(frame.line(points, kind))
        shapes.append(frame.dots(points, kind, [f"{name}: {c.x} {x:g}, {y:.3f}" for x, y in points]))
    shapes += [frame.wall(x, f"{name} = {x:.3g}") for name, x in c.marks.items()]
    return frame.drawn(*shapes)


def _points(p: Points) -> str:
    finite = {name: xy for name, xy in p.points.items() if all(map(math.isfinite, xy))}
    frame = Frame.around([*finite.values()], p.x, p.y, p.title)
    dots = frame.dots([*finite.values()], "c0", [*finite])
    names = "".join(
        f'<text class="tick" x="{x + 7:.1f}" y="{y + 4:.1f}">{escape(name)}</text>'
        for name, (x, y) in ((name, frame.at(xy)) for name, xy in finite.items())
    )
    return frame.drawn(dots, names)
