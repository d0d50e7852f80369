"""The models of a configuration, prepared for its method: one vocabulary, and a head in all of them or in none."""

from collections.abc import Mapping
from typing import Any

from taskvec.algebra.weights import Weights
from taskvec.errors import TaskvecError
from taskvec.recipes.mergekit.config import Config, Problems, Reference, Token, Tokenizer
from taskvec.recipes.recipe import FUNCTIONS
from taskvec.sources.positions import HEADS

Models = Mapping[Reference, Weights]


def prepared(c: Config, models: Models, problems: Problems) -> dict[Reference, Weights]:
    """The models with heads of their own if one of them has one, and with the vocabulary that the file asks for.

    Where a head is missing, mergekit reads the embedding in its place, so that a merge of tied and untied models is
    untied.
    """
    headed = any(name in HEADS for m in models.values() for name in m.specs)
    untied = dict(models)
    for reference, model in models.items():
        if headed and not any(name in HEADS for name in model.specs):
            untied[reference] = FUNCTIONS["untie"](model)
    return untied if c.tokenizer is None or problems else _aligned(c, c.tokenizer, untied, problems)


def _aligned(c: Config, block: Tokenizer, models: Models, problems: Problems) -> dict[Reference, Weights]:
    order = [*models]
    options: dict[str, Any] = {"base": 1} if c.base else {}
    if block.source == "base":
        options["source"] = 1
    elif isinstance(block.source, Reference):
        if block.source in order:
            options["source"] = order.index(block.source) + 1
        else:
            problems.append(f"tokenizer.source: {block.source} is none of the models that are merged")
    for key, forced in (("tokens", False), ("forced", True)):
        sources = {text: _source(text, t, order, problems) for text, t in block.tokens.items() if t.force == forced}
        if entries := {text: source for text, source in sources.items() if source is not None}:
            options[key] = entries
    if problems:
        return dict(models)
    aligned = {}
    for reference, model in models.items():
        try:
            aligned[reference] = FUNCTIONS["align_vocab"](model, *models.values(), **options)
            if block.pad_to_multiple_of:
                aligned[reference] = FUNCTIONS["pad_vocab"](aligned[reference], block.pad_to_multiple_of, fill="mean")
        except TaskvecError as error:
            problems.append(f"tokenizer: {error}")
            return dict(models)
    return aligned


def _source(text: str, token: Token, order: list[Reference], problems: Problems) -> Any:
    """The source of a token as `align_vocab` takes it: 0, the number of a model, or (number, token) for a row of it.
    None if the entry says nothing."""
    if token.zero:
        return 0
    if token.model is None:
        return None
    if token.model not in order:
        problems.append(f"tokenizer.tokens.{text}: {token.model} is none of the models that are merged")
        return None
    number = order.index(token.model) + 1
    return number if token.token is None else (number, token.token)
