"""Evaluators: functions from weights to metrics. One kind a file."""

from taskvec.evals.evaluator import Evaluator, Scored, Scores, checked, outputs_of, part_of, scored
from taskvec.evals.files import as_evaluator, evaluator_from
from taskvec.evals.identities import Told, require_apart

__all__ = [
    "Evaluator",
    "Scored",
    "Scores",
    "Told",
    "as_evaluator",
    "checked",
    "evaluator_from",
    "outputs_of",
    "part_of",
    "require_apart",
    "scored",
]
