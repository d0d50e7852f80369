"""The journal of a search: its lines are whole, whichever processes write them and however these end."""

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import textwrap
import time

import pytest

from searching.near import claimed
from taskvec.errors import FormatError, OutputError
from taskvec.searching.journal import FORMAT, Journal

ABOUT = {"recipe": "base + lam*tau", "seed": 0}


def trial(number, **scores):
    return {"trial": number, "knobs": {}, "scores": scores or {"x": 1}, "seconds": 0}


def test_what_was_written_is_read_back(tmp_path):
    first_opened = Journal(tmp_path / "j", ABOUT)
    first_opened.add(trial(0, x=[1, 0.5]))
    opened_again = Journal(tmp_path / "j", ABOUT)
    opened_again.add(trial(1, x=[0, 0.1]))
    assert first_opened.lines() == opened_again.lines() == [
        trial(0, x=[1, 0.5]), trial(1, x=[0, 0.1]),
    ]  # fmt: skip
    first, *rest = (tmp_path / "j").read_text().splitlines()
    assert json.loads(first) == {"search": 2, **ABOUT} and len(rest) == 2


def test_without_a_path_it_is_kept_in_memory():
    journal = Journal(None, ABOUT)
    assert claimed(journal, 2) == 0
    journal.add(trial(0))
    assert claimed(journal, 2) == 1 and journal.waiting(2)
    journal.add(trial(1))
    assert claimed(journal, 2) is None and not journal.waiting(2) and len(journal.lines()) == 2


@pytest.mark.parametrize("torn", [b'{"trial":1,"sco', b"\x00\x00\x00", b'{"trial"'])
def test_a_torn_line_is_cut_off_by_who_writes_next(tmp_path, torn):
    Journal(tmp_path / "j", ABOUT).add(trial(0))
    whole_lines = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(whole_lines + torn)
    journal = Journal(tmp_path / "j", ABOUT)
    assert journal.lines() == [trial(0)]
    journal.add(trial(1))
    assert (tmp_path / "j").read_bytes() == whole_lines + json.dumps(trial(1), separators=(",", ":")).encode() + b"\n"


def test_the_journal_of_another_search_is_refused_and_says_where_it_differs(tmp_path):
    Journal(tmp_path / "j", ABOUT)
    before = (tmp_path / "j").read_bytes()
    with pytest.raises(OutputError, match="journal of another search") as error:
        Journal(tmp_path / "j", {"recipe": "base - lam*tau", "seed": 0, "sampler": "tpe"})
    assert error.value.problems == (
        'recipe: "base + lam*tau" there, "base - lam*tau" here', 'sampler: null there, "tpe" here',
    )  # fmt: skip
    assert (tmp_path / "j").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "kind", "what"),
    [
        (b"hello\n", FormatError, "line 1: no line of a journal"),
        (b'{"search":2,"recipe":"base + lam*tau","seed":0}\n[1]\n', FormatError, "line 2"),
        (b'{"x":1}\n', OutputError, "none of a journal"),
        (b"\xff\xfe\n", FormatError, "line 1"),
    ],
)
def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path, content, kind, what):
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(kind, match=what):
        Journal(tmp_path / "j", ABOUT)
    assert (tmp_path / "j").read_bytes() == content


def test_a_place_that_cannot_be_written_is_stated(tmp_path):
    with pytest.raises(OutputError, match="missing/j"):
        Journal(tmp_path / "missing/j", ABOUT)
    with pytest.raises(OutputError):
        Journal(tmp_path, ABOUT)


def worker(path, total):
    journal = Journal(path, ABOUT)
    while (number := claimed(journal, total)) is not None:
        journal.add(trial(number, x=[number] * 200) | {"by": os.getpid()})


def test_several_processes_do_every_trial_once_and_lose_no_line(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=worker, args=(tmp_path / "j", 60)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    done = [line for line in Journal(tmp_path / "j", ABOUT).lines() if "scores" in line]
    assert sorted(line["trial"] for line in done) == list(range(60))
    assert all(line["scores"]["x"] == [line["trial"]] * 200 for line in done)


def test_a_claim_of_a_process_that_is_gone_counts_for_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from taskvec.searching.journal import Journal; "
        "print(Journal(Path(sys.argv[1]), {}).claim(3)[0]['claim'])"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "j")], capture_output=True, text=True)
        assert done.stdout.strip() == "0"
    path = tmp_path / "j"
    path.write_text(path.read_text() + json.dumps({"claim": 0, "host": "another", "pid": 1, "at": time.time()}) + "\n")
    assert claimed(Journal(path, {}), 3) == 1
    assert Journal(path, {}).waiting(3)


def test_a_full_disk_leaves_the_journal_whole(tmp_path):
    code = textwrap.dedent(
        """
        import resource, signal, sys
        from pathlib import Path
        from taskvec.errors import OutputError
        from taskvec.searching.journal import FORMAT, Journal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        journal = Journal(Path(sys.argv[1]), {})
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        for number in range(100):
            try:
                journal.add({"trial": number, "knobs": {}, "seconds": 0, "scores": {"x": [1] * 50}})
            except OutputError as error:
                print(number, error)
                break
        """
    )
    assert resource.RLIMIT_FSIZE
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "j")], capture_output=True, text=True)
    number, message = done.stdout.split(maxsplit=1)
    assert "too large" in message.lower() and str(tmp_path / "j") in message
    assert [line["trial"] for line in Journal(tmp_path / "j", {}).lines()] == list(range(int(number)))


@pytest.mark.parametrize("text", [b"a note without an end of line", b"{", b'{"search', b'{"search": 1, "torn'])
def test_a_file_that_is_no_journal_is_not_cut_off_for_one(tmp_path, text):
    """What may be a first line that a kill has torn is cut off. Any other text without an end of line is kept."""
    (tmp_path / "notes").write_bytes(text)
    may_be_torn = text.startswith(b"{")
    if may_be_torn:
        Journal(tmp_path / "notes", {})
        assert json.loads((tmp_path / "notes").read_bytes()) == {"search": FORMAT}
    else:
        with pytest.raises(FormatError, match="notes is no journal: take another name"):
            Journal(tmp_path / "notes", {})
        assert (tmp_path / "notes").read_bytes() == text
