"""Sparsifiers: from one task vector to a sparser one. `elect` (consensus.py) joins them.

Pure functions of a float32 array of any shape; what begins with `threshold` is measured in a pass before.
"""

import math
from typing import TYPE_CHECKING, Any

from taskvec import kernels
from taskvec.methods.applied import Applied, Measured
from taskvec.methods.draws import normal, uniform, words
from taskvec.methods.lift import Method, Range
from taskvec.methods.passes import grams, thresholds

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DENSITY = Range(0, 1, open_below=True)
SCOPES = {"scope": ("model", "tensor")}


def _kept(call: Applied, threads: int, progress: "Callable[[int], None]") -> Measured:
    return thresholds(call, threads, progress, lambda density, **_: {"threshold": density})


def trim(tau: "NDArray[Any]", *, density: float = 0.2, scope: str = "model", threshold: float) -> "NDArray[Any]":
    """TIES, step 1: the entries whose magnitude is among the largest `density` of all, the others 0.

    TIES-Merging (Yadav et al., NeurIPS 2023, arXiv 2306.01708), default k = 20 % of the whole model. scope="tensor"
    ranks within each tensor, as mergekit does. Of d entries those at or above the floor(density * d)-th largest
    magnitude are kept, with everything equal to it. Deviation: the authors' code keeps one entry more (`kthvalue` of
    d - k, and `>=`).
    """
    return _band_of(tau, threshold, float("inf"))


def _band(call: Applied, threads: int, progress: "Callable[[int], None]") -> Measured:
    def shares(density: float, gamma: float, **_: float) -> dict[str, float]:
        return {"threshold": min(1.0, density + gamma), "outlier": gamma}

    return thresholds(call, threads, progress, shares)


def breadcrumbs(
    tau: "NDArray[Any]",
    *,
    density: float = 0.1,
    gamma: float = 0.01,
    scope: str = "tensor",
    threshold: float,
    outlier: float,
) -> "NDArray[Any]":
    """Without the `gamma` largest entries (outliers) and the smallest ones: `density` of them are left.

    Model Breadcrumbs (Davari & Belilovsky, ECCV 2024, arXiv 2312.06795): beta = density .1-.2, gamma .01-.1, per layer.
    Deviation: "layer" is one tensor. Entries equal to a threshold go with the larger ones.
    """
    return _band_of(tau, threshold, outlier)


def _band_of(tau: "NDArray[Any]", low: float, high: float) -> "NDArray[Any]":
    import numpy as np

    found, given = np.empty(tau.shape, np.float32), np.ascontiguousarray(tau)
    kernels.keep(found, given, found.size, low, high)
    return found


def dare(tau: "NDArray[Any]", *, drop: float = 0.5, seed: float = 0, name: str, start: int) -> "NDArray[Any]":
    """Each entry is dropped with probability `drop`, the others divided by 1 - drop: the expectation stays.

    DARE (Yu et al., ICML 2024, arXiv 2311.03099): m ~ Bernoulli(1-p), m * tau / (1-p). The draw of an entry depends on
    the seed, the tensor's name and the entry's position alone. Deviation from mergekit, which rescales by the ratio of
    L1 norms.
    """
    import numpy as np

    found, given = np.empty(tau.shape, np.float32), np.ascontiguousarray(tau)
    drawn = words(int(seed), name, start, tau.size)
    kernels.drop(found, given, drawn, found.size, math.ceil(drop * 2**24), 1 / (1 - drop))
    return found


def della(
    tau: "NDArray[Any]",
    *,
    density: float = 0.7,
    epsilon: float = 0.14,
    seed: float = 0,
    name: str,
    start: int,
) -> "NDArray[Any]":
    """MagPrune: within a row, the larger an entry the likelier it stays; kept entries are divided by that probability.

    DELLA (Deep et al., 2024, arXiv 2406.11617): ranks 0 .. n-1 of |tau| in a row of n give
    p = density - epsilon/2 + epsilon * rank / (n-1), from the smallest to the largest; equal magnitudes rank in the
    order of their columns. Its example has drop .3, window .14. Sees whole tensors.
    """
    import numpy as np

    rows = np.abs(tau).reshape(-1, tau.shape[-1] if tau.ndim else 1)
    order = np.argsort(rows, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(rows.shape[1])[None], axis=1)
    p = density - epsilon / 2 + epsilon * rank / max(1, rows.shape[1] - 1)
    p = np.clip(p, np.finfo(np.float32).tiny, 1).astype(np.float32).reshape(tau.shape)
    kept = uniform(int(seed), name, start, tau.size).reshape(tau.shape) < p
    return np.asarray(np.where(kept, tau / p, np.float32(0)), np.float32)


def _sizes(call: Applied, threads: int, progress: "Callable[[int], None]") -> Measured:
    """||tau|| and ||r|| of every tensor; r is drawn here once more, in the parts in which tau is read."""
    import numpy as np

    found: dict[str, dict[str, float]] = {}
    for name, told in grams(call, threads, progress).items():
        seed, numel, square = int(float(call.numbers(name)["seed"])), call.specs[name].numel, 0.0  # type: ignore[arg-type]
        for at in range(0, numel, 1 << 18):
            drawn = normal(seed, name, at, min(1 << 18, numel - at)).astype(np.float64)
            square += float(drawn @ drawn)
        found[name] = {"ratio": (told["gram"][0][0] / square) ** 0.5 if square else 0.0}
    return found


def random_like(tau: "NDArray[Any]", *, seed: float = 0, ratio: float, name: str, start: int) -> "NDArray[Any]":
    """A random direction with the norm of tau in every tensor: r * ||tau_l|| / ||r||, r ~ N(0, I).

    The random-vector baseline of Ilharco et al. (ICLR 2023), table 1. `ratio` is measured.
    """
    import numpy as np

    return np.asarray(normal(int(seed), name, start, tau.size).reshape(tau.shape) * np.float32(ratio), np.float32)


def _ranks(shape: tuple[int, ...], count: int) -> int:
    """Of `della`: the order, the ranks and the probabilities, in 64 bits, and what they are computed from."""
    return 14 * 4 * math.prod(shape)


METHODS = (
    Method(trim, local=True, measure=_kept, passes=2, most=1, ranges={"density": DENSITY}, choices=SCOPES),
    Method(
        breadcrumbs, local=True, measure=_band, passes=2, most=1,
        ranges={"density": DENSITY, "gamma": Range(0, 1)}, choices=SCOPES,
    ),
    Method(dare, local=True, keyed=True, most=1, ranges={"drop": Range(0, 1 - 2**-24)}),
    Method(della, keyed=True, most=1, ranges={"density": DENSITY, "epsilon": Range(0, 1)}, workspace=_ranks),
    Method(random_like, local=True, keyed=True, measure=_sizes, passes=1, most=1),
)  # fmt: skip
