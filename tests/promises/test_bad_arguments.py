"""Options and arguments with bad values are refused, and the message names the argument."""

import os
import shutil

import pytest

from promises.small_merge import MERGE, PAIR


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--dtype", "float12", ["float12", "float16"]),
        ("--dtype", "int8", "int8"),
        ("--ram", "lots", ["'lots'", "1GiB"]),
        ("--ram", "-1GB", "not positive"),
        ("--ram", "nan", "'nan'"),
        ("--ram", "1e999GB", "'1e999GB'"),
        ("--ram", "1MB", ["needs at least", "of memory", "1 MB"]),
        ("--shard-size", "0", "not positive"),
        ("--shard-size", "5XB", "'5XB'"),
        ("--set", "lam=1", ["no knob named lam", "knobs are none"]),
        ("--set", "lam", "'lam' is not KNOB=NUMBER"),
        ("--like", "nowhere", "nowhere does not exist"),
    ],
)
def test_an_option_with_a_bad_value_says_which(refused, option, value, says):
    refused(*PAIR, option, value, "-o", "out", says=says)


@pytest.mark.parametrize("value", ["much", "nan", "inf", "1/0", "1/2/3", "1e999", "", "0x10", "9" * 5000])
def test_a_knob_wants_a_number(refused, value):
    refused("merge", "base + lam*(math - base)", "base=base", "math=math", "--set", f"lam={value}", "-o", "out")


def test_a_knob_without_a_value_is_named(refused):
    refused("merge", "base + lam*(math - base)", "base=base", "math=math", "-o", "out", says="lam")
    refused("merge", "base + lam*(math - base)", "base=base", "math=math", "--set", "lm=1", "-o", "out",
            says=["no knob named lm", "knobs are lam"])  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*PAIR], "--out"),
        ([*PAIR, "--threads", "0", "-o", "out"], "--threads"),
        ([*PAIR, "--threads", "two", "-o", "out"], "--threads"),
        ([*PAIR, "--wat", "-o", "out"], "--wat"),
        (["murge"], "murge"),
        (["merge"], "RECIPE"),
    ],
)
def test_a_command_that_is_none_exits_with_two(refused, arguments, says):
    refused(*arguments, code=2, says=says)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("math", "'math' is not NAME=URI"),
        ("ma-th=math", "is not NAME=URI"),
        ("=math", "is not NAME=URI"),
        ("math=", "is not NAME=URI"),
        ("base=math", "base is given twice"),
        ("mth=math", "no model is named math (did you mean mth?)"),
    ],
)
def test_an_argument_that_is_no_source_is_named(refused, argument, says):
    refused("merge", MERGE, "base=base", argument, "-o", "out", says=says)


def test_a_folder_whose_name_is_no_utf8_is_merged_and_named(world, run):
    odd = os.fsencode(world) + b"/in\xffput"
    shutil.copytree(os.fsencode(world / "math"), odd)
    done = run("merge", MERGE, "base=base", os.fsdecode(b"math=in\xffput"), "-o", "out")
    assert done.code == 0, done
    again = run("log", "out")
    assert "in\\udcffput" in again.stdout and again.code == 0
    assert "math=$'in\\xffput'" not in done.stdout
    assert "in\\xffput" in (world / "out/README.md").read_text()
    assert run("verify", "out").code == 0
