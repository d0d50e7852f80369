"""Why two sources cannot be added, and what to write in the recipe so that they can be.

Two sources can be added if they have tensors of the same names and shapes. `differences` lists what differs, and
`ways_out` proposes views that mend it. A proposal is made only if it was tried on names and shapes, and they fit then.

1. Rows: if embeddings and heads have another number of rows in one model, and nothing else differs, `resize_vocab` is
   proposed, and before it `align_vocab` if both models have a vocabulary that it can read.
2. Experts: if one side stores each expert by itself and the other all of them in one tensor, only a sentence says so,
   because no view fuses or splits experts.
3. Names: a table for `rename` is grown rule by rule (`renaming`). A rule is a pair of patterns such as `model.*` and
   `*`. Each time the rule is taken that brings most tensors to names that the other side has, with the same shapes.
4. Layers: if all that then differs are the last layers of one side, `take_layers` is proposed.
5. The rest: `drop` is proposed for tensors that only one side has, if they are fewer than those that fit, and if they
   are buffers, which nobody trains, or are all on one side. For heads a line points to `tie` and `untie`.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from taskvec.algebra.idle_patterns import fitting
from taskvec.sources.abilities import folder_of, written
from taskvec.sources.positions import HEADS, by_token, layer_of
from taskvec.sources.source import Source, Spec
from taskvec.sources.text import fits_any, literal, quoted

Specs = Mapping[str, Spec]
FEW = 8  # differences of one source that an error shows if it is known what to write about them
MOST_RULES, MOST_PATTERNS, TRIED = 16, 8, 24  # rows of a table, patterns of a `drop`, rules that are tried for a name
MOST_LOOKED = 5_000_000  # names that the search for a table looks at, so that a hundred thousand tensors cost seconds
BUFFERS = (
    "inv_freq", "position_ids", "masked_bias", "attn.bias", "attention.bias", "relative_position_index", "cos_cached",
    "sin_cached", "num_batches_tracked", "_extra_state",
)  # fmt: skip
ONE_NAME = {"gamma": "weight", "beta": "bias"}  # the tensors of a norm: TensorFlow's words and PyTorch's
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")
_EXPERT = re.compile(r"\.experts\.\d+\.")


def differences(source: Source, reference: Source) -> list[str]:
    """A line for each tensor in which two sources differ by name, by shape, or by a dtype that cannot be summed."""
    lines = []
    for name, spec in source.specs.items():
        other = reference.specs.get(name)
        if other is None:
            if not reference.partial:
                lines.append(f"{name} is in {source.text}, not in {reference.text}{_tied(name)}")
        elif spec.shape != other.shape:
            hint = " (resize_vocab or align_vocab makes them alike)" if by_token(name) else ""
            shapes = f"{list(spec.shape)} in {source.text}, {list(other.shape)} in {reference.text}"
            lines.append(f"{name} is {shapes}{hint}")
        elif not _addable(spec, other):
            lines.append(f"{name} is {spec.dtype} in {source.text}, {other.dtype} in {reference.text}")
    if not source.partial:
        lines += [
            f"{name} is in {reference.text}, not in {source.text}{_tied(name)}"
            for name, spec in reference.specs.items()
            if name not in source.specs and (source.mass or spec.arithmetic)
        ]
    return lines


def _tied(name: str) -> str:
    """A hint for the tensor that checkpoints leave out when it is the embedding itself."""
    return " (tied to the embedding there? tie(...) drops it, untie(...) adds it)" if name.endswith(HEADS) else ""


def _addable(one: Spec, two: Spec) -> bool:
    """Whether two tensors have one shape, and dtypes that are equal or can be summed."""
    return one.shape == two.shape and (one.dtype == two.dtype or (one.arithmetic and two.arithmetic))


def misfits(summed: Collection[Source], reference: Source, names: Mapping[Source, str], most: int) -> Iterator[str]:
    """Lines for an error: how each source differs from the reference, then what to write so that they fit.

    names: what a recipe calls the sources.
    most: differences that are shown in all. If it is known what to write, a FEW of each source are enough.
    """
    others = [source for source in summed if source is not reference]
    for source in others:
        lines = differences(source, reference)
        ways = ways_out(source, reference, written(source, names), written(reference, names)) if lines else []
        shown = FEW if ways else max(FEW, most // len(others))
        yield from lines[:shown]
        if len(lines) > shown:
            yield f"... and {len(lines) - shown} more"
        yield from ways


# ---- the way out ---------------------------------------------------------------------------------
def ways_out(source: Source, reference: Source, a: str, b: str) -> list[str]:
    """Lines that say what to write so that `source` and `reference` can be added, or why nothing helps.

    a, b: what the recipe calls the source and the reference. [] where nothing is known.
    """
    ours, theirs = source.specs, reference.specs
    if rows := _rows(source, reference, a, b):
        return rows
    if reference.partial or any(name in theirs and not _addable(spec, theirs[name]) for name, spec in ours.items()):
        return []  # other names do not help where shapes differ
    if _experts(ours) != _experts(theirs) and _fused(ours) != _fused(theirs):
        one, two = (a, b) if _experts(ours) else (b, a)
        return [
            f"{one} stores each expert by itself, {two} all of them in one tensor, as different versions of a library "
            "do, and no view fuses or splits them: load and save both with the same version of transformers"
        ]
    table = renaming(ours, theirs)
    olds = {_renamed(name, table): name for name in ours}
    extra = [old for new, old in olds.items() if new not in theirs]
    missing = [] if source.partial else [name for name in theirs if name not in olds]
    if deep := _layers(extra, missing, a, b):
        return [deep]
    heads = [name for name in (*extra, *missing) if name.endswith(HEADS)]
    extra, missing = ([name for name in side if name not in heads] for side in (extra, missing))
    alone = [*extra, *missing]
    if len(olds) < len(ours) or len(alone) > len(ours) - len(extra) or (source.partial and extra):
        return []
    if extra and missing and not all(name.endswith(BUFFERS) for name in alone):
        return [_partly(a, b, table, extra, missing)] if table else []
    dropped = {a: patterns(extra, ours), b: patterns(missing, theirs)}
    if None in dropped.values():
        return []
    lines = _proposal(a, table, {name: without or [] for name, without in dropped.items()})
    return [*lines, f"{', '.join(heads)} is then a matter of tie or untie"] if lines and heads else lines


def _partly(a: str, b: str, table: Mapping[str, str], extra: list[str], missing: list[str]) -> str:
    """The `rename` that fits, where the tensors that it leaves over on both sides could be anything."""
    one, two = (", ".join(names[:2]) + ", ..." * (len(names) > 2) for names in (extra, missing))
    return (
        f"{_rename(a, table)} brings names of {a} to those of {b} and leaves {one} in {a} and {two} in {b}: drop the "
        "heads of two tasks from both; the same weights in two forms need one version of the library that wrote them"
    )


def _rename(a: str, table: Mapping[str, str]) -> str:
    rows = ", ".join(f"{quoted(old)}: {quoted(new)}" for old, new in table.items())
    return _call("rename", a, f"{{{rows}}}")


def _rows(source: Source, reference: Source, a: str, b: str) -> list[str]:
    """Lines that propose one vocabulary for both, if they differ by the rows of embeddings and heads alone; else [].

    The side with fewer rows is padded, so that no row is lost.
    """
    sides = {a: source, b: reference}
    rows = {
        name: {s.shape[0] for n, s in side.specs.items() if by_token(n) and s.shape} for name, side in sides.items()
    }
    if any(len(sizes) != 1 for sizes in rows.values()) or rows[a] == rows[b]:
        return []
    (less, _), (more, (size,)) = sorted(rows.items(), key=lambda item: min(item[1]))
    padded = {
        name: Spec((size, *spec.shape[1:]), spec.dtype) if by_token(name) else spec
        for name, spec in sides[less].specs.items()
    }
    others = sides[more].specs
    if padded.keys() != others.keys() or not all(_addable(spec, others[name]) for name, spec in padded.items()):
        return []
    lines = [
        f"they fit together in a recipe that says resize_vocab({less}, {size}) instead of {less}",
        "resize_vocab adds rows of zeros, and adds row k to row k: that is right if tokens have the same ids in both",
    ]
    folders = [folder_of(side) for side in sides.values() if side.mass]
    if len(folders) == len(sides) and all(f and any((f / v).is_file() for v in VOCABULARIES) for f in folders):
        both = " and ".join(f"align_vocab({name}, {b}, {a}) instead of {name}" for name in sides)
        lines.insert(0, f"they fit together in a recipe that says {both}")
    return lines


def _proposal(a: str, table: Mapping[str, str], dropped: Mapping[str, list[str]]) -> list[str]:
    """Lines that propose a `rename` of side `a`, and a `drop` of these patterns for each side (name -> patterns)."""
    calls = {name: _call("drop", name, *map(quoted, without)) if without else name for name, without in dropped.items()}
    if table:
        calls[a] = _rename(calls[a], table)
    changed = [f"{call} instead of {name}" for name, call in calls.items() if call != name]
    lines = [f"they fit together in a recipe that says {' and '.join(changed)}"] if changed else []
    for name, without in dropped.items():
        if without:
            kind = " (buffers, which models compute anew)" if all(p.endswith(BUFFERS) for p in without) else ""
            back = _call("select", name, *map(quoted, without))
            lines.append(f"the result is without what drop leaves out{kind}; join(..., {back}) adds it again")
    return lines


def _call(function: str, *args: str) -> str:
    return f"{function}({', '.join(args)})"


def _experts(specs: Specs) -> bool:
    return any(_EXPERT.search(name) for name in specs)


def _fused(specs: Specs) -> bool:
    return any(
        ".experts." in name and not _EXPERT.search(name) and len(spec.shape) == 3 for name, spec in specs.items()
    )


def _layers(only_ours: list[str], only_theirs: list[str], a: str, b: str) -> str:
    """A proposal for models of which one has some last layers more and nothing else; "" for others."""
    extra, name = (only_ours, a) if only_ours else (only_theirs, b)
    layers = {layer_of(n) for n in extra}  # (stack, number)
    stacks = {layer[0] for layer in layers if layer}
    if not extra or (only_ours and only_theirs) or None in layers or len(stacks) != 1:
        return ""
    first = min(layer[1] for layer in layers if layer)
    count = max(layer[1] for layer in layers if layer) + 1
    if not first or len(layers) != count - first:
        return ""
    return f"{name} has {count} layers in {stacks.pop()}, and the other {first}: take_layers({name}, 0, {first})"


# ---- patterns ------------------------------------------------------------------------------------
def patterns(extra: Iterable[str], names: Collection[str]) -> "list[str] | None":
    """Patterns that fit all of `extra` and nothing else among `names`; None if more than MOST_PATTERNS are needed."""
    leaving = set(extra)
    stay = [name for name in names if name not in leaving]
    few: list[str] = []
    for name in sorted(leaving):
        if not fits_any(name, few):
            few.append(next(p for p in _patterns_of(name) if not fitting(p, stay, 1)))
            if len(few) > MOST_PATTERNS:
                return None
    return few


def _patterns_of(name: str) -> Iterator[str]:
    """Patterns that fit a tensor: those of its module, those of its kind, its name. For a buffer, its kind first."""
    segments = [literal(s) for s in name.split(".")]
    starts = [".".join([*segments[:k], "*"]) for k in (1, 2) if k < len(segments)]
    ends = [".".join(["*", *segments[-k:]]) for k in (2, 1, 3) if k < len(segments)]
    yield from ends + starts if name.endswith(BUFFERS) else starts + ends
    yield literal(name)


# ---- rename --------------------------------------------------------------------------------------
def fits(pattern: str, name: str) -> bool:
    """Whether a pattern with at most one `*` fits the whole name."""
    before, star, after = pattern.partition("*")
    return name == pattern if not star else (
        len(name) >= len(before) + len(after) and name.startswith(before) and name.endswith(after)
    )  # fmt: skip


def replaced(old: str, new: str, name: str) -> str:
    """The new name of a tensor whose name fits `old`: what `*` stands for in `old` it stands for in `new`."""
    before, _, after = old.partition("*")
    return new.replace("*", name[len(before) : len(name) - len(after)])


def _renamed(name: str, table: Mapping[str, str]) -> str:
    old = next((o for o in table if fits(o, name)), None)
    return replaced(old, table[old], name) if old is not None else name


def renaming(ours: Specs, theirs: Specs) -> dict[str, str]:
    """A table for `rename` that brings tensors of `ours` to names of `theirs` with the same shapes; {} if none does.

    Every name that a rule fits becomes a name that no other tensor has. A rule is not taken if another one with the
    same first pattern is just as good.
    """
    norms = {_module(name) for name in (*ours, *theirs) if name.rpartition(".")[2] in ONE_NAME}
    order = sorted(ours, key=lambda name: _module(name) not in norms)  # norms first: then one rule fits all the others
    left = {name: ours[name] for name in order if name not in theirs}
    met = [name for name in ours if name in theirs]
    free = {name: spec for name, spec in theirs.items() if name not in ours}
    table: dict[str, str] = {}
    looked = 0
    while left and len(table) < MOST_RULES and looked < MOST_LOOKED:
        looked += TRIED * len(left) + len(free)
        name = next(iter(left))
        rule = _best(name, left, free, met)
        if rule is None:
            del left[name]
            continue
        table[rule[0]] = rule[1]
        for done in [n for n in left if fits(rule[0], n)]:
            del left[done]
            del free[replaced(*rule, done)]
    wide = {old: new for old, new in table.items() if old == "*"}
    return {old: new for old, new in table.items() if old != "*"} | wide


def _best(name: str, left: Specs, free: Specs, met: list[str]) -> "tuple[str, str] | None":
    """The rule, among those that fit `name`, that brings most of the tensors `left` to names that are `free`.

    met: names that are on both sides already, and that no rule may change. None if there is no such rule, or two.
    """
    scored: dict[tuple[int, bool, int], list[tuple[str, str]]] = {}
    for old, new in _rules(name, free, left[name]):
        if any(fits(old, n) for n in met):
            continue
        names = [n for n in left if fits(old, n)]
        targets = [replaced(old, new, n) for n in names]
        if len(names) <= 2 and all(map(_unrelated, names, targets)):  # such as heads of one shape for two tasks
            continue
        if all(t in free and _addable(left[n], free[t]) for n, t in zip(names, targets, strict=True)):
            shared = Counter(old.split(".")) & Counter(new.split("."))
            alike = _one_name(old, new) or _one_name(new, old)
            scored.setdefault((len(names), alike, shared.total()), []).append((old, new))
    if not scored:
        return None
    first, *others = scored[max(scored)]
    return None if any(old == first[0] for old, _ in others) else first


def _unrelated(one: str, two: str) -> bool:
    """Whether two names share nothing but their last segment, such as `weight`."""
    before = [set(name.split(".")[:-1]) for name in (one, two)]
    return all(before) and not before[0] & before[1]


def _module(name: str) -> str:
    """The last segment but one of a name."""
    return name.rpartition(".")[0].rpartition(".")[2]


def _one_name(old: str, new: str) -> bool:
    """Whether two names end in TensorFlow's and in PyTorch's word for the same tensor of a norm."""
    return ONE_NAME.get(old.rpartition(".")[2]) == new.rpartition(".")[2]


def _rules(name: str, free: Specs, spec: Spec) -> list[tuple[str, str]]:
    """Rules that lead from a name to a free one: another beginning, or another end; the likeliest first."""
    ours = name.split(".")
    shared: dict[
        tuple[str, str], int
    ] = {}  # rule -> how many segments the two names have in common where it keeps them
    for other in (other for other, free_spec in free.items() if _addable(spec, free_spec)):
        theirs = other.split(".")
        last = _common(reversed(ours), reversed(theirs))
        first = _common(ours, theirs)
        for keep in range(max(1, last - 3), last + 1) if last else ():  # the shortest beginnings, or some segments more
            rule = (".".join([*ours[: len(ours) - keep], "*"]), ".".join([*theirs[: len(theirs) - keep], "*"]))
            shared[rule] = max(shared.get(rule, 0), last)
        # the ends that differ, or one segment more
        for keep in {first, max(1, first - 1)} if 0 < first < min(len(ours), len(theirs)) else ():
            rule = (".".join(["*", *ours[keep:]]), ".".join(["*", *theirs[keep:]]))
            shared[rule] = max(shared.get(rule, 0), first)
        if _one_name(name, other) or _one_name(other, name):
            last = _common(reversed(ours[:-1]), reversed(theirs[:-1]))
            if last > 1:  # the name of the norm, and something before it
                old, new = (".".join([*segments[: -last - 1], "*", *segments[-2:]]) for segments in (ours, theirs))
                shared[old, new] = last
    return sorted(shared, key=lambda rule: -shared[rule])[:TRIED]


def _common(one: Iterable[str], two: Iterable[str]) -> int:
    """How many segments two names share from their beginning."""
    count = 0
    for a, b in zip(one, two, strict=False):
        if a != b:
            break
        count += 1
    return count
