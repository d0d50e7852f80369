"""BatchNorm's running variances in an output must not be negative, as a sum with negative coefficients can be."""

from collections.abc import Sequence

from taskvec.errors import NonFiniteError
from taskvec.formats.sink import Sink
from taskvec.notes import note
from taskvec.numbers.dtypes import BITS
from taskvec.saving.plan import Plan
from taskvec.sources.source import Spec

VARIANCES = ("running_var", "moving_variance")  # how the names of such tensors end, in torch and in Keras
SHOWN = 5  # tensors that a note names


def require_positive(todo: Plan, sink: Sink, allow: bool) -> None:
    """Raise NonFiniteError if a running variance of the model that was written to `sink` is negative.

    A network divides by the square roots of these variances, so that it would compute NaN. If `allow` is set, a note
    says so instead. Only the running variances are read.
    """
    names = [name for name, spec in todo.specs.items() if todo.kind and _is_negative(name, spec, sink)]
    if not names:
        return
    if not allow:
        raise negative(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    note(f"{_text(names)}: {', '.join(names[:SHOWN])}{more}")


def negative(names: Sequence[str]) -> NonFiniteError:
    """The error that names these variances, which are negative."""
    return NonFiniteError(f"{_text(names)}:", names)


def _text(names: Sequence[str]) -> str:
    ending = next(end for end in VARIANCES if names[0].endswith(end))
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
    """Whether a little-endian float of `width` bytes is below zero: its sign bit is set, and it is not -0."""
    signs = data[width - 1 :: width]
    return any(
        top > 127 and any(data[k * width : (k + 1) * width - 1] + bytes([top & 127])) for k, top in enumerate(signs)
    )
