"""One block of an output, computed in memory that is never reallocated: what `save` and `load_into` share."""

from collections.abc import Iterable, Iterator, Mapping

from taskvec.algebra.program import Linear, aligned, evaluate
from taskvec.algebra.weights import Weights
from taskvec.numbers.dtypes import BITS, elements_in
from taskvec.places.local import PAGE, address
from taskvec.sources.source import Source, Spec

Sums = Mapping[str, Linear]  # output tensor -> what is summed
THREE_PIECES = 3 * (256 << 10)
Range = tuple[str, int, int]  # elements of one tensor: its name, the first one, how many


def ranges(specs: Mapping[str, Spec], names: Iterable[str], size: int) -> Iterator[Range]:
    """All elements of these tensors, in this order, in ranges of `step_of` elements."""
    for name in names:
        step, numel = step_of(specs[name].dtype, size), specs[name].numel
        for start in range(0, numel, step):
            yield name, start, min(step, numel - start)


def step_of(dtype: str, size: int) -> int:
    """How many elements a block of `size` bytes has. `size` is a multiple of 256 KiB, the pieces of which digests are
    made.

    Elements of 6 bits end together with a byte and a piece only after every third piece. A block of such elements has a
    multiple of three pieces, and at least three.
    """
    if 8 % BITS[dtype] and BITS[dtype] % 8:
        size = max(size // THREE_PIECES, 1) * THREE_PIECES
    return elements_in(dtype, size)


def sums(weights: Weights, specs: Mapping[str, Spec]) -> Sums:
    """What is summed for every output tensor. It is empty for tensors that are copied."""
    return {name: weights.linear(name) if spec.arithmetic else Linear() for name, spec in specs.items()}


def arena(size: int) -> memoryview:
    """Memory of `size` bytes for one thread, which begins at a page. It takes one page more than that."""
    whole = memoryview(bytearray(size + PAGE))
    first = -address(whole) % PAGE
    return whole[first : first + size]


def fill(
    memory: memoryview,
    name: str,
    spec: Spec,
    start: int,
    count: int,
    linear: Sums,
    donor: Source | None,
    out: memoryview | None = None,
) -> tuple[memoryview, int]:
    """Compute the elements start .. start+count of an output tensor. Returns (their bytes, flags of the arithmetic).

    The bytes are in `memory`, or in `out` if that is given. Tensors that are not floating point are copied from the
    donor.
    """
    size = count * BITS[spec.dtype] // 8
    out = memory[:size] if out is None else out
    if not spec.arithmetic:
        assert donor is not None
        donor.readinto(name, start, out)
        return out, 0
    if not linear[name]:  # no source names this tensor, or every coefficient is 0 here
        out[:] = bytes(len(out))
        return out, 0
    return out, evaluate(linear[name], start, count, spec.dtype, out, memory[aligned(size) :])
