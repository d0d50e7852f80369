"""Who does the work: threads that pull from one list of blocks, each with scratch memory of its own."""

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from taskvec.errors import TaskvecError
from taskvec.executors.contract import Executor, Item, Result, Scratch

END: Any = object()  # instead of an item: there are no more
LOOK = 0.02  # seconds between two looks at what is done


def default_threads(busy: bool = False) -> int:
    """Two for each core that this process may use, so that one computes while the other waits for the disk; at most 8:
    beyond that memory and disk are the limit. One a core for work that is `busy`: that has Python to run between its
    kernels, or waits for no disk, since what is read and written mostly lies in the system's cache."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores if busy else 2 * cores, 8)


def each(
    items: Iterable[Item], work: Callable[[Item, Scratch], Result], scratch: Callable[[], Scratch], threads: int
) -> Iterator[Result]:
    """work(item, scratch()) for every item, results as they are done, in any order; see contract.py.

    Where the system starts fewer threads than asked for, those do the work of all.
    """
    pending, lock = iter(items), threading.Lock()
    done: deque[Result] = deque()
    failures: deque[BaseException] = deque()
    stop, wake, ended = threading.Event(), threading.Event(), deque[None]()

    def run() -> None:
        try:
            mine = scratch()
            while not stop.is_set():
                with lock:
                    item = next(pending, END)
                if item is END:
                    break
                done.append(work(item, mine))
        except BaseException as error:
            failures.append(error)
        finally:
            ended.append(None)  # not `is_alive`, which is true for a moment more: long enough to wait for nothing
            wake.set()

    workers: list[threading.Thread] = []
    try:
        for k in range(threads):
            worker = threading.Thread(target=run, daemon=True, name=f"taskvec-{k}")
            try:
                worker.start()
            except RuntimeError:  # the system allows no more: those that run do the work of all
                if not workers:
                    raise TaskvecError(
                        "the system starts no thread: memory or processes are limited (ulimit)"
                    ) from None
                break
            workers.append(worker)
        running = bool(workers)
        while running:
            # A result does not wake this thread, which would take the interpreter's lock from the workers each time.
            wake.wait(LOOK)
            wake.clear()
            running = len(ended) < len(workers)
            while done:
                yield done.popleft()
            if failures:
                raise failures[0]
    except KeyboardInterrupt:
        stop.set()
        for worker in workers:
            worker.join()
        yield from done
        raise
    finally:
        stop.set()
        for worker in workers:
            worker.join()


THREADS: Executor = each  # says to the type checker that it is one


def give_back() -> None:
    """Return what was freed to the system: glibc keeps tens of MB for every thread that has held as much."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
