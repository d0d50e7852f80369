"""Threads that share one list of items: every item once, the first failure for all, and none left running."""

import threading
import time

import pytest

from taskvec.errors import TaskvecError
from taskvec.executors import threads
from taskvec.executors.threads import default_threads, each, give_back


def nothing():
    return None


def running():
    return [t.name for t in threading.enumerate() if t.name.startswith("taskvec-")]


@pytest.fixture(autouse=True)
def none_left():
    assert not running()
    yield
    assert not running()


@pytest.mark.parametrize("count", [1, 3, 8])
def test_every_item_is_worked_on_once(count):
    assert sorted(each(iter(range(100)), lambda k, _: k * k, nothing, count)) == [k * k for k in range(100)]
    assert list(each([], lambda k, _: k, nothing, count)) == []


def test_one_thread_keeps_the_order_and_each_has_scratch_memory_of_its_own():
    made = []

    def scratch():
        made.append(threading.current_thread().name)
        return made[-1]

    assert list(each("abc", lambda item, mine: (item, mine), scratch, 1)) == [(c, "taskvec-0") for c in "abc"]
    both = threading.Barrier(3)
    used = list(each(range(3), lambda _, mine: (both.wait(5), mine)[1], scratch, 3))
    assert sorted(used) == ["taskvec-0", "taskvec-1", "taskvec-2"] and len(made) == 4


def test_no_item_is_taken_long_before_it_is_worked_on():
    taken = []

    def items():
        for k in range(1000):
            taken.append(k)
            yield k

    results = each(items(), lambda k, _: time.sleep(0.01), nothing, 2)
    next(results)
    results.close()
    assert len(taken) < 500


@pytest.mark.parametrize("where", ["work", "scratch", "items"])
def test_the_first_failure_ends_the_work_of_all_and_is_raised(where):
    seen = []

    def fail(at):
        if where == at:
            raise ValueError(f"in {at}")

    def items():
        yield 1
        fail("items")
        yield from range(10_000)

    def work(item, _):
        seen.append(item)
        time.sleep(0.001)
        fail("work")

    with pytest.raises(ValueError, match=f"in {where}"):
        list(each(items(), work, lambda: fail("scratch"), 3))
    assert len(seen) < 1000


def test_ctrl_c_in_a_worker_gives_what_was_done_by_then_and_is_raised():
    done = []

    def work(item, _):
        if item == 5:
            raise KeyboardInterrupt
        return item

    with pytest.raises(KeyboardInterrupt):
        for item in each(range(100), work, nothing, 1):
            done.append(item)
    assert done == [0, 1, 2, 3, 4]


def test_leaving_the_iteration_stops_the_threads():
    results = each(range(10**9), lambda k, _: k, nothing, 2)
    next(results)
    assert running()
    results.close()


def test_a_system_that_starts_few_threads_is_no_traceback():
    """Those that start do the work; none at all is a stated error."""

    class Some(threading.Thread):
        left = 2

        def start(self):
            if not Some.left:
                raise RuntimeError("can't start new thread")
            Some.left -= 1
            super().start()

    real, threading.Thread = threading.Thread, Some
    try:
        assert sorted(each(range(20), lambda k, _: k, lambda: None, 8)) == list(range(20))
        with pytest.raises(TaskvecError, match="starts no thread"):
            list(each(range(20), lambda k, _: k, lambda: None, 8))
    finally:
        threading.Thread = real


@pytest.mark.parametrize(("cores", "mixed", "busy"), [(1, 2, 1), (3, 6, 3), (4, 8, 4), (16, 8, 8)])
def test_threads_follow_the_cores_that_this_process_may_use(monkeypatch, cores, mixed, busy):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: {*range(cores)})
    assert (default_threads(), default_threads(busy=True)) == (mixed, busy)
    monkeypatch.delattr(threads.os, "sched_getaffinity")
    for known, count in ((cores, mixed), (None, 2)):
        monkeypatch.setattr(threads.os, "cpu_count", lambda known=known: known)
        assert default_threads() == count


@pytest.mark.parametrize("missing", [AttributeError, OSError, TypeError])
def test_another_c_library_has_nothing_to_give_back(monkeypatch, missing):
    def refuse(name):
        raise missing

    monkeypatch.setattr(threads.ctypes, "CDLL", refuse)
    give_back()
