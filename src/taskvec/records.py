"""A journal, read back: what was tried and what was chosen. Needs neither the models nor the evaluator."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from taskvec.errors import FormatError, TaskvecError
from taskvec.findings import CHOSEN, Numbers, Record
from taskvec.goals import constraint, objective
from taskvec.judging import Judge
from taskvec.measuring import scores_of, unlike
from taskvec.recipe import written
from taskvec.spaces import Knobs
from taskvec.stores import Line
from taskvec.trials import FORMAT, read_lines
from taskvec.weights import Weights


def choice_line(
    knobs: Knobs | None, rule: str, how: str, model: Weights, recipe: Weights, notes: Sequence[str]
) -> Line:
    """What the end of a search writes down. `recipe` has the names by which the chosen model's sources are called."""
    return {
        "choice": knobs, "rule": rule, "how": how, "model": model.text(recipe.names()), "file": written(model),
        "family": recipe.text(recipe.names()), "notes": list(notes),
    }  # fmt: skip


def record(about: Mapping[str, Any], lines: Sequence[Line]) -> Record:
    """What the lines of a journal say; the last choice counts. `about` is the journal's first line."""
    choice = next((line for line in reversed(lines) if "choice" in line), None)
    if choice is None:
        raise FormatError("the search has not ended: run it again, and it goes on to its end")
    references = [line for line in lines if "reference" in line]
    validation = {line["reference"]: scores_of(line) for line in references if line["split"] == "validation"}
    goals, bounds = map(objective, about["objective"]), map(constraint, about["constraints"])
    judge = Judge.of([*goals], about["minimise"], [*bounds], validation)
    tried = judge.all(lines)
    test = {line["reference"]: scores_of(line) for line in references if line["split"] == "test"}
    seeds: Mapping[str, list[float]] = next(
        (line.get("seeds", {}) for line in lines if "trial" in line and line["knobs"] == choice["choice"]), {}
    )
    tests = [line for line in lines if "test" in line]
    for line in tests:
        if line["test"] == choice["choice"]:
            test[CHOSEN], seeds = scores_of(line), line.get("seeds", {})
    return Record(
        recipe=choice["family"],
        model=choice["model"],
        file=choice["file"],
        chosen=next((t for t in tried if t.knobs == choice["choice"]), None),
        how=choice["how"],
        objectives=tuple(about["objective"]),
        minimised=about["minimise"],
        constraints=tuple(about["constraints"]),
        trials=tuple(tried),
        given_up=tuple(judge.trial(line, "partial") for line in lines if "partial" in line),
        validation=validation,
        test=test,
        seeds=seeds,
        looks=len(tests),
        notes=(*choice["notes"], *_at_ends(about["knobs"], choice["choice"] or {})),
    )


def _at_ends(ranges: Mapping[str, str], chosen: Knobs) -> list[str]:
    """Knobs whose chosen value is the last of its range, if it had more than two values; 0 is an end for good."""
    found = []
    for name, text in ranges.items():
        values = text.replace(" to ", ", to, ").split(", ")
        if len(values) > 2 and chosen.get(name) and f"{chosen[name]:g}" in (values[0], values[-1]):
            found.append(f"{name} = {chosen[name]:g} is at the end of its range: further on may be better")
    return found


def read_record(path: str | os.PathLike[str]) -> Record:
    """The record of a journal on disk. Raises FormatError for what is none, or has no end yet."""
    name, (first, *lines) = os.fspath(path), read_lines(path)
    if first["search"] != FORMAT:
        raise FormatError(f"{name} is a journal of another version of taskvec")
    try:
        if problems := [f"line {k}: {what}" for k, line in enumerate(lines, 2) for what in _problems(line, lines)]:
            raise FormatError("no search writes this:", problems[:10])
        found = record(first, lines)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError):
        raise FormatError(f"{name} is no journal of this version of taskvec") from None
    except FormatError as error:
        raise FormatError(f"{name}: {error}") from None
    except TaskvecError as error:
        raise FormatError(f"{name} does not fit together: {error}") from None
    if not all(math.isfinite(v) for t in (*found.trials, *found.given_up) for v in (*t.goods, t.breach)):
        raise FormatError(f"{name}: an objective or a constraint is no finite number")
    if found.chosen is None and [line["choice"] for line in lines if "choice" in line][-1] is not None:
        raise FormatError(f"{name}: what was chosen is none of the candidates")
    return found


def _problems(line: Line, lines: Sequence[Line]) -> Iterator[str]:
    """What a search never writes: a journal may come from anywhere, and a report is drawn of what it says."""
    trial = next((other for other in lines if "trial" in other), {})
    for key in ("knobs", "choice", "test"):
        values = line.get(key)
        if values is not None and (values.keys() != trial["knobs"].keys() or not all(map(_number, values.values()))):
            yield f"{values!r:.80} is no number for each knob"
    if "trial" in line and not (type(line["trial"]) is int and _number(line["seconds"])):
        yield "no number of a trial, or of seconds"
    before: Mapping[str, Numbers] = next(
        (o["scores"] for o in lines if "scores" in o and _split(o) == _split(line)), {}
    )
    for key in ("scores", "partial"):
        bad = [name for name, values in line.get(key, {}).items() if not _numbers(values)]
        yield from (f"{name}: no number, and no list of them" for name in bad)
        if key == "scores" and "scores" in line and not bad:
            yield from unlike(before, line["scores"])
    yield from (f"{n}: no mean a seed" for n, v in line.get("seeds", {}).items() if not _numbers(v) or len(v) < 2)


def _split(line: Line) -> str:
    return str(line.get("split", "validation"))


def _numbers(values: Any) -> bool:
    return all(map(_number, values)) and bool(values) if isinstance(values, list) else _number(values)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
