"""The order of another vocabulary: single tokens, and what the call cannot take. The rule itself is in
papers/test_vocabularies.py."""

import json

import numpy as np
import pytest

import taskvec as tv
from small_llamas import EMBEDDING, refused
from taskvec.errors import MassError, MismatchError, RecipeError


@pytest.fixture
def folders(tmp_path, build):
    """Models of two rows: a and b know the tokens x and y, c knows x and z, and a token that has no row."""

    def model(name, ids, seed):
        path = build.model(tmp_path / name, build.tensors(seed, {EMBEDDING: (2, 3)}))
        (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": ids}, "added_tokens": []}))
        return tv.load(path)

    return [model(n, ids, k) for k, (n, ids) in enumerate(
        {"a": {"x": 0, "y": 1}, "b": {"x": 0, "y": 1}, "c": {"x": 0, "z": 1, "far": 2}}.items()
    )]  # fmt: skip


def test_a_row_that_is_asked_for_must_have_a_place_in_the_output(folders):
    a, _, c = folders
    assert np.array_equal(tv.align_vocab(a, c, forced={"z": (1, "x")})[EMBEDDING], [a[EMBEDDING][0], c[EMBEDDING][0]])
    for key in ("tokens", "forced"):
        with pytest.raises(MismatchError, match=r"(?s)beyond the 2 rows of .*c.*resize_vocab gives it 3.*'far' has"):
            tv.align_vocab(a, c, **{key: {"far": (1, "x")}})
    rows = tv.align_vocab(a, tv.resize_vocab(c, 3), forced={"far": (1, "x")})[EMBEDDING]
    assert np.array_equal(rows, [a[EMBEDDING][0], c[EMBEDDING][1], c[EMBEDDING][0]])


@pytest.mark.parametrize("given", [{"tokens": {"z": 1}}, {"forced": {"z": 1, "x": (1, "z")}}, {"forced": {"x": 0}}])
def test_rows_that_a_vector_is_told_to_have_are_those_of_the_difference_of_its_models(folders, given):
    a, b, c = folders
    difference = tv.align_vocab(a, c, **given) - tv.align_vocab(b, c, **given)
    assert np.array_equal(tv.align_vocab(a - b, c, **given)[EMBEDDING], difference[EMBEDDING])
    with pytest.raises(MismatchError, match="names rows that there are not"):
        tv.align_vocab(a - b, c, forced={"z": (1, "y")})


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
