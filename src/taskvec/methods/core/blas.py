"""One BLAS thread at a time: what a matrix product rounds to must not depend on the number of cores.

OpenBLAS, which numpy's wheels bring, splits sums by its number of threads; and its threads wait in loops, which starves
those that compute blocks. There is no way to ask it for one thread in one call, so the number is set for the process
while a decomposition runs, and set back. Another BLAS (Accelerate, MKL) is left as it is.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

_lock, _inside, _before = threading.Lock(), 0, 0
NAMES = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads")


@cache
def _switch() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """(get, set) of the BLAS that numpy's linear algebra is linked with, if it is OpenBLAS."""
    from numpy.linalg import _umath_linalg

    try:
        library = ctypes.CDLL(_umath_linalg.__file__)  # loaded already; its symbols are those of what it links to
    except OSError:
        return None
    for name in NAMES:
        get, put = (getattr(library, name.format(verb), None) for verb in ("get", "set"))
        if get and put:
            return get, put
    return None


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, and in a function that this decorates, matrix products and decompositions take one thread."""
    global _inside, _before
    if not (switch := _switch()):
        yield
        return
    get, put = switch
    with _lock:
        if not _inside:
            _before = get()
            put(1)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                put(_before)
