"""Whether a task vector stands beside the model that it was made from, as fingerprints tell.

A fingerprint covers dtypes, so that a base that was saved in another dtype has another one. That it is the same model
can be told where its numbers, in the dtype of the base, have the base's fingerprint: a float32 model whose rounding to
bfloat16 the base is, or a bfloat16 one that was made float32. A bfloat16 model does not tell of which float32 model it
is the rounding.
"""

from collections.abc import Iterable, Iterator, Mapping

from taskvec.errors import TaskvecError
from taskvec.escapes import in_shell
from taskvec.numbers import kernels
from taskvec.numbers.dtypes import BITS, LONG_NAMES
from taskvec.sources.abilities import Composite, FromFiles
from taskvec.sources.source import Source, Spec, fingerprint

STORED = ("bfloat16", "float16", "float32")  # in which models are saved


def strangers(vectors: Iterable[Source], models: Mapping[str, Source]) -> Iterator[str]:
    """A line for each task vector whose base is none of the models, which are given by their fingerprints."""
    for vector in vectors:
        if vector.base and vector.base not in models:
            here = ", ".join(f"{m.text} ({f[:16]})" for f, m in models.items())
            yield f"{vector.text} was made from the model {vector.base[:16]}, and is used with {here}"
            yield from _same(vector.base, models.values())


def _same(base: str, models: Iterable[Source]) -> Iterator[str]:
    """That one of the models is the base in another dtype, and what to type."""
    for model in models:
        uri = model.uri if isinstance(model, FromFiles) else None
        if isinstance(model, Composite):  # the result of a call, whose fingerprint is that of its text
            continue
        for dtype in STORED:
            if fingerprint_in(model, LONG_NAMES[dtype]) == base:
                make = f": taskvec merge m {in_shell(f'm={uri}')} --dtype {dtype} -o base-{dtype}" if uri else ""
                yield (
                    f"{model.text} is that model in another dtype: as {dtype} it has the fingerprint {base[:16]}. Go "
                    f"on with it (--force), or write it as {dtype} first{make}"
                )
                return


def fingerprint_in(source: Source, dtype: str) -> str:
    """The fingerprint that a model would have with all its floating-point tensors in one dtype; "" if it cannot be
    read. As many bytes are read as for its own."""
    specs = {n: Spec(s.shape, dtype) if s.arithmetic else s for n, s in source.specs.items()}

    def readinto(name: str, start: int, out: memoryview) -> None:
        given = source.specs[name].dtype
        if given == specs[name].dtype:
            source.readinto(name, start, out)
            return
        count = len(out) * 8 // BITS[dtype]
        held = memoryview(bytearray(count * BITS[given] // 8))
        source.readinto(name, start, held)
        kernels.combine(out, dtype, [held], [given], [1.0], count)

    try:
        return fingerprint(specs, readinto)
    except (TaskvecError, OSError):
        return ""
