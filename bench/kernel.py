"""The arithmetic alone, in memory: our kernel and a memcpy that moves as many bytes, with one thread each."""

import ctypes
import time
from collections.abc import Callable

import numpy as np
from cases import WEIGHTS
from checkpoints import STD, TUNED_STD, bf16, fp32, normal
from measure import Samples

NUMBERS = 64 << 20  # in each of the four arrays: 128 MiB, so that no cache holds all of them; a multiple of BLOCK
BLOCK = 512 << 10  # numbers handed to the kernel at a time: 1 MiB
CACHED = 64 << 10  # numbers in each array when they stay in the cache: 128 KiB, half of what `merge` reads at a time
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


def repeated(work: Callable[[], object], times: int) -> Callable[[], object]:
    """The same work over and over, on data that is where the last time left it."""

    def run() -> None:
        for _ in range(times):
            work()

    return run


def kernels(numbers: int) -> dict[str, Callable[[], object]]:
    """The kernel that `taskvec merge` runs and its stand-in without a compiler, block by block as the engine does.

    The one place here that knows their API."""
    from taskvec.numbers import in_numpy, kernels
    from taskvec.numbers.operations import AROUND, Op

    inputs, out, step = sources(numbers), np.ones(numbers, np.uint16), min(BLOCK, numbers)
    first, second = WEIGHTS[:2]
    base_plus_two = (Op(AROUND, (0, 1, 2), (3, 0, 1, 1 - first - second, first, second)),)

    def blocks(kernel: Callable[..., int]) -> Callable[[], object]:
        def run() -> None:
            for at in range(0, numbers, step):
                part = slice(at, at + step)
                kernel(out[part], "BF16", [x[part] for x in inputs], ("BF16",) * 3, base_plus_two, step)

        return run

    compiled = {KERNEL: blocks(kernels.run)} if kernels.COMPILED else {}
    return compiled | {NUMPY: blocks(in_numpy.run)}


def timed(work: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def against_memcpy(numbers: int, times: int = 1) -> Samples:
    """ROUNDS rounds of all, each doing its work so many times, after one uncounted round that touches fresh pages."""
    works = {name: repeated(work, times) for name, work in {MEMCPY: memcpy(numbers), **kernels(numbers)}.items()}
    return in_turn(works, ROUNDS)


def in_turn(works: dict[str, Callable[[], object]], rounds: int) -> Samples:
    """All of them in this process, round by round, after one uncounted round."""
    for work in works.values():
        work()
    samples: Samples = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            samples[name].append({"wall": timed(work)})
    return samples
