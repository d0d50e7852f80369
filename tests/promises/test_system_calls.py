"""The command is killed at a single system call, or the call fails. strace injects the kills and the failures."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import taskvec as tv
from conftest import heeds_ctrl_c

MERGE = ("merge", "base + 0.4*(math - base)", "base=base", "math=math", "--threads", "1", "-q")
WRITING = ("mkdir,mkdirat,openat,rename,renameat,renameat2,unlink,unlinkat,rmdir,fsync,fdatasync,ftruncate,"
           "fallocate,pwrite64,link,linkat,flock")  # fmt: skip


@pytest.fixture
def traced(tmp_path):
    """traced("inject=fsync:error=EIO", "merge", ...) -> code and stderr; without "inject=" the calls that were made."""
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    probe = subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"strace cannot trace here: {probe.stderr.strip()}")

    def run(what, *words, stdout=subprocess.PIPE):
        calls = what.removeprefix("inject=").split(":")[0]
        inject = ["-e", what] if what.startswith("inject=") else []
        done = subprocess.run(
            ["strace", "-f", "-qq", "-o", tmp_path / "calls.log", "-e", f"trace={calls}", *inject,
             sys.executable, "-m", "taskvec", *words],
            cwd=tmp_path, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120, preexec_fn=heeds_ctrl_c,
        )  # fmt: skip
        log = (tmp_path / "calls.log").read_text(errors="replace")
        (tmp_path / "calls.log").unlink()
        return SimpleNamespace(
            code=done.returncode, stderr=done.stderr, calls=re.findall(r"^\d+ +(\w+\(.*)", log, re.M)
        )

    return run


@pytest.fixture
def world(tmp_path, build):
    for seed, name in enumerate(("base", "math", "older")):
        build.model(tmp_path / name, build.tensors(seed))
    return tmp_path


def moments(calls):
    """(name of the call, how many of that name have been made) of each that changes something beside the output."""
    counts, places, begun = {}, [], False
    for call in calls:
        name = call.partition("(")[0]
        counts[name] = counts.get(name, 0) + 1
        begun = begun or ".taskvec" in call
        if begun and (name != "openat" or "O_CREAT" in call):
            places.append((name, counts[name]))
    return places


def remains(folder):
    return sorted(p.name for p in folder.iterdir() if "taskvec" in p.name)


@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "old"), [("out", None), ("out", "older"), ("out.safetensors", "older")])
def test_killed_at_a_single_call_the_next_run_ends_in_the_same_and_leaves_nothing(
    world, traced, run, build, name, old, step
):
    target, words = world / name, (*MERGE, "-o", name, *(["--overwrite"] if old else []))

    def prepare():
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        if old and name == "out":
            shutil.copytree(world / old, target)
        elif old:
            shutil.copyfile(world / old / "model.safetensors", target)

    def state():
        return build.contents(target) if target.is_dir() else target.read_bytes() if target.exists() else None

    prepare()
    before, made = state(), traced(WRITING, *words)
    after, places = state(), moments(made.calls)
    assert made.code == 0 and after != before and len(places) > 20
    for call, count in places[::step]:
        prepare()
        traced(f"inject={call}:signal=KILL:when={count}", *words)
        between = state()
        assert between in (before, after), f"{call} {count}: neither old nor new"
        again = run(*words)
        assert again.code == 0 or (between == after and not old), f"{call} {count}: {again.stderr}"
        assert state() == after and remains(world) == [], f"{call} {count}"


def test_where_the_file_system_cannot_sync_the_output_is_made_all_the_same(world, traced):
    for number in ("EINVAL", "EOPNOTSUPP"):
        done = traced(f"inject=fsync,fdatasync:error={number}", *MERGE, "-o", f"out{number}")
        assert (done.code, done.stderr) == (0, "")
        assert any(number in call for call in done.calls)
        assert tv.verify(world / f"out{number}").tensors == 4 and remains(world) == []


def test_a_broken_disk_is_an_error_that_says_whether_the_output_is_there(world, traced):
    syncs = len(traced("fsync", *MERGE, "-o", "quiet").calls)
    first = traced("inject=fsync:error=EIO:when=1", *MERGE, "-o", "first")
    assert first.code == 1 and "Input/output error" in first.stderr and not (world / "first").exists()
    last = traced(f"inject=fsync:error=EIO:when={syncs}", *MERGE, "-o", "last")
    assert last.code == 1 and "last is whole and in its place, but the system could not confirm" in last.stderr
    assert tv.verify(world / "last").tensors == 4


def test_what_cannot_be_printed_of_a_whole_output_is_no_failure(world, start):
    with Path("/dev/full").open("w") as full:
        for more in ((), ("--json",)):
            done = start(*MERGE[:-1], "-o", f"out{len(more)}", *more, stdout=full).result()
            assert done.code == 0 and "is whole and in its place" in done.stderr, done.stderr
            assert "Exception" not in done.stderr and tv.verify(world / f"out{len(more)}").tensors == 4
        done = start("plan", *MERGE[1:4], stdout=full).result()
        assert done.code == 1 and done.stderr == "error: No space left on device\n"
    ours, theirs = os.pipe()
    os.close(ours)  # whoever was to read is gone
    done = start(*MERGE[:-1], "-o", "piped", stdout=theirs).result()
    os.close(theirs)
    assert (done.code, done.stderr) == (0, "") and tv.verify(world / "piped").tensors == 4


def test_ctrl_c_while_modules_are_imported_ends_without_a_traceback(world, traced):
    calls = traced("openat", "plan", *MERGE[1:4]).calls
    first = next(k for k, call in enumerate(calls) if "taskvec/cli/" in call)
    for k in range(first + 3, len(calls), (len(calls) - first) // 5):
        done = traced(f"inject=openat:signal=INT:when={k}", "plan", *MERGE[1:4])
        assert done.code == 130 and "Traceback" not in done.stderr and "interrupted" in done.stderr, (
            k,
            done.stderr,
        )
