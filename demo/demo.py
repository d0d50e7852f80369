"""The demo, `make demo`: add, negate and combine the task vectors of a real sentence encoder, in about two minutes.

steps.py is the story; suite.py evaluates weights in one live module; show.py prints; train.py made the vectors.
"""

from entry import run

if __name__ == "__main__":
    run("steps")
