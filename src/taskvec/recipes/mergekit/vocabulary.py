"""The models of a configuration as its method gets them: one vocabulary, and a head in all of them or in none."""

from collections.abc import Mapping
from typing import Any

from taskvec.algebra.weights import Weights
from taskvec.errors import TaskvecError
from taskvec.recipes.mergekit.config import Config, Problems, Reference, Token, Tokenizer
from taskvec.recipes.recipe import FUNCTIONS
from taskvec.sources.positions import HEADS

Models = Mapping[Reference, Weights]


def prepared(c: Config, models: Models, problems: Problems) -> dict[Reference, Weights]:
    """Heads untied where one of the models has its own, then every vocabulary as the tokenizer block says.

    mergekit reads the embedding where a head is missing, so a merge of tied and untied models is untied.
    """
    headed = any(name in HEADS for m in models.values() for name in m.specs)
    found = dict(models)
    for reference, model in models.items():
        if headed and not any(name in HEADS for name in model.specs):
            found[reference] = FUNCTIONS["untie"](model)
    return found if c.tokenizer is None or problems else _aligned(c, c.tokenizer, found, problems)


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
        named = {text: _source(text, t, order, problems) for text, t in block.tokens.items() if t.force == forced}
        if entries := {text: source for text, source in named.items() if source is not None}:
            options[key] = entries
    if problems:
        return dict(models)
    found = {}
    for reference, model in models.items():
        try:
            found[reference] = FUNCTIONS["align_vocab"](model, *models.values(), **options)
            if block.pad_to_multiple_of:
                found[reference] = FUNCTIONS["pad_vocab"](found[reference], block.pad_to_multiple_of, fill="mean")
        except TaskvecError as error:
            problems.append(f"tokenizer: {error}")
            return dict(models)
    return found


def _source(text: str, token: Token, order: list[Reference], problems: Problems) -> Any:
    """As `align_vocab` takes it: 0, the number of a model, or a row of one; None if the entry says nothing."""
    if token.zero:
        return 0
    if token.model is None:
        return None
    if token.model not in order:
        problems.append(f"tokenizer.tokens.{text}: {token.model} is none of the models that are merged")
        return None
    number = order.index(token.model) + 1
    return number if token.token is None else (number, token.token)
