"""What is promised by whoever does the work, be it threads, other machines or a device: a bounded map over items.

1. `work(item, scratch)` is called once for every item, and every result is given once, as it is done, in any order.
2. There are at most so many workers as are asked for. Each makes itself one scratch object, which no other one touches,
   and takes the next item only when it is free. So neither items nor memory pile up, however many items there are.
3. The first exception, be it of `work`, of `scratch` or of the items, stops all workers and is raised.
4. A KeyboardInterrupt stops them, too. It is raised after the results of all that was begun, so that none is lost.
5. Whoever leaves the iteration stops the workers.
6. When the iteration is over, in whichever way, no worker is running.

tests/executors/test_contract.py asks this of every implementation.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Scratch = TypeVar("Scratch")
Result = TypeVar("Result")


class Executor(Protocol):
    """See above."""

    def __call__(
        self,
        items: Iterable[Item],
        work: Callable[[Item, Scratch], Result],
        scratch: Callable[[], Scratch],
        workers: int,
        /,
    ) -> Iterator[Result]:
        """The result of every item."""
