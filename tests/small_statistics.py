"""A small network, its batches and its statistics, which the tests of `stats` and of its equations share."""

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

import taskvec as tv

X = torch.tensor(np.random.default_rng(0).standard_normal((7, 4)), dtype=torch.float32)


def mlp(seed=0, sizes=(4, 5, 3)):
    """Linear, tanh, Linear: names 0.weight, 0.bias, 2.weight, 2.bias."""
    torch.manual_seed(seed)
    a, b, c = sizes
    return nn.Sequential(nn.Linear(a, b), nn.Tanh(), nn.Linear(b, c)).eval()


def stored(module, folder):
    """The module's weights in a folder, as a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {name: p.detach().numpy().copy() for name, p in module.state_dict().items()}
    save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def by_name(x=X, y=None, size=3):
    """Batches of x, with targets if there are any."""
    parts = [{"input": x[k : k + size]} for k in range(0, len(x), size)]
    for k, part in enumerate(parts):
        if y is not None:
            part["targets"] = y[k * size : (k + 1) * size]
    return parts


def called(module, batch):
    return module(batch["input"])


def computed(module, folder, kind, batches=None, **options):
    """The statistics of a module, as stored."""
    path = folder / f"{kind}-{len(list(folder.iterdir()))}.safetensors"
    tv.stats(stored(module, folder / "m"), lambda _: (module, batches or by_name(), called), path, kind=kind, **options)
    return load_file(path), path
