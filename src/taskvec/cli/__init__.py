"""The command line: a thin command for each verb. Nothing heavy is imported before a command runs.

common.py      what the verbs share: options, NAME=URI arguments, a progress bar, and the two ways to print
edit.py        the verbs that write: merge, plan, diff, negate, add, analogy
search.py      the verbs that judge models: eval, search, sweep, learn, interference
statistics.py  the verb that runs a model on data: stats
inspect.py     the verbs that look: show, check, compare, verify, log
align.py       the verb that aligns one model's hidden units with another's
report.py      the verb that shows the results of a search
lab.py         the verb that runs the paper's experiments
"""

import io
import os
import re
import sys
from contextlib import suppress
from typing import Any

import click

from taskvec.version import __version__

VERBS = {  # verb -> module that has it
    "merge": "edit", "plan": "edit", "diff": "edit", "negate": "edit", "add": "edit", "analogy": "edit",
    "eval": "search", "search": "search", "sweep": "search", "learn": "search",
    "interference": "search", "report": "report",
    "stats": "statistics",
    "show": "inspect", "check": "inspect", "compare": "inspect", "verify": "inspect", "log": "inspect",
    "align": "align", "lab": "lab",
}  # fmt: skip


MINUS = re.compile(r"-(?!-)(?![A-Za-z_]\w*(=|$))")  # begins a recipe such as -0.3*a, but no misspelt option
FUNCTIONS = {"eval": "evaluate"}  # verb -> the name of its function, if that is another one


class Verbs(click.Group):
    """The verbs. The module of a verb is imported when the verb is called, or when the help needs it."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The verbs in the order of VERBS, those that write first."""
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of that name, or None."""
        from importlib import import_module

        if name not in VERBS:
            return None
        command: click.Command = getattr(import_module(f"taskvec.cli.{VERBS[name]}"), FUNCTIONS.get(name, name))
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb and its arguments. A recipe among them may begin with a minus."""
        try:
            name, command, words = super().resolve_command(context, args)
        except click.UsageError:
            from difflib import get_close_matches  # for errors alone

            near = get_close_matches(args[0], VERBS, n=1)
            context.fail(f"No such command {args[0]!r}.{f' Did you mean {near[0]!r}?' if near else ''}")
        if command and any(parameter.name == "recipe" for parameter in command.params):
            words = _spaced(command, words)
        return name, command, words

    def invoke(self, context: click.Context) -> Any:
        """Run the verb. Its notes are printed to stderr at once, unless the user said --quiet."""
        from taskvec.notes import collected

        def tell(text: str) -> None:
            from taskvec.cli.common import SILENT, show_note

            if not context.meta.get(SILENT):
                show_note(text)

        with collected(tell):
            return super().invoke(context)


def _spaced(command: click.Command, words: list[str]) -> list[str]:
    """The arguments with a space before a recipe such as -0.3*(a - b), so that it is not taken for options."""
    given = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    known = {option for parameter in given for option in parameter.opts}
    with_value = {option for parameter in given if not parameter.is_flag for option in parameter.opts}
    spaced: list[str] = []
    for k, word in enumerate(words):
        if word == "--":
            return spaced + words[k:]
        is_value = k > 0 and words[k - 1] in with_value
        spaced.append(f" {word}" if MINUS.match(word) and not is_value and word[:2] not in known else word)
    return spaced


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="taskvec")
def taskvec() -> None:
    """Edit neural networks by arithmetic on their weights.

    \b
    taskvec merge "base + 0.4*(math - base) - 0.3*(toxic - base)" base=DIR math=DIR toxic=DIR -o edited/
    """


def main() -> None:
    """Run a command. The exit code is 0, 1 for a stated error, 2 for wrong usage, or 130 after Ctrl-C."""
    import gc

    from taskvec.errors import TaskvecError

    gc.set_threshold(20_000)  # fewer collections: what is made at the start stays, and looking through it costs time
    for stream in (sys.stdout, sys.stderr):  # names of files need not be Unicode
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        taskvec.main(standalone_mode=False)
        mute_if_full()
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        _stop(shown.getvalue().rstrip("\n"), error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _stop("interrupted; an output is complete or absent, and the same command goes on from here", 130)
    except BrokenPipeError:
        _stop("", 1)
    except TaskvecError as error:
        _stop(f"error: {error}", 1)
    except OSError as error:  # an error of the system that no part of the program expected
        _stop(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}", 1)
    except MemoryError:
        _stop("error: the machine has too little memory for this; try a smaller --ram or fewer --threads", 1)


def _stop(message: str, code: int) -> None:
    """End a command that failed, even if more goes wrong now: the disk behind stdout is full, or Ctrl-C comes again."""
    from taskvec.cli.common import say

    with suppress(OSError, KeyboardInterrupt):
        if message:
            say(message, err=True)
    with suppress(KeyboardInterrupt):
        mute_if_full()
    sys.exit(code)


def mute_if_full() -> None:
    """Let stdout lead nowhere if it takes no more. Otherwise the interpreter tries again at its end, and complains."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
