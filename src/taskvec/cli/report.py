"""The verb `report` shows what searches found: as a page, as pictures or as text, from their journals alone."""

import re
from pathlib import Path

import click

from taskvec.cli.common import as_json, quiet, say, show_json, whole


@click.command()
@click.argument("journals", nargs=-1, required=True, metavar="JOURNAL...")
@click.option("-o", "--out", type=click.Path(), metavar="FILE.html", help="Write a page to this file.")
@click.option("--plots", type=click.Path(), metavar="FOLDER", help="Write the charts as pictures there (extra plot).")
@click.option("--format", "suffix", default="png", show_default=True, help="Format of the pictures: png, svg or pdf.")
@click.option("--overwrite", is_flag=True, help="Replace a page that exists.")
@as_json
@quiet
def report(
    journals: tuple[str, ...],
    out: str | None,
    plots: str | None,
    suffix: str,
    overwrite: bool,
    machine: bool,
    quiet: bool,
) -> None:
    """Show what searches found, from their journals.

    Writes a page (-o) or pictures (--plots), or prints a text.

    \b
    taskvec report sum.jsonl -o sum.html
    taskvec report sum.jsonl --plots figures/ --format svg
    """
    from taskvec.saving.outputs import Destination
    from taskvec.saving.staging import write_file
    from taskvec.searching.records import read_record

    if out:
        _check(Path(out), journals, overwrite)
    records = {name: read_record(path) for name, path in _names(journals).items()}
    written = []
    if out:
        from taskvec.report.page import page

        text = page(records).encode("utf-8", "backslashreplace")
        write_file(Destination.of_file(out, overwrite), text)
        written.append(Path(out))
    if plots:
        from taskvec.report.plots import figures

        written += [path for name, record in records.items() for path in figures(record, Path(plots), name, suffix)]
    if machine:
        show_json({name: record.as_dict() for name, record in records.items()})
    elif not written:
        say("\n\n".join(f"{name}\n{record}" if len(records) > 1 else str(record) for name, record in records.items()))
    elif not quiet:
        with whole(", ".join(map(str, written))):
            for path in written:
                say(path)


def _check(out: Path, journals: tuple[str, ...], overwrite: bool) -> None:
    """Raise OutputError if the page would take the place of something else."""
    from taskvec.errors import OutputError

    if out.is_dir():
        raise OutputError(f"{out} is a folder: name a file in it")
    if not out.parent.is_dir():
        raise OutputError(f"{out} cannot be written: {out.parent} is not a folder")
    if any(Path(path).exists() and out.exists() and out.samefile(path) for path in journals):
        raise OutputError(f"{out} is a journal, and the page would take its place: take another name")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists: take another name, or --overwrite")


def _names(journals: tuple[str, ...]) -> dict[str, str]:
    """{short name: journal}. The names become parts of file names, so they have no slashes. A journal in a database is
    called by the part of its URL after the #."""
    by_name: dict[str, str] = {}
    for path in journals:
        text = path.partition("#")[2] or "journal" if "://" in path else Path(path).stem
        plain = re.sub(r"[^\w.-]", "_", text)
        name, k = plain, 2
        while name in by_name:
            name, k = f"{plain}-{k}", k + 1
        by_name[name] = path
    return by_name
