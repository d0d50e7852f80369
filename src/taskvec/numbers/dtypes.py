"""The dtypes of the safetensors format: their names, widths in bits, and which of them take part in arithmetic."""

import math
from types import MappingProxyType

from taskvec.errors import RecipeError

BITS = MappingProxyType(
    {
        "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64,
        "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
        "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
        "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
    }
)  # fmt: skip

# The dtypes that can be summed, each at the place that is its code in _kernels.c.
ARITHMETIC = ("F32", "F64", "F16", "BF16", "F8_E4M3", "F8_E5M2")
CODES = MappingProxyType({name: code for code, name in enumerate(ARITHMETIC)})

LONG_NAMES = MappingProxyType(
    {
        "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
        "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    }
)  # fmt: skip

SHORT_NAMES = MappingProxyType({"fp64": "F64", "fp32": "F32", "float": "F32", "fp16": "F16", "half": "F16"})


def parse_dtype(name: str) -> str:
    """The short name of a dtype: `"bfloat16"`, `"torch.bfloat16"` and `"BF16"` give `"BF16"`.

    Raises RecipeError for a dtype that cannot be computed."""
    plain = str(getattr(name, "__name__", name)).removeprefix("torch.")  # numpy's and torch's own dtypes, too
    short = LONG_NAMES.get(plain) or SHORT_NAMES.get(plain.lower(), plain.upper())
    if short not in CODES:
        raise RecipeError(f"dtype {name!r} is not one we can compute: use one of {', '.join(LONG_NAMES)}")
    return short


def elements_in(dtype: str, size: int) -> int:
    """The largest number of elements that fill whole bytes, at most `size` bytes. (Four of 6 bits fill three bytes.)"""
    together = 8 // math.gcd(8, BITS[dtype])  # so many elements are the fewest that fill whole bytes
    return size * 8 // BITS[dtype] // together * together


def accumulator(*dtypes: str) -> str:
    """The dtype in which a sum of these dtypes is held: F64 if one of them is F64, otherwise F32."""
    return "F64" if "F64" in dtypes else "F32"


def numpy_dtype(name: str) -> str:
    """numpy's name of a dtype that is not summed, or "uint8" (bytes) for one that numpy does not have."""
    special = {"BOOL": "bool", "C64": "complex64"}
    kind = {"I": "int", "U": "uint"}.get(name[0])
    return special.get(name) or (f"{kind}{name[1:]}" if kind else "uint8")
