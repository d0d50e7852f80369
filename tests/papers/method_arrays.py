"""Small named arrays, what a recipe makes of them, and the comparison with eager lines of a paper."""

import numpy as np
import torch

import taskvec as tv

SHAPES = {"embed.weight": (31, 24), "layers.0.w": (24, 24), "layers.0.b": (24,), "layers.1.w": (24, 24), "one": (1,)}
UNEVEN = {  # with a convolution and an oblong matrix
    "embed.weight": (31, 24), "layers.0.conv": (6, 5, 4), "layers.0.b": (24,), "layers.1.w": (24, 40), "one": (1,),
}  # fmt: skip


def arrays(seed, scale=1.0, coarse=False, shapes=SHAPES):
    """Named float32 arrays; `coarse` ones take few values, so that many magnitudes are equal."""
    rng = np.random.default_rng(seed)
    normal = {name: (scale * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    return {name: np.round(2 * values) / 2 for name, values in normal.items()} if coarse else normal


def sources(taus, mass=0):
    """The arrays as sources t0, t1, ..."""
    return {f"t{k}": tv.from_arrays(tau, f"t{k}", mass=mass) for k, tau in enumerate(taus)}


def made(recipe, taus, mass=0):
    """The tensors that a recipe over t0, t1, ... makes."""
    weights = tv.parse(recipe, **{name: source for name, source in sources(taus, mass).items() if name in recipe})
    return {name: weights[name] for name in weights}


def same(tensors, wanted, rtol=0.0):
    """The same names, and the same numbers up to rtol."""
    assert tensors.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_allclose(tensors[name], wanted[name], rtol=rtol, atol=rtol, err_msg=name)


def eagerly(taus, function, *more):
    """The function of each tensor's arguments, float64 tensors of torch."""
    return {name: function([torch.tensor(tau[name]).double() for tau in taus], *more).numpy() for name in taus[0]}
