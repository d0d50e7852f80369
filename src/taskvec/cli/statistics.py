"""The verb that runs a model: stats. It calls one function."""

from typing import Any

import click

from taskvec.cli.common import as_json, options, progress, quiet, show_written


@click.command()
@click.argument("model")
@click.option("--data", required=True, metavar="FILE.py:FUNCTION", help="Your model and data. Runs the file.")
@click.option(
    "--kind", required=True, type=click.Choice(["fisher", "gram"]), help="fisher(...) or regmean(...) takes it."
)
@click.option("-o", "--out", required=True, type=click.Path(), help="Output: FILE.safetensors.")
@click.option("--examples", type=click.IntRange(1), help="Stop after so many (default: all that the data have).")
@click.option(
    "--labels", default="exact", show_default=True, type=click.Choice(["exact", "sampled", "given"]),
    help="Of a Fisher information: all classes, one drawn an example, or the data's `targets`.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of the labels that are sampled.")
@click.option("--dtype", default="float32", show_default=True, help="Output dtype.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists, once the new one is whole.")
@options(as_json, quiet)
def stats(model: str, machine: bool, quiet: bool, **kwargs: Any) -> None:
    """Compute statistics of MODEL on data, for the merge methods that weigh models by them.

    The function gets MODEL's path and returns (module, batches): a torch module in eval mode that holds MODEL, and
    dicts that it is called with, which gives .logits. `pydoc taskvec.live.stats` has the whole contract.

    \b
    taskvec stats runs/math --data data.py:math --kind fisher --examples 256 -o math-fisher.safetensors
    taskvec merge "fisher(a, b, fa, fb)" a=A b=B fa=A-fisher.safetensors fb=B-fisher.safetensors -o merged/
    """
    from taskvec.live.stats import stats as compute

    with progress(quiet or machine, "examples", examples=True) as report:
        found = compute(model, progress=report, **kwargs)
    more = f" and {len(found.unreached) - 5} more" if len(found.unreached) > 5 else ""
    warning = f"no example reached {', '.join(found.unreached[:5])}{more}" if found.unreached else ""
    show_written(found.path, found.as_dict(), found, machine, quiet, warning)
