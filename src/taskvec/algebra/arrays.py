"""`from_arrays`: numpy arrays in memory as Weights."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from taskvec.algebra.weights import Weights
from taskvec.errors import MismatchError, TaskvecError
from taskvec.sources.in_memory import ArraySource
from taskvec.sources.source import Spec

if TYPE_CHECKING:
    import numpy as np


def from_arrays(
    arrays: "Mapping[str, np.ndarray[Any, Any]]",
    name: str = "arrays",
    mass: int = 1,
    statistic: str = "",
    base: Weights | None = None,
) -> Weights:
    """Weights whose tensors are numpy arrays in memory, given as {name: array}. The arrays are not copied.

    arrays: numpy's float16, float32, float64, integers and bool, and the bfloat16 and float8 of ml_dtypes.
    name: what recipes call them.
    mass: 1 for a model, 0 for a task vector.
    statistic: "fisher" or "gram" for statistics of a model, as `stats` computes them. Only methods take these.
    base: of a task vector (mass 0) the model that it changes. The vector may then name some of the model's tensors, and
        is zero in the others. Raises MismatchError for a tensor that the model has not, or has in another shape.

    Leave the arrays as they are while the result is used. `save` compares a digest of every byte before and after its
    work, and raises SourceChanged for an array that was written to. To use new numbers, call `from_arrays` again.
    """
    import numpy as np

    if mass not in (0, 1):
        raise TaskvecError(f"mass is 1 for a model and 0 for a task vector, not {mass!r}")
    specs, kept = {}, {}
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray | np.generic) or isinstance(array, np.ma.MaskedArray):
            kind = type(array).__name__
            raise TaskvecError(f"{key} is a {kind}, not a plain numpy array: give numpy.asarray of it, without a mask")
        specs[key] = Spec(tuple(array.shape), _dtype_of(array.dtype, key))
        kept[key] = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    changes = _fingerprint(specs, base, mass, statistic, name) if base is not None else None
    return Weights({ArraySource(name, kept, specs, 0 if statistic else mass, statistic, changes): 1})


def _fingerprint(specs: Mapping[str, Spec], base: Weights, mass: int, statistic: str, name: str) -> str:
    """The fingerprint of the model that a task vector changes, if the vector fits it."""
    model = base.donor
    if mass or statistic or model is None or model.mass != 1 or base.terms != {model: 1}:
        raise TaskvecError("base is the model, a single one, that a task vector (mass=0) changes")
    problems = [f"{key} is not in {model.text}" for key in specs if key not in model.specs]
    problems += [
        f"{key} is {list(spec.shape)} in {name} and {list(model.specs[key].shape)} in {model.text}"
        for key, spec in specs.items()
        if key in model.specs and spec.shape != model.specs[key].shape
    ]
    if problems:
        raise MismatchError(f"{name} does not fit the model that it is to change:", problems)
    return model.fingerprint


def _dtype_of(dtype: Any, name: str) -> str:
    kinds = {"f": "F", "i": "I", "u": "U"}
    special = {
        "bool": "BOOL",
        "complex64": "C64",
        "bfloat16": "BF16",
        "float8_e4m3fn": "F8_E4M3",
        "float8_e5m2": "F8_E5M2",
    }
    if dtype.name in special:
        return special[dtype.name]
    if dtype.kind in kinds and dtype.itemsize <= 8:
        return f"{kinds[dtype.kind]}{dtype.itemsize * 8}"
    raise TaskvecError(f"{name} has dtype {dtype}, which the safetensors format does not know")
