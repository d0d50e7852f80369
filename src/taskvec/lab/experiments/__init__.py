"""The experiments. Each is a question, its settings, and a function from a bench and settings to findings.

negation.py   forgetting: subtract a vector
addition.py   learning: add vectors; target improvement
analogies.py  three vectors predict a fourth
methods.py    every merge method against plain task arithmetic
sequential.py tasks are added, removed and added again, in every order
edits.py      sequences of edits, and what they do to the tasks in the model
in_place.py   what edits leave behind that are made in place
debiasing.py  subtract the bias of a vector that was trained on skewed data
fairness.py   groups, their cells, parity and odds, and skewed training sets
discussion.py cosines, learning rates, vectors along the training, seeds, disentanglement
batchnorm.py  for addition: which running statistics BatchNorm should have in a sum
common.py     from scores to means and paired comparisons
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from taskvec.errors import RecipeError, did_you_mean
from taskvec.lab.bench import Bench
from taskvec.lab.experiments import addition, analogies, debiasing, discussion, methods, negation, sequential
from taskvec.lab.results import Findings
from taskvec.lab.suite import Suite
from taskvec.places.fields import problems_of


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment of the lab."""

    name: str
    question: str
    settings: type  # a dataclass, whose fields a suite may set
    run: Callable[[Bench, Any], Findings]
    check: Callable[[Suite, Any], None]  # raises RecipeError for a suite or settings with which it cannot be run
    long: bool = False  # it is run only when it is named
    told: bool = False  # it has nothing to do unless the suite has settings for it


EXPERIMENTS = (
    Experiment("negation", negation.QUESTION, negation.Settings, negation.run, negation.check),
    Experiment("addition", addition.QUESTION, addition.Settings, addition.run, addition.check),
    Experiment("analogies", analogies.QUESTION, analogies.Settings, analogies.run, analogies.check, told=True),
    Experiment("methods", methods.QUESTION, methods.Settings, methods.run, methods.check, long=True),
    Experiment("discussion", discussion.QUESTION, discussion.Settings, discussion.run, discussion.check),
    Experiment("sequential", sequential.QUESTION, sequential.Settings, sequential.run, sequential.check),
    Experiment("debiasing", debiasing.QUESTION, debiasing.Settings, debiasing.run, debiasing.check, told=True),
)


def planned(names: Sequence[str], suite: Suite) -> list[tuple[Experiment, Any]]:
    """The experiments of these names, each with the settings of the suite; without names all that are not long, and
    for which the suite has the settings that they need.

    Raises RecipeError with all that is wrong: unknown names, each with the nearest known one, unknown settings, and
    what an experiment cannot do with this suite.
    """
    known = {experiment.name: experiment for experiment in EXPERIMENTS}
    problems = [f"no experiment is called {name}{did_you_mean(name, known)}" for name in names if name not in known]
    problems += [
        f"{suite.path}: no experiment is called {n}{did_you_mean(n, known)}"
        for n in suite.experiments
        if n not in known
    ]
    for name, settings in suite.experiments.items():
        if name in known:
            problems += problems_of(settings, known[name].settings, f"{suite.path}, {name}")
    usual = [e for e in EXPERIMENTS if not e.long and (e.name in suite.experiments or not e.told)]
    wanted = [] if problems else [known[name] for name in dict.fromkeys(names)] or usual
    work = [(e, e.settings(**suite.experiments.get(e.name, {}))) for e in wanted]
    for experiment, settings in work:
        try:
            experiment.check(suite, settings)
        except RecipeError as error:
            problems.append(str(error))
    if problems:
        raise RecipeError(f"these experiments cannot be run (there is {', '.join(known)}):", problems)
    return work
