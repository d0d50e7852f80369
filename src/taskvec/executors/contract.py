"""What every executor promises, be it one of threads, of other machines or of a device: a bounded map over items.

1. `work(item, scratch)` is called once for every item. Its result is given once, as soon as it is there. So results
   come in any order.
2. There are at most as many workers as are asked for. Each worker makes one scratch object, which no other worker
   touches. It takes the next item only when it is free, so neither items nor memory pile up.
3. The first exception, of `work`, of `scratch` or of the items, stops all workers and is raised.
4. A KeyboardInterrupt stops the workers, too. It is raised after the results of all items that were begun, so that none
   is lost.
5. If the caller leaves the iteration, the workers stop.
6. When the iteration is over, in whichever way, no worker is running.

tests/executors/test_contract.py asks this of every implementation.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Scratch = TypeVar("Scratch")
Result = TypeVar("Result")


class Executor(Protocol):
    """A function that keeps these promises."""

    def __call__(
        self,
        items: Iterable[Item],
        work: Callable[[Item, Scratch], Result],
        scratch: Callable[[], Scratch],
        workers: int,
        /,
    ) -> Iterator[Result]:
        """The result of every item, by at most so many workers."""
