"""Journals in databases: SQLite, and a real PostgreSQL server where one is installed; shared by real processes."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from searching.near import claimed
from taskvec.errors import OutputError
from taskvec.searching import leases
from taskvec.searching.journal import Journal
from taskvec.searching.records import read_record

sqlalchemy = pytest.importorskip("sqlalchemy")
WORKER = """
import sys, time
from taskvec.searching.journal import Journal
journal = Journal(sys.argv[1], {"recipe": "r"})
while claim := journal.claim(40)[0]:
    time.sleep(0.02)
    journal.add({"trial": claim["claim"], "knobs": {}, "scores": {"x": [claim["claim"]] * 50}, "seconds": 0.002})
"""


def binaries():
    programs = [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return programs[0].parent if programs and shutil.which("setpriv") else None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A PostgreSQL server of our own on a socket in a folder, as a user that is not root."""
    bin, home = binaries(), tmp_path_factory.mktemp("postgres")
    if bin is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg")
    for folder in (home, *home.parents[:2]):
        folder.chmod(0o755)
    work = home / "server"
    work.mkdir()
    user = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"] if os.getuid() == 0 else []
    if user:
        shutil.chown(work, "nobody")
    quiet = {"check": True, "capture_output": True, "env": os.environ | {"HOME": str(work)}, "cwd": work}
    subprocess.run([*user, bin / "initdb", "-D", work / "data", "-U", "taskvec", "-A", "trust", "--no-sync"], **quiet)
    options = f"-k {work} -c listen_addresses='' -c fsync=off"
    start = [*user, bin / "pg_ctl", "-D", work / "data", "-o", options, "-w", "-l", work / "log", "start"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=work)
    yield f"postgresql://taskvec@/postgres?host={work}"
    subprocess.run([*user, bin / "pg_ctl", "-D", work / "data", "-m", "immediate", "stop"], **quiet)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request, tmp_path):
    """A database of its own for each test: by file, or by name."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/journal.db"
    return f"{request.getfixturevalue('server')}#{request.node.name}"


def test_lines_are_kept_and_another_search_is_refused(url):
    journal = Journal(url, {"recipe": "r"})
    journal.add({"trial": 0, "knobs": {}, "scores": {"x": 1.5}, "seconds": 0})
    again = Journal(url, {"recipe": "r"})
    again.add({"trial": 1, "knobs": {}, "scores": {"x": 2}, "seconds": 0})
    assert [line["trial"] for line in journal.lines()] == [0, 1] == [line["trial"] for line in again.lines()]
    with pytest.raises(OutputError, match="another search"):
        Journal(url, {"recipe": "q"})


def test_journals_of_one_database_are_apart_by_name(url):
    base = url.partition("#")[0]
    left, right = (Journal(f"{base}#{name}", {"recipe": name}) for name in ("left", "right"))
    left.add({"trial": 0, "knobs": {}, "scores": {"x": 0}, "seconds": 0})
    assert len(left.lines()) == 1 and not right.lines()


def test_processes_share_the_trials_and_lose_none(url):
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, url], stderr=subprocess.PIPE) for _ in range(4)]
    errors = [worker.communicate()[1].decode() for worker in workers]
    assert not any(errors), errors
    lines = Journal(url, {"recipe": "r"}).lines()
    assert sorted(line["trial"] for line in lines if "trial" in line) == [*range(40)]
    assert len({line["pid"] for line in lines if "claim" in line}) > 1


def test_a_killed_process_leaves_no_line_behind_and_its_trial_to_others(url):
    code = "import sys; from taskvec.searching.journal import Journal\n"
    code += "j = Journal(sys.argv[1], {'recipe': 'r'}); j.claim(3)\n"
    code += "import os, signal\nwith j.store.locked():\n    j.store.append({'torn': 1})\n"
    code += "    os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code, url], check=False)
    journal = Journal(url, {"recipe": "r"})
    assert [next(iter(line)) for line in journal.lines()] == ["claim"] and claimed(journal, 3) == 0


def test_a_claim_of_another_machine_is_void_after_a_while(url, monkeypatch):
    journal = Journal(url, {"recipe": "r"})
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    claim, _ = journal.claim(2)
    leases.drop(claim)  # as if it were another process that works on it
    assert claim["claim"] == 0
    monkeypatch.undo()
    assert claimed(journal, 2) == 1 and journal.waiting(2)
    monkeypatch.setattr(leases, "LEASE", -1.0)
    assert claimed(journal, 2) == 0


def test_a_search_and_its_report_from_a_database(url, tmp_path):
    for name, value in (("base", 0.0), ("a", 1.0)):
        save_file({"w": np.float32([value, value])}, tmp_path / f"{name}.safetensors")
    (tmp_path / "near.py").write_text("def judge(w, split):\n    return {'near': -abs(float(w['w'][0]) - 0.4)}\n")
    line = [
        "search", "base + lam*(a - base)", "base=base.safetensors", "a=a.safetensors", "--evaluate", "near.py:judge",
        "--knob", "lam=0:1:0.1", "--journal", url, "--jobs", "2", "--json",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "taskvec", *line], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["chosen"] == {"lam": 0.4} == read_record(url).chosen.knobs
    done = subprocess.run(
        [sys.executable, "-m", "taskvec", "report", url, "-o", "r.html"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and "lam = 0.4" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("mysql://host/base", "kept in postgresql and sqlite"),
        ("sqlite:////no/such/folder/j.db", "unable to open"),
        ("postgresql://taskvec:secret@127.0.0.1:1/base", "postgresql://taskvec:[*]{3}@127.0.0.1:1/base#search: "),
        ("nonsense://x", "nonsense"),
    ],
)
def test_a_database_that_is_not_to_be_had_is_stated_without_its_password(where, what):
    if "postgresql" in where:
        pytest.importorskip("psycopg")
    with pytest.raises(OutputError, match=what) as caught:
        Journal(where, {})
    assert "secret" not in str(caught.value)
