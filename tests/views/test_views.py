"""What the folder of views promises as a whole: a view is one file. The registry of views is a closed table today, so
the test puts the sample into it."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import taskvec as tv
from taskvec.lazy import Rooms
from taskvec.recipes import recipe

SAMPLE = Path(__file__).with_name("sample.py")


@pytest.fixture
def models(build, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("sample_view", SAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "sample_view", module)
    monkeypatch.setattr(
        recipe, "FUNCTIONS", Rooms({"sample_view": ("reversed_rows",), "taskvec.recipes.recipe": ("load",)})
    )
    for seed, name in enumerate(("base", "math")):
        build.model(tmp_path / name, build.tensors(seed) | {"model.ids": np.arange(5)})
    return {name: tv.load(tmp_path / name) for name in ("base", "math")}


def test_a_view_takes_sixty_lines_and_adds_scales_prints_and_streams_like_the_rest(models, tmp_path):
    assert len(SAMPLE.read_text().splitlines()) <= 60
    w = tv.parse("base + 0.5*reversed_rows(math - base)", **models)
    base, other = models["base"], models["math"]
    tv.save(w, tmp_path / "out", threads=2)
    out = tv.load(tmp_path / "out")
    for name in base:
        wanted = base[name]
        if w.specs[name].arithmetic:
            wanted = wanted + np.float32(0.5) * (other[name] - base[name])[::-1]
        assert np.array_equal(out[name], wanted) and np.array_equal(w[name], wanted), name
    assert tv.parse(str(w)) == w
    twice = tv.parse("reversed_rows(reversed_rows(math))", math=other)
    assert all(np.array_equal(twice[name], other[name]) for name in other)
