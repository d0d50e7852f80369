"""The verbs that write: merge, plan, diff, negate, add, analogy. Each builds an expression and saves or plans it."""

import os
from pathlib import Path
from typing import Any

import click

from taskvec.algebra.weights import Weights
from taskvec.cli.common import (
    Made,
    as_json,
    laying_out,
    made,
    number,
    progress,
    reading,
    say,
    show_json,
    show_written,
    writing,
)
from taskvec.errors import FormatError, RecipeError
from taskvec.formats.header import names_one_file
from taskvec.methods import FUNCTIONS
from taskvec.notes import note
from taskvec.recipes.recipe import FUNCTIONS as RESERVED
from taskvec.recipes.recipe import load, written
from taskvec.saving.plan import plan as make_plan
from taskvec.sources.abilities import statistic_of

scale = click.option("--scale", default="1", show_default=True, metavar="λ", help="The coefficient λ.")


@click.command()
@reading
@writing
def merge(print_recipe: bool, **kwargs: Any) -> None:
    """Compute RECIPE and write the result.

    RECIPE is an expression, a file that holds one, or a YAML file of mergekit. NAME=URI says which model a name in it
    stands for: a file, a folder, or org/name on the hub. --set gives a value to a name that stands for a number.

    \b
    taskvec merge "base + 0.4*(math - base)" base=org/base math=org/base-math -o edited/
    taskvec merge "base + lam*only('*.mlp.*')*(math - base)" base=B math=M --set lam=0.3 -o edited/
    taskvec merge "base + ties(m - base, c - base, density=0.2)" base=B m=M c=C -o edited/
    taskvec merge recipe.py base=B -o edited/
    taskvec merge mergekit.yml -o edited/
    """
    recipe = _made(kwargs)
    kwargs["dtype"] = kwargs["dtype"] or recipe.dtype
    for text in recipe.notes:
        note(text)
    if print_recipe:
        say(written(recipe.weights), nl=False)
    else:
        _write(recipe.weights, chat_template=recipe.chat_template, **kwargs)


@click.command()
@reading
@laying_out
@as_json
def plan(print_recipe: bool, machine: bool, **kwargs: Any) -> None:
    """Show what `merge` would do, without doing it.

    Prints the passes over the data, the bytes, the files and the peak memory. Reads headers only.
    """
    recipe = _made(kwargs)
    kwargs["dtype"] = kwargs["dtype"] or recipe.dtype
    if print_recipe:
        say(written(recipe.weights), nl=False)
    else:
        _print_plan(recipe.weights, machine, **kwargs)


def _made(kwargs: dict[str, Any]) -> Made:
    """The expression that the arguments stand for. These are taken out of `kwargs`."""
    return made(*(kwargs.pop(key) for key in ("recipe", "sources", "settings", "methods", "document", "seed")))


@click.command()
@click.argument("tuned")
@click.argument("base")
@writing
def diff(tuned: str, base: str, **kwargs: Any) -> None:
    """Write the task vector τ = TUNED - BASE.

    It is stored in float32 unless --dtype says otherwise, with the fingerprint of BASE.
    """
    _write(_model(tuned, "TUNED").named("tuned") - _model(base, "BASE").named("base"), **kwargs)


@click.command()
@click.argument("base")
@click.argument("vector")
@scale
@writing
def negate(base: str, vector: str, scale: str, **kwargs: Any) -> None:
    """Forget a task: write BASE - λτ.

    VECTOR is a task vector, a LoRA, or a fine-tuned model.
    """
    ground = _model(base, "BASE").named("base")
    _write(ground - number("scale", scale) * _vector(vector, ground, "vector"), **kwargs)


@click.command()
@click.argument("base")
@click.argument("vectors", nargs=-1, required=True, metavar="VECTOR...")
@click.option("--scale", metavar="λ", help="The coefficient λ. [default: 1 for one vector, norm_matched for several]")
@writing
def add(base: str, vectors: tuple[str, ...], scale: str | None, **kwargs: Any) -> None:
    """Learn tasks: write BASE + λΣτ.

    Each VECTOR is a task vector, a LoRA, or a fine-tuned model. Without --scale a rule that needs no data chooses λ: 1
    for one vector, and for several the λ that makes their sum as long as one of them is on average (norm_matched,
    about 1/√n). `taskvec search` chooses λ on your data, which is better.
    """
    ground = _model(base, "BASE").named("base")
    taus = [_vector(uri, ground) for uri in vectors]
    if scale is None and len(taus) > 1:
        if not (kwargs["quiet"] or kwargs["machine"]):
            say("λ: without data the sum is given the mean norm of its vectors (norm_matched)", err=True)
        _write(ground + FUNCTIONS["norm_matched"](*taus), **kwargs)
    else:
        _write(ground + number("scale", scale or "1") * sum(taus, Weights({})), **kwargs)


@click.command()
@click.argument("base")
@click.option("--a", "a", required=True, metavar="VECTOR", help="The vector of task A.")
@click.option("--b", "b", required=True, metavar="VECTOR", help="The vector of task B.")
@click.option("--c", "c", required=True, metavar="VECTOR", help="The vector of task C.")
@scale
@writing
def analogy(base: str, a: str, b: str, c: str, scale: str, **kwargs: Any) -> None:
    """Make a model for a task D without data: A is to B as C to D.

    Writes BASE + λ(τ_C + τ_B - τ_A).
    """
    ground = _model(base, "BASE").named("base")
    tau = {name: _vector(uri, ground, name) for name, uri in {"a": a, "b": b, "c": c}.items()}
    _write(ground + number("scale", scale) * (tau["c"] + tau["b"] - tau["a"]), **kwargs)


def _model(uri: str, argument: str) -> Weights:
    """Load an argument that must be a model."""
    model = load(uri)
    if not model.mass and not any(map(statistic_of, model.terms)):
        raise RecipeError(f"{uri} is a task vector, and {argument} must be a model: were two arguments exchanged?")
    return model


def _vector(uri: str, base: Weights, name: str = "") -> Weights:
    """Load a task vector, or a fine-tuned model from which the base is subtracted."""
    weights = load(uri).named(name) if name else load(uri)
    return weights - base if weights.mass else weights


def _write(
    weights: Weights,
    *,
    out: str | None,
    dry_run: bool,
    machine: bool,
    quiet: bool,
    no_resume: bool,
    no_fsync: bool,
    **kwargs: Any,
) -> None:
    if dry_run:
        keys = ("like", "dtype", "shard_size", "ram", "threads")
        given = {k: kwargs[k] for k in keys}
        _print_plan(weights, machine, filename=_alone(out), durable=not no_fsync, **given)
        return
    if out is None:
        raise click.UsageError("Missing option '-o' / '--out': say where to write the output.")
    # numpy's OpenBLAS starts a thread for each core, which waits in a loop for 0.1 s; methods use one (blas.py).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from taskvec.saving.save import save

    like = _like(weights, kwargs.pop("like"))
    with progress(quiet or machine, "merging") as report:
        saved = save(weights, out, like=like, resume=not no_resume, durable=not no_fsync, progress=report, **kwargs)
    warning = f"NaN or Inf in {', '.join(saved.nonfinite)}" if saved.nonfinite else ""
    show_written(saved.path, saved.as_dict(), saved, machine, quiet, warning)


def _print_plan(weights: Weights, machine: bool, *, like: str | None, **kwargs: Any) -> None:
    todo = make_plan(weights, like=_like(weights, like), **kwargs)
    if machine:
        show_json(todo.as_dict())
    else:
        say(todo)


def _alone(out: str | None) -> str | None:
    """The name of an output that is one file; None if it is a folder."""
    return Path(out).name if out is not None and names_one_file(out) else None


def _like(weights: Weights, text: str | None) -> Weights | None:
    """The model that --like names: by a name in the recipe, or by a uri."""
    if text is None:
        return None
    by_name = {name: source for source, name in weights.names(RESERVED).items()}
    if text in by_name:
        return Weights({by_name[text]: 1})
    try:
        return load(text)
    except FormatError as error:
        raise FormatError(f"--like {text} is no name in the recipe, and {error}") from None
