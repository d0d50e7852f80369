"""Runs the command line in a process of its own, and holds the evaluators that its tests use."""

import subprocess
import sys

from safetensors.numpy import load_file

DATA = """
def rows(path):
    import torch
    from safetensors.torch import load_file

    module = torch.nn.Module()
    module.l = torch.nn.ModuleList([torch.nn.Module()])
    module.l[0].w = torch.nn.Parameter(load_file(path + "/model.safetensors")["l.0.w"])
    return module.eval(), [{"x": torch.eye(5)}], lambda module, batch: batch["x"] @ module.l[0].w.T


def signs(weights, split):
    return {"one": [1.0, 0.0], "two": [0.0, 1.0]}


def size(weights, split):
    return {"size": float(abs(weights["l.0.w"]).max())}
"""


TRIED = ["base + x*(a - base)", "base=base", "a=a", "--evaluate", "data.py:size", "--knob", "x=0:1:0.5"]


def run(folder, *words, code=0):
    """Run a command in a folder. Returns what it printed; if it is to fail with `code`, what it printed to stderr."""
    done = subprocess.run([sys.executable, "-m", "taskvec", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def weight(folder, name):
    return load_file(folder / name / "model.safetensors")["l.0.w"]
