"""`load_into`: which modules and arrays it takes. promises/test_interop_modules.py tests what it computes."""

import copy
import subprocess
import sys

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


# ---- parameters that are not plain arrays --------------------------------------------------------------------------
A = np.arange(12, dtype=np.float32).reshape(3, 4) + 1


def holding(**tensors: torch.Tensor) -> torch.nn.Module:
    """A module with these parameters."""
    module = torch.nn.Module()
    for name, tensor in tensors.items():
        module.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=False))
    return module


STRIDED = {
    "every other column": lambda: torch.zeros(3, 8)[:, ::2],
    "every other entry of a long vector": lambda: torch.zeros(24)[::2].view(3, 4),
    "turned": lambda: torch.zeros(4, 3).t(),
    "a real part": lambda: torch.zeros(3, 4, dtype=torch.complex64).real,
    "negated": lambda: torch._neg_view(torch.zeros(3, 4)),
    "bfloat16": lambda: torch.zeros(3, 8, dtype=torch.bfloat16)[:, ::2],
    "an axis of one that is expanded": lambda: torch.zeros(3, 4).as_strided((3, 4, 1), (4, 1, 0)),
}


@pytest.mark.parametrize("kind", STRIDED)
def test_parameters_of_any_strides_are_set(kind: str) -> None:
    live = holding(w=STRIDED[kind]())
    strides = live.w.stride()
    tv.load_into(live, tv.from_arrays({"w": A.reshape(live.w.shape)}))
    assert np.array_equal(live.w.resolve_neg().float().numpy().reshape(A.shape), A) and live.w.stride() == strides


def test_strided_vectors_and_images_in_channels_last_are_set() -> None:
    image = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    live = holding(row=torch.zeros(9)[::3], image=torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))
    tv.load_into(live, tv.from_arrays({"row": A[0, :3], "image": image}))
    assert np.array_equal(live.row.numpy(), A[0, :3]) and np.array_equal(live.image.numpy(), image)


def test_columns_of_one_memory_are_set_each() -> None:
    """Fused projections: the stretches of memory overlap, the elements do not."""
    fused = torch.zeros(3, 12)
    tv.load_into(
        holding(q=fused[:, :4], k=fused[:, 4:8], v=fused[:, 8:]), tv.from_arrays({"q": A, "k": 2 * A, "v": 3 * A})
    )
    assert np.array_equal(fused.numpy(), np.concatenate([A, 2 * A, 3 * A], axis=1))


# ---- wrappers ------------------------------------------------------------------------------------------------------
def compiled(model: torch.nn.Module) -> torch.nn.Module:
    return torch.compile(model)  # type: ignore[return-value]


def compiled_within(model: torch.nn.Module) -> torch.nn.Module:
    model[1] = torch.compile(model[1])  # type: ignore[index,operator]
    return model


@pytest.mark.parametrize(
    "wrap", [compiled, compiled_within, torch.nn.DataParallel, lambda m: torch.nn.DataParallel(torch.compile(m))]
)
def test_the_names_of_a_wrapped_module_are_those_of_the_module_or_its_own(wrap) -> None:
    make = lambda: torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))  # noqa: E731
    arrays = {n: 1 + np.arange(t.numel(), dtype=np.float32).reshape(t.shape) for n, t in make().state_dict().items()}
    inner = make()
    live = wrap(inner)
    own = {name: arrays[name.replace("module.", "").replace("_orig_mod.", "")] * 2 for name in live.state_dict()}
    assert own.keys() != arrays.keys()
    for given, factor in ((arrays, 1), (own, 2)):
        tv.load_into(live, tv.from_arrays(given))
        for name, tensor in live.state_dict().items():
            assert np.array_equal(
                tensor.numpy(), factor * arrays[name.replace("module.", "").replace("_orig_mod.", "")]
            )


# ---- graphs --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("turned", [False, True])
def test_a_backward_pass_through_a_graph_of_the_old_weights_is_refused(turned: bool) -> None:
    live = torch.nn.Module()
    live.w = torch.nn.Parameter(torch.ones(4, 3).t() if turned else torch.ones(3, 4))
    tied = torch.nn.Parameter(live.w.data)  # the same memory, and a version of its own
    live.tied = tied
    x = torch.ones(2, 4, requires_grad=True)
    for weight in (live.w, tied):
        older, newer = ((x @ weight.t()) ** 2).sum(), None
        tv.load_into(live, tv.from_arrays({"w": A}))
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            older.backward()
        newer = ((x @ weight.t()) ** 2).sum()
        newer.backward()
        assert weight.grad is not None and np.array_equal(weight.detach().numpy(), A)


def test_modules_made_or_set_in_inference_mode_are_set() -> None:
    weights = tv.from_arrays({"w": A})
    plain = holding(w=torch.zeros(3, 4))
    with torch.inference_mode():
        made, turned = holding(w=torch.zeros(3, 4)), holding(w=torch.zeros(4, 3).t())
        for live in (plain, made, turned):
            tv.load_into(live, weights)
            assert np.array_equal(live.w.numpy(), A)
    for live in (made, turned):
        assert live.w.is_inference()
        tv.load_into(live, 2 * weights - tv.from_arrays({"w": 0 * A}, "zero"))
        assert np.array_equal(live.w.numpy(), 2 * A)


# ---- many processes ------------------------------------------------------------------------------------------------
@pytest.fixture
def alone(tmp_path):
    """A group of one process."""
    from torch import distributed

    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    yield distributed
    distributed.destroy_process_group()


def test_sharded_parameters_are_set(alone) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, Partial

    plain = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    live = fully_shard(copy.deepcopy(plain))
    arrays = {n: 1 + np.arange(t.numel(), dtype=np.float32).reshape(t.shape) for n, t in plain.state_dict().items()}
    x = torch.ones(2, 4)
    live(x)  # leaves whole parameters in the module, until its shards are asked for
    for model in (plain, live):
        tv.load_into(model, tv.from_arrays(arrays))
    assert all(isinstance(t, DTensor) for t in live.state_dict().values())
    assert torch.equal(live(x), plain(x))
    one, zero = (tv.from_arrays({n: k * array for n, array in arrays.items()}, f"m{k}") for k in (1, 0))
    with pytest.raises(MismatchError, match="learn needs whole parameters in each process"):
        tv.learn(zero + tv.knob("k") * (one - zero), live, lambda model, step: model(x).sum(), steps=1)
    parallel = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
    tv.load_into(parallel, one)
    assert torch.equal(parallel.module[0].weight, plain[0].weight)
    sums = DTensor.from_local(torch.zeros(3, 4), init_device_mesh("cpu", (1,)), [Partial()])
    with pytest.raises(MismatchError, match="w is a DTensor of partial sums"):
        tv.load_into(holding(w=sums), tv.from_arrays({"w": A}))


SHARDED = """
import sys
import numpy as np, torch, taskvec as tv
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

rank, store = int(sys.argv[1]), distributed.FileStore(sys.argv[2], 2)
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
torch.manual_seed(0)
plain = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 1))  # shards of 4 and 3 rows, of 1 and none
live = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 1))
for layer in live:
    fully_shard(layer)
fully_shard(live)
rng = np.random.default_rng(0)
x = torch.ones(2, 5)
for _ in range(2):
    weights = tv.from_arrays({n: rng.standard_normal(t.shape).astype("f4") for n, t in plain.state_dict().items()})
    for model in (plain, live):
        model(x).sum().backward()
        tv.load_into(model, weights)
    for name, tensor in live.state_dict().items():
        assert torch.equal(tensor.full_tensor(), plain.state_dict()[name]), name
    assert torch.allclose(live(x), plain(x))
mesh, array = init_device_mesh("cpu", (2,)), rng.standard_normal((5, 7)).astype("f4")
for placement in (Shard(0), Shard(1), Replicate()):
    module = torch.nn.Module()
    module.w = torch.nn.Parameter(distribute_tensor(torch.zeros(5, 7), mesh, [placement]))
    older = (module.w * module.w).sum()
    tv.load_into(module, tv.from_arrays({"w": array}))
    assert torch.equal(module.w.full_tensor(), torch.from_numpy(array)), placement
    try:
        older.backward()
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
    else:
        raise AssertionError("a graph of the old weights was used")
if rank == 0:  # nothing is exchanged: a process need not wait for the others
    tv.load_into(module, tv.from_arrays({"w": 2 * array}))
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_each_of_two_processes_sets_its_shards(tmp_path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", SHARDED]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], said
