"""Counts the numbers that differ between two merged checkpoints. It uses the reader of neither program."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from checkpoints import fp32, weight_files

STEP = 4 << 20  # numbers compared at a time
CANCELLED = 2.0**-21  # the share of the largest input that float32 may lose in a sum of a few terms


@dataclass(frozen=True)
class Agreement:
    """How many numbers were compared, how many differ, and by how many steps of bfloat16 (ulps) at most.

    Where a sum cancels to almost nothing, all that is left of it is the rounding of its terms in float32, and its steps
    are too fine to count. Such numbers, apart by more than 1 ulp but by less than CANCELLED of the largest input there,
    are counted in `cancelled` and not in `max_ulp`."""

    numbers: int
    differ: int
    max_ulp: int
    cancelled: int


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Name -> the bits of a bfloat16 tensor, mapped from the files of a checkpoint."""
    by_name: dict[str, np.ndarray] = {}
    for path in weight_files(folder):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, spec in header.items():
            if spec["dtype"] != "BF16":
                raise ValueError(f"{name} in {path.name} is {spec['dtype']}; this check knows BF16 only")
            start = 8 + length + spec["data_offsets"][0]
            by_name[name] = np.memmap(path, np.uint16, "r", start, tuple(spec["shape"]))
    return by_name


def places(bits: np.ndarray) -> np.ndarray:
    """The place of each bfloat16 on the line of all of them, so that neighbours differ by 1 and both zeros are 0."""
    magnitude = (bits & 0x7FFF).astype(np.int32)
    return np.where(bits & 0x8000, -magnitude, magnitude)


def finite(bits: np.ndarray) -> bool:
    return not ((bits & 0x7F80) == 0x7F80).any()


def agree(a: Path, b: Path, inputs: list[Path]) -> Agreement:
    """Compare all numbers of two merges of `inputs`. ValueError if their tensors differ, or a number is not finite."""
    left, right, sources = tensors(a), tensors(b), [tensors(folder) for folder in inputs]
    if {k: v.shape for k, v in left.items()} != {k: v.shape for k, v in right.items()}:
        raise ValueError(f"{a.name} and {b.name} do not hold the same tensors")
    numbers = differ = max_ulp = cancelled = 0
    for name, tensor in left.items():
        for at in range(0, tensor.size, STEP):
            part = slice(at, at + STEP)
            x, y = tensor.ravel()[part], right[name].ravel()[part]
            if not (finite(x) and finite(y)):
                raise ValueError(f"{name} is not finite")
            unlike = np.flatnonzero(x != y)
            if unlike.size:
                x, y = x[unlike], y[unlike]
                terms = np.max([abs(fp32(source[name].ravel()[part][unlike])) for source in sources], axis=0)
                ulps = abs(places(x) - places(y))
                excused = (ulps > 1) & (abs(fp32(x) - fp32(y)) < CANCELLED * terms)
                differ += unlike.size
                cancelled += int(excused.sum())
                max_ulp = max(max_ulp, int(ulps[~excused].max(initial=0)))
        numbers += tensor.size
    return Agreement(numbers, differ, max_ulp, cancelled)
