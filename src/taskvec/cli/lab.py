"""The verb `lab` runs the paper's experiments on a suite of real tasks, and shows what they gave."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from taskvec.cli.common import as_json, quiet, say, show_json
from taskvec.escapes import printable

CLEAR = "\r\x1b[K"  # back to the beginning of the terminal's line, which is emptied


@click.group()
def lab() -> None:
    """Run the paper's experiments on real models, with seeds and intervals.

    \b
    taskvec lab list
    taskvec lab run negation --suite text --seeds 3 -o results/
    taskvec lab report results/
    """


@lab.command("list")
@as_json
def list_all(machine: bool) -> None:
    """List the suites and the experiments."""
    from taskvec.lab.experiments import EXPERIMENTS
    from taskvec.lab.suite import known_suites, suite_from

    suites = {name: suite_from(name) for name in known_suites()}
    if machine:
        show_json({
            "suites": {n: {"about": s.about, "tasks": s.tasks, "controls": s.controls} for n, s in suites.items()},
            "experiments": {e.name: e.question for e in EXPERIMENTS},
        })  # fmt: skip
        return
    say("suites (--suite NAME, or a file of your own):")
    for name, suite in suites.items():
        say(f"  {name}: {suite.about}\n    tasks: {', '.join(suite.tasks)}")
        if suite.controls:
            say(f"    controls: {', '.join(suite.controls)}")
    say("experiments:")
    for experiment in EXPERIMENTS:
        say(f"  {experiment.name}: {experiment.question}{' (long: name it to run it)' * experiment.long}")


@lab.command()
@click.argument("experiments", nargs=-1, metavar="[EXPERIMENT]...")
@click.option("--suite", default="text", show_default=True, metavar="NAME|FILE", help="The model, the tasks, the data.")
@click.option("--seeds", default=3, show_default=True, help="How many times each vector is trained.")
@click.option("--tasks", metavar="NAME,NAME", help="Use these tasks of the suite alone.")
@click.option("-o", "--out", required=True, type=click.Path(), metavar="DIR", help="Keep the results in this folder.")
@click.option("--cache", type=click.Path(), metavar="DIR", help="Where data and vectors are kept (~/.cache/taskvec).")
@as_json
@quiet
def run(
    experiments: tuple[str, ...],
    suite: str,
    seeds: int,
    tasks: str | None,
    out: str,
    cache: str | None,
    machine: bool,
    quiet: bool,
) -> None:
    """Run experiments, or all that are not long, and write a report.

    Vectors that are missing are trained and kept. A run that was stopped goes on when the same command is given again.
    """
    from taskvec.lab import run as runs
    from taskvec.lab.suite import only, suite_from

    chosen = suite_from(suite)
    if tasks:
        chosen = only(chosen, [name.strip() for name in tasks.split(",")])
    told = _Told(silent=quiet or machine)
    made = runs.run(experiments, chosen, seeds, Path(out), Path(cache or default_cache()), told)
    told.clear()
    show_json(made.as_dict()) if machine else say(made)


@lab.command()
@click.argument("folder", type=click.Path(), metavar="DIR")
@as_json
def report(folder: str, machine: bool) -> None:
    """Write the page of a folder of results again."""
    from taskvec.lab import run as runs

    path = runs.report(Path(folder))
    show_json({"report": str(path)}) if machine else say(path)


def default_cache() -> Path:
    """$TASKVEC_CACHE, or ~/.cache/taskvec."""
    return Path(os.environ.get("TASKVEC_CACHE") or Path.home() / ".cache" / "taskvec")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


class _Told:
    """Prints what a run is doing to stderr: on a terminal in one line, elsewhere a line at most every ten seconds."""

    def __init__(self, silent: bool):
        self.silent, self.last, self.began, self.share = silent, 0.0, time.monotonic(), 0.0
        self.terminal = sys.stderr.isatty()

    def __call__(self, text: str, share: float | None) -> None:
        now = time.monotonic()
        if share is not None:
            self.share = share
        if self.silent or now - self.last < (0.1 if self.terminal else 10):
            return
        self.last = now
        passed = now - self.began
        left = f", about {_duration(passed * (1 - self.share) / self.share)} left" if self.share > 0.02 else ""
        line = f"{_duration(passed)}{left}: {text}"
        if self.terminal:
            sys.stderr.write(f"{CLEAR}{printable(line)}")
            sys.stderr.flush()
        else:
            say(line, err=True)

    def clear(self) -> Any:
        """Remove the line."""
        if self.terminal and not self.silent:
            sys.stderr.write(CLEAR)
            sys.stderr.flush()
