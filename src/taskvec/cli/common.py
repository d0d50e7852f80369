"""What the verbs share: options, NAME=URI arguments, a progress bar, and the two ways to print (text and JSON)."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskvec.algebra.coefficients import Coefficient
from taskvec.algebra.weights import Weights
from taskvec.errors import RecipeError, TaskvecError
from taskvec.escapes import printable
from taskvec.formats.header import names_one_file
from taskvec.notes import so_far
from taskvec.recipes.recipe import load, parse

if TYPE_CHECKING:
    from rich.text import Text

Command = Callable[..., Any]


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several decorators as one. The options of the first are on top in the help."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


as_json = click.option("--json", "machine", is_flag=True, help="Print JSON instead of text.")


def _silence(context: click.Context, _: click.Parameter, value: bool) -> bool:
    """Remember --quiet in `meta`: the group of the verbs prints the notes, and cannot see the options of a verb."""
    context.meta[SILENT] = value
    return value


SILENT = "taskvec.silent"
quiet = click.option("-q", "--quiet", is_flag=True, callback=_silence, help="Print nothing but errors.")
threads = click.option(
    "--threads", type=click.IntRange(1), help="Threads (default: one or two for each core, at most 8)."
)
reading = options(
    click.argument("recipe"),
    click.argument("sources", nargs=-1, metavar="[NAME=URI]..."),
    click.option("--set", "settings", multiple=True, metavar="KNOB=NUMBER", help="Give a knob of the recipe a value."),
    click.option("--methods", metavar="FILE.py", help="Your own methods, for the recipe to call. The file is run."),
    click.option("--document", metavar="NAME", help="Which document of a mergekit file with several to make."),
    click.option(
        "--seed", type=int, help="Seed of DARE and DELLA in a mergekit file (default: its random_seed, or 0)."
    ),
    click.option("--print-recipe", is_flag=True, help="Print the recipe with all names replaced, and stop."),
)
laying_out = options(
    click.option("--like", metavar="NAME|URI", help="Model whose dtypes, config and tokenizer the output gets."),
    click.option("--dtype", help="Dtype of the output: float32, bfloat16, float16, ... (default: the model's)."),
    click.option("--shard-size", default="5GB", show_default=True, help="The size of the largest output file."),
    click.option("--ram", default="1GB", show_default=True, help="The memory that is never exceeded."),
    threads,
)
writing = options(
    click.option("-o", "--out", type=click.Path(), help="Where to write: a folder, or FILE.safetensors."),
    laying_out,
    click.option("--overwrite", is_flag=True, help="Replace the output if it exists, once the new one is complete."),
    click.option("--no-resume", is_flag=True, help="Start again instead of going on from an interrupted run."),
    click.option("--force", is_flag=True, help="Accept a vector from another base; the output records it."),
    click.option("--allow-nonfinite", is_flag=True, help="Accept NaN and Inf; the output records it."),
    click.option(
        "--no-fsync", is_flag=True, help="Do not flush to the disk: faster, but not safe against a power cut."
    ),
    click.option("--dry-run", is_flag=True, help="Print the plan and stop."),
    as_json,
    quiet,
)


def named(arguments: tuple[str, ...], form: str = "NAME=URI", any_name: bool = False) -> dict[str, str]:
    """("base=org/base", ...) -> {"base": "org/base"}. Names are identifiers, unless `any_name`. Raises RecipeError."""
    values: dict[str, str] = {}
    for argument in arguments:
        name, equals, uri = argument.partition("=")
        if not (equals and uri and (any_name or name.isidentifier())):
            raise RecipeError(f"{argument!r} is not {form}")
        if name in values:
            raise RecipeError(f"{name} is given twice")
        values[name] = uri
    return values


FILE = re.compile(r"[\w./\\~-]+\.(ya?ml|py|txt|recipe|json)")  # a text that is meant as the name of a file


def recipe_text(recipe: str) -> str:
    """The recipe itself, or the text of the file that it names."""
    try:
        is_file = len(recipe) < 4096 and Path(recipe).is_file()
    except (OSError, ValueError):
        is_file = False
    if not is_file:
        if FILE.fullmatch(recipe):
            raise RecipeError(f"{recipe} does not exist: give a recipe, or a file with one")
        return recipe
    if names_one_file(recipe):
        raise RecipeError(f'{recipe} is a checkpoint, not a recipe: write load("{recipe}"), or give it a name')
    try:
        return Path(recipe).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{recipe} cannot be read as a recipe: {error}") from None


@dataclass(frozen=True, slots=True)
class Made:
    """The expression that a recipe stands for, and what its file says about the output."""

    weights: Weights
    dtype: str | None = None
    chat_template: str | None = None
    notes: tuple[str, ...] = ()


def made(
    recipe: str,
    sources: tuple[str, ...],
    settings: tuple[str, ...],
    methods: str | None,
    document: str | None,
    seed: int | None,
) -> Made:
    """What the recipe given to `merge` stands for. It is a text, a file that holds one, or a YAML file of mergekit."""
    if not (recipe.endswith((".yml", ".yaml")) and Path(recipe).is_file()):
        if document is not None:
            raise RecipeError(f"--document {document}: the recipe is no file of mergekit's, which alone has documents")
        return Made(weights_of(recipe, sources, settings, methods))
    if settings or methods:
        raise RecipeError("--set and --methods are for recipes; a file of mergekit's has neither knobs nor functions")
    from taskvec.recipes.mergekit import read

    places = named(sources, "MODEL=URI", any_name=True)
    merges = read(Path(recipe), places, seed)
    text = Path(recipe).read_text(encoding="utf-8")
    if unused := [name for name in places if name not in text]:
        raise RecipeError(f"{recipe} names no model {', '.join(unused)}: MODEL=URI says where one of its models lies")
    by_name = {merge.name: merge for merge in merges}
    if document is None and len(merges) == 1:
        document = merges[0].name
    if document not in by_name:
        raise RecipeError(
            f"{recipe} has no document {document or 'without a name'}: give one of them", map(str, by_name)
        )
    wanted = by_name[document]
    return Made(wanted.weights, wanted.dtype, wanted.chat_template, wanted.notes)


def weights_of(recipe: str, sources: tuple[str, ...], settings: tuple[str, ...], methods: str | None) -> Weights:
    """The expression that the arguments of `merge` stand for, with its knobs bound. An error lists all bad sources."""
    given: dict[str, Any] = {}
    if methods:
        from taskvec.recipes.userfile import methods_in

        given |= methods_in(methods)
    problems = []
    for name, uri in named(sources).items():
        try:
            given[name] = load(uri)
        except TaskvecError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise TaskvecError(
            problems[0] if len(problems) == 1 else "some sources cannot be read:", problems[1:] and problems
        )
    family = parse(recipe_text(recipe), **given)
    return family.bind(**{name: number(name, text) for name, text in named(settings, "KNOB=NUMBER").items()})


def number(name: str, text: str) -> Coefficient:
    """The value that a number such as 0.3, -1 or 1/3 has in a recipe. `name` is for the error. Raises RecipeError."""
    top, slash, bottom = text.partition("/")
    try:
        value = Coefficient.of(int(top) if _is_whole(top) else float(top))
        return value / (int(bottom) if _is_whole(bottom) else float(bottom)) if slash else value
    except ValueError:
        raise RecipeError(f"{name}={text}: {text!r} is not a number") from None


def _is_whole(text: str) -> bool:
    return text.strip().lstrip("+-").isdigit()


def show_json(value: dict[str, Any]) -> None:
    """Print one JSON document to stdout, with the notes so far if there are any."""
    if notes := so_far():
        value = value | {"notes": list(dict.fromkeys([*value.get("notes", ()), *notes]))}
    click.echo(json.dumps(value, indent=2, default=str).replace("\x7f", "\\u007f"))


def say(what: Any, err: bool = False, nl: bool = True) -> None:
    """Print a text, with escapes for all characters that steer a terminal.

    Names from files may stand in any text, so every text is printed by this function or shown in a `cell`. JSON has
    escapes of its own.
    """
    click.echo(printable(str(what)), err=err, nl=nl)


def cell(text: str) -> "Text":
    """A cell of a table, in which neither square brackets nor control characters mean anything."""
    from rich.text import Text

    return Text(printable(text).replace("\n", "\\n"))


def show_note(text: str) -> None:
    """Print a note to stderr."""
    say(f"note: {text}", err=True)


@contextmanager
def whole(output: Any) -> Iterator[None]:
    """A block that prints about an output that is complete. If printing fails, the command has not failed."""
    try:
        yield
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            with suppress(OSError):
                reason = error.strerror or error
                show_note(f"{output} is whole and in its place; the rest could not be printed: {reason}")


def show_written(output: Any, value: dict[str, Any], text: Any, machine: bool, quiet: bool, warning: str = "") -> None:
    """Print what a verb says of its output: `value` with --json, else `text` and a warning, if there is one."""
    with whole(output):
        if machine:
            show_json(value)
        elif not quiet:
            say(text)
            if warning:
                say(f"warning: {warning}", err=True)


@contextmanager
def progress(silent: bool, label: str, examples: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """A bar with bytes, speed and time left, or with the `examples` done, if stderr is a terminal."""
    if silent or not sys.stderr.isatty():
        yield None
        return
    from rich import progress as rich
    from rich.console import Console

    counts = (rich.MofNCompleteColumn(),) if examples else (rich.DownloadColumn(), rich.TransferSpeedColumn())
    columns = (rich.TextColumn(label), rich.BarColumn(), *counts, rich.TimeRemainingColumn())
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
