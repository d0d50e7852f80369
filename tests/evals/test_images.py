"""CLIP by open_clip: pictures against a frozen zero-shot head. Needs open_clip and torchvision: run by hand (docs)."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import taskvec as tv
from taskvec.errors import TaskvecError
from taskvec.evals.suite import suite_from

open_clip = pytest.importorskip("open_clip", exc_type=ImportError)
pytestmark = pytest.mark.slow
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PROMPTS = {"dark": ["a dark picture", "night"], "light": ["a bright picture"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny architecture, two models of it, and pictures in a folder a class."""
    root = tmp_path_factory.mktemp("clip")
    (root / "tiny-clip.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(root / "tiny-clip.json")
    for seed, name in enumerate(("base", "tuned")):
        torch.manual_seed(seed)
        model = open_clip.create_model("tiny-clip")
        save_file({n: p.clone().contiguous() for n, p in model.state_dict().items()}, root / f"{name}.safetensors")
    rng = np.random.default_rng(0)
    for kind, mean in (("dark", 60), ("light", 190)):
        (root / "pictures" / kind).mkdir(parents=True)
        for k in range(20):
            pixels = rng.normal(mean, 40, (40, 36, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "pictures" / kind / f"{k}.png")
    return root


def described(home, text):
    (home / "tasks.yml").write_text(f"tasks: {{look: {{kind: images, {text}}}}}")
    return str(home / "tasks.yml")


def test_pictures_are_put_in_the_nearest_class(home):
    suite = suite_from(
        described(
            home, f"model: base.safetensors, architecture: tiny-clip, data: pictures, prompts: {json.dumps(PROMPTS)}"
        )
    )
    base = tv.load(home / "base.safetensors")
    weights = base + 0.5 * (tv.load(home / "tuned.safetensors") - base)
    net, _, prepare = open_clip.create_model_and_transforms("tiny-clip")
    tv.load_into(net.eval(), base)
    words = open_clip.get_tokenizer("tiny-clip")
    with torch.no_grad():
        rows = [net.encode_text(words([*texts]), normalize=True).mean(0) for texts in PROMPTS.values()]
        head = torch.nn.functional.normalize(torch.stack(rows), dim=-1)
        tv.load_into(net, weights)
        for split in ("validation", "test"):
            task = suite.tasks["look"]
            hits = suite(weights, split)["look"]
            for example, hit in zip(task.listed(split), hits, strict=True):
                picture = Image.open(task.files[example.text]).convert("RGB")
                best = int((net.encode_image(prepare(picture)[None], normalize=True) @ head.T).argmax())
                assert hit == ([*PROMPTS][best] == example.label)
    sides = [{*suite.examples(split)["look"]} for split in ("validation", "test")]
    assert len(sides[0] | sides[1]) == 40 and not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("model: base.safetensors, architecture: nope, data: pictures, prompts: {dark: [x]}", "no architecture nope"),
        ("model: base.safetensors, architecture: tiny-clip, data: none, prompts: {dark: [x]}", "is no folder"),
        (
            "model: base.safetensors, architecture: tiny-clip, data: pictures, prompts: {dark: [x]}",
            "no class .dark.: light",
        ),
        ("model: base.safetensors, data: pictures, prompts: {dark: [x]}", "judged with model, architecture"),
    ],
)
def test_what_is_wrong_is_stated(home, text, what):
    with pytest.raises(TaskvecError, match=what):
        suite_from(described(home, text))(tv.load(home / "base.safetensors"), "test")
