"""The verb that matches the hidden units of two models: align."""

import click

from taskvec.cli.common import as_json, options, progress, quiet, show_written
from taskvec.recipes.recipe import load


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("-o", "--out", required=True, type=click.Path(), help="Write the permutations to this FILE.safetensors.")
@click.option(
    "--spec", metavar="NAME|FILE.json", help="Rules of which units move together: llama, bert, gpt2, or your file."
)
@click.option("--heads", type=click.IntRange(1), help="Number of attention heads (of keys), if no config.json says it.")
@click.option("--residual", is_flag=True, help="Permute the residual stream too, for models of other initialisations.")
@click.option("--seed", default=0, show_default=True, help="Seed of the order in which groups of units are matched.")
@click.option("--sweeps", default=100, show_default=True, type=click.IntRange(1), help="Largest number of sweeps.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@options(as_json, quiet)
def align(
    a: str,
    b: str,
    out: str,
    spec: str | None,
    heads: int | None,
    residual: bool,
    seed: int,
    sweeps: int,
    overwrite: bool,
    machine: bool,
    quiet: bool,
) -> None:
    """Match the hidden units of model B with those of model A.

    Git Re-Basin finds the order of B's units in which they are most like A's. A merge then permutes B.

    \b
    taskvec align org/one org/other -o perm.safetensors
    taskvec merge "0.5*a + 0.5*permute(b, p)" a=org/one b=org/other p=perm.safetensors -o mean/
    """
    from taskvec.analysis.match import match
    from taskvec.saving.outputs import Destination

    Destination.of(out, overwrite).require_writable()  # before the work
    with progress(quiet or machine, "matching") as report:
        matched = match(
            load(a), load(b), spec=spec, heads=heads, residual=residual, seed=seed, sweeps=sweeps, progress=report
        )
    matched.save(out, overwrite=overwrite)
    show_written(out, {"path": out, **matched.as_dict()}, f"{out}: {matched}", machine, quiet)
