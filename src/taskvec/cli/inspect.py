"""The verbs that look: show, check, compare, verify, log."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskvec.algebra.weights import Weights
from taskvec.analysis.compare import Comparison
from taskvec.analysis.compare import compare as measure
from taskvec.cli.common import as_json, cell, options, progress, quiet, say, show_json, threads
from taskvec.errors import FormatError, TaskvecError
from taskvec.notes import note
from taskvec.places.local import resolve
from taskvec.recipes.recipe import load
from taskvec.saving.disagreements import disagreements
from taskvec.saving.plan import readable
from taskvec.sources.abilities import FromFiles, metadata_of, statistic_of
from taskvec.sources.source import Source

if TYPE_CHECKING:
    from rich.table import Table

    from taskvec.saving.ancestry import Step

DEEPEST = 40  # generations by which the lines of a lineage are indented


@click.command()
@click.argument("path")
@click.option("--tensors", is_flag=True, help="List every tensor with its shape and dtype.")
@as_json
def show(path: str, tensors: bool, machine: bool) -> None:
    """Say what PATH is: a model, a task vector, or statistics.

    Prints the kind, the number of tensors, dtypes, size, fingerprint and metadata. Reads headers only.
    """
    source = next(iter(load(path).terms))
    files = source.files if isinstance(source, FromFiles) else {}
    kinds: dict[str, int] = {}
    for spec in source.specs.values():
        kinds[spec.dtype] = kinds.get(spec.dtype, 0) + spec.numel
    about: dict[str, Any] = {
        "path": path,
        "kind": _kind(source),
        "mass": source.mass,
        "tensors": len(source.specs),
        "elements": sum(kinds.values()),
        "bytes": sum(f.size for f in files.values()),
        "files": list(files),
        "dtypes": kinds,
        "fingerprint": source.fingerprint,
        "base": source.base,
        "recipe": metadata_of(source).get("taskvec.recipe"),
        "metadata": {k: v for k, v in metadata_of(source).items() if k != "taskvec.lineage"},
    }
    if machine:
        listing = {name: {"shape": list(spec.shape), "dtype": spec.dtype} for name, spec in source.specs.items()}
        show_json(about | ({"specs": listing} if tensors else {}))
        return
    kind = f"{about['kind']}, which only methods take" if _kind(source).endswith("s") else f"a {about['kind']}"
    say(f"{path}: {kind} (mass {source.mass})")
    say(f"tensors      {about['tensors']}, {about['elements']:,} elements")
    say(f"dtypes       {', '.join(f'{kind} {count:,}' for kind, count in sorted(kinds.items()))}")
    say(f"files        {len(about['files'])}, {readable(about['bytes'])}")
    say(f"fingerprint  {source.fingerprint}")
    for key in ("base", "recipe"):
        if about[key]:
            say(f"{key:12} {about[key]}")
    for key in ("examples", "labels", "seed", "norm", "data") if statistic_of(source) else ():
        if value := about["metadata"].get(f"taskvec.{key}"):
            say(f"{key:12} {value}")
    for key, value in about["metadata"].items():
        if not key.startswith("taskvec.") and key != "format":
            say(f"{key:12} {value}")
    for name, spec in source.specs.items() if tensors else ():
        say(f"  {name}  {spec}")


def _kind(source: Source) -> str:
    if kind := statistic_of(source):
        return kind if kind == "permutation" else f"{kind} statistics"
    return "model" if source.mass else "LoRA" if source.partial else "task vector"


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH PATH...")
@as_json
def check(paths: tuple[str, ...], machine: bool) -> None:
    """Say whether models and vectors can be merged.

    Lists all problems at once, from headers only. The exit code is 1 if they cannot be merged. Notes name differences
    between their configurations, tokenizers and chat templates; a merge is possible in spite of these.
    """
    sources, problems = [], []
    for path in paths:
        try:
            sources.append(load(path))
        except TaskvecError as error:
            problems.append(str(error))
    together = sum(sources, Weights({}))
    for find in (lambda: together.specs, together.check_bases):
        try:
            find()
        except TaskvecError as error:
            problems += error.problems
    differences = disagreements(together, together.donor)
    for difference in differences:
        note(difference)
    if machine:
        show_json({"mergeable": not problems, "problems": problems})
    if problems:
        if not machine:
            raise TaskvecError("these cannot be merged as they are:", problems)
        raise SystemExit(1)
    if not machine:
        say(
            f"these can be merged: {len(sources)} sources, {len(together.specs)} tensors of the same shapes"
            f"{'; mind the notes' if differences else ''}"
        )


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--base", metavar="PATH", help="The base: subtracted from models, and sizes are relative to it.")
@click.option("--plot", type=click.Path(), help="Write the cosines as a picture (.png, .svg, .pdf; extra plot).")
@click.option("--layers/--no-layers", default=True, help="Print the sizes by layer, too.", show_default=True)
@options(threads, as_json, quiet)
def compare(
    paths: tuple[str, ...],
    base: str | None,
    plot: str | None,
    layers: bool,
    threads: int | None,
    machine: bool,
    quiet: bool,
) -> None:
    """Compare task vectors by norms, cosines and signs.

    Prints sizes, also relative to the base, cosines and sign conflicts, for the whole vectors and by layer.
    """
    with progress(quiet or machine, "reading") as report:
        compared = measure(paths, base=base, threads=threads, progress=report)
    if plot:
        from taskvec.report.plots import cosine_heatmap

        cosine_heatmap(compared, plot)
    if machine:
        show_json(compared.as_dict())
    elif not quiet:
        _tables(compared, layers)


def _tables(compared: Comparison, layers: bool) -> None:
    from rich.console import Console

    console, overall = Console(), compared.whole
    table = _table("size", "vector", ("norm", "relative"))
    for name, norm, relative in zip(compared.names, overall.norms, overall.relative, strict=True):
        table.add_row(cell(name), f"{norm:.4g}", _share(relative))
    console.print(table)
    if len(compared.names) > 1:
        for title, matrix in (("cosine", overall.cosine), ("sign conflict", overall.sign_conflict)):
            table = _table(title, "", compared.names)
            for name, row in zip(compared.names, matrix, strict=True):
                table.add_row(cell(name), *(_number(value) for value in row))
            console.print(table)
    if layers:
        title = "norm by layer" if math.isnan(overall.relative[0]) else "relative size by layer"
        table = _table(title, "layer", compared.names)
        for layer, pairs in compared.layers.items():
            sizes = pairs.norms if math.isnan(overall.relative[0]) else pairs.relative
            table.add_row(cell(layer), *(f"{size:.4g}" for size in sizes))
        console.print(table)


def _table(title: str, first: str, columns: Iterable[str]) -> "Table":
    from rich.table import Table

    table = Table(title=title)
    for name in (first, *columns):
        table.add_column(cell(name), overflow="fold")  # a name that is cut short could be any of several
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{round(value, 3) + 0.0:.3f}"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3%}"


@click.command()
@click.argument("path")
@options(threads, as_json, quiet)
def verify(path: str, threads: int | None, machine: bool, quiet: bool) -> None:
    """Check that PATH still holds what taskvec wrote.

    Recomputes the digest of every tensor. The exit code is 1 if one differs.
    """
    from taskvec.saving.lineage import verify as recompute

    with progress(quiet or machine, "verifying") as report:
        verified = recompute(path, threads=threads, progress=report)
    if machine:
        show_json({"path": path, "whole": True, "tensors": verified.tensors, "bytes": verified.bytes})
    elif not quiet:
        say(verified)


@click.command()
@click.argument("path")
@as_json
def log(path: str, machine: bool) -> None:
    """Say what PATH was made from.

    Goes back to models that taskvec did not write.
    """
    from taskvec.saving.ancestry import walk
    from taskvec.saving.lineage import read

    record = read(resolve(path))
    if not record:
        raise FormatError(f"{path} has no lineage: taskvec did not write it")
    if machine:
        show_json({key: value for key, value in record.items() if key != "tensors"})
        return
    say(f"{Path(path).name} = {record['recipe']}")
    for flag in ("forced", "nonfinite"):
        if record.get(flag):
            say(f"  {flag}: {record[flag]}")
    if lost := record.get("ancestors_left_out"):
        say(f"  {lost} ancestors, the farthest ones, were left out of the lineage")
    for step in walk(record):
        _say_input(step)


def _say_input(step: "Step") -> None:
    """Print a line for an input, and if it was made by taskvec, a line that says how."""
    source, indent = step.source, "  " * min(1 + step.depth, DEEPEST)
    statistic = source.get("statistic")
    kind = f"{statistic} statistics" if statistic else "model" if source["mass"] else "task vector"
    say(f"{indent}{step.name}: {kind} {source.get('uri', '(in memory)')}  {source['fingerprint'][:16]}")
    if step.made:
        say(f"{indent}  = {step.made['recipe']}{'  (its inputs are above)' if step.again else ''}")
    elif "made_from" in source:
        say(f"{indent}  (made by taskvec; how was left out of the lineage)")
