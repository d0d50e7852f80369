"""A journal, read back: what was tried and what was chosen. Needs neither the models nor the evaluator."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from taskvec.errors import FormatError
from taskvec.findings import CHOSEN, Record
from taskvec.goals import constraint, objective
from taskvec.judging import Judge
from taskvec.measuring import scores_of
from taskvec.recipe import written
from taskvec.spaces import Knobs
from taskvec.stores import Line
from taskvec.trials import read_lines
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
    first, *lines = read_lines(path)
    try:
        return record(first, lines)
    except (KeyError, TypeError, AttributeError):
        raise FormatError(f"{os.fspath(path)} is no journal of this version of taskvec") from None
    except FormatError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from None
