"""Whether a task vector is used with the model that it was made from.

A task vector knows the fingerprint of its base, and a model has the same fingerprint or it is another model. It may be
the same model in another dtype, though, because a fingerprint depends on the dtypes. To find that out, the fingerprint
is computed that the model would have in each of the usual dtypes. So a float32 model is known as the base if it becomes
the base when it is rounded to bfloat16. The reverse cannot be told: a bfloat16 model may be the rounding of many
float32 models.
"""

from collections.abc import Iterable, Iterator, Mapping

from taskvec.errors import TaskvecError
from taskvec.escapes import in_shell
from taskvec.numbers import kernels
from taskvec.numbers.dtypes import BITS, LONG_NAMES
from taskvec.sources.abilities import Composite, FromFiles
from taskvec.sources.source import Source, Spec, fingerprint

STORED = ("bfloat16", "float16", "float32")  # the dtypes in which models are usually saved


def strangers(vectors: Iterable[Source], models: Mapping[str, Source]) -> Iterator[str]:
    """Lines for each task vector whose base is none of the models. models: fingerprint -> model."""
    for vector in vectors:
        if vector.base and vector.base not in models:
            here = ", ".join(f"{m.text} ({f[:16]})" for f, m in models.items())
            yield f"{vector.text} was made from the model {vector.base[:16]}, and is used with {here}"
            yield from _same(vector.base, models.values())


def _same(base: str, models: Iterable[Source]) -> Iterator[str]:
    """A line that says which of the models is the base in another dtype, and what to type; none if none is."""
    for model in models:
        uri = model.uri if isinstance(model, FromFiles) else None
        if isinstance(model, Composite):  # the fingerprint of a call's result is made from its text
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
    """The fingerprint that a model would have if all its floating-point tensors had this dtype; "" if it cannot be
    read. Reads only the samples that a fingerprint is made of."""
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
