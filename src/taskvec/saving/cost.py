"""The memory that the work on an expression takes: for all its sources, and for each thread (sources/cost.py)."""

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import or_

from taskvec.algebra.derived import Derived
from taskvec.algebra.program import Part, aligned, scratch_bytes
from taskvec.algebra.weights import Weights
from taskvec.numbers.dtypes import BITS
from taskvec.places.local import PAGE
from taskvec.saving.blocks import step_of
from taskvec.sources.abilities import cost_of
from taskvec.sources.cost import Cost
from taskvec.sources.source import Source, Spec

Parts = Mapping[str, Iterable[Part]]  # for each output tensor that is computed, what is summed for it


def cost_of_sources(weights: Weights, parts: Parts) -> Cost:
    """The cost of everything except blocks: of all sources once, and of the tensor whose calls need the most."""
    calls = any(isinstance(source, Derived) for source in weights.terms)  # without calls, 100,000 tensors are skipped
    tensors = (cost_of_calls(summed) for summed in parts.values()) if calls else ()
    return reduce(or_, tensors, Cost()) + sum((cost_of(source) for source in _sources(weights)), Cost())


def _sources(weights: Weights) -> list[Source]:
    """Every source that the expression mentions or sums, and every source in its calls. Each object is listed once; two
    equal calls are two objects, which hold their memory twice."""
    known: dict[int, Source] = {id(source): source for source in (*weights.mentioned, *weights.terms)}
    for source in (waiting := [*known.values()]):
        inner = (below for a in source.args for below in a.terms) if isinstance(source, Derived) else ()
        new = {id(below): below for below in inner if id(below) not in known}
        known |= new
        waiting += new.values()
    return waiting


def cost_of_calls(parts: Iterable[Part]) -> Cost:
    """What a thread holds in the calls of one tensor's sum, and in the calls inside these. A call that stands in
    several places has its memory once."""
    waiting = {(source, name): None for source, name in parts if isinstance(source, Derived)}
    calls: dict[tuple[Derived, str], None] = {}
    while waiting:
        call, name = waiting.popitem()[0]
        calls[call, name] = None
        inner = (part for a in call.args if name in a.specs for part in a.parts(name))
        new = [(below, inner_name) for below, inner_name in inner if isinstance(below, Derived)]
        waiting |= {part: None for part in new if part not in calls}
    return sum((call.cost_of(name) for call, name in calls), Cost())


def cost_of_block(parts: Parts, specs: Mapping[str, Spec], size: int) -> Cost:
    """A thread's memory for blocks of at most `size` bytes: that of the largest block, with the scratch memory of its
    sum. Two pages are added, since the memory begins at a page and the block anywhere in a page (blocks.py)."""

    def needed(name: str, spec: Spec) -> int:
        count = min(spec.numel, step_of(spec.dtype, size))
        return aligned(count * BITS[spec.dtype] // 8) + (scratch_bytes(parts[name], count) if name in parts else 0)

    return Cost(block=max((needed(name, spec) for name, spec in specs.items()), default=0) + 2 * PAGE)
