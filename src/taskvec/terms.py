"""What is summed for one tensor, and the summing: sources, numbers and memory in, numbers of one dtype out."""

from collections.abc import Iterable
from typing import Any

from taskvec import kernels
from taskvec.errors import SourceChanged, TaskvecError
from taskvec.source import Source

Term = tuple[Source, str, float]  # a source, its tensor, and the number in front of it


def evaluate(terms: list[Term], start: int, n: int, dtype: str, out: Any, scratch: memoryview) -> int:
    """Elements start .. start+n of one tensor, encoded as `dtype` into `out`; returns the flags of `kernels.combine`.

    `scratch`: at least `scratch_bytes` of memory.
    """
    inputs: list[Any] = []
    at = 0
    for source, name, _ in terms:
        segment = getattr(source, "segment", None)
        if segment:
            inputs.append(segment(name, start))
            continue
        size = n * kernels.itemsize(source.specs[name].dtype)
        view = scratch[at : at + size]
        at += aligned(size)
        source.readinto(name, start, view)
        inputs.append(view)
    dtypes = [s.specs[name].dtype for s, name, _ in terms]
    try:
        return kernels.combine(out, dtype, inputs, dtypes, [c for *_, c in terms], n, scratch[at:])
    except (EOFError, OSError) as error:
        where = str(getattr(error, "filename", None) or error)
        source = terms[int(where.split()[-1])][0]
        if isinstance(error, EOFError):
            raise SourceChanged(f"{source.text} became shorter while it was read; nothing was written") from None
        raise TaskvecError(f"{source.text} cannot be read: {error.strerror}") from None


def scratch_bytes(parts: Iterable[tuple[Source, str]], n: int) -> int:
    """Memory that `evaluate` needs for n elements: a window for each file, all elements of every other source."""
    total = 0
    for source, name in parts:
        width = kernels.itemsize(source.specs[name].dtype)
        total += max(kernels.WINDOW, 2048 * 8) if hasattr(source, "segment") else aligned(n * width)
    return total


def aligned(size: int) -> int:
    """The next multiple of a cache line."""
    return -(-size // 64) * 64
