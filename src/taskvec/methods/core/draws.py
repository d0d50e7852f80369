"""Random numbers with a key: a draw depends on (seed, tensor name, position), never on the order of work.

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011), a
bijection of a 128-bit counter under a 64-bit key that passes BigCrush. The random word of element i is word i mod 4 of
counter i div 4.
"""

from typing import TYPE_CHECKING, Any

from taskvec.numbers import kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray


# Streams are the upper halves of counters. `dare` uses DROPS and the one after it, `della` PRUNES and the one after it,
# and `normal` the streams 0 and 1.
DROPS, PRUNES = 2, 4


def key_of(seed: int, name: str) -> tuple[int, int]:
    """The generator's key for a tensor: two 32-bit words."""
    from blake3 import blake3

    digest = blake3(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def words(seed: int, name: str, start: int, n: int, stream: int = 0) -> "NDArray[Any]":
    """32 random bits for each of the elements start .. start+n of a tensor: (n,) uint32."""
    import numpy as np

    first, last = start // 4, -(-(start + n) // 4)
    drawn = np.empty(4 * (last - first), np.uint32)
    kernels.philox(drawn, last - first, first, stream, key_of(seed, name))
    return drawn[start - 4 * first :][:n]


def uniform(seed: int, name: str, start: int, n: int, stream: int = 0) -> "NDArray[Any]":
    """Uniform on [0, 1), multiples of 2**-24: (n,) float32."""
    import numpy as np

    return np.asarray((words(seed, name, start, n, stream) >> np.uint32(8)) * np.float32(2.0**-24), np.float32)


def normal(seed: int, name: str, start: int, n: int) -> "NDArray[Any]":
    """Standard normal (Box-Muller, from two streams): (n,) float32."""
    import numpy as np

    radius = np.sqrt(-2 * np.log1p(-uniform(seed, name, start, n, 0).astype(np.float64)))
    angle = 2 * np.pi * uniform(seed, name, start, n, 1).astype(np.float64)
    return np.asarray(radius * np.cos(angle), np.float32)
