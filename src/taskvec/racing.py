"""Racing: is a candidate, judged on a part of the examples, still in with a chance against the best so far?

The examples are resampled as a bootstrap does, the same draw for both models; the chance is the share of draws in which
the candidate's objective is at least the rival's. In the spirit of F-Race (Birattari et al., GECCO 2002), with the
bootstrap in place of the Friedman test, since an objective may be any arithmetic on several metrics.
"""

from collections.abc import Mapping

from taskvec.findings import Numbers
from taskvec.judging import Judge

DRAWS = 400
CHANCE = 0.01  # below which a candidate is given up


def hopeless(judge: Judge, rival: Mapping[str, Numbers], part: Mapping[str, Numbers]) -> bool:
    """Whether the candidate that scored `part`, the first examples of each metric, has next to no chance.

    One that is still better in some other objective is never hopeless.
    """
    import numpy as np

    draw = np.random.default_rng(0)
    ours = {name: np.asarray(values, float) for name, values in part.items()}
    theirs = {name: np.asarray(rival[name], float)[: len(values)] for name, values in ours.items()}
    wins = 0
    for _ in range(DRAWS):
        places = {name: draw.integers(0, len(values), len(values)) for name, values in ours.items()}
        us, them = (
            judge.goods({name: float(values[places[name]].mean()) for name, values in scores.items()})
            for scores in (ours, theirs)
        )
        wins += any(a >= b for a, b in zip(us, them, strict=True))
    return wins < CHANCE * DRAWS
