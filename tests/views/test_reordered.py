"""The order of another vocabulary: what the call cannot take. The rule itself is in papers/test_vocabularies.py."""

import pytest

from small_llamas import refused
from taskvec.errors import MassError, RecipeError

# ---- what is refused ------------------------------------------------------------------------------
WRONG = [
    ("align_vocab(math, code - base)", MassError, "masses are \\[1, 0\\]"),
    ("align_vocab(math - base, code, code - base)", MassError, "masses are \\[0, 1, 0\\]"),
    ("align_vocab(math)", RecipeError, "needs the model whose vocabulary"),
    ("align_vocab(math, code, source=2)", RecipeError, "source=2, and there are 1 models"),
    ('align_vocab(math, code, source="first")', RecipeError, "source must be a whole number"),
    ("align_vocab(math, code, base=0)", RecipeError, "base must be a whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "kind", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_what_cannot_be_done_is_a_stated_error(models, tmp_path, recipe, kind, message):
    refused(recipe, models, tmp_path, kind, message)
