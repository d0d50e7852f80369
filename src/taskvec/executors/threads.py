"""An executor of threads: each takes items from one list and has scratch memory of its own."""

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from taskvec.errors import TaskvecError
from taskvec.executors.contract import Executor, Item, Result, Scratch

END: Any = object()  # stands for an item when there are no more
LOOK = 0.02  # seconds between two looks at the results


def default_threads(busy: bool = False) -> int:
    """How many threads do the work: two for each core that this process may use, so that one computes while the other
    waits for the disk, and at most 8, since more of them only wait for memory and disk.

    busy: one for each core. That is best for work that runs Python between its kernels, and for work that does not wait
    for the disk because the system's cache holds what it reads and writes.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores if busy else 2 * cores, 8)


def each(
    items: Iterable[Item], work: Callable[[Item, Scratch], Result], scratch: Callable[[], Scratch], threads: int
) -> Iterator[Result]:
    """work(item, scratch()) for every item, as contract.py says. Raises TaskvecError if the system starts no thread.

    If the system starts fewer threads than were asked for, these do all the work.
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
            ended.append(None)  # `is_alive` would be true for a moment more, and `wake.wait` would wait in vain
            wake.set()

    workers: list[threading.Thread] = []
    try:
        for k in range(threads):
            worker = threading.Thread(target=run, daemon=True, name=f"taskvec-{k}")
            try:
                worker.start()
            except RuntimeError:  # the system allows no more threads
                if not workers:
                    raise TaskvecError(
                        "the system starts no thread: memory or processes are limited (ulimit)"
                    ) from None
                break
            workers.append(worker)
        running = bool(workers)
        while running:
            # Results do not wake this thread: each time it would take the interpreter's lock from the workers.
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


THREADS: Executor = each  # the type checker sees here that it is one


def give_back() -> None:
    """Return freed memory to the system: glibc keeps tens of MB for every thread that has once used as much."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
