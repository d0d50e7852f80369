"""A suite of pictures that trains in a second: a tiny random convolutional network with BatchNorm, and tasks whose
classes are told by the shape in a picture of 16 x 16."""

import json
from pathlib import Path

import numpy as np

from taskvec.evals.pixels import encoded
from taskvec.lab.suite import Suite, suite_from

SIZE, COUNT = 16, 120  # pixels; pictures of a task
TABLE = {
    "architecture": "efficientnet_lite", "stem": 8, "head": 24,
    "stages": [[1, 3, 1, 1, 8], [1, 3, 2, 2, 12], [1, 5, 2, 2, 16]],
}  # fmt: skip
SHAPES = {  # task -> class -> where the picture is bright
    "bars": {"upright": np.s_[:, 6:10], "lying": np.s_[6:10, :]},
    "corners": {"left": np.s_[:8, :8], "right": np.s_[8:, 8:]},
    "sides": {"top": np.s_[:5, :], "bottom": np.s_[11:, :]},
    "spots": {"inner": np.s_[5:11, 5:11], "outer": np.s_[:3, :]},
}
CONTROL = "spots"


def picture(draw: np.random.Generator, task: str, label: str) -> np.ndarray:
    """The shape of the class on noise. Pictures of corners are in colour."""
    pixels = draw.integers(0, 120, (SIZE, SIZE))
    pixels[SHAPES[task][label]] += 90
    grey = pixels.astype(np.uint8)
    return np.stack([grey, grey // 2, grey], 2) if task == "corners" else grey


def rows(task: str) -> list[dict[str, str]]:
    """Labelled pictures as a file of examples has them."""
    draw = np.random.default_rng(len(task))
    labels = [[*SHAPES[task]][k % 2] for k in range(COUNT)]
    return [{"text": encoded(picture(draw, task, label)), "label": label} for label in labels]


def write_model(folder: Path, table: dict | None = None) -> None:
    """A random network, whose BatchNorm has statistics of its own."""
    import torch
    from safetensors.torch import save_file

    from taskvec.evals.efficientnet import made

    torch.manual_seed(0)
    module = made(table or TABLE)
    with torch.no_grad():
        module.train()
        for _ in range(150):  # the statistics move by a hundredth each time
            module(torch.randn(16, 3, SIZE, SIZE))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(table or TABLE))
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, folder / "model.safetensors")


SUITE = """\
about: A tiny random network of pictures.
model: {model}
evaluator: {{kind: prototypes, dtype: float32, size: 16, shots: 8, scale: 10}}
training: {{parameters: ["_conv_*", "_bn*", "_blocks.*"], epochs: 6, batch: 16, rate: 3.0e-4}}
splits: {{train: 48, validation: 16, test: 24}}
tasks:
{tasks}
experiments:
  negation: {{grid: "0:1:0.5", random_grid: "0:1:0.5", sensitivity: "0:2:1"}}
  addition: {{grid: "0:1:0.25", pairs: false, subsets: false, improvement: false, joint: 0, sensitivity: "0:2:1",
              statistics_grid: "0:1:0.5"}}
"""


def write_image_suite(folder: Path, model: str = "{folder: model}") -> Path:
    """The suite's file, with its model and data beside it."""
    write_model(folder / "model")
    lines = []
    for task, classes in SHAPES.items():
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(task)))
        role = "control" if task == CONTROL else "task"
        named = ", ".join(f"{name}: {name}" for name in classes)
        common = f'templates: ["{{}}"], classes: {{{named}}}'
        lines.append(f"  {task}: {{about: {task}, role: {role}, data: {{file: {task}.jsonl}}, {common}}}")
        if task == "bars":
            data = f"{{file: {task}.jsonl, labels: [upright]}}"
            lines.append(f"  half: {{about: half of it, role: part, data: {data}, head_of: bars, {common}}}")
    path = folder / "tiny.yml"
    path.write_text(SUITE.format(model=model, tasks="\n".join(lines)))
    return path


def tiny_image_suite(folder: Path) -> Suite:
    """The suite, read."""
    return suite_from(str(write_image_suite(folder)))
