"""Writes the tables of the benchmark from results.json, in Markdown, and says which promises the figures keep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases import FLUSHED, HELP, IMPORT, LIMIT, OURS, OURS_UNFLUSHED, PASS, PEER, PEER_HELP
from kernel import KERNEL, MEMCPY
from measure import Samples, Stat, field, ratio, stat
from switching import MEMCPY as MEMORY
from switching import SWITCH

Results = dict[str, Any]
NOISY = 0.3  # the share of one core that other work may take before a series is called noisy
BEGIN, END = "<!-- results: written by `run.py --write-readme` -->", "<!-- end of results -->"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, with numbers to the right and columns padded, so that it reads as plain text, too."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = f"|{'-' * (widths[0] + 2)}|" + "".join(f"{'-' * (w + 1)}:|" for w in widths[1:])
    return "\n".join([line(head), rule, *map(line, rows)])


def short(x: float) -> str:
    """About three digits: 226, 12.4, 0.62, 0.014."""
    return f"{x:.{0 if x >= 100 else 1 if x >= 10 else 2 if x >= 0.1 else 3}f}"


def spread(values: Stat) -> str:
    """ "median (min-max)", or one number where all three are equal."""
    median, low, high = map(short, values)
    return median if low == high else f"{median} ({low}-{high})"


def seconds(samples: Samples, case: str, key: str = "wall") -> str:
    return spread(stat(field(samples, case, key)))


def megabytes(samples: Samples, case: str) -> str:
    """The highest of the peaks of memory, in MB (1e6 bytes)."""
    return f"{max(field(samples, case, 'rss_anon')) / 1e6:.0f}"


def rate(samples: Samples, case: str, size: int) -> str:
    """GB/s (1e9 bytes), when `size` bytes are moved a run."""
    return spread(stat([size / wall / 1e9 for wall in field(samples, case, "wall")]))


def times(samples: Samples, case: str, to: str) -> str:
    """How many times as long as `to`, paired; a dash where `to` was not run."""
    return spread(ratio(samples, case, to)) if to in samples else "-"


def company(*series: Samples) -> str:
    """How busy the machine was with other things while these samples were taken."""
    runs = [run for samples in series for case in samples.values() for run in case]
    share = sum(run["others"] for run in runs) / sum(run["wall"] for run in runs)
    warning = " **Not quiet: do not quote these.**" if share > NOISY else ""
    return f"Other work took {share:.0%} of one core meanwhile.{warning}"


# --- one table a section ------------------------------------------------------------------------------------------


def starts(section: Results) -> str:
    samples = section["samples"]
    rows = [[case, seconds(samples, case), times(samples, case, PASS)] for case in samples]
    return f"{company(samples)}\n\n{table(['start', 'wall s', f'x `{PASS}`'], rows)}"


def merges(section: Results) -> str:
    samples = section["samples"]
    rows = [
        [
            case,
            seconds(samples, case),
            seconds(samples, case, "cpu"),
            megabytes(samples, case),
            times(samples, case, LIMIT),
            times(samples, case, OURS),
        ]
        for case in samples
    ]
    head = ["base + 2 fine-tunes", "wall s", "CPU s", "RssAnon MB", "x limit", "x taskvec"]
    return f"{section['size']}, {gigabytes(section)}. {company(samples)}\n\n{table(head, rows)}"


def agreement(section: Results) -> str:
    return (
        f"Of {section['numbers']:,} numbers, {section['differ']:,} differ from mergekit's, by at most "
        f"{section['max_ulp']} ulp of bfloat16, but for {section['cancelled']:,} whose sums cancel to rounding noise "
        "(see agree.py)."
    )


def kernels(section: Results) -> str:
    rows = [
        [f"{case}, {where}", rate(samples, case, section["bytes"]), times(samples, case, MEMCPY)]
        for where, samples in (("in the cache", section["cached"]), ("from memory", section["samples"]))
        for case in samples
    ]
    return table(["one thread", "GB/s read + written", "x memcpy's time"], rows)


def gigabytes(section: Results) -> str:
    return f"{section['read'] / 1e9:.2f} GB in, {section['written'] / 1e9:.2f} GB out"


def growth(section: Results) -> str:
    rows = []
    for row in section["rows"]:
        samples, size = row["samples"], row["read"] + row["written"]
        if OURS_UNFLUSHED in samples:
            cells = [
                seconds(samples, OURS_UNFLUSHED),
                rate(samples, OURS_UNFLUSHED, size),
                megabytes(samples, OURS_UNFLUSHED),
            ]
            cells += [times(samples, OURS_UNFLUSHED, LIMIT)]
        else:
            cells = ["-"] * 4
        rows.append([f"{row['size']}, base + {row['tuned']}", gigabytes(row), *cells, seconds(samples, LIMIT)])
    head = [OURS_UNFLUSHED, "data", "wall s", "GB/s", "RssAnon MB", "x limit", "limit s"]
    return f"{company(*(row['samples'] for row in section['rows']))}\n\n{table(head, rows)}"


def ours_among(samples: Samples) -> list[str]:
    """The cases that are not the peer's."""
    return [case for case in samples if not case.endswith(", mergekit")]


def methods(section: Results) -> str:
    samples, rows = section["samples"], []
    ours = ours_among(samples)
    beside = len(ours) < len(samples)
    for case in ours:
        peer = f"{case}, mergekit"
        cells = [seconds(samples, case), times(samples, case, OURS_UNFLUSHED), megabytes(samples, case)]
        if peer in samples:
            cells += [seconds(samples, peer), spread(ratio(samples, peer, case)), megabytes(samples, peer)]
        elif beside:
            cells += ["-"] * 3
        rows.append([case, *cells])
    head = [f"{section['size']}, base + {section['tuned']}", "wall s", "x linear", "RssAnon MB"]
    head += ["mergekit s", "mergekit / ours", "mergekit RssAnon MB"] if beside else []
    return f"{company(samples)}\n\n{table(head, rows)}"


def searching(section: Results) -> str:
    rows = [
        [f"{case}, {row['size']}", seconds(row["samples"], case), times(row["samples"], case, MEMORY)]
        for row in section["rows"]
        for case in row["samples"]
    ]
    s = section["search"]
    sentence = (
        f"A grid of {s['points']:.0f} candidates and its tests with a journal took {s['wall']:.2f} s, of which "
        f"{s['inside']:.2f} s in the evaluator ({s['work']:g} s a judgement): {overhead(section):.1%} more."
    )
    return f"{table(['base + 2 fine-tunes', 'wall s', 'x memcpy'], rows)}\n\n{sentence}"


def switched(section: Results, row: int) -> float:
    """What other coefficients in a live model take, over a memcpy of the sources' bytes."""
    return ratio(section["rows"][row]["samples"], SWITCH, MEMORY)[0]


def overhead(section: Results) -> float:
    """What a search takes beside its judgements, as a share of them."""
    return section["search"]["wall"] / section["search"]["inside"] - 1


@dataclass(frozen=True)
class Section:
    title: str
    text: Callable[[Results], str]


SECTIONS = {
    "start": Section("Start", starts),
    "merge": Section("A merge", merges),
    "agree": Section("The same numbers", agreement),
    "kernel": Section("The arithmetic alone", kernels),
    "methods": Section("Methods", methods),
    "methods-8": Section("Methods, eight models", methods),
    "search": Section("Other coefficients in a live model", searching),
    "models": Section("More models", growth),
    "sizes": Section("Larger models", growth),
}

# --- promises -----------------------------------------------------------------------------------------------------


def median(samples: Samples, case: str) -> float:
    return stat(field(samples, case, "wall"))[0]


def faster(samples: Samples) -> float:
    """The kernel's speed over memcpy's."""
    return ratio(samples, MEMCPY, KERNEL)[0]


def largest(section: Results) -> float:
    """The highest RssAnon of ours over all rows of a growth section, in MB."""
    return max(max(field(row["samples"], OURS_UNFLUSHED, "rss_anon")) for row in section["rows"]) / 1e6


@dataclass(frozen=True)
class Promise:
    """A figure of one section and its bound, which is a maximum, or a minimum if `least`."""

    text: str
    section: str
    figure: Callable[[Results], float]
    bound: float
    least: bool = False

    def kept(self, value: float) -> bool:
        return value >= self.bound if self.least else value <= self.bound


def of_methods(ours: str, to: str) -> Callable[[Results], float]:
    """The time of one case over that of another."""
    return lambda f: ratio(f["samples"], ours, to)[0]


def methods_memory(section: Results) -> float:
    """The highest RssAnon of ours over all methods, in MB."""
    samples = section["samples"]
    return max(max(field(samples, case, "rss_anon")) for case in ours_among(samples)) / 1e6


LINEAR = OURS_UNFLUSHED
PROMISES = (
    Promise("merge --no-fsync: wall / limit", "merge", lambda f: ratio(f["samples"], OURS_UNFLUSHED, LIMIT)[0], 0.8),
    Promise("merge: wall / (limit + fsync)", "merge", lambda f: ratio(f["samples"], OURS, FLUSHED)[0], 0.8),
    Promise("merge: mergekit / taskvec", "merge", lambda f: ratio(f["samples"], PEER, OURS)[0], 12, least=True),
    Promise("merge: RssAnon, MB", "merge", lambda f: max(field(f["samples"], OURS, "rss_anon")) / 1e6, 200),
    Promise("ties, whole model / linear", "methods", of_methods("ties, whole model", LINEAR), 3),
    Promise("ties, density 0.2 / linear", "methods", of_methods("ties, whole model, density 0.2", LINEAR), 3),
    Promise("dare_ties, 1/(1-p) / linear", "methods", of_methods("dare_ties, 1/(1-p)", LINEAR), 3),
    Promise("ties, whole model / linear, 8 models", "methods-8", of_methods("ties, whole model", LINEAR), 3),
    Promise(
        "ties, density 0.2 / linear, 8 models", "methods-8", of_methods("ties, whole model, density 0.2", LINEAR), 3
    ),
    Promise("dare_ties, 1/(1-p) / linear, 8 models", "methods-8", of_methods("dare_ties, 1/(1-p)", LINEAR), 3),
    Promise("ties: mergekit / taskvec", "methods", of_methods("ties, mergekit", "ties"), 20, least=True),
    Promise("dare_ties: mergekit / taskvec", "methods", of_methods("dare_ties, mergekit", "dare_ties"), 20, least=True),
    Promise(
        "breadcrumbs: mergekit / taskvec", "methods", of_methods("breadcrumbs, mergekit", "breadcrumbs"), 30, least=True
    ),
    Promise("della: mergekit / taskvec", "methods", of_methods("della, mergekit", "della"), 30, least=True),
    Promise("slerp: mergekit / taskvec", "methods", of_methods("slerp, mergekit", "slerp"), 5, least=True),
    Promise("methods: RssAnon, MB", "methods", methods_memory, 1000),
    Promise("methods, 8 models: RssAnon, MB", "methods-8", methods_memory, 1000),
    Promise("load_into, largest: wall / memcpy", "search", lambda f: switched(f, -1), 1.5),
    Promise("load_into, smallest: wall / memcpy", "search", lambda f: switched(f, 0), 1.5),
    Promise("search: overhead over judging, %", "search", lambda f: 100 * overhead(f), 5),
    Promise("more models: RssAnon, MB", "models", largest, 200),
    Promise("larger models: RssAnon, MB", "sizes", largest, 200),
    Promise("mergekit's numbers, within ulps", "agree", lambda f: f["max_ulp"], 1),
    Promise("kernel: speed / memcpy's, from memory", "kernel", lambda f: faster(f["samples"]), 0.8, least=True),
    Promise("taskvec --help, s", "start", lambda f: median(f["samples"], HELP), 0.4),
    Promise("import taskvec, s", "start", lambda f: median(f["samples"], IMPORT), 0.2),
    Promise("--help: mergekit / taskvec", "start", lambda f: ratio(f["samples"], PEER_HELP, HELP)[0], 10, least=True),
)


def promises(results: Results) -> str:
    """The promises whose figures were measured, each kept or missed."""
    rows = []
    for promise in PROMISES:
        try:
            value = promise.figure(results[promise.section])
        except KeyError:  # that section, or one of its cases, was not run
            continue
        bound = f"{'>=' if promise.least else '<='} {promise.bound:g}"
        rows.append([promise.text, short(value), bound, "kept" if promise.kept(value) else "MISSED"])
    return table(["promise", "measured", "bound", ""], rows)


def markdown(results: Results) -> str:
    """Everything, in the order of SECTIONS."""
    machine = ", ".join(f"{k} {v}" for k, v in results["machine"].items())
    parts = [f"{machine}. Median (min-max); ratios are taken pair by pair within a round.", promises(results)]
    parts += [f"### {s.title}\n\n{s.text(results[k])}" for k, s in SECTIONS.items() if k in results]
    return "\n\n".join(parts)


def write_readme(readme: Path, results: Results) -> None:
    """Put the tables between the two marks of the README."""
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n\n{markdown(results)}\n\n{END}{after}")
