"""A merge may be killed at any time: the output is whole or absent, and the same command again gives the same bytes."""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

import taskvec as tv
from taskvec.errors import OutputError
from taskvec.saving import stream as streaming

MERGE = "base + 0.4*(math - base)"
EVENTS = ("open", "os.", "shutil.", "ctypes.", "fcntl.")  # what the interpreter reports of work on files


@pytest.fixture(scope="module")
def quiet(big, tmp_path_factory):
    """The command, and every byte of what it makes when nobody disturbs it."""
    home = tmp_path_factory.mktemp("quiet")
    tv.save(tv.parse(MERGE, base=big / "base", math=big / "math"), home / "out", shard_size="40MB")
    yield {p.name: p.read_bytes() for p in (home / "out").iterdir()}
    shutil.rmtree(home)


def command(big, *more):
    sources = (f"base={big / 'base'}", f"math={big / 'math'}")
    return ("merge", MERGE, *sources, "-o", "out", "--shard-size", "40MB", *more)


def require_same(folder, expected):
    """Every file of a folder, and nothing else in it or hidden beside it."""
    assert {p.name for p in folder.iterdir()} == expected.keys()
    for name, content in expected.items():
        assert (folder / name).read_bytes() == content, name
    assert [p.name for p in folder.parent.iterdir() if "taskvec" in p.name] == []


# ---- at every call to the system ------------------------------------------------------------------
def forked(work, die_at=0):
    """`work()` in a child that kills itself at its `die_at`-th event: "died", "done", or "refused"."""
    child = os.fork()
    if not child:
        events = 0

        def watch(event, arguments):
            nonlocal events
            if event.startswith(EVENTS):
                events += 1
                if events == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(watch)
            work()
            os._exit(0)
        except OutputError:
            os._exit(1)
        finally:
            os._exit(2)
    return {-signal.SIGKILL: "died", 0: "done", 1: "refused"}[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]


OLD = {"nothing": None, "an empty folder": {}, "an older output": {"shards": 2}, "a longer file": {"shards": 1}}


CASES = [("out", old) for old in OLD] + [("out.safetensors", old) for old in ("nothing", "a longer file")]


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "old"), CASES)
def test_killed_at_any_call_to_the_system_and_run_again(tmp_path, build, monkeypatch, name, old, step):
    """Every `step`-th of them: once the output is whole, the same command may also find that it exists."""
    monkeypatch.setattr(streaming, "SYNC", 64)
    build.model(tmp_path / "base", build.tensors(0))
    build.model(tmp_path / "math", build.tensors(1))
    long = build.tensors(2) | build.tensors(2, {"model.extra.weight": (64, 64)})
    build.model(tmp_path / "old", long, **(OLD[old] or {}))
    (tmp_path / "old/NOTICE.txt").write_text("of the old one")
    target, replaces = tmp_path / name, old not in ("nothing", "an empty folder")
    monkeypatch.chdir(tmp_path)

    def prepare():
        shutil.rmtree(target, ignore_errors=True)
        target.unlink() if target.is_file() else None
        if old == "an empty folder":
            target.mkdir()
        elif old != "nothing" and name == "out":
            shutil.copytree("old", target)
        elif old != "nothing":
            shutil.copyfile("old/model.safetensors", target)

    def work():
        w = tv.parse(MERGE, base="base", math="math")
        tv.save(w, name, shard_size=300, threads=1, overwrite=replaces, durable=step == 1)

    def state():
        return target.read_bytes() if target.is_file() else target.exists() and build.contents(target)

    prepare()
    before = state()
    assert forked(work) == "done"
    after = state()
    assert after not in (before, False)
    die_at, ended, outcomes = 1 + CASES.index((name, old)) % step, "died", set()
    while ended == "died":
        prepare()
        ended = forked(work, die_at)
        between = state()
        assert between in (before, after), f"event {die_at}: neither old nor new"
        outcomes.add(between == after)
        again = forked(work)
        assert again == "done" or (between == after and not replaces), f"event {die_at}: {again}"
        assert state() == after, f"event {die_at}"
        if again == "done":
            assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["base", "math", "old", name])
        shutil.rmtree(tmp_path / f".{name}.taskvec", ignore_errors=True)
        die_at += step
    assert outcomes == {True, False} and die_at > 30


# ---- at random moments ----------------------------------------------------------------------------
def killed_at_random(start, tmp_path, big, quiet, rounds, seed, older=None):
    """Kills after a random share of the bytes, and after a random time; most runs must have died before their end."""
    size = sum(map(len, quiet.values()))
    began = time.monotonic()
    assert start(*command(big)).result().code == 0
    alive = time.monotonic() - began
    shutil.rmtree(tmp_path / "out")
    moments, died, kills = random.Random(seed), 0, 0
    for k in range(rounds):
        variant = [(), ("--threads", "1"), ("--ram", "90MB"), ("--threads", "2", "--ram", "200MB")][k % 4]
        again = (*command(big, *variant), *(["--overwrite"] if older else []))
        if older:
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            shutil.copytree(older, tmp_path / "out")
        for _ in range(1 + k % 2):
            share, wait = moments.random() * size, moments.uniform(0.3, 1) * alive
            with start(*again) as process:
                if k % 3:
                    process.pause_at(tmp_path / "out", share)
                else:
                    time.sleep(wait)
                process.send_signal(signal.SIGKILL)
                code = process.wait()
            kills += 1
            died += code == -signal.SIGKILL
            output = tmp_path / "out"
            if older and {p.name for p in output.iterdir()} != quiet.keys():
                require_loadable(output, older)
            elif output.exists():
                assert {p.name: p.read_bytes() for p in output.iterdir()} == quiet
                break
        with start(*again, *(["--overwrite"] if not older and (tmp_path / "out").exists() else [])) as process:
            done = process.result()
        assert done.code == 0, done.stderr
        require_same(tmp_path / "out", quiet)
        shutil.rmtree(tmp_path / "out")
    assert died > kills / 4


def require_loadable(folder, older):
    assert {p.name for p in folder.iterdir()} == {p.name for p in older.iterdir()}
    assert tv.load(folder).specs == tv.load(older).specs


def test_kill_9_at_random_moments_and_the_same_command_again(start, tmp_path, big, quiet):
    killed_at_random(start, tmp_path, big, quiet, rounds=4, seed=1)


def test_kill_9_over_an_older_output_which_stays_whole(start, tmp_path, big, quiet):
    killed_at_random(start, tmp_path, big, quiet, rounds=3, seed=2, older=big / "math")


@pytest.mark.slow
@pytest.mark.parametrize("older", [None, "math"])
def test_kill_9_at_many_random_moments(start, tmp_path, big, quiet, older):
    killed_at_random(start, tmp_path, big, quiet, rounds=60, seed=3, older=older and big / older)


# ---- stopped with Ctrl-C, and what may happen until the next run ----------------------------------
@pytest.fixture
def interrupted(paused, big, tmp_path):
    """A run that Ctrl-C ended in the middle: what it said. The next one finds its journal."""
    for _ in range(5):
        done = paused(*command(big, "--threads", "1")).interrupt()
        assert not (tmp_path / "out").exists()
        if len((tmp_path / ".out.taskvec/journal.jsonl").read_text().splitlines()) > 10:
            return done
    pytest.fail("five times interrupted, and never more than ten blocks in the journal")


def finished(run, big, tmp_path):
    """The same command again: bytes that it did not have to compute again."""
    done = run(*command(big, "--threads", "1", "--json"))
    assert done.code == 0, done.stderr
    return json.loads(done.stdout)["reused"]


def test_ctrl_c_says_that_the_same_command_goes_on_and_it_does(interrupted, run, big, tmp_path, quiet):
    assert interrupted.code == 130 and interrupted.stdout == ""
    assert "the same command goes on from here" in interrupted.stderr and "Traceback" not in interrupted.stderr
    assert finished(run, big, tmp_path) > 0
    require_same(tmp_path / "out", quiet)


def test_no_resume_starts_again(interrupted, run, big, tmp_path, quiet):
    done = run(*command(big, "--no-resume", "--json"))
    assert done.code == 0 and json.loads(done.stdout)["reused"] == 0
    require_same(tmp_path / "out", quiet)


def test_a_partial_file_that_was_damaged_meanwhile_is_not_believed(interrupted, run, big, tmp_path, quiet):
    files = sorted((tmp_path / ".out.taskvec/files").iterdir())
    assert files
    for path in files:  # a byte in every eighth MB
        damaged = bytearray(path.read_bytes())
        damaged[5000 :: 8 << 20] = bytes(b ^ 0x55 for b in damaged[5000 :: 8 << 20])
        path.write_bytes(damaged)
    (tmp_path / ".out.taskvec/files/stray.txt").write_text("not ours")
    with (tmp_path / ".out.taskvec/journal.jsonl").open("a") as journal:
        journal.write('[3, 0, "00ff"]\n[99999999, 0, ""]\n{"torn": ')
    assert finished(run, big, tmp_path) > 0
    require_same(tmp_path / "out", quiet)


def test_a_partial_file_that_is_gone_is_made_again(interrupted, run, big, tmp_path, quiet):
    shutil.rmtree(tmp_path / ".out.taskvec/files")
    assert finished(run, big, tmp_path) == 0
    require_same(tmp_path / "out", quiet)


def test_a_source_that_changed_meanwhile_is_not_mixed_with_the_old_one(paused, run, big, tmp_path):
    shutil.copytree(big / "math", tmp_path / "math")
    again = ("merge", MERGE, f"base={big / 'base'}", "math=math", "--threads", "1", "--json", "-o")
    assert paused(*again, "out").interrupt().code == 130
    with (tmp_path / "math/model-00001-of-00002.safetensors").open("r+b") as file:
        file.seek(-(1 << 20), os.SEEK_END)  # between the samples of the fingerprint: only the file's time tells
        file.write(bytes(64))
    assert json.loads(run(*again, "out").stdout)["reused"] == 0
    assert run(*again, "fresh").code == 0
    require_same(tmp_path / "out", {p.name: p.read_bytes() for p in (tmp_path / "fresh").iterdir()})


def test_another_model_to_be_like_is_another_plan(paused, run, build, tmp_path, big):
    assert paused(*command(big, "--threads", "1", "--like", big / "base")).interrupt().code == 130
    shutil.copytree(big / "base", tmp_path / "third")
    (tmp_path / "third/config.json").write_text('{"model_type": "third"}')
    done = run(*command(big, "--threads", "1", "--like", "third", "--json"))
    assert done.code == 0 and json.loads(done.stdout)["reused"] == 0
    assert (tmp_path / "out/config.json").read_text() == '{"model_type": "third"}'


def overwritten(path):
    """Other bytes in the same file, and its time of change as before: rsync --inplace --times, cp -p, touch -r."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-(1 << 20), os.SEEK_END)
        file.write(bytes(64))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("when", ["while it is read", "between two runs"])
def test_a_source_whose_time_of_change_was_put_back_is_not_mixed_with_the_old_one(paused, run, big, tmp_path, when):
    shutil.copytree(big / "math", tmp_path / "math")
    again = ("merge", MERGE, f"base={big / 'base'}", "math=math", "--threads", "1", "--json", "-o", "out")
    with paused(*again) as process:
        if when == "while it is read":
            overwritten(tmp_path / "math/model-00001-of-00002.safetensors")
            done = process.result()
            assert done.code == 1 and "its time of change was put back" in done.stderr
            assert [p.name for p in tmp_path.iterdir()] == ["math"]
        else:
            assert process.interrupt().code == 130
            overwritten(tmp_path / "math/model-00001-of-00002.safetensors")
            assert json.loads(run(*again).stdout)["reused"] == 0


def test_what_another_program_puts_there_meanwhile_stays_and_the_output_waits(paused, run, big, tmp_path, quiet):
    with paused(*command(big)) as process:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/thesis.txt").write_text("of another program")
        done = process.result()
    assert done.code == 1 and "was made by another program meanwhile" in done.stderr
    assert {p.name: p.read_text() for p in (tmp_path / "out").iterdir()} == {"thesis.txt": "of another program"}
    (tmp_path / "out").rename(tmp_path / "mine")
    done = run(*command(big, "--json"))
    printed = json.loads(done.stdout)
    assert done.code == 0 and printed["reused"] > 0.9 * printed["bytes_out"], "all blocks were there"
    require_same(tmp_path / "out", quiet)


# ---- processes that help --------------------------------------------------------------------------
SLOW = """
import os
import time
from pathlib import Path


def size(weights, split):
    Path(f"at-work-{os.getpid()}").touch()
    time.sleep(60)
    return {"size": 1.0}
"""


def test_helpers_of_a_search_that_was_killed_are_gone_soon(start, tmp_path, build):
    for seed, name in enumerate(("base", "math")):
        build.model(tmp_path / name, build.tensors(seed))
    (tmp_path / "data.py").write_text(SLOW)
    words = ("search", "base + x*(math - base)", "base=base", "math=math", "--evaluate", "data.py:size",
             "--knob", "x=0:1:0.1", "--journal", "j.jsonl", "--jobs", "3")  # fmt: skip
    with start(*words) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.is_file():
            pytest.skip("needs /proc")
        until(lambda: [*tmp_path.glob("at-work-*")] and len(children.read_text().split()) == 2)
        helpers = [int(pid) for pid in children.read_text().split()]
        assert all(map(alive, helpers))
        process.kill()
        until(lambda: not any(map(alive, helpers)))


def alive(pid):
    """Whether there is such a process that has not ended: one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(ready, patience=60):
    end = time.monotonic() + patience
    while not ready():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


# ---- two at once ----------------------------------------------------------------------------------
def test_of_two_that_write_the_same_output_one_wins_and_the_other_says_why(paused, run, big, tmp_path, quiet):
    with paused(*command(big)) as first:
        second = run(*command(big))
        assert (second.code, second.stdout) == (1, "")
        assert second.stderr.startswith("error: another taskvec is writing") and "out" in second.stderr
        assert first.result().code == 0
    require_same(tmp_path / "out", quiet)


def test_two_that_race_leave_one_whole_output(start, tmp_path, build):
    build.model(tmp_path / "base", build.tensors(0))
    build.model(tmp_path / "math", build.tensors(1))
    for k in range(6):
        recipes = ("base + 0.25*(math - base)", "base + 0.75*(math - base)")
        running = [start("merge", r, "base=base", "math=math", "-o", f"out{k}") for r in recipes]
        ended = [process.result() for process in running]
        assert 0 in {f.code for f in ended}, ended
        for loser in (f for f in ended if f.code):
            assert loser.code == 1 and loser.stderr.startswith("error: ") and "Traceback" not in loser.stderr
            assert "another taskvec" in loser.stderr or "exists and is not empty" in loser.stderr, loser.stderr
        assert [f.code for f in ended].count(0) == 1
        tv.verify(tmp_path / f"out{k}")
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
