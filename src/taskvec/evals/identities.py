"""What is chosen on validation examples must not be judged on them: no test example may be a validation example.

An evaluator tells which examples it uses by an identity for each, which is anything that can be compared, such as a
digest of the text. An example made of several documents has a frozenset of their identities, and it is shared if one of
these documents is. What an evaluator does not tell cannot be checked, and the result of a search says so.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskvec.errors import MismatchError, TaskvecError
from taskvec.evals.evaluator import SPLITS, Evaluator

PROMISE = "that validation and test examples differ"


@dataclass(frozen=True, slots=True)
class Told:
    """What an evaluator tells of its examples: by split and metric the identity of each; no table where it does not."""

    evaluator: str
    examples: Mapping[str, Mapping[str, Sequence[Any]]]  # split -> metric -> identities

    def require_all(self, scores: Mapping[str, Any], split: str) -> None:
        """Raise MismatchError for metrics of which it tells fewer examples, or more, than have a score."""
        if problems := self._miscounted(scores, split):
            raise MismatchError(
                f"{self.evaluator}: examples({split!r}) must have an identity for each example that has a score, or "
                "nobody can check that none of test is among those of validation:",
                problems,
            )

    def notes(self, scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """What could not be checked. scores: split -> what some model scored there."""
        if not self.examples:
            return [f"{self.evaluator} does not tell its examples: {PROMISE} is its own promise"]
        known = self.examples["validation"].keys() & self.examples["test"].keys()
        untold = [name for name in scores["validation"] if name not in known]
        found = [f"{', '.join(untold)}: {PROMISE} is not checked, since its examples are not told"] if untold else []
        for what in self._miscounted(scores["test"], "test"):
            found.append(f"test examples that are not told may be among those of validation; {what}")
        return found

    def _miscounted(self, scores: Mapping[str, Any], split: str) -> list[str]:
        told = self.examples.get(split, {})
        counts = {name: len(v) for name, v in scores.items() if isinstance(v, Sequence) and name in told}
        return [
            f"{n}: {len(told[n])} identities, {count} scores" for n, count in counts.items() if len(told[n]) != count
        ]


def require_apart(evaluate: Evaluator) -> Told:
    """What an evaluator tells of its examples. Raises MismatchError where a test example validates."""
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
    return identity if isinstance(identity, frozenset) else (identity,)


def _examples(evaluate: Evaluator, split: str) -> "dict[str, list[Any]] | None":
    """Of a split, or None. Raises TaskvecError for what is no table of lists of identities."""
    found = evaluate.examples(split)
    if found is None:
        return None
    try:
        if isinstance(found, Mapping) and not any(isinstance(identities, str | bytes) for identities in found.values()):
            table = {name: [*identities] for name, identities in found.items()}
            _ = [{*identities} for identities in table.values()]  # can they be compared?
            return table
    except TypeError:
        pass
    told = f"{evaluate.text}: examples({split!r}) must give a list of identities for each metric"
    raise TaskvecError(f"{told}, {{metric: [text, ...]}}, not {found!r:.60}")
