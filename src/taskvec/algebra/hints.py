"""What keeps two sources from being added, and what to write in the recipe so that they can be.

A way out is proposed only if it has been tried on the names and shapes: after it they meet.

1. Names that differ by a prefix, or by a renaming of segments, are met by `rename`: a table is grown rule by rule
   (`renaming`), each rule the one that brings most tensors to names of the other side with their shapes.
2. Embeddings and heads that differ by their rows alone are met by `align_vocab`, where both models have a vocabulary
   that it reads, and by `resize_vocab`.
3. What is left on one side is left out by `drop` (buffers, which nobody trains, and heads of one side only), if it is
   less than half; layers that only one side has, by `take_layers`.
4. Experts that one side stores one by one and the other in one tensor are named; no view fuses or splits them.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from taskvec.algebra.idle_patterns import fitting, is_fit
from taskvec.sources.abilities import folder_of
from taskvec.sources.positions import HEADS, by_token, layer_of
from taskvec.sources.source import Source, Spec
from taskvec.sources.text import literal, quoted

Specs = Mapping[str, Spec]
MOST_RULES, MOST_PATTERNS, TRIED = 16, 8, 24  # rows of a table, patterns of a `drop`, rules that are tried for a name
MOST_LOOKED = 5_000_000  # names that the search for a table looks at
BUFFERS = (
    "inv_freq", "position_ids", "masked_bias", "attn.bias", "attention.bias", "relative_position_index", "cos_cached",
    "sin_cached", "num_batches_tracked", "_extra_state",
)  # fmt: skip
ONE_NAME = {"gamma": "weight", "beta": "bias"}  # of a norm: TensorFlow's and PyTorch's
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")
_EXPERT = re.compile(r"\.experts\.\d+\.")


def differences(source: Source, reference: Source) -> list[str]:
    """What keeps `source` from being added to `reference`, a line a tensor; dtypes may differ where arithmetic can."""
    found = []
    for name, spec in source.specs.items():
        other = reference.specs.get(name)
        if other is None:
            if not reference.partial:
                found.append(f"{name} is in {source.text}, not in {reference.text}{_tied(name)}")
        elif spec.shape != other.shape:
            hint = " (resize_vocab or align_vocab makes them alike)" if by_token(name) else ""
            shapes = f"{list(spec.shape)} in {source.text}, {list(other.shape)} in {reference.text}"
            found.append(f"{name} is {shapes}{hint}")
        elif not _meet(spec, other):
            found.append(f"{name} is {spec.dtype} in {source.text}, {other.dtype} in {reference.text}")
    if not source.partial:
        found += [
            f"{name} is in {reference.text}, not in {source.text}{_tied(name)}"
            for name, spec in reference.specs.items()
            if name not in source.specs and (source.mass or spec.arithmetic)
        ]
    return found


def _tied(name: str) -> str:
    """A hint for the tensor that checkpoints leave out when it is the embedding itself."""
    return " (tied to the embedding there? tie(...) drops it, untie(...) adds it)" if name.endswith(HEADS) else ""


def _meet(one: Spec, two: Spec) -> bool:
    return one.shape == two.shape and (one.dtype == two.dtype or (one.arithmetic and two.arithmetic))


# ---- the way out ---------------------------------------------------------------------------------
def ways_out(source: Source, reference: Source, a: str, b: str) -> list[str]:
    """What to write so that `source` and `reference`, which a recipe calls `a` and `b`, can be added; or why not."""
    ours, theirs = source.specs, reference.specs
    if rows := _rows(source, reference, a, b):
        return rows
    if reference.partial or any(name in theirs and not _meet(spec, theirs[name]) for name, spec in ours.items()):
        return []  # shapes that differ are no question of names
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
    out = {a: patterns(extra, ours), b: patterns(missing, theirs)}
    if None in out.values():
        return []
    lines = _proposal(a, b, table, {name: found or [] for name, found in out.items()})
    return [*lines, f"{', '.join(heads)} is then a matter of tie or untie"] if lines and heads else lines


def _partly(a: str, b: str, table: Mapping[str, str], extra: list[str], missing: list[str]) -> str:
    """What a `rename` brings together, where it is not known what the rest is."""
    one, two = (", ".join(names[:2]) + ", ..." * (len(names) > 2) for names in (extra, missing))
    return (
        f"{_rename(a, table)} brings names of {a} to those of {b} and leaves {one} in {a} and {two} in {b}: drop the "
        "heads of two tasks from both; the same weights in two forms need one version of the library that wrote them"
    )


def _rename(a: str, table: Mapping[str, str]) -> str:
    rows = ", ".join(f"{quoted(old)}: {quoted(new)}" for old, new in table.items())
    return _call("rename", a, f"{{{rows}}}")


def _rows(source: Source, reference: Source, a: str, b: str) -> list[str]:
    """What makes two vocabularies alike, where rows of embedding and head are all that differs; [] where they are not.

    The one with fewer rows is padded, so that no row is lost."""
    sides = {a: source, b: reference}
    rows = {
        name: {s.shape[0] for n, s in side.specs.items() if by_token(n) and s.shape} for name, side in sides.items()
    }
    if any(len(found) != 1 for found in rows.values()) or rows[a] == rows[b]:
        return []
    (less, _), (more, (size,)) = sorted(rows.items(), key=lambda item: min(item[1]))
    padded = {
        name: Spec((size, *spec.shape[1:]), spec.dtype) if by_token(name) else spec
        for name, spec in sides[less].specs.items()
    }
    others = sides[more].specs
    if padded.keys() != others.keys() or not all(_meet(spec, others[name]) for name, spec in padded.items()):
        return []
    lines = [
        f"they fit together in a recipe that says resize_vocab({less}, {size}) instead of {less}",
        "resize_vocab adds rows of zeros, and rows meet by their numbers: right where tokens have the same ids in both",
    ]
    folders = [folder_of(side) for side in sides.values() if side.mass]
    if len(folders) == len(sides) and all(f and any((f / v).is_file() for v in VOCABULARIES) for f in folders):
        both = " and ".join(f"align_vocab({name}, {b}, {a}) instead of {name}" for name in sides)
        lines.insert(0, f"they fit together in a recipe that says {both}")
    return lines


def _proposal(a: str, b: str, table: Mapping[str, str], out: Mapping[str, list[str]]) -> list[str]:
    """What becomes of the two sides, by a `rename` of the first and by what each is to be without."""
    written = {name: _call("drop", name, *map(quoted, found)) if found else name for name, found in out.items()}
    if table:
        written[a] = _rename(written[a], table)
    changed = [f"{new} instead of {name}" for name, new in written.items() if new != name]
    lines = [f"they fit together in a recipe that says {' and '.join(changed)}"] if changed else []
    for name, found in out.items():
        if found:
            kind = " (buffers, which models compute anew)" if all(p.endswith(BUFFERS) for p in found) else ""
            back = _call("select", name, *map(quoted, found))
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
    """What to say of models that differ by their last layers alone, "" of others."""
    extra, name = (only_ours, a) if only_ours else (only_theirs, b)
    found = {layer_of(n) for n in extra}
    stacks = {at[0] for at in found if at}
    if not extra or (only_ours and only_theirs) or None in found or len(stacks) != 1:
        return ""
    first = min(at[1] for at in found if at)
    count = max(at[1] for at in found if at) + 1
    if not first or len(found) != count - first:
        return ""
    return f"{name} has {count} layers in {stacks.pop()}, and the other {first}: take_layers({name}, 0, {first})"


# ---- patterns ------------------------------------------------------------------------------------
def patterns(extra: Iterable[str], names: Collection[str]) -> "list[str] | None":
    """Patterns that fit all of `extra` and nothing else among `names`, in the field's way; None if they are many."""
    out = set(extra)
    stay = [name for name in names if name not in out]
    found: list[str] = []
    for name in sorted(out):
        if not is_fit(name, found):
            found.append(next(p for p in _shapes(name) if not fitting(p, stay, 1)))
            if len(found) > MOST_PATTERNS:
                return None
    return found


def _shapes(name: str) -> Iterator[str]:
    """Patterns for a tensor, the widest first: all of its module, all of its kind, itself."""
    segments = [literal(s) for s in name.split(".")]
    starts = [".".join([*segments[:k], "*"]) for k in (1, 2) if k < len(segments)]
    ends = [".".join(["*", *segments[-k:]]) for k in (2, 1, 3) if k < len(segments)]
    yield from ends + starts if name.endswith(BUFFERS) else starts + ends
    yield literal(name)


# ---- rename --------------------------------------------------------------------------------------
def fits(pattern: str, name: str) -> bool:
    """Whether a pattern with at most one `*` is the whole name."""
    before, star, after = pattern.partition("*")
    return name == pattern if not star else (
        len(name) >= len(before) + len(after) and name.startswith(before) and name.endswith(after)
    )  # fmt: skip


def replaced(old: str, new: str, name: str) -> str:
    """The new name of one that fits `old`."""
    before, _, after = old.partition("*")
    return new.replace("*", name[len(before) : len(name) - len(after)])


def _renamed(name: str, table: Mapping[str, str]) -> str:
    old = next((o for o in table if fits(o, name)), None)
    return replaced(old, table[old], name) if old is not None else name


def renaming(ours: Specs, theirs: Specs) -> dict[str, str]:
    """A table for `rename` that brings tensors of `ours` to names of `theirs` with their shapes; {} if there is none.

    Every name that a rule fits meets one that nothing else has. A rule that could as well lead elsewhere is not taken.
    """
    norms = {_module(name) for name in (*ours, *theirs) if name.rpartition(".")[2] in ONE_NAME}
    order = sorted(ours, key=lambda name: _module(name) not in norms)  # these first, so that the others have one rule
    left = {name: ours[name] for name in order if name not in theirs}
    met = [name for name in ours if name in theirs]
    free = {name: spec for name, spec in theirs.items() if name not in ours}
    table: dict[str, str] = {}
    looked = 0  # at how many names, so that models of a hundred thousand tensors cost seconds at most
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
    """The rule that brings most of the tensors that are left to names that are free."""
    scored: dict[tuple[int, bool, int], list[tuple[str, str]]] = {}
    for old, new in _rules(name, free, left[name]):
        if any(fits(old, n) for n in met):
            continue
        names = [n for n in left if fits(old, n)]
        targets = [replaced(old, new, n) for n in names]
        if len(names) <= 2 and all(map(_strangers, names, targets)):  # two heads of one shape, of other tasks
            continue
        if all(t in free and _meet(left[n], free[t]) for n, t in zip(names, targets, strict=True)):
            shared = Counter(old.split(".")) & Counter(new.split("."))
            alike = _one_name(old, new) or _one_name(new, old)
            scored.setdefault((len(names), alike, shared.total()), []).append((old, new))
    if not scored:
        return None
    first, *others = scored[max(scored)]
    return None if any(old == first[0] for old, _ in others) else first


def _strangers(one: str, two: str) -> bool:
    """Whether two names share nothing but their last segment, such as `weight`."""
    before = [set(name.split(".")[:-1]) for name in (one, two)]
    return all(before) and not before[0] & before[1]


def _module(name: str) -> str:
    """The last segment but one of a name."""
    return name.rpartition(".")[0].rpartition(".")[2]


def _one_name(old: str, new: str) -> bool:
    """Whether two names or patterns end in two words for the same tensor of a norm."""
    return ONE_NAME.get(old.rpartition(".")[2]) == new.rpartition(".")[2]


def _rules(name: str, free: Specs, spec: Spec) -> list[tuple[str, str]]:
    """Rules that lead from a name to a free one: another beginning, or another end; the likeliest first."""
    ours = name.split(".")
    found: dict[tuple[str, str], int] = {}
    for other in (other for other, its in free.items() if _meet(spec, its)):
        theirs = other.split(".")
        last = _common(reversed(ours), reversed(theirs))
        first = _common(ours, theirs)
        for keep in range(max(1, last - 3), last + 1) if last else ():  # the shortest beginnings, or some segments more
            rule = (".".join([*ours[: len(ours) - keep], "*"]), ".".join([*theirs[: len(theirs) - keep], "*"]))
            found[rule] = max(found.get(rule, 0), last)
        for keep in (
            {first, max(1, first - 1)} if 0 < first < min(len(ours), len(theirs)) else ()
        ):  # what differs, or one more
            rule = (".".join(["*", *ours[keep:]]), ".".join(["*", *theirs[keep:]]))
            found[rule] = max(found.get(rule, 0), first)
        if _one_name(name, other) or _one_name(other, name):
            last = _common(reversed(ours[:-1]), reversed(theirs[:-1]))
            if last > 1:  # the name of the norm, and something before it
                old, new = (".".join([*segments[: -last - 1], "*", *segments[-2:]]) for segments in (ours, theirs))
                found[old, new] = last
    return sorted(found, key=lambda rule: -found[rule])[:TRIED]


def _common(one: Iterable[str], two: Iterable[str]) -> int:
    """How many segments two names share from their beginning."""
    count = 0
    for a, b in zip(one, two, strict=False):
        if a != b:
            break
        count += 1
    return count
