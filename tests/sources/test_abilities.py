"""A source of one's own needs the members of `Source` and nothing else; what it lacks is said in one error."""

import re
from pathlib import Path

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import MassError, RecipeError, SourceChanged, TaskvecError
from taskvec.sources import abilities
from taskvec.sources.abilities import Leaf
from taskvec.sources.cost import Cost
from taskvec.sources.source import Spec, fingerprint


class Mine:
    """Tensor "w" of n numbers k, k + 1, ...: what a user may write who reads from somewhere else."""

    mass, partial, base, text = 1, False, None, "mine"

    def __init__(self, n, k=0.0):
        self.values = np.arange(n, dtype=np.float32) + np.float32(k)
        self.specs = {"w": Spec((n,), "F32")}

    @property
    def fingerprint(self):
        return fingerprint(self.specs, self.readinto)

    def stamp(self):
        return None

    def require_unchanged(self):
        pass

    def readinto(self, name, start, out):
        out[:] = self.values[start:].tobytes()[: len(out)]


def test_a_source_of_ones_own_is_summed_viewed_measured_and_saved(tmp_path):
    one, two = tv.Weights({Mine(5): 1}).named("one"), tv.Weights({Mine(5, 4): 1}).named("two")
    assert isinstance(next(iter(one.terms)), tv.Source)
    saved = tv.save(one + 0.5 * (two - one), tmp_path / "out.safetensors")
    assert np.array_equal(tv.load(saved.path)["w"], np.arange(5) + np.float32(2))
    assert np.array_equal(tv.rename(one, {"w": "v"})["v"], np.arange(5))
    assert np.array_equal((one + tv.trim(two - one, density=0.2))["w"], np.arange(5) + 4)  # all are equally large


def nothing_of(mine):
    """What holds for a source that states no ability."""
    assert abilities.leaves_of(mine) == (mine,) and abilities.stored_of(mine) is mine.specs
    assert abilities.written(mine, {}) == "mine" and abilities.written(mine, {mine: "m"}) == "m"
    nothing = [f(mine) for f in (abilities.folder_of, abilities.metadata_of, abilities.cost_of)]
    assert nothing == [None, {}, Cost()] and abilities.statistic_of(mine) == ""


def test_what_holds_for_a_source_that_states_no_ability():
    nothing_of(Mine(3))
    assert abilities.folder_of(None) is None and abilities.stored_of(None) == abilities.metadata_of(None) == {}


def test_an_object_that_is_no_source_is_told_what_it_lacks():
    own = {
        name: value for name, value in vars(Mine).items() if name not in ("stamp", "base", "__dict__", "__weakref__")
    }
    Half = type("Half", (), own)  # noqa: N806 - a class
    with pytest.raises(RecipeError, match="Half is no source, for it has no base, stamp: "):
        tv.Weights({Half(3): 1})
    with pytest.raises(RecipeError, match="int is no source, for it has no base, fingerprint, mass"):
        tv.Weights({5: 1})


def test_an_ability_that_is_not_stated_is_not_used():
    """A member of the same name may mean another thing in somebody's class."""

    class Misleading(Mine):
        folder, uri, metadata, knobs, leaves, resident, segment = "f", "u", 7, 5, 6, 1 << 60, 3

        def origin(self, name):
            raise AssertionError

        lowered = lowered_bytes = fitted = bind = placed = unfit = astray = written = origin

    w = tv.Weights({Misleading(3): 1})
    nothing_of(next(iter(w.terms)))
    assert w.bind() == w and w.placed is w and w.knobs == set() and str(w) == "mine" and w.kind() == 1
    assert tv.plan(w).peak < 1 << 30 and np.array_equal(w["w"], [0, 1, 2])


def test_statistics_of_ones_own_are_not_summed_as_if_they_were_weights(tmp_path):
    """Source says that such a source has an attribute `statistic`; it need not inherit from anything for that."""
    known = Mine(5, 2)
    known.statistic, known.mass = "fisher", 0
    model, fisher = tv.Weights({Mine(5): 1}), tv.Weights({known: 1})
    with pytest.raises(MassError, match="holds fisher statistics: only a method takes them"):
        tv.save(model + 0.5 * fisher, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    assert np.array_equal(tv.fisher(model, model, fisher, fisher)["w"], np.arange(5))


def test_a_wrapper_that_passes_everything_on_is_a_source():
    class Wrapper:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

    assert np.array_equal(tv.Weights({Wrapper(Mine(3)): 1})["w"], np.arange(3))


# ---- docs/sources.md ----------------------------------------------------------------------------------------
def test_the_page_on_sources_of_your_own_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, flags=re.S | re.M)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(block, names)
    np.savez("tuned.npz", w=np.zeros(6, np.float32))
    with pytest.raises(SourceChanged, match=r"tuned\.npz changed while it was used"):
        tv.save(0.5 * names["base"] + 0.5 * names["tuned"], tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_the_cost_that_a_leaf_of_your_own_states_is_in_the_plan_and_another_class_holds_nothing():
    class Held(Mine, Leaf):
        cost = Cost(once=50_000_000, computing=20_000_000)

    class Stated(Mine):
        cost = Held.cost

    free, held, stated = (tv.plan(tv.Weights({kind(3): 1}), threads=2) for kind in (Mine, Held, Stated))
    assert held.peak == free.peak + 50_000_000 + 2 * 20_000_000 and stated.peak == free.peak
    with pytest.raises(TaskvecError, match=r"needs at least .* of memory"):
        tv.plan(tv.Weights({Held(3): 1}), ram=free.peak, threads=2)
