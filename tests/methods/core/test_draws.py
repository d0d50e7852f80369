"""Random numbers with a key: draws depend on the position alone."""

import numpy as np
import pytest

from taskvec.methods.core.draws import normal, uniform


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
