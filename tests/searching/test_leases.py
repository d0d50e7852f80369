"""Claims of trials count while the process that made them lives, and no longer, even if its number is used again."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from searching.near import claimed
from taskvec.searching import leases
from taskvec.searching.journal import Journal
from taskvec.searching.leases import Watch, claim_of

ABOUT = {"recipe": "r"}
CLAIMING = textwrap.dedent(
    """
    import socket, sys, time
    from taskvec.searching import leases
    if sys.argv[4:]:
        socket.gethostname = lambda: sys.argv[4]
    from taskvec.searching.journal import Journal
    leases.BEAT = float(sys.argv[2])
    def do(number, lines):
        print("at it", flush=True)
        time.sleep(float(sys.argv[3]))
        return {"trial": number, "knobs": {}, "scores": {"x": 1}, "seconds": 1}
    Journal(sys.argv[1], {"recipe": "r"}).work(1, do)
    """
)


def claiming(path, beat=0.05, seconds=60.0, host=()):
    """A process that has claimed trial 0 and is at it, perhaps on a host of another name."""
    arguments = [sys.executable, "-c", CLAIMING, str(path), str(beat), str(seconds), *host]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "at it\n"
    return process


def claims(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines() if '"claim"' in line]


def with_claim(path, **changes):
    """A journal in which trial 0 is claimed by this process, or by what `changes` say."""
    Journal(path, ABOUT)
    with Path(path).open("a") as file:
        file.write(json.dumps(claim_of(0) | changes) + "\n")
    return Journal(path, ABOUT)


def test_the_claim_of_a_living_process_counts_and_of_a_killed_one_no_longer(tmp_path):
    process = claiming(tmp_path / "j")
    try:
        journal = Journal(tmp_path / "j", ABOUT)
        assert claimed(journal, 1) is None and journal.waiting(1)
    finally:
        process.kill()
        process.wait()
    assert claimed(Journal(tmp_path / "j", ABOUT), 1) == 0


def test_the_claim_of_a_zombie_counts_for_nothing(tmp_path):
    process = claiming(tmp_path / "j")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet waited for
    try:
        assert claimed(Journal(tmp_path / "j", ABOUT), 1) == 0
    finally:
        process.wait()


def test_a_process_number_that_some_other_process_has_now_counts_for_nothing(tmp_path):
    """Process 1 always runs; it is not the one that claimed."""
    assert claimed(with_claim(tmp_path / "j", pid=1, start=1), 1) == 0


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"host": "elsewhere", "pid": 1}, True),  # it may live
        ({"boot": "another"}, True),  # of another container, or before a reboot a moment ago
        ({"host": "elsewhere", "at": time.time() - 1000}, False),
        ({"boot": "another", "at": time.time() - 1000}, False),
        ({"id": "x", "boot": None, "start": None, "pid": None, "at": 0}, False),
        ({"pid": os.getpid(), "start": None, "boot": ""}, True),
    ],
)
def test_where_nobody_can_tell_a_claim_is_free_after_a_while_without_a_sign_of_life(tmp_path, changes, counts):
    assert (claimed(with_claim(tmp_path / "j", **changes), 1) is None) is counts


def test_a_claim_from_a_clock_that_is_ahead_does_not_count_for_ever(monkeypatch):
    watch, claim = Watch(), claim_of(0) | {"host": "elsewhere", "at": time.time() + 1e6}
    assert watch.counts(claim, {}, set())
    monkeypatch.setattr(leases, "LEASE", 0.05)
    time.sleep(0.1)
    assert not watch.counts(claim, {}, set())
    assert watch.counts(claim, {claim["id"]: time.time() + 2e6}, set())  # a new beat


def test_beats_are_written_while_work_lasts_and_keep_a_claim(tmp_path, monkeypatch):
    process = claiming(tmp_path / "j", beat=0.05, host=["elsewhere"])
    try:
        journal = Journal(tmp_path / "j", ABOUT)
        while sum("beat" in line for line in journal.lines()) < 3:
            time.sleep(0.02)
        monkeypatch.setattr(leases, "LEASE", 1.5)
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert claimed(journal, 1) is None
            time.sleep(0.1)
        process.send_signal(signal.SIGSTOP)
        while (number := claimed(journal, 1)) is None:
            time.sleep(0.1)
        assert number == 0
    finally:
        process.kill()
        process.wait()


def test_work_that_fails_gives_its_claim_back_and_work_that_is_short_writes_no_beat(tmp_path):
    journal, before = Journal(tmp_path / "j", ABOUT), {*threading.enumerate()}

    def failing(number, lines):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        journal.work(1, failing)
    assert [next(iter(line)) for line in journal.lines()] == ["claim", "release"]
    code = (
        "import sys; from taskvec.searching.journal import Journal; "
        "print(Journal(sys.argv[1], {'recipe': 'r'}).claim(1)[0]['claim'])"
    )
    command = [sys.executable, "-c", code, tmp_path / "j"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
    assert {*threading.enumerate()} <= before


def test_threads_of_one_process_do_every_trial_once(tmp_path):
    done, journal = [], Journal(tmp_path / "j", ABOUT)

    def do(number, lines):
        done.append(number)
        time.sleep(0.01)
        return {"trial": number, "knobs": {}, "scores": {"x": number}, "seconds": 0}

    threads = [threading.Thread(target=Journal(tmp_path / "j", ABOUT).work, args=(20, do)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [*range(20)] == sorted(line["trial"] for line in journal.lines() if "trial" in line)


def test_what_is_asked_for_once_is_done_once_by_several_processes(tmp_path):
    code = (
        "import sys, time; from taskvec.searching.journal import Journal\n"
        "def do(lines):\n    print('did', flush=True); time.sleep(0.5); return {'scores': {'x': 1}, 'seconds': 1}\n"
        "line = Journal(sys.argv[1], {'recipe': 'r'}).once({'reference': 'base', 'split': 'test'}, do)\n"
        "assert line['scores'] == {'x': 1}"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "j")]
    processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sorted(p.communicate()[0] for p in processes) == ["", "", "", "did\n"]
    assert not any(p.returncode for p in processes)
    assert sum("reference" in line for line in Journal(tmp_path / "j", ABOUT).lines()) == 1
