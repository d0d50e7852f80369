"""Two plain stacks of linear layers with 6 and 7 hidden units, for the tests of units in another order."""

import numpy as np

import taskvec as tv

SHAPES = {"fc1.weight": (6, 5), "fc1.bias": (6,), "fc2.weight": (7, 6), "fc2.bias": (7,), "fc3.weight": (3, 7)}


def pair(build, folder):
    """Writes folders a/ and b/ with models in float16, and p.safetensors with the order of b's units that is most like
    a's. Gives the folder and the alignment."""
    for seed, name in enumerate("ab"):
        build.model(folder / name, build.tensors(seed, SHAPES, np.float16))
    alignment = tv.match(tv.load(folder / "a"), tv.load(folder / "b"))
    alignment.save(folder / "p.safetensors")
    return folder, alignment
