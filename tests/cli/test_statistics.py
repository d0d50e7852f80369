"""The verb `stats` asks for what it needs, and hands its options to one function."""

from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from taskvec.cli.statistics import stats


def written(unreached=()):
    """What `stats` returns."""
    return SimpleNamespace(
        path="o.safetensors", unreached=unreached, as_dict=lambda: {"kind": "gram"}, __str__=lambda: "x"
    )


@pytest.fixture
def calls(monkeypatch):
    """The calls of `stats`, which computes nothing here."""
    calls = []
    monkeypatch.setattr("taskvec.live.stats.stats", lambda *a, **k: calls.append((a, k)) or written(tuple("abcdefg")))
    return calls


def test_every_option_reaches_the_function(calls):
    words = (
        "m --data d.py:f --kind gram -o o.safetensors --examples 3 --labels given --seed 4 --dtype float16 --overwrite"
    )
    done = CliRunner().invoke(stats, [*words.split(), "--json"])
    assert done.exit_code == 0 and '"kind": "gram"' in done.output
    ((args, given),) = calls
    assert args == ("m",) and given.pop("progress") is None
    assert given == {
        "data": "d.py:f", "kind": "gram", "out": "o.safetensors", "examples": 3, "labels": "given", "seed": 4,
        "dtype": "float16", "overwrite": True,
    }  # fmt: skip


def test_layers_that_no_example_reached_are_warned_of_and_the_rest_counted(calls):
    done = CliRunner().invoke(stats, ["m", "--data", "d.py:f", "--kind", "gram", "-o", "o.safetensors"])
    assert "warning: no example reached a, b, c, d, e and 2 more" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--kind gram -o o", "Missing argument 'MODEL'"),
        ("m --kind gram -o o", "Missing option '--data'"),
        ("m --data d --kind hessian -o o", "is not one of 'fisher', 'gram'"),
        ("m --data d --kind gram -o o --examples 0", "not in the range"),
        ("m --data d --kind gram -o o --labels none", "is not one of 'exact', 'sampled', 'given'"),
    ],
)
def test_what_it_needs_is_asked_for(words, said):
    done = CliRunner().invoke(stats, words.split())
    assert done.exit_code == 2 and said in done.output
