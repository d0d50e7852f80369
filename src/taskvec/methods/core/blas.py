"""One BLAS thread at a time, so that the bits of a matrix product do not depend on the number of cores.

OpenBLAS, which numpy's wheels contain, splits sums by its number of threads. Its threads also wait in loops, which
takes time from the threads that compute blocks. A single call cannot ask for one thread, so the number is set for the
whole process while a decomposition runs, and set back afterwards. Another BLAS (Accelerate, MKL) is left as it is.
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
    """Matrix products and decompositions take one thread in this context, and in a function that this decorates."""
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
