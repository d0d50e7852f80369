"""Runs experiments of a suite and keeps what they give in a folder.

    DIR/scores.jsonl       every score, a line for each model, task and split (bench.py)
    DIR/findings/NAME.json what each experiment gives (results.py)
    DIR/about.json         the suite, the seeds, the data, and what ran when
    DIR/report.html        the page, and the pictures in DIR/figures/ (page.py, pictures.py)

A run that was killed goes on when the same command is given again: vectors lie in the cache, scores in the journal, and
the findings are computed from these alone, so they are the same.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from taskvec.errors import DataError, MissingExtra, OutputError, RecipeError
from taskvec.lab.bench import Bench
from taskvec.lab.experiments import EXPERIMENTS, planned
from taskvec.lab.page import page
from taskvec.lab.pictures import pictures
from taskvec.lab.results import Findings, read_findings, write_findings
from taskvec.lab.suite import Suite
from taskvec.notes import note
from taskvec.places.local import replace_text, stated
from taskvec.version import __version__

KEYS = {"suite", "about", "training", "tasks", "taskvec", "experiments"}  # of about.json, which the page needs
Progress = Callable[[str, float | None], None]  # what is being done, and the share of the run that is behind it


@dataclass(frozen=True, slots=True)
class Run:
    """What a run gave."""

    folder: Path
    findings: tuple[Findings, ...]
    trained: tuple[str, ...]  # vectors that were not in the cache
    judged: int  # models judged on a task; the other scores were in the journal
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "folder": str(self.folder), "report": str(self.folder / "report.html"), "trained": list(self.trained),
            "judged": self.judged, "seconds": round(self.seconds, 1),
            "findings": [f.as_dict() for f in self.findings],
        }  # fmt: skip

    def __str__(self) -> str:
        lines = []
        for findings in self.findings:
            lines += [f"{findings.experiment}: {findings.question}"]
            lines += [
                f"  {c.verdict}: {c.claim}\n      paper: {c.paper}\n      here: {c.here}" for c in findings.claims
            ]
            lines += [f"  limit: {limit}" for limit in findings.limits]
        lines += [
            f"{len(self.trained)} vectors trained, {self.judged} scores measured, {self.seconds:.0f} s",
            f"report: {self.folder / 'report.html'}",
        ]
        return "\n".join(lines)


def run(
    names: Sequence[str],
    suite: Suite,
    seeds: int,
    folder: Path,
    cache: Path,
    progress: Progress = lambda text, share: None,
) -> Run:
    """Run the named experiments, or all that are not long, with the vectors of so many seeds.

    Raises TaskvecError and its kinds.
    """
    began = time.perf_counter()
    if missing := [name for name in ("torch", "transformers") if find_spec(name) is None]:
        raise MissingExtra(f"the lab needs {' and '.join(missing)}; it", "lab")
    if seeds < 1:
        raise RecipeError(f"there must be one seed at least, not {seeds}")
    work = planned(names, suite)
    with stated(folder, OutputError):
        (folder / "findings").mkdir(parents=True, exist_ok=True)
    bench = Bench(suite, range(seeds), folder, cache, progress)
    made = []
    for number, (experiment, settings) in enumerate(work, 1):
        bench.told(_within(progress, number - 1, len(work)))
        started = time.perf_counter()
        findings = experiment.run(bench, settings)
        made.append(findings)
        with stated(folder, OutputError):
            write_findings(findings, folder / "findings" / f"{experiment.name}.json")
            _note(bench, experiment.name, {"settings": asdict(settings), "seconds": time.perf_counter() - started})
    report(folder)
    seconds = time.perf_counter() - began
    return Run(folder, tuple(made), tuple(bench.vectors.trained), bench.judged, seconds)


def _within(progress: Progress, before: int, count: int) -> Progress:
    """What an experiment says of itself, as a part of a run of several."""

    def tell(text: str, share: float | None) -> None:
        progress(f"experiment {before + 1} of {count}: {text}", None if share is None else (before + share) / count)

    return tell


def _note(bench: Bench, experiment: str, what: dict[str, Any]) -> None:
    """Write down in about.json what was run."""
    path = bench.folder / "about.json"
    about = _about(path) if path.exists() else {"experiments": {}}
    suite = bench.suite
    about |= {
        "suite": suite.name, "about": suite.about, "model": dict(suite.model), "training": asdict(suite.training),
        "tasks": {name: {"about": suite.specs[name].about, "data": d.about} for name, d in bench.data.items()},
        "controls": suite.controls, "taskvec": __version__,
    }  # fmt: skip
    what |= {"seeds": list(bench.seeds), "seconds": round(what["seconds"], 1), "ended": time.strftime("%Y-%m-%d %H:%M")}
    about["experiments"][experiment] = what
    replace_text(path, json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def _about(path: Path) -> dict[str, Any]:
    """What about.json says. Raises DataError for a file that no run wrote."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read, remove it to run again: {error}") from None
    if not isinstance(about, dict) or KEYS - about.keys() or not isinstance(about["experiments"], dict):
        raise DataError(f"{path} does not say what was run, remove it to run again")
    return about


def report(folder: Path) -> Path:
    """Write the page of a folder of results, and its pictures. Raises DataError where there are no results."""
    about = folder / "about.json"
    there = {path.stem: path for path in (folder / "findings").glob("*.json")}
    paths = [there[e.name] for e in EXPERIMENTS if e.name in there]
    if not paths or not about.is_file():
        raise DataError(f"{folder} has no results of the lab: `taskvec lab run -o {folder}` makes them")
    told = _about(about)
    found = [read_findings(path) for path in paths]
    with stated(folder, OutputError):
        replace_text(folder / "report.html", page(told, found))
    try:
        for findings in found:
            pictures(findings, folder / "figures")
    except MissingExtra as error:
        note(f"no picture files were written, the page has its charts nonetheless: {error}")
    return folder / "report.html"
