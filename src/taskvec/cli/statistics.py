"""The verb that runs a model on data: stats."""

from typing import Any

import click

from taskvec.cli.common import as_json, options, progress, quiet, show_written


@click.command()
@click.argument("model")
@click.option("--data", required=True, metavar="FILE.py:FUNCTION", help="Your model and data. The file is run.")
@click.option("--kind", required=True, type=click.Choice(["fisher", "gram"]), help="For fisher(...) or regmean(...).")
@click.option("-o", "--out", required=True, type=click.Path(), help="Write the statistics to this FILE.safetensors.")
@click.option("--examples", type=click.IntRange(1), help="Stop after so many examples (default: use all).")
@click.option(
    "--labels", default="exact", show_default=True, type=click.Choice(["exact", "sampled", "given"]),
    help="The labels of a Fisher information: all classes, one drawn for each example, or the data's `targets`.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="The seed of the labels that are drawn.")
@click.option("--dtype", default="float32", show_default=True, help="The dtype of the output.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists, once the new one is complete.")
@options(as_json, quiet)
def stats(model: str, machine: bool, quiet: bool, **kwargs: Any) -> None:
    """Compute statistics of MODEL on your data.

    The merge methods fisher(...) and regmean(...) weigh models by them. Your function gets the path of MODEL and
    returns (module, batches): a torch module in eval mode that holds MODEL, and dicts. The module is called with each
    dict and must return logits, or an object with .logits. `python -m pydoc taskvec.live.stats` has the whole contract.

    \b
    taskvec stats runs/math --data data.py:math --kind fisher --examples 256 -o math-fisher.safetensors
    taskvec merge "fisher(a, b, fa, fb)" a=A b=B fa=A-fisher.safetensors fb=B-fisher.safetensors -o merged/
    """
    from taskvec.live.stats import stats as compute

    with progress(quiet or machine, "examples", examples=True) as report:
        written = compute(model, progress=report, **kwargs)
    more = f" and {len(written.unreached) - 5} more" if len(written.unreached) > 5 else ""
    warning = f"no example reached {', '.join(written.unreached[:5])}{more}" if written.unreached else ""
    show_written(written.path, written.as_dict(), written, machine, quiet, warning)
