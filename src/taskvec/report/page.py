"""The report of searches is one page of HTML in one file. It needs no network, and can be read without scripts."""

import ast
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from taskvec.escapes import in_shell
from taskvec.evals import Numbers, means
from taskvec.report.charts import charts
from taskvec.report.svg import short
from taskvec.searching.evidence import Difference, Interval
from taskvec.searching.findings import ALPHA, CHOSEN, WITHIN, Record
from taskvec.searching.trial import Trial
from taskvec.version import __version__

STYLE = Path(__file__).with_name("style.css")
SCRIPT = """
for (const box of document.querySelectorAll(".copy")) {
  const button = document.createElement("button");
  button.textContent = "copy";
  button.addEventListener("click", async () => {
    let done = "copied";
    try {
      await navigator.clipboard.writeText(box.querySelector("pre").textContent);
    } catch {  // the browser does not allow it: select the text, so that it can be copied by hand
      getSelection().selectAllChildren(box.querySelector("pre"));
      done = "selected";
    }
    button.textContent = done;
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
  box.append(button);
}
"""


def page(records: Mapping[str, Record]) -> str:
    """The page of some searches, given by the names of their journals. All texts from journals are escaped."""
    title = ", ".join(records) if len(records) < 4 else f"{len(records)} searches"
    body = "<hr>".join(_section(name, record) for name, record in records.items())
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n<footer>taskvec {__version__}. Charts and choices are of validation examples; test "
        f"examples were judged for what was chosen.</footer>\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _section(name: str, record: Record) -> str:
    drawn = "".join(f"<figure>{c.svg}<figcaption>{escape(c.caption)}</figcaption></figure>" for c in charts(record))
    parts = [
        f"<section>\n<h1>{escape(name)}</h1>\n{_answer(record)}",
        f"<h2>Recipe</h2>\n{_recipe(record)}",
        f"<h2>What it scores</h2>\n{_figures(record)}",
        f"<h2>Over seeds</h2>\n{_seeds(record)}" if record.seeds else "",
        f'<h2>What was tried</h2>\n<div class="charts">{drawn}</div>' if drawn else "",
        f"<h2>Notes</h2>\n<ul>{''.join(f'<li>{escape(n)}</li>' for n in notes)}</ul>"
        if (notes := _notes(record))
        else "",
        _trials(record),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _answer(record: Record) -> str:
    if record.chosen:
        sentence = f"<strong>{escape(record.told())}</strong>: {escape(record.how)}."
    else:
        sentence = f"<strong>No candidate will do</strong>, and the answer is the base: {escape(_none(record))}."
    facts = [(str(len(record.trials)), "candidates judged")]
    if record.given_up:
        facts.append((str(len(record.given_up)), "more given up after a part of the examples"))
    if record.chosen and (ends := record.plateau()):
        flat = f"{ends[0]:g} to {ends[1]:g}" if ends[0] < ends[1] else f"{ends[0]:g} alone"
        aside = ", constraints aside" if record.constraints else ""
        facts.append((flat, f"{record.knobs[0]}: the objective is within {WITHIN:g} of its best{aside}"))
    if len(record.objectives) > 1:
        facts.append((str(len(record.front())), "on the Pareto front"))
    facts.append((_duration(math.fsum(t.seconds for t in record.trials)), "of judging"))
    facts.append((str(record.looks), "look at test examples" if record.looks == 1 else "looks at test examples"))
    items = "".join(f"<li><b>{escape(value)}</b>{escape(what)}</li>" for value, what in facts)
    return f'<p class="lead">{sentence}</p>\n<ul class="facts">{items}</ul>'


def _none(record: Record) -> str:
    """Why there is no candidate, and which one came closest."""
    if not (tried := [t for t in record.trials if t.broken]):
        return record.how
    near = min(tried, key=lambda t: t.breach)
    missed = " and ".join(f"{text} by {amount:.3g}" for text, amount in near.broken.items())
    bounds = " and ".join(record.constraints)
    return f"none of {len(record.trials)} keeps {bounds}; the closest, {near.told()}, misses {missed}"


def _recipe(record: Record) -> str:
    family = f"<p>chosen from <code>{escape(record.recipe)}</code></p>" if record.chosen else ""
    boxes = {"To run": _command(record.file), "As a file": f"# taskvec merge recipe.py -o merged/\n{record.file}"}
    copied = (
        f'<div class="copy"><h3>{name}</h3><pre>{escape(text)}</pre></div>' for name, text in boxes.items() if text
    )
    return f"{family}\n{''.join(copied)}"


def _command(file: str) -> str:
    """The command that makes the model of a recipe file; "" if it has views, revisions or arrays in memory, which a
    command cannot express.

    Everything that comes from the journal is quoted, so that it cannot become a command when it is pasted.
    """
    *models, recipe = file.strip().splitlines() or [""]
    if not models:
        return ""
    pairs = []
    for line in models:
        name, _, value = line.partition(" = ")
        if not (name.isidentifier() and (uri := _uri(value))):
            return ""
        pairs.append(in_shell(f"{name}={uri}"))
    if recipe.startswith("-"):  # it must not be taken for an option
        return " ".join(["taskvec merge -o merged/ --", in_shell(recipe), *pairs])
    return " ".join(["taskvec merge", in_shell(recipe), *pairs, "-o merged/"])


def _uri(text: str) -> str | None:
    """The argument of load("..."); None for any other text."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    match tree:
        case ast.Call(func=ast.Name(id="load"), args=[ast.Constant(value=str() as uri)], keywords=[]):
            return uri
    return None


def _figures(record: Record) -> str:
    """The table of metrics against models: validation and test scores with intervals, and the difference in words."""
    models: list[tuple[str, Mapping[str, Numbers]]] = [("base, validation", record.base)]
    if record.chosen:
        models.append(("chosen, validation", record.chosen.scores))
    models += [(f"{name}, test", scores) for name, scores in record.test.items()]
    compared = record.compared()
    head = [*(name for name, _ in models), *(["chosen - base, test"] if compared else [])]
    rows = []
    for metric in record.base:
        cells = [_cell(record, metric, scores[metric]) if metric in scores else "" for _, scores in models]
        if compared:
            cells.append(_difference(compared[metric]) if metric in compared else "")
        rows.append(_row(metric, cells))
    note = "<p class='aside'>Small: 95 % intervals over examples (of hits and misses Wilson's, of other scores Hall's)."
    if compared:
        tests = " and ".join(sorted({d.test for d in compared.values()}))
        note += (
            f" Differences: paired tests on the same examples ({escape(tests)}), p-values corrected for "
            f"{len(compared)} comparisons (Holm)."
        )
    note += "".join(f" {escape(sentence[0].upper() + sentence[1:])}." for sentence in record.unsure())
    return f"{_table('Metrics of the base and of what was chosen', ['', *head], rows)}\n{note}</p>"


def _cell(record: Record, metric: str, values: Numbers) -> str:
    if (mean := record.interval(metric, values)) is None:
        return f"{values:.4g}"
    return f"{mean.mean:.4g}<small>{_ends(mean)}</small>"


def _difference(d: Difference) -> str:
    i = d.interval
    if d.p > ALPHA:
        return f"no significant difference<small>{d.chance}</small>"
    kind, arrow = ("up", "▲") if i.mean > 0 else ("down", "▼")
    return f'<span class="{kind}">{arrow} {abs(i.mean):.3g}</span><small>{_ends(i, "+.3g")}, {d.chance}</small>'


def _ends(i: Interval, form: str = ".3g") -> str:
    """The ends of an interval, as all tables of a page have them."""
    return f"{i.low:{form}} to {i.high:{form}}" if i.known else "no interval"


def _seeds(record: Record) -> str:
    rows = [
        _row(
            metric,
            [
                f"{s.interval.mean:.4g}", f"{s.deviation:.2g}", _ends(s.interval, ".4g"),
                ", ".join(f"{v:.4g}" for v in s.values),
            ],
        )
        for metric, s in record.spread().items()
    ]  # fmt: skip
    split = "test" if CHOSEN in record.test else "validation"
    about = f"<p>The chosen recipe with the vectors of each seed, on {split} examples.</p>"
    return about + _table("The chosen recipe, seed by seed", ["", "mean", "deviation", "95 % t interval", "each"], rows)


def _trials(record: Record) -> str:
    if not record.trials:
        return ""
    metrics = list(record.trials[0].metrics)
    front = {t.number for t in record.front()} if len(record.objectives) > 1 else set()
    head = ["trial", *record.knobs, *metrics, *record.objectives, ""]
    rows = []
    for t in record.trials:
        cells = [f"{t.knobs[k]:.4g}" for k in record.knobs] + [f"{t.metrics[m]:.4g}" for m in metrics]
        cells += [f"{v:.4g}" for v in record.values(t)]
        rows.append(_row(str(t.number), [*cells, _remark(record, t, front)], "picked" if t is record.chosen else ""))
    lost = ""
    if record.given_up:
        names = "; ".join(t.told() for t in record.given_up)
        lost = f"<p class='aside'>Given up after a part of the examples: {escape(names)}.</p>"
    table = _table("Every candidate, on validation examples", head, rows)
    return f"<details><summary>All {len(rows)} candidates</summary>{table}{lost}</details>"


def _remark(record: Record, t: Trial, front: set[int]) -> str:
    remarks = ["chosen"] if t is record.chosen else []
    remarks += ["on the front"] if t.number in front else []
    remarks += [f"breaks {', '.join(t.broken)}"] if t.broken else []
    return f'<span class="{"broken" if t.broken else ""}">{escape("; ".join(remarks))}</span>'


def _notes(record: Record) -> list[str]:
    notes = [*record.notes]
    if record.constraints:
        kept = sum(not t.broken for t in record.trials)
        notes.append(f"{kept} of {len(record.trials)} candidates keep {' and '.join(record.constraints)}")
    notes += record.looked()
    if len(record.trials) > 20:
        best = means(record.chosen.scores) if record.chosen else {}
        if best:
            notes.append("the chosen one is the best of many on validation: expect less of it on test")
    return notes


# ---- tables --------------------------------------------------------------------------------------
def _table(caption: str, head: Sequence[str], rows: Sequence[str]) -> str:
    """A table in a box that scrolls by itself, by the keyboard, too."""
    cells = "".join(f'<th scope="col">{escape(short(name, 60))}</th>' for name in head)
    about = f'role="region" tabindex="0" aria-label="{caption}"'
    top = f"<caption>{caption}</caption><thead><tr>{cells}</tr></thead>"
    return f'<div class="wide" {about}><table>{top}<tbody>{"".join(rows)}</tbody></table></div>'


def _row(name: str, cells: Sequence[str], kind: str = "") -> str:
    """A row of a table. The name is escaped; the cells must be HTML already."""
    body = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="{kind}"><th scope="row">{escape(name)}</th>{body}</tr>'


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
