"""The verbs that judge models: eval, search, sweep. Each calls one function."""

from typing import Any

import click

from taskvec.cli.common import as_json, named, options, progress, quiet, show_json, weights_of
from taskvec.errors import RecipeError

judged = options(
    click.argument("recipe"),
    click.argument("sources", nargs=-1, metavar="[NAME=URI]..."),
    click.option("--evaluate", required=True, metavar="FILE", help="Tasks in FILE.yml, or your FILE.py:FUNCTION."),
    click.option("--methods", metavar="FILE.py", help="Your own methods, for the recipe to call. Runs the file."),
)
tried = options(
    click.option("--knob", "knobs", multiple=True, metavar="NAME=VALUES", help="0:1:0.05, 0:1 or 0.1,0.3,0.5."),
    click.option(
        "--objective",
        multiple=True,
        default=['mean("*")'],
        show_default=True,
        help="Arithmetic on metrics; the first decides.",
    ),
    click.option("--reference", "references", multiple=True, metavar="NAME=RECIPE", help="A model to compare with."),
    click.option("--journal", type=click.Path(), metavar="FILE", help="Every trial, and where to go on from."),
    as_json,
    quiet,
)


@click.command("eval")
@judged
@click.option("--set", "settings", multiple=True, metavar="KNOB=NUMBER", help="Bind a knob of the recipe.")
@click.option(
    "--split",
    default="validation",
    show_default=True,
    type=click.Choice(["validation", "test"]),
    help="Which examples.",
)
@as_json
def evaluate(recipe: str, sources: tuple[str, ...], evaluate: str, split: str, machine: bool, **kwargs: Any) -> None:
    """Judge the model that RECIPE stands for. No model is written.

    \b
    taskvec eval "base + 0.4*(math - base)" base=org/base math=org/base-math --evaluate tasks.py:texts
    """
    from taskvec.evals import evaluator_from, scored

    weights = weights_of(recipe, sources, kwargs["settings"], kwargs["methods"])
    found = scored(evaluator_from(evaluate), weights, split)
    if machine:
        show_json(found.as_dict())
    else:
        click.echo(found)


@click.command()
@judged
@tried
@click.option("--minimise", is_flag=True, help="Make the objective small, not large.")
@click.option("--constraint", "constraints", multiple=True, help='Such as "control >= 0.95*base.control".')
@click.option(
    "--rule", default="best", show_default=True, type=click.Choice(["best", "largest"]), help="Which to take."
)
@click.option("--early", is_flag=True, help="With --rule largest: from the largest down, to the first that passes.")
@click.option(
    "--replicate", "replicates", multiple=True, metavar="NAME=URI[,...]", help="The same models from another seed."
)
@click.option("--no-race", is_flag=True, help="Judge every candidate on all examples, also hopeless ones.")
@click.option(
    "--sampler", default="grid", show_default=True, help="grid, random, greedy, forward, tpe, cmaes or nsga2."
)
@click.option("--trials", type=click.IntRange(1), help="How many (default: the whole grid).")
@click.option("--seed", default=0, show_default=True, help="Of the sampler.")
@click.option("--no-test", is_flag=True, help="Do not judge the chosen model on test examples.")
@click.option("-o", "--out", type=click.Path(), help="Write the chosen model there.")
def search(out: str | None, no_test: bool, no_race: bool, **kwargs: Any) -> None:
    """Choose the numbers of RECIPE on validation examples, and judge the choice on test examples, once.

    Names without a value are knobs, each with its --knob. Stopped and called again with the same --journal it goes on;
    called several times at once with one journal, the calls share the work.

    \b
    taskvec search "base + lam*(a - base) + lam*(b - base)" base=B a=A b=C \\
        --evaluate tasks.py:texts --knob lam=0:1:0.05 --journal sum.jsonl -o merged/
    taskvec search "base - lam*(toxic - base)" base=B toxic=T --evaluate tasks.py:texts --knob lam=0:1:0.05 \\
        --rule largest --constraint "control >= 0.95*base.control"
    """
    found = _searched(kwargs | {"race": not no_race}, test=not no_test)
    if out and found.chosen:
        from taskvec.engine import save

        save(found.weights, out)


@click.command()
@judged
@tried
def sweep(**kwargs: Any) -> None:
    """Judge RECIPE on validation examples at all values of its knobs: how much do the numbers matter?

    Prints every metric against the knob, and how wide the plateau is on which the objective is within one point of its
    best.

    \b
    taskvec sweep "base + lam*(a - base)" base=B a=A --evaluate tasks.py:texts --knob lam=-0.5:2:0.1
    """
    _searched(kwargs, test=False, table=True)


def _searched(kwargs: dict[str, Any], test: bool, table: bool = False) -> Any:
    from taskvec.evals import evaluator_from
    from taskvec.searching import search as find

    machine, silent = kwargs.pop("machine"), kwargs.pop("quiet")
    sources, methods = kwargs.pop("sources"), kwargs.pop("methods")
    weights = weights_of(kwargs.pop("recipe"), sources, (), methods)
    given = named(kwargs.pop("references"), "NAME=RECIPE")
    references = {name: weights_of(text, _used(text, sources), (), methods) for name, text in given.items()}
    kwargs["replicates"] = [named(text.split(","), "NAME=URI") for text in kwargs.pop("replicates", ())]
    evaluate, knobs = evaluator_from(kwargs.pop("evaluate")), named(kwargs.pop("knobs"), "NAME=VALUES")
    with progress(silent or machine, "trials", examples=True) as report:
        found = find(weights, evaluate, knobs, references=references, test=test, progress=report, **kwargs)
    if machine:
        show_json(found.as_dict())
    elif not silent:
        click.echo(found.table() if table else found)
    return found


def _used(text: str, sources: tuple[str, ...]) -> tuple[str, ...]:
    """The NAME=URI that a reference model's recipe names."""
    import ast

    try:
        names = {node.id for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Name)}
    except SyntaxError:
        raise RecipeError(f"--reference {text!r} is no recipe") from None
    return tuple(source for source in sources if source.partition("=")[0] in names)
