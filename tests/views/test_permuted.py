"""Units in another order: the same bits wherever they stand, and files that hold no such order."""

import numpy as np
import pytest

import small_stacks
import taskvec as tv
from taskvec.errors import FormatError, MismatchError, RecipeError
from taskvec.views.permuted import in_memory
from taskvec.views.symmetries import Group


@pytest.fixture
def pair(build, tmp_path):
    return small_stacks.pair(build, tmp_path)


def test_permuting_goes_through_sums_and_keeps_every_dtype_and_bit(pair):
    home, alignment = pair
    a, b = tv.load(home / "a"), tv.load(home / "b")
    move = lambda w: tv.permute(w, alignment.permutations)  # noqa: E731
    assert move(0.3 * b - a) == 0.3 * move(b) - move(a)
    tv.save(move(b), home / "moved")
    moved = tv.load(home / "moved")
    assert moved.specs == b.specs
    assert np.array_equal(moved["fc1.weight"], b["fc1.weight"][alignment.permutations["fc1"]])
    back = in_memory(
        {n: Group(6 + (n == "fc2"), axes) for n, axes in {
            "fc1": (("fc1.weight", 0, 1), ("fc1.bias", 0, 1), ("fc2.weight", 1, 1)),
            "fc2": (("fc2.weight", 0, 1), ("fc2.bias", 0, 1), ("fc3.weight", 1, 1))}.items()},
        {n: np.argsort(alignment.permutations[n]) for n in ("fc1", "fc2")},
    )  # fmt: skip
    twice = tv.permute(moved, back)
    assert all(np.array_equal(twice[n], b[n]) for n in b)


def test_a_lora_is_permuted_with_its_model_where_it_has_tensors(pair, build):
    home, alignment = pair
    factors = {f"base_model.model.fc2.lora_{n}.weight": s for n, s in (("A", (2, 6)), ("B", (7, 2)))}
    build.lora(home / "lora", build.tensors(5, factors))
    b, lora = tv.load(home / "b"), tv.load(home / "lora")
    moved, whole = tv.permute(b + lora, alignment.permutations), b + lora
    one, two = alignment.permutations["fc1"], alignment.permutations["fc2"]
    assert np.array_equal(moved["fc2.weight"], whole["fc2.weight"][two][:, one])
    assert np.array_equal(moved["fc1.weight"], whole["fc1.weight"][one])
    assert tv.permute(lora, alignment.permutations).mass == 0


@pytest.mark.parametrize("shape", [(3, 5, 4), (700, 300), (300, 70_000), (5000,), (1200, 1, 3, 3)])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_any_range_of_any_shape_is_numpy_s_take(shape, axes):
    rng = np.random.default_rng(0)
    axes = [axis for axis in axes if axis < len(shape)]
    array = rng.integers(0, 60_000, shape).astype(np.uint16).view(np.float16)
    groups = {f"g{axis}": Group(shape[axis], (("w", axis, 1),)) for axis in axes}
    orders = {f"g{axis}": rng.permutation(shape[axis]) for axis in axes}
    moved = next(iter(tv.permute(tv.from_arrays({"w": array}), in_memory(groups, orders)).terms))
    wanted = array
    for axis in axes:
        wanted = np.take(wanted, orders[f"g{axis}"], axis)
    flat = wanted.reshape(-1).view(np.uint16)
    for start, count in [(0, flat.size), (1, 7), (flat.size // 3, flat.size // 2), (flat.size - 1, 1)]:
        out = bytearray(2 * count)
        moved.readinto("w", start, memoryview(out))
        assert np.array_equal(np.frombuffer(out, np.uint16), flat[start : start + count])


def test_what_holds_no_permutations_or_does_not_fit_is_a_stated_error(pair, build):
    home, alignment = pair
    a, b = tv.load(home / "a"), tv.load(home / "b")
    with pytest.raises(RecipeError, match="holds no permutations"):
        tv.permute(a, b)
    with pytest.raises(MismatchError, match=r"fc1.bias is not in"):
        tv.permute(tv.from_arrays({n: b[n] for n in b if n != "fc1.bias"}), alignment.permutations)
    with pytest.raises(MismatchError, match=r"fc1: axis 0 of fc1.weight \[8, 5\] is not divided by 6 units"):
        tv.permute(
            tv.from_arrays({**{n: b[n] for n in b}, "fc1.weight": np.ones((8, 5), "f4")}), alignment.permutations
        )
    with pytest.raises(FormatError, match="fc1 is no permutation"):
        one = {"fc1": Group(6, (("fc1.weight", 0, 1),))}
        tv.permute(b, in_memory(one, {"fc1": np.array([0, 1, 2, 3, 4, 4])}))
    raw = bytearray((home / "p.safetensors").read_bytes())
    raw[-16:-8], raw[-8:] = raw[-8:], raw[-16:-8]  # still a permutation, another one
    (home / "q.safetensors").write_bytes(raw)
    with pytest.raises(FormatError, match="the digest of the permutations is not the one in its metadata"):
        tv.permute(b, home / "q.safetensors")
