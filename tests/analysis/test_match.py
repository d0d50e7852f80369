"""The orders of one model's units that bring it nearest to another, on models of a few units."""

import json

import numpy as np
import pytest

import taskvec as tv
from small_stacks import SHAPES
from taskvec.analysis import match as matching
from taskvec.analysis.match import Alignment
from taskvec.errors import MassError, NonFiniteError, OutputError, RecipeError

pytest.importorskip("scipy")


def arrays(seed):
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s).astype("f4") for n, s in SHAPES.items()}


def shuffled(content, one, two):
    """The same network with its hidden units in other orders."""
    c = content
    return {"fc1.weight": c["fc1.weight"][one], "fc1.bias": c["fc1.bias"][one],
            "fc2.weight": c["fc2.weight"][two][:, one], "fc2.bias": c["fc2.bias"][two],
            "fc3.weight": c["fc3.weight"][:, two]}  # fmt: skip


A = tv.from_arrays(arrays(0), "a")
ONE, TWO = np.array([3, 1, 0, 5, 2, 4]), np.array([6, 0, 2, 1, 4, 3, 5])
B = tv.from_arrays(shuffled(arrays(0), ONE, TWO), "b")


def test_a_shuffled_network_is_put_in_order_again():
    aligned = tv.match(A, B)
    assert np.array_equal(ONE[aligned.permutations["fc1"]], np.arange(6))
    assert np.array_equal(TWO[aligned.permutations["fc2"]], np.arange(7))
    assert all(np.array_equal(tv.permute(B, aligned.permutations)[n], A[n]) for n in SHAPES)
    assert (aligned.symmetry, aligned.units, aligned.uncovered) == ("stack", {"fc1": 6, "fc2": 7}, ())
    assert aligned.moved == {"fc1": int((np.arange(6) != ONE).sum()), "fc2": int((np.arange(7) != TWO).sum())}
    assert aligned.after == pytest.approx(1) and aligned.before < 0.9 and aligned.settled and aligned.sweeps >= 2


def test_a_model_that_is_in_order_is_left_as_it_is():
    aligned = tv.match(A, A)
    assert aligned.moved == {"fc1": 0, "fc2": 0} and aligned.sweeps == 1 and aligned.settled


def test_progress_and_the_bound_of_sweeps():
    told = []
    aligned = tv.match(A, B, sweeps=1, progress=lambda done, total: told.append((done, total)))
    elements = {"fc1": 30 + 6 + 42, "fc2": 42 + 7 + 21}  # of the tensors that a group permutes
    assert len(told) == 2 and told[-1] == (8 * sum(elements.values()),) * 2 and told[0][0] in (8 * 78, 8 * 70)
    assert (
        aligned.sweeps == 1
        and not aligned.settled
        and str(aligned).endswith("sweep and not settled: allow it more sweeps")
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_seed_decides_the_order_of_groups_alone(seed):
    aligned = tv.match(A, B, seed=seed)
    assert aligned.after == pytest.approx(1)


def test_slabs_and_parts_of_the_sum_change_no_order(monkeypatch):
    wanted = tv.match(A, B).permutations
    monkeypatch.setattr(matching, "SLAB", 10)
    monkeypatch.setattr(matching, "WIDTH", 14)
    permutations = tv.match(A, B).permutations
    assert all(np.array_equal(permutations[n], wanted[n]) for n in wanted)


def test_what_was_found_is_told():
    aligned = tv.match(A, B)
    assert json.loads(json.dumps(aligned.as_dict())).keys() == {
        "symmetry", "units", "moved", "uncovered", "sweeps", "settled", "before", "after"
    }  # fmt: skip
    assert str(aligned) == (
        f"{sum(aligned.moved.values())} of 13 units moved in 2 groups (stack)\n"
        f"cosine {aligned.before:.4f} -> 1.0000 after {aligned.sweeps} sweeps"
    )
    other = Alignment("s", {"g": 2}, {"g": 0}, ("x", "y"), 1, True, 0.5, 0.5, aligned.permutations)
    assert (
        str(other)
        == "0 of 2 units moved in 1 groups (s); 2 tensors keep their order\ncosine 0.5000 -> 0.5000 after 1 sweep"
    )


def test_the_permutations_are_a_file_that_names_both_models(tmp_path):
    aligned = tv.match(A, B)
    aligned.save(tmp_path / "p.safetensors")
    again = tv.load(tmp_path / "p.safetensors")
    (source,) = again.terms
    assert source.base == next(iter(B.terms)).fingerprint
    assert source.metadata["taskvec.like"] == next(iter(A.terms)).fingerprint
    assert all(np.array_equal(again[n], aligned.permutations[n]) for n in ("fc1", "fc2"))
    with pytest.raises(OutputError, match="exists; --overwrite replaces it"):
        aligned.save(tmp_path / "p.safetensors")
    aligned.save(tmp_path / "p.safetensors", overwrite=True)
    with pytest.raises(OutputError, match=r"permutations are one file, give it a name that ends in .safetensors"):
        aligned.save(tmp_path / "p")


def test_the_fingerprint_of_a_sum_is_nobodys(tmp_path):
    aligned = tv.match(0.5 * A + 0.5 * B, B)
    aligned.save(tmp_path / "p.safetensors")
    assert "taskvec.like" not in next(iter(tv.load(tmp_path / "p.safetensors").terms)).metadata


def test_what_cannot_be_matched_is_refused():
    with pytest.raises(MassError, match="one of the two is a model, the other a task vector"):
        tv.match(A, B - A)
    with pytest.raises(RecipeError, match="sweeps must be at least 1, not 0"):
        tv.match(A, B, sweeps=0)
    for bad in (np.nan, np.inf):
        content = arrays(1)
        content["fc2.weight"][1, 1] = bad
        with pytest.raises(
            NonFiniteError, match=r"units with NaN or Inf cannot be matched:\n  - fc2.weight has NaN or Inf$"
        ):
            tv.match(A, tv.from_arrays(content, "bad"))
