"""What of a module can be set, what keeps its tensors from it, and what they are called."""

import numpy as np
import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

import taskvec as tv
from taskvec.errors import MismatchError
from taskvec.live.targets import Target, collisions, fit, is_distributed, kinds, twins

A = np.arange(12, dtype=np.float32).reshape(3, 4) + 1


def holding(**tensors: torch.Tensor) -> torch.nn.Module:
    """A module with these parameters."""
    module = torch.nn.Module()
    for name, tensor in tensors.items():
        module.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=False))
    return module


def pieces(first: slice, second: slice) -> torch.nn.Module:
    memory = torch.zeros(24)
    return holding(a=memory[first].view(3, 4), b=memory[second].view(3, 4))


REFUSED = {
    "expanded": (lambda: holding(a=torch.zeros(1, 4).expand(3, 4)), r"a has elements that share .* \(0, 1\)"),
    "over itself": (lambda: holding(a=torch.zeros(20).as_strided((3, 4), (2, 1))), "a has elements that share memory"),
    "partly the same": (lambda: pieces(slice(0, 12), slice(6, 18)), "a and b share a part of their memory"),
    "turned against one another": (
        lambda: holding(a=(memory := torch.zeros(3, 3)), b=memory.t()), "a and b share a part of their memory"
    ),
    "of two widths": (
        lambda: holding(a=(memory := torch.zeros(12)), b=memory.view(torch.int32)), "a and b share a part"
    ),
    "of a class of its own": (
        lambda: holding(a=TwoTensor(torch.zeros(3, 4), torch.zeros(3, 4))), "a is a TwoTensor, which keeps its numbers"
    ),
    "sparse": (lambda: holding(a=torch.eye(3).to_sparse()), "a is a tensor of layout sparse_coo: only dense ones"),
    "without a shape": (lambda: torch.nn.LazyLinear(3), "weight has no shape yet"),
    "without memory": (lambda: holding(a=torch.zeros(3, 4, device="meta")), "a is on the meta device"),
    "quantised": (lambda: holding(a=torch.quantize_per_tensor(torch.zeros(3, 4), 0.1, 0, torch.qint8)), "torch.qint8"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_tensors_that_cannot_be_set_are_named_before_anything_is_touched(kind: str) -> None:
    make, message = REFUSED[kind]
    live = make()
    live.register_buffer("other", torch.zeros(2))
    arrays = {"other": np.ones(2, np.float32)}
    for name in [n for n, _ in live.named_parameters()]:
        t = getattr(live, name)
        shape = (3, 4) if kind == "without a shape" else tuple(t.shape)
        arrays[name] = (
            np.arange(np.prod(shape)).reshape(shape).astype(np.int32 if t.dtype == torch.int32 else np.float32)
        )
    with pytest.raises(MismatchError, match=message):
        tv.load_into(live, tv.from_arrays(arrays))
    assert not live.other.any()


def test_a_module_that_has_a_part_named_module_keeps_its_name() -> None:
    live = torch.nn.ModuleDict({"module": torch.nn.Linear(4, 3, bias=False)})
    with pytest.raises(MismatchError, match=r"module\.weight is in the module, not in the weights"):
        tv.load_into(live, tv.from_arrays({"weight": A}))


@pytest.mark.parametrize(("ours", "theirs", "table"), [("", "model.", {"*": "model.*"}), ("net.", "", {"net.*": "*"})])
def test_names_that_differ_by_a_prefix_are_told_with_the_rename_that_mends_it(ours, theirs, table) -> None:
    inner = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    live = torch.nn.ModuleDict({"model": inner}) if theirs else inner
    arrays = {f"{ours}{n}": np.ones(tuple(t.shape), np.float32) for n, t in inner.state_dict().items()}
    weights = tv.from_arrays(arrays)
    with pytest.raises(MismatchError) as told:
        tv.load_into(live, weights)
    ((old, new),) = table.items()
    assert f'rename(weights, {{"{old}": "{new}"}})' in told.value.problems[-1]
    tv.load_into(live, tv.rename(weights, table))
    assert all(bool((tensor == 1).all()) for tensor in live.state_dict().values())


# ---- what a module has that can be set ----------------------------------------------------------------------------
def weights(**arrays: np.ndarray) -> tv.Weights:
    return tv.from_arrays({name: np.asarray(array) for name, array in arrays.items()})


def test_parameters_and_buffers_are_targets_by_their_names() -> None:
    live = torch.nn.BatchNorm1d(3)
    arrays = {name: tensor.numpy() for name, tensor in live.state_dict().items()}
    targets = fit(live, tv.from_arrays({n: a.copy() for n, a in arrays.items()}))
    assert targets.keys() == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert not any(target.is_sharded or is_distributed(target.tensor) for target in targets.values())
    assert targets["weight"].tensor is live.weight and not targets["weight"].memory.requires_grad
    assert targets["weight"].memory.data_ptr() == live.weight.data_ptr()


def test_all_that_does_not_fit_is_named_at_once() -> None:
    live = holding(a=torch.zeros(3), b=torch.zeros(2, 2), c=torch.zeros(1), i=torch.zeros(2))
    live.register_buffer("idle", torch.zeros(9), persistent=False)
    given = weights(a=np.ones(4, "f4"), b=np.ones((2, 2), "f4"), i=np.ones(2, "i4"), x=np.ones(1, "f4"))
    with pytest.raises(MismatchError) as told:
        fit(live, given)
    assert sorted(told.value.problems) == [
        "a is [3] in the module, [4] in the weights", "c is in the module, not in the weights",
        "i is torch.float32 in the module, I32 in the weights", "x is not in the module",
    ]  # fmt: skip


def test_a_name_of_tied_memory_may_be_left_out() -> None:
    live = holding(a=torch.zeros(3), b=torch.zeros(3))
    live.b = live.a
    assert fit(live, weights(a=np.ones(3, "f4"))).keys() == {"a", "b"}
    both = weights(a=np.ones(3, "f4"), b=np.ones(3, "f4"))
    assert twins(both, fit(live, both)) == {"b": "a"}
    apart = holding(a=torch.zeros(3), b=torch.zeros(3))
    assert twins(both, fit(apart, both)) == {}


def test_tensors_without_elements_are_nobodys_twins() -> None:
    live = holding(a=torch.zeros(0, 3), b=torch.zeros(0, 3))
    both = weights(a=np.ones((0, 3), "f4"), b=np.ones((0, 3), "f4"))
    assert fit(live, both)["a"].place is None and twins(both, fit(live, both)) == {}


@pytest.mark.parametrize(
    ("dtype", "short"),
    [(torch.bfloat16, "BF16"), (torch.float8_e5m2, "F8_E5M2"), (torch.uint16, "U16"), (torch.int8, "I8"),
     (torch.bool, "BOOL"), (torch.complex64, "C64"), (torch.float64, "F64"), (torch.complex128, None)],
)  # fmt: skip
def test_dtypes_of_torch_have_the_names_of_the_format(dtype: torch.dtype, short: str | None) -> None:
    assert kinds().get(dtype) == short and len({*kinds().values()}) == len(kinds()) == 16


# ---- memory in common ------------------------------------------------------------------------------------------
def colliding(**tensors: torch.Tensor) -> list[str]:
    return collisions({name: Target.of(tensor) for name, tensor in tensors.items()})


def test_views_of_one_memory_collide_only_where_they_have_a_place_in_common() -> None:
    memory = torch.zeros(4, 6)
    assert colliding(even=memory[:, ::2], odd=memory[:, 1::2]) == []
    assert colliding(left=memory[:, :3], right=memory[:, 3:]) == []
    assert colliding(one=memory, two=memory) == [], "tied ones are the same everywhere"
    said = "{} and {} share a part of their memory: clone() one of them"
    assert colliding(left=memory[:, :4], right=memory[:, 3:]) == [said.format("left", "right")]
    assert colliding(a=memory[0], b=memory[1], c=memory[1:, :1], d=torch.zeros(3)) == [said.format("b", "c")]
    halves = memory.view(-1).view(torch.float16)
    assert colliding(a=memory[0, :1], b=halves[2:4], c=halves[1:2]) == [said.format("a", "c")]


def test_a_tensor_that_steps_over_itself_is_named_with_its_strides() -> None:
    memory = torch.zeros(20)
    assert colliding(w=memory.as_strided((3, 4), (4, 1)), v=torch.zeros(2).as_strided((1, 1, 2), (0, 7, 1))) == []
    assert colliding(w=memory.as_strided((3, 4), (5, 1))) == [], "a gap is no harm"
    said = "w has elements that share memory (strides (3, 1)): make a clone() of it first"
    assert colliding(w=memory.as_strided((3, 4), (3, 1))) == [said]
