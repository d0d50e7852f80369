"""Who does the work: threads that pull from one list of blocks, each with scratch memory of its own."""

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Scratch = TypeVar("Scratch")
Result = TypeVar("Result")


def default_threads() -> int:
    """The cores that this process may use, at most 8: beyond that memory and disk are the limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)


def each(
    items: Iterable[Item], work: Callable[[Item, Scratch], Result], scratch: Callable[[], Scratch], threads: int
) -> Iterator[Result]:
    """work(item, scratch()) for every item, results as they are done, in any order.

    The first exception stops all threads and is raised here; so does leaving the iteration. When this returns or
    raises, no thread is running.
    """
    pending, done = iter(items), queue.SimpleQueue[tuple[bool, Result | BaseException | None]]()
    lock, stop = threading.Lock(), threading.Event()

    def run() -> None:
        try:
            mine = scratch()
            while not stop.is_set():
                with lock:
                    item = next(pending, None)
                if item is None:
                    break
                done.put((True, work(item, mine)))
            done.put((False, None))
        except BaseException as error:
            done.put((False, error))

    workers = [threading.Thread(target=run, daemon=True, name=f"taskvec-{k}") for k in range(threads)]
    for worker in workers:
        worker.start()
    running = len(workers)
    try:
        while running:
            is_result, value = done.get()
            if is_result:
                yield value  # type: ignore[misc]
                continue
            running -= 1
            if isinstance(value, BaseException):
                raise value
    finally:
        stop.set()
        for worker in workers:
            worker.join()
