"""An evaluator judges a model: a function from weights to metrics. Each kind of evaluator has one file.

evaluator.py       what an evaluator must be and may offer, and how its scores are read
files.py           the border: a user's function, object or file becomes an `Evaluator`
identities.py      no test example may be a validation example
order.py           a random order of examples, with each class spread evenly over it
suite.py           the tasks of a YAML file, together one evaluator
task.py            what all kinds of tasks share
texts.py           examples out of files, and their two splits
module.py          one live module of transformers that takes on any weights
classes.py         what tasks share that put examples into classes by logits
classification.py  texts in classes, by a zero-shot head, a given head or the model's own
images.py          pictures in classes, by CLIP and a zero-shot head
prototypes.py      pictures in classes, by any network of pictures and frozen class means
efficientnet.py    EfficientNet-Lite, a network of pictures with BatchNorm
pixels.py          a picture as a text, for files of examples
language.py        perplexity over texts, and what a model writes
harness.py         tasks of lm-evaluation-harness
command.py         a shell command that prints metrics
"""

from taskvec.evals.evaluator import SPLITS, Evaluator, Numbers, Scored, means, scored
from taskvec.evals.files import Given, as_evaluator, evaluator_from
from taskvec.evals.identities import Told, require_apart

__all__ = [
    "SPLITS",
    "Evaluator",
    "Given",
    "Numbers",
    "Scored",
    "Told",
    "as_evaluator",
    "evaluator_from",
    "means",
    "require_apart",
    "scored",
]
