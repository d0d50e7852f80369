"""Random numbers with a key: a draw depends on (seed, tensor name, position), never on the order of work.

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011): a
bijection of a 128-bit counter under a 64-bit key that passes BigCrush. Element i has word i mod 4 of counter i div 4.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

MULTIPLIERS, WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


def philox(counter: "NDArray[Any]", key: tuple[int, int]) -> "NDArray[Any]":
    """counter: (n, 4) uint32; key: two 32-bit words. (n, 4) uint32, each row a bijection of its counter."""
    import numpy as np

    a, b, c, d = (counter[:, k].astype(np.uint64) for k in range(4))
    k0, k1 = key
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(ROUNDS):
        first, second = a * np.uint64(MULTIPLIERS[0]), c * np.uint64(MULTIPLIERS[1])
        a, b, c, d = second >> half ^ b ^ np.uint64(k0), second & mask, first >> half ^ d ^ np.uint64(k1), first & mask
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return np.stack([a, b, c, d], axis=1).astype(np.uint32)


def words(seed: int, name: str, start: int, n: int, stream: int = 0) -> "NDArray[Any]":
    """32 random bits for each of the elements start .. start+n of a tensor: (n,) uint32."""
    import numpy as np
    from blake3 import blake3

    digest = blake3(f"{seed}/{name}".encode()).digest()
    key = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")
    first, last = start // 4, -(-(start + n) // 4)
    index = np.arange(first, last, dtype=np.uint64)
    counter = np.zeros((last - first, 4), np.uint32)
    counter[:, 0], counter[:, 1], counter[:, 2] = index & np.uint64(0xFFFFFFFF), index >> np.uint64(32), stream
    return philox(counter, key).reshape(-1)[start - 4 * first :][:n]


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
