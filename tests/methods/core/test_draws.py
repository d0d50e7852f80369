"""Random numbers with a key: the published numbers, and draws that depend on the position alone."""

import numpy as np
import pytest

from taskvec.methods.core.draws import normal, uniform
from taskvec.numbers.in_numpy import philox_numpy
from taskvec.numbers.kernels import philox

KNOWN = [  # the generator's published test vectors: counter and stream, key, result
    (0, 0, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (2**64 - 1, 2**64 - 1, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        0x85A308D3243F6A88, 0x0370734413198A2E, (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]  # fmt: skip


@pytest.mark.parametrize("function", [philox, philox_numpy])
@pytest.mark.parametrize(("first", "stream", "key", "result"), KNOWN)
def test_philox_gives_the_published_numbers(function, first, stream, key, result):
    out = np.zeros(4, np.uint32)
    function(out, 1, first, stream, key)
    assert tuple(out) == result


def test_the_compiled_draws_are_numpy_s():
    for n in (0, 1, 7, 255, 2049, 100_003):
        one, two = np.zeros(4 * n, np.uint32), np.zeros(4 * n, np.uint32)
        for function, out in ((philox, one), (philox_numpy, two)):
            function(out, n, (1 << 32) - 5, 3, (0xDEADBEEF, 77))
        assert np.array_equal(one, two)


@pytest.mark.parametrize("start", [0, 1, 3, 4, 1_000_001])
def test_a_draw_depends_on_its_position_alone(start):
    whole = uniform(7, "w", start - start % 4, 50)
    assert np.array_equal(uniform(7, "w", start, 20), whole[start % 4 :][:20])
    assert not np.array_equal(uniform(8, "w", start, 20), uniform(7, "w", start, 20))
    assert not np.array_equal(uniform(7, "v", start, 20), uniform(7, "w", start, 20))


def test_uniform_is_uniform_and_normal_is_normal():
    """Chi-square over 64 bins, lag-1 correlation, moments; 1e6 draws, bounds at about five standard errors."""
    u = uniform(0, "w", 0, 1_000_000).astype(np.float64)
    assert u.min() >= 0 and u.max() < 1
    counts = np.histogram(u, 64, (0, 1))[0]
    assert abs(((counts - 15625) ** 2 / 15625).sum() - 63) < 5 * np.sqrt(2 * 63)
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 5e-3
    z = normal(0, "w", 0, 1_000_000).astype(np.float64)
    assert abs(z.mean()) < 5e-3 and abs(z.std() - 1) < 5e-3 and abs((z**4).mean() - 3) < 0.05
