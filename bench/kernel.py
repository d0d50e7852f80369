"""The arithmetic alone, in memory: our kernel against a memcpy that reads and writes as many bytes, one thread each."""

import ctypes
import time
from collections.abc import Callable

import numpy as np
from cases import WEIGHTS
from checkpoints import STD, TUNED_STD, bf16, fp32, normal
from measure import Samples

NUMBERS = 64 << 20  # in each of the four arrays: 128 MiB, so that no cache holds all of them; a multiple of BLOCK
BLOCK = 512 << 10  # numbers handed to the kernel at a time: 1 MiB
ROUNDS = 7

MEMCPY = "memcpy"
KERNEL = "taskvec kernel, C"
NUMPY = "taskvec kernel, numpy"


def sources(numbers: int) -> list[np.ndarray]:
    """base, ft1 and ft2: bfloat16 bits."""
    base = bf16(normal(STD, numbers, 0))
    return [base, *(bf16(fp32(base) + normal(TUNED_STD, numbers, role)) for role in (1, 2))]


def memcpy(numbers: int) -> Callable[[], object]:
    """Three reads and one write are, in bytes, two arrays copied to two others."""
    size = 2 * numbers * 2
    a, b = np.ones(size, np.uint8), np.ones(size, np.uint8)
    return lambda: ctypes.memmove(b.ctypes.data, a.ctypes.data, size)


def kernels(numbers: int) -> dict[str, Callable[[], object]]:
    """The kernel that `taskvec merge` runs and its stand-in without a compiler, block by block as the engine does.

    The one place here that knows their API."""
    from taskvec import kernels

    inputs, out = sources(numbers), np.ones(numbers, np.uint16)
    first, second = WEIGHTS[:2]
    scales, dtypes = (1 - first - second, first, second), ("BF16",) * 3

    def blocks(combine: Callable[..., int]) -> Callable[[], object]:
        def run() -> None:
            for at in range(0, numbers, BLOCK):
                part = slice(at, at + BLOCK)
                combine(out[part], "BF16", [x[part] for x in inputs], dtypes, scales, BLOCK)

        return run

    compiled = {KERNEL: blocks(kernels.combine)} if kernels.COMPILED else {}
    return compiled | {NUMPY: blocks(kernels.combine_numpy)}


def timed(work: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def against_memcpy(numbers: int) -> Samples:
    """ROUNDS rounds of all, after one that is not counted (it touches fresh pages)."""
    works = {MEMCPY: memcpy(numbers), **kernels(numbers)}
    for work in works.values():
        work()
    samples: Samples = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            samples[name].append({"wall": timed(work)})
    return samples
