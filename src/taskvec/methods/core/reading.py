"""The values of a call's arguments: what is summed for one tensor, and the summing in a thread's own memory."""

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taskvec.algebra.derived import Parameter
from taskvec.algebra.program import Linear, Program, evaluate, scratch_bytes
from taskvec.algebra.weights import Weights
from taskvec.methods.core.call import Call
from taskvec.methods.core.method import Method

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Reading(Call):
    """A call whose arguments can be read by any number of threads at once."""

    def __init__(self, method: Method, args: tuple[Weights, ...], params: Mapping[str, Parameter]):
        super().__init__(method, args, params)
        self._sums: dict[str, list[Linear]] = {}
        self._of_thread = threading.local()  # memory of each thread

    def compute(self, name: str, start: int, result: "NDArray[Any]") -> bool:
        """Put the call's own elements from `start` on into `result`. Returns whether all of its arguments are known to
        be finite there."""
        raise NotImplementedError

    def sums(self, name: str) -> list[Linear]:
        """For each argument, what is summed for one tensor. It is worked out once."""
        if name not in self._sums:
            self._sums[name] = [a.linear(name, self.places[name]) for a in self.args]
        return self._sums[name]

    def operands(self, program: Program, name: str) -> list[int]:
        """Add the sums of the arguments to a program; references to them."""
        return [program.sum(linear) for linear in self.sums(name)]

    def values(self, linear: Linear, start: int, out: "NDArray[Any]") -> bool:
        """Put the elements of a linear combination from `start` on into `out`, (n,) float32. Returns whether all are
        known to be finite."""
        if not linear:
            out[:] = 0
            return True
        (source, name, number), *more = linear.terms
        if isinstance(source, Reading) and number == 1 and not more:
            return source.compute(name, start, out)
        return not self.evaluated(linear, start, out)

    def evaluated(self, linear: Linear, start: int, out: "NDArray[Any]") -> int:
        """The same by the kernels. Returns their flags."""
        return evaluate(linear, start, out.size, "F32", out, self.memory(scratch_bytes(linear.parts, out.size)))

    def memory(self, size: int) -> memoryview:
        """Scratch memory of this thread."""
        if getattr(self._of_thread, "size", 0) < size:
            self._of_thread.scratch, self._of_thread.size = memoryview(bytearray(size)), size
        scratch: memoryview = self._of_thread.scratch
        return scratch


def together(calls: Sequence[Reading], name: str, start: int, n: int, ops: int) -> Program:
    """A program for n elements of the arguments of several calls, with memory for so many further operations. What the
    calls have in common, such as a base, is read once."""
    return Program(start, n, scratch_of(calls, name, n, ops))


def scratch_of(calls: Sequence[Reading], name: str, n: int, ops: int) -> memoryview:
    """The memory of such a program."""
    arguments = [linear for call in calls for linear in call.sums(name)]
    parts = dict.fromkeys(part for linear in arguments for part in linear.parts)
    return calls[0].memory(scratch_bytes(parts, n, len(arguments) + ops))
