"""The safetensors package reads every kind of output that taskvec writes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file

import taskvec as tv
from promises.other_libraries import DTYPES, assert_same_bits, eager_merge, raw, taskvec

NOT_IN_NUMPY = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)  # safetensors' own limit


def small_model(seed: int, floats: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors of one floating dtype in awkward shapes, and of every kind that passes through."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (33, 7), "vector": (5,), "scalar": (), "empty": (0, 4), "cube": (2, 3, 5), "unicode.ключ": (3,)}
    floating = {name: torch.randn(shape, generator=draw).to(floats) for name, shape in shapes.items()}
    return floating | {
        "int64": torch.arange(7),
        "int8": torch.arange(-3, 4, dtype=torch.int8),
        "uint8": torch.arange(5, dtype=torch.uint8),
        "uint16": torch.arange(6).to(torch.uint16),
        "bool": torch.tensor([True, False, True]),
        "complex": torch.tensor([1 + 2j, -3j], dtype=torch.complex64),
    }


KINDS = {
    "a model's folder": ("base + 0.4*(tuned - base)", "out", ()),
    "a model in shards": ("base + 0.4*(tuned - base)", "out", ("--shard-size", "300")),
    "a model's file": ("base + 0.4*(tuned - base)", "out.safetensors", ()),
    "a task vector's folder": ("tuned - base", "out", ()),
    "a task vector in shards": ("tuned - base", "out", ("--shard-size", "300")),
    "a task vector's file": ("tuned - base", "out.safetensors", ()),
}


def write_pair(home: Path, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    base, tuned = small_model(1, dtype), small_model(2, dtype)
    for name, tensors in {"base": base, "tuned": tuned}.items():
        (home / name).mkdir()
        save_file(tensors, home / name / "model.safetensors")
    return base, tuned


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_safetensors_package_opens_every_kind_of_output(kind: str, dtype: str, tmp_path: Path) -> None:
    recipe, out, options = KINDS[kind]
    base, tuned = write_pair(tmp_path, DTYPES[dtype])
    weights = tv.parse(recipe, base=tmp_path / "base", tuned=tmp_path / "tuned")
    tv.save(weights, tmp_path / out, shard_size=int(options[1]) if options else "5GB")
    files = sorted((tmp_path / out).glob("*.safetensors")) if out == "out" else [tmp_path / out]
    assert (len(files) > 1) == bool(options)
    opened: dict[str, torch.Tensor] = {}
    for file in files:
        opened |= opened_in_every_way(file)
    if "task vector" in kind:
        real = torch.float64 if dtype == "float64" else torch.float32
        expected = {n: tuned[n].to(real) - t.to(real) for n, t in base.items() if t.is_floating_point()}
    else:
        expected = eager_merge(base, tuned, 0.4)
    assert_same_bits(opened, expected)


def opened_in_every_way(file: Path) -> dict[str, torch.Tensor]:
    """The file's tensors by load_file and by safe_open, whole and by slices, in torch and in numpy: all the same."""
    loaded = load_file(file)
    with safe_open(file, "pt") as reader:
        assert reader.metadata()["format"] == "pt"
        assert_same_bits({name: reader.get_tensor(name) for name in reader.keys()}, loaded)  # noqa: SIM118
        for name in loaded:
            if loaded[name].dim() and loaded[name].numel():
                assert raw(reader.get_slice(name)[1:2]) == raw(loaded[name][1:2])
    known = [name for name, tensor in loaded.items() if tensor.dtype not in NOT_IN_NUMPY]
    with safe_open(file, "np") as reader:
        assert set(reader.keys()) == loaded.keys()
        arrays = {name: reader.get_tensor(name) for name in known}
    if len(known) == len(loaded):
        arrays |= load_numpy(file)
    assert {n: (a.shape, a.tobytes()) for n, a in arrays.items()} == {
        n: (loaded[n].shape, raw(loaded[n])) for n in known
    }
    return loaded


def test_an_output_is_a_source_again(tmp_path: Path) -> None:
    base, tuned = write_pair(tmp_path, torch.bfloat16)
    taskvec("diff", tmp_path / "tuned", tmp_path / "base", "-o", tmp_path / "tau", "--shard-size", "200")
    taskvec("add", tmp_path / "base", tmp_path / "tau", "--scale", "0.5", "-o", tmp_path / "half.safetensors")
    half, tau = load_file(tmp_path / "half.safetensors"), tv.load(tmp_path / "tau")
    for name in (name for name, t in base.items() if t.is_floating_point()):
        step = 0.5 * (tuned[name].float() - base[name].float())
        assert torch.equal(half[name], (base[name].float() + step).bfloat16()), name
        assert np.array_equal(0.5 * tau[name], step.numpy()), name
