"""What the lines of a journal may be, and what is read off them.

A journal may come from anywhere, may have been edited by hand, and may be damaged. So each line is checked before
anything is made of it, and a line that no search writes is an error that names the line.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from taskvec.errors import FormatError
from taskvec.evals import SPLITS, Numbers

Line = dict[str, Any]
MOST = 10  # an error names at most so many flaws


def require_sound(lines: Sequence[Line], kind: str, where: str, first: int) -> None:
    """Raise FormatError for lines that no `kind` of work ("search", "interference") writes.

    first: the number of the first of these lines in the journal.
    """
    if flaws := [f"line {n}: {what}" for n, line in enumerate(lines, first) for what in _flaws(line, kind)]:
        raise FormatError(f"{where}: no {kind} writes this:", flaws[:MOST])


def require_fitting(about: Mapping[str, Any], lines: Sequence[Line], where: str) -> None:
    """Raise FormatError for lines of a search that are sound but do not belong together. about: the first line of the
    journal."""
    before = {split: judged_before(lines, split) for split in SPLITS}
    misfits = [f"line {n}: {what}" for n, line in enumerate(lines, 2) for what in _misfits(about, line, before)]
    if misfits:
        raise FormatError(f"{where}: no search writes this:", misfits[:MOST])


def judged_before(lines: Sequence[Line], split: str) -> Mapping[str, Numbers]:
    """The scores of the first model that was judged on all examples of a split; empty if there is none."""
    return next((scores_of(line) for line in lines if "scores" in line and _split(line) == split), {})


def scores_of(line: Line) -> Mapping[str, Numbers]:
    """The scores in a line that has scores."""
    scores: Mapping[str, Numbers] = line["scores"]
    return scores


def unlike(old: Mapping[str, Numbers], new: Mapping[str, Numbers]) -> list[str]:
    """The metrics that two models were not judged by on equally many examples, a sentence for each."""

    def size(values: Numbers) -> str:
        return f"{len(values)} examples" if isinstance(values, list) else "a single number"

    names = {**old, **new}
    sizes = {n: tuple(size(s[n]) if n in s else "no metric" for s in (old, new)) for n in names}
    return [f"{name}: {after}, {before} before" for name, (before, after) in sizes.items() if after != before]


# ---- a line by itself ----------------------------------------------------------------------------
def is_number(value: Any) -> bool:
    """Whether a value is a finite number (JSON's true and false are none)."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _is_numbers(value: Any) -> bool:
    return bool(value) and all(map(is_number, value)) if isinstance(value, list) else is_number(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_knobs(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_number, value.values()))


def _is_scores(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(_is_numbers, value.values()))


def _is_seeds(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(v, list) and len(v) > 1 and _is_numbers(v) for v in value.values()
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_claimed(value: Any) -> bool:
    return _is_count(value) or isinstance(value, dict)


def _is_choice(value: Any) -> bool:
    return value is None or _is_knobs(value)


def _is_split(value: Any) -> bool:
    return value in SPLITS if isinstance(value, str) else False


def _is_process(value: Any) -> bool:
    return value is None or _is_count(value)


def _is_time(value: Any) -> bool:
    return is_number(value) and value >= 0


def _is_ranges(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_goals(value: Any) -> bool:
    return bool(value) and _is_texts(value)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


Checks = Mapping[str, tuple[Callable[[Any], bool], str]]
TEXT, COUNT, TIME = (_is_text, "a text"), (_is_count, "a whole number"), (_is_time, "a time")
KNOBS, NUMBER = (_is_knobs, "a number for each knob"), (is_number, "a number")
SCORES = (_is_scores, "a number or a list of numbers for each metric")
SPLIT = (_is_split, "validation or test")
# SHARED and WANTED: what a line of each kind must have, by the key that shows its kind. BESIDES: what it may have, too.
SHARED: Mapping[str, Checks] = {
    "claim": {"claim": (_is_claimed, "what is claimed"), "at": TIME},
    "beat": {"beat": TEXT, "at": TIME},
    "release": {"release": TEXT},
    "end": {"end": COUNT},
}
WANTED: Mapping[str, Mapping[str, Checks]] = {
    "search": {
        **SHARED,
        "trial": {"trial": COUNT, "knobs": KNOBS, "seconds": NUMBER},
        "reference": {"reference": TEXT, "split": SPLIT, "scores": SCORES},
        "test": {"test": KNOBS, "scores": SCORES},
        "choice": {
            "choice": (_is_choice, "a number for each knob"), "rule": TEXT, "how": TEXT, "model": TEXT, "file": TEXT,
            "family": TEXT, "notes": (_is_texts, "a list of texts"),
        },
    },
    "interference": {**SHARED, "trial": {"trial": COUNT, "scores": SCORES, "seconds": NUMBER}},
}  # fmt: skip
FIRST: Checks = {
    "recipe": TEXT, "knobs": (_is_ranges, "texts by knob"), "objective": (_is_goals, "a list of texts"),
    "constraints": (_is_texts, "a list of texts"), "minimise": (_is_truth, "true or false"),
}  # fmt: skip
BESIDES: Checks = {
    "scores": SCORES, "partial": SCORES, "split": SPLIT, "memo": (_is_table, "a table"), "id": TEXT, "host": TEXT,
    "pid": (_is_process, "a process"), "start": (_is_process, "a time in ticks"), "outputs": (_is_table, "a table"),
    "seeds": (_is_seeds, "a list of means for each metric, one a seed"),
}  # fmt: skip


def require_first(line: Line, where: str) -> None:
    """Raise FormatError for a first line that no search writes."""
    if flaws := [f"line 1: {what}" for what in _unmet(line, FIRST, FIRST)]:
        raise FormatError(f"{where}: no search writes this:", flaws)


def _flaws(line: Line, kind: str) -> Iterator[str]:
    """What is wrong with a line by itself."""
    wanted = next((checks for key, checks in WANTED[kind].items() if key in line), None)
    if wanted is None:
        yield f"{str(line)!r:.60} says nothing that is known"
        return
    yield from _unmet(line, {**BESIDES, **wanted}, wanted)
    if "trial" in line and ("scores" in line) == ("partial" in line):
        yield "a trial has scores of all examples, or of a part of them"


def _unmet(line: Line, checks: Checks, wanted: Checks) -> Iterator[str]:
    """The keys that are missing (`wanted`), and those with a value that they cannot have (`checks`)."""
    yield from (f"{key} is missing" for key in wanted if key not in line)
    for key, (holds, what) in checks.items():
        if key in line and not holds(line[key]):
            yield f"{key} is {line[key]!r:.60}, not {what}"


# ---- lines together ------------------------------------------------------------------------------
def _misfits(about: Mapping[str, Any], line: Line, before: Mapping[str, Mapping[str, Numbers]]) -> Iterator[str]:
    """Where a line contradicts the journal's first line (`about`) or the first model's scores (`before`, by split)."""
    for key in ("knobs", "choice", "test"):
        values = line.get(key)
        if values is not None and values.keys() != about["knobs"].keys():
            yield f"{values!r:.80} does not have a number for each knob of the search"
    known = before.get(_split(line), {})
    if "scores" in line:
        yield from unlike(known, line["scores"])
    part = line.get("partial", {})
    if part and part.keys() != known.keys():
        yield "a part of the examples was judged by other metrics than all of them"
    for name, values in part.items():
        all_values = known.get(name)
        if not isinstance(values, list) or not isinstance(all_values, list) or len(values) > len(all_values):
            yield f"{name}: these cannot be the scores of a part of the examples"
    if strange := sorted(line.get("seeds", {}).keys() - known.keys()):
        yield f"seeds of metrics that no model was judged by: {', '.join(strange)}"


def _split(line: Line) -> str:
    return str(line.get("split", "test" if "test" in line else "validation"))
