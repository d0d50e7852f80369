"""BatchNorm's running variances in a result: sums of variances with negative coefficients can be below zero."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from taskvec.errors import NonFiniteError
from taskvec.formats.sink import Layout
from taskvec.notes import note
from taskvec.numbers.dtypes import BITS
from taskvec.saving.plan import Plan

VARIANCES = ("running_var", "moving_variance")  # the ends of their names, in torch and in Keras
SHOWN = 5  # tensors that a note names


def require_positive(todo: Plan, folder: Path, allow: bool) -> None:
    """Raise NonFiniteError if a running variance of a model that was written to `folder` is negative: a network divides
    by their square roots, so that it would compute NaN. A note instead, if that is allowed. Reads nothing of a model
    that has none."""
    found = [name for shard in todo.shards if todo.kind for name in _negative(shard, folder / shard.filename)]
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


def _negative(shard: Layout, path: Path) -> Iterator[str]:
    """The tensors of one file that have a number below zero."""
    names = [name for name, spec in shard.specs.items() if spec.arithmetic and name.endswith(VARIANCES)]
    if names:
        with path.open("rb") as file:
            for name in names:
                file.seek(shard.offsets[name])
                if below_zero(file.read(shard.specs[name].nbytes), BITS[shard.specs[name].dtype] // 8):
                    yield name


def below_zero(data: bytes, width: int) -> bool:
    """Whether one of the little-endian floats of `width` bytes is below zero: its sign bit is set, and it is not -0."""
    signs = data[width - 1 :: width]
    return any(
        top > 127 and any(data[k * width : (k + 1) * width - 1] + bytes([top & 127])) for k, top in enumerate(signs)
    )
