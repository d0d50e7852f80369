import numpy as np

from taskvec import method


@method(local=True, ranges={"limit": (0, 10)})
def clipped(tau, *, limit=0.01):
    """Every entry moved to within -limit .. limit."""
    return np.clip(tau, -limit, limit)
