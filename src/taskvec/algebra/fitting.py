"""Adapters meet the model that they are added to: what a file alone cannot tell about a source, its neighbour can.

A source that `Adapts` (sources/abilities.py) changes beside a model. This module asks it for the form to add, for the
reasons not to add it and for what a user should know of the sum; formats/peft.py has the answers.
"""

from collections.abc import Collection, Iterable, Mapping

from taskvec.algebra.coefficients import ZERO, Coefficient
from taskvec.errors import TaskvecError
from taskvec.notes import note
from taskvec.numbers.rationals import Number
from taskvec.sources.abilities import Adapts, require_source
from taskvec.sources.source import Source


def in_form(
    terms: Mapping[Source, Coefficient | Number], mentioned: Mapping[Source, str], summed: tuple[Source, ...]
) -> tuple[dict[Source, Coefficient], Mapping[Source, str], tuple[Source, ...]]:
    """The parts of an expression, each source in the form that it has beside the first model among them, or beside the
    first task vector that names every tensor. Raises RecipeError for an object that is no source."""
    for source in terms:
        require_source(source)
    forms = _forms([*summed, *terms])
    if not forms:
        return {source: Coefficient.of(c) for source, c in terms.items()}, mentioned, summed
    total: dict[Source, Coefficient] = {}
    for source, c in terms.items():
        form = forms.get(source, source)
        total[form] = total.get(form, ZERO) + Coefficient.of(c)
    return total, {forms.get(s, s): name for s, name in mentioned.items()}, tuple(forms.get(s, s) for s in summed)


def _forms(sources: Iterable[Source]) -> Mapping[Source, Source]:
    """The sources that take another form beside the first model among all: source -> that form."""
    every = dict.fromkeys(sources)
    adaptable = [source for source in every if isinstance(source, Adapts)]
    if not adaptable or len(adaptable) == len(every):
        return {}
    model = whole(every)
    if model is None:
        return {}
    found = {source: source.fitted(model) for source in adaptable}
    return {source: form for source, form in found.items() if form is not source}


def whole(sources: Iterable[Source]) -> Source | None:
    """The first model among sources, else the first task vector that names every tensor: what adapters are beside."""
    every = tuple(sources)
    model = next((source for source in every if _is_model(source)), None)
    return model or next((source for source in every if _is_whole(source)), None)


def told_by(terms: Iterable[Source], summed: Iterable[Source]) -> Source | None:
    """The model that cancelled, as in `base + lora - base`, and yet says of what is left, adapters, which tensors there
    are, in how many layers, and which way round they are stored. None where no model cancelled, or there still is one.
    """
    left = tuple(terms)
    if whole(left):
        return None
    return whole(summed) or next((s.beside for s in left if isinstance(s, Adapts) and s.beside), None)


def objections(leaves: Iterable[Source], summed: Collection[Source], reference: Source) -> list[str]:
    """What the adapters among the files below an expression have against the model that they are added to.

    summed: the terms of the expression. An adapter that is no term itself is within a view or a method.
    """
    model = reference if _is_model(reference) else None
    adapters = [leaf for leaf in leaves if isinstance(leaf, Adapts)]
    return list(dict.fromkeys(problem for leaf in adapters for problem in leaf.objections(model, leaf in summed)))


def note_remarks(leaves: Iterable[Source], reference: Source | None) -> None:
    """Issue what the adapters among the files below an expression want a user to know about it."""
    model = reference if reference is not None and _is_model(reference) else None
    for leaf in leaves:
        for text in leaf.remarks(model) if isinstance(leaf, Adapts) else ():
            note(text)


def _is_whole(source: Source) -> bool:
    """Whether a task vector names every tensor."""
    try:
        return not source.partial
    except TaskvecError:
        return False


def _is_model(source: Source) -> bool:
    if isinstance(source, Adapts):
        return False
    try:
        return source.mass == 1
    except TaskvecError:  # a call whose arguments have no value yet, or no mass: said where it is asked for
        return False
