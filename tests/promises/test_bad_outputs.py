"""An output never takes the place of anything that it should not, and the message says what is in the way."""

import shutil

import numpy as np
import pytest

from promises.small_merge import MERGE, PAIR


def test_the_root_of_all_files_is_no_output(refused):
    refused(*PAIR, "-o", "/", says="/ is the root of all files")


def test_an_output_that_is_not_empty_is_refused(world, refused):
    (world / "kept").mkdir()
    (world / "kept/notes.txt").write_text("mine")
    refused(*PAIR, "-o", "kept", says=["kept exists and is not empty", "--overwrite"])
    refused(*PAIR, "-o", "base", says=["base exists and is not empty", "--overwrite"])
    refused(*PAIR, "-o", "base/model.safetensors", says=["model.safetensors exists", "--overwrite"])
    refused(*PAIR, "-o", "kept", "--overwrite", says=["kept", "no checkpoint"])
    refused(*PAIR, "-o", ".", "--overwrite", says="still needed")
    refused(*PAIR, "-o", "base/config.json", "--overwrite", says=["config.json is a file", "remove it first"])


def test_an_output_that_is_an_input_is_replaced_only_when_asked_and_is_right(world, run, refused, build):
    assert run(*PAIR, "-o", "expected").code == 0
    assert run("merge", MERGE, "base=base", "math=math", "-o", "base", "--overwrite").code == 0
    expected = build.contents(world / "expected")
    assert build.contents(world / "base")["model.safetensors"] == expected["model.safetensors"]
    assert not [p for p in world.iterdir() if p.name.startswith(".")]


def test_a_single_file_may_replace_the_file_it_is_made_from(world, run):
    for name in ("base", "math"):
        assert run("merge", "m", f"m={name}", "-o", f"{name}.safetensors").code == 0
    pair = ("merge", MERGE, "base=base.safetensors", "math=math.safetensors", "-o")
    assert run(*pair, "expected.safetensors").code == 0
    assert run(*pair, "base.safetensors", "--overwrite").code == 0
    contents = [(world / f"{name}.safetensors").read_bytes() for name in ("base", "expected")]
    assert contents[0] == contents[1]


def test_an_output_around_a_source_is_refused_and_one_beside_it_is_fine(world, build, refused, run):
    build.model(world / "nest", build.tensors(3))
    shutil.copytree(world / "base", world / "nest/base")
    factors = {f"base_model.model.model.norm.lora_{side}.weight": np.ones((2, 2), "f4") for side in "AB"}
    build.lora(world / "nest/lora", factors)
    refused("merge", MERGE, "base=nest/base", "math=math", "-o", "nest", "--overwrite", says="still needed")
    refused("merge", "b", "b=nest/base/model.safetensors", "-o", "nest", "--overwrite", says="still needed")
    refused("merge", "0.5*load('nest/lora')", "-o", "nest", "--overwrite", says=["nest/lora", "still needed"])
    refused("merge", MERGE, "base=base", "math=math", "--like", "nest/base", "-o", "nest", "--overwrite",
            says="still needed")  # fmt: skip
    before = build.contents(world / "base")
    assert run(*PAIR, "-o", "base/merged").code == 0
    assert {n: b for n, b in build.contents(world / "base").items() if not n.startswith("merged")} == before


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("base/config.json/x", "config.json is not a folder"),
        ("loop", "loop"),
        ("~nobody-of-this-name/x", "~nobody"),
        ("x" * 300, "File name too long"),
        ("x" * 250, "File name too long"),
    ],
)
def test_an_output_that_cannot_be_made_says_why(world, refused, out, says):
    (world / "loop").symlink_to("loop")
    refused(*PAIR, "-o", out, says=says)


def test_a_side_file_that_leads_nowhere_is_named_and_once_it_is_mended_the_same_command_works(world, run):
    (world / "base/vocab.txt").symlink_to("gone.txt")
    done = run(*PAIR, "-o", "out")
    assert (done.code, done.stdout, done.stderr) == (1, "", "error: base/vocab.txt: does not exist\n")
    assert not (world / "out").exists()
    (world / "base/gone.txt").write_text("a")
    assert run(*PAIR, "-o", "out").code == 0
    assert (world / "out/vocab.txt").read_text() == "a"


def test_a_configuration_that_is_no_json_is_copied_as_it_is(world, run):
    (world / "base/config.json").write_bytes(b"[" * 100_000)
    assert run(*PAIR, "-o", "out").code == 0
    assert (world / "out/config.json").read_bytes() == b"[" * 100_000
