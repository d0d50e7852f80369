"""A journal is read back as a `Record`: what a search tried, what it chose, and on what evidence.

This needs neither the models nor the evaluator, so a report can be made anywhere and at any time. A search also ends by
reading its own journal back. Hence its result and a report of its journal always say the same.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from taskvec.algebra.weights import Weights
from taskvec.errors import FormatError, TaskvecError
from taskvec.evals import SPLITS, Numbers
from taskvec.recipes.recipe import FUNCTIONS, written
from taskvec.searching.entries import Line, require_first, require_fitting, require_sound, scores_of
from taskvec.searching.findings import BASE, CHOSEN, Record
from taskvec.searching.goals import constraint, objective
from taskvec.searching.journal import FORMAT, read_lines
from taskvec.searching.judge import Judge
from taskvec.searching.trial import Knobs

TORN = "the journal's last line is not whole and was left out: a process was stopped while it wrote it"


def choice_line(
    knobs: Knobs | None, rule: str, how: str, model: Weights, recipe: Weights, notes: Sequence[str]
) -> Line:
    """The line that ends a search: the choice and the rule behind it. `recipe` has the names that the sources of the
    chosen model are called by."""
    return {
        "choice": knobs, "rule": rule, "how": how, "model": model.text(recipe.names(FUNCTIONS)), "file": written(model),
        "family": recipe.text(recipe.names(FUNCTIONS)), "notes": list(notes),
    }  # fmt: skip


def record(about: Mapping[str, Any], lines: Sequence[Line]) -> Record:
    """The record that the lines of a journal make. `about` is the journal's first line. Of several choices the last one
    counts. Raises FormatError for a search that has not ended."""
    choice = next((line for line in reversed(lines) if "choice" in line), None)
    if choice is None:
        raise FormatError("the search has not ended: run it again, and it goes on to its end")
    knobs = choice["choice"]
    validation, test = (_references(lines, split) for split in SPLITS)
    if BASE not in validation:
        raise FormatError("the base was not judged on validation examples")
    goals, bounds = map(objective, about["objective"]), map(constraint, about["constraints"])
    judge = Judge.of([*goals], about["minimise"], [*bounds], validation)
    tried = judge.all(lines)
    chosen = next((t for t in tried if t.knobs == knobs), None)
    judged = next((line for line in lines if "test" in line and line["test"] == knobs), None)
    if judged:
        test[CHOSEN] = scores_of(judged)
    own = next((line for line in lines if "scores" in line and chosen and line.get("trial") == chosen.number), {})
    notes = [*choice["notes"], *_at_ends(about["knobs"], knobs or {}), *_looked(lines, knobs)]
    return Record(
        recipe=choice["family"],
        model=choice["model"],
        file=choice["file"],
        chosen=chosen,
        how=choice["how"],
        objectives=tuple(about["objective"]),
        minimised=about["minimise"],
        constraints=tuple(about["constraints"]),
        trials=tuple(tried),
        given_up=tuple(judge.trial(line, "partial") for line in lines if "partial" in line),
        validation=validation,
        test=test,
        seeds=(judged or own).get("seeds", {}),
        looks=len({_key(what["test"]) for line in lines if (what := _tested(line))}),
        notes=tuple(notes),
    )


def _references(lines: Sequence[Line], split: str) -> dict[str, Mapping[str, Numbers]]:
    """Reference model -> its scores on a split. Of two judgements the first counts, as it does in the search."""
    scores: dict[str, Mapping[str, Numbers]] = {}
    for line in lines:
        if "reference" in line and line["split"] == split:
            scores.setdefault(line["reference"], scores_of(line))
    return scores


def _tested(line: Line) -> Line | None:
    """The candidate that this line judges, or claims, on test examples: {"test": its knobs}."""
    what = line["claim"] if isinstance(line.get("claim"), dict) else line
    return what if isinstance(what.get("test"), dict) else None


def _looked(lines: Sequence[Line], knobs: Knobs | None) -> list[str]:
    """A note if judging the chosen model on test examples was begun more than once, because a process was stopped."""
    begun = [line for line in lines if "claim" in line and (what := _tested(line)) and what["test"] == knobs]
    ended = sum("test" in line and line["test"] == knobs for line in lines)
    times = max(len(begun), ended)
    if times < 2:
        return []
    return [
        f"judging the chosen model on test examples was begun {times} times, since a process stopped before it was "
        f"done: the scores are those that were written {'down first' if ended else 'down'}"
    ]


def _key(knobs: Knobs) -> str:
    return json.dumps(knobs, sort_keys=True)


def _at_ends(ranges: Mapping[str, str], chosen: Knobs) -> list[str]:
    """Notes on knobs whose chosen value is at the end of their range. There are none for ranges of one or two values,
    nor for a chosen 0, which leaves a term out and is a natural end."""
    notes = []
    for name, text in ranges.items():
        values = text.replace(" to ", ", to, ").split(", ")
        if len(values) > 2 and chosen.get(name) and f"{chosen[name]:g}" in (values[0], values[-1]):
            notes.append(f"{name} = {chosen[name]:g} is at the end of its range: further on may be better")
    return notes


def read_record(path: str | os.PathLike[str]) -> Record:
    """The record of a journal in a file or a database. Raises FormatError if it is no journal of a search, if it does
    not fit together, or if the search has not ended."""
    name, (lines, torn) = os.fspath(path), read_lines(path)
    first, lines = lines[0], lines[1:]
    if first["search"] not in range(1, FORMAT + 1):
        raise FormatError(f"{name} is a journal of another version of taskvec")
    require_first(first, name)
    require_sound(lines, "search", name, 2)
    require_fitting(first, lines, name)
    try:
        search = record(first, lines)
    except FormatError as error:
        raise FormatError(f"{name}: {error}") from None
    except (TaskvecError, ArithmeticError, ValueError) as error:
        raise FormatError(f"{name} does not fit together: {error}") from None
    if not all(math.isfinite(v) for t in (*search.trials, *search.given_up) for v in (*t.goods, t.breach)):
        raise FormatError(f"{name}: an objective or a constraint is no finite number")
    if search.chosen is None and [line["choice"] for line in lines if "choice" in line][-1] is not None:
        raise FormatError(f"{name}: what was chosen is none of the candidates")
    return replace(search, notes=(*search.notes, TORN)) if torn else search
