"""Every verb has help that says what it does, and every verb is in the README."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from taskvec.cli import VERBS, taskvec

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def commands():
    """The words of every command: a verb, or a verb and what it is to do (lab run)."""
    for verb in VERBS:
        command = taskvec.get_command(click.Context(taskvec), verb)
        inner = [*command.commands] if isinstance(command, click.Group) else []
        yield from ((verb, name) for name in inner)
        yield (verb,)


@pytest.mark.parametrize("words", [*commands()], ids=" ".join)
def test_every_verb_explains_itself(words):
    done = CliRunner().invoke(taskvec, [*words, "--help"])
    assert done.exit_code == 0
    command = taskvec
    for word in words:
        command = command.get_command(click.Context(command), word)
    assert command is not None and len((command.help or "").splitlines()[0]) > 20
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{' '.join(words)} {parameter.opts[0]} has no help"
    assert "--json" in done.output or isinstance(command, click.Group)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_in_the_readme(verb):
    assert f"taskvec {verb}" in README


def test_usage_errors_exit_with_two():
    assert CliRunner().invoke(taskvec, ["merge"]).exit_code == 2
    assert CliRunner().invoke(taskvec, ["mrege"]).exit_code == 2


def test_a_misspelt_verb_is_refused_with_the_nearest_one():
    assert "No such command 'mrege'. Did you mean 'merge'?" in CliRunner().invoke(taskvec, ["mrege"]).output
    assert CliRunner().invoke(taskvec, ["xyzzy"]).output.endswith("No such command 'xyzzy'.\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["merge", "a - b"], "say which model a name is (a=PATH b=PATH)"),
        (["merge", "0.4(math - base)"], "0.4 cannot be called: write 0.4*(...)"),
        (["merge", "tiess(a)", "-o", "x"], "no function is named tiess (did you mean ties?) (line"),
        (
            ["merge", "a", "a=nowhere"],
            "nowhere does not exist: give a file, a folder, or org/name on the Hugging Face hub",
        ),
    ],
)
def test_a_message_says_what_to_type_next(words, message):
    assert message in str(CliRunner().invoke(taskvec, words).exception)
