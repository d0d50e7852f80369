"""Frozen prototypes: the head is what a few lines of torch make; hits, losses and predictions are by cosines."""

import json

import numpy as np
import pytest
import torch

import taskvec as tv
from lab.tiny_images import TABLE, rows, write_model
from taskvec.errors import FormatError, MismatchError, RecipeError
from taskvec.evals.pixels import decoded, encoded
from taskvec.evals.suite import suite_from
from taskvec.evals.task import HasProbabilities

KEYS = {
    "kind": "prototypes", "train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl",
    "classes": ["upright", "lying"], "size": 16, "shots": 4, "scale": 10, "batch": 7,
}  # fmt: skip


def written(path, examples):
    path.write_text("".join(json.dumps(e) + "\n" for e in examples))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A base, another model, and files of pictures."""
    root = tmp_path_factory.mktemp("prototypes")
    write_model(root / "base")
    tuned = {n: t + 0.2 * np.random.default_rng(len(n)).normal(size=t.shape).astype(np.float32) ** 2
             for n, t in tv.load(root / "base").items() if t.dtype == np.float32}  # fmt: skip
    tv.save(tv.load(root / "base") + tv.from_arrays({n: t - tv.load(root / "base")[n] for n, t in tuned.items()},
            "change", mass=0, base=tv.load(root / "base").named("base")), root / "tuned")  # fmt: skip
    examples = rows("bars")
    for name, part in (("train", examples[:40]), ("validation", examples[40:80]), ("test", examples[80:])):
        written(root / f"{name}.jsonl", part)
    return root


def described(home, **changes):
    keys = {key: value for key, value in (KEYS | changes).items() if value is not None}
    path = home / "tasks.yml"
    path.write_text(json.dumps({"model": "base", "tasks": {"bars": keys}}))
    return suite_from(str(path))


def embedded(module, examples, size=16):
    """What a network makes of pictures, written out."""
    pixels = [torch.from_numpy(decoded(e["text"]).copy()).float() / 127.5 - 1 for e in examples]
    pixels = [p.permute(2, 0, 1) if p.ndim == 3 else torch.stack([p] * 3) for p in pixels]
    scaled = [torch.nn.functional.interpolate(p[None], (size, size), mode="bilinear", antialias=True) for p in pixels]
    with torch.no_grad():
        return module(torch.cat(scaled)).pooler_output


def by_hand(base, module, train, examples, shots=4):
    """The class of each example: 0 for upright, 1 for lying."""
    shown = [e for label in ("upright", "lying") for e in [e for e in train if e["label"] == label][:shots]]
    e = embedded(base, shown)
    middle = e.mean(0)
    directions = torch.nn.functional.normalize(e - middle, dim=1)
    head = torch.nn.functional.normalize(torch.stack([directions[:shots].mean(0), directions[shots:].mean(0)]), dim=1)
    return torch.nn.functional.normalize(embedded(module, examples) - middle, dim=1) @ head.T


def network(home, name):
    from taskvec.evals.efficientnet import made

    module = made(TABLE).eval()
    tv.load_into(module, tv.load(home / name))
    return module


def examples_of(suite, home, split):
    """The examples of a split, in the order of the task."""
    return [{"text": e.text, "label": e.label} for e in suite.tasks["bars"].listed(split)]


@pytest.mark.parametrize("name", ["base", "tuned"])
def test_a_picture_is_of_the_class_with_the_nearest_prototype_of_the_base(home, name):
    suite = described(home)
    train = [json.loads(line) for line in (home / "train.jsonl").read_text().splitlines()]
    examples = examples_of(suite, home, "test")
    logits = by_hand(network(home, "base"), network(home, name), train, examples)
    weights = tv.load(home / name)
    assert suite.predictions(weights, "test")["bars"].tolist() == logits.argmax(1).tolist()
    wanted = torch.tensor([["upright", "lying"].index(e["label"]) for e in examples])
    assert suite(weights, "test")["bars"].tolist() == (logits.argmax(1) == wanted).float().tolist()
    task = suite.tasks["bars"]
    assert isinstance(task, HasProbabilities)
    assert np.allclose(task.probabilities(weights, "test", 0, 1), (logits * 10).softmax(1), atol=1e-5)
    loss = task.loss_of(task.live.take(weights), task.listed("test"), True)
    assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(logits * 10, wanted).item(), rel=1e-4)
    assert loss.requires_grad


def test_coefficients_are_learned_with_it(home):
    base, tuned = tv.load(home / "base").named("base"), tv.load(home / "tuned").named("tuned")
    family = base + tv.knob("k") * tv.without("*.running_*") * (tuned - base)
    learned = tv.learn(family, *described(home).learned(base, labels=True), steps=3)
    assert 0 < abs(learned.knobs["k"] - 0.3) < 1


def test_pictures_of_any_size_in_grey_and_in_colour(home):
    draw = np.random.default_rng(3)
    pictures = [draw.integers(0, 256, shape).astype(np.uint8) for shape in ((16, 16), (9, 30), (20, 12, 3))]
    task = described(home).tasks["bars"]
    from taskvec.evals.texts import Example

    pixels = task.pixels([Example(encoded(p)) for p in pictures])
    assert pixels.shape == (3, 3, 16, 16) and pixels.min() >= -1 and pixels.max() <= 1
    assert torch.allclose(pixels[0, 0], torch.from_numpy(pictures[0].copy()).float() / 127.5 - 1, atol=1e-6)
    assert torch.equal(pixels[1, 0], pixels[1, 2]) and not torch.equal(pixels[2, 0], pixels[2, 2])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"train": ""}, "give train .a file. and classes"),
        ({"classes": []}, "give train .a file. and classes"),
        ({"shots": 0}, "shots and size are at least 1"),
        ({"std": 0}, "shots and size are at least 1"),
        ({"classes": ["a", "b", "a"]}, "a is named again"),
        ({"dtype": "int8"}, "dtype is one of"),
        ({"model": ""}, "say whose architecture"),
        ({"prompts": {}}, "no key prompts"),
    ],
)
def test_settings_that_cannot_be_used(home, changes, problem):
    with pytest.raises(RecipeError, match=problem):
        described(home, **changes)


def test_a_class_without_pictures_and_a_label_without_a_class_are_named(home):
    with pytest.raises(MismatchError, match=r"train.jsonl has no picture of these classes:\s+- slanted"):
        described(home, classes=["upright", "lying", "slanted"])(tv.load(home / "base"), "test")
    with pytest.raises(MismatchError, match="labels that are no class"):
        described(home, classes=["upright"])(tv.load(home / "base"), "test")


def test_the_head_is_made_before_the_module_takes_on_other_weights(home):
    task = described(home).tasks["bars"]
    task.live.take(tv.load(home / "tuned"))
    with pytest.raises(MismatchError, match="the head must be made before"):
        task.ready()


def test_texts_are_no_pictures(home):
    written(home / "texts.jsonl", [{"text": "a film", "label": "upright"}])
    with pytest.raises(FormatError, match="is no picture"):
        described(home, validation="texts.jsonl")(tv.load(home / "base"), "validation")


def test_other_pictures_for_the_prototypes_are_another_evaluator(home):
    before = described(home).text
    written(home / "other.jsonl", rows("bars")[10:40])
    assert described(home, train="other.jsonl").text.split("(")[1] != before.split("(")[1]


def test_an_unknown_architecture_and_a_missing_file_are_stated(home, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(FormatError, match=r"config.json cannot be read"):
        described(home, model=str(folder))(tv.load(home / "base"), "test")
    (folder / "config.json").write_text('{"architecture": "resnet"}')
    with pytest.raises(RecipeError, match="the only architecture known is efficientnet_lite, not 'resnet'"):
        described(home, model=str(folder))(tv.load(home / "base"), "test")


def test_a_network_of_transformers_embeds_pictures_too(home, tmp_path):
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    net = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")).eval()
    net.save_pretrained(tmp_path / "resnet")
    task = described(home, model=str(tmp_path / "resnet")).tasks["bars"]
    predicted = task.predictions(tv.load(tmp_path / "resnet"), "test", 0, 1)
    examples = task.listed("test")
    with torch.no_grad():
        wanted = net(pixel_values=task.pixels(examples)).last_hidden_state.mean((2, 3))
        assert torch.allclose(task.embedded(task.live.module, examples), wanted, atol=1e-5)
    assert len(predicted) == len(examples)
