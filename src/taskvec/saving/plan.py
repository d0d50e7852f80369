"""What an output will look like, from the headers of its sources alone, before any data is read.

1. Every output tensor has a name, a shape and a dtype, which follow from the expression (`_output_specs`).
2. Tensors are put into files, and each gets its offset there, so that any block can be written at any time (`_shards`).
3. The largest blocks and the most threads are taken that the promised memory allows (`_memory`).
4. What cannot become a correct output is refused here, with all problems at once (`plan`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from taskvec.algebra.derived import Derived, reads
from taskvec.algebra.fitting import note_remarks
from taskvec.algebra.idle_patterns import vanishing
from taskvec.algebra.verbatim import verbatim
from taskvec.algebra.weights import Weights
from taskvec.errors import OutputError, RecipeError, TaskvecError
from taskvec.executors.threads import default_threads
from taskvec.formats import checkpoint
from taskvec.formats.header import LONGEST as LONGEST_HEADER
from taskvec.formats.sink import Layout, cost_of_sink, laid_out
from taskvec.notes import note
from taskvec.numbers.dtypes import BITS, accumulator, parse_dtype
from taskvec.places.local import PAGE
from taskvec.recipes.recipe import FUNCTIONS
from taskvec.saving.blocks import ranges
from taskvec.saving.copying import Beside
from taskvec.saving.cost import cost_of_block, cost_of_sources
from taskvec.sources.abilities import FromFiles, Measured, leaves_of, metadata_of, stored_of
from taskvec.sources.cost import Cost
from taskvec.sources.source import Source, Spec

PIECE = 256 << 10  # bytes of output that are hashed and written at once
BLOCKS = (2 << 20, 1 << 20, 512 << 10, PIECE)  # bytes of output that a thread computes at once, the largest that fits
PROGRAM = 64 << 20  # bytes of anonymous memory of the program itself: interpreter, numpy, headers of usual size
A_TENSOR, A_PIECE = 3000, 200  # bytes of bookkeeping
LOADED = ("model", "diffusion_pytorch_model")  # what transformers and diffusers call the weights, up to a variant
UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class Block:
    """Elements start .. start+count of one tensor, which go to `offset` of a shard's file."""

    index: int
    shard: int
    name: str
    start: int
    count: int
    offset: int


@dataclass(frozen=True)
class Plan:
    """What `save` would do. str(plan) says it to a person, `as_dict()` to a machine."""

    weights: Weights
    kind: int  # the mass of the output: 1 a model, 0 a task vector
    like: Source | None  # whose dtypes, integer tensors and side files the output has
    shards: tuple[Layout, ...]
    block: int  # bytes of output a block
    threads: int
    cost: Cost  # of the whole process
    ram: int
    beside: tuple[Beside, ...] = ()  # the files that are copied beside the weights

    @property
    def peak(self) -> int:
        """Bytes of anonymous memory, the program included: a promise."""
        return self.cost.of(self.threads)

    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        """Every output tensor. Made once: there may be a hundred thousand of them, and each asks for its own."""
        return {name: spec for shard in self.shards for name, spec in shard.specs.items()}

    @cached_property
    def bytes_in(self) -> int:
        """Bytes that will be read at most. Every source is read once. The arguments of a method's call are read once
        more for each pass in which it measures; calls with the same arguments mostly share that reading."""
        return sum(reads(self.weights, name) for name, spec in self.specs.items() if spec.arithmetic)

    @property
    def passes(self) -> int:
        """How often the data is gone through: once to write, and before that as often as methods must measure."""
        return 1 + max((s.passes for s in self.weights.terms if isinstance(s, Measured)), default=0)

    @property
    def bytes_out(self) -> int:
        """Bytes of the output files, headers included."""
        return sum(shard.size for shard in self.shards)

    def blocks(self) -> Iterator[Block]:
        """The work, in the order of the output files. It may be done in any order, with the same result."""
        index = 0
        for number, shard in enumerate(self.shards):
            in_order = sorted(shard.offsets, key=lambda name: shard.offsets[name])
            for name, start, count in ranges(shard.specs, in_order, self.block):
                offset = shard.offsets[name] + start * BITS[shard.specs[name].dtype] // 8
                yield Block(index, number, name, start, count, offset)
                index += 1

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        names = self.weights.names(FUNCTIONS)
        return {
            "recipe": self.weights.text(names),
            "mass": self.kind,
            "sources": {name: source.text for source, name in names.items()},
            "like": self.like.text if self.like else None,
            "tensors": len(self.specs),
            "passes": self.passes,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "shards": [{"file": s.filename, "tensors": len(s.specs), "bytes": s.size} for s in self.shards],
            "threads": self.threads,
            "block_bytes": self.block,
            "peak_memory_bytes": self.peak,
            "ram_bytes": self.ram,
        }

    def __str__(self) -> str:
        kinds = sorted({spec.dtype for spec in self.specs.values()})
        names = self.weights.names(FUNCTIONS)
        lines = [
            f"recipe   {self.weights.text(names)}",
            *(f"         {name} = {source.text} (mass {source.mass})" for source, name in names.items()),
            f"output   {'a model' if self.kind else 'a task vector'}: {len(self.specs)} tensors, {', '.join(kinds)}, "
            f"{readable(self.bytes_out)} in {len(self.shards)} file{'s' * (len(self.shards) != 1)}",
            f"reads    {readable(self.bytes_in)} in {self.passes} pass{'es' * (self.passes != 1)}",
            f"memory   at most {readable(self.peak)} of {readable(self.ram)}: {self.threads} threads, "
            f"blocks of {readable(self.block)}",
        ]
        return "\n".join(lines)


def plan(
    weights: Weights,
    *,
    like: Weights | None = None,
    dtype: str | None = None,
    shard_size: str | int = "5GB",
    ram: str | int = "1GB",
    threads: int | None = None,
    filename: str | None = None,
    durable: bool = True,
) -> Plan:
    """Lay out the output of `save`, and check everything that the headers can tell. Reads no data.

    dtype: the dtype of the output. Without it every tensor has its dtype in `like`, or else in the first model of the
        expression. A task vector is float32 (float64 if a source is). Differences of 16-bit floats are exact in it as
        long as both are within a factor of 2**13 or more, so that base + tau is the tuned model again.
    durable: whether the threads wait for the disk; then there are more of them.

    Raises MassError, MismatchError, UnboundKnob, RecipeError, and TaskvecError if `ram` is too small.
    """
    for given in (weights, like):
        if not isinstance(given, Weights | None):
            raise RecipeError(f"weights are what load or parse returns, not {type(given).__name__}")
    kind, weights = weights.kind(), weights.placed
    if dtype is None and like is None:
        weights = verbatim(weights)
    if not weights.terms:
        raise RecipeError("everything cancels: the expression is zero, there is nothing to write")
    donor = _donor(weights, like, kind)
    if donor is not None and donor not in weights.summed:
        _require_same_names(weights, donor)
    if kind and filename is None and isinstance(donor, Derived):
        _require_settled(donor)
    weights.check_patterns()
    for line in vanishing(weights.terms, weights.places):
        note(line)
    specs = _output_specs(weights, donor, kind, parse_dtype(dtype) if dtype else None)
    note_remarks(weights.mentioned, weights.reference)
    for c in weights.terms.values():  # a table or a gradient must have a value everywhere
        for place in weights.places.values():
            c.at(place)
    stem = weights_stem(donor) if kind else checkpoint.VECTOR.removesuffix(".safetensors")
    shards = _shards(specs, parse_size(shard_size, "shard size"), stem, filename)
    limit = parse_size(ram, "memory")
    busy = not durable or any(s.busy for s in weights.terms if isinstance(s, Derived))
    most = default_threads(busy) if threads is None else threads
    block, count, cost = _memory(weights, specs, limit, most, fixed=threads is not None)
    return Plan(weights, kind, donor, shards, block, count, cost, limit)


def _donor(weights: Weights, like: Weights | None, kind: int) -> Source | None:
    if like is not None:
        if len(like.terms) != 1:
            raise RecipeError("like= must be one model, not an expression")
        return next(iter(like.terms))
    return weights.donor if kind else None


def _require_settled(made: Derived) -> None:
    """Raise RecipeError if views have rebuilt the layers of a model in a way that no config.json can describe."""
    if problems := [f"{stack}: {problem}" for stack, told in made.settled()[1].items() for problem in told]:
        raise RecipeError(
            "config.json cannot say what these layers are, so that a loader would compute another model (write the "
            "weights alone, -o NAME.safetensors, if you write a config.json of your own):",
            problems,
        )


def _require_same_names(weights: Weights, donor: Source) -> None:
    Weights({}, summed=(donor, *weights.summed)).specs  # noqa: B018 - raises MismatchError


def _output_specs(weights: Weights, donor: Source | None, kind: int, dtype: str | None) -> dict[str, Spec]:
    """Shape and dtype of every output tensor, in the order of the expression's tensors."""
    specs = {}
    stored = stored_of(donor)
    for name, spec in weights.specs.items():
        model = stored.get(name) or spec
        if not spec.arithmetic:
            if kind:  # integers agree between the sources, so a task vector would hold only zeros, and leaves them out
                specs[name] = spec
        elif dtype:
            specs[name] = Spec(spec.shape, dtype)
        elif kind:
            specs[name] = Spec(spec.shape, model.dtype)
        else:
            dtypes = [source.specs[name].dtype for source in weights.terms if name in source.specs]
            specs[name] = Spec(spec.shape, accumulator(*dtypes))
    return specs


def weights_stem(donor: Source | None) -> str:
    """The beginning of the names of the output's files: those of the model that it is like, if loaders know them."""
    leaves = leaves_of(donor) if donor else []
    files = next((leaf.files for leaf in leaves if isinstance(leaf, FromFiles) and leaf.mass), {})
    name = re.sub(r"-\d{5}-of-\d{5}$", "", next(iter(files), checkpoint.MODEL).removesuffix(".safetensors"))
    return name if name.partition(".")[0] in LOADED else checkpoint.MODEL.removesuffix(".safetensors")


def _shards(specs: Mapping[str, Spec], limit: int, stem: str, filename: str | None) -> tuple[Layout, ...]:
    groups: list[dict[str, Spec]] = [{}]
    left = limit
    for name, spec in specs.items():
        if groups[-1] and spec.nbytes > left and filename is None:
            groups.append({})
            left = limit
        groups[-1][name] = spec
        left -= spec.nbytes
    if len(groups) > 1:  # not every loader reads the index of a variant ("model.fp16"), which has a name of its own
        stem = stem.partition(".")[0]
    many = [f"{stem}-{k + 1:05d}-of-{len(groups):05d}.safetensors" for k in range(len(groups))]
    names = [filename] if filename else many if len(groups) > 1 else [f"{stem}.safetensors"]
    return tuple(shard(name, group, {"format": "pt"}) for name, group in zip(names, groups, strict=True))


def shard(filename: str, specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> Layout:
    """A file's layout, with the given metadata in its header. The data begins at a page, so that it can be written
    directly (places/local.py).

    Raises OutputError for a header that no reader would take.
    """
    layout = laid_out(filename, specs, metadata, PAGE)
    if layout.header_size - 8 > LONGEST_HEADER:
        raise OutputError(
            f"{filename} would begin with a header of {readable(layout.header_size)} for {len(specs)} tensors, and the "
            f"format allows {readable(LONGEST_HEADER)}: write a folder (-o NAME without .safetensors) with a smaller "
            "--shard-size"
        )
    return layout


def _memory(
    weights: Weights, specs: Mapping[str, Spec], limit: int, threads: int, fixed: bool
) -> tuple[int, int, Cost]:
    """(bytes of a block, threads, what they cost): the largest of these that fit in `limit`. Raises TaskvecError, which
    says how much is needed at least, if nothing fits."""
    if threads < 1:
        raise RecipeError(f"threads must be at least 1, not {threads}")
    parts = {name: list(weights.parts(name)) for name, spec in specs.items() if spec.arithmetic}
    pieces = sum(-(-spec.nbytes // PIECE) for spec in specs.values())
    # The texts in the headers of all files are kept. While one header is read, it takes five times its size besides.
    texts = [_metadata_bytes(s) for s in weights.mentioned]
    headers = A_TENSOR * sum(len(s.specs) for s in weights.mentioned) + sum(texts) + 5 * max(texts, default=0)
    beside = Cost(once=PROGRAM + A_PIECE * pieces + headers) + cost_of_sources(weights, parts) + cost_of_sink(specs)

    @cache
    def cost(block: int) -> Cost:
        return beside + cost_of_block(parts, specs, block)

    for count in [threads] if fixed else range(threads, 0, -1):
        for block in BLOCKS:
            if cost(block).of(count) <= limit:
                return block, count, cost(block)
    least, count = cost(PIECE), threads if fixed else 1
    raise TaskvecError(
        f"this needs at least {readable(least.of(count))} of memory ({count} threads), not {readable(limit)}"
    )


def _metadata_bytes(source: Source) -> int:
    """Bytes of the texts that the header of a file holds in addition to the descriptions of tensors."""
    return sum(len(key) + len(value) for key, value in metadata_of(source).items())


def parse_size(text: str | float, what: str) -> int:
    """Bytes: "5GB", "200 MB", "1GiB", 1000. Raises RecipeError."""
    try:
        size = int(text) if isinstance(text, int | float) else _written_size(text)
    except (ValueError, KeyError, OverflowError):
        raise RecipeError(f"{what}: {text!r} is no size; write 5GB, 200MB or 1GiB") from None
    if size < 1:
        raise RecipeError(f"{what}: {text!r} is not positive")
    return size


def _written_size(text: str) -> int:
    compact = text.replace(" ", "").upper().removesuffix("B")
    binary = compact.endswith("I")
    number = compact.removesuffix("I").rstrip("KMGT")
    unit = compact.removesuffix("I")[len(number) :]
    return int(float(number) * (1024 ** [*"BKMGT"].index(unit or "B") if binary else UNITS[unit]))


def readable(size: float) -> str:
    """1234567 -> "1.23 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
