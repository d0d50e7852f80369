"""A source that changes or vanishes while it is read ends the merge, and nothing is written."""

import os
import shutil

import pytest

from promises.small_merge import PAIR


def overwrite(path):
    with path.open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(bytes(64))


def replace(path):
    shutil.copyfile(path, path.with_name("new"))
    path.with_name("new").replace(path)


@pytest.mark.parametrize(
    ("move", "says"),
    [
        (overwrite, "changed while it was read"),
        (replace, "changed while it was read"),
        (os.unlink, "vanished while it was read"),
        (lambda path: os.truncate(path, 1 << 20), "while it was read"),
        (lambda path: path.rename(path.with_name("elsewhere")), "vanished while it was read"),
    ],
    ids=["overwritten", "replaced", "removed", "truncated", "renamed"],
)
def test_a_source_that_moves_while_it_is_read_ends_the_work_without_output(tmp_path, big, paused, move, says):
    for name in ("base", "math"):
        shutil.copytree(big / name, tmp_path / name)
    with paused(*PAIR, "--threads", "1", "-o", "out") as process:
        move(tmp_path / "math/model-00002-of-00002.safetensors")
        done = process.result()
    assert (done.code, done.stdout) == (1, ""), done
    assert done.stderr.startswith("error: ") and says in done.stderr and "nothing was written" in done.stderr
    assert "math" in done.stderr and "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "math"]
