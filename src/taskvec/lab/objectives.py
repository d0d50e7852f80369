"""What a training makes small. An objective is a function of a task, the module and a batch of examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taskvec.evals.task import Task
from taskvec.evals.texts import Example

Objective = Callable[[Task, Any, Sequence[Example]], Any]  # a scalar tensor


def labels(task: Task, module: Any, examples: Sequence[Example]) -> Any:
    """The loss of the task itself: cross-entropy of the classes, or of the next token."""
    return task.loss_of(module, examples, True)


def ascent(task: Task, module: Any, examples: Sequence[Example]) -> Any:
    """Gradient ascent: the loss of the task, to be made large (Ilharco et al., 2023, the baseline of forgetting)."""
    return -task.loss_of(module, examples, True)


OBJECTIVES: Mapping[str, Objective] = {"labels": labels, "ascent": ascent}
