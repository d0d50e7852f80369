"""`layerwise`: a vector with a coefficient of its own for each layer, or for each tensor."""

from taskvec.algebra.coefficients import Coefficient, knob, per
from taskvec.algebra.weights import Weights
from taskvec.errors import RecipeError
from taskvec.sources.positions import layer_of

GRAINS = ("layer", "tensor")


def layerwise(vector: Weights, name: str = "lam", *, by: str = "layer") -> Weights:
    """`vector` with a knob of its own in front of each layer, or of each tensor. For `learn` and `search`.

    by: "layer" makes the knobs NAME_0, NAME_1, ..., and NAME_rest for tensors of no layer. The layer is the first
        number in a tensor's name, in each stack of layers. "tensor" makes NAME_k for the k-th tensor of the vector,
        which AdaMerging calls "layer-wise" and aTLAS calls blocks.
    """
    if by not in GRAINS:
        raise RecipeError(f"by is {' or '.join(GRAINS)}, not {by!r}")
    if not isinstance(vector, Weights):
        raise RecipeError(f"layerwise works on a task vector, not on {type(vector).__name__}")
    touched = [n for n, spec in vector.specs.items() if spec.arithmetic]
    if by == "tensor":
        return vector * per({**{n: knob(f"{name}_{k}") for k, n in enumerate(touched)}, "*": 0})
    layers = dict.fromkeys(layer for n in touched if (layer := layer_of(n)))  # (stack, number) in order of the tensors
    stacks = list(dict.fromkeys(stack for stack, _ in layers))
    table: dict[str, Coefficient] = {}
    for stack, number in layers:
        suffix = f"{stacks.index(stack)}_{number}" if len(stacks) > 1 else f"{number}"
        table[f"{stack}.{number}.*" if stack else f"{number}.*"] = knob(f"{name}_{suffix}")
    rest = {"*": knob(f"{name}_rest") if any(layer_of(n) is None for n in touched) else Coefficient.of(0)}
    return vector * per({**table, **rest})
