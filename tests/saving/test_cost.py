"""What an expression costs: every source once, every call of one tensor, and a block that grows with its size."""

import re

import numpy as np
import pytest

import taskvec as tv
from taskvec.saving.cost import cost_of_block, cost_of_calls, cost_of_sources
from taskvec.sources.cost import Cost

SHAPE, RANK = (64, 4096), 8
FACTORS = 4 * RANK * sum(SHAPE)  # bytes in float32


@pytest.fixture
def sources(tmp_path, build):
    rng = np.random.default_rng(0)
    made = {n: tv.from_arrays({"w.weight": rng.standard_normal(SHAPE).astype("f4")}, n) for n in ("base", "a", "b")}
    factors = {"w.lora_A.weight": (RANK, SHAPE[1]), "w.lora_B.weight": (SHAPE[0], RANK)}
    build.lora(tmp_path / "lora", {n: rng.standard_normal(s).astype("f4") for n, s in factors.items()}, r=RANK)
    return made | {"lora": tv.load(tmp_path / "lora")}


def parsed(recipe, sources):
    return tv.parse(recipe, **{n: w for n, w in sources.items() if re.search(rf"\b{n}\b", recipe)})


def once(recipe, sources):
    return cost_of_sources(parsed(recipe, sources).placed, {}).once


def test_an_adapter_holds_its_factors_once_however_many_calls_it_stands_in(sources):
    assert once("base + lora", sources) == FACTORS
    assert once("base + ties(lora, a - base)", sources) == FACTORS
    assert once("base + lora + ties(lora, ties(lora, a - base))", sources) == FACTORS


def test_two_calls_of_whole_tensors_hold_theirs_each_also_when_they_are_equal(sources):
    one = once("base + iso_c(a - base, b - base)", sources)
    assert one > 4 * 4 * SHAPE[0] * SHAPE[1]
    assert once("base + ties(iso_c(a - base, b - base), 2*iso_c(a - base, b - base))", sources) == 2 * one


def test_a_call_of_several_places_has_its_tables_once_in_a_thread(sources):
    def tables(recipe):
        (call,) = (s for s in parsed(recipe, sources).terms if s.text != "base")
        return cost_of_calls([(call, "w.weight")]).computing

    one, two = tables("base + trim(a - base, density=0.5)"), tables("base + trim(b - base, density=0.5)")
    both = tables("base + elect(trim(a - base, density=0.5), trim(b - base, density=0.5))")
    twice = tables("base + elect(trim(a - base, density=0.5), trim(a - base, density=0.5))")
    assert one == two > 0
    assert both - twice == one


def test_the_memory_of_a_thread_grows_with_the_block_up_to_the_largest_tensor(sources):
    w = parsed("base + 0.5*(a - base)", sources)
    parts = {"w.weight": list(w.parts("w.weight"))}
    small, large, all_of_it, more = (
        cost_of_block(parts, w.specs, size).block for size in (1 << 18, 1 << 19, 1 << 20, 1 << 21)
    )
    assert large - small == 3 << 18  # a block of the output, and as much of each array
    assert all_of_it == more > large


def test_the_peak_of_a_plan_is_its_cost_in_its_threads(sources):
    todo = tv.plan(parsed("base + ties(a - base, b - base)", sources), threads=3)
    assert isinstance(todo.cost, Cost) and todo.peak == todo.cost.of(3) == todo.as_dict()["peak_memory_bytes"]
