"""Files as mergekit's users write them, for the tests of what reads them."""

import pytest

from taskvec.errors import RecipeError
from taskvec.recipes.mergekit import read

SHAPES = {
    "model.embed_tokens.weight": (12, 4),
    **{f"model.layers.{k}.{part}.weight": (4, 4) for k in range(3) for part in ("self_attn.q_proj", "mlp.up_proj")},
    "model.norm.weight": (4,),
    "lm_head.weight": (12, 4),
}


NAMES = ("base", "math", "code")


def written(home, text, name="config.yml"):
    (home / name).write_text(text)
    return home / name


def refused(home, text):
    """The message that a file is refused with."""
    with pytest.raises(RecipeError) as found:
        read(written(home, text))
    return str(found.value)


LINEAR = """
merge_method: linear
models:
  - {model: math, parameters: {weight: 1}}
  - {model: code, parameters: {weight: 3}}
"""
