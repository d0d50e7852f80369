"""The check that no test example is a validation example, since a model chosen on examples cannot be judged on them.

An evaluator tells which examples it uses by an identity for each, which is anything that can be compared, such as a
digest of the text. An example made of several documents has a frozenset of their identities, and it is in both splits
if one of these documents is. If an evaluator does not tell its examples, the result of a search says that this was not
checked.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskvec.errors import MismatchError, TaskvecError
from taskvec.evals.evaluator import SPLITS, Evaluator

PROMISE = "that validation and test examples differ"


@dataclass(frozen=True, slots=True)
class Told:
    """The identities of an evaluator's examples, by split and metric. The table is empty if it does not tell them."""

    evaluator: str
    examples: Mapping[str, Mapping[str, Sequence[Any]]]  # split -> metric -> identities

    def require_all(self, scores: Mapping[str, Any], split: str) -> None:
        """Raise MismatchError for metrics with fewer or more identities than scores."""
        if problems := self._miscounted(scores, split):
            raise MismatchError(
                f"{self.evaluator}: examples({split!r}) must have an identity for each example that has a score, or "
                "nobody can check that none of test is among those of validation:",
                problems,
            )

    def notes(self, scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Sentences on what could not be checked. scores: split -> the scores of any model there."""
        if not self.examples:
            return [f"{self.evaluator} does not tell its examples: {PROMISE} is its own promise"]
        known = self.examples["validation"].keys() & self.examples["test"].keys()
        untold = [name for name in scores["validation"] if name not in known]
        notes = [f"{', '.join(untold)}: {PROMISE} is not checked, since its examples are not told"] if untold else []
        for counts in self._miscounted(scores["test"], "test"):
            notes.append(f"test examples that are not told may be among those of validation; {counts}")
        return notes

    def _miscounted(self, scores: Mapping[str, Any], split: str) -> list[str]:
        """The metrics with fewer or more identities than scores, with both numbers."""
        identities = self.examples.get(split, {})
        counts = {name: len(v) for name, v in scores.items() if isinstance(v, Sequence) and name in identities}
        return [
            f"{name}: {len(identities[name])} identities, {count} scores"
            for name, count in counts.items()
            if len(identities[name]) != count
        ]


def require_apart(evaluate: Evaluator) -> Told:
    """The identities that an evaluator tells. Raises MismatchError if a test example is a validation example."""
    tables = {split: _examples(evaluate, split) for split in SPLITS}
    examples = {split: table for split, table in tables.items() if table is not None}
    if len(examples) < len(SPLITS):
        return Told(evaluate.text, {})
    seen = {part for identities in examples["validation"].values() for i in identities for part in _parts(i)}
    shared = {
        metric: sum(not seen.isdisjoint(_parts(i)) for i in identities)
        for metric, identities in examples["test"].items()
    }
    if any(shared.values()):
        raise MismatchError(
            "test examples are among the validation examples: what is chosen on them cannot be judged on them. "
            "Leave these out of one of the two splits:",
            [f"{metric}: {n} of {len(examples['test'][metric])}" for metric, n in shared.items() if n],
        )
    return Told(evaluate.text, examples)


def _parts(identity: Any) -> Collection[Any]:
    """The identities of the documents that an example is made of, or its own."""
    return identity if isinstance(identity, frozenset) else (identity,)


def _examples(evaluate: Evaluator, split: str) -> "dict[str, list[Any]] | None":
    """Metric -> the identities of a split, None if they are not told. Raises TaskvecError for anything else."""
    given = evaluate.examples(split)
    if given is None:
        return None
    try:
        if isinstance(given, Mapping) and not any(isinstance(identities, str | bytes) for identities in given.values()):
            table = {name: [*identities] for name, identities in given.items()}
            _ = [{*identities} for identities in table.values()]  # a TypeError if they cannot be compared
            return table
    except TypeError:
        pass
    call = f"{evaluate.text}: examples({split!r}) must give a list of identities for each metric"
    raise TaskvecError(f"{call}, {{metric: [text, ...]}}, not {given!r:.60}")
