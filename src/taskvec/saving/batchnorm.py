"""BatchNorm's running variances in a result: sums of variances with negative coefficients can be below zero."""

from collections.abc import Sequence

from taskvec.errors import NonFiniteError
from taskvec.formats.sink import Sink
from taskvec.notes import note
from taskvec.numbers.dtypes import BITS
from taskvec.saving.plan import Plan
from taskvec.sources.source import Spec

VARIANCES = ("running_var", "moving_variance")  # the ends of their names, in torch and in Keras
SHOWN = 5  # tensors that a note names


def require_positive(todo: Plan, sink: Sink, allow: bool) -> None:
    """Raise NonFiniteError if a running variance of a model that was written to `sink` is negative: a network divides
    by their square roots, so that it would compute NaN. A note instead, if that is allowed. Reads nothing of a model
    that has none."""
    found = [name for name, spec in todo.specs.items() if todo.kind and _is_negative(name, spec, sink)]
    if not found:
        return
    if not allow:
        raise negative(found)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    note(f"{_text(found)}: {', '.join(found[:SHOWN])}{more}")


def negative(found: Sequence[str]) -> NonFiniteError:
    """The error that names negative variances."""
    return NonFiniteError(f"{_text(found)}:", found)


def _text(found: Sequence[str]) -> str:
    ending = next(end for end in VARIANCES if found[0].endswith(end))
    return (
        "variances of BatchNorm would be negative, and the model would compute NaN. Keep those of the base, "
        f'base + 0.5*without("*.{ending}")*(tuned - base), or allow it (--allow-nonfinite) and estimate them anew on '
        "data, in training mode"
    )


def _is_negative(name: str, spec: Spec, sink: Sink) -> bool:
    """Whether a tensor that was written is a running variance with a number below zero."""
    if not (spec.arithmetic and name.endswith(VARIANCES)):
        return False
    data = bytearray(spec.nbytes)
    sink.read(name, 0, memoryview(data))
    return below_zero(data, BITS[spec.dtype] // 8)


def below_zero(data: bytes | bytearray, width: int) -> bool:
    """Whether one of the little-endian floats of `width` bytes is below zero: its sign bit is set, and it is not -0."""
    signs = data[width - 1 :: width]
    return any(
        top > 127 and any(data[k * width : (k + 1) * width - 1] + bytes([top & 127])) for k, top in enumerate(signs)
    )
