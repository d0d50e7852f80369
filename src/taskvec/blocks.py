"""One block of an output, computed in memory that is never reallocated: what `save` and `load_into` share."""

from collections.abc import Mapping

from taskvec.dtypes import BITS
from taskvec.source import Source, Spec
from taskvec.storage import PAGE, address
from taskvec.terms import Term, aligned, evaluate
from taskvec.weights import Weights

Terms = Mapping[str, list[Term]]  # output tensor -> what is summed, in the order of summation


def scales(weights: Weights, specs: Mapping[str, Spec]) -> Terms:
    """The numbers of every tensor; none for those that pass through."""
    return {name: weights.scales(name) if spec.arithmetic else [] for name, spec in specs.items()}


def arena(size: int) -> memoryview:
    """One thread's memory, from the start of a page on; `planning.arena_bytes` says how much it needs."""
    whole = memoryview(bytearray(size + PAGE))
    first = -address(whole) % PAGE
    return whole[first : first + size]


def fill(
    memory: memoryview, name: str, spec: Spec, start: int, count: int, terms: Terms, donor: Source | None
) -> tuple[memoryview, int]:
    """Elements start .. start+count of an output tensor: (their bytes inside `memory`, flags of the arithmetic).

    Tensors that are not floating point are the donor's.
    """
    size = count * BITS[spec.dtype] // 8
    out = memory[:size]
    return out, fill_into(out, memory[aligned(size) :], name, spec, start, count, terms, donor)


def fill_into(
    out: memoryview,
    scratch: memoryview,
    name: str,
    spec: Spec,
    start: int,
    count: int,
    terms: Terms,
    donor: Source | None,
) -> int:
    """The same into memory of the caller; `scratch` is what an arena has beyond the block."""
    if not spec.arithmetic:
        assert donor is not None
        donor.readinto(name, start, out)
        return 0
    if not terms[name]:  # no source names this tensor, or every coefficient is 0 here
        out[:] = bytes(len(out))
        return 0
    return evaluate(terms[name], start, count, spec.dtype, out, scratch)
