"""Work grows with the number of tensors, not with its square: mixtures of experts have a hundred thousand.

What is counted is how often a tensor's name is looked up or compared: the names are texts that count that.
"""

import numpy as np
import pytest

import taskvec as tv
from taskvec.analysis.compare import compare
from taskvec.recipes.recipe import parse

FEW = 100


class Name(str):
    """A tensor's name that counts how often it is hashed and compared."""

    asked = 0

    def __hash__(self):
        Name.asked += 1
        return super().__hash__()

    def __eq__(self, other):
        Name.asked += 1
        return str.__eq__(self, other)


def model(seed, count):
    rng = np.random.default_rng(seed)
    names = [Name(f"model.layers.{k // 8}.mlp.experts.{k % 8}.weight") for k in range(count)]
    return tv.from_arrays({name: rng.standard_normal((3, 4)).astype("f4") for name in names}, name=f"m{seed}")


def asked(work, count):
    """How often names are asked for by work(base, a, b), models of so many tensors."""
    models = [model(seed, count) for seed in range(3)]
    Name.asked = 0
    work(*models)
    return Name.asked


def grows(work):
    """What three times as many tensors ask for, as a multiple of three times what one third of them asks."""
    return asked(work, 3 * FEW) / (3 * asked(work, FEW))


RECIPES = (
    "0.5*a + 0.5*b",
    "base + 0.3*(a - base) + 0.3*(b - base)",
    'base + layers(0.2, 0.8)*(a - base) + only("*.experts.1.*")*(b - base)',
    "base + ties(a - base, b - base, density=0.2)",
    'base + ties(a - base, b - base, density=0.2, scope="model")',
    'base + trim(a - base, density=0.5, ties="first") + 0*b',
    "base + dare(a - base, drop=0.5) + 0*b",
    "base + norm_matched(a - base, b - base)",
    "base + consensus(a - base, b - base)",
    "base + iso_c(a - base, b - base)",
    'select(base, "*.mlp.*") + select(a, "*.mlp.*") - select(b, "*.mlp.*")',
    "base + breadcrumbs(a - base) + elect(b - base, trim(a - base))",
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_merge_asks_as_often_for_each_of_many_tensors_as_for_each_of_few(recipe, tmp_path):
    def save(base, a, b):
        weights = parse(recipe, **{n: w for n, w in {"base": base, "a": a, "b": b}.items() if n in recipe})
        tv.save(weights, tmp_path / "out", overwrite=True, durable=False, threads=1, shard_size="2kB")

    assert grows(save) < 1.25


def test_a_table_with_an_entry_for_each_tensor_is_looked_up(tmp_path):
    def save(base, a, b):
        vector = tv.layerwise(a - base, "lam", by="tensor")
        tv.save(base + vector.bind(**dict.fromkeys(vector.knobs, 0.5)), tmp_path / "out", overwrite=True, threads=1)

    assert grows(save) < 1.25


def test_comparing_and_checking_ask_as_often_for_each_of_many_tensors(tmp_path):
    assert grows(lambda base, a, b: compare([a, b], base=base)) < 1.25
    assert grows(lambda base, a, b: (base + a - b).specs) < 1.25


def test_a_plan_knows_its_tensors_once():
    plan = tv.plan(model(0, 3))
    assert plan.specs is plan.specs
