"""What contract.py promises, asked of every executor."""

import _thread
import signal
import threading
import time
from collections import Counter

import pytest

from taskvec.executors.threads import each

EXECUTORS = [each]


@pytest.fixture(params=EXECUTORS)
def run(request):
    """The executor; afterwards none of its workers is left."""
    before = set(threading.enumerate())
    yield request.param
    assert set(threading.enumerate()) <= before


def nothing():
    """No scratch memory."""


class Begun:
    """Work that notes what was begun and what was ended."""

    def __init__(self, seconds=0.0):
        self.seconds, self.begun, self.ended = seconds, [], []

    def __call__(self, item, scratch):
        self.begun.append(item)
        time.sleep(self.seconds)
        self.ended.append(item)
        return item


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("items", [[], [5], [None, 0, False, None], range(300)], ids=str)
def test_every_item_is_worked_on_once_and_every_result_given_once(run, items, workers):
    work = Begun()
    assert Counter(run(items, work, nothing, workers)) == Counter(items) == Counter(work.begun)


def test_items_are_taken_when_a_worker_is_free(run):
    taken, ended, ahead = [], [], []

    def items():
        for k in range(100):
            taken.append(k)
            yield k

    def work(item, scratch):
        ahead.append(len(taken) - len(ended))
        time.sleep(0.0005)
        ended.append(item)
        return item

    assert sorted(run(items(), work, nothing, 3)) == [*range(100)]
    assert max(ahead) <= 3


def test_a_worker_makes_one_scratch_object_which_no_other_one_touches(run):
    made, lock = [], threading.Lock()

    def scratch():
        with lock:
            made.append([])
            return made[-1]

    def work(item, mine):
        mine.append("in")
        time.sleep(0.0005)
        alone = mine == ["in"]
        mine.clear()
        return alone

    assert all(run(range(100), work, scratch, 4))
    assert 1 <= len(made) <= 4


def test_the_work_is_done_by_several_at_once(run):
    meeting = threading.Barrier(3, timeout=20)
    assert len([*run(range(6), lambda item, scratch: meeting.wait(), nothing, 3)]) == 6


def failing_items(error):
    yield from range(20)
    raise error


@pytest.mark.parametrize("where", ["work", "scratch", "items"])
def test_the_first_exception_stops_all_workers_and_is_raised(run, where):
    error, began = ValueError("no"), Begun(0.001)

    def fail(*given):
        raise error

    def work(item, scratch):
        return fail() if where == "work" and item == 20 else began(item, scratch)

    items = failing_items(error) if where == "items" else range(10_000)
    with pytest.raises(ValueError, match="no") as raised:
        list(run(items, work, fail if where == "scratch" else nothing, 2))
    assert raised.value is error
    begun = [*began.begun]
    assert len(begun) < 1000 and sorted(begun) == sorted(began.ended)
    time.sleep(0.01)
    assert began.begun == begun


@pytest.fixture
def heeded():
    """Ctrl-C as a person's: the background jobs of a shell ignore it, and so would this process."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_gives_what_was_begun_and_is_raised_then(run, heeded):
    began, results = Begun(0.001), []

    def work(item, scratch):
        began(item, scratch)
        if item == 20:
            _thread.interrupt_main()
            time.sleep(0.1)
        return item

    with pytest.raises(KeyboardInterrupt):
        for item in run(range(10_000), work, nothing, 2):
            results.append(item)
    assert 20 in results and len(results) < 10_000
    assert sorted(results) == sorted(began.begun)


def test_whoever_leaves_the_iteration_stops_the_workers(run):
    began = Begun(0.001)
    results = run(range(10_000), began, nothing, 2)
    for _ in results:
        break
    results.close()
    begun = [*began.begun]
    assert len(begun) < 10_000 and sorted(begun) == sorted(began.ended)
    time.sleep(0.01)
    assert began.begun == begun
