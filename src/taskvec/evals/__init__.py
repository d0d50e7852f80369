"""Evaluators: functions from weights to metrics. One kind a file.

evaluator.py       what an evaluator is, what it may return, and one judgement of one model
identities.py      which examples were used: those of test must not be among those of validation
order.py           the order of a split's examples: random, with each class spread evenly over it
files.py           an evaluator by its text: FILE.yml or FILE.py:NAME
suite.py           the tasks of a YAML file, together one evaluator
task.py            what the kinds of tasks share
texts.py           examples out of files, and their two splits
module.py          one live module of transformers that takes on any weights
classification.py  texts, by a zero-shot head, a given head or the model's own
images.py          pictures, by CLIP and a zero-shot head
language.py        perplexity over texts, and what a model writes
harness.py         tasks of lm-evaluation-harness
command.py         a shell command that prints metrics
"""

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
