"""The verb that aligns: which order of one model's hidden units is most like another's."""

import click

from taskvec.cli.common import as_json, options, progress, quiet, show_written
from taskvec.recipes.recipe import load


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("-o", "--out", required=True, type=click.Path(), help="Output: FILE.safetensors with the permutations.")
@click.option("--spec", metavar="NAME|FILE.json", help="Which units move together: llama, bert, gpt2, or your own.")
@click.option("--heads", type=click.IntRange(1), help="Attention heads (of keys), where no config.json says how many.")
@click.option("--residual", is_flag=True, help="Permute the residual stream too (models of other initialisations).")
@click.option("--seed", default=0, show_default=True, help="Draws the order in which groups of units are matched.")
@click.option("--sweeps", default=100, show_default=True, type=click.IntRange(1), help="Most sweeps over the groups.")
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
    """Find the order of B's hidden units that is most like A's (Git Re-Basin), for a merge to permute B.

    \b
    taskvec align org/one org/other -o perm.safetensors
    taskvec merge "0.5*a + 0.5*permute(b, p)" a=org/one b=org/other p=perm.safetensors -o mean/
    """
    from taskvec.analysis.match import match
    from taskvec.saving.outputs import Destination

    Destination.of(out, overwrite).require_writable()  # before the work
    with progress(quiet or machine, "matching") as report:
        found = match(
            load(a), load(b), spec=spec, heads=heads, residual=residual, seed=seed, sweeps=sweeps, progress=report
        )
    found.save(out, overwrite=overwrite)
    show_written(out, {"path": out, **found.as_dict()}, f"{out}: {found}", machine, quiet)
