"""`load_into`: which modules and arrays it takes. What it computes beside saved folders is in test_interop.py."""

import numpy as np
import pytest
import torch

import taskvec as tv
from taskvec.errors import MismatchError


class Strided(torch.nn.Module):
    """A parameter whose memory is not in order, one that is a window of another tensor, and a buffer of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.turned = torch.nn.Parameter(torch.zeros(6, 4).t())
        self.window = torch.nn.Parameter(torch.zeros(5, 9)[:, 2:5])
        self.register_buffer("steps", torch.zeros(3, dtype=torch.int64))


def test_loading_into_parameters_that_are_not_contiguous() -> None:
    rng = np.random.default_rng(3)
    arrays = {
        "turned": rng.standard_normal((4, 6)).astype(np.float32),
        "window": rng.standard_normal((5, 3)).astype(np.float32),
        "steps": np.arange(3),
    }
    live = Strided()
    assert not live.turned.is_contiguous() and not live.window.is_contiguous()
    tv.load_into(live, tv.from_arrays(arrays))
    for name, tensor in live.state_dict().items():
        assert np.array_equal(tensor.numpy(), arrays[name]), name
    assert live.turned.stride() == (1, 4) and live.window.stride() == (9, 1)


@pytest.mark.parametrize("wrong", ["missing", "extra", "shape", "integers of another width"])
def test_weights_that_do_not_fit_a_module_are_refused_before_it_is_touched(wrong: str) -> None:
    arrays = {"turned": np.ones((4, 6), np.float32), "window": np.ones((5, 3), np.float32), "steps": np.arange(3)}
    match wrong:
        case "missing":
            del arrays["window"]
        case "extra":
            arrays["other"] = np.ones(3, np.float32)
        case "shape":
            arrays["window"] = np.ones((3, 5), np.float32)
        case _:
            arrays["steps"] = np.arange(3, dtype=np.int32)
    live = Strided()
    with pytest.raises(tv.TaskvecError, match={"missing": "window", "extra": "other", "shape": "window"}.get(wrong, "steps")):  # fmt: skip # noqa: E501
        tv.load_into(live, tv.from_arrays(arrays))
    assert not any(tensor.any() for tensor in live.state_dict().values())


def test_arrays_over_the_memory_of_a_module_are_not_set_into_it() -> None:
    """They would be other numbers once they are set; a copy of them is not, and another module may share them."""
    live = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    shared = {name: tensor.numpy() for name, tensor in live.state_dict().items()}
    before = {name: array.copy() for name, array in shared.items()}
    mixed = before | {"1.weight": shared["1.weight"]}
    for arrays, named in ((shared, [*shared]), (mixed, ["1.weight"])):
        half = 0.5 * tv.from_arrays(before, "b") + 0.5 * tv.from_arrays(arrays, "a")
        for weights in (half, tv.select(half, "*")):
            with pytest.raises(MismatchError) as told:
                tv.load_into(live, weights)
            assert [line.split()[0] for line in told.value.problems] == named
            assert all(np.array_equal(shared[name], before[name]) for name in before)
    tv.load_into(live, tv.from_arrays({name: 2 * array for name, array in before.items()}))
    assert all(np.array_equal(shared[name], 2 * before[name]) for name in before)
    other = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    tv.load_into(other, tv.from_arrays(shared))
    assert all(np.array_equal(tensor.numpy(), shared[name]) for name, tensor in other.state_dict().items())


def test_a_module_without_memory_is_refused() -> None:
    with torch.device("meta"):
        module = torch.nn.Linear(3, 4)
    weights = tv.from_arrays({"weight": np.ones((4, 3), np.float32), "bias": np.ones(4, np.float32)})
    with pytest.raises(tv.TaskvecError, match="meta"):
        tv.load_into(module, weights)


@pytest.mark.parametrize("equal", [True, False])
def test_two_names_of_a_tied_parameter_must_agree(equal: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    one = np.arange(9, dtype=np.float32).reshape(3, 3)
    weights = tv.from_arrays({"0.weight": one, "1.weight": one if equal else one + 1})
    before = module[0].weight.clone()
    if equal:
        tv.load_into(module, weights)
        assert torch.equal(module[1].weight, torch.from_numpy(one))
    else:
        with pytest.raises(tv.TaskvecError, match=r"0\.weight and 1\.weight"):
            tv.load_into(module, weights)
        assert torch.equal(module[0].weight, before)
