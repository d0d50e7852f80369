"""How offensive is a text? The judge of demo/forget.py's tasks: alt-profanity-check, a linear model of words."""

from collections.abc import Sequence


def score(texts: Sequence[str]) -> list[float]:
    """P(offensive) of each text."""
    from profanity_check import predict_prob

    return predict_prob(list(texts)).tolist()
