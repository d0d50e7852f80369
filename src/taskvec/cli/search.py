"""The verbs that judge models: eval, search, sweep, learn and interference. Each of them calls one function."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click

from taskvec.cli.common import as_json, named, options, progress, quiet, say, show_json, weights_of
from taskvec.errors import RecipeError
from taskvec.saving.outputs import Destination

SWEEP, SWEEPS = "-0.5:2:0.1", "0:1.5:0.25"  # default values in a sweep: of a single knob, and of each of several knobs
LIFELINE = "TASKVEC_LIFELINE"  # the variable that gives a helper the pipe that closes when the main process ends
judged = options(
    click.argument("recipe"),
    click.argument("sources", nargs=-1, metavar="[NAME=URI]..."),
    click.option("--evaluate", required=True, metavar="FILE", help="Tasks in FILE.yml, or your FILE.py:FUNCTION."),
    click.option("--methods", metavar="FILE.py", help="Your own methods, for the recipe to call. The file is run."),
)
tried = options(
    click.option(
        "--knob", "knobs", multiple=True, metavar="NAME=VALUES", help="Values of a knob: 0:1:0.05, 0:1 or 0.1,0.3."
    ),
    click.option(
        "--objective",
        multiple=True,
        default=['mean("*")'],
        show_default=True,
        help="What to make large: arithmetic on metrics. Of several the first decides.",
    ),
    click.option(
        "--reference", "references", multiple=True, metavar="NAME=RECIPE", help="Another model to compare with."
    ),
    click.option("--journal", metavar="FILE", help="Keep trials in this file or database, and go on from it."),
    as_json,
    quiet,
)


@click.command("eval")
@judged
@click.option("--set", "settings", multiple=True, metavar="KNOB=NUMBER", help="Give a knob of the recipe a value.")
@click.option(
    "--split",
    default="validation",
    show_default=True,
    type=click.Choice(["validation", "test"]),
    help="Which examples to use.",
)
@as_json
def evaluate(recipe: str, sources: tuple[str, ...], evaluate: str, split: str, machine: bool, **kwargs: Any) -> None:
    """Judge the model that RECIPE stands for. No model is written.

    \b
    taskvec eval "base + 0.4*(math - base)" base=org/base math=org/base-math --evaluate tasks.py:texts
    """
    from taskvec.evals import evaluator_from, scored

    weights = weights_of(recipe, sources, kwargs["settings"], kwargs["methods"])
    scores = scored(evaluator_from(evaluate), weights, split)
    if machine:
        show_json(scores.as_dict())
    else:
        say(scores)


@click.command()
@judged
@tried
@click.option("--minimise", is_flag=True, help="Make the objective small, not large.")
@click.option("--constraint", "constraints", multiple=True, help='A condition, such as "control >= 0.95*base.control".')
@click.option(
    "--rule",
    default="best",
    show_default=True,
    type=click.Choice(["best", "largest"]),
    help="Take the best objective, or the largest knob.",
)
@click.option("--early", is_flag=True, help="With --rule largest: begin at the largest, end at the first that passes.")
@click.option(
    "--replicate", "replicates", multiple=True, metavar="NAME=URI[,...]", help="The same models from another seed."
)
@click.option("--no-race", is_flag=True, help="Judge every candidate on all examples, even one that has no chance.")
@click.option(
    "--sampler", default="grid", show_default=True, help="One of grid, random, greedy, forward, tpe, cmaes and nsga2."
)
@click.option("--trials", type=click.IntRange(1), help="The number of candidates (default: the whole grid).")
@click.option("--seed", default=0, show_default=True, help="The seed of the sampler.")
@click.option("--no-test", is_flag=True, help="Do not judge the chosen model on test examples.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1), help="Processes that share the trials.")
@click.option("-o", "--out", type=click.Path(), help="Write the chosen model to this folder or file.")
def search(out: str | None, no_test: bool, no_race: bool, jobs: int, **kwargs: Any) -> None:
    """Choose the knobs of RECIPE by validation examples.

    The chosen model is then judged on test examples, once. Names of RECIPE without a value are knobs, and --knob gives
    each of them its values ("a_*=0:1" is for all whose names fit). A search with a --journal goes on if it is called
    again after it was stopped, and several calls with one journal share the work.

    \b
    taskvec search "base + lam*(a - base) + lam*(b - base)" base=BASE a=A b=B \\
        --evaluate tasks.py:texts --knob lam=0:1:0.05 --journal sum.jsonl -o merged/
    taskvec search "base - lam*(toxic - base)" base=B toxic=T --evaluate tasks.py:texts --knob lam=0:1:0.05 \\
        --rule largest --constraint "control >= 0.95*base.control"
    """
    if out:
        Destination.of(out).require_writable()  # before the work
    with _helped(jobs, kwargs) as journal:
        result = _searched(kwargs | {"race": not no_race, "journal": journal}, test=not no_test)
    if out and result.chosen:
        from taskvec.saving.save import save

        save(result.weights, out)


@click.command()
@judged
@tried
def sweep(**kwargs: Any) -> None:
    """Judge RECIPE at all values of its knobs.

    Prints every metric on validation examples against the knob, and how wide the plateau is on which the objective is
    within one point of its best. A knob without --knob runs from -0.5 to 2, and each of several knobs from 0 to 1.5.
    With a --journal, `taskvec report` draws the curves, and a heat map for two knobs.

    \b
    taskvec sweep "base + lam*(a - base)" base=B a=A --evaluate tasks.py:texts --knob lam=-0.5:2:0.1
    """
    _searched(kwargs, test=False, table=True)


@click.command()
@judged
@click.option(
    "--loss", default="entropy", show_default=True, type=click.Choice(["entropy", "labels"]), help="The loss."
)
@click.option("--start", default=0.3, show_default=True, help="The value at which all knobs begin.")
@click.option("--steps", default=500, show_default=True, type=click.IntRange(1), help="The number of steps of Adam.")
@click.option("--rate", default=0.001, show_default=True, help="The learning rate.")
@click.option("--clamp", default="0:1", show_default=True, metavar="LOW:HIGH", help="Interval of the knobs, or none.")
@click.option("--journal", type=click.Path(), metavar="FILE", help="Keep the results in this file, for `report`.")
@click.option("-o", "--out", type=click.Path(), help="Write the model to this folder or file.")
@as_json
@quiet
def learn(recipe: str, sources: tuple[str, ...], evaluate: str, out: str | None, **kwargs: Any) -> None:
    """Find the knobs of RECIPE by gradient.

    The knobs are learned on the validation examples of tasks in a file, and the model is judged on the test examples.
    --loss entropy is the entropy of the model's predictions, as in AdaMerging, and needs no labels. --loss labels is
    cross-entropy on few labels, as in aTLAS; for a language model it is the loss on its texts. layerwise(v, "NAME") in
    RECIPE makes a knob for each layer of v.

    \b
    taskvec learn "base + layerwise(a - base, 'a') + layerwise(b - base, 'b')" base=BASE a=A b=B \\
        --evaluate tasks.yml -o merged/
    """
    from taskvec.evals.suite import suite_from
    from taskvec.live.learn import learn as find
    from taskvec.searching.search import search as judge

    if out:
        Destination.of(out).require_writable()  # before the work
    machine, silent, journal = kwargs["machine"], kwargs["quiet"], kwargs["journal"]
    weights, suite = weights_of(recipe, sources, (), kwargs["methods"]), suite_from(evaluate)
    clamp = None if kwargs["clamp"] == "none" else _ends(kwargs["clamp"])
    module, loss = suite.learned(weights, labels=kwargs["loss"] == "labels")
    with progress(silent or machine, "steps", examples=True) as report:
        learned = find(
            weights, module, loss, start=kwargs["start"], steps=kwargs["steps"], rate=kwargs["rate"], clamp=clamp,
            progress=report,
        )  # fmt: skip
    judged = judge(weights, suite, {name: [value] for name, value in learned.knobs.items()}, journal=journal)
    if out:
        from taskvec.saving.save import save

        save(judged.weights, out)
    if machine:
        show_json(learned.as_dict() | judged.as_dict())
    elif not silent:
        say(f"{learned}\n\n{judged}")


def _ends(text: str) -> tuple[float, float]:
    """The two ends of a range such as "0:1"."""
    from taskvec.searching.spaces import Space

    space = Space.of(text, "--clamp")
    return space.low, space.high


@click.command()
@click.argument("base")
@click.argument("first")
@click.argument("second")
@click.option("--evaluate", required=True, metavar="FILE", help="Tasks in FILE.yml, or your FILE.py:FUNCTION.")
@click.option("--tasks", required=True, metavar="FIRST,SECOND", help="The tasks (metrics) of the two vectors.")
@click.option("--alphas", default="-1:2:0.5", show_default=True, metavar="VALUES", help="Values of both coefficients.")
@click.option("--journal", metavar="FILE", help="Keep judgements in this file or database, and go on from it.")
@click.option("--plot", type=click.Path(), metavar="FILE", help="Write the heat map as a picture (.png, .svg, .pdf).")
@as_json
@quiet
def interference(base: str, first: str, second: str, evaluate: str, machine: bool, quiet: bool, **kwargs: Any) -> None:
    """Measure how much two vectors disturb one another.

    Prints the disentanglement error ξ of the vectors FIRST and SECOND on BASE, and what each gains alone and together,
    on validation examples. Each is a task vector, a LoRA, or a fine-tuned model.

    \b
    taskvec interference org/base math.safetensors code.safetensors --evaluate tasks.yml --tasks gsm,humaneval
    """
    from taskvec.evals import evaluator_from
    from taskvec.recipes.recipe import load
    from taskvec.searching.interference import disentanglement

    ground = load(base)
    tau_first, tau_second = (tau - ground if tau.mass else tau for tau in map(load, (first, second)))
    plot, tasks = kwargs.pop("plot"), kwargs.pop("tasks").split(",")
    with progress(quiet or machine, "judgements", examples=True) as report:
        judge = evaluator_from(evaluate)
        result = disentanglement(ground, tau_first, tau_second, judge, tasks, progress=report, **kwargs)
    if plot:
        from taskvec.report.plots import disentanglement_heatmap

        disentanglement_heatmap(result, plot)
    if machine:
        show_json(result.as_dict())
    elif not quiet:
        say(result)


@contextmanager
def _helped(jobs: int, kwargs: dict[str, Any]) -> Iterator[str | None]:
    """A block with the journal that all jobs share. If there are several jobs, helper processes run while it lasts."""
    if jobs == 1:
        _end_with_parent()
        yield kwargs["journal"]
        return
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    os.environ.setdefault("OMP_NUM_THREADS", threads)  # for torch, which is not imported yet
    with tempfile.TemporaryDirectory(prefix="taskvec-") as folder:
        journal = kwargs["journal"] or str(Path(folder) / "journal.jsonl")
        words = [*_without_out(sys.argv[1:]), "--journal", journal, "--jobs", "1", "--no-test", "--quiet"]
        ours, theirs = os.pipe()  # nobody writes to this pipe: it closes when this process ends, in whatever way
        command, environment = [sys.executable, "-m", "taskvec", *words], {**os.environ, LIFELINE: str(ours)}
        helpers = [
            subprocess.Popen(command, stdout=subprocess.DEVNULL, pass_fds=[ours], env=environment)
            for _ in range(jobs - 1)
        ]
        try:
            yield journal
        finally:
            for helper in helpers:
                helper.terminate()
                helper.wait()
            os.close(ours)
            os.close(theirs)


def _end_with_parent() -> None:
    """If this process is a helper, let it end when the process that it helps has ended, even by a kill."""
    line = os.environ.pop(LIFELINE, None)  # taken out, so that no process started from here takes itself for a helper
    if line is None:
        return

    def wait() -> None:
        with suppress(OSError):
            os.read(int(line), 1)  # returns when the pipe is closed
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="taskvec-lifeline").start()


def _without_out(words: list[str]) -> list[str]:
    """The words of a command line without --out and --json: a helper process writes no model and prints nothing."""
    kept, skip = [], False
    for word in words:
        if skip or word == "--json" or word.startswith("--out="):
            skip = False
        elif word in ("-o", "--out"):
            skip = True
        else:
            kept.append(word)
    return kept


def _searched(kwargs: dict[str, Any], test: bool, table: bool = False) -> Any:
    from taskvec.evals import evaluator_from
    from taskvec.searching.search import search as find

    machine, silent = kwargs.pop("machine"), kwargs.pop("quiet")
    sources, methods = kwargs.pop("sources"), kwargs.pop("methods")
    weights = weights_of(kwargs.pop("recipe"), sources, (), methods)
    given = named(kwargs.pop("references"), "NAME=RECIPE")
    references = {name: weights_of(text, _used(text, sources), (), methods) for name, text in given.items()}
    kwargs["replicates"] = [named(text.split(","), "NAME=URI") for text in kwargs.pop("replicates", ())]
    evaluate, knobs = evaluator_from(kwargs.pop("evaluate")), named(kwargs.pop("knobs"), "NAME=VALUES", any_name=True)
    if table:
        ranges = SWEEP if len(weights.knobs) == 1 else SWEEPS
        knobs |= {name: ranges for name in weights.knobs if not any(fnmatchcase(name, given) for given in knobs)}
    with progress(silent or machine, "trials", examples=True) as report:
        result = find(weights, evaluate, knobs, references=references, test=test, progress=report, **kwargs)
    if machine:
        show_json(result.as_dict())
    elif not silent:
        say(result.table() if table else result)
    return result


def _used(text: str, sources: tuple[str, ...]) -> tuple[str, ...]:
    """The NAME=URI arguments that the recipe of a reference model uses."""
    import ast

    try:
        names = {node.id for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Name)}
    except SyntaxError:
        raise RecipeError(f"--reference {text!r} is no recipe") from None
    return tuple(source for source in sources if source.partition("=")[0] in names)
