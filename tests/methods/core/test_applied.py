"""A call computes range by range: any range is a part of the whole, measured once, from any thread."""

import threading

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import TaskvecError

SPAN = 32 << 10  # elements that share a number of those that a method is told tile by tile
SHAPES = {"w": (3, 3 * SPAN // 2 + 5), "b": (7,)}


def weights(seed, mass=0):
    rng = np.random.default_rng(seed)
    arrays = {n: np.round(8 * rng.standard_normal(s)).astype("f4") for n, s in SHAPES.items()}
    return tv.from_arrays(arrays, f"t{seed}", mass=mass)


CALLS = {
    "elementwise": lambda a, b: tv.elect(a, b),
    "measured": lambda a, b: tv.trim(a, density=0.3),
    "a number a tile": lambda a, b: tv.trim(a, density=0.3, ties="first"),
    "drawn": lambda a, b: tv.dare(a, seed=3),
    "drawn and measured": lambda a, b: tv.dare(a, seed=3, rescale="l1"),
    "by rows": lambda a, b: tv.della(a, seed=3),
    "a combination": lambda a, b: tv.nuslerp(a, b),
    "by lanes": lambda a, b: tv.nuslerp(a, b, scope="column"),
    "of a method": lambda a, b: tv.elect(tv.trim(a, density=0.3), tv.dare(b)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_any_range_is_a_part_of_the_whole(call):
    (source,) = call(weights(1), weights(2)).terms
    whole = np.empty(source.specs["w"].numel, np.float32)
    source.readinto("w", 0, memoryview(whole.view(np.uint8)))
    ranges = [(1, 3), (SPAN - 1, 2), (SPAN, SPAN), (SPAN + 7, 2 * SPAN), (whole.size - 1, 1), (5, 0)]
    for start, count in ranges + [(k * SPAN + 20_000, SPAN - 20_000) for k in range(4)]:
        part = np.empty(count, np.float32)
        source.readinto("w", start, memoryview(part.view(np.uint8)))
        assert np.array_equal(part, whole[start : start + count]), (start, count)


def test_threads_that_ask_at_once_get_the_same():
    (source,) = tv.trim(weights(1), density=0.3).terms
    answers = {}

    def ask(k):
        out = np.empty(7, np.float32)
        source.readinto("b", 0, memoryview(out.view(np.uint8)))
        answers[k] = out.tolist()

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4 and len({str(v) for v in answers.values()}) == 1


def test_what_was_measured_is_not_measured_again():
    (source,) = tv.trim(weights(1), density=0.3).terms
    size = sum(s.numel for s in source.specs.values())
    seen = []
    assert source.unmeasured == size
    source.prepare(1, seen.append)
    assert sum(seen) >= size and source.unmeasured == 0
    source.prepare(1, seen.append)
    source.readinto("b", 0, memoryview(bytearray(28)))
    assert sum(seen) < 2 * size


def test_what_is_no_number_comes_from_the_first_model():
    models = [tv.from_arrays({"w": np.full(3, k, np.float32), "ids": np.arange(3)}, f"m{k}") for k in (1, 2)]
    assert tv.slerp(*models)["ids"].tolist() == [0, 1, 2]


def test_opposite_lanes_keep_the_sign_of_zero_and_equal_models_their_bits():
    a = tv.from_arrays({"w": np.array([[-0.0, 1.5], [3.1, -7.3]], np.float32)}, "a")
    b = tv.from_arrays({"w": np.array([[-0.0, 1.5], [3.1, -7.3]], np.float32)}, "b")
    for scope in ("row", "column", "tensor"):
        merged = tv.nuslerp(a, b, scope=scope)["w"]
        assert np.array_equal(merged.view(np.uint32), a["w"].view(np.uint32))


def test_what_a_function_makes_must_have_the_shape_of_its_arguments():
    @tv.method
    def longer(x):
        return np.concatenate([x, x])

    with pytest.raises(TaskvecError, match=r"longer made .* of "):
        longer(weights(1))["b"]
