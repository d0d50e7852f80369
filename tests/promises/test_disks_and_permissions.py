"""Full disks and missing permissions end a merge with a stated error and without an output."""

import json
import os

import pytest

from promises.small_merge import MERGE, PAIR


def test_a_disk_that_is_too_small_is_found_out_before_anything_is_made(world, big, disk, refused):
    small = disk("size=90m")
    refused("merge", "base", f"base={big / 'base'}", "-o", small / "x", says=["x needs 268 MB", "left", str(small)])
    assert not list(small.iterdir())


def test_a_disk_that_fills_up_in_the_middle_leaves_no_output_and_the_same_command_goes_on(
    world, big, disk, paused, run
):
    """The room for the tensors was reserved; it is the journal and the side files that find none."""
    small = disk("size=400m")
    command = ("merge", MERGE, f"base={big / 'base'}", f"math={big / 'math'}", "--threads", "1", "-o", small / "x")
    with paused(*command, out=f"{small.name}/x") as process:
        with (small / "filler").open("wb") as filler, pytest.raises(OSError, match="No space left"):
            while True:
                os.posix_fallocate(filler.fileno(), filler.tell(), 1 << 12)
                filler.seek(1 << 12, os.SEEK_CUR)
        done = process.result()
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: no space left on the disk of {small / 'x'}; make room")
    assert "Traceback" not in done.stderr and not (small / "x").exists()
    (small / "filler").unlink()
    again = run(*command, "--json")
    assert again.code == 0 and json.loads(again.stdout)["reused"] > 0
    assert run("verify", small / "x").code == 0
    assert [p.name for p in small.iterdir()] == ["x"]


def test_a_disk_too_small_for_the_tokenizer_leaves_no_output(world, disk, run):
    (world / "base/tokenizer.json").write_bytes(bytes(1 << 20))
    small = disk("size=512k")
    done = run(*PAIR, "-o", small / "x")
    assert (done.code, done.stdout) == (1, "") and "no space left" in done.stderr
    assert not (small / "x").exists()


def test_a_read_only_disk_is_refused(disk, refused):
    locked = disk("size=1m,ro")
    refused(*PAIR, "-o", locked / "x", says=["cannot be made", "no permission to write", str(locked)])


def test_a_folder_without_permission_to_write_is_refused(world, refused, bound_by_permissions):
    (world / "locked").mkdir(mode=0o500)
    refused(*PAIR, "-o", "locked/x", says=["no permission to write", "locked"], **bound_by_permissions)


@pytest.mark.parametrize("what", ["math", "math/model-00001-of-00002.safetensors", "math/model.safetensors.index.json"])
def test_a_source_without_permission_to_read_is_refused(world, run, what, bound_by_permissions):
    (world / what).chmod(0o000)
    done = run(*PAIR, "-o", "out", **bound_by_permissions)
    (world / what).chmod(0o700)
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and "permission denied" in done.stderr and what in done.stderr
    assert "Traceback" not in done.stderr and not (world / "out").exists()
