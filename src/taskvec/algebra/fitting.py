"""Adapters are fitted to the model that they are added to.

The file of an adapter does not say everything: in what form its numbers are added, and whether they may be, depends on
the model beside it. A source that `Adapts` (sources/abilities.py) answers three questions, which this module asks: in
what form it is to be added, what speaks against the sum, and what a user should know about it. formats/peft.py answers.
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
    """(terms, mentioned, summed) of an expression, with adapters in the form that they have beside its model (`whole`).

    Raises RecipeError for an object that is no source.
    """
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
    """Adapter -> the form that it takes beside the model among the sources, for adapters whose form changes."""
    every = dict.fromkeys(sources)
    adaptable = [source for source in every if isinstance(source, Adapts)]
    if not adaptable or len(adaptable) == len(every):
        return {}
    model = whole(every)
    if model is None:
        return {}
    forms = {source: source.fitted(model) for source in adaptable}
    return {source: form for source, form in forms.items() if form is not source}


def whole(sources: Iterable[Source]) -> Source | None:
    """The source that adapters are fitted to: the first model, else the first task vector that names every tensor."""
    every = tuple(sources)
    model = next((source for source in every if _is_model(source)), None)
    return model or next((source for source in every if _is_whole(source)), None)


def told_by(terms: Iterable[Source], summed: Iterable[Source]) -> Source | None:
    """The model that cancelled in an expression of which adapters are left, as in `base + lora - base`.

    The adapters still depend on it: it says which tensors there are, in how many layers, and whether matrices are
    stored transposed. None if no model cancelled, or if one is left.
    """
    left = tuple(terms)
    if whole(left):
        return None
    return whole(summed) or next((s.beside for s in left if isinstance(s, Adapts) and s.beside), None)


def objections(leaves: Iterable[Source], summed: Collection[Source], reference: Source) -> list[str]:
    """A line for each reason why an adapter cannot be added to the model.

    leaves: the files and arrays of the expression.
    summed: the terms of the expression. An adapter that is not among them is within a view or a method.
    """
    model = reference if _is_model(reference) else None
    adapters = [leaf for leaf in leaves if isinstance(leaf, Adapts)]
    return list(dict.fromkeys(problem for leaf in adapters for problem in leaf.objections(model, leaf in summed)))


def note_remarks(leaves: Iterable[Source], reference: Source | None) -> None:
    """Issue a note for everything that a user should know about the sum of these adapters and the model."""
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
